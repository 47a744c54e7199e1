package import JSON

/// Reads the members of one JSON object, each once, and complains about those that nobody read.
package struct ObjectDecoder {
  private let object: JSONObject
  private let place: Place
  private var isRead: [Bool]

  /// A decoder of `value`, which must be an object.
  package init(_ value: JSONValue, at place: Place) throws(QAPIError) {
    guard case .object(let object) = value else {
      throw .wrongType(place.path, expected: "object")
    }
    self.init(object, at: place)
  }

  /// A decoder of an object.
  package init(_ object: JSONObject, at place: Place = .json) {
    self.object = object
    self.place = place
    isRead = [Bool](repeating: false, count: object.count)
  }

  /// The member `name`; throws when it is absent.
  package mutating func required<Value: QAPIType>(_ name: String) throws(QAPIError) -> Value {
    guard let value: Value = try optional(name) else {
      throw .missing(Place.member(place, name).path)
    }
    return value
  }

  /// The member `name`, or nil when it is absent.
  package mutating func optional<Value: QAPIType>(_ name: String) throws(QAPIError) -> Value? {
    guard let position = object.position(of: name) else { return nil }
    isRead[position] = true
    return try Value(decoding: object.member(at: position).value, at: .member(place, name))
  }

  /// Ends the object: throws when a member was not read.
  package func finish() throws(QAPIError) {
    if let position = isRead.firstIndex(of: false) {
      throw .unexpected(Place.member(place, object.member(at: position).name).path)
    }
  }
}
