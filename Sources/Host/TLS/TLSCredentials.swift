internal import CGnuTLS
import Glibc

/// What one side of TLS connections identifies itself with, and what it trusts. Made once, used by any number of sessions.
///
/// Loads GnuTLS at the first use. Files are read when the credentials are made; a PSK server's file at every handshake.
@safe
package final class TLSCredentials: @unchecked Sendable {
  /// How peers are authenticated.
  package enum Kind: Sendable, Equatable {
    /// Certificates of authorities, servers and clients (RFC 5280).
    case x509
    /// Keys that both sides know (RFC 4279).
    case psk
    /// Not at all.
    case anonymous
  }
  /// The side of a connection.
  package enum Endpoint: String, Sendable, Equatable { case client, server }

  package let kind: Kind
  package let endpoint: Endpoint
  /// Whether the peer must have a certificate that the authorities vouch for.
  package let verifiesPeer: Bool
  /// The library's priority string: protocol versions, ciphers.
  let priority: String
  // SAFETY: made by the library, freed in deinit; sessions keep this object alive. Nothing changes it once it is made, and the library
  // allows sessions of several threads to share it then.
  let handle: OpaquePointer

  /// Whether the TLS library is installed on this host. Loads it.
  package static var isAvailable: Bool { goliath_tls_is_available() != 0 }

  /// Certificates in a folder: `ca-cert.pem`; `server-cert.pem` and `server-key.pem`, or for a client, if there, `client-cert.pem` and
  /// `client-key.pem`; for a server, if there, `ca-crl.pem` and `dh-params.pem`.
  ///
  /// - Parameter priority: nil for the library's usual choice.
  /// - Parameter checksSanity: look for certificates that peers would refuse.
  /// - Parameter password: opens an encrypted key; asked once it is needed.
  ///
  /// Throws `TLSError` with QEMU's sentences.
  package static func x509(
    folder: String?, endpoint: Endpoint, verifiesPeer: Bool = true, checksSanity: Bool = true,
    priority: String? = nil, password: () throws(TLSError) -> String? = { nil }
  ) throws(TLSError) -> TLSCredentials {
    let made = try TLSCredentials(.x509, endpoint, verifiesPeer, priority ?? "NORMAL")
    let folder = try required(folder)
    let isServer = endpoint == .server
    let authorities = try file(folder, "ca-cert.pem", isNeeded: true)
    let revoked = isServer ? try file(folder, "ca-crl.pem", isNeeded: false) : nil
    let own = isServer ? "server" : "client"
    let certificate = try file(folder, "\(own)-cert.pem", isNeeded: isServer)
    let key = try file(folder, "\(own)-key.pem", isNeeded: isServer)
    let parameters = isServer ? try file(folder, "dh-params.pem", isNeeded: false) : nil
    if checksSanity {
      let check = CertificateCheck(isServer: isServer)
      try check.run(certificate: certificate, authorities: authorities)
    }
    if let authorities {
      // SAFETY: here and below, strings live through the calls.
      let result = unsafe goliath_tls_credentials_trust(made.handle, authorities)
      if result < 0 { throw TLSError("Cannot load CA certificate '\(authorities)'", result) }
    }
    if let certificate, let key {
      let password = try password()
      let result = unsafe goliath_tls_credentials_key(made.handle, certificate, key, password)
      if result < 0 {
        throw TLSError("Cannot load certificate '\(certificate)' & key '\(key)'", result)
      }
    }
    if let revoked {
      let result = unsafe goliath_tls_credentials_revoked(made.handle, revoked)
      if result < 0 { throw TLSError("Cannot load CRL '\(revoked)'", result) }
    }
    try made.setParameters(parameters)
    return made
  }

  /// Keys in a folder's `keys.psk`, lines of `user:digits`. A client uses that of `user` (nil: `qemu`).
  ///
  /// Throws `TLSError` with QEMU's sentences.
  package static func psk(
    folder: String?, endpoint: Endpoint, user: String? = nil, priority: String? = nil
  ) throws(TLSError) -> TLSCredentials {
    let kinds = ":+ECDHE-PSK:+DHE-PSK:+PSK"
    let made = try TLSCredentials(.psk, endpoint, true, (priority ?? "NORMAL") + kinds)
    let folder = try required(folder)
    if endpoint == .server {
      if user != nil { throw TLSError("username should not be set when endpoint=server") }
      let parameters = try file(folder, "dh-params.pem", isNeeded: false)
      let keys = try file(folder, "keys.psk", isNeeded: true) ?? ""
      // SAFETY: here and below, strings live through the calls.
      let result = unsafe goliath_tls_credentials_psk_file(made.handle, keys)
      if result < 0 { throw TLSError("Cannot set PSK server credentials", result) }
      try made.setParameters(parameters)
    } else {
      let keys = try file(folder, "keys.psk", isNeeded: true) ?? ""
      let user = user ?? "qemu"
      let digits = try key(of: user, in: keys)
      let count = digits.utf8.count
      let result = unsafe goliath_tls_credentials_psk_key(made.handle, user, digits, count)
      if result < 0 { throw TLSError("Cannot set PSK client credentials", result) }
    }
    return made
  }

  /// No identity on either side. `folder` may hold a server's `dh-params.pem`. Throws `TLSError`.
  package static func anonymous(
    folder: String? = nil, endpoint: Endpoint, priority: String? = nil
  ) throws(TLSError) -> TLSCredentials {
    let made = try TLSCredentials(.anonymous, endpoint, false, (priority ?? "NORMAL") + ":+ANON-DH")
    var parameters: String?
    if let folder, endpoint == .server {
      parameters = try file(folder, "dh-params.pem", isNeeded: false)
    }
    try made.setParameters(parameters)
    return made
  }

  // MARK: -

  private init(
    _ kind: Kind, _ endpoint: Endpoint, _ verifiesPeer: Bool, _ priority: String
  ) throws(TLSError) {
    guard TLSCredentials.isAvailable else {
      throw TLSError("TLS needs the library libgnutls.so.30 (Debian package libgnutls30)")
    }
    let number =
      switch kind {
      case .x509: GOLIATH_TLS_X509
      case .psk: GOLIATH_TLS_PSK
      case .anonymous: GOLIATH_TLS_ANON
      }
    var made: OpaquePointer?
    // SAFETY: the local lives through the call.
    let result = unsafe goliath_tls_credentials_new(
      Int32(number.rawValue), endpoint == .server ? 1 : 0, &made)
    guard result >= 0, let made = unsafe made else {
      throw TLSError("Cannot allocate credentials", result)
    }
    unsafe handle = made
    self.kind = kind
    self.endpoint = endpoint
    self.verifiesPeer = verifiesPeer
    self.priority = priority
  }

  // SAFETY: the last reference; no session is left.
  deinit { unsafe goliath_tls_credentials_free(handle) }

  private static func required(_ folder: String?) throws(TLSError) -> String {
    guard let folder, !folder.isEmpty else { throw TLSError("Missing 'dir' property value") }
    return folder
  }

  /// The path of a file that can be read; nil when it is not there and not needed.
  private static func file(
    _ folder: String, _ name: String, isNeeded: Bool
  ) throws(TLSError) -> String? {
    let path = "\(folder)/\(name)"
    // SAFETY: the string lives through the call.
    if unsafe access(path, R_OK) == 0 { return path }
    let code = errno
    if code == ENOENT, !isNeeded { return nil }
    let reason = SystemError(call: "access", code: code).reason
    throw TLSError("Unable to access credentials \(path): \(reason)")
  }

  private static func key(of user: String, in path: String) throws(TLSError) -> String {
    let bytes: [UInt8]
    do throws(SystemError) {
      bytes = try FileDescriptor.contents(of: path, limit: 1 << 24)
    } catch {
      throw TLSError("Failed to read key file \(path): \(error.reason)")
    }
    let prefix = Array(user.utf8) + [UInt8(ascii: ":")]
    for line in bytes.split(separator: UInt8(ascii: "\n")) where line.starts(with: prefix) {
      var digits = line.dropFirst(prefix.count)
      if digits.last == UInt8(ascii: "\r") { digits = digits.dropLast() }
      return String(decoding: digits, as: UTF8.self)
    }
    throw TLSError("Username \(user) not found in PSK file \(path)")
  }

  private func setParameters(_ path: String?) throws(TLSError) {
    guard let path else {
      // SAFETY: null is allowed: well-known parameters.
      let result = unsafe goliath_tls_credentials_dh(handle, nil, 0)
      if result < 0 { throw TLSError("Unable to generate DH parameters", result) }
      return
    }
    let text: [UInt8]
    do throws(SystemError) {
      text = try FileDescriptor.contents(of: path, limit: 1 << 20)
    } catch {
      throw TLSError("Unable to load DH parameters from \(path): \(error.reason)")
    }
    // SAFETY: the array lives through the call, with its size.
    let result = unsafe goliath_tls_credentials_dh(handle, text, text.count)
    if result < 0 { throw TLSError("Unable to load DH parameters from \(path)", result) }
  }
}
