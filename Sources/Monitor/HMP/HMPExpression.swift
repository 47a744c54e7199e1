/// Integer expressions of monitor arguments: `+ - * / % & | ^ ~ ( )`, C prefixes, `'c'`, `$register`.
///
/// Sums bind weaker than logic, logic weaker than products, as in QEMU (qmp-wire section 10, Parsing). Arithmetic wraps.
struct HMPExpression {
  /// The text for the user.
  struct Failure: Error, Equatable { let text: String }

  private let text: [UInt8]
  /// Where the expression ended, blanks after it skipped.
  private(set) var position: Int
  private let register: (String) -> UInt64?
  private var depth = 0
  private static let depthLimit = 256

  init(_ text: [UInt8], at position: Int, register: @escaping (String) -> UInt64?) {
    self.text = text
    self.position = position
    self.register = register
  }

  mutating func parse() throws(Failure) -> Int64 {
    skipBlanks()
    return try sum()
  }

  // MARK: -

  private var current: UInt8? { position < text.count ? text[position] : nil }

  private mutating func skipBlanks() {
    while let byte = current, isBlank(byte) { position += 1 }
  }

  private mutating func advance() {
    position += 1
    skipBlanks()
  }

  private mutating func sum() throws(Failure) -> Int64 {
    var value = try logic()
    while let byte = current, byte == UInt8(ascii: "+") || byte == UInt8(ascii: "-") {
      advance()
      let right = try logic()
      value = byte == UInt8(ascii: "+") ? value &+ right : value &- right
    }
    return value
  }

  private mutating func logic() throws(Failure) -> Int64 {
    var value = try product()
    while let byte = current {
      switch byte {
      case UInt8(ascii: "&"):
        advance()
        value &= try product()
      case UInt8(ascii: "|"):
        advance()
        value |= try product()
      case UInt8(ascii: "^"):
        advance()
        value ^= try product()
      default: return value
      }
    }
    return value
  }

  private mutating func product() throws(Failure) -> Int64 {
    var value = try unary()
    while let byte = current {
      guard byte == UInt8(ascii: "*") || byte == UInt8(ascii: "/") || byte == UInt8(ascii: "%")
      else { return value }
      advance()
      let right = try unary()
      if byte == UInt8(ascii: "*") {
        value = value &* right
      } else {
        if right == 0 { throw Failure(text: "division by zero") }
        let (quotient, remainder) =
          right == -1 ? (0 &- value, 0) : value.quotientAndRemainder(dividingBy: right)
        value = byte == UInt8(ascii: "/") ? quotient : remainder
      }
    }
    return value
  }

  private mutating func unary() throws(Failure) -> Int64 {
    depth += 1
    defer { depth -= 1 }
    if depth > HMPExpression.depthLimit { throw Failure(text: "expression too deep") }
    guard let byte = current else { throw Failure(text: "unexpected end of expression") }
    switch byte {
    case UInt8(ascii: "+"):
      advance()
      return try unary()
    case UInt8(ascii: "-"):
      advance()
      return 0 &- (try unary())
    case UInt8(ascii: "~"):
      advance()
      return ~(try unary())
    case UInt8(ascii: "("):
      advance()
      let value = try sum()
      guard current == UInt8(ascii: ")") else { throw Failure(text: "')' expected") }
      advance()
      return value
    case UInt8(ascii: "'"): return try character()
    case UInt8(ascii: "$"): return try registerValue()
    default: return try number()
    }
  }

  private mutating func character() throws(Failure) -> Int64 {
    position += 1
    guard let byte = current else { throw Failure(text: "character constant expected") }
    position += 1
    guard current == UInt8(ascii: "'") else {
      throw Failure(text: "missing terminating ' character")
    }
    advance()
    return Int64(byte)
  }

  private mutating func registerValue() throws(Failure) -> Int64 {
    position += 1
    let start = position
    while let byte = current, isNameByte(byte) { position += 1 }
    let name = String(decoding: text[start..<position], as: UTF8.self)
    skipBlanks()
    guard let value = register(name) else { throw Failure(text: "unknown register") }
    return Int64(bitPattern: value)
  }

  private func isNameByte(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "."),
      UInt8(ascii: ":"):
      true
    default: false
    }
  }

  /// A number as `strtoull` with base 0 reads it.
  private mutating func number() throws(Failure) -> Int64 {
    var base: UInt64 = 10
    var index = position
    if text[index] == UInt8(ascii: "0") {
      base = 8
      if index + 2 < text.count, text[index + 1] | 0x20 == UInt8(ascii: "x"),
        HMPNumber.digit(text[index + 2], 16) != nil
      {
        base = 16
        index += 2
      }
    }
    let start = index
    var value: UInt64 = 0
    while index < text.count, let digit = HMPNumber.digit(text[index], base) {
      let (product, overflow) = value.multipliedReportingOverflow(by: base)
      let (next, carry) = product.addingReportingOverflow(digit)
      if overflow || carry { throw Failure(text: "number too large") }
      value = next
      index += 1
    }
    if index == start {
      let character = Character(UnicodeScalar(text[position]))
      throw Failure(text: "invalid char '\(character)' in expression")
    }
    position = index
    skipBlanks()
    return Int64(bitPattern: value)
  }
}
