/// One JSON value as QMP knows it (RFC 8259; integers and real numbers stay apart as on QEMU's wire).
package enum JSONValue: Equatable, Sendable {
  /// `null`.
  case null
  /// `true` or `false`.
  case bool(Bool)
  /// An integer from -2^63 to 2^63-1.
  case int(Int64)
  /// An integer above `Int64.max`; smaller ones are always `int`. Build with `JSONValue.init(_: UInt64)`.
  case uint(UInt64)
  /// A number that was written with a fraction or an exponent, or does not fit 64 bits.
  case double(Double)
  /// A string; may contain U+0000.
  case string(String)
  /// A list.
  case array([JSONValue])
  /// An object; members keep the order in which they were set.
  case object(JSONObject)
}

extension JSONValue {
  /// The canonical value of an unsigned integer: `int` where it fits, else `uint`.
  package init(_ value: UInt64) {
    if let small = Int64(exactly: value) { self = .int(small) } else { self = .uint(value) }
  }

  /// The canonical value of an integer of the platform's width.
  package init(_ value: Int) { self = .int(Int64(value)) }

  /// The member `name`, or nil when this is no object or has no such member.
  package subscript(name: String) -> JSONValue? {
    if case .object(let object) = self { return object[name] }
    return nil
  }

  /// The element at `index`, or nil when this is no array or is shorter.
  package subscript(index: Int) -> JSONValue? {
    if case .array(let elements) = self, elements.indices.contains(index) { return elements[index] }
    return nil
  }

  /// The text when this is a string.
  package var stringValue: String? {
    if case .string(let text) = self { return text }
    return nil
  }

  /// The number when this is an integer that fits `Int`.
  package var intValue: Int? {
    if case .int(let number) = self { return Int(exactly: number) }
    return nil
  }

  /// The truth value when this is a Boolean.
  package var boolValue: Bool? {
    if case .bool(let value) = self { return value }
    return nil
  }

  /// The members when this is an object.
  package var objectValue: JSONObject? {
    if case .object(let object) = self { return object }
    return nil
  }

  /// The elements when this is an array.
  package var arrayValue: [JSONValue]? {
    if case .array(let elements) = self { return elements }
    return nil
  }
}

// Not by nil: an optional value's `nil` would silently become `null`.
extension JSONValue: ExpressibleByBooleanLiteral, ExpressibleByIntegerLiteral,
  ExpressibleByFloatLiteral, ExpressibleByStringLiteral, ExpressibleByArrayLiteral,
  ExpressibleByDictionaryLiteral
{
  package init(booleanLiteral value: Bool) { self = .bool(value) }
  package init(integerLiteral value: Int64) { self = .int(value) }
  package init(floatLiteral value: Double) { self = .double(value) }
  package init(stringLiteral value: String) { self = .string(value) }
  package init(arrayLiteral elements: JSONValue...) { self = .array(elements) }
  package init(dictionaryLiteral elements: (String, JSONValue)...) {
    self = .object(JSONObject(elements))
  }
}
