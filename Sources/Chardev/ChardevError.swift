import Host

/// A character device cannot be made, attached or removed as asked.
package struct ChardevError: Error, Equatable, Sendable, CustomStringConvertible {
  /// What callers switch on.
  package enum Kind: Equatable, Sendable {
    /// The operating system refused: file, address, terminal.
    case cannotOpen
    /// An option's value or combination is wrong.
    case badOption
    /// The label exists already, or the device has a frontend.
    case inUse
    /// No device of that label.
    case notFound
    /// A kind or option that this program does not offer.
    case unsupported
  }
  package let kind: Kind
  /// The sentence for the user, in QEMU's words where it has some.
  package let message: String
  /// A second line that helps; empty when there is none.
  package let hint: String

  package init(_ kind: Kind, _ message: String, hint: String = "") {
    self.kind = kind
    self.message = message
    self.hint = hint
  }

  init(_ error: SocketError) { self.init(.cannotOpen, error.message, hint: error.hint) }

  package var description: String { message }
}
