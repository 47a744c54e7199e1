package import DeviceModel
package import Host
import JSON
package import QAPI

/// An object that decides who is let in.
@MainLoop
package protocol AuthorizationObject: UserObject {
  /// Whether the bearer of `name` may enter. Throws `QAPIError` when that cannot be told; then it may not.
  func allows(_ name: String) throws(QAPIError) -> Bool
}

/// Asks the authorisation object of an id (`tls-authz=ID`).
@MainLoop
package enum AuthorizationObjects {
  /// Throws `QAPIError` when there is no such object, or it cannot tell.
  package static func allows(
    _ name: String, by id: String, in registry: ObjectRegistry
  ) throws(QAPIError) -> Bool {
    guard let object = registry[id] else { throw QAPIError("Cannot find QAuthZ object ID \(id)") }
    guard let list = object as? any AuthorizationObject else {
      throw QAPIError("Object '\(id)' is not a QAuthZ subclass")
    }
    return try list.allows(name)
  }
}

/// `authz-simple`.
@MainLoop
package final class NameObject: AuthorizationObject {
  package let typeName = "authz-simple"
  private var model: AuthorizationName

  package init(_ properties: AuthZSimpleProperties) { model = AuthorizationName(properties) }

  package func allows(_ name: String) -> Bool { model.allows(name) }

  package var objectProperties: [ObjectProperty] {
    [
      .value("identity", "string", get: { [unowned self] () -> String in model.identity }) {
        [unowned self] (value: String) in model.identity = value
      }
    ]
  }
}

/// `authz-list`. Its rules may be changed while it is in use.
@MainLoop
package final class ListObject: AuthorizationObject {
  package let typeName = "authz-list"
  private var model: AuthorizationList

  package init(_ properties: AuthZListProperties) { model = AuthorizationList(properties) }

  package func allows(_ name: String) -> Bool { model.allows(name) }

  package var objectProperties: [ObjectProperty] {
    [
      .value(
        "policy", "QAuthZListPolicy", get: { [unowned self] () -> QAuthZListPolicy in model.policy }
      ) { [unowned self] (value: QAuthZListPolicy) in model.policy = value },
      .value(
        "rules", "QAuthZListRule", get: { [unowned self] () -> [QAuthZListRule] in model.rules }
      ) { [unowned self] (value: [QAuthZListRule]) in model.rules = value },
    ]
  }
}

/// `authz-list-file`.
@MainLoop
package final class ListFileObject: AuthorizationObject {
  package let typeName = "authz-list-file"
  private let properties: AuthZListFileProperties
  private var model: AuthorizationFile?

  package init(_ properties: AuthZListFileProperties) { self.properties = properties }

  package func complete(in registry: ObjectRegistry) throws(QAPIError) {
    model = try AuthorizationFile(properties)
  }

  package func allows(_ name: String) throws(QAPIError) -> Bool {
    try model?.allows(name) ?? false
  }

  package var objectProperties: [ObjectProperty] {
    [
      .constant("filename", "string", .string(properties.filename)),
      .constant("refresh", "bool", .bool(properties.refresh ?? true)),
    ]
  }
}
