/// How the shell ends. Of several nodes or lines the greatest number counts.
package enum ExitStatus: Int32, Comparable, Sendable, CaseIterable {
  case success = 0
  /// A command failed, or an expectation did not hold.
  case commandFailed = 1
  /// The command line or a line of a script makes no sense.
  case usage = 2
  /// A node could not be reached, or did not greet as its monitor should.
  case cannotConnect = 3
  /// A reply or an event did not come in time.
  case timeout = 4
  /// The connection ended before the reply came.
  case connectionLost = 5
  /// The server said that it cannot start.
  case startFailed = 6
  /// Ctrl-C, or another signal.
  case interrupted = 130

  package static func < (left: ExitStatus, right: ExitStatus) -> Bool {
    left.rawValue < right.rawValue
  }

  /// What `--help` and the manual say.
  package var meaning: String {
    switch self {
    case .success: "everything was done"
    case .commandFailed:
      "a command failed, a selected value was not there, or an expectation did not hold"
    case .usage: "the command line or a line makes no sense"
    case .cannotConnect: "a node could not be reached, or is no such monitor"
    case .timeout: "a reply or an event did not come in time"
    case .connectionLost: "the connection ended before the reply came"
    case .startFailed: "the server said that it cannot start"
    case .interrupted: "interrupted by a signal"
    }
  }
}
