import Block
import Glibc
import Host
package import QAPI

// schemas/block.json

extension MonitorCommands: @MainLoop BlockCommands {
  @MainLoop
  package func eject(device: String?, id: String?, force: Bool?) async throws(QAPIError) {
    let backend = try backend(device: device, id: id)
    try openTray(of: backend, device ?? id ?? "", force: force ?? false, isForEject: true)
    try await removeMedium(from: backend, device ?? id ?? "")
  }

  @MainLoop
  package func blockdevOpenTray(
    device: String?, id: String?, force: Bool?
  ) async throws(QAPIError) {
    let backend = try backend(device: device, id: id)
    try openTray(of: backend, device ?? id ?? "", force: force ?? false, isForEject: false)
  }

  @MainLoop
  package func blockdevCloseTray(device: String?, id: String?) async throws(QAPIError) {
    let backend = try backend(device: device, id: id)
    guard let drive = backend.device else { return }
    guard drive.hasRemovableMedium else {
      throw QAPIError("Device '\(device ?? id ?? "")' is not removable")
    }
    moveTray(of: backend, isOpen: false)
  }

  @MainLoop
  package func blockdevRemoveMedium(id: String) async throws(QAPIError) {
    try await removeMedium(from: try backend(device: nil, id: id), id)
  }

  @MainLoop
  package func blockdevInsertMedium(id: String, nodeName: String) async throws(QAPIError) {
    let backend = try backend(device: nil, id: id)
    guard let node = context.blocks.node(named: nodeName) else {
      throw QAPIError("Node '\(nodeName)' not found")
    }
    guard context.blocks.backends(on: node).isEmpty else {
      throw QAPIError("Node '\(nodeName)' is already in use")
    }
    try await insert(node, into: backend, id)
  }

  @MainLoop
  package func blockdevChangeMedium(
    device: String?, id: String?, filename: String, format: String?, force: Bool?,
    readOnlyMode: BlockdevChangeReadOnlyMode?
  ) async throws(QAPIError) {
    let backend = try backend(device: device, id: id)
    let name = device ?? id ?? ""
    var settings = NodeSettings()
    settings.isAutoReadOnly = readOnlyMode ?? .retain == .retain
    settings.isReadOnly =
      switch readOnlyMode ?? .retain {
      case .retain: backend.node?.isReadOnly ?? true
      case .readOnly: true
      case .readWrite: false
      }
    let opening = settings
    let node = try await changingBlocks { (graph) throws(BlockError) in
      try graph.open(filename, format: format, settings: opening)
    }
    do throws(QAPIError) {
      try openTray(of: backend, name, force: force ?? false, isForEject: true)
      try await removeMedium(from: backend, name)
      try await insert(node, into: backend, name)
      moveTray(of: backend, isOpen: false)
    } catch {
      _ = try? await changingBlocks { (graph) throws(BlockError) in
        try graph.releaseIfUnused(node.name)
      }
      throw error
    }
  }

  // MARK: -

  /// Opens the tray, or asks the guest to. Throws QEMU's sentences; when the guest is asked, `isForEject` makes that a failure.
  private func openTray(
    of backend: BlockBackend, _ name: String, force: Bool, isForEject: Bool
  ) throws(QAPIError) {
    // A drive without a device has neither tray nor lock.
    guard let device = backend.device else { return }
    guard device.hasRemovableMedium else { throw QAPIError("Device '\(name)' is not removable") }
    if device.isTrayOpen { return }
    let isLocked = device.isMediumLocked
    if isLocked { device.requestEject(isForced: force) }
    if !isLocked || force { moveTray(of: backend, isOpen: true) }
    if isLocked, !force, isForEject {
      throw QAPIError(
        "Device '\(name)' is locked and force was not specified, wait for tray to open and try"
          + " again")
    }
  }

  /// Moves the tray and tells of it when it moved.
  private func moveTray(of backend: BlockBackend, isOpen: Bool) {
    guard let device = backend.device, device.isTrayOpen != isOpen else { return }
    device.mediumChanged(isLoaded: !isOpen)
    guard device.isTrayOpen == isOpen else { return }
    context.events.emit(
      .deviceTrayMoved(
        device: backend.name, id: backend.deviceID ?? backend.devicePath ?? "", trayOpen: isOpen))
  }

  private func removeMedium(from backend: BlockBackend, _ name: String) async throws(QAPIError) {
    if let device = backend.device {
      guard device.hasRemovableMedium else {
        throw QAPIError("Device '\(name)' is not removable")
      }
      guard device.isTrayOpen else { throw QAPIError("Tray of device '\(name)' is not open") }
    }
    _ = try await changingBlocks { (graph) throws(BlockError) in
      guard let node = backend.node else { return }
      try graph.checkNotBlocked(node)
      try backend.remove()
    }
  }

  private func insert(
    _ node: any BlockNode, into backend: BlockBackend, _ name: String
  ) async throws(QAPIError) {
    if let device = backend.device {
      guard device.hasRemovableMedium else {
        throw QAPIError("Device '\(name)' is not removable")
      }
      guard device.isTrayOpen else { throw QAPIError("Tray of device '\(name)' is not open") }
    }
    if backend.isInserted { throw QAPIError("There already is a medium in device '\(name)'") }
    _ = try await changingBlocks { (_) throws(BlockError) in try backend.insert(node) }
  }
}
