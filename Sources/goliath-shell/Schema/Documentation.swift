package import JSON

/// The words of a server about a command or an event: Goliath's `x-schema` tells them.
package struct Documentation: Equatable, Sendable {
  /// What it does or means.
  package var summary = ""
  /// The members of a command's arguments, or of an event's data.
  package var arguments: [String: String] = [:]
  /// The members of a command's answer, or of its elements.
  package var answer: [String: String] = [:]

  package init() {}

  /// Reads the answer of `x-schema`; types that it refers to are asked of `type`, which answers theirs.
  package init(_ entry: JSONValue, type: (String) -> JSONValue?) {
    summary = entry["description"]?.stringValue ?? ""
    guard let schema = entry["schema"] else { return }
    if let arguments = schema["arguments"] ?? schema["data"] {
      self.arguments = Documentation.members(arguments, type, depth: 0)
    }
    if let returned = schema["returns"] {
      answer = Documentation.members(returned["items"] ?? returned, type, depth: 0)
    }
  }

  /// The descriptions of an object's members, those of its bases among them.
  private static func members(
    _ schema: JSONValue, _ type: (String) -> JSONValue?, depth: Int
  ) -> [String: String] {
    // A server's references may go in a circle.
    guard depth < 4 else { return [:] }
    var result: [String: String] = [:]
    if let name = schema["$ref"]?.stringValue?.split(separator: "/").last,
      let entry = type(String(name)), let found = entry["schema"]
    {
      result = members(found, type, depth: depth + 1)
    }
    for part in schema["allOf"]?.arrayValue ?? [] {
      result.merge(members(part, type, depth: depth + 1)) { first, _ in first }
    }
    for (name, member) in schema["properties"]?.objectValue ?? [:] {
      result[name] = member["description"]?.stringValue
    }
    return result
  }
}
