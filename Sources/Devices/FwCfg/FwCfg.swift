package import DeviceModel
import Host
import Shm
import Synchronization

/// The firmware configuration device at ports 0x510 and 0x511 (PIO) and 0x514 (DMA), `fw_cfg_io`.
package final class FwCfg: Device, BusDevice {
  package static let type = DeviceType(
    name: "fw_cfg_io", parent: "fw_cfg", bus: "System", description: "",
    properties: [
      PropertyDescription("dma_enabled", "bool", default: .bool(true)),
      PropertyDescription("x-file-slots", "uint16", default: .unsigned(32)),
    ])

  private struct State {
    var model = FwCfgModel()
    var memory: GuestMemory?
    /// The high half of the DMA address register.
    var addressHigh: UInt32 = 0
    var written: (@Sendable (_ file: String) -> Void)?
  }
  private let state = Mutex(State())

  package init() {}

  package var properties: [(name: String, value: PropertyValue)] {
    [("dma_enabled", .bool(true)), ("x-file-slots", .address(UInt64(FwCfgModel.fileSlots)))]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    state.withLock { $0.memory = context.memory }
    context.ports.add(
      BusRegion(name: "fwcfg", start: 0x510, size: 2, device: self, maximumWidth: 2))
    context.ports.add(
      BusRegion(
        name: "fwcfg.dma", start: 0x514, size: 8, device: FwCfgDMAPort(self), maximumWidth: 8))
  }

  package func reset(_ kind: ResetKind) {
    state.withLock { state in
      state.model.reset()
      state.addressHigh = 0
    }
  }

  // MARK: - Contents

  /// Sets an item that is not a file. Any thread.
  package func setItem(_ key: UInt16, _ bytes: [UInt8]) {
    state.withLock { $0.model.setItem(key, bytes) }
  }

  /// Sets a named file. Throws `badValue` when the name is too long or the directory full.
  package func setFile(
    _ name: String, _ bytes: [UInt8], isWritable: Bool = false
  ) throws(DeviceError) {
    let done = state.withLock { $0.model.setFile(name, bytes, isWritable: isWritable) }
    if !done {
      throw DeviceError(
        .badValue,
        "fw_cfg: no room for file '\(name)' (at most \(FwCfgModel.fileSlots) files, names up to "
          + "\(FwCfgModel.longestName) bytes)")
    }
  }

  /// Is called, on the vCPU's thread with no lock held, each time the guest has written to a writable file.
  package func onFileWritten(_ handler: @escaping @Sendable (_ file: String) -> Void) {
    state.withLock { $0.written = handler }
  }

  /// The contents of a named file.
  package func file(_ name: String) -> [UInt8]? { state.withLock { $0.model.file(name) } }
  package func item(_ key: UInt16) -> [UInt8]? { state.withLock { $0.model.item(key) } }
  /// Names and sizes of all files.
  package var directory: [(name: String, size: Int)] { state.withLock { $0.model.directory } }

  // MARK: - Ports

  package func read(_ access: BusAccess) -> UInt64 {
    // Only byte reads exist.
    access.width == 1 ? UInt64(state.withLock { $0.model.readByte() }) : 0
  }

  package func write(_ access: BusAccess, _ value: UInt64) {
    // A word selects; writing the data port did something in an interface that is gone.
    if access.width == 2 {
      Trace.write(.fwCfgSelect, "key \(Trace.hex(value))")
      state.withLock { $0.model.select(UInt16(truncatingIfNeeded: value)) }
    }
  }

  /// The DMA address register, big-endian: writing its low half starts the command.
  fileprivate func writeDMA(_ access: BusAccess, _ value: UInt64) {
    let address: UInt64? = state.withLock { state in
      switch (access.offset, access.width) {
      case (0, 4):
        state.addressHigh = UInt32(truncatingIfNeeded: value).byteSwapped
        return nil
      case (4, 4):
        let low = UInt32(truncatingIfNeeded: value).byteSwapped
        defer { state.addressHigh = 0 }
        return UInt64(state.addressHigh) << 32 | UInt64(low)
      case (0, 8):
        state.addressHigh = 0
        return value.byteSwapped
      default: return nil
      }
    }
    if let address { perform(at: GuestAddress(address)) }
  }

  /// Carries out the command block at `block` and stores its result there.
  private func perform(at block: GuestAddress) {
    let written: (String, @Sendable (String) -> Void)? = state.withLock { state in
      guard let memory = state.memory,
        let bytes = memory.read(block, count: FwCfgDMACommand.size),
        let command = FwCfgDMACommand(parsing: bytes)
      else { return nil }
      if let key = command.selects {
        Trace.write(.fwCfgSelect, "key \(Trace.hex(UInt64(key)))")
        state.model.select(key)
      }
      var succeeded = true
      if command.control & FwCfgDMACommand.readBit != 0 {
        succeeded = FwCfg.copyOut(&state.model, command, memory)
      } else if command.control & FwCfgDMACommand.writeBit != 0 {
        succeeded = FwCfg.copyIn(&state.model, command, memory)
      } else if command.control & FwCfgDMACommand.skipBit != 0 {
        state.model.skip(command.length)
      }
      let result: UInt32 = succeeded ? 0 : FwCfgDMACommand.errorBit
      memory.store(block, result.byteSwapped)
      guard succeeded, command.control & FwCfgDMACommand.writeBit != 0,
        let name = state.model.selectedFile, let handler = state.written
      else { return nil }
      return (name, handler)
    }
    if let (name, handler) = written { handler(name) }
  }

  private static let chunk = 65_536

  /// Item to guest memory; zeros behind the item's end.
  private static func copyOut(
    _ model: inout FwCfgModel, _ command: FwCfgDMACommand, _ memory: GuestMemory
  ) -> Bool {
    var at = command.address
    var left = Int(command.length)
    while left > 0 {
      let step = min(left, chunk)
      var bytes = Array(model.read(limit: step))
      if bytes.count < step { bytes += [UInt8](repeating: 0, count: step - bytes.count) }
      guard memory.write(GuestAddress(at), bytes) else { return false }
      at &+= UInt64(step)
      left -= step
    }
    return true
  }

  /// Guest memory to a writable file.
  private static func copyIn(
    _ model: inout FwCfgModel, _ command: FwCfgDMACommand, _ memory: GuestMemory
  ) -> Bool {
    guard model.isSelectedWritable, Int(command.length) <= model.remaining,
      let bytes = memory.read(GuestAddress(command.address), count: Int(command.length))
    else { return false }
    return model.write(bytes)
  }
}

/// The DMA ports of a `FwCfg`.
private final class FwCfgDMAPort: BusDevice {
  private let owner: FwCfg
  init(_ owner: FwCfg) { self.owner = owner }

  /// "QEMU CFG" in big-endian tells that the interface is there.
  private static let signature: UInt64 = 0x5145_4D55_2043_4647

  func read(_ access: BusAccess) -> UInt64 {
    guard access.offset < 8 else { return 0 }
    // Byte n of the port range is byte n of the big-endian number.
    return FwCfgDMAPort.signature.byteSwapped >> (access.offset * 8)
  }

  func write(_ access: BusAccess, _ value: UInt64) { owner.writeDMA(access, value) }
}
