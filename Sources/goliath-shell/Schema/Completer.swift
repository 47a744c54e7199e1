import JSON

/// What Tab offers. Pure model: a line and the cursor in, candidates out.
package struct Completer {
  /// One way to go on.
  package struct Candidate: Equatable, Sendable {
    /// What replaces the word (or its last part).
    package let text: String
    /// What follows when it is the only one: a blank, `=`, `.` or nothing.
    package let suffix: String
    /// A few words about it for the list.
    package let note: String

    package init(_ text: String, suffix: String = " ", note: String = "") {
      self.text = text
      self.suffix = suffix
      self.note = note
    }
  }

  /// Candidates for the part of the line from `start` (UTF-8) to the cursor.
  package struct Result: Equatable, Sendable {
    package var start: Int
    package var candidates: [Candidate]

    package init(start: Int, candidates: [Candidate]) {
      self.start = start
      self.candidates = candidates
    }

    /// What all candidates go on with after the part that was typed (`typed` bytes of it), and whether only one is left.
    package func insertion(typed: String) -> String {
      guard let first = candidates.first else { return "" }
      if candidates.count == 1 {
        return String(decoding: Array(first.text.utf8).dropFirst(typed.utf8.count), as: UTF8.self)
          + first.suffix
      }
      var common = Array(first.text.utf8)
      for candidate in candidates.dropFirst() {
        let length = zip(common, candidate.text.utf8).prefix { $0 == $1 }.count
        common.removeLast(common.count - length)
      }
      // Not half a character.
      while !common.isEmpty, String(validating: common, as: UTF8.self) == nil {
        common.removeLast()
      }
      return String(decoding: common.dropFirst(typed.utf8.count), as: UTF8.self)
    }
  }

  package var schema: APISchema?
  package var mode: LineParser.Mode
  package var nodes: [String]
  /// The commands of the human monitor, when known.
  package var humanCommands: [String]
  /// Files that begin with a text.
  package var files: (String) -> [String]
  /// Values that only the server knows, such as the labels of character devices: asked with command, path and what was typed.
  package var values: (_ command: String, _ path: [String], _ typed: String) -> [String]

  package init(
    schema: APISchema?, mode: LineParser.Mode = .qmp, nodes: [String] = [],
    humanCommands: [String] = [], files: @escaping (String) -> [String] = { _ in [] },
    values: @escaping (String, [String], String) -> [String] = { _, _, _ in [] }
  ) {
    self.schema = schema
    self.mode = mode
    self.nodes = nodes
    self.humanCommands = humanCommands
    self.files = files
    self.values = values
  }

  /// What can stand where the cursor is.
  package func complete(_ line: String, cursor: Int) -> Result {
    let bytes = Array(line.utf8)
    let before = String(decoding: bytes.prefix(max(0, min(cursor, bytes.count))), as: UTF8.self)
    var words = Words(before).list
    let end = before.utf8.count
    if words.last.map({ $0.range.upperBound < end }) ?? true {
      words.append(Word(text: "", range: end..<end, firstQuoted: nil))
    }
    if let first = words.first, first.text.hasPrefix("@") {
      if words.count == 1 {
        return result(first, nodes.map { Candidate("@" + $0) })
      }
      words.removeFirst()
    }
    return complete(words, mode)
  }

  // MARK: -

  private func complete(_ words: [Word], _ mode: LineParser.Mode) -> Result {
    guard let first = words.first, let last = words.last else {
      return Result(start: 0, candidates: [])
    }
    if first.text.hasPrefix("!") || (mode != .qmp && !first.text.hasPrefix("/")) {
      guard words.count == 1 else { return Result(start: last.range.lowerBound, candidates: []) }
      let mark = first.text.hasPrefix("!") ? "!" : ""
      return result(first, humanCommands.map { Candidate(mark + $0) })
    }
    let slash = first.text.hasPrefix("/")
    if words.count == 1 { return result(first, names(slash: slash)) }
    let name = slash ? String(first.text.dropFirst()) : first.text
    let rest = Array(words.dropFirst())
    switch name {
    case "help": return rest.count == 1 ? result(last, helpTopics) : none(last)
    case "events", "wait": return result(last, eventNames)
    case "hmp":
      return rest.count == 1 ? result(last, humanCommands.map { Candidate($0) }) : none(last)
    case "oob", "qmp": return complete(rest, .qmp)
    case "select", "expect":
      return rest.count == 1 ? none(last) : complete(Array(rest.dropFirst()), .qmp)
    case "watch":
      let options = rest.prefix { $0.text.hasPrefix("-") }.count
      return rest.count > 2 * options
        ? complete(Array(rest.dropFirst(2 * options)), mode) : none(last)
    case "source" where rest.count == 1, "add-fd" where rest.count == 1,
      "getfd" where rest.count == 2:
      return result(
        last, files(last.text).map { Candidate($0, suffix: $0.hasSuffix("/") ? "" : " ") })
    case "set":
      let choices = rest.count == 1 ? Action.Setting.allCases.map(\.rawValue) : ["on", "off"]
      return result(last, choices.map { Candidate($0) })
    default: return argument(of: name, Array(rest.dropLast()), last)
    }
  }

  private func none(_ word: Word) -> Result {
    Result(start: word.range.lowerBound, candidates: [])
  }

  private func result(_ word: Word, _ candidates: [Candidate]) -> Result {
    let typed = Array(word.text.utf8)
    return Result(
      start: word.range.lowerBound,
      candidates: candidates.filter { $0.text.utf8.starts(with: typed) }
        .sorted { $0.text < $1.text })
  }

  private func names(slash: Bool) -> [Candidate] {
    let mark = slash ? "/" : ""
    let own = LineParser.builtins.map { Candidate(mark + $0.name, note: $0.summary) }
    if slash { return own }
    let ownNames = Set(own.map(\.text))
    let commands = (schema?.commands.keys).map(Array.init) ?? []
    return own + commands.filter { !ownNames.contains($0) }.map { Candidate($0) }
  }

  private var helpTopics: [Candidate] { names(slash: false) + eventNames }

  private var eventNames: [Candidate] {
    (schema?.events.keys).map { $0.map { Candidate($0) } } ?? []
  }

  /// The name or the value of an argument.
  private func argument(of command: String, _ earlier: [Word], _ word: Word) -> Result {
    guard let schema, schema.commands[command] != nil else { return none(word) }
    let builder = ArgumentBuilder { path, given in
      schema.kind(of: path, command: command, given: given)
    }
    // What cannot be read yet chooses no variant.
    let given = (try? builder.build(earlier.filter { ArgumentBuilder.split($0) != nil })) ?? [:]
    if let (path, mark) = ArgumentBuilder.split(word) {
      return value(command, path, mark.end, given, word, schema)
    }
    var path = word.text.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
    let typed = path.popLast() ?? ""
    let prefix = path.isEmpty ? "" : path.joined(separator: ".") + "."
    let type: String
    var value: JSONValue? = .object(given)
    if path.isEmpty {
      type = schema.commands[command]?.arguments ?? ""
    } else {
      guard let member = schema.member(at: path, command: command, given: given) else {
        return none(word)
      }
      type = member.type
      for step in path { value = value?[step] }
    }
    let candidates = schema.members(of: type, given: value).compactMap { member -> Candidate? in
      guard member.name.utf8.starts(with: typed.utf8) else { return nil }
      let isTaken = value?.objectValue?.position(of: member.name) != nil
      var isObject = false
      if case .object? = schema.kind(member.type) { isObject = true }
      guard !isTaken || isObject else { return nil }
      let note = (member.isOptional ? "optional " : "") + schema.title(member.type)
      return Candidate(prefix + member.name, suffix: isObject ? "." : "=", note: note)
    }
    return result(word, candidates)
  }

  private func value(
    _ command: String, _ path: [String], _ valueStart: Int, _ given: JSONObject, _ word: Word,
    _ schema: APISchema
  ) -> Result {
    let typed = String(decoding: Array(word.text.utf8)[valueStart...], as: UTF8.self)
    var words: [String] = []
    if let member = schema.member(at: path, command: command, given: given) {
      words = schema.values(of: member.type)
    }
    if words.isEmpty { words = values(command, path, typed) }
    let candidates = words.filter { $0.utf8.starts(with: typed.utf8) }
      .map { Candidate($0, suffix: $0.hasSuffix("/") ? "" : " ") }
    // The value alone is shown and replaced. Quotes before it were typed, too.
    let start = word.range.upperBound - typed.utf8.count
    return Result(start: start, candidates: candidates)
  }
}
