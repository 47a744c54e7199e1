package import JSON

/// A type of the API that has a JSON form: the built-in ones here, all others generated from `schemas/`.
package protocol QAPIType: Sendable {
  /// Reads the value at `place`. Throws with QEMU's sentence when it has another type or value.
  init(decoding value: JSONValue, at place: Place) throws(QAPIError)
  /// The JSON form.
  var encoded: JSONValue { get }
  /// Appends the JSON form's text, as `printer.print(encoded)` would.
  func print(into printer: inout JSONPrinter)
}

extension QAPIType {
  package func print(into printer: inout JSONPrinter) { printer.print(encoded) }
}

/// Where in a command's arguments a value stands, for error texts, and in which form values are
/// written. It costs nothing until an error names it.
package indirect enum Place: Sendable {
  /// The arguments themselves, as JSON.
  case json
  /// The arguments themselves, from a command line's `key=value` list: all scalars are strings.
  case keyValue
  /// A member of an object.
  case member(Place, String)
  /// An element of an array.
  case element(Place, Int)

  /// The full name, as in `backend.data.addr` or `enable[0]`.
  package var path: String {
    switch self {
    case .json, .keyValue: ""
    case .member(.json, let name), .member(.keyValue, let name): name
    case .member(let outer, let name): "\(outer.path).\(name)"
    case .element(let outer, let index): "\(outer.path)[\(index)]"
    }
  }

  /// The last name only, which is all that QEMU says about a bad value; `null` for an element.
  package var name: String {
    if case .member(_, let name) = self { return name }
    return "null"
  }

  /// Whether scalars come as the strings of a command line.
  package var isKeyValue: Bool {
    switch self {
    case .json: false
    case .keyValue: true
    case .member(let outer, _), .element(let outer, _): outer.isKeyValue
    }
  }
}

/// A type whose JSON form is an object: structs and unions of the schemas.
package protocol QAPIObject: QAPIType {
  /// Reads this type's members, leaving others for whoever reads the same object next.
  init(members decoder: inout ObjectDecoder) throws(QAPIError)
  /// Adds this type's members.
  func encode(into object: inout JSONObject)
}

extension QAPIObject {
  package init(decoding value: JSONValue, at place: Place) throws(QAPIError) {
    var decoder = try ObjectDecoder(value, at: place)
    try self.init(members: &decoder)
    try decoder.finish()
  }

  /// Reads a value that must be exactly such an object, as the arguments of a command are.
  package init(decoding value: JSONValue) throws(QAPIError) {
    try self.init(decoding: value, at: .json)
  }

  package var encoded: JSONValue {
    var object = JSONObject()
    encode(into: &object)
    return .object(object)
  }
}

/// An enumeration of the schemas; the raw value is the name on the wire.
package protocol QAPIEnum: QAPIType, RawRepresentable, CaseIterable, Hashable
where RawValue == String {}

extension QAPIEnum {
  package init(decoding value: JSONValue, at place: Place) throws(QAPIError) {
    guard case .string(let text) = value else {
      throw .wrongType(place.path, expected: "string")
    }
    guard let known = Self(rawValue: text) else { throw .badValue(place.name, text) }
    self = known
  }

  package var encoded: JSONValue { .string(rawValue) }

  package func print(into printer: inout JSONPrinter) { printer.print(rawValue) }
}
