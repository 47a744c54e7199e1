import JSON

/// Writes `Schema.swift`: the answers to `query-qmp-schema` and `query-commands`, already printed.
///
/// As in QEMU, the names of types stay private: each type gets a number in the order of first use,
/// built-in types keep their names, `[T]` is an array of T.
struct IntrospectionEmitter {
  private let api: API
  private var numbers: [String: Int] = [:]
  /// Types in the order of their numbers or of first use, still to be described.
  private var pending: [Entity] = []
  private var seen: Set<String> = []

  private enum Entity {
    case empty
    case builtin(String)
    case array(name: String, element: String)
    case definition(Definition)
    /// An object that the schemas do not name.
    case object([Member])
  }

  static func emit(_ api: API) -> String {
    var output = Output()
    output.line("// Generated from schemas/. Edit those files.")
    output.line()
    output.document("Answers that are known when the program is built, as JSON text.")
    output.line("package enum Schema {")
    output.document("The answer to `query-qmp-schema`.")
    output.line("package static let schema: StaticString = \(staticLiteral(schema(of: api)))")
    output.document("The answer to `query-commands`.")
    output.line("package static let commands: StaticString = \(staticLiteral(commands(of: api)))")
    output.line("}")
    return output.text
  }

  /// Writes `SchemaDocuments.swift`: every entry with its documentation, already printed.
  static func documents(of api: API) -> String {
    var output = Output()
    output.line("// Generated from schemas/. Edit those files.")
    output.line()
    output.document("The entries of the schemas as JSON text.")
    output.line("package enum SchemaDocuments {")
    output.document(
      """
      What a name stands for (`command`, `event`, `type`) and its entry; nil when there is none. A
      reference `#/$defs/NAME` in it is to the type of that name.
      """)
    output.line(
      "package static func document(_ name: String) -> (kind: String, text: StaticString)? {")
    output.line("switch name {")
    for file in api.files {
      let entries =
        file.commands.map { ("command", $0.name, $0.source) }
        + file.events.map { ("event", $0.name, $0.source) }
        + file.definitions.map { ("type", $0.name, $0.source) }
      for (kind, name, source) in entries {
        output.line(
          "case \(Names.literal(name)): (\(Names.literal(kind)), ##\"\(local(source).text)\"##)")
      }
    }
    output.line("default: nil")
    output.line("}")
    output.line("}")
    output.line("}")
    return output.text
  }

  /// A schema with references that name no file.
  private static func local(_ value: JSONValue) -> JSONValue {
    switch value {
    case .object(let object):
      return .object(
        JSONObject(
          object.map { name, member in
            guard name == "$ref", let target = member.stringValue,
              let mark = target.firstIndex(of: "#")
            else { return (name, local(member)) }
            return (name, .string(String(target[mark...])))
          }))
    case .array(let elements): return .array(elements.map { local($0) })
    default: return value
    }
  }

  private static func staticLiteral(_ value: JSONValue) -> String { "#\"\(value.text)\"#" }

  static func commands(of api: API) -> JSONValue {
    .array(api.files.flatMap(\.commands).map { ["name": .string($0.name)] })
  }

  static func schema(of api: API) -> JSONValue {
    var emitter = IntrospectionEmitter(api: api)
    var entries: [JSONValue] = []
    for file in api.files {
      for command in file.commands { entries.append(emitter.entry(command)) }
      for event in file.events { entries.append(emitter.entry(event)) }
    }
    var position = 0
    while position < emitter.pending.count {
      entries.append(emitter.describe(emitter.pending[position]))
      position += 1
    }
    return .array(entries)
  }

  private init(api: API) { self.api = api }

  // MARK: - Commands and events

  private mutating func entry(_ command: Command) -> JSONValue {
    let arguments =
      switch command.arguments {
      case .members(let members): use(members: members, key: "arguments of \(command.name)")
      case .type(let name): use(.named(name))
      }
    var object: JSONObject = [
      "meta-type": "command", "name": .string(command.name), "arg-type": .string(arguments),
      "ret-type": .string(command.returns.map { use($0) } ?? use(members: [], key: "")),
    ]
    if command.flags.contains("allow-oob") { object["allow-oob"] = true }
    return .object(adding(command.features, to: object))
  }

  private mutating func entry(_ event: Event) -> JSONValue {
    let data = use(members: event.members, key: "data of \(event.name)")
    let object: JSONObject = [
      "meta-type": "event", "name": .string(event.name), "arg-type": .string(data),
    ]
    return .object(adding(event.features, to: object))
  }

  // MARK: - Types

  /// The public name of a type; queues its description at first use.
  private mutating func use(_ type: TypeReference) -> String {
    switch type {
    case .builtin(let name):
      let (visible, _) = Self.builtin(name)
      if seen.insert(visible).inserted { pending.append(.builtin(name)) }
      return visible
    case .array(let element):
      let elementName = use(element)
      let name = "[\(elementName)]"
      if seen.insert(name).inserted { pending.append(.array(name: name, element: elementName)) }
      return name
    case .named(let name):
      if let number = numbers[name] { return String(number) }
      guard let definition = api.definitions[name] else { return name }
      return number(name, .definition(definition))
    }
  }

  /// The public name of an object that only a command, an event or a branch has.
  private mutating func use(members: [Member], key: String) -> String {
    let name = members.isEmpty ? "{}" : key
    if let number = numbers[name] { return String(number) }
    return number(name, members.isEmpty ? .empty : .object(members))
  }

  private mutating func number(_ name: String, _ entity: Entity) -> String {
    let number = numbers.count
    numbers[name] = number
    pending.append(entity)
    names.append(String(number))
    return String(number)
  }

  /// Names of the numbered entities in `pending`, in order.
  private var names: [String] = []
  private var described = 0

  private mutating func describe(_ entity: Entity) -> JSONValue {
    switch entity {
    case .builtin(let name):
      let (visible, json) = Self.builtin(name)
      return ["name": .string(visible), "meta-type": "builtin", "json-type": .string(json)]
    case .array(let name, let element):
      return ["name": .string(name), "meta-type": "array", "element-type": .string(element)]
    case .empty:
      return ["name": nextName(), "meta-type": "object", "members": []]
    case .object(let members):
      let name = nextName()
      return ["name": name, "meta-type": "object", "members": describe(members)]
    case .definition(let definition):
      let name = nextName()
      var object: JSONObject = ["name": name]
      switch definition.kind {
      case .enumeration(let values):
        object["meta-type"] = "enum"
        object["members"] = .array(
          values.map { .object(adding($0.features, to: ["name": .string($0.name)])) })
        object["values"] = .array(values.map { .string($0.name) })
      case .structure:
        object["meta-type"] = "object"
        object["members"] = describe(api.members(of: definition.name))
      case .union(let union):
        object["meta-type"] = "object"
        object["members"] = describe(union.allMembers)
        object["tag"] = .string(union.tag.name)
        object["variants"] = .array(
          union.branches.map { branch in
            ["case": .string(branch.value), "type": .string(use(branch))]
          })
      case .alternate(let cases):
        object["meta-type"] = "alternate"
        object["members"] = .array(cases.map { ["type": .string(use($0.type))] })
      }
      return .object(adding(definition.features, to: object))
    }
  }

  private mutating func nextName() -> JSONValue {
    described += 1
    return .string(names[described - 1])
  }

  private mutating func use(_ branch: Branch) -> String {
    switch branch.content {
    case .empty: use(members: [], key: "")
    case .flat(let name): use(.named(name))
    case .data(let member): use(members: [member], key: "data of \(member.type)")
    }
  }

  private mutating func describe(_ members: [Member]) -> JSONValue {
    .array(
      members.map { member in
        var object: JSONObject = [
          "name": .string(member.name), "type": .string(use(member.type)),
        ]
        if member.isOptional { object["default"] = .null }
        return .object(adding(member.features, to: object))
      })
  }

  private func adding(_ features: [Feature], to object: JSONObject) -> JSONObject {
    if features.isEmpty { return object }
    var object = object
    object["features"] = .array(features.map { .string($0.name) })
    return object
  }

  private static func builtin(_ name: String) -> (visible: String, json: String) {
    switch name {
    case "string": ("str", "string")
    case "boolean": ("bool", "boolean")
    case "number": ("number", "number")
    case "null": ("null", "null")
    case "any": ("any", "value")
    default: ("int", "int")
    }
  }
}
