// How single values are written: booleans, numbers, sizes, identifiers.

/// What came of reading a number.
package enum NumberText<Value: Equatable>: Equatable {
  case value(Value)
  /// Not a number at all, or something follows it.
  case malformed
  /// A number that the type cannot hold.
  case outOfRange
}

package enum OptionText {
  /// `on`, `yes`, `true`, `y` and their opposites, in lower case.
  package static func boolean(_ text: String) -> Bool? {
    switch text {
    case "on", "yes", "true", "y": true
    case "off", "no", "false", "n": false
    default: nil
    }
  }

  /// An identifier: a letter, then letters, digits, `-`, `.`, `_`.
  static func isIdentifier(_ text: String) -> Bool {
    guard let first = text.utf8.first, isLetter(first) else { return false }
    return text.utf8.allSatisfy {
      isLetter($0) || isDigit($0) || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: ".")
        || $0 == UInt8(ascii: "_")
    }
  }

  /// The words that ask for help instead of naming something.
  package static func isHelp(_ text: some StringProtocol) -> Bool { text == "help" || text == "?" }

  /// An unsigned number, decimal, `0x` or `0` octal; a minus sign wraps around 2^64, as C does.
  package static func number(_ text: String) -> NumberText<UInt64> {
    guard let (negative, digits) = signAndDigits(text) else { return .malformed }
    switch magnitude(digits) {
    case .malformed: return .malformed
    case .outOfRange: return .outOfRange
    case .value(let value): return .value(negative ? 0 &- value : value)
    }
  }

  /// A signed number, decimal, `0x` or `0` octal.
  static func integer(_ text: String) -> NumberText<Int64> {
    guard let (negative, digits) = signAndDigits(text) else { return .malformed }
    switch magnitude(digits) {
    case .malformed: return .malformed
    case .outOfRange: return .outOfRange
    case .value(let value):
      if negative {
        return value <= 1 << 63 ? .value(Int64(truncatingIfNeeded: 0 &- value)) : .outOfRange
      }
      return Int64(exactly: value).map { .value($0) } ?? .outOfRange
    }
  }

  /// A size in bytes: digits, a fraction when a unit above bytes follows, one of `bkmgtpe` in either
  /// case. Hexadecimal has no fraction; its units leave out `b` and `e`, which are digits.
  ///
  /// - Parameter unit: the factor when no unit is written and the number is decimal.
  package static func size(_ text: String, defaultUnit unit: UInt64 = 1) -> NumberText<UInt64> {
    var rest = text.utf8.drop { isSpace($0) }[...]
    if rest.first == UInt8(ascii: "+") { rest = rest.dropFirst() }
    if rest.starts(with: "0x".utf8) || rest.starts(with: "0X".utf8) {
      return hexadecimalSize(rest.dropFirst(2), defaultUnit: unit)
    }
    let whole = rest.prefix { isDigit($0) }
    guard !whole.isEmpty else { return .malformed }
    rest = rest.dropFirst(whole.count)
    var fraction = whole.prefix(0)
    if rest.first == UInt8(ascii: ".") {
      rest = rest.dropFirst()
      fraction = rest.prefix { isDigit($0) }
      rest = rest.dropFirst(fraction.count)
    }
    guard let factor = unitFactor(rest, default: unit) else { return .malformed }
    var value: UInt64 = 0
    for digit in whole {
      let (product, overflow) = value.multipliedReportingOverflow(by: 10)
      let (sum, carry) = product.addingReportingOverflow(UInt64(digit - UInt8(ascii: "0")))
      if overflow || carry { return .outOfRange }
      value = sum
    }
    if factor == 1, fraction.contains(where: { $0 != UInt8(ascii: "0") }) { return .malformed }
    let (scaled, overflow) = value.multipliedReportingOverflow(by: factor)
    let (total, carry) = scaled.addingReportingOverflow(part(fraction, of: factor))
    return overflow || carry ? .outOfRange : .value(total)
  }

  /// `0.DIGITS * factor`, rounded down. 18 digits decide every bit that a factor up to 2^60 leaves.
  private static func part(_ digits: some Sequence<UInt8>, of factor: UInt64) -> UInt64 {
    var numerator: UInt64 = 0
    var denominator: UInt64 = 1
    for digit in digits.prefix(18) {
      numerator = numerator * 10 + UInt64(digit - UInt8(ascii: "0"))
      denominator *= 10
    }
    let product = numerator.multipliedFullWidth(by: factor)
    return denominator.dividingFullWidth(product).quotient
  }

  private static func hexadecimalSize(
    _ text: Substring.UTF8View.SubSequence, defaultUnit unit: UInt64
  ) -> NumberText<UInt64> {
    let digits = text.prefix { isHexDigit($0) }
    guard !digits.isEmpty, let factor = unitFactor(text.dropFirst(digits.count), default: unit)
    else { return .malformed }
    guard let value = UInt64(Substring(digits), radix: 16) else { return .outOfRange }
    let (scaled, overflow) = value.multipliedReportingOverflow(by: factor)
    return overflow ? .outOfRange : .value(scaled)
  }

  /// The factor that a unit stands for; nil when it is none.
  private static func unitFactor(
    _ text: Substring.UTF8View.SubSequence, default unit: UInt64
  ) -> UInt64? {
    guard let letter = text.first else { return unit }
    guard text.count == 1 else { return nil }
    switch letter | 0x20 {
    case UInt8(ascii: "b"): return 1
    case UInt8(ascii: "k"): return 1 << 10
    case UInt8(ascii: "m"): return 1 << 20
    case UInt8(ascii: "g"): return 1 << 30
    case UInt8(ascii: "t"): return 1 << 40
    case UInt8(ascii: "p"): return 1 << 50
    case UInt8(ascii: "e"): return 1 << 60
    default: return nil
    }
  }

  private static func signAndDigits(_ text: String) -> (negative: Bool, digits: Substring)? {
    var rest = text.utf8.drop { isSpace($0) }[...]
    var negative = false
    if let first = rest.first, first == UInt8(ascii: "-") || first == UInt8(ascii: "+") {
      negative = first == UInt8(ascii: "-")
      rest = rest.dropFirst()
    }
    guard let first = rest.first, isDigit(first) else { return nil }
    return (negative, Substring(rest))
  }

  private static func magnitude(_ text: Substring) -> NumberText<UInt64> {
    var digits = text
    var radix = 10
    if digits.hasPrefix("0x") || digits.hasPrefix("0X") {
      digits = digits.dropFirst(2)
      radix = 16
    } else if digits.utf8.count > 1, digits.hasPrefix("0") {
      digits = digits.dropFirst()
      radix = 8
    }
    guard !digits.isEmpty, digits.utf8.allSatisfy({ isHexDigit($0) }) else { return .malformed }
    if let value = UInt64(digits, radix: radix) { return .value(value) }
    let highest = digits.utf8.allSatisfy {
      radix == 16 || (isDigit($0) && Int($0 - UInt8(ascii: "0")) < radix)
    }
    return highest ? .outOfRange : .malformed
  }

  private static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (9...13).contains(byte) }
  private static func isDigit(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
  }
  private static func isLetter(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
  }
  private static func isHexDigit(_ byte: UInt8) -> Bool {
    isDigit(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte | 0x20)
  }
}
