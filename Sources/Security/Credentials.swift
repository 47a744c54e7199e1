package import Host
package import QAPI

/// TLS credentials from the API's options (QEMU's objects `tls-creds-x509`, `tls-creds-psk`, `tls-creds-anon`).
package enum Credentials {
  /// Credentials of certificates. Throws `QAPIError` with QEMU's sentences.
  package static func make(
    _ properties: TlsCredsX509Properties, secrets: Secret.Lookup
  ) throws(QAPIError) -> TLSCredentials {
    do throws(TLSError) {
      return try TLSCredentials.x509(
        folder: properties.dir, endpoint: side(properties.endpoint),
        verifiesPeer: properties.verifyPeer ?? true,
        checksSanity: properties.sanityCheck ?? true, priority: properties.priority
      ) { () throws(TLSError) in
        guard let id = properties.passwordid else { return nil }
        do throws(QAPIError) {
          return try Secret.named(id, in: secrets).text(id: id)
        } catch { throw TLSError(error.description) }
      }
    } catch { throw QAPIError(error.message) }
  }

  /// Credentials of keys that both sides know. Throws `QAPIError` with QEMU's sentences.
  package static func make(_ properties: TlsCredsPskProperties) throws(QAPIError) -> TLSCredentials
  {
    do throws(TLSError) {
      return try TLSCredentials.psk(
        folder: properties.dir, endpoint: side(properties.endpoint), user: properties.username,
        priority: properties.priority)
    } catch { throw QAPIError(error.message) }
  }

  /// Credentials without identity. Throws `QAPIError` with QEMU's sentences.
  package static func make(
    _ properties: TlsCredsAnonProperties
  ) throws(QAPIError) -> TLSCredentials {
    do throws(TLSError) {
      return try TLSCredentials.anonymous(
        folder: properties.dir, endpoint: side(properties.endpoint), priority: properties.priority)
    } catch { throw QAPIError(error.message) }
  }

  private static func side(_ endpoint: QCryptoTLSCredsEndpoint?) -> TLSCredentials.Endpoint {
    endpoint == .server ? .server : .client
  }
}
