import DeviceModel
import Host
import JSON
import QAPI

/// A property that may be written and read, but counts only when the object is made: as in QEMU, whose objects load once.
@MainLoop
struct StoredProperty {
  let name: String
  let type: String
  var value: JSONValue
  let check: (JSONValue) throws(QAPIError) -> JSONValue

  private init<Value: QAPIType>(_ name: String, _ type: String, _ value: Value) {
    self.name = name
    self.type = type
    self.value = value.encoded
    check = { (json) throws(QAPIError) in
      try Value(decoding: json, at: .member(.json, name)).encoded
    }
  }

  static func text(_ name: String, _ value: String?) -> StoredProperty {
    StoredProperty(name, "string", value ?? "")
  }

  static func flag(_ name: String, _ value: Bool?) -> StoredProperty {
    StoredProperty(name, "bool", value ?? true)
  }

  static func choice<Value: QAPIType>(
    _ name: String, _ type: String, _ value: Value
  ) -> StoredProperty { StoredProperty(name, type, value) }
}

/// The stored properties of an object.
@MainLoop
final class StoredProperties {
  private var list: [StoredProperty]

  init(_ list: [StoredProperty]) { self.list = list }

  /// As the object tree wants them.
  var properties: [ObjectProperty] {
    list.indices.map { index in
      ObjectProperty(
        list[index].name, list[index].type, get: { [self] in list[index].value },
        set: { [self] (value) throws(QAPIError) in
          list[index].value = try list[index].check(value)
        })
    }
  }
}
