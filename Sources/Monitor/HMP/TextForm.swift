/// Numbers as the human monitor prints them.
enum TextForm {
  /// Hexadecimal with leading zeros.
  static func hex(_ value: some FixedWidthInteger & UnsignedInteger, _ digits: Int) -> String {
    let text = String(value, radix: 16)
    return String(repeating: "0", count: max(0, digits - text.count)) + text
  }

  /// Decimal with leading zeros.
  static func decimal(_ value: Int, _ digits: Int) -> String {
    let text = String(value)
    return String(repeating: "0", count: max(0, digits - text.count)) + text
  }

  /// Filled with blanks on the left.
  static func right(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.utf8.count)) + text
  }

  /// Filled with blanks on the right.
  static func left(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.utf8.count))
  }

  /// A character constant as C writes it.
  static func character(_ value: UInt64) -> String {
    switch value {
    case 0x27: "'\\''"
    case 0x5C: "'\\\\'"
    case 10: "'\\n'"
    case 13: "'\\r'"
    case 32...126: "'\(Character(UnicodeScalar(UInt8(value))))'"
    default: "'\\x\(hex(value, 2))'"
    }
  }

  /// A number in the format of `print` and of dumps: kind `x o d u c`, blanks to `width` where it is decimal or octal.
  static func number(_ value: UInt64, kind: UInt8, width: Int = 0, size: Int = 8) -> String {
    switch kind {
    case UInt8(ascii: "x"):
      width > 0 ? "0x" + hex(value, width) : value == 0 ? "0" : "0x" + String(value, radix: 16)
    case UInt8(ascii: "o"):
      right(value == 0 ? "0" : "0" + String(value, radix: 8), width)
    case UInt8(ascii: "u"): right(String(value), width)
    case UInt8(ascii: "c"): character(value)
    default: right(size == 8 ? String(Int64(bitPattern: value)) : String(value), width)
    }
  }
}
