/// UTF-8 as QEMU's JSON code reads it: U+0000 may be written as the overlong C0 80, surrogates and
/// noncharacters (U+FDD0 to U+FDEF, U+xxFFFE, U+xxFFFF) are invalid, so are all other overlong forms.
enum ModifiedUTF8 {
  /// Whether a scalar may occur in a string.
  static func allows(_ scalar: UInt32) -> Bool {
    if scalar > 0x10FFFF { return false }
    if (0xD800...0xDFFF).contains(scalar) { return false }
    if (0xFDD0...0xFDEF).contains(scalar) { return false }
    return scalar & 0xFFFE != 0xFFFE
  }

  /// Reads one character at `position` (which is below `bytes.endIndex`). `scalar` is nil when the
  /// bytes are invalid; `end` is then behind the bytes that one replacement character stands for.
  static func decode(
    _ bytes: ArraySlice<UInt8>, at position: Int
  ) -> (scalar: UInt32?, end: Int) {
    let first = bytes[position]
    if first < 0x80 { return (UInt32(first), position + 1) }
    let length: Int
    var scalar: UInt32
    switch first {
    case 0xC0...0xDF: (length, scalar) = (2, UInt32(first & 0x1F))
    case 0xE0...0xEF: (length, scalar) = (3, UInt32(first & 0x0F))
    case 0xF0...0xF7: (length, scalar) = (4, UInt32(first & 0x07))
    case 0xF8...0xFB: (length, scalar) = (5, UInt32(first & 0x03))
    case 0xFC...0xFD: (length, scalar) = (6, UInt32(first & 0x01))
    default: return (nil, position + 1)
    }
    var end = position + 1
    while end < position + length {
      guard end < bytes.endIndex, bytes[end] & 0xC0 == 0x80 else { return (nil, end) }
      scalar = scalar << 6 | UInt32(bytes[end] & 0x3F)
      end += 1
    }
    let shortest: Int =
      switch scalar {
      case 0: 2  // C0 80
      case ..<0x80: 1
      case ..<0x800: 2
      case ..<0x1_0000: 3
      default: 4
      }
    guard length == shortest, allows(scalar) else { return (nil, end) }
    return (scalar, end)
  }

  /// The text of bytes that may be invalid, one U+FFFD for each invalid sequence.
  static func lossyString(_ bytes: ArraySlice<UInt8>) -> String {
    var text = String.UnicodeScalarView()
    var position = bytes.startIndex
    while position < bytes.endIndex {
      let (scalar, end) = decode(bytes, at: position)
      text.append(scalar.flatMap(Unicode.Scalar.init) ?? "\u{FFFD}")
      position = end
    }
    return String(text)
  }
}
