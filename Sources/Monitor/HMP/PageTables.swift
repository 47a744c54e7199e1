import CPU

/// A page that the guest has mapped (Intel SDM vol. 3A, chapter 4).
struct PageMapping: Equatable {
  /// Guest-virtual, canonical.
  var address: UInt64
  var physical: UInt64
  var size: UInt64
  /// The entry that maps it.
  var entry: UInt64
  /// Of all levels together.
  var isWritable: Bool
  var isUser: Bool
}

/// The guest's page tables, read without touching them.
struct PageTables {
  /// Bits of an entry.
  static let present: UInt64 = 1
  static let writable: UInt64 = 2
  static let user: UInt64 = 4
  static let large: UInt64 = 1 << 7

  private enum Mode { case none, legacy, pae, long(levels: Int) }
  private let mode: Mode
  private let root: UInt64
  private let read: (UInt64, Int) -> [UInt8]?

  /// - Parameter read: guest-physical memory.
  init(_ state: CPUState, read: @escaping (UInt64, Int) -> [UInt8]?) {
    self.read = read
    if state.cr0 & 1 << 31 == 0 {
      mode = .none
    } else if state.cr4 & 1 << 5 == 0 {
      mode = .legacy
    } else if state.efer & 1 << 10 != 0 {
      mode = .long(levels: state.cr4 & 1 << 12 != 0 ? 5 : 4)
    } else {
      mode = .pae
    }
    root = state.cr3
  }

  /// Whether the guest has paging on.
  var isEnabled: Bool { if case .none = mode { false } else { true } }

  /// Where `address` is in guest-physical memory; nil when it is not mapped. The address itself without paging.
  func translate(_ address: UInt64) -> UInt64? {
    switch mode {
    case .none: return address & 0x000F_FFFF_FFFF_FFFF
    case .legacy:
      let address = address & 0xFFFF_FFFF
      return walk(
        table: root & 0xFFFF_F000, levels: 2, bits: 10, entrySize: 4, address, pdptIsPlain: false)
    case .pae:
      let address = address & 0xFFFF_FFFF
      return walk(
        table: root & 0xFFFF_FFE0, levels: 3, bits: 9, entrySize: 8, address, pdptIsPlain: true)
    case .long(let levels):
      let width = UInt64(levels * 9 + 12)
      let sign = Int64(bitPattern: address) >> Int64(width - 1)
      guard sign == 0 || sign == -1 else { return nil }
      return walk(
        table: root & 0x000F_FFFF_FFFF_F000, levels: levels, bits: 9, entrySize: 8, address,
        pdptIsPlain: false)
    }
  }

  /// A walk over all mapped pages.
  var pages: PageWalk {
    switch mode {
    case .none: PageWalk(read)
    case .legacy: PageWalk(read, root: root & 0xFFFF_F000, levels: 2, entrySize: 4)
    case .pae: PageWalk(read, root: root & 0xFFFF_FFE0, levels: 3, entrySize: 8)
    case .long(let levels):
      PageWalk(read, root: root & PageTables.frameMask, levels: levels, entrySize: 8)
    }
  }

  // MARK: -

  static let frameMask: UInt64 = 0x000F_FFFF_FFFF_F000

  private func entry(_ table: UInt64, _ index: UInt64, _ size: Int) -> UInt64? {
    guard let bytes = read(table &+ index &* UInt64(size), size), bytes.count == size else {
      return nil
    }
    return bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
  }

  private func walk(
    table: UInt64, levels: Int, bits: UInt64, entrySize: Int, _ address: UInt64,
    pdptIsPlain: Bool
  ) -> UInt64? {
    var table = table
    var level = levels
    while level > 0 {
      let shift = 12 + UInt64(level - 1) * bits
      let index = address >> shift & (1 << bits - 1)
      guard let entry = entry(table, index, entrySize), entry & PageTables.present != 0 else {
        return nil
      }
      let canBeLarge = level == 2 || (level == 3 && !pdptIsPlain && levels > 3)
      if level == 1 || (canBeLarge && entry & PageTables.large != 0) {
        return PageTables.frame(entry, shift, entrySize, level) | address & (1 << shift - 1)
      }
      table = entry & PageTables.frameMask
      level -= 1
    }
    return nil
  }

  static func frame(
    _ entry: UInt64, _ shift: UInt64, _ entrySize: Int, _ level: Int
  ) -> UInt64 {
    if entrySize == 4, level == 2 {
      // PSE-36: bits 13 to 20 are the frame's bits 32 to 39.
      return entry & 0xFFC0_0000 | (entry >> 13 & 0xFF) << 32
    }
    return entry & PageTables.frameMask & ~(1 << shift - 1)
  }
}
