internal import CGnuTLS

/// One TLS connection without a connection: bytes of the peer go in, plaintext and bytes for the peer come out.
///
/// A pure transformer (RFC 8446, RFC 5246): it has no descriptor, no clock and never waits. The caller moves what `takeOutput` answers
/// to the peer after each call, also after one that threw: an alert tells the peer why. One thread at a time.
@safe
package final class TLSSession {
  /// How far the connection is.
  package enum Phase: Sendable, Equatable {
    case handshaking, open
    /// The peer has said goodbye, or the session broke. Nothing more comes or goes.
    case ended
  }

  package internal(set) var phase = Phase.handshaking
  /// Who the peer is: the distinguished name of its certificate, or its PSK user name; nil without either.
  package private(set) var peerName: String?

  private let credentials: TLSCredentials
  private let hostName: String?
  private let authorise: ((String) throws(TLSError) -> Bool)?
  // SAFETY: made by the shim, freed in deinit, used by one thread at a time.
  let handle: OpaquePointer

  /// The most plaintext in one record (RFC 8446, 5.1).
  private static let recordSize = 16384

  /// A client's or server's session, after its credentials. A client's first words are in `takeOutput` after `receive([])`.
  ///
  /// - Parameter hostName: client: what the server's certificate must be for; nil for any.
  /// - Parameter authorise: whether a verified peer of this name may go on; nil for all. It is asked with an empty
  ///   name when the peer has none.
  ///
  /// Throws `TLSError`, among others for a priority string that the library does not understand.
  package init(
    _ credentials: TLSCredentials, hostName: String? = nil,
    authorise: ((String) throws(TLSError) -> Bool)? = nil
  ) throws(TLSError) {
    self.credentials = credentials
    self.hostName = hostName
    self.authorise = authorise
    var made: OpaquePointer?
    // SAFETY: the string and the local live through the call.
    let result = unsafe goliath_tls_new(
      credentials.handle, credentials.priority, 1, &made)
    guard result >= 0, let made = unsafe made else {
      throw TLSError("Unable to set TLS session priority \(credentials.priority)", result)
    }
    unsafe handle = made
  }

  deinit { unsafe goliath_tls_free(handle) }

  /// Takes bytes of the peer; answers the plaintext in them (never much more than they are). `ended`: the peer sends no more.
  ///
  /// Throws `TLSError` when the peer is refused or breaks the protocol; the phase is `ended` then.
  package func receive(_ bytes: [UInt8], ended: Bool = false) throws(TLSError) -> [UInt8] {
    if phase == .ended { return [] }
    var plaintext: [UInt8] = []
    do throws(TLSError) {
      try unsafe bytes.withUnsafeBufferPointer {
        (buffer: UnsafeBufferPointer<UInt8>) throws(TLSError) in
        // SAFETY: the session reads from the array within this closure only; the feed below ends that.
        unsafe goliath_tls_feed(handle, buffer.baseAddress, buffer.count, ended ? 1 : 0)
        defer { unsafe goliath_tls_feed(handle, nil, 0, 0) }
        if phase == .handshaking { try shakeHands() }
        if phase == .open { try read(into: &plaintext) }
      }
    } catch {
      phase = .ended
      throw error
    }
    return plaintext
  }

  /// Encrypts bytes from `start` on. Nothing unless the phase is `open`. Throws `TLSError`.
  package func send(_ bytes: [UInt8], from start: Int = 0) throws(TLSError) {
    guard phase == .open else { return }
    var position = start
    while position < bytes.count {
      let from = position
      // SAFETY: the pointer is used within the call and covers the array's rest.
      let result = unsafe bytes.withUnsafeBufferPointer {
        let part = unsafe UnsafeBufferPointer(rebasing: $0[from...])
        return unsafe goliath_tls_write(handle, part.baseAddress, part.count)
      }
      if result == Int64(GOLIATH_TLS_INTERRUPTED) || result == Int64(GOLIATH_TLS_AGAIN) {
        continue
      }
      guard result > 0 else {
        phase = .ended
        throw TLSError("Cannot write to TLS channel", Int32(truncatingIfNeeded: result))
      }
      position += Int(result)
    }
  }

  /// Says goodbye (close_notify); the peer may still have something to say.
  package func close() {
    if phase == .open { _ = unsafe goliath_tls_bye(handle) }
    phase = .ended
  }

  /// What is to be sent to the peer since the last time.
  package func takeOutput() -> [UInt8] {
    var count = 0
    // SAFETY: the memory is the session's until its next call, and copied here.
    let bytes = unsafe goliath_tls_output(handle, &count)
    let result = unsafe Array(UnsafeBufferPointer(start: bytes, count: count))
    unsafe goliath_tls_output_taken(handle)
    return result
  }

  // MARK: -

  private func shakeHands() throws(TLSError) {
    while true {
      let result = unsafe goliath_tls_handshake(handle)
      switch result {
      case 0:
        try admit()
        phase = .open
        return
      case GOLIATH_TLS_AGAIN: return
      case GOLIATH_TLS_INTERRUPTED, GOLIATH_TLS_WARNING_ALERT: continue
      default:
        if result != GOLIATH_TLS_PREMATURE_END, result != GOLIATH_TLS_FATAL_ALERT {
          _ = unsafe goliath_tls_alert_for(handle, result)
        }
        throw TLSError("TLS handshake failed", result).naming(alert(result))
      }
    }
  }

  private func read(into plaintext: inout [UInt8]) throws(TLSError) {
    var buffer = [UInt8](repeating: 0, count: TLSSession.recordSize)
    while true {
      // SAFETY: the buffer lives through the call, with its size.
      let result = unsafe goliath_tls_read(handle, &buffer, buffer.count)
      if result > 0 {
        plaintext += buffer.prefix(Int(result))
        continue
      }
      switch Int32(truncatingIfNeeded: result) {
      case 0:
        phase = .ended
        return
      case GOLIATH_TLS_AGAIN: return
      case GOLIATH_TLS_INTERRUPTED, GOLIATH_TLS_WARNING_ALERT: continue
      case GOLIATH_TLS_REHANDSHAKE:
        // Renegotiation (RFC 5246, 7.4.1.1) would ask for the peer's identity anew.
        _ = unsafe goliath_tls_alert_for(handle, GOLIATH_TLS_REHANDSHAKE)
        throw TLSError("Cannot read from TLS channel: the peer asked for renegotiation")
      case let code:
        if code != GOLIATH_TLS_PREMATURE_END, code != GOLIATH_TLS_FATAL_ALERT {
          _ = unsafe goliath_tls_alert_for(handle, code)
        }
        throw TLSError("Cannot read from TLS channel", code).naming(alert(code))
      }
    }
  }

  private func alert(_ code: Int32) -> String? {
    guard code == GOLIATH_TLS_FATAL_ALERT else { return nil }
    // SAFETY: a constant C string or null, copied at once.
    return unsafe goliath_tls_received_alert(handle).map { unsafe String(cString: $0) }
  }

  /// Checks who the peer is. Throws `TLSError` when it may not go on; the alert is on its way then.
  private func admit() throws(TLSError) {
    switch credentials.kind {
    case .x509: if credentials.verifiesPeer { try verifyCertificates() }
    case .psk:
      if credentials.endpoint == .server, let user = unsafe goliath_tls_psk_user(handle) {
        // SAFETY: the session's string, copied at once.
        peerName = unsafe String(cString: user)
      }
    case .anonymous: break
    }
    guard let authorise else { return }
    let name = peerName ?? ""
    let isAllowed: Bool
    do throws(TLSError) { isAllowed = try authorise(name) } catch {
      _ = unsafe goliath_tls_alert(handle, GOLIATH_ALERT_ACCESS_DENIED)
      throw error
    }
    guard isAllowed else {
      _ = unsafe goliath_tls_alert(handle, GOLIATH_ALERT_ACCESS_DENIED)
      let kind = credentials.kind == .x509 ? "x509" : credentials.kind == .psk ? "PSK" : "anonymous"
      throw TLSError("TLS \(kind) authz check for \(name) is denied")
    }
  }

  private func verifyCertificates() throws(TLSError) {
    func refuse(_ alert: Int32, _ message: String) -> TLSError {
      _ = unsafe goliath_tls_alert(handle, alert)
      return TLSError("Certificate verification failed: \(message)")
    }
    var list: OpaquePointer?
    // SAFETY: the local lives through the call.
    guard unsafe goliath_tls_peer_certificates(handle, &list) >= 0, let list = unsafe list else {
      throw refuse(GOLIATH_ALERT_CERTIFICATE_REQUIRED, "No certificate was found.")
    }
    let certificates = unsafe CertificateList(adopting: list)
    var status: UInt32 = 0
    let result = unsafe goliath_tls_verify(handle, &status)
    if result < 0 { throw refuse(GOLIATH_ALERT_BAD_CERTIFICATE, TLSError.text(result)) }
    let now = HostClock.realtime / 1_000_000_000
    for index in 0..<certificates.count {
      if certificates.expiration(index) < now {
        throw refuse(GOLIATH_ALERT_EXPIRED, "The certificate has expired")
      }
      if certificates.activation(index) > now {
        throw refuse(GOLIATH_ALERT_EXPIRED, "The certificate is not yet activated")
      }
    }
    if let reason = CertificateList.reason(status) {
      let alert =
        status & GOLIATH_CERT_REVOKED != 0
        ? GOLIATH_ALERT_REVOKED
        : status & GOLIATH_CERT_SIGNER_NOT_FOUND != 0
          ? GOLIATH_ALERT_UNKNOWN_CA : GOLIATH_ALERT_BAD_CERTIFICATE
      throw refuse(alert, reason)
    }
    peerName = try certificates.name(0)
    if let hostName, !certificates.matches(0, host: hostName) {
      throw refuse(GOLIATH_ALERT_BAD_CERTIFICATE, "Owner does not match the hostname \(hostName)")
    }
  }
}

extension TLSError {
  /// With the alert that the peer sent.
  fileprivate func naming(_ alert: String?) -> TLSError {
    guard let alert else { return self }
    let text = message.hasSuffix(".") ? String(message.dropLast()) : message
    return TLSError("\(text): \(alert)")
  }
}
