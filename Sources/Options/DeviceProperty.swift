// Properties of `-device`.

package import JSON

/// One property and its value as written.
package struct DeviceProperty: Sendable, Equatable {
  /// How the value was written.
  package enum Value: Sendable, Equatable {
    /// `name=text`: the property's type decides how the text is read.
    case text(String)
    /// A member of the JSON form: already typed.
    case json(JSONValue)
  }
  package var name: String
  package var value: Value

  package init(name: String, value: Value) {
    self.name = name
    self.value = value
  }
}
