package import Host
package import JSON
package import QAPI

/// One property of an object, as `qom-list` shows it and `qom-get`, `qom-set` use it.
@MainLoop
package struct ObjectProperty {
  /// Reads the value. Throws what the client is to read.
  package typealias Getter = @MainLoop () throws(QAPIError) -> JSONValue
  /// Writes the value, whose type it checks. Throws what the client is to read.
  package typealias Setter = @MainLoop (JSONValue) throws(QAPIError) -> Void

  package let name: String
  /// QEMU's word for the type: `bool`, `str`, `string`, `uint32`, `size`, an enumeration's name, `link<TYPE>`.
  package let type: String
  /// One line; nil where there is none.
  package let summary: String?
  /// What types tell of it (`device-list-properties`).
  package let defaultValue: JSONValue?
  /// Nil: it cannot be read.
  package let get: Getter?
  /// Nil: it cannot be written.
  package let set: Setter?
  /// Whether the value is the path of another object, through which paths may go on.
  package let isLink: Bool

  /// A property of any kind.
  package init(
    _ name: String, _ type: String, summary: String? = nil, default value: JSONValue? = nil,
    isLink: Bool = false, get: Getter? = nil, set: Setter? = nil
  ) {
    self.name = name
    self.type = type
    self.summary = summary
    defaultValue = value
    self.isLink = isLink
    self.get = get
    self.set = set
  }

  /// A value that never changes.
  package static func constant(
    _ name: String, _ type: String, _ value: JSONValue, set: Setter? = nil
  ) -> ObjectProperty {
    ObjectProperty(name, type, get: { value }, set: set)
  }

  /// A link to the object at `path`, or to none.
  package static func link(
    _ name: String, to type: String, _ path: @escaping @MainLoop () -> String?, set: Setter? = nil
  ) -> ObjectProperty {
    ObjectProperty(
      name, "link<\(type)>", isLink: true, get: { .string(path() ?? "") }, set: set)
  }

  /// A value of a type of the API, with the check of its type by name.
  package static func value<Value: QAPIType>(
    _ name: String, _ type: String, get: @escaping @MainLoop () throws(QAPIError) -> Value,
    set: (@MainLoop (Value) throws(QAPIError) -> Void)? = nil
  ) -> ObjectProperty {
    var setter: Setter?
    if let set {
      setter = { (json) throws(QAPIError) in
        try set(try Value(decoding: json, at: .member(.json, name)))
      }
    }
    return ObjectProperty(
      name, type, get: { () throws(QAPIError) in try get().encoded }, set: setter)
  }
}
