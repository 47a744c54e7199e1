/// Why nodes do not become, or are no longer, one machine.
package struct ClusterError: Error, Equatable, Sendable, CustomStringConvertible {
  /// What callers switch on.
  package enum Kind: Sendable, Equatable {
    /// A node did not come in time.
    case timeout
    /// The nodes were started with different configurations.
    case configuration
    /// Who is who could not be proved.
    case credentials
    /// A socket cannot be made, bound or used.
    case network
    /// Another node said no.
    case refused
    /// A node has gone.
    case lost
    /// An operation of all nodes was given up.
    case aborted
  }
  package let kind: Kind
  /// The sentence for the user.
  package let message: String

  package init(_ kind: Kind, _ message: String) {
    self.kind = kind
    self.message = message
  }

  package var description: String { message }

  /// The kind as the argument of an ERROR frame; what others send and we do not know is a refusal.
  private static let numbers: [Kind] = [
    .refused, .timeout, .configuration, .credentials, .network, .lost, .aborted,
  ]
  var number: UInt64 { UInt64(ClusterError.numbers.firstIndex(of: kind) ?? 0) }
  init(number: UInt64, _ message: String) {
    let known = number < UInt64(ClusterError.numbers.count)
    self.init(known ? ClusterError.numbers[Int(number)] : .refused, message)
  }
}
