/// Sizes as people write and read them.
package enum Sizes {
  package enum Failure: Error { case malformed, outOfRange }

  /// A number of bytes: decimal digits, perhaps with a fraction, and a suffix (`b`, `k`, `M`, `G`, `T`, `P`, `E`; powers of 1,024), or `0x` and
  /// hexadecimal digits.
  package static func parse(_ text: String) throws(Failure) -> UInt64 {
    let bytes = Array(text.utf8)
    if bytes.count > 2, bytes[0] == UInt8(ascii: "0"), bytes[1] | 0x20 == UInt8(ascii: "x") {
      let digits = String(decoding: bytes[2...], as: UTF8.self)
      guard digits.utf8.allSatisfy(isHexDigit) else { throw .malformed }
      guard let value = UInt64(digits, radix: 16) else { throw .outOfRange }
      return value
    }
    var index = bytes.firstIndex { !isDigit($0) } ?? bytes.count
    guard index > 0 else { throw .malformed }
    let whole = UInt64(String(decoding: bytes[..<index], as: UTF8.self))
    var fraction = 0.0
    if index < bytes.count, bytes[index] == UInt8(ascii: ".") {
      index += 1
      var scale = 0.1
      while index < bytes.count, isDigit(bytes[index]) {
        fraction += Double(bytes[index] - UInt8(ascii: "0")) * scale
        scale /= 10
        index += 1
      }
    }
    var shift = 0
    if index < bytes.count {
      guard let known = suffixes.firstIndex(of: bytes[index] & ~0x20), index + 1 == bytes.count
      else { throw .malformed }
      shift = known * 10
    }
    if fraction != 0, shift == 0 { throw .malformed }
    guard let whole, whole <= UInt64.max >> UInt64(shift) else { throw .outOfRange }
    let part = UInt64(fraction * Double(UInt64(1) << UInt64(shift)) + 0.5)
    let (sum, overflow) = (whole << UInt64(shift)).addingReportingOverflow(part)
    if overflow { throw .outOfRange }
    return sum
  }

  /// A value of the command line within limits, with the tool's sentences: `what` names it.
  package static func parse(
    _ text: String, _ what: String, _ range: ClosedRange<UInt64> = 0...UInt64(Int64.max)
  ) throws(ToolError) -> UInt64 {
    do throws(Failure) {
      let value = try parse(text)
      if range.contains(value) { return value }
    } catch {
      if error == .malformed {
        throw ToolError(lines: [
          "Invalid \(what) specified. You may use k, M, G, T, P or E suffixes for",
          "kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.",
        ])
      }
    }
    if range.upperBound == UInt64(Int64.max), range.lowerBound > 0 {
      throw ToolError("Invalid \(what) specified. Must be at least \(range.lowerBound).")
    }
    throw ToolError(
      "Invalid \(what) specified. Must be between \(range.lowerBound) and \(range.upperBound).")
  }

  /// A size for people: three significant digits and a unit, such as `1.27 MiB`.
  package static func text(_ bytes: UInt64) -> String {
    // A unit goes up to 1000, not to 1024, of the one below.
    var unit = 0
    while unit < 6, Double(bytes) >= 1000 * Double(UInt64(1) << UInt64(unit * 10)) { unit += 1 }
    return significant(bytes, UInt64(1) << UInt64(unit * 10)) + " " + units[unit]
  }

  /// `numerator / divisor` with two decimals, as `%.2f`.
  package static func hundredths(_ numerator: UInt64, _ divisor: UInt64) -> String {
    fixed(Double(numerator) * 100 / Double(max(divisor, 1)), 2)
  }

  /// A number with a fixed count of decimals, rounded as C's library does.
  package static func fixed(_ value: Double, _ decimals: Int) -> String {
    var scale = 1.0
    for _ in 0..<decimals { scale *= 10 }
    // The product rounds; the remainder of the exact product decides the tie.
    let product = value * scale
    var rounded = product.rounded(.toNearestOrEven)
    let error = (-product).addingProduct(value, scale)
    if abs(product - product.rounded(.down) - 0.5) == 0, error != 0 {
      rounded = error > 0 ? product.rounded(.up) : product.rounded(.down)
    }
    guard rounded.magnitude < 9e15 else { return String(value) }
    let number = UInt64(rounded.magnitude)
    let sign = rounded < 0 ? "-" : ""
    if decimals == 0 { return sign + String(number) }
    let digits = String(number)
    let padded = String(repeating: "0", count: max(0, decimals + 1 - digits.utf8.count)) + digits
    return sign + padded.dropLast(decimals) + "." + padded.suffix(decimals)
  }

  // MARK: -

  private static let suffixes = Array("BKMGTPE".utf8)
  private static let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]

  private static func isDigit(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
  }

  private static func isHexDigit(_ byte: UInt8) -> Bool {
    isDigit(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte | 0x20)
  }

  /// `%0.3g` of a quotient.
  private static func significant(_ bytes: UInt64, _ divisor: UInt64) -> String {
    if divisor == 1 { return String(bytes) }
    let value = Double(bytes) / Double(divisor)
    let decimals = value < 0.9995 ? 3 : value < 9.995 ? 2 : value < 99.95 ? 1 : 0
    if value >= 999.5 { return "1e+03" }
    var text = fixed(value, decimals)
    if decimals > 0 {
      while text.hasSuffix("0") { text.removeLast() }
      if text.hasSuffix(".") { text.removeLast() }
    }
    return text
  }
}
