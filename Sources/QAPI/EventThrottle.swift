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
