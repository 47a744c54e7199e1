package import JSON

/// Replies and events as lines, for people and for scripts.
package struct MessageText {
  /// How answers are shown.
  package enum Format: Equatable, Sendable {
    case people
    /// The server's own text, one message in a line.
    case json
    /// JSON over several lines.
    case prettyJSON

    /// Whether programs may read it.
    var isJSON: Bool { self != .people }
  }

  package let style: Style
  package let format: Format
  /// Several nodes: every line or block says which.
  package let namesNodes: Bool
  private let width: Int

  package init(style: Style, format: Format, namesNodes: Bool, width: Int = 100) {
    self.style = style
    self.format = format
    self.namesNodes = namesNodes
    self.width = width
  }

  /// The lines of a reply: `value` is what was returned.
  package func reply(
    _ value: JSONValue, raw: [UInt8], node: String, says done: String? = nil
  ) -> [String] {
    if format.isJSON { return [json(raw, node)] }
    var lines = ValueText(style: style, width: width - (namesNodes ? 2 : 0)).lines(value)
    if lines.isEmpty, let done { lines = [style.paint(done, .faint)] }
    return block(lines, node)
  }

  /// The line of a failed command.
  package func failure(class errorClass: String, _ text: String, raw: [UInt8]?, node: String)
    -> [String]
  {
    if format.isJSON, let raw { return [json(raw, node)] }
    let kind = errorClass == "GenericError" || errorClass.isEmpty ? "" : "\(errorClass): "
    let line = style.paint("error:", .error) + " " + Style.harmless(kind + text)
    return [prefix(node) + line]
  }

  /// The values that `--select` found.
  package func selection(_ values: [JSONValue], node: String) -> [String] {
    values.map { prefix(node) + (format.isJSON ? $0.text : Style.harmless($0.plainText)) }
  }

  /// An event in one line: time of day, name, data. `offset` is that of local time from UTC in seconds.
  package func event(
    _ event: JSONValue, raw: [UInt8], node: String, offset: Int64 = 0
  ) -> [String] {
    if format.isJSON { return [json(raw, node)] }
    let name = event["event"]?.stringValue ?? "?"
    var line = style.paint(MessageText.time(event["timestamp"], offset), .faint)
    line += " " + style.paint(Style.harmless(name), .event)
    if let data = event["data"]?.objectValue, !data.isEmpty {
      for (name, value) in Array(data).sorted(by: { $0.name < $1.name }) {
        line += " " + style.paint(Style.harmless(name), .name) + "=" + compact(value)
      }
    }
    return [prefix(node) + line]
  }

  /// A text of the human monitor.
  package func human(_ text: String, node: String) -> [String] {
    if format.isJSON {
      let value: JSONValue =
        namesNodes ? ["node": .string(node), "return": .string(text)] : ["return": .string(text)]
      var printer = InsertionOrderPrinter()
      printer.print(value)
      return [String(decoding: printer.output, as: UTF8.self)]
    }
    if text.isEmpty { return [] }
    return block(ValueText(style: style, width: width).lines(.string(text)), node)
  }

  // MARK: -

  private func prefix(_ node: String) -> String {
    namesNodes ? style.paint(node + ":", .node) + " " : ""
  }

  /// Lines under the node's name, or behind it when there is one line.
  private func block(_ lines: [String], _ node: String) -> [String] {
    guard namesNodes else { return lines }
    if lines.count == 1 { return [prefix(node) + lines[0]] }
    if lines.isEmpty { return [] }
    return [style.paint(node + ":", .node)] + lines.map { "  " + $0 }
  }

  /// The message as the server wrote it; with several nodes, a member `node` comes first.
  private func json(_ raw: [UInt8], _ node: String) -> String {
    var text = String(decoding: raw, as: UTF8.self)
    if format == .prettyJSON, let value = try? JSONValue(parsing: raw) {
      text = String(decoding: value.printed(pretty: true), as: UTF8.self)
    }
    guard namesNodes, text.hasPrefix("{") else { return text }
    let name = JSONValue.string(node).text
    let rest = text.dropFirst().drop { $0.isWhitespace }
    return rest == "}" ? "{\"node\": \(name)}" : "{\"node\": \(name), \(rest)"
  }

  private func compact(_ value: JSONValue) -> String {
    switch value {
    case .string(let text):
      let plain = !text.isEmpty && text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F }
      return style.paint(plain ? text : value.text, .string)
    case .bool, .null: return style.paint(value.text, .word)
    case .int, .uint, .double: return style.paint(ValueText.number(value), .number)
    default: return value.text
    }
  }

  /// `HH:MM:SS.mmm` of an event's time stamp.
  static func time(_ stamp: JSONValue?, _ offset: Int64) -> String {
    guard let seconds = stamp?["seconds"]?.intValue, seconds >= 0,
      let micro = stamp?["microseconds"]?.intValue, (0..<1_000_000).contains(micro)
    else { return "--:--:--.---" }
    let day = 86400
    let local = ((seconds % day + Int(offset) % day) % day + day) % day
    func digits(_ number: Int, _ count: Int) -> String {
      let text = String(number)
      return String(repeating: "0", count: max(0, count - text.utf8.count)) + text
    }
    return
      "\(digits(local / 3600, 2)):\(digits(local / 60 % 60, 2)):\(digits(local % 60, 2))"
      + ".\(digits(micro / 1000, 3))"
  }
}
