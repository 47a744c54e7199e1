/// Goes through the guest's page tables a step at a time, in ascending order of addresses. A guest may let tables point at each
/// other: there may be more to walk than anyone can wait for, so callers count.
struct PageWalk {
  enum Step: Equatable {
    case page(PageMapping)
    /// A table was read, or a stretch of one had no pages.
    case table
    case end
  }

  /// A table on the way from the root.
  private struct Table {
    var bytes: [UInt8]
    var next = 0
    /// 1 for the tables that map pages of 4 KiB.
    var level: Int
    var base: UInt64
    var rights: UInt64
  }

  private let read: (UInt64, Int) -> [UInt8]?
  private let levels: Int
  private let entrySize: Int
  /// Bits of an address that a table resolves.
  private let bits: UInt64
  private var path: [Table] = []

  /// A walk over nothing: without paging nothing is mapped.
  init(_ read: @escaping (UInt64, Int) -> [UInt8]?) {
    self.init(read, levels: 0, entrySize: 8)
  }

  /// - Parameter levels: 2, 3 (PAE), 4 or 5.
  init(
    _ read: @escaping (UInt64, Int) -> [UInt8]?, root: UInt64, levels: Int, entrySize: Int
  ) {
    self.init(read, levels: levels, entrySize: entrySize)
    enter(root, levels, 0, PageTables.writable | PageTables.user)
  }

  private init(_ read: @escaping (UInt64, Int) -> [UInt8]?, levels: Int, entrySize: Int) {
    self.read = read
    self.levels = levels
    self.entrySize = entrySize
    bits = entrySize == 4 ? 10 : 9
  }

  mutating func next() -> Step {
    guard var table = path.popLast() else { return .end }
    // PAE's first table has four entries, which give no rights.
    let isPlain = levels == 3 && table.level == 3
    let count = isPlain ? 4 : 1 << Int(bits)
    let shift = 12 + UInt64(table.level - 1) * bits
    while table.next < count {
      let index = table.next
      table.next += 1
      var entry: UInt64 = 0
      for byte in (0..<entrySize).reversed() {
        entry = entry << 8 | UInt64(table.bytes[index * entrySize + byte])
      }
      guard entry & PageTables.present != 0 else { continue }
      path.append(table)
      let address = table.base | UInt64(index) << shift
      let rights = isPlain ? table.rights : table.rights & entry
      let canBeLarge = table.level == 2 || (table.level == 3 && levels > 3)
      guard table.level == 1 || (canBeLarge && entry & PageTables.large != 0) else {
        enter(entry & PageTables.frameMask, table.level - 1, address, rights)
        return .table
      }
      return .page(
        PageMapping(
          address: canonical(address),
          physical: PageTables.frame(entry, shift, entrySize, table.level), size: 1 << shift,
          entry: entry, isWritable: rights & PageTables.writable != 0,
          isUser: rights & PageTables.user != 0))
    }
    return .table
  }

  /// Goes down into a table; what is no memory is passed over.
  private mutating func enter(_ address: UInt64, _ level: Int, _ base: UInt64, _ rights: UInt64) {
    let size = (levels == 3 && level == 3 ? 4 : 1 << Int(bits)) * entrySize
    guard let bytes = read(address, size), bytes.count == size else { return }
    path.append(Table(bytes: bytes, level: level, base: base, rights: rights))
  }

  private func canonical(_ address: UInt64) -> UInt64 {
    guard levels > 3 else { return address }
    let unused = UInt64(64 - (levels * 9 + 12))
    return UInt64(bitPattern: Int64(bitPattern: address << unused) >> Int64(unused))
  }
}

/// `info tlb`: a line for each page.
enum TranslationText {
  private static let flags: [(bit: UInt64, letter: Character)] = [
    (63, "X"), (8, "G"), (7, "P"), (6, "D"), (5, "A"), (4, "C"), (3, "T"), (2, "U"), (1, "W"),
  ]

  static func line(_ page: PageMapping) -> String {
    let isLarge = page.size > 4096
    let letters = flags.map { flag -> Character in
      if flag.bit == 7, !isLarge { return "-" }
      return page.entry >> flag.bit & 1 != 0 ? flag.letter : "-"
    }
    return
      "\(TextForm.hex(page.address, 16)): \(TextForm.hex(page.physical, 16)) \(String(letters))"
  }
}

/// `info mem`: ranges of neighbouring pages with the same rights.
struct RangeText {
  private var range: (start: UInt64, end: UInt64, isUser: Bool, isWritable: Bool)?

  /// Takes the next page; answers the line of the range that it does not belong to.
  mutating func add(_ page: PageMapping) -> String? {
    if let open = range, open.end == page.address, open.isUser == page.isUser,
      open.isWritable == page.isWritable
    {
      range?.end = page.address &+ page.size
      return nil
    }
    let line = finish()
    range = (page.address, page.address &+ page.size, page.isUser, page.isWritable)
    return line
  }

  /// The line of the last range.
  mutating func finish() -> String? {
    guard let open = range else { return nil }
    range = nil
    let letters = (open.isUser ? "u" : "-") + "r" + (open.isWritable ? "w" : "-")
    return "\(TextForm.hex(open.start, 16))-\(TextForm.hex(open.end, 16)) "
      + "\(TextForm.hex(open.end &- open.start, 16)) \(letters)"
  }
}
