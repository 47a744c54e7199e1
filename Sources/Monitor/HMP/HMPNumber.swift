/// Numbers of monitor arguments that are no integer expressions.
enum HMPNumber {
  /// A size at the start of `text`: digits (hexadecimal ones too), perhaps a fraction, perhaps a suffix of `BKMGTPE`; MiB without
  /// one. Answers how many bytes of text it takes and the size in bytes; nil when it is none or too large.
  static func size(_ text: ArraySlice<UInt8>) -> (length: Int, bytes: Int64)? {
    var rest = text.drop(while: isBlank)
    let isHexadecimal =
      rest.count > 2 && rest.first == UInt8(ascii: "0")
      && rest[rest.startIndex + 1] | 0x20 == UInt8(ascii: "x")
      && digit(rest[rest.startIndex + 2], 16) != nil
    if isHexadecimal { rest = rest.dropFirst(2) }
    let radix: UInt64 = isHexadecimal ? 16 : 10
    guard var whole = integer(&rest, radix) else { return nil }
    var fraction = 0.0
    if !isHexadecimal, rest.first == UInt8(ascii: ".") {
      rest = rest.dropFirst()
      var scale = 0.1
      while let byte = rest.first, let value = digit(byte, 10) {
        fraction += Double(value) * scale
        scale /= 10
        rest = rest.dropFirst()
      }
    }
    var shift: UInt64 = 20
    if let suffix = rest.first, let found = shifts.firstIndex(of: suffix & ~0x20) {
      shift = UInt64(found) * 10
      rest = rest.dropFirst()
    }
    // Hexadecimal sizes have no suffix but B, which is a digit; bytes have no fraction.
    if fraction != 0, shift == 0 { return nil }
    let (product, overflow) = whole.multipliedReportingOverflow(by: 1 << shift)
    whole = product &+ UInt64(fraction * Double(UInt64(1) << shift))
    guard !overflow, whole <= UInt64(Int64.max) else { return nil }
    return (rest.startIndex - text.startIndex, Int64(whole))
  }

  /// A decimal number with an optional fraction and exponent at the start of `text`.
  static func real(_ text: ArraySlice<UInt8>) -> (length: Int, value: Double)? {
    var end = text.startIndex
    func skipDigits() {
      while end < text.endIndex, digit(text[end], 10) != nil { end += 1 }
    }
    if end < text.endIndex, text[end] == UInt8(ascii: "-") || text[end] == UInt8(ascii: "+") {
      end += 1
    }
    skipDigits()
    if end < text.endIndex, text[end] == UInt8(ascii: ".") {
      end += 1
      skipDigits()
    }
    guard let value = Double(String(decoding: text[..<end], as: UTF8.self)) else { return nil }
    return (end - text.startIndex, value)
  }

  /// Takes digits off the front; nil when there are none or they overflow.
  private static func integer(_ rest: inout ArraySlice<UInt8>, _ radix: UInt64) -> UInt64? {
    var value: UInt64?
    while let byte = rest.first, let next = digit(byte, radix) {
      let (product, overflow) = (value ?? 0).multipliedReportingOverflow(by: radix)
      let (sum, carry) = product.addingReportingOverflow(next)
      if overflow || carry { return nil }
      value = sum
      rest = rest.dropFirst()
    }
    return value
  }

  private static let shifts = Array("BKMGTPE".utf8)

  /// The value of a digit.
  static func digit(_ byte: UInt8, _ radix: UInt64) -> UInt64? {
    let value: UInt64
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): value = UInt64(byte - 48)
    case UInt8(ascii: "a")...UInt8(ascii: "f"): value = UInt64(byte - 97 + 10)
    case UInt8(ascii: "A")...UInt8(ascii: "F"): value = UInt64(byte - 65 + 10)
    default: return nil
    }
    return value < radix ? value : nil
  }
}
