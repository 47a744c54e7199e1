internal import CGnuTLS

/// Credentials cannot be loaded, a peer is refused, or a session broke.
package struct TLSError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The sentence for the user, in QEMU's words where it has some.
  package let message: String

  package init(_ message: String) { self.message = message }

  /// `what: reason`, the reason as the library words it.
  init(_ what: String, _ code: Int32) { self.init("\(what): \(TLSError.text(code))") }

  package var description: String { message }

  /// What the library says about one of its error codes.
  static func text(_ code: Int32) -> String {
    // SAFETY: a constant C string, copied at once.
    unsafe String(cString: goliath_tls_text(code))
  }
}
