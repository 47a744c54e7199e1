import DeviceModel
import Devices
import Host
import Options
import PCI
import QAPI

// Devices that come and go after the machine was made.

extension PCBoard {
  /// Connects what the guest says by the hot-plug registers with the devices; `removed` runs on the main loop with what left.
  func connectHotplug(
    ejected: @escaping @MainLoop @Sendable ([PlacedDevice]) -> Void,
    refused: @escaping @MainLoop @Sendable (PlacedDevice) -> Void
  ) {
    let pci = pci
    pm.setHotplugAction { [weak self] action in
      switch action {
      case .eject(let slot):
        // The guest goes on only when the slot is empty; the rest can wait for the main loop.
        let addresses = pci.disconnectAll(in: slot)
        MainLoop.post { [weak self] in
          guard let self else { return }
          ejected(addresses.flatMap { self.takeOut(at: $0) })
        }
      case .refused(let slot):
        MainLoop.post { [weak self] in
          guard let self else { return }
          for placed in devices where placed.pciAddress?.device == slot { refused(placed) }
        }
      }
    }
  }

  /// `device_del`: takes the device out, or asks the guest to give it up where it knows of it. Answers what left at once, each device behind
  /// those that sat on it. Throws with QEMU's sentences.
  func unplug(_ placed: PlacedDevice, guestHasRun: Bool) throws(DeviceError) -> [PlacedDevice] {
    let type = placed.device.typeInfo
    if let bus = placed.bus ?? boardBus(of: type), !bus.isHotpluggable {
      throw DeviceError(.busy, "Bus '\(bus.name)' does not support hotplugging")
    }
    guard type.isHotpluggable, placed.isUserMade else {
      throw DeviceError(.busy, "Device '\(type.name)' does not support hotplugging")
    }
    guard let address = placed.pciAddress, guestHasRun else { return takeOut(placed) }
    pm.requestRemoval(address.device)
    return []
  }

  /// Takes out what the user wanted back and the guest did not give up: the guest has forgotten everything.
  func completePendingRemovals() -> [PlacedDevice] {
    pm.takePendingRemovals().flatMap { slot in
      pci.disconnectAll(in: slot).flatMap { takeOut(at: $0) }
    }
  }

  /// After a device came or went: tells the guest, and which slots it may empty.
  func slotChanged(_ placed: PlacedDevice, announces: Bool) {
    guard let slot = placed.pciAddress?.device else { return }
    let inSlot = devices.filter { $0.pciAddress?.device == slot }
    pm.setRemovable(slot, inSlot.allSatisfy { $0.isUserMade && $0.typeInfo.isHotpluggable })
    let first = inSlot.first { $0.pciAddress?.function == 0 }
    pm.setLabel(slot, (first?.device as? any PCIPlaced)?.placement.acpiIndex ?? 0)
    if announces { pm.announceInserted(slot) }
  }

  private func takeOut(at address: PCIAddress) -> [PlacedDevice] {
    // Of two, the one that came first is the one that went.
    guard let placed = devices.first(where: { $0.pciAddress == address }) else { return [] }
    return takeOut(placed)
  }

  /// Removes a device and what sits on it from the list, the leaves first.
  private func takeOut(_ placed: PlacedDevice) -> [PlacedDevice] {
    let above = devices.filter { $0.bus?.owner == placed.path }.reversed()
    let gone = above.flatMap { takeOut($0) }
    forget(placed)
    slotChanged(placed, announces: false)
    return gone + [placed]
  }

  /// The bus of one of the board's own devices.
  private func boardBus(of type: DeviceType) -> DeviceBus? {
    if type.bus == "System" {
      return DeviceBus(
        name: "main-system-bus", type: "System", owner: "/machine/unattached",
        isHotpluggable: false)
    }
    return buses.first { $0.type == type.bus }
  }
}

extension PlacedDevice {
  /// Where it is on the PCI bus.
  var pciAddress: PCIAddress? { (device as? any PCIPlaced)?.placement.address }

  var typeInfo: DeviceType { device.typeInfo }

  /// Made by `-device` or `device_add`.
  package var isUserMade: Bool { path.hasPrefix("/machine/peripheral") }
}

extension PCIBus {
  /// Takes all functions of a device number off the bus; answers where they were, the highest first. Any thread.
  func disconnectAll(in device: UInt8) -> [PCIAddress] {
    (0..<8).reversed().compactMap { (number: UInt8) in
      let address = PCIAddress(device: device, function: number)
      guard let endpoint = function(at: address) as? PCIEndpoint else { return nil }
      endpoint.disconnect()
      return address
    }
  }
}
