package import CPU

/// The guest's page tables as stretches of virtual addresses (Intel SDM vol. 3A, chapter 4), for dumps with paging.
///
/// A guest can make tables that map without end (a table that is its own entry), so the walk is bounded; `isComplete` tells.
package struct PageTableMappings {
  package struct Mapping: Hashable, Sendable {
    package var virtual: UInt64
    package var physical: UInt64
    package var size: UInt64

    package init(virtual: UInt64, physical: UInt64, size: UInt64) {
      self.virtual = virtual
      self.physical = physical
      self.size = size
    }
  }

  /// Stretches found so far, by processors and ascending virtual addresses; what touches is one.
  package private(set) var mappings: [Mapping] = []
  /// False when the walk ended early.
  package private(set) var isComplete = true

  /// Most tables that are read, and most stretches that are kept.
  private static let tableLimit = 1 << 20
  private static let mappingLimit = 1 << 20

  private let read: (UInt64, Int) -> [UInt8]?
  private var tables = 0
  private var seen: Set<UInt64> = []
  /// Where the present processor's stretches begin.
  private var first = 0

  /// - Parameter read: guest-physical memory.
  package init(read: @escaping (UInt64, Int) -> [UInt8]?) { self.read = read }

  /// Adds the address space of a processor; nothing when it has no paging, or the tables of one that was added.
  package mutating func add(_ state: CPUState) {
    guard state.cr0 & 1 << 31 != 0, seen.insert(state.cr3).inserted else { return }
    first = mappings.count
    if state.cr4 & 1 << 5 == 0 {
      walkLegacy(state.cr3 & 0xFFFF_F000, largePages: state.cr4 & 1 << 4 != 0)
    } else if state.efer & 1 << 10 != 0 {
      walk(
        state.cr3 & 0x000F_FFFF_FFFF_F000, level: state.cr4 & 1 << 12 != 0 ? 5 : 4, entries: 512,
        from: 0, levels: state.cr4 & 1 << 12 != 0 ? 5 : 4)
    } else {
      walk(state.cr3 & 0xFFFF_FFE0, level: 3, entries: 4, from: 0, levels: 3)
    }
  }

  /// The stretches by physical address, none twice.
  package var sorted: [Mapping] {
    Array(Set(mappings)).sorted { ($0.physical, $0.virtual) < ($1.physical, $1.virtual) }
  }

  private mutating func walk(
    _ table: UInt64, level: Int, entries: Int, from virtual: UInt64, levels: Int
  ) {
    guard let bytes = load(table, entries * 8) else { return }
    let shift = UInt64(12 + 9 * (level - 1))
    for index in 0..<entries {
      if !isComplete { return }
      var entry: UInt64 = 0
      for byte in 0..<8 { entry |= UInt64(bytes[index * 8 + byte]) << UInt64(byte * 8) }
      guard entry & 1 != 0 else { continue }
      var address = virtual | UInt64(index) << shift
      if level == levels, levels >= 4, index >= 256 {
        // The upper half is sign-extended.
        address |= UInt64.max << (shift + 9)
      }
      let target = entry & 0x000F_FFFF_FFFF_F000
      if level == 1 {
        add(address, target, 1 << 12)
      } else if entry & 1 << 7 != 0, level == 2 || level == 3 && levels >= 4 {
        add(address, target & ~((1 << shift) - 1), 1 << shift)
      } else {
        walk(target, level: level - 1, entries: 512, from: address, levels: levels)
      }
    }
  }

  /// Two levels of 32-bit entries.
  private mutating func walkLegacy(_ directory: UInt64, largePages: Bool) {
    guard let bytes = load(directory, 4096) else { return }
    func entry(_ bytes: [UInt8], _ index: Int) -> UInt64 {
      (0..<4).reduce(0) { $0 | UInt64(bytes[index * 4 + $1]) << UInt64($1 * 8) }
    }
    for index in 0..<1024 {
      let value = entry(bytes, index)
      guard value & 1 != 0 else { continue }
      let address = UInt64(index) << 22
      if largePages, value & 1 << 7 != 0 {
        // PSE-36: bits 13 to 20 are bits 32 to 39 of the address.
        add(address, value & 0xFFC0_0000 | (value >> 13 & 0xFF) << 32, 1 << 22)
        continue
      }
      guard let table = load(value & 0xFFFF_F000, 4096) else { continue }
      for page in 0..<1024 {
        let leaf = entry(table, page)
        if leaf & 1 != 0 { add(address | UInt64(page) << 12, leaf & 0xFFFF_F000, 1 << 12) }
      }
    }
  }

  private mutating func load(_ table: UInt64, _ count: Int) -> [UInt8]? {
    tables += 1
    if tables > PageTableMappings.tableLimit { isComplete = false }
    return isComplete ? read(table, count) : nil
  }

  private mutating func add(_ virtual: UInt64, _ physical: UInt64, _ size: UInt64) {
    if mappings.count > first, let last = mappings.last, last.virtual &+ last.size == virtual,
      last.physical &+ last.size == physical
    {
      mappings[mappings.count - 1].size += size
    } else if mappings.count < PageTableMappings.mappingLimit {
      mappings.append(Mapping(virtual: virtual, physical: physical, size: size))
    } else {
      isComplete = false
    }
  }
}
