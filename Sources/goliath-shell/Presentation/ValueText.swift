package import JSON

/// Values for people: members as `name  value`, lists of flat objects as tables, everything else by indentation.
package struct ValueText {
  let style: Style
  /// Columns of the terminal; a table that is wider becomes a list of blocks.
  let width: Int

  package init(style: Style, width: Int = 100) {
    self.style = style
    self.width = max(20, width)
  }

  /// The lines of a value; none for `{}`.
  package func lines(_ value: JSONValue) -> [String] {
    switch value {
    case .object(let object): lines(object)
    case .array(let elements): lines(elements)
    case .string(let text):
      Style.harmless(ValueText.withoutLastLineEnd(text))
        .split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    default: [scalar(value)]
    }
  }

  /// A number in as few digits as tell it from others; on the wire a fraction has 17.
  static func number(_ value: JSONValue) -> String {
    guard case .double(let real) = value else { return value.text }
    let text = real.description
    return text.hasSuffix(".0") ? String(text.dropLast(2)) : text
  }

  // MARK: -

  /// Monitors end lines with CR LF.
  private static func withoutLastLineEnd(_ text: String) -> String {
    var scalars = Array(text.unicodeScalars)
    scalars.removeAll { $0 == "\r" }
    if scalars.last == "\n" { scalars.removeLast() }
    var result = String.UnicodeScalarView()
    result.append(contentsOf: scalars)
    return String(result)
  }

  private func scalar(_ value: JSONValue) -> String {
    switch value {
    case .string(let text):
      let plain = Style.harmless(text)
      let needsQuotes = plain.isEmpty || plain.contains("\n") || plain.contains("\t")
      return style.paint(needsQuotes ? value.text : plain, .string)
    case .bool, .null: return style.paint(value.text, .word)
    case .int, .uint, .double: return style.paint(ValueText.number(value), .number)
    case .array(let elements) where elements.isEmpty: return style.paint("[]", .faint)
    case .array(let elements): return elements.map(scalar).joined(separator: ", ")
    case .object: return style.paint("{}", .faint)
    }
  }

  /// How many columns `scalar` takes.
  private func columns(_ value: JSONValue) -> Int {
    ValueText(style: Style(coloured: false), width: width).scalar(value).count
  }

  private static func isFlat(_ value: JSONValue) -> Bool {
    switch value {
    case .object(let object): object.isEmpty
    case .array(let elements):
      elements.isEmpty
        || (elements.count <= 8
          && elements.allSatisfy { element in
            switch element {
            case .object, .array: false
            default: true
            }
          })
    default: true
    }
  }

  /// Members in the order of their names: the wire's order is that of a hash.
  private static func sorted(_ object: JSONObject) -> [JSONObject.Member] {
    Array(object).sorted { $0.name < $1.name }
  }

  private func lines(_ object: JSONObject) -> [String] {
    let members = ValueText.sorted(object)
    let flat = members.filter { ValueText.isFlat($0.value) }
    let nameWidth = flat.map { Style.harmless($0.name).count }.max() ?? 0
    var lines: [String] = []
    for (name, value) in members {
      let shown = Style.harmless(name)
      if ValueText.isFlat(value) {
        let padding = String(repeating: " ", count: max(0, nameWidth - shown.count) + 2)
        lines.append(style.paint(shown, .name) + padding + scalar(value))
      } else {
        lines.append(style.paint(shown + ":", .name))
        lines += self.lines(value).map { "  " + $0 }
      }
    }
    return lines
  }

  private func lines(_ elements: [JSONValue]) -> [String] {
    if elements.isEmpty { return [style.paint("(none)", .faint)] }
    let objects = elements.compactMap(\.objectValue)
    if objects.count == elements.count {
      if let table = table(objects) { return table }
      return objects.enumerated().flatMap { index, object -> [String] in
        let lines = lines(object)
        return lines.enumerated().map { ($0.offset == 0 ? "- " : "  ") + $0.element }
      }
    }
    return elements.flatMap { element -> [String] in
      if ValueText.isFlat(element) { return [scalar(element)] }
      return lines(element).enumerated().map { ($0.offset == 0 ? "- " : "  ") + $0.element }
    }
  }

  /// A table with a column for every member; nil when a value is no plain one or the table would be too wide.
  private func table(_ objects: [JSONObject]) -> [String]? {
    var names: [String] = []
    var seen: Set<String> = []
    for object in objects {
      for (name, value) in object {
        guard ValueText.isFlat(value) else { return nil }
        if seen.insert(name).inserted { names.append(name) }
      }
    }
    guard !names.isEmpty else { return nil }
    names.sort { ValueText.rank($0) < ValueText.rank($1) }
    let widths = names.map { name in
      max(
        Style.harmless(name).count, objects.map { $0[name].map(columns) ?? 0 }.max() ?? 0)
    }
    guard widths.reduce(0, +) + 2 * (names.count - 1) <= width else { return nil }
    func row(_ cells: [(text: String, columns: Int)]) -> String {
      var line = ""
      for (index, cell) in cells.enumerated() {
        line += cell.text
        if index + 1 < cells.count {
          line += String(repeating: " ", count: max(0, widths[index] - cell.columns) + 2)
        }
      }
      return line
    }
    var lines = [
      row(
        names.map { name in
          let shown = Style.harmless(name)
          return (style.paint(shown, .heading), shown.count)
        })
    ]
    for object in objects {
      lines.append(
        row(names.map { name in object[name].map { (scalar($0), columns($0)) } ?? ("", 0) }))
    }
    return lines
  }

  /// What identifies a thing stands first in a table.
  private static func rank(_ name: String) -> (Int, String) {
    let first = ["name", "id", "label", "qom-path"]
    return (first.firstIndex(of: name) ?? first.count, name)
  }
}
