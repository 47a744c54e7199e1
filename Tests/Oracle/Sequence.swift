import COracle

/// One instruction of a sequence, or a few that belong together. Its place is found when all are laid out.
struct SequenceItem {
  /// A field that depends on where something lies.
  struct Fixup {
    enum Target {
      /// The first item with at least this number, plus so many bytes.
      case item(Int, addend: Int)
      case address(UInt64)
    }
    var offset: Int
    var width: Int
    var target: Target
    /// The field's value counts from here in the item, which is the end of its instruction.
    var end: Int
  }

  /// Rises along the sequence, with gaps where items were taken away.
  var id = 0
  var bytes: [UInt8]
  var name: String
  /// RFLAGS bits that the manuals leave undefined behind it.
  var undefinedFlags: UInt64 = 0
  /// Sets all arithmetic flags and reads none.
  var cleansFlags = false
  var isPinned = false
  /// Changes which flags the code behind it reads: they may be stale where exactness is not asked for.
  var changesFlagUse = false
  var fixups: [Fixup] = []
}

/// A piece of code with its state before: a case of the oracle.
struct Sequence {
  enum Kind: String, CaseIterable {
    /// Judged by the host CPU.
    case host
    /// With a device, and pages that are mapped twice; judged by the interpreter.
    case machine
  }

  var number: Int
  var kind: Kind
  var set: OracleSet
  var items: [SequenceItem]
  /// In the code pages.
  var offset: Int
  var registers: [UInt64]
  var flags: UInt64
  var xsave: [UInt8]

  static let endName = "end"

  /// The code, and the address of each item.
  func layout() -> (code: [UInt8], starts: [UInt64]) {
    var starts: [UInt64] = []
    starts.reserveCapacity(items.count)
    var next = UInt64(ORACLE_CODE) + UInt64(offset)
    for item in items {
      starts.append(next)
      next += UInt64(item.bytes.count)
    }
    var code: [UInt8] = []
    for (item, start) in zip(items, starts) {
      let base = code.count
      code += item.bytes
      for fixup in item.fixups {
        let target: UInt64
        switch fixup.target {
        case .address(let address): target = address
        case .item(let id, let addend):
          let index = items.firstIndex { $0.id >= id }
          target = (index.map { starts[$0] } ?? next) &+ UInt64(bitPattern: Int64(addend))
        }
        let value = target &- (start + UInt64(fixup.end))
        for n in 0..<fixup.width {
          code[base + fixup.offset + n] = UInt8(truncatingIfNeeded: value >> UInt64(n * 8))
        }
      }
    }
    return (code, starts)
  }

  /// Whether no item can read a flag that is undefined.
  var isSound: Bool {
    for (n, item) in items.enumerated() where item.undefinedFlags != 0 {
      guard n + 1 < items.count else { return false }
      let next = items[n + 1]
      if !next.cleansFlags, next.name != Sequence.endName { return false }
    }
    return code(fits: items)
  }

  private func code(fits items: [SequenceItem]) -> Bool {
    items.reduce(0) { $0 + $1.bytes.count } <= Int(ORACLE_CODE_BYTES)
  }

  /// The item at `rip`, and the flags that are undefined before it.
  func item(at rip: UInt64, vector: UInt64, starts: [UInt64]) -> (index: Int?, undefined: UInt64) {
    let address = vector == 3 ? rip &- 1 : rip
    guard let index = starts.firstIndex(of: address) else { return (nil, 0) }
    return (index, index > 0 ? items[index - 1].undefinedFlags : 0)
  }
}
