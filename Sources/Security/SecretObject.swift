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
  private var source: Source
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

  package var objectProperties: [ObjectProperty] {
    let (iv, key, format): (String?, String?, QCryptoSecretFormat?) =
      switch source {
      case .text(let own): (own.iv, own.keyid, own.format)
      case .keyring(let own): (own.iv, own.keyid, own.format)
      }
    var list: [ObjectProperty] = [
      .constant("iv", "string", .string(iv ?? "")),
      .constant("keyid", "string", .string(key ?? "")),
      .constant("loaded", "bool", .bool(true)),
      .constant("format", "QCryptoSecretFormat", .string((format ?? .raw).rawValue)),
    ]
    switch source {
    case .text(let own):
      list.append(.constant("file", "string", .string(own.file ?? "")))
      list.append(.constant("data", "string", .string(own.data ?? "")))
    case .keyring(let own):
      list.append(.constant("serial", "int32_t", own.serial.encoded))
    }
    return list
  }
}

/// `loaded` can only be read.
func refuseLoaded(_ loaded: Bool?, _ type: String) throws(QAPIError) {
  if loaded != nil { throw QAPIError("Property '\(type).loaded' is not writable") }
}
