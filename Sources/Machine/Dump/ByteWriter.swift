/// Bytes of a record, put together in order.
struct ByteWriter {
  private(set) var bytes: [UInt8] = []

  mutating func little<T: FixedWidthInteger>(_ value: T) {
    for shift in stride(from: 0, to: T.bitWidth, by: 8) {
      bytes.append(UInt8(truncatingIfNeeded: value >> T(shift)))
    }
  }

  mutating func big<T: FixedWidthInteger>(_ value: T) { little(value.byteSwapped) }

  /// Text in a field of `width` bytes, zeros behind it.
  mutating func text(_ text: String, width: Int) {
    bytes += text.utf8.prefix(width)
    zeros(width - min(text.utf8.count, width))
  }

  mutating func zeros(_ count: Int) { bytes += [UInt8](repeating: 0, count: max(count, 0)) }

  mutating func append(_ more: [UInt8]) { bytes += more }

  /// Zeros up to a multiple of `alignment`.
  mutating func align(_ alignment: Int) {
    let rest = bytes.count % alignment
    if rest != 0 { zeros(alignment - rest) }
  }
}
