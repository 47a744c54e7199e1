import JSON

/// Understands the lines of the prompt, of scripts and of `-c`. Pure model; it remembers only an unfinished `transaction(`.
package struct LineParser {
  /// What a line without a mark is.
  package enum Mode: Sendable { case qmp, humanOverQMP, human }

  package var mode: Mode
  /// The server's interface, for the types of arguments; asked only when a value could be read in two ways.
  package var schema: (_ command: String) -> APISchema?
  /// The actions of qmp-shell's `transaction(` … `)` so far.
  private var transaction: [JSONValue]?

  package init(
    mode: Mode = .qmp, schema: @escaping (_ command: String) -> APISchema? = { _ in nil }
  ) {
    self.mode = mode
    self.schema = schema
  }

  /// Whether lines of a transaction are being collected.
  package var isInTransaction: Bool { transaction != nil }

  /// Gives up an unfinished transaction.
  package mutating func cancelTransaction() { transaction = nil }

  /// The names that the shell itself understands, and what they do.
  package static let builtins: [(name: String, usage: String, summary: String)] = [
    (
      "help", "help [NAME]",
      "what the shell can do, or what a command, its arguments and its answer are"
    ),
    ("events", "events [NAME…] [MEMBER=VALUE…] [count=N] [timeout=S]", "follow events"),
    ("wait", "wait NAME… [MEMBER=VALUE…] [timeout=S]", "wait for an event"),
    ("watch", "watch [-n SECONDS] [-c COUNT] LINE", "repeat a line"),
    ("select", "select PATH LINE", "print only the value at PATH of the answer"),
    ("expect", "expect PATH=VALUE LINE", "fail unless the value at PATH is VALUE"),
    ("hmp", "hmp LINE, or !LINE", "run a line of the human monitor"),
    ("qmp", "qmp LINE", "run a QMP command where lines are the human monitor's"),
    ("oob", "oob COMMAND…", "run a command out of band (--oob)"),
    ("getfd", "getfd NAME FILE", "open FILE and pass its descriptor"),
    (
      "add-fd", "add-fd FILE [fdset-id=N] [opaque=TEXT]",
      "open FILE and add it to a set of descriptors"
    ),
    ("nodes", "nodes", "the nodes, and how each is connected"),
    ("source", "source FILE", "run the lines of FILE"),
    ("sleep", "sleep SECONDS", "wait"),
    ("set", "set events|json|timing [on|off]", "switch a setting"),
    ("history", "history", "the lines entered before"),
    ("exit", "exit, or Ctrl-D", "leave; the machine stays as it is (quit ends it)"),
  ]

  /// Whether more lines are needed: an open quote or bracket.
  package static func isComplete(_ line: String) -> Bool { Words(line).open == nil }

  /// Reads one line. Throws `LineError`.
  package mutating func parse(_ line: String) throws(LineError) -> Statement {
    var rest = LineParser.trimmed(line)
    if transaction != nil, !rest.hasPrefix("@") {
      return Statement(try continueTransaction(rest))
    }
    var node: String?
    if rest.hasPrefix("@") {
      let name = rest.dropFirst().prefix { !$0.isWhitespace }
      guard !name.isEmpty else { throw LineError("'@' without the name of a node") }
      node = String(name)
      rest = LineParser.trimmed(String(rest.dropFirst(name.count + 1)))
    }
    return Statement(node: node, try action(rest, mode))
  }

  // MARK: -

  private static func trimmed(_ text: String) -> String {
    String(text.drop { $0.isWhitespace }.reversed().drop { $0.isWhitespace }.reversed())
  }

  private mutating func action(_ text: String, _ mode: Mode) throws(LineError) -> Action {
    if text.isEmpty || text.hasPrefix("#") { return .nothing }
    if text.hasPrefix("!") { return .human(LineParser.trimmed(String(text.dropFirst()))) }
    if mode != .qmp, !text.hasPrefix("/") { return .human(text) }
    if mode == .qmp, text.hasPrefix("{") { return .request(try LineParser.json(text)) }
    if text == "?" { return .help(nil) }
    let plain = text.hasPrefix("/") ? String(text.dropFirst()) : text
    // The human monitor's text is its own: nothing is cut or unquoted.
    if let (name, rest) = LineParser.firstWord(plain), name == "hmp" { return .human(rest) }
    let words = Words(plain)
    if words.open != nil { throw LineError("a quote or bracket is not closed") }
    guard let first = words.list.first else { return .nothing }
    let others = Array(words.list.dropFirst())
    if let builtin = try builtin(first.text, others, plain) { return builtin }
    if text.hasPrefix("/") { throw LineError("'/\(first.text)' is not known; see /help") }
    if others.count == 1, others[0].text == "?" { return .help(first.text) }
    return try command(first.text, others)
  }

  private static func firstWord(_ text: String) -> (String, String)? {
    let name = text.prefix { !$0.isWhitespace }
    return name.isEmpty ? nil : (String(name), trimmed(String(text.dropFirst(name.count))))
  }

  private static func json(_ text: String) throws(LineError) -> QMPRequest {
    let value: JSONValue
    do throws(JSONError) { value = try JSONValue(parsing: text) } catch {
      throw LineError(error.text)
    }
    let name = (value["execute"] ?? value["exec-oob"])?.stringValue ?? ""
    var request = QMPRequest(name, value["arguments"]?.objectValue ?? [:])
    request.isOutOfBand = value["exec-oob"] != nil
    request.verbatim = Array(text.utf8)
    return request
  }

  private mutating func command(_ name: String, _ words: [Word]) throws(LineError) -> Action {
    if name.hasSuffix("("), name == "transaction(" {
      transaction = []
      return try continueTransaction(words)
    }
    guard !name.contains("=") else {
      throw LineError("'\(name)' where the name of a command belongs")
    }
    return .request(QMPRequest(name, try arguments(of: name, words)))
  }

  private func arguments(of command: String, _ words: [Word]) throws(LineError) -> JSONObject {
    if words.count == 1, words[0].firstQuoted == nil, words[0].text.hasPrefix("{") {
      do throws(JSONError) {
        return try JSONValue(parsing: words[0].text).objectValue ?? [:]
      } catch { throw LineError(error.text) }
    }
    let schema = schema
    let builder = ArgumentBuilder { path, given in
      schema(command)?.kind(of: path, command: command, given: given)
    }
    return try builder.build(words)
  }

  // MARK: - transaction( … ) as in qmp-shell

  private mutating func continueTransaction(_ line: String) throws(LineError) -> Action {
    let words = Words(line)
    if words.open != nil { throw LineError("a quote or bracket is not closed") }
    return try continueTransaction(words.list)
  }

  private mutating func continueTransaction(_ words: [Word]) throws(LineError) -> Action {
    var words = words
    let ends = words.last?.text == ")"
    if ends { words.removeLast() }
    if let first = words.first {
      let data = try arguments(of: first.text, Array(words.dropFirst()))
      transaction?.append(["type": .string(first.text), "data": .object(data)])
    }
    guard ends, let actions = transaction else { return .nothing }
    transaction = nil
    return .request(QMPRequest("transaction", ["actions": .array(actions)]))
  }

  // MARK: - The shell's own

  private mutating func builtin(
    _ name: String, _ words: [Word], _ line: String
  ) throws(LineError) -> Action? {
    switch name {
    case "help": return .help(words.first?.text)
    case "events":
      let (filter, count, seconds) = try filter(words)
      return .events(filter, count: count, seconds: seconds)
    case "wait":
      let (filter, _, seconds) = try filter(words)
      guard !filter.names.isEmpty else { throw LineError("usage: wait NAME… [timeout=SECONDS]") }
      return .wait(filter, seconds: seconds)
    case "watch": return try watch(words, line)
    case "select":
      guard words.count >= 2 else { throw LineError("usage: select PATH LINE") }
      return .select(words[0].text, try action(LineParser.text(line, from: words[1]), .qmp))
    case "expect":
      guard words.count >= 2, let (path, mark) = ArgumentBuilder.split(words[0]) else {
        throw LineError("usage: expect PATH=VALUE LINE")
      }
      let value = String(decoding: Array(words[0].text.utf8)[mark.end...], as: UTF8.self)
      return .expect(
        path.joined(separator: "."), value: value,
        try action(LineParser.text(line, from: words[1]), .qmp))
    case "qmp":
      guard let first = words.first else { throw LineError("usage: qmp LINE") }
      return try action(LineParser.text(line, from: first), .qmp)
    case "oob":
      guard let first = words.first else { throw LineError("usage: oob COMMAND…") }
      let arguments = try arguments(of: first.text, Array(words.dropFirst()))
      return .request(QMPRequest(first.text, arguments, isOutOfBand: true))
    case "getfd" where words.count == 2 && !words.contains { $0.text.contains("=") }:
      return .pass(QMPRequest("getfd", ["fdname": .string(words[0].text)]), file: words[1].text)
    case "add-fd":
      guard let file = words.first, file.firstQuoted != nil || !file.text.contains("=") else {
        return nil
      }
      let rest = try arguments(of: "add-fd", Array(words.dropFirst()))
      return .pass(QMPRequest("add-fd", rest), file: file.text)
    case "nodes" where words.isEmpty: return .nodes
    case "history" where words.isEmpty: return .history
    case "exit" where words.isEmpty: return .exit
    case "source":
      guard words.count == 1 else { throw LineError("usage: source FILE") }
      return .source(words[0].text)
    case "sleep":
      guard words.count == 1 else { throw LineError("usage: sleep SECONDS") }
      return .sleep(seconds: try LineParser.seconds(words[0].text))
    case "set": return try setting(words)
    default: return nil
    }
  }

  private static func text(_ line: String, from word: Word) -> String {
    String(decoding: Array(line.utf8)[word.range.lowerBound...], as: UTF8.self)
  }

  private func filter(
    _ words: [Word]
  ) throws(LineError) -> (EventFilter, count: Int?, seconds: Double?) {
    var filter = EventFilter()
    var count: Int?
    var seconds: Double?
    for word in words {
      guard let (path, mark) = ArgumentBuilder.split(word) else {
        filter.names.append(word.text)
        continue
      }
      let value = String(decoding: Array(word.text.utf8)[mark.end...], as: UTF8.self)
      switch path {
      case ["count"]:
        guard let number = Int(value), number > 0 else {
          throw LineError("'\(value)' is no number of events")
        }
        count = number
      case ["timeout"]: seconds = try LineParser.seconds(value)
      default: filter.members.append(.init(path: path.joined(separator: "."), text: value))
      }
    }
    return (filter, count, seconds)
  }

  private mutating func watch(_ words: [Word], _ line: String) throws(LineError) -> Action {
    var seconds = 2.0
    var count: Int?
    var position = 0
    while position + 1 < words.count, words[position].text.hasPrefix("-") {
      switch words[position].text {
      case "-n": seconds = try LineParser.seconds(words[position + 1].text)
      case "-c": count = Int(words[position + 1].text)
      default: throw LineError("watch: '\(words[position].text)' is not known")
      }
      position += 2
    }
    guard position < words.count, !words[position].text.hasPrefix("-") else {
      throw LineError("usage: watch [-n SECONDS] [-c COUNT] LINE")
    }
    let repeated = try action(LineParser.text(line, from: words[position]), mode)
    return .watch(repeated, seconds: seconds, count: count)
  }

  private func setting(_ words: [Word]) throws(LineError) -> Action {
    let usage = LineError("usage: set events|json|timing [on|off]")
    guard let name = words.first, let setting = Action.Setting(rawValue: name.text) else {
      throw usage
    }
    switch words.dropFirst().map(\.text) {
    case []: return .set(setting, nil)
    case ["on"]: return .set(setting, true)
    case ["off"]: return .set(setting, false)
    default: throw usage
    }
  }

  /// A length of time in seconds, zero or more.
  package static func seconds(_ text: String) throws(LineError) -> Double {
    guard let value = Double(text), value >= 0, value <= 1e6 else {
      throw LineError("'\(text)' is no number of seconds")
    }
    return value
  }
}
