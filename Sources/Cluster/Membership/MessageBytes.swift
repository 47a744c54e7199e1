/// Builds the body of a frame: integers little endian, texts and lists with their lengths before them.
package struct MessageWriter {
  package private(set) var bytes: [UInt8] = []
  package init() {}

  package mutating func append<T: FixedWidthInteger>(_ value: T) {
    for index in 0..<MemoryLayout<T>.size {
      bytes.append(UInt8(truncatingIfNeeded: value >> T(truncatingIfNeeded: index * 8)))
    }
  }

  /// Four bytes of length, then the bytes.
  package mutating func append(counted more: [UInt8]) {
    append(UInt32(clamping: more.count))
    bytes += more
  }

  package mutating func append(_ text: String) { append(counted: Array(text.utf8)) }
}

/// Takes the body of a frame apart. Nothing is believed: what is not there reads as nil.
package struct MessageReader {
  private let bytes: [UInt8]
  private var position = 0
  package init(_ bytes: [UInt8]) { self.bytes = bytes }

  /// Bytes that were not read.
  package var remaining: Int { bytes.count - position }

  package mutating func integer<T: FixedWidthInteger>(_ type: T.Type = T.self) -> T? {
    let size = MemoryLayout<T>.size
    guard remaining >= size else { return nil }
    var value: T = 0
    for index in 0..<size {
      value |= T(truncatingIfNeeded: bytes[position + index]) << T(truncatingIfNeeded: index * 8)
    }
    position += size
    return value
  }

  package mutating func counted() -> [UInt8]? {
    guard let length = integer(UInt32.self).map({ Int($0) }), length <= remaining else {
      return nil
    }
    defer { position += length }
    return Array(bytes[position..<position + length])
  }

  package mutating func text() -> String? {
    counted().map { String(decoding: $0, as: UTF8.self) }
  }

  /// The number of elements of a list whose elements have at least so many bytes; nil when they cannot all be there.
  package mutating func count(elementSize: Int) -> Int? {
    guard let count = integer(UInt32.self).map({ Int($0) }),
      count <= remaining / max(elementSize, 1)
    else { return nil }
    return count
  }
}
