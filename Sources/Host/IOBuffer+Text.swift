import Glibc

/// Text put together in memory, for output of millions of numbers.
extension IOBuffer {
  /// Copies a part of another buffer to `offset`; nothing when it does not fit.
  package func copy(_ range: Range<Int>, of source: IOBuffer, to offset: Int) {
    guard range.lowerBound >= 0, range.upperBound <= source.count, offset >= 0,
      range.count <= count - offset
    else { return }
    // SAFETY: both sides hold as many bytes from there.
    unsafe memmove(base + offset, source.base + range.lowerBound, range.count)
  }

  /// Writes a number in decimal from `offset` on; the bytes it takes, at most 20. Nothing (0) when there are no 20 bytes.
  package func storeDecimal(_ number: UInt64, at offset: Int) -> Int {
    guard offset >= 0, offset <= count - 20 else { return 0 }
    var digits = 1
    var limit: UInt64 = 10
    while number >= limit {
      digits &+= 1
      if digits == 20 { break }
      limit = limit &* 10
    }
    var rest = number
    var index = digits
    // SAFETY: at most 20 bytes, which are there.
    let start = unsafe base + offset
    while index > 0 {
      index &-= 1
      let tens = rest / 10
      unsafe start.storeBytes(
        of: UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: rest &- tens &* 10),
        toByteOffset: index, as: UInt8.self)
      rest = tens
    }
    return digits
  }
}
