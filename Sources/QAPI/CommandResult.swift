package import JSON

/// What a command answers.
package enum CommandResult: Sendable {
  /// A value to print.
  case value(JSONValue)
  /// Text that was printed when the program was built (`query-qmp-schema`, `query-commands`).
  case encoded(StaticString)

  /// The answer of commands that have none: `{}`.
  package static let empty = CommandResult.value(.object(JSONObject()))
}

/// How often an event may be sent.
package struct EventThrottle: Equatable, Sendable {
  /// Least time between two events, in milliseconds.
  package let milliseconds: Int
  /// The data member that tells independent sources apart, or nil when all are one.
  package let key: String?

  package init(milliseconds: Int, key: String?) {
    self.milliseconds = milliseconds
    self.key = key
  }
}
