/// Selector keys of fw_cfg items that are not files (QEMU docs/specs/fw_cfg; the kernel's numbers in its qemu_fw_cfg.h).
package enum FwCfgKey {
  package static let signature: UInt16 = 0x00
  package static let id: UInt16 = 0x01
  package static let uuid: UInt16 = 0x02
  package static let ramSize: UInt16 = 0x03
  package static let noGraphic: UInt16 = 0x04
  package static let cpuCount: UInt16 = 0x05
  package static let machineID: UInt16 = 0x06
  package static let kernelAddress: UInt16 = 0x07
  package static let kernelSize: UInt16 = 0x08
  package static let kernelCommandLine: UInt16 = 0x09
  package static let initrdAddress: UInt16 = 0x0A
  package static let initrdSize: UInt16 = 0x0B
  package static let bootDevice: UInt16 = 0x0C
  package static let numa: UInt16 = 0x0D
  package static let bootMenu: UInt16 = 0x0E
  package static let maximumCPUs: UInt16 = 0x0F
  package static let kernelEntry: UInt16 = 0x10
  package static let kernelData: UInt16 = 0x11
  package static let initrdData: UInt16 = 0x12
  package static let commandLineAddress: UInt16 = 0x13
  package static let commandLineSize: UInt16 = 0x14
  package static let commandLineData: UInt16 = 0x15
  package static let setupAddress: UInt16 = 0x16
  package static let setupSize: UInt16 = 0x17
  package static let setupData: UInt16 = 0x18
  package static let fileDirectory: UInt16 = 0x19
  package static let firstFile: UInt16 = 0x20
  /// x86: whether interrupt 0 is overridden to input 2 of the IOAPIC.
  package static let irq0Override: UInt16 = 0x8002
  /// x86: where the HPETs are.
  package static let hpet: UInt16 = 0x8004
}

/// The firmware configuration device without its ports: items by selector, a directory of named files, the read offset, and what a DMA
/// command means (QEMU docs/specs/fw_cfg).
package struct FwCfgModel: Equatable, Sendable {
  /// Most named files, as QEMU's default of `x-file-slots` and a margin.
  package static let fileSlots = 48
  /// Longest file name, in bytes; one more ends it.
  package static let longestName = 55

  private struct Item: Equatable, Sendable {
    var bytes: [UInt8]
    var isWritable: Bool
  }
  private struct File: Equatable, Sendable {
    var name: String
    var key: UInt16
  }
  private var items: [UInt16: Item] = [:]
  private var files: [File] = []
  private var selected: UInt16 = 0
  /// The selected item's bytes; kept beside the table so that a byte read is one index.
  private var current: [UInt8] = []
  private var offset = 0

  /// With signature and version (bit 1: DMA).
  package init() {
    setItem(FwCfgKey.signature, Array("QEMU".utf8))
    setItem(FwCfgKey.id, [3, 0, 0, 0])
    makeDirectory()
  }

  // MARK: - Contents

  /// Sets an item that is not a file.
  package mutating func setItem(_ key: UInt16, _ bytes: [UInt8]) {
    items[key & 0xBFFF] = Item(bytes: bytes, isWritable: false)
  }

  /// Sets a named file, new or in place of the one of that name. Answers false when the directory is full or the name too long.
  package mutating func setFile(_ name: String, _ bytes: [UInt8], isWritable: Bool = false) -> Bool
  {
    guard !name.isEmpty, name.utf8.count <= FwCfgModel.longestName else { return false }
    if let known = files.first(where: { $0.name == name }) {
      items[known.key] = Item(bytes: bytes, isWritable: isWritable)
    } else {
      guard files.count < FwCfgModel.fileSlots else { return false }
      // Keys are given out in order, the directory is sorted by name, as firmware sees it on QEMU.
      let key = FwCfgKey.firstFile + UInt16(files.count)
      files.append(File(name: name, key: key))
      items[key] = Item(bytes: bytes, isWritable: isWritable)
    }
    makeDirectory()
    return true
  }

  /// The contents of a named file.
  package func file(_ name: String) -> [UInt8]? {
    files.first { $0.name == name }.flatMap { items[$0.key]?.bytes }
  }

  /// The names and sizes of all files, by name.
  package var directory: [(name: String, size: Int)] {
    files.map { ($0.name, items[$0.key]?.bytes.count ?? 0) }.sorted { $0.name < $1.name }
  }

  /// The bytes of an item.
  package func item(_ key: UInt16) -> [UInt8]? { items[key & 0xBFFF]?.bytes }

  private mutating func makeDirectory() {
    var bytes = bigEndian(UInt32(files.count))
    for file in files.sorted(by: { Array($0.name.utf8).lexicographicallyPrecedes($1.name.utf8) }) {
      let size = UInt32(clamping: items[file.key]?.bytes.count ?? 0)
      bytes += bigEndian(size) + [UInt8(file.key >> 8), UInt8(truncatingIfNeeded: file.key), 0, 0]
      let name = Array(file.name.utf8)
      bytes += name + [UInt8](repeating: 0, count: FwCfgModel.longestName + 1 - name.count)
    }
    items[FwCfgKey.fileDirectory] = Item(bytes: bytes, isWritable: false)
  }

  private func bigEndian(_ value: UInt32) -> [UInt8] {
    [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: value >> $0) }
  }

  // MARK: - Guest's side

  /// As after power-on; what the guest wrote to writable files stays.
  package mutating func reset() { select(0) }

  package mutating func select(_ key: UInt16) {
    // Bit 14 said "write" in an interface that is gone.
    selected = key & 0xBFFF
    offset = 0
    current = items[selected]?.bytes ?? []
  }

  /// The next byte; zero behind the end.
  package mutating func readByte() -> UInt8 {
    guard offset < current.count else { return 0 }
    defer { offset += 1 }
    return current[offset]
  }

  /// Up to `limit` next bytes, and moves on; fewer at the end.
  package mutating func read(limit: Int) -> ArraySlice<UInt8> {
    let start = min(offset, current.count)
    let end = start + min(max(limit, 0), current.count - start)
    offset = end
    return current[start..<end]
  }

  package mutating func skip(_ count: UInt32) {
    offset = min(offset + Int(count), current.count)
  }

  /// Stores bytes into a writable file at the present offset, and moves on. False when the item is not writable or they do not fit.
  package mutating func write(_ bytes: [UInt8]) -> Bool {
    guard items[selected]?.isWritable == true, offset + bytes.count <= current.count else {
      return false
    }
    current.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    items[selected]?.bytes = current
    offset += bytes.count
    return true
  }

  /// The name of the file that is selected.
  package var selectedFile: String? { files.first { $0.key == selected }?.name }
  package var isSelectedWritable: Bool { items[selected]?.isWritable == true }
  /// How many bytes of the item are left.
  package var remaining: Int { current.count - min(offset, current.count) }
}

/// The command block of the DMA interface: 16 big-endian bytes in guest memory.
package struct FwCfgDMACommand: Equatable, Sendable {
  package static let size = 16

  package let control: UInt32
  package let length: UInt32
  package let address: UInt64

  /// Parses `size` bytes; nil when there are fewer.
  package init?(parsing bytes: [UInt8]) {
    guard bytes.count >= FwCfgDMACommand.size else { return nil }
    func number(_ range: Range<Int>) -> UInt64 { bytes[range].reduce(0) { $0 << 8 | UInt64($1) } }
    control = UInt32(truncatingIfNeeded: number(0..<4))
    length = UInt32(truncatingIfNeeded: number(4..<8))
    address = number(8..<16)
  }

  package init(control: UInt32, length: UInt32, address: UInt64) {
    self.control = control
    self.length = length
    self.address = address
  }

  package func encoded() -> [UInt8] {
    let head = UInt64(control) << 32 | UInt64(length)
    return [head, address].flatMap { value in
      (0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64(56 - $0 * 8)) }
    }
  }

  package static let errorBit: UInt32 = 1
  package static let readBit: UInt32 = 2
  package static let skipBit: UInt32 = 4
  package static let selectBit: UInt32 = 8
  package static let writeBit: UInt32 = 16

  package var selects: UInt16? {
    control & FwCfgDMACommand.selectBit != 0 ? UInt16(control >> 16) : nil
  }
}
