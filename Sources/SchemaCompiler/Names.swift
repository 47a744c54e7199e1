/// Swift names of the schemas' names.
enum Names {
  /// `host-qmp-quit` → `hostQmpQuit`, `UUID` → `uuid`, `x86_64` → `x86_64`, `query-status` → `queryStatus`.
  static func identifier(_ name: String) -> String {
    let plain = name.allSatisfy { !$0.isLowercase } ? name.lowercased() : name
    var words: [String] = []
    for word in plain.split(whereSeparator: { $0 == "-" || $0 == "_" || $0 == "." }) {
      if let last = words.last, last.last?.isNumber == true, word.first?.isNumber == true {
        words.append("_" + word)
      } else if words.isEmpty {
        words.append(String(word))
      } else {
        words.append(word.prefix(1).uppercased() + word.dropFirst())
      }
    }
    var identifier = words.joined()
    if identifier.first?.isNumber == true { identifier = "_" + identifier }
    return identifier
  }

  /// `identifier` for a place where a keyword needs back-ticks.
  static func declared(_ name: String) -> String {
    let identifier = identifier(name)
    return keywords.contains(identifier) ? "`\(identifier)`" : identifier
  }

  /// A Swift string literal.
  static func literal(_ text: String) -> String {
    var literal = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": literal += "\\\""
      case "\\": literal += "\\\\"
      case "\n": literal += "\\n"
      default: literal.unicodeScalars.append(scalar)
      }
    }
    return literal + "\""
  }

  /// A type as Swift writes it.
  static func type(_ reference: TypeReference) -> String {
    switch reference {
    case .named(let name): name
    case .array(let element): "[\(type(element))]"
    case .builtin(let name):
      switch name {
      case "string": "String"
      case "boolean": "Bool"
      case "number": "Double"
      case "null", "any": "JSONValue"
      case "int", "int64": "Int"
      case "size": "UInt64"
      case "int8", "int16", "int32": "Int" + name.dropFirst(3)
      default: "UInt" + name.dropFirst(4)
      }
    }
  }

  private static let keywords: Set<String> = [
    "as", "break", "case", "catch", "class", "continue", "default", "defer", "do", "else", "enum",
    "extension", "false", "for", "func", "guard", "if", "import", "in", "init", "inout", "internal",
    "is", "let", "nil", "operator", "private", "protocol", "public", "repeat", "return", "self",
    "static", "struct", "subscript", "super", "switch", "throw", "throws", "true", "try", "var",
    "where", "while",
  ]
}

/// Text with indentation, line by line.
struct Output {
  private(set) var text = ""
  private var depth = 0

  /// Adds a line; a line that begins with `}` stands one level less deep, one that ends with `{` deepens.
  mutating func line(_ line: String = "") {
    if line.hasPrefix("}") { depth -= 1 }
    text += line.isEmpty ? "\n" : String(repeating: "  ", count: max(depth, 0)) + line + "\n"
    if line.hasSuffix("{") { depth += 1 }
  }

  /// Adds a documentation comment, one line for each line of `description`.
  mutating func document(_ description: String) {
    for part in description.split(separator: "\n", omittingEmptySubsequences: false) {
      line(part.isEmpty ? "///" : "/// " + part)
    }
  }
}
