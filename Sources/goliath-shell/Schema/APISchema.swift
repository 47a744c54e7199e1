package import JSON

/// The interface of a server as `query-qmp-schema` tells it: commands, events, and the types of their members.
package struct APISchema: Sendable {
  /// A command: the types of its arguments and its answer, by name.
  package struct Command: Equatable, Sendable {
    package let arguments: String
    package let answer: String
    package let allowsOutOfBand: Bool
    package let features: [String]
  }

  /// A member of an object.
  package struct Member: Equatable, Sendable {
    package let name: String
    package let type: String
    package let isOptional: Bool
    package let features: [String]
  }

  /// A type.
  package enum Kind: Equatable, Sendable {
    /// `string`, `int`, `number`, `boolean`, `null`, `object`, `array`, `value`.
    case builtin(String)
    case list(of: String)
    case enumeration([String])
    /// An object; with `tag`, the member of that name decides which type's members are there as well.
    case object([Member], tag: String?, variants: [String: String])
    case alternate([String])
  }

  package private(set) var commands: [String: Command] = [:]
  /// Events and the types of their data.
  package private(set) var events: [String: String] = [:]
  private var types: [String: Kind] = [:]

  /// Reads the answer of `query-qmp-schema`; entries that make no sense are left out. Nil when it is no list.
  package init?(_ answer: JSONValue) {
    guard let entries = answer.arrayValue else { return nil }
    for entry in entries { add(entry) }
  }

  private mutating func add(_ entry: JSONValue) {
    guard let name = entry["name"]?.stringValue, let kind = entry["meta-type"]?.stringValue else {
      return
    }
    switch kind {
    case "command":
      commands[name] = Command(
        arguments: entry["arg-type"]?.stringValue ?? "",
        answer: entry["ret-type"]?.stringValue ?? "",
        allowsOutOfBand: entry["allow-oob"]?.boolValue ?? false, features: Self.features(entry))
    case "event": events[name] = entry["arg-type"]?.stringValue ?? ""
    case "builtin": types[name] = .builtin(entry["json-type"]?.stringValue ?? "value")
    case "array": types[name] = .list(of: entry["element-type"]?.stringValue ?? "")
    case "enum":
      let members = entry["members"]?.arrayValue?.compactMap { $0["name"]?.stringValue }
      let values = members ?? entry["values"]?.arrayValue?.compactMap(\.stringValue)
      types[name] = .enumeration(values ?? [])
    case "alternate":
      types[name] = .alternate(
        (entry["members"]?.arrayValue ?? []).compactMap { $0["type"]?.stringValue })
    case "object":
      var variants: [String: String] = [:]
      for variant in entry["variants"]?.arrayValue ?? [] {
        guard let value = variant["case"]?.stringValue else { continue }
        variants[value] = variant["type"]?.stringValue
      }
      types[name] = .object(
        (entry["members"]?.arrayValue ?? []).compactMap(Self.member),
        tag: entry["tag"]?.stringValue, variants: variants)
    default: break
    }
  }

  private static func member(_ entry: JSONValue) -> Member? {
    guard let name = entry["name"]?.stringValue, let type = entry["type"]?.stringValue else {
      return nil
    }
    // A member that may be absent has a default, null when none is told.
    return Member(
      name: name, type: type, isOptional: entry.objectValue?.position(of: "default") != nil,
      features: features(entry))
  }

  private static func features(_ entry: JSONValue) -> [String] {
    entry["features"]?.arrayValue?.compactMap(\.stringValue) ?? []
  }

  // MARK: - Questions

  /// What a type is; nil when the server does not say.
  package func kind(_ type: String) -> Kind? {
    if let kind = types[type] { return kind }
    // Built-in types and lists need not be listed.
    switch type {
    case "str": return .builtin("string")
    case "int", "number", "any", "null": return .builtin(type)
    case "bool": return .builtin("boolean")
    default: break
    }
    guard type.hasPrefix("["), type.hasSuffix("]") else { return nil }
    return .list(of: String(type.dropFirst().dropLast()))
  }

  /// The members of an object type, those of the variant that `given` has chosen among them.
  package func members(of type: String, given: JSONValue?) -> [Member] {
    guard case .object(let own, let tag, let variants)? = kind(type) else { return [] }
    guard let tag, let chosen = given?[tag]?.stringValue, let variant = variants[chosen] else {
      return own
    }
    let names = Set(own.map(\.name))
    return own + members(of: variant, given: given).filter { !names.contains($0.name) }
  }

  /// The member at the end of a path, such as `["backend", "type"]`, in the arguments of a command.
  func member(at path: [String], command: String, given: JSONObject) -> Member? {
    guard let arguments = commands[command]?.arguments else { return nil }
    var type = arguments
    var value: JSONValue? = .object(given)
    var found: Member?
    for name in path {
      if case .list(let element)? = kind(type), Int(name) != nil {
        value = Int(name).flatMap { value?[$0] }
        found = Member(name: name, type: element, isOptional: true, features: [])
        type = element
        continue
      }
      guard let next = members(of: type, given: value).first(where: { $0.name == name }) else {
        return nil
      }
      found = next
      type = next.type
      value = value?[name]
    }
    return found
  }

  /// How the text of an argument is to be read.
  func kind(
    of path: [String], command: String, given: JSONObject
  ) -> ArgumentBuilder.ValueKind? {
    guard let member = member(at: path, command: command, given: given) else { return nil }
    switch kind(member.type) {
    case .enumeration?, .builtin("string")?: return .string
    case .builtin("int")?, .builtin("number")?: return .number
    case .builtin("boolean")?: return .boolean
    default: return .any
    }
  }

  /// The values that a member can be completed to: of an enumeration or a truth value.
  func values(of type: String) -> [String] {
    switch kind(type) {
    case .enumeration(let values)?: values
    case .builtin("boolean")?: ["true", "false"]
    case .alternate(let types)?: types.flatMap(values)
    case .list(let element)?: values(of: element)
    default: []
    }
  }

  /// A short name of a type for people, such as `str`, `[int]`, `on|off|auto`, `object`.
  func title(_ type: String) -> String {
    switch kind(type) {
    case .builtin(let name)?: name == "string" ? "str" : name == "boolean" ? "bool" : name
    case .list(let element)?: "[\(title(element))]"
    case .enumeration(let values)?:
      values.count <= 6 ? values.joined(separator: "|") : "one of \(values.count) words"
    case .object(let members, _, _)?: members.isEmpty ? "{}" : "object"
    case .alternate(let types)?: types.map(title).joined(separator: " or ")
    case nil: type
    }
  }
}
