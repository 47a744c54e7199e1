import FoundationEssentials
import JSON

/// Reads `goliath.json` and the files that it lists, and checks what JSON Schema alone cannot say:
/// that everything is described, that references exist, that unions cover their tag.
struct Reader {
  private let folder: String
  private var api = API()
  /// The file and entry being read, for messages.
  private var context = ""

  static func read(manifest: String) throws -> API {
    let folder = manifest.split(separator: "/", omittingEmptySubsequences: false).dropLast()
    var reader = Reader(folder: folder.isEmpty ? "." : folder.joined(separator: "/"))
    let list = try reader.parse(path: manifest)["files"]?.arrayValue ?? []
    for name in list.compactMap(\.stringValue) { try reader.readFile(name) }
    try reader.resolve()
    return reader.api
  }

  private init(folder: String) { self.folder = folder }

  // MARK: - Files

  private func parse(path: String) throws -> JSONValue {
    guard let data = FileManager.default.contents(atPath: path) else {
      throw SchemaError(description: "\(path): cannot be read")
    }
    do throws(JSONError) { return try JSONValue(parsing: Array(data)) } catch {
      throw SchemaError(description: "\(path): \(error.text)")
    }
  }

  private mutating func readFile(_ name: String) throws {
    context = name
    let root = try parse(path: "\(folder)/\(name)")
    var file = SchemaFile(
      name: name, title: try text("title", of: root),
      description: try text("description", of: root))
    for (name, schema) in root["$defs"]?.objectValue ?? [:] {
      context = "\(file.name): \(name)"
      let definition = try readDefinition(name, schema)
      if api.definitions.updateValue(definition, forKey: name) != nil {
        throw fault("is defined twice")
      }
      file.definitions.append(definition)
    }
    for (name, entry) in root["commands"]?.objectValue ?? [:] {
      context = "\(file.name): \(name)"
      file.commands.append(try readCommand(name, entry))
    }
    for (name, entry) in root["events"]?.objectValue ?? [:] {
      context = "\(file.name): \(name)"
      file.events.append(try readEvent(name, entry))
    }
    api.files.append(file)
  }

  // MARK: - Definitions

  private func readDefinition(_ name: String, _ schema: JSONValue) throws -> Definition {
    let kind: Definition.Kind
    if let values = schema["enum"]?.arrayValue {
      kind = .enumeration(try readEnum(values.compactMap(\.stringValue), schema))
    } else if schema["x-discriminator"] != nil {
      kind = .union(try readUnion(schema))
    } else if let cases = schema["oneOf"]?.arrayValue {
      kind = .alternate(try cases.map { AlternateCase(type: try reference($0)) })
    } else if schema["type"]?.stringValue == "object" {
      let bases = try (schema["allOf"]?.arrayValue ?? []).map { try named($0) }
      kind = .structure(Structure(bases: bases, members: try readMembers(schema)))
    } else {
      throw fault("is neither enum, union, alternate nor object")
    }
    return Definition(
      name: name, description: try text("description", of: schema),
      since: try text("x-since", of: schema), features: try features(schema), kind: kind,
      source: schema)
  }

  private func readEnum(_ values: [String], _ schema: JSONValue) throws -> [EnumValue] {
    let descriptions = schema["x-descriptions"]
    return try values.map { value in
      guard let description = descriptions?[value]?.stringValue, !description.isEmpty else {
        throw fault("value '\(value)' has no description")
      }
      let features = try features(schema["x-value-features"]?[value] ?? [:])
      return EnumValue(name: value, description: description, features: features)
    }
  }

  private func readMembers(_ schema: JSONValue) throws -> [Member] {
    let required = Set((schema["required"]?.arrayValue ?? []).compactMap(\.stringValue))
    let properties = schema["properties"]?.objectValue ?? [:]
    for name in required where properties[name] == nil {
      throw fault("requires '\(name)', which it does not have")
    }
    return try properties.map { name, property in
      guard let description = property["description"]?.stringValue, !description.isEmpty else {
        throw fault("member '\(name)' has no description")
      }
      return Member(
        name: name, type: try reference(property), isOptional: !required.contains(name),
        description: description, features: try features(property))
    }
  }

  private func readUnion(_ schema: JSONValue) throws -> Union {
    let tagName = try text("x-discriminator", of: schema)
    let members = try readMembers(schema)
    guard let tag = members.first(where: { $0.name == tagName && !$0.isOptional }) else {
      throw fault("has no required member '\(tagName)' to tell its branches apart")
    }
    var branches: [Branch] = []
    for branch in schema["oneOf"]?.arrayValue ?? [] {
      guard let discriminator = branch["properties"]?[tagName] else {
        throw fault("has a branch that does not say its '\(tagName)'")
      }
      if let values = discriminator["enum"]?.arrayValue {
        branches += values.compactMap(\.stringValue).map { Branch(value: $0, content: .empty) }
        continue
      }
      let value = try text("const", of: discriminator)
      if branch["$ref"] != nil {
        branches.append(Branch(value: value, content: .flat(try named(branch))))
      } else if branch["properties"]?["data"] != nil {
        let data = try readMembers(branch.removing(tagName)).first { $0.name == "data" }
        guard let data, !data.isOptional else { throw fault("has an optional 'data'") }
        branches.append(Branch(value: value, content: .data(data)))
      } else {
        branches.append(Branch(value: value, content: .empty))
      }
    }
    return Union(allMembers: members, tag: tag, branches: branches)
  }

  // MARK: - Commands and events

  private func readCommand(_ name: String, _ entry: JSONValue) throws -> Command {
    let arguments: Command.Arguments
    switch entry["arguments"] {
    case nil: arguments = .members([])
    case let schema? where schema["$ref"] != nil: arguments = .type(try named(schema))
    case let schema?: arguments = .members(try readMembers(schema))
    }
    let flags = Set((entry["x-flags"]?.arrayValue ?? []).compactMap(\.stringValue))
    if let unknown = flags.subtracting(Self.commandFlags).sorted().first {
      throw fault("has the unknown flag '\(unknown)'")
    }
    if flags.isSuperset(of: ["coroutine", "allow-oob"]) {
      throw fault("cannot both wait and run out of band")
    }
    let examples = try (entry["examples"]?.arrayValue ?? []).map { example in
      Example(
        description: example["description"]?.stringValue ?? "",
        request: try value("request", of: example).text,
        reply: try value("reply", of: example).text)
    }
    return Command(
      name: name, description: try text("description", of: entry),
      since: try text("x-since", of: entry), arguments: arguments,
      returns: try entry["returns"].map { try reference($0) },
      returnsDescription: entry["returns"]?["description"]?.stringValue ?? "",
      features: try features(entry), flags: flags,
      constant: entry["x-constant"]?.stringValue, examples: examples, source: entry)
  }

  private func readEvent(_ name: String, _ entry: JSONValue) throws -> Event {
    var throttle: (milliseconds: Int, key: String?)?
    if let limit = entry["x-rate-limit"] {
      guard let milliseconds = limit["milliseconds"]?.intValue else {
        throw fault("has a rate limit without milliseconds")
      }
      throttle = (milliseconds, limit["key"]?.stringValue)
    }
    return Event(
      name: name, description: try text("description", of: entry),
      since: try text("x-since", of: entry),
      members: try entry["data"].map { try readMembers($0) } ?? [],
      features: try features(entry), throttle: throttle, source: entry)
  }

  // MARK: - Parts

  private func features(_ schema: JSONValue) throws -> [Feature] {
    var features = try (schema["x-features"]?.objectValue ?? [:]).map { name, description in
      guard let text = description.stringValue, !text.isEmpty else {
        throw fault("feature '\(name)' has no description")
      }
      return Feature(name: name, description: text)
    }
    if schema["deprecated"]?.boolValue == true,
      !features.contains(where: { $0.name == "deprecated" }
      )
    {
      features.append(Feature(name: "deprecated", description: "May go in a later version."))
    }
    return features
  }

  private static let commandFlags: Set<String> = [
    "allow-oob", "allow-preconfig", "coroutine", "raw-arguments", "read-only",
  ]

  private static let integerFormats: Set<String> = [
    "int", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "size",
  ]

  private func reference(_ schema: JSONValue) throws -> TypeReference {
    if schema["$ref"] != nil { return .named(try named(schema)) }
    switch schema["type"]?.stringValue {
    case "string"?: return .builtin("string")
    case "boolean"?: return .builtin("boolean")
    case "number"?: return .builtin("number")
    case "null"?: return .builtin("null")
    case "integer"?:
      let format = schema["format"]?.stringValue ?? "int"
      guard Self.integerFormats.contains(format) else {
        throw fault("uses the unknown integer format '\(format)'")
      }
      return .builtin(format)
    case "array"?: return .array(try reference(try value("items", of: schema)))
    case nil where schema["x-any"]?.boolValue == true: return .builtin("any")
    default: throw fault("uses a type that cannot be named; put it under $defs")
    }
  }

  /// The type name at the end of a `$ref`.
  private func named(_ schema: JSONValue) throws -> String {
    let target = try text("$ref", of: schema)
    guard let name = target.split(separator: "/").last, target.contains("#/$defs/") else {
      throw fault("has the reference '\(target)', which is not to a $defs entry")
    }
    return String(name)
  }

  private func text(_ key: String, of value: JSONValue) throws -> String {
    guard let text = value[key]?.stringValue, !text.isEmpty else {
      throw fault("has no '\(key)'")
    }
    return text
  }

  private func value(_ key: String, of schema: JSONValue) throws -> JSONValue {
    guard let value = schema[key] else { throw fault("has no '\(key)'") }
    return value
  }

  private func fault(_ text: String) -> SchemaError {
    SchemaError(description: "schemas/\(context) \(text)")
  }

  // MARK: - Resolution

  /// Checks that every name that is used exists and is what its use needs.
  private mutating func resolve() throws {
    for file in api.files {
      for definition in file.definitions {
        context = "\(file.name): \(definition.name)"
        try check(definition)
      }
      for command in file.commands {
        context = "\(file.name): \(command.name)"
        switch command.arguments {
        case .members(let members): for member in members { try check(member.type) }
        case .type(let name): try check(.named(name))
        }
        try command.returns.map { try check($0) }
      }
      for event in file.events {
        context = "\(file.name): \(event.name)"
        for member in event.members { try check(member.type) }
      }
    }
  }

  private func check(_ definition: Definition) throws {
    switch definition.kind {
    case .enumeration: break
    case .structure(let structure):
      for base in structure.bases { try checkStructure(base) }
      for member in structure.members { try check(member.type) }
    case .union(let union):
      for member in union.members { try check(member.type) }
      guard case .named(let name) = union.tag.type,
        case .enumeration(let values)? = api.definitions[name]?.kind
      else { throw fault("has a tag that is no enum") }
      let covered = union.branches.map(\.value)
      guard Set(covered).count == covered.count, Set(covered) == Set(values.map(\.name)) else {
        throw fault("does not have exactly one branch for each value of \(name)")
      }
      for branch in union.branches {
        switch branch.content {
        case .empty: break
        case .flat(let name): try checkStructure(name)
        case .data(let member): try check(member.type)
        }
      }
    case .alternate(let cases): for alternative in cases { try check(alternative.type) }
    }
  }

  private func checkStructure(_ name: String) throws {
    guard case .structure? = api.definitions[name]?.kind else {
      throw fault("needs \(name) to be a struct")
    }
  }

  private func check(_ type: TypeReference) throws {
    switch type {
    case .builtin: break
    case .array(let element): try check(element)
    case .named(let name):
      if api.definitions[name] == nil { throw fault("uses \(name), which is not defined") }
    }
  }
}

extension JSONValue {
  /// This object schema without one property.
  fileprivate func removing(_ property: String) -> JSONValue {
    guard var object = objectValue, var properties = self["properties"]?.objectValue else {
      return self
    }
    properties[property] = nil
    object["properties"] = .object(properties)
    return .object(object)
  }
}
