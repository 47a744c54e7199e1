import JSON

/// Why a line means nothing; the sentence for the user.
package struct LineError: Error, Equatable, Sendable, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// Makes the `arguments` of a command out of words: `key=value`, `key.member=value`, `key.0=value`, `key:=JSON`.
struct ArgumentBuilder {
  /// What a value without quotes means: what the command's schema says, when it is known.
  let kind: (_ path: [String], _ given: JSONObject) -> ValueKind?

  /// How the text of a value is to be read.
  enum ValueKind: Equatable { case string, number, boolean, any }

  func build(_ words: [Word]) throws(LineError) -> JSONObject {
    var tree = Tree()
    for word in words {
      guard let (path, mark) = ArgumentBuilder.split(word) else {
        throw LineError("'\(word.text)' is no argument: write NAME=VALUE or NAME:=JSON")
      }
      let text = String(decoding: Array(word.text.utf8)[mark.end...], as: UTF8.self)
      let value: JSONValue
      if mark.isJSON {
        value = try ArgumentBuilder.json(text, path)
      } else if let quoted = word.firstQuoted, quoted == mark.end {
        value = .string(text)
      } else {
        value = try read(text, path, tree.given)
      }
      guard tree.insert(value, path[...]) else {
        throw LineError("'\(path.joined(separator: "."))' is given twice")
      }
    }
    return tree.object
  }

  /// The name of an argument before `=` or `:=`, and where the value begins.
  static func split(_ word: Word) -> (path: [String], mark: (end: Int, isJSON: Bool))? {
    let bytes = Array(word.text.utf8)
    guard let equals = bytes.firstIndex(of: UInt8(ascii: "=")), equals > 0 else { return nil }
    let isJSON = bytes[equals - 1] == UInt8(ascii: ":")
    let name = bytes[..<(isJSON ? equals - 1 : equals)]
    let path = String(decoding: name, as: UTF8.self)
      .split(separator: ".", omittingEmptySubsequences: false).map(String.init)
    guard path.allSatisfy({ !$0.isEmpty }) else { return nil }
    return (path, (equals + 1, isJSON))
  }

  private static func json(_ text: String, _ path: [String]) throws(LineError) -> JSONValue {
    do throws(JSONError) { return try JSONValue(parsing: text) } catch {
      throw LineError("\(path.joined(separator: ".")): \(error.text)")
    }
  }

  private func read(
    _ text: String, _ path: [String], _ given: JSONObject
  ) throws(LineError) -> JSONValue {
    if let first = text.utf8.first, first == UInt8(ascii: "{") || first == UInt8(ascii: "[") {
      return try ArgumentBuilder.json(text, path)
    }
    guard let literal = ArgumentBuilder.literal(text) else { return .string(text) }
    return kind(path, given) == .string ? .string(text) : literal
  }

  /// The number, truth value or null that a text spells; nil when it is plain text.
  static func literal(_ text: String) -> JSONValue? {
    switch text {
    case "true", "True": .bool(true)
    case "false", "False": .bool(false)
    case "null": .null
    default: number(text)
    }
  }

  private static func number(_ text: String) -> JSONValue? {
    let digits = text.hasPrefix("-") ? text.dropFirst() : text[...]
    if digits.hasPrefix("0x") || digits.hasPrefix("0X") {
      guard digits.count == text.count, let value = UInt64(digits.dropFirst(2), radix: 16) else {
        return nil
      }
      return JSONValue(value)
    }
    guard let first = digits.utf8.first, (0x30...0x39).contains(first) else { return nil }
    let value = try? JSONValue(parsing: text)
    switch value {
    case .int, .uint, .double: return value
    default: return nil
    }
  }
}

/// Arguments while they are put together: objects, and lists by number.
private struct Tree {
  private indirect enum Node {
    case leaf(JSONValue)
    case branch(names: [String], children: [String: Node])
  }

  private var root = Node.branch(names: [], children: [:])

  /// Adds a value; false when the place is taken.
  mutating func insert(_ value: JSONValue, _ path: ArraySlice<String>) -> Bool {
    Tree.insert(value, path, &root)
  }

  private static func insert(
    _ value: JSONValue, _ path: ArraySlice<String>, _ node: inout Node
  ) -> Bool {
    guard let name = path.first, case .branch(var names, var children) = node else { return false }
    let rest = path.dropFirst()
    if rest.isEmpty {
      guard children[name] == nil else { return false }
      children[name] = .leaf(value)
      names.append(name)
    } else {
      if children[name] == nil { names.append(name) }
      var child = children[name] ?? .branch(names: [], children: [:])
      guard insert(value, rest, &child) else { return false }
      children[name] = child
    }
    node = .branch(names: names, children: children)
    return true
  }

  /// What there is so far.
  var given: JSONObject { object }

  var object: JSONObject {
    if case .object(let object) = Tree.value(root, isRoot: true) { return object }
    return [:]
  }

  private static func value(_ node: Node, isRoot: Bool) -> JSONValue {
    switch node {
    case .leaf(let value): return value
    case .branch(let names, let children):
      let indices = names.compactMap { Int($0) }.sorted()
      if !isRoot, indices.count == names.count, indices == Array(0..<names.count) {
        return .array(
          indices.compactMap { children[String($0)].map { value($0, isRoot: false) } })
      }
      var object = JSONObject()
      for name in names { object[name] = children[name].map { value($0, isRoot: false) } }
      return .object(object)
    }
  }
}
