package import DeviceModel
package import Host
import JSON
package import QAPI

/// An object that holds TLS credentials: `tls-creds-x509`, `tls-creds-psk`, `tls-creds-anon`.
@MainLoop
package final class CredentialsObject: UserObject {
  private enum Kind {
    case x509(TlsCredsX509Properties)
    case psk(TlsCredsPskProperties)
    case anonymous(TlsCredsAnonProperties)
  }
  private let kind: Kind
  /// The credentials, once it is complete.
  package private(set) var credentials: TLSCredentials?

  /// Throws when `loaded` is given, as QEMU does.
  package init(_ properties: TlsCredsX509Properties) throws(QAPIError) {
    kind = .x509(properties)
    try refuseLoaded(properties.loaded, typeName)
  }

  /// Throws when `loaded` is given, as QEMU does.
  package init(_ properties: TlsCredsPskProperties) throws(QAPIError) {
    kind = .psk(properties)
    try refuseLoaded(properties.loaded, typeName)
  }

  /// Throws when `loaded` is given, as QEMU does.
  package init(_ properties: TlsCredsAnonProperties) throws(QAPIError) {
    kind = .anonymous(properties)
    try refuseLoaded(properties.loaded, typeName)
  }

  package var typeName: String {
    switch kind {
    case .x509: "tls-creds-x509"
    case .psk: "tls-creds-psk"
    case .anonymous: "tls-creds-anon"
    }
  }

  package func complete(in registry: ObjectRegistry) throws(QAPIError) {
    credentials =
      switch kind {
      case .x509(let own):
        try Credentials.make(own, secrets: SecretObject.lookup(in: registry))
      case .psk(let own): try Credentials.make(own)
      case .anonymous(let own): try Credentials.make(own)
      }
  }

  /// The credentials of an id, for `tls-creds=ID`. Throws `QAPIError` with QEMU's sentences.
  package static func named(
    _ id: String, in registry: ObjectRegistry
  ) throws(QAPIError) -> TLSCredentials {
    guard let object = registry[id] else {
      throw QAPIError("No TLS credentials with id '\(id)'")
    }
    guard let credentials = (object as? CredentialsObject)?.credentials else {
      throw QAPIError("Object with id '\(id)' is not TLS credentials")
    }
    return credentials
  }

  /// The credentials of an id for both ends of connections, whichever it was made for: the peer is verified, `priority` holds unless the object
  /// says another, and keys are those of `user`. Throws `QAPIError` when there are none of that id, or one end's are missing.
  package static func bothEnds(
    _ id: String, in registry: ObjectRegistry, user: String, priority: String
  ) throws(QAPIError) -> (server: TLSCredentials, client: TLSCredentials) {
    _ = try named(id, in: registry)
    switch (registry[id] as? CredentialsObject)?.kind {
    case .x509(let own):
      func end(_ endpoint: QCryptoTLSCredsEndpoint) throws(QAPIError) -> TLSCredentials {
        var properties = own
        properties.endpoint = endpoint
        properties.verifyPeer = true
        properties.priority = own.priority ?? priority
        return try Credentials.make(properties, secrets: SecretObject.lookup(in: registry))
      }
      return (try end(.server), try end(.client))
    case .psk(let own):
      func end(_ endpoint: QCryptoTLSCredsEndpoint) throws(QAPIError) -> TLSCredentials {
        var properties = own
        properties.endpoint = endpoint
        properties.username = endpoint == .client ? user : nil
        properties.priority = own.priority ?? priority
        return try Credentials.make(properties)
      }
      return (try end(.server), try end(.client))
    case .anonymous, nil:
      throw QAPIError(
        "Object with id '\(id)' proves nothing: nodes need tls-creds-x509 or tls-creds-psk")
    }
  }

  private lazy var stored: StoredProperties = {
    @MainLoop func list(
      _ endpoint: QCryptoTLSCredsEndpoint?, _ folder: String?, _ verifies: Bool?,
      _ priority: String?, _ more: [StoredProperty]
    ) -> StoredProperties {
      StoredProperties(
        [
          .choice("endpoint", "QCryptoTLSCredsEndpoint", endpoint ?? .client),
          .text("dir", folder), .flag("verify-peer", verifies), .text("priority", priority),
        ] + more)
    }
    switch kind {
    case .x509(let own):
      return list(
        own.endpoint, own.dir, own.verifyPeer, own.priority,
        [.flag("sanity-check", own.sanityCheck), .text("passwordid", own.passwordid)])
    case .psk(let own):
      return list(
        own.endpoint, own.dir, own.verifyPeer, own.priority, [.text("username", own.username)])
    case .anonymous(let own):
      return list(own.endpoint, own.dir, own.verifyPeer, own.priority, [])
    }
  }()

  package var objectProperties: [ObjectProperty] {
    stored.properties + [.constant("loaded", "bool", .bool(true))]
  }
}
