/// Where a function sits: bus 0, device 0 to 31, function 0 to 7.
package struct PCIAddress: Hashable, Sendable, CustomStringConvertible {
  package let device: UInt8
  package let function: UInt8

  /// Values out of range wrap.
  package init(device: UInt8, function: UInt8 = 0) {
    self.device = device & 31
    self.function = function & 7
  }

  /// Device and function as the configuration address has them.
  package init(devfn: UInt8) { self.init(device: devfn >> 3, function: devfn & 7) }
  package var devfn: UInt8 { device << 3 | function }

  /// As in `info qtree`: two hex digits, a dot, the function.
  package var description: String {
    let digits = String(device, radix: 16)
    return (digits.count < 2 ? "0" : "") + digits + "." + String(function)
  }
}

/// What identifies a function (PCI 3.0, 6.2.1 and 6.2.4).
package struct PCIIdentity: Equatable, Sendable {
  package var vendor: UInt16
  package var device: UInt16
  package var revision: UInt8
  /// Base class, subclass, programming interface from the top byte down.
  package var classCode: UInt32
  package var subsystemVendor: UInt16
  package var subsystem: UInt16

  package init(
    vendor: UInt16, device: UInt16, revision: UInt8 = 0, classCode: UInt32,
    subsystemVendor: UInt16 = 0x1AF4, subsystem: UInt16 = 0x1100
  ) {
    self.vendor = vendor
    self.device = device
    self.revision = revision
    self.classCode = classCode
    self.subsystemVendor = subsystemVendor
    self.subsystem = subsystem
  }
}

/// One base address register as the device wants it (PCI 3.0, 6.2.5.1).
package struct PCIBarLayout: Equatable, Sendable {
  package enum Kind: Equatable, Sendable { case io, memory32, memory64 }
  /// 0 to 5; a 64-bit one takes the next too.
  package let index: Int
  package let kind: Kind
  package let isPrefetchable: Bool
  /// Bytes: a power of two, at least 4 (ports) or 16 (memory).
  package let size: UInt64

  package init(index: Int, kind: Kind, size: UInt64, isPrefetchable: Bool = false) {
    self.index = index
    self.kind = kind
    self.isPrefetchable = isPrefetchable
    let least: UInt64 = kind == .io ? 4 : 16
    var rounded = least
    while rounded < size, rounded < 1 << 62 { rounded <<= 1 }
    self.size = rounded
  }

  var lowBits: UInt32 {
    switch kind {
    case .io: 1
    case .memory32: isPrefetchable ? 8 : 0
    case .memory64: isPrefetchable ? 0xC : 4
    }
  }
}

/// The 256 bytes of configuration space of one function (PCI 3.0, chapter 6), without side effects: what a write means for the outside is
/// read off afterwards (`address(of:)`, `isInterruptDisabled`).
package struct PCIConfiguration: Equatable, Sendable {
  package static let size = 256

  /// Offsets of the common header.
  package enum Register {
    package static let command = 0x04
    package static let status = 0x06
    package static let headerType = 0x0E
    package static let bar0 = 0x10
    package static let rom = 0x30
    package static let capabilities = 0x34
    package static let interruptLine = 0x3C
    package static let interruptPin = 0x3D
  }

  package private(set) var bytes = [UInt8](repeating: 0, count: size)
  /// Which bits the guest may change.
  private var writable = [UInt8](repeating: 0, count: size)
  /// Which bits a written one clears.
  private var clearable = [UInt8](repeating: 0, count: size)
  private var bars: [PCIBarLayout] = []
  private var nextCapability = 0x40

  /// `interruptPin` is 0 for none, 1 to 4 for INTA# to INTD#.
  package init(
    _ identity: PCIIdentity, interruptPin: UInt8 = 0, isMultifunction: Bool = false,
    bars: [PCIBarLayout] = []
  ) {
    set16(0x00, identity.vendor)
    set16(0x02, identity.device)
    bytes[0x08] = identity.revision
    bytes[0x09] = UInt8(truncatingIfNeeded: identity.classCode)
    set16(0x0A, UInt16(truncatingIfNeeded: identity.classCode >> 8))
    set16(0x2C, identity.subsystemVendor)
    set16(0x2E, identity.subsystem)
    bytes[Register.headerType] = isMultifunction ? 0x80 : 0
    bytes[Register.interruptPin] = interruptPin
    allowWrites(to: 0x0C)
    allowWrites(to: Register.interruptLine)
    // I/O, memory, bus master, parity, SERR#, interrupt disable.
    allowWrites(to: 0x04, mask: 0x47)
    allowWrites(to: 0x05, mask: 0x05)
    clearable[0x07] = 0xF9
    for bar in bars { add(bar) }
  }

  // MARK: - Guest's side

  /// Little-endian value of `width` bytes (1, 2 or 4); all ones beyond the end.
  package func read(_ offset: Int, width: Int) -> UInt32 {
    var value: UInt32 = 0
    for index in 0..<min(max(width, 0), 4) {
      let at = offset &+ index
      let byte = bytes.indices.contains(at) ? bytes[at] : 0xFF
      value |= UInt32(byte) << UInt32(index * 8)
    }
    return value
  }

  /// Stores what may be stored.
  package mutating func write(_ offset: Int, width: Int, _ value: UInt32) {
    for index in 0..<min(max(width, 0), 4) {
      let at = offset &+ index
      guard bytes.indices.contains(at) else { return }
      let byte = UInt8(truncatingIfNeeded: value >> UInt32(index * 8))
      let mask = writable[at]
      bytes[at] = (bytes[at] & ~mask | byte & mask) & ~(byte & clearable[at])
    }
  }

  // MARK: - Device's side

  /// Where a base address register points now; nil while decoding is off or no address is set.
  package func address(of index: Int) -> UInt64? {
    guard let bar = bars.first(where: { $0.index == index }) else { return nil }
    let at = PCIConfiguration.register(of: index)
    let low = read(at, width: 4)
    let enabled = bytes[Register.command] & (bar.kind == .io ? 1 : 2) != 0
    guard enabled, index != PCIROM.index || low & 1 != 0 else { return nil }
    var address = UInt64(low & (bar.kind == .io ? ~3 : ~15))
    if index == PCIROM.index { address &= ~0x7FF }
    if bar.kind == .memory64 { address |= UInt64(read(at + 4, width: 4)) << 32 }
    let (last, overflow) = address.addingReportingOverflow(bar.size - 1)
    let limit: UInt64 =
      bar.kind == .io ? 0xFFFF : bar.kind == .memory32 ? 0xFFFF_FFFF : UInt64.max
    // Address 0 and the very top are what sizing leaves behind, not places.
    guard !overflow, address != 0, last <= limit, last != UInt64.max else { return nil }
    if bar.kind == .memory32, last == 0xFFFF_FFFF { return nil }
    return address
  }

  package var layout: [PCIBarLayout] { bars }
  /// The guest does not want INTx (command register, bit 10).
  package var isInterruptDisabled: Bool { bytes[0x05] & 0x04 != 0 }
  package var isBusMaster: Bool { bytes[0x04] & 0x04 != 0 }
  package var interruptPin: UInt8 { bytes[Register.interruptPin] }

  /// Status register, bit 3: INTx is pending.
  package mutating func setInterruptStatus(_ pending: Bool) {
    bytes[0x06] = bytes[0x06] & ~0x08 | (pending ? 0x08 : 0)
  }

  /// Sets a byte whatever the guest may write there.
  package mutating func set8(_ offset: Int, _ value: UInt8) {
    if bytes.indices.contains(offset) { bytes[offset] = value }
  }

  package mutating func set16(_ offset: Int, _ value: UInt16) {
    set8(offset, UInt8(truncatingIfNeeded: value))
    set8(offset + 1, UInt8(value >> 8))
  }

  package mutating func set32(_ offset: Int, _ value: UInt32) {
    set16(offset, UInt16(truncatingIfNeeded: value))
    set16(offset + 2, UInt16(value >> 16))
  }

  /// Lets the guest change the bits of `mask` in `count` bytes.
  package mutating func allowWrites(to offset: Int, count: Int = 1, mask: UInt8 = 0xFF) {
    for at in offset..<offset + count where writable.indices.contains(at) { writable[at] = mask }
  }

  /// Adds a capability (6.7) and answers its offset; nil when there is no room. `contents` follows identifier and next pointer.
  package mutating func addCapability(
    _ id: UInt8, _ contents: [UInt8], writable mask: [UInt8] = []
  ) -> Int? {
    let offset = nextCapability
    guard offset + 2 + contents.count <= PCIConfiguration.size else { return nil }
    bytes[offset] = id
    bytes[offset + 1] = bytes[Register.capabilities]
    for (index, byte) in contents.enumerated() {
      bytes[offset + 2 + index] = byte
      if mask.indices.contains(index) { writable[offset + 2 + index] = mask[index] }
    }
    bytes[Register.capabilities] = UInt8(truncatingIfNeeded: offset)
    bytes[Register.status] |= 0x10
    nextCapability = (offset + 2 + contents.count + 3) & ~3
    return offset
  }

  private mutating func add(_ bar: PCIBarLayout) {
    guard (0...PCIROM.index).contains(bar.index), bar.kind != .memory64 || bar.index < 5 else {
      return
    }
    bars.append(bar)
    let at = PCIConfiguration.register(of: bar.index)
    set32(at, bar.lowBits)
    let mask = ~(bar.size - 1)
    for index in 0..<4 {
      writable[at + index] = UInt8(truncatingIfNeeded: mask >> UInt64(index * 8))
      if bar.kind == .memory64 {
        writable[at + 4 + index] = UInt8(truncatingIfNeeded: mask >> UInt64(32 + index * 8))
      }
    }
    writable[at] &= bar.kind == .io ? ~3 : ~15
    // Software turns the ROM on and off by itself.
    if bar.index == PCIROM.index { writable[at] = 1 }
  }

  /// Where a base address register is; the expansion ROM's has a place of its own.
  private static func register(of index: Int) -> Int {
    index == PCIROM.index ? Register.rom : Register.bar0 + index * 4
  }
}
