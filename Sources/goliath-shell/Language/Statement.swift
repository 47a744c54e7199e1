package import JSON

/// What a line asks for, and of which nodes.
package struct Statement: Equatable, Sendable {
  /// The node named with `@node`; nil for all.
  package var node: String?
  package var action: Action

  package init(node: String? = nil, _ action: Action) {
    self.node = node
    self.action = action
  }
}

/// What a line asks for.
package indirect enum Action: Equatable, Sendable {
  /// Nothing: a blank line or a comment.
  case nothing
  /// A QMP command.
  case request(QMPRequest)
  /// A line for the human monitor.
  case human(String)
  /// `help`, `help NAME`, `NAME ?`.
  case help(String?)
  /// Follow events until interrupted, `count` have come or `seconds` have passed.
  case events(EventFilter, count: Int?, seconds: Double?)
  /// Wait for one event.
  case wait(EventFilter, seconds: Double?)
  /// Repeat a line.
  case watch(Action, seconds: Double, count: Int?)
  /// Run a line and print the value at a path only.
  case select(String, Action)
  /// Run a line and fail unless the value at a path is the given one.
  case expect(String, value: String, Action)
  /// A command that passes the descriptor of an opened file along.
  case pass(QMPRequest, file: String)
  /// Run the lines of a file.
  case source(String)
  /// Do nothing for a while.
  case sleep(seconds: Double)
  /// Switch a setting; nil toggles.
  case set(Setting, Bool?)
  case nodes
  case history
  case exit

  /// What `set` and its short forms switch.
  package enum Setting: String, Equatable, Sendable, CaseIterable {
    case events, json, timing
  }
}

/// A request of QMP (QMP specification, 2.3).
package struct QMPRequest: Equatable, Sendable {
  package var name: String
  package var arguments: JSONObject
  /// Sent as `exec-oob`.
  package var isOutOfBand = false
  /// The text that the user typed when it was JSON; sent as it is.
  package var verbatim: [UInt8]?

  package init(_ name: String, _ arguments: JSONObject = [:], isOutOfBand: Bool = false) {
    self.name = name
    self.arguments = arguments
    self.isOutOfBand = isOutOfBand
  }

  /// The bytes to send, with a line end.
  package func bytes(id: JSONValue?) -> [UInt8] {
    if let verbatim { return verbatim + [10] }
    var message: JSONObject = [(isOutOfBand ? "exec-oob" : "execute"): .string(name)]
    if !arguments.isEmpty { message["arguments"] = .object(arguments) }
    if let id { message["id"] = id }
    var printer = InsertionOrderPrinter()
    printer.print(.object(message))
    return printer.output + [10]
  }
}

/// Which events are meant: names (none: all; `*` at the end stands for any rest) and members of their data.
package struct EventFilter: Equatable, Sendable {
  package var names: [String] = []
  /// Paths in `data` and the text that must be there.
  package var members: [Member] = []

  /// A path and its wanted text.
  package struct Member: Equatable, Sendable {
    package let path: String
    package let text: String

    package init(path: String, text: String) {
      self.path = path
      self.text = text
    }
  }

  package init(names: [String] = [], members: [Member] = []) {
    self.names = names
    self.members = members
  }

  /// Whether `event`, a message of QMP, is meant.
  package func matches(_ event: JSONValue) -> Bool {
    guard let name = event["event"]?.stringValue else { return false }
    let isNamed =
      names.isEmpty
      || names.contains { pattern in
        pattern.hasSuffix("*") ? name.hasPrefix(pattern.dropLast()) : name == pattern
      }
    guard isNamed else { return false }
    return members.allSatisfy { member in
      guard let values = ValuePath(member.path).values(in: event["data"] ?? [:]) else {
        return false
      }
      return values.contains { $0.plainText == member.text }
    }
  }
}
