// 256 bits, one per interrupt vector: IRR, ISR and TMR of a local APIC (Intel SDM vol. 3A, 11.8.4).

/// A set of interrupt vectors, with the highest found in a few instructions.
package struct VectorSet: Equatable, Sendable, BitwiseCopyable {
  private var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)

  /// The empty set.
  package init() {}

  /// True when no vector is in the set.
  package var isEmpty: Bool { words.0 | words.1 | words.2 | words.3 == 0 }

  /// The highest vector, or nil.
  package var highest: UInt8? {
    if words.3 != 0 { return UInt8(truncatingIfNeeded: 255 &- words.3.leadingZeroBitCount) }
    if words.2 != 0 { return UInt8(truncatingIfNeeded: 191 &- words.2.leadingZeroBitCount) }
    if words.1 != 0 { return UInt8(truncatingIfNeeded: 127 &- words.1.leadingZeroBitCount) }
    if words.0 != 0 { return UInt8(truncatingIfNeeded: 63 &- words.0.leadingZeroBitCount) }
    return nil
  }

  /// True when `vector` is in the set.
  package func contains(_ vector: UInt8) -> Bool {
    let bit = UInt64(1) << UInt64(vector & 63)
    return switch vector >> 6 {
    case 0: words.0 & bit != 0
    case 1: words.1 & bit != 0
    case 2: words.2 & bit != 0
    default: words.3 & bit != 0
    }
  }

  /// Adds `vector`.
  package mutating func insert(_ vector: UInt8) {
    let bit = UInt64(1) << UInt64(vector & 63)
    switch vector >> 6 {
    case 0: words.0 |= bit
    case 1: words.1 |= bit
    case 2: words.2 |= bit
    default: words.3 |= bit
    }
  }

  /// Removes `vector`.
  package mutating func remove(_ vector: UInt8) {
    let bit = ~(UInt64(1) << UInt64(vector & 63))
    switch vector >> 6 {
    case 0: words.0 &= bit
    case 1: words.1 &= bit
    case 2: words.2 &= bit
    default: words.3 &= bit
    }
  }

  /// The 32 bits of register `index` (0 to 7): vectors `32 * index` to `32 * index + 31`.
  package subscript(register index: Int) -> UInt32 {
    get {
      let word =
        switch index >> 1 & 3 {
        case 0: words.0
        case 1: words.1
        case 2: words.2
        default: words.3
        }
      return UInt32(truncatingIfNeeded: word >> UInt64(index & 1 &* 32))
    }
    set {
      let shift = UInt64(index & 1 &* 32)
      let mask = ~(UInt64(0xFFFF_FFFF) << shift)
      let bits = UInt64(newValue) << shift
      switch index >> 1 & 3 {
      case 0: words.0 = words.0 & mask | bits
      case 1: words.1 = words.1 & mask | bits
      case 2: words.2 = words.2 & mask | bits
      default: words.3 = words.3 & mask | bits
      }
    }
  }

  /// Equal when the same vectors are in both.
  package static func == (a: VectorSet, b: VectorSet) -> Bool {
    a.words.0 == b.words.0 && a.words.1 == b.words.1 && a.words.2 == b.words.2
      && a.words.3 == b.words.3
  }
}
