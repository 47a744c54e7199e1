/// One option of a verb: how it is written, what it does, what the help says.
package struct OptionEntry: Sendable {
  /// What it is known by: the letter, or the long name when there is no letter.
  package let key: String
  /// The spellings, with their hyphens.
  package let names: [String]
  /// What stands for the value in the help; nil when there is none.
  package let value: String?
  package let help: String
  /// `--name` may stand alone, and its value only after `=`.
  package let isValueOptional: Bool

  package init(
    _ names: String, _ value: String? = nil, _ help: String, isValueOptional: Bool = false
  ) {
    self.names = names.split(separator: " ").map(String.init)
    self.value = value
    self.help = help
    self.isValueOptional = isValueOptional
    key = String((self.names.first ?? "").drop { $0 == "-" })
  }
}

/// The words behind the verb, told apart.
package struct Arguments: Sendable {
  /// Options in the order of the line, by key.
  package var options: [(key: String, value: String)] = []
  package var operands: [String] = []

  /// Whether a switch is there.
  package func has(_ key: String) -> Bool { options.contains { $0.key == key } }

  /// The last value of an option.
  package func value(_ key: String) -> String? { options.last { $0.key == key }?.value }

  /// All values of an option.
  package func values(_ key: String) -> [String] {
    options.filter { $0.key == key }.map(\.value)
  }

  /// Reads `words` by a table: long names may be cut short as long as they stay unique, letters may be joined, options may follow operands,
  /// `--` ends them. Throws for unknown options and missing values.
  package init(_ words: [String], _ table: [OptionEntry]) throws(ToolError) {
    var rest = words[...]
    while let word = rest.popFirst() {
      if word == "--" {
        operands += rest
        return
      }
      if word.hasPrefix("--") {
        try long(word, &rest, table)
      } else if word.hasPrefix("-"), word != "-" {
        try letters(word, &rest, table)
      } else {
        operands.append(word)
      }
    }
  }

  private mutating func long(
    _ word: String, _ rest: inout ArraySlice<String>, _ table: [OptionEntry]
  ) throws(ToolError) {
    let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
    let name = String(parts.first ?? "")
    let attached = parts.count > 1 ? String(parts[1]) : nil
    let exact = table.first { $0.names.contains(name) }
    let similar = table.filter { $0.names.contains { $0.hasPrefix(name) } }
    guard let entry = exact ?? (similar.count == 1 ? similar[0] : nil) else {
      throw .usage("unrecognized option '\(word)'")
    }
    guard entry.value != nil else {
      if attached != nil { throw .usage("unrecognized option '\(word)'") }
      return options.append((entry.key, ""))
    }
    if entry.isValueOptional { return options.append((entry.key, attached ?? "")) }
    guard let value = attached ?? rest.popFirst() else {
      throw .usage("missing argument for option '\(word)'")
    }
    options.append((entry.key, value))
  }

  private mutating func letters(
    _ word: String, _ rest: inout ArraySlice<String>, _ table: [OptionEntry]
  ) throws(ToolError) {
    var letters = word.dropFirst()
    while let letter = letters.popFirst() {
      guard let entry = table.first(where: { $0.names.contains("-\(letter)") }) else {
        throw .usage("unrecognized option '\(word)'")
      }
      guard entry.value != nil, !entry.isValueOptional else {
        options.append((entry.key, ""))
        continue
      }
      guard let value = letters.isEmpty ? rest.popFirst() : String(letters) else {
        throw .usage("missing argument for option '\(word)'")
      }
      return options.append((entry.key, value))
    }
  }
}
