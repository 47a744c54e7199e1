package import QAPI

/// What the clients of a monitor may do (`-mon …,x-access=`).
///
/// A list of words with `+` between them: `full`, `read-only` (commands that only look), names of commands, names that end in `*`.
/// `x-access=read-only+stop+cont` looks, stops and continues.
package struct MonitorAccess: Equatable, Sendable {
  /// Everything.
  package static let full = MonitorAccess(isFull: true, looks: true, names: [])

  private let isFull: Bool
  private let looks: Bool
  /// Names of commands; those that end in `*` are beginnings.
  private let names: [String]

  private init(isFull: Bool, looks: Bool, names: [String]) {
    self.isFull = isFull
    self.looks = looks
    self.names = names
  }

  /// Reads a list. Throws the reason when a word is empty. A name that no command has allows nothing.
  package init(_ text: String) throws(QAPIError) {
    var isFull = false
    var looks = false
    var names: [String] = []
    for word in text.split(separator: "+", omittingEmptySubsequences: false).map(String.init) {
      switch word {
      case "": throw .badValue("x-access", text)
      case "full": isFull = true
      case "read-only": looks = true
      default: names.append(word)
      }
    }
    self.init(isFull: isFull, looks: looks, names: names)
  }

  /// Whether everything is allowed.
  package var isUnlimited: Bool { isFull }

  /// Whether a command of the human monitor may run; `looks`: it changes nothing.
  package func allowsHuman(_ command: String, looks: Bool) -> Bool {
    isFull || (looks && self.looks) || isNamed(command)
  }

  /// Throws unless a QMP command may run. Negotiation always may.
  package func check(_ command: Command) throws(QAPIError) {
    if isFull || command == .qmpCapabilities || (looks && command.isReadOnly) { return }
    if isNamed(command.rawValue) { return }
    throw QAPIError("The command \(command.rawValue) is not allowed on this monitor")
  }

  private func isNamed(_ command: String) -> Bool {
    names.contains { name in
      name.hasSuffix("*") ? command.hasPrefix(name.dropLast()) : command == name
    }
  }
}
