package import DeviceModel
import Devices
import Host
package import Options
import QAPI
import Virtio

// device_add, device_del.

extension Machine {
  /// `device_add`. Throws with QEMU's sentences; nothing is left then.
  package func addDevice(_ wanted: DeviceConfiguration) throws(DeviceError) {
    guard let board = board as? PCBoard else {
      throw (board as? EmptyBoard)?.complaint(about: wanted)
        ?? DeviceError(.unavailable, "The machine takes no devices")
    }
    // A device comes between two instructions of the guest, not in the midst of one.
    server?.hold()
    group.pause()
    defer {
      group.release()
      server?.release()
    }
    let placed = try board.plug(wanted, isHotplugged: true)
    placed.device.reset(.cold)
    // A guest that has not started finds the device by itself.
    board.slotChanged(placed, announces: hasRun)
  }

  /// `device_del`, by id or by path. Throws with QEMU's sentences. A device that the guest knows of goes when the guest lets it, or with the
  /// next reset; asking again is allowed.
  package func removeDevice(_ name: String) throws(DeviceError) {
    let placed = devices.first { name.hasPrefix("/") ? $0.path == name : $0.id == name }
    guard let placed, let board = board as? PCBoard else {
      throw missing(name)
    }
    let gone = try board.unplug(placed, guestHasRun: hasRun)
    finishRemoval(of: gone)
  }

  private func missing(_ name: String) -> DeviceError {
    if name.hasPrefix("/"), objectExists(name) {
      return DeviceError(.badValue, "\(name) is not a hotpluggable device")
    }
    return DeviceError(.notFound, "Device '\(name)' not found")
  }

  private func objectExists(_ path: String) -> Bool {
    let parts = path.split(separator: "/").map(String.init)
    guard parts.first == "machine" else { return parts.isEmpty }
    var node = objectNode
    for part in parts.dropFirst() {
      guard let next = node.child(part) else { return false }
      node = next
    }
    return true
  }

  /// Connects the board's hot plug with the machine.
  func connectHotplug() {
    (board as? PCBoard)?.portChanged = { [weak self] id, isOpen in
      self?.emit(.vserportChange(id: id, open: isOpen))
    }
    (board as? PCBoard)?.connectHotplug(
      ejected: { [weak self] in self?.finishRemoval(of: $0) },
      refused: { [weak self] placed in
        self?.emit(.deviceUnplugGuestError(device: placed.id, path: placed.path))
      })
  }

  /// Before a reset: what the guest was asked for goes now.
  func completePendingRemovals() {
    guard let board = board as? PCBoard else { return }
    finishRemoval(of: board.completePendingRemovals())
  }

  private func removed(_ placed: PlacedDevice) {
    if placed.device is any VirtioFunction {
      emit(.deviceDeleted(device: nil, path: "\(placed.path)/virtio-backend"))
    }
    emit(.deviceDeleted(device: placed.id, path: placed.path))
  }

  /// Devices that are in no list any more leave the machine; monitors hear when nothing of them is under way.
  private func finishRemoval(of gone: [PlacedDevice]) {
    for placed in gone {
      for attachment in placed.attachments { attachment.detach() }
      let endings = placed.attachments.compactMap(\.ending)
      placed.device.unrealize { [weak self] in
        MainLoop.post { [weak self] in
          guard let self else { return }
          // A vCPU, here or on another node, may still be in an access that began before the regions went.
          server?.hold()
          group.pause()
          group.release()
          server?.release()
          guard !endings.isEmpty else { return removed(placed) }
          WorkerPool.shared.submit {
            for ending in endings { ending() }
            MainLoop.post { [weak self] in self?.removed(placed) }
          }
        }
      }
    }
  }
}
