package import DeviceModel
package import Host
import JSON
package import QAPI

/// An object that holds a secret: `secret`, `secret_keyring`. The secret is loaded once; properties that are set later change nothing.
@MainLoop
package final class SecretObject: UserObject {
  private enum Source {
    case text(SecretProperties)
    case keyring(SecretKeyringProperties)
  }
  private let source: Source
  /// What it holds, once it is complete.
  package private(set) var secret: Secret?

  /// Throws when `loaded` is given, as QEMU does.
  package init(_ properties: SecretProperties) throws(QAPIError) {
    try refuseLoaded(properties.loaded, "secret")
    source = .text(properties)
  }

  /// Throws when `loaded` is given, as QEMU does.
  package init(_ properties: SecretKeyringProperties) throws(QAPIError) {
    try refuseLoaded(properties.loaded, "secret_keyring")
    source = .keyring(properties)
  }

  package var typeName: String {
    if case .text = source { "secret" } else { "secret_keyring" }
  }

  package func complete(in registry: ObjectRegistry) throws(QAPIError) {
    let secrets = SecretObject.lookup(in: registry)
    secret =
      switch source {
      case .text(let properties): try Secret(properties, secrets: secrets)
      case .keyring(let properties): try Secret(properties, secrets: secrets)
      }
  }

  /// Looks secrets up among the objects.
  package static func lookup(in registry: ObjectRegistry) -> Secret.Lookup {
    { id in MainLoop.assumeIsolated { registry.find(id, SecretObject.self)?.secret } }
  }

  private lazy var stored: (before: StoredProperties, after: StoredProperties) = {
    @MainLoop func common(_ iv: String?, _ key: String?) -> [StoredProperty] {
      [.text("iv", iv), .text("keyid", key)]
    }
    @MainLoop func format(_ format: QCryptoSecretFormat?) -> StoredProperty {
      .choice("format", "QCryptoSecretFormat", format ?? .raw)
    }
    switch source {
    case .text(let own):
      return (
        StoredProperties(common(own.iv, own.keyid)),
        StoredProperties([format(own.format), .text("file", own.file), .text("data", own.data)])
      )
    case .keyring(let own):
      return (
        StoredProperties(common(own.iv, own.keyid)),
        StoredProperties([format(own.format), .choice("serial", "int32_t", own.serial)])
      )
    }
  }()

  package var objectProperties: [ObjectProperty] {
    stored.before.properties + [.constant("loaded", "bool", .bool(true))] + stored.after.properties
  }
}

/// `loaded` can only be read.
func refuseLoaded(_ loaded: Bool?, _ type: String) throws(QAPIError) {
  if loaded != nil { throw QAPIError("Property '\(type).loaded' is not writable") }
}
