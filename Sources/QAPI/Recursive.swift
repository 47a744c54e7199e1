package import JSON

/// A member of the type that it is a member of.
package indirect enum Recursive<Value: QAPIType & Equatable>: QAPIType, Equatable {
  case value(Value)

  /// Reads the value.
  package init(decoding value: JSONValue, at place: Place) throws(QAPIError) {
    self = .value(try Value(decoding: value, at: place))
  }

  /// The JSON form.
  package var encoded: JSONValue {
    switch self {
    case .value(let value): value.encoded
    }
  }
}
