internal import CGnuTLS
import Glibc

/// Looks for mistakes in our own certificates that make every peer refuse us later, and says them at once.
struct CertificateCheck {
  let isServer: Bool

  /// The most authorities that are read; the library refuses a file with more.
  static let authorityLimit: UInt32 = 16

  private var side: String { isServer ? "server" : "client" }

  /// Throws `TLSError` for the first mistake. Files that are nil are not there.
  func run(certificate: String?, authorities: String?) throws(TLSError) {
    var own: CertificateList?
    if let certificate {
      do throws(TLSError) {
        own = try CertificateList(file: certificate, limit: 1)
      } catch {
        throw TLSError("Unable to import \(side) certificate \(certificate): \(error.message)")
      }
    }
    var trusted: CertificateList?
    if let authorities {
      do throws(TLSError) {
        trusted = try CertificateList(file: authorities, limit: CertificateCheck.authorityLimit)
      } catch {
        throw TLSError("Unable to import CA certificate list \(authorities)")
      }
    }
    if let own, let certificate { try check(own, 0, certificate, isAuthority: false) }
    if let trusted, let authorities {
      for index in 0..<trusted.count { try check(trusted, index, authorities, isAuthority: true) }
    }
    if let own, let trusted, let certificate, let authorities {
      let status: UInt32
      do throws(TLSError) { status = try own.verify(against: trusted) } catch {
        throw TLSError(
          "Unable to verify \(side) certificate \(certificate) against CA certificate"
            + " \(authorities)")
      }
      if let reason = CertificateList.reason(status) {
        throw TLSError(
          "Our own certificate \(certificate) failed validation against \(authorities): \(reason)")
      }
    }
  }

  private func check(
    _ list: CertificateList, _ index: UInt32, _ file: String, isAuthority: Bool
  ) throws(TLSError) {
    let kind = isAuthority ? "CA" : side
    let now = HostClock.realtime / 1_000_000_000
    if list.expiration(index) < now {
      throw TLSError("The \(kind) certificate \(file) has expired")
    }
    if list.activation(index) > now {
      throw TLSError("The \(kind) certificate \(file) is not yet active")
    }
    try checkConstraints(list, index, file, isAuthority)
    try checkUsage(list, index, file, isAuthority)
    if !isAuthority { try checkPurpose(list, index, file) }
  }

  private func checkConstraints(
    _ list: CertificateList, _ index: UInt32, _ file: String, _ isAuthority: Bool
  ) throws(TLSError) {
    let result = list.isAuthority(index)
    if result > 0, !isAuthority {
      throw TLSError(
        "The certificate \(file) basic constraints show a CA, but we need one for a \(side)")
    }
    if result == 0, isAuthority {
      throw TLSError("The certificate \(file) basic constraints do not show a CA")
    }
    if result == GOLIATH_TLS_NOT_AVAILABLE {
      if isAuthority {
        throw TLSError("The certificate \(file) is missing basic constraints for a CA")
      }
    } else if result < 0 {
      throw TLSError("Unable to query certificate \(file) basic constraints", result)
    }
  }

  private func checkUsage(
    _ list: CertificateList, _ index: UInt32, _ file: String, _ isAuthority: Bool
  ) throws(TLSError) {
    guard let (usage, isCritical) = try list.usage(index, file) else { return }
    let (bit, name) =
      isAuthority
      ? (GOLIATH_USAGE_SIGN_CERTIFICATES, "certificate signing")
      : (GOLIATH_USAGE_DIGITAL_SIGNATURE, "digital signature")
    if usage & bit != 0 { return }
    let text = "Certificate \(file) usage does not permit \(name)"
    if isCritical { throw TLSError(text) }
    Log.warning(text)
  }

  private func checkPurpose(
    _ list: CertificateList, _ index: UInt32, _ file: String
  ) throws(TLSError) {
    let (purposes, isCritical) = list.purposes(index)
    let wanted = isServer ? "1.3.6.1.5.5.7.3.1" : "1.3.6.1.5.5.7.3.2"
    let any = "2.5.29.37.0"
    if purposes.isEmpty || purposes.contains(wanted) || purposes.contains(any) { return }
    let text = "Certificate \(file) purpose does not allow use with a TLS \(side)"
    if isCritical { throw TLSError(text) }
    Log.warning(text)
  }
}

/// Some certificates, such as those of a PEM file.
@safe
final class CertificateList {
  // SAFETY: made by the shim, freed in deinit.
  private let handle: OpaquePointer
  let count: UInt32

  init(adopting handle: OpaquePointer) {
    unsafe self.handle = handle
    // SAFETY: the list is alive; so for all calls below.
    count = unsafe goliath_certificates_count(handle)
  }

  /// Reads a PEM file. Throws `TLSError` with the bare reason.
  convenience init(file: String, limit: UInt32) throws(TLSError) {
    let text: [UInt8]
    do throws(SystemError) {
      text = try FileDescriptor.contents(of: file, limit: 1 << 24)
    } catch { throw TLSError(error.reason) }
    var handle: OpaquePointer?
    // SAFETY: the array lives through the call, with its size.
    let result = unsafe goliath_certificates_read(text, text.count, limit, &handle)
    guard result >= 0, let handle = unsafe handle else { throw TLSError(TLSError.text(result)) }
    unsafe self.init(adopting: handle)
  }

  deinit { unsafe goliath_certificates_free(handle) }

  /// Seconds since 1970.
  func activation(_ index: UInt32) -> Int64 { unsafe goliath_certificate_activation(handle, index) }

  /// Seconds since 1970.
  func expiration(_ index: UInt32) -> Int64 { unsafe goliath_certificate_expiration(handle, index) }

  /// 1, 0 or an error code.
  func isAuthority(_ index: UInt32) -> Int32 { unsafe goliath_certificate_is_ca(handle, index) }

  /// The bits of key usage and whether they bind; nil when the certificate has none.
  func usage(_ index: UInt32, _ file: String) throws(TLSError) -> (UInt32, Bool)? {
    var usage: UInt32 = 0
    var critical: UInt32 = 0
    let result = unsafe goliath_certificate_usage(handle, index, &usage, &critical)
    if result == GOLIATH_TLS_NOT_AVAILABLE { return nil }
    if result < 0 { throw TLSError("Unable to query certificate \(file) key usage", result) }
    return (usage, critical != 0)
  }

  /// The purposes (object identifiers) that a certificate names, and whether they bind.
  func purposes(_ index: UInt32) -> ([String], Bool) {
    var result: [String] = []
    var isCritical = false
    for number in 0..<UInt32(32) {
      var text = [CChar](repeating: 0, count: 256)
      var room = text.count
      var critical: UInt32 = 0
      guard
        unsafe goliath_certificate_purpose(handle, index, number, &text, &room, &critical) >= 0
      else { break }
      if critical != 0 { isCritical = true }
      result.append(CertificateList.string(text))
    }
    return (result, isCritical)
  }

  /// The subject's distinguished name (RFC 4514). Throws `TLSError`.
  func name(_ index: UInt32) throws(TLSError) -> String {
    var text = [CChar](repeating: 0, count: 1024)
    var room = text.count
    var result = unsafe goliath_certificate_name(handle, index, &text, &room)
    if result < 0, room > text.count, room < 1 << 20 {
      text = [CChar](repeating: 0, count: room + 1)
      room = text.count
      result = unsafe goliath_certificate_name(handle, index, &text, &room)
    }
    if result < 0 { throw TLSError("Cannot get client distinguished name", result) }
    return CertificateList.string(text)
  }

  /// Whether a host may use the certificate (RFC 6125).
  func matches(_ index: UInt32, host: String) -> Bool {
    unsafe goliath_certificate_matches(handle, index, host) != 0
  }

  /// Verifies the first certificate; 0 is good, else see `reason`. Throws `TLSError`.
  func verify(against authorities: CertificateList) throws(TLSError) -> UInt32 {
    var status: UInt32 = 0
    let result = unsafe goliath_certificates_verify(handle, authorities.handle, &status)
    if result < 0 { throw TLSError(TLSError.text(result)) }
    return status
  }

  /// What is wrong, by the bits of a verification; nil when nothing is.
  static func reason(_ status: UInt32) -> String? {
    if status == 0 { return nil }
    if status & GOLIATH_CERT_INSECURE_ALGORITHM != 0 {
      return "The certificate uses an insecure algorithm"
    }
    if status & GOLIATH_CERT_REVOKED != 0 { return "The certificate has been revoked" }
    if status & GOLIATH_CERT_SIGNER_NOT_FOUND != 0 {
      return "The certificate hasn't got a known issuer"
    }
    return status & GOLIATH_CERT_INVALID != 0
      ? "The certificate is not trusted" : "Invalid certificate"
  }

  private static func string(_ text: [CChar]) -> String {
    String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
