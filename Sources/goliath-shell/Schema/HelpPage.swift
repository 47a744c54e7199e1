package import JSON

/// Inline help: lines of text about a command or an event, from the server's schema.
package struct HelpPage {
  let schema: APISchema
  /// What the server says about it in words, when it does.
  package var documentation: Documentation?

  package init(_ schema: APISchema, documentation: Documentation? = nil) {
    self.schema = schema
    self.documentation = documentation
  }

  /// What the shell itself can do.
  package static var overview: [String] {
    var lines = [
      "A line is a QMP command: NAME [ARGUMENT=VALUE…], NAME {JSON}, or a whole JSON request.",
      "Members of objects have dots: backend.type=null. NAME:=JSON gives a value in JSON.",
      "With several nodes a line goes to all; @NODE LINE sends it to one. Tab completes.",
      "",
      "The shell's own words, also with a slash before them:",
    ]
    let width = LineParser.builtins.map { $0.usage.count }.filter { $0 <= 28 }.max() ?? 0
    for entry in LineParser.builtins {
      if entry.usage.count > width {
        lines.append("  \(entry.usage)")
        lines.append("  " + String(repeating: " ", count: width + 2) + entry.summary)
      } else {
        let padding = String(repeating: " ", count: width - entry.usage.count + 2)
        lines.append("  \(entry.usage)\(padding)\(entry.summary)")
      }
    }
    lines.append("")
    lines.append("help NAME or NAME ? tells about a command or an event of the server.")
    return lines
  }

  /// The page about a command, an event, or a word of the shell; nil when there is none of that name.
  package func lines(about name: String) -> [String]? {
    if let command = schema.commands[name] { return page(name, command) }
    if let data = schema.events[name] {
      var lines = ["\(name): an event"]
      lines += summary
      lines += section("data", data, documentation?.arguments)
      return lines
    }
    return nil
  }

  // MARK: -

  private var summary: [String] {
    guard let text = documentation?.summary, !text.isEmpty else { return [] }
    return [""]
      + HelpPage.wrapped(text.split(whereSeparator: \.isWhitespace).map(String.init), indent: "  ")
  }

  private func page(_ name: String, _ command: APISchema.Command) -> [String] {
    var usage = name
    for member in schema.members(of: command.arguments, given: nil) {
      let text = "\(member.name)=…"
      usage += member.isOptional ? " [\(text)]" : " \(text)"
    }
    var lines = [usage]
    lines += summary
    lines += section("arguments", command.arguments, documentation?.arguments)
    switch schema.kind(command.answer) {
    case .object(let members, _, _)? where members.isEmpty: break
    case .object?: lines += section("answer", command.answer, documentation?.answer)
    case .list(let element)?:
      lines += ["", "answer: \(schema.title(command.answer))"]
      lines += members(of: element, depth: 1, documentation?.answer)
    case nil: break
    default: lines += ["", "answer: \(schema.title(command.answer))"]
    }
    if command.allowsOutOfBand { lines += ["", "may run out of band"] }
    if !command.features.isEmpty {
      lines += ["", "features: \(command.features.joined(separator: ", "))"]
    }
    return lines
  }

  private func section(
    _ title: String, _ type: String, _ words: [String: String]?
  ) -> [String] {
    let lines = members(of: type, depth: 1, words)
    return lines.isEmpty ? [] : ["", "\(title):"] + lines
  }

  /// The members of an object type, two levels deep: name, type, whether optional, and what the server says about it.
  private func members(
    of type: String, depth: Int, _ words: [String: String]? = nil
  ) -> [String] {
    guard case .object(let members, let tag, let variants)? = schema.kind(type) else { return [] }
    let indent = String(repeating: "  ", count: depth)
    let width = members.map(\.name.count).max() ?? 0
    var lines: [String] = []
    for member in members {
      let padding = String(repeating: " ", count: width - member.name.count)
      var line = "\(indent)\(member.name)\(padding)  \(schema.title(member.type))"
      if member.isOptional { line += ", optional" }
      if member.features.contains("deprecated") { line += ", deprecated" }
      if depth == 1, let text = words?[member.name] { line += ": \(text)" }
      lines.append(line)
      if case .enumeration(let values)? = schema.kind(member.type), values.count > 6 {
        lines += HelpPage.wrapped(values, indent: indent + "  ")
      }
      if depth < 2 { lines += self.members(of: element(member.type), depth: depth + 1) }
    }
    if let tag {
      for (value, variant) in variants.sorted(by: { $0.key < $1.key }) {
        let more = self.members(of: variant, depth: depth + 1)
        if depth < 2, !more.isEmpty { lines += ["\(indent)with \(tag)=\(value):"] + more }
      }
    }
    return lines
  }

  private func element(_ type: String) -> String {
    if case .list(let element)? = schema.kind(type) { return element }
    return type
  }

  /// Words in lines of at most 78 columns.
  static func wrapped(_ words: [String], indent: String) -> [String] {
    var lines: [String] = []
    var line = indent
    for word in words {
      if line.count > indent.count, line.count + word.count + 1 > 78 {
        lines.append(line)
        line = indent
      }
      line += (line.count > indent.count ? " " : "") + word
    }
    if line.count > indent.count { lines.append(line) }
    return lines
  }
}
