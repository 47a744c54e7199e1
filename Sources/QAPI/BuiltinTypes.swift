package import JSON

extension String: QAPIType {
  package init(decoding value: JSONValue, at place: Place) throws(QAPIError) {
    guard case .string(let text) = value else {
      throw .wrongType(place.path, expected: "string")
    }
    self = text
  }

  package var encoded: JSONValue { .string(self) }

  package func print(into printer: inout JSONPrinter) { printer.print(self) }
}

extension Bool: QAPIType {
  package init(decoding value: JSONValue, at place: Place) throws(QAPIError) {
    if case .bool(let flag) = value {
      self = flag
    } else if place.isKeyValue, case .string(let text) = value {
      switch text {
      case "on", "yes", "true", "y": self = true
      case "off", "no", "false", "n": self = false
      default: throw .expects(place.path, "'on' or 'off'")
      }
    } else {
      throw .wrongType(place.path, expected: "boolean")
    }
  }

  package var encoded: JSONValue { .bool(self) }

  package func print(into printer: inout JSONPrinter) { printer.print(self) }
}

extension Double: QAPIType {
  package init(decoding value: JSONValue, at place: Place) throws(QAPIError) {
    switch value {
    case .double(let number): self = number
    case .int(let number): self = Double(number)
    case .uint(let number): self = Double(number)
    case .string(let text) where place.isKeyValue:
      guard let number = Double(text), number.isFinite else {
        throw .wrongType(place.path, expected: "number")
      }
      self = number
    default: throw .wrongType(place.path, expected: "number")
    }
  }

  package var encoded: JSONValue { .double(self) }
}

/// The integers of the schemas: `int` and `int64` are `Int`, `size` is `UInt64`.
package protocol QAPIInteger: QAPIType, FixedWidthInteger {}

extension QAPIInteger {
  package init(decoding value: JSONValue, at place: Place) throws(QAPIError) {
    let isUnsigned64 = !Self.isSigned && Self.bitWidth == 64
    switch value {
    case .int(let number):
      // A negative number for a 64-bit unsigned one wraps, as QEMU has always allowed.
      if isUnsigned64 {
        self = Self(truncatingIfNeeded: number)
      } else if let fitting = Self(exactly: number) {
        self = fitting
      } else {
        throw Self.outOfRange(place)
      }
    case .uint(let number) where !Self.isSigned:
      guard let fitting = Self(exactly: number) else { throw Self.outOfRange(place) }
      self = fitting
    case .string(let text) where place.isKeyValue:
      guard let number = Self.parse(text) ?? (isUnsigned64 ? Self.parseSize(text) : nil) else {
        throw .wrongType(place.path, expected: "integer")
      }
      self = number
    default:
      if !Self.isSigned { throw .expects(place.path, "uint64") }
      throw .wrongType(place.path, expected: "integer")
    }
  }

  package var encoded: JSONValue {
    if let small = Int64(exactly: self) { return .int(small) }
    return .uint(UInt64(truncatingIfNeeded: self))
  }

  package func print(into printer: inout JSONPrinter) { printer.print(self) }

  /// QEMU's sentence names the C type and not the whole path.
  private static func outOfRange(_ place: Place) -> QAPIError {
    if Self.bitWidth == 64 { return .wrongType(place.path, expected: "integer") }
    return .expects(place.name, "\(Self.isSigned ? "" : "u")int\(Self.bitWidth)_t")
  }

  /// A number as C's strtol reads it with base 0: decimal, `0x` or leading 0 for octal.
  private static func parse(_ text: String) -> Self? {
    var digits = Substring(text)
    let isNegative = digits.hasPrefix("-")
    if isNegative || digits.hasPrefix("+") { digits.removeFirst() }
    var radix = 10
    if digits.hasPrefix("0x") || digits.hasPrefix("0X") {
      radix = 16
      digits.removeFirst(2)
    } else if digits.hasPrefix("0"), digits.count > 1 {
      radix = 8
      digits.removeFirst()
    }
    guard digits.first?.isHexDigit == true else { return nil }
    return Self((isNegative ? "-" : "") + digits, radix: radix)
  }
}

extension QAPIInteger {
  /// A size as command lines have it: a number, perhaps with a fraction, and a suffix from B (1) to E (2^60).
  private static func parseSize(_ text: String) -> Self? {
    guard let suffix = text.utf8.last, text.utf8.first.map({ 0x30...0x39 ~= $0 }) == true,
      let power = "bkmgtpe".utf8.firstIndex(of: suffix | 0x20)
    else { return nil }
    let unit =
      UInt64(1) << UInt64(10 * "bkmgtpe".utf8.distance(from: "b".utf8.startIndex, to: power))
    let digits = String(text.dropLast())
    if let whole = parse(digits) {
      let (bytes, overflow) = UInt64(whole).multipliedReportingOverflow(by: unit)
      return overflow ? nil : Self(bytes)
    }
    guard let number = Double(digits), number >= 0 else { return nil }
    return Self(exactly: (number * Double(unit)).rounded(.down))
  }
}

extension Int: QAPIInteger {}
extension Int8: QAPIInteger {}
extension Int16: QAPIInteger {}
extension Int32: QAPIInteger {}
extension UInt8: QAPIInteger {}
extension UInt16: QAPIInteger {}
extension UInt32: QAPIInteger {}
extension UInt64: QAPIInteger {}

extension Array: QAPIType where Element: QAPIType {
  package init(decoding value: JSONValue, at place: Place) throws(QAPIError) {
    if case .string(let text) = value, place.isKeyValue, Element.self is any QAPIInteger.Type {
      self = try Self.readRanges(text, at: place)
      return
    }
    guard case .array(let elements) = value else {
      throw .wrongType(place.path, expected: "array")
    }
    self = []
    reserveCapacity(elements.count)
    for index in elements.indices {
      append(try Element(decoding: elements[index], at: .element(place, index)))
    }
  }

  package var encoded: JSONValue { .array(map(\.encoded)) }

  /// Numbers as command lines have them: `0-3,5`.
  private static func readRanges(_ text: String, at place: Place) throws(QAPIError) -> Self {
    var list: [Element] = []
    for part in text.split(separator: ",", omittingEmptySubsequences: false) {
      let ends = part.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
      guard let first = Int(ends[0]), let last = Int(ends.last ?? ""), first >= 0,
        last >= first, last - first < 65536
      else { throw .expects(place.path, "a uint64 value or range") }
      for number in first...last {
        list.append(try Element(decoding: .int(Int64(number)), at: .element(place, list.count)))
      }
    }
    return list
  }

  package func print(into printer: inout JSONPrinter) {
    printer.beginArray()
    for index in indices {
      printer.element()
      self[index].print(into: &printer)
    }
    printer.endArray()
  }
}

extension JSONValue: QAPIType {
  package init(decoding value: JSONValue, at place: Place) { self = value }

  package var encoded: JSONValue { self }
}
