import JSON

/// Writes the Swift file of one schema file: its types and the protocol of its commands.
struct TypeEmitter {
  private let api: API
  private var output = Output()

  static func emit(_ file: SchemaFile, of api: API) -> String {
    var emitter = TypeEmitter(api: api)
    emitter.output.line("// Generated from schemas/\(file.name). Edit that file.")
    let needsJSON =
      file.definitions.contains { definition in
        if case .enumeration = definition.kind { return false }
        return true
      } || file.commands.contains { $0.takesRawArguments }
    if needsJSON {
      emitter.output.line()
      emitter.output.line("package import JSON")
    }
    for definition in file.definitions { emitter.emit(definition) }
    emitter.emitProtocol(of: file)
    return emitter.output.text
  }

  private init(api: API) { self.api = api }

  // MARK: - Types

  /// The structure that is being written.
  private var structure: String?

  private mutating func emit(_ definition: Definition) {
    output.line()
    output.document(definition.description)
    switch definition.kind {
    case .enumeration(let values): emitEnum(definition.name, values)
    case .structure: emitStructure(definition.name)
    case .union(let union):
      if union.members.isEmpty {
        emitPlainUnion(definition.name, union)
      } else {
        emitUnion(definition.name, union)
      }
    case .alternate(let cases): emitAlternate(definition.name, cases)
    }
  }

  private mutating func emitEnum(_ name: String, _ values: [EnumValue]) {
    output.line("package enum \(name): String, QAPIEnum {")
    for value in values {
      output.document(value.description)
      let identifier = Names.identifier(value.name)
      let raw = identifier == value.name ? "" : " = " + Names.literal(value.name)
      output.line("case \(Names.declared(value.name))\(raw)")
    }
    output.line("}")
  }

  private mutating func emitStructure(_ name: String) {
    structure = name
    defer { structure = nil }
    let members = api.members(of: name)
    output.line("package struct \(name): QAPIObject, Equatable {")
    emitProperties(members)
    emitInitializer(members)
    output.line()
    output.document("Reads the members.")
    if members.isEmpty {
      output.line("package init(members decoder: inout ObjectDecoder) throws(QAPIError) {}")
      output.line()
      output.document("Adds the members.")
      output.line("package func encode(into object: inout JSONObject) {}")
    } else {
      output.line("package init(members decoder: inout ObjectDecoder) throws(QAPIError) {")
      for member in members { emitDecode(member) }
      output.line("}")
      output.line()
      output.document("Adds the members.")
      output.line("package func encode(into object: inout JSONObject) {")
      for member in members { emitEncode(member) }
      output.line("}")
      emitPrint(members)
    }
    output.line("}")
  }

  /// Prints the members in the order on the wire, which is known here.
  private mutating func emitPrint(_ members: [Member]) {
    output.line()
    output.document("Appends the JSON form's text.")
    output.line("package func print(into printer: inout JSONPrinter) {")
    output.line("printer.beginObject()")
    let order = JSONObject(members.map { ($0.name, JSONValue.null) }).wireOrder
    for member in order.map({ members[$0] }) {
      let name = Names.declared(member.name)
      let key = "\"\(Names.literal(member.name).dropFirst().dropLast())\": "
      let literal = Names.literal(key)
      if member.isOptional {
        output.line("if let value = \(name) {")
        output.line("printer.member(\(literal))")
        output.line("value.print(into: &printer)")
        output.line("}")
      } else {
        output.line("printer.member(\(literal))")
        output.line("\(name).print(into: &printer)")
      }
    }
    output.line("printer.endObject()")
    output.line("}")
  }

  /// A union whose tag is the only common member: a Swift enum.
  private mutating func emitPlainUnion(_ name: String, _ union: Union) {
    output.line("package enum \(name): QAPIObject, Equatable {")
    emitCases(union)
    output.line()
    emitTagProperty(union)
    output.line()
    output.document("Reads the tag and what it stands for.")
    output.line("package init(members decoder: inout ObjectDecoder) throws(QAPIError) {")
    emitTagDecode(union)
    emitBranchDecode(union, target: "self")
    output.line("}")
    output.line()
    output.document("Adds the tag and what it stands for.")
    output.line("package func encode(into object: inout JSONObject) {")
    output.line("object[\(Names.literal(union.tag.name))] = kind.encoded")
    emitBranchEncode(union, subject: "self")
    output.line("}")
    output.line("}")
  }

  /// A union with other common members: a struct with a `Branch`.
  private mutating func emitUnion(_ name: String, _ union: Union) {
    output.line("package struct \(name): QAPIObject, Equatable {")
    output.document("What `\(union.tag.name)` decides.")
    output.line("package enum Branch: Equatable, Sendable {")
    emitCases(union)
    output.line()
    emitTagProperty(union)
    output.line("}")
    output.line()
    emitProperties(union.members)
    output.document(union.tag.description)
    output.line("package var branch: Branch")
    let branch = Member(
      name: "branch", type: .named("Branch"), isOptional: false, description: "", features: [])
    emitInitializer(union.members + [branch])
    output.line()
    output.document("Reads the members.")
    output.line("package init(members decoder: inout ObjectDecoder) throws(QAPIError) {")
    for member in union.allMembers {
      if member.name == union.tag.name { emitTagDecode(union) } else { emitDecode(member) }
    }
    emitBranchDecode(union, target: "branch")
    output.line("}")
    output.line()
    output.document("Adds the members.")
    output.line("package func encode(into object: inout JSONObject) {")
    for member in union.members { emitEncode(member) }
    output.line("object[\(Names.literal(union.tag.name))] = branch.kind.encoded")
    emitBranchEncode(union, subject: "branch")
    output.line("}")
    output.line("}")
  }

  private mutating func emitCases(_ union: Union) {
    let descriptions = tagDescriptions(union)
    for branch in union.branches {
      output.document(descriptions[branch.value] ?? "")
      switch branch.content {
      case .empty: output.line("case \(Names.declared(branch.value))")
      case .flat(let type): output.line("case \(Names.declared(branch.value))(\(type))")
      case .data(let member):
        output.line("case \(Names.declared(branch.value))(\(Names.type(member.type)))")
      }
    }
  }

  private func tagDescriptions(_ union: Union) -> [String: String] {
    guard case .named(let name) = union.tag.type,
      case .enumeration(let values)? = api.definitions[name]?.kind
    else { return [:] }
    return Dictionary(uniqueKeysWithValues: values.map { ($0.name, $0.description) })
  }

  private mutating func emitTagProperty(_ union: Union) {
    output.document("The tag: \(union.tag.description)")
    output.line("package var kind: \(Names.type(union.tag.type)) {")
    output.line("switch self {")
    for branch in union.branches {
      output.line(
        "case .\(Names.identifier(branch.value)): .\(Names.identifier(branch.value))")
    }
    output.line("}")
    output.line("}")
  }

  private mutating func emitTagDecode(_ union: Union) {
    output.line(
      "let tag: \(Names.type(union.tag.type)) = try decoder.required("
        + "\(Names.literal(union.tag.name)))")
  }

  private mutating func emitBranchDecode(_ union: Union, target: String) {
    output.line("switch tag {")
    for branch in union.branches {
      let name = Names.identifier(branch.value)
      switch branch.content {
      case .empty: output.line("case .\(name): \(target) = .\(name)")
      case .flat(let type):
        output.line(
          "case .\(name): \(target) = .\(name)(try \(type)(members: &decoder))")
      case .data:
        output.line("case .\(name): \(target) = .\(name)(try decoder.required(\"data\"))")
      }
    }
    output.line("}")
  }

  private mutating func emitBranchEncode(_ union: Union, subject: String) {
    output.line("switch \(subject) {")
    for branch in union.branches {
      let name = Names.identifier(branch.value)
      switch branch.content {
      case .empty: output.line("case .\(name): break")
      case .flat: output.line("case .\(name)(let content): content.encode(into: &object)")
      case .data: output.line("case .\(name)(let data): object[\"data\"] = data.encoded")
      }
    }
    output.line("}")
  }

  /// A value of one of several JSON types.
  private mutating func emitAlternate(_ name: String, _ cases: [AlternateCase]) {
    // An object may hold the alternate that it stands for (`BlockdevRef`).
    output.line("package indirect enum \(name): QAPIType, Equatable {")
    for alternative in cases {
      let (label, _) = alternateCase(alternative.type)
      output.document("A value of this type.")
      output.line("case \(label)(\(Names.type(alternative.type)))")
    }
    output.line()
    output.document("Reads the value by its JSON type.")
    output.line("package init(decoding value: JSONValue, at place: Place) throws(QAPIError) {")
    output.line("switch value {")
    for alternative in cases {
      let (label, pattern) = alternateCase(alternative.type)
      output.line(
        "case \(pattern): self = .\(label)(try \(Names.type(alternative.type))"
          + "(decoding: value, at: place))")
    }
    output.line("default: throw .wrongType(place.path, expected: \(Names.literal(name)))")
    output.line("}")
    output.line("}")
    output.line()
    output.document("The JSON form.")
    output.line("package var encoded: JSONValue {")
    output.line("switch self {")
    for alternative in cases {
      output.line("case .\(alternateCase(alternative.type).label)(let value): value.encoded")
    }
    output.line("}")
    output.line("}")
    output.line("}")
  }

  private func alternateCase(_ type: TypeReference) -> (label: String, pattern: String) {
    switch type {
    case .array: return ("list", ".array")
    case .named(let name):
      if case .enumeration? = api.definitions[name]?.kind { return ("name", ".string") }
      return ("definition", ".object")
    case .builtin("string"): return ("string", ".string")
    case .builtin("boolean"): return ("boolean", ".bool")
    case .builtin("null"): return ("null", ".null")
    case .builtin("number"): return ("number", ".double, .int, .uint")
    case .builtin: return ("integer", ".int, .uint")
    }
  }

  // MARK: - Members

  private mutating func emitProperties(_ members: [Member]) {
    for member in members {
      output.document(member.description)
      output.line("package var \(Names.declared(member.name)): \(optionalType(member))")
    }
  }

  private mutating func emitInitializer(_ members: [Member]) {
    output.line()
    output.document("A value with the given members; those left out are absent.")
    let parameters = members.map { member in
      "\(Names.declared(member.name)): \(optionalType(member))"
        + (member.isOptional ? " = nil" : "")
    }
    output.line("package init(\(parameters.joined(separator: ", "))) {")
    for member in members {
      output.line("self.\(Names.identifier(member.name)) = \(Names.declared(member.name))")
    }
    output.line("}")
  }

  private mutating func emitDecode(_ member: Member) {
    let how = member.isOptional ? "optional" : "required"
    output.line(
      "\(Names.declared(member.name)) = try decoder.\(how)(\(Names.literal(member.name)))")
  }

  private mutating func emitEncode(_ member: Member) {
    let mark = member.isOptional ? "?" : ""
    output.line(
      "object[\(Names.literal(member.name))] = \(Names.declared(member.name))\(mark).encoded")
  }

  private func optionalType(_ member: Member) -> String {
    // A structure cannot hold itself in place.
    if let structure, case .named(structure) = member.type {
      return "Recursive<\(structure)>" + (member.isOptional ? "?" : "")
    }
    return Names.type(member.type) + (member.isOptional ? "?" : "")
  }

  // MARK: - Commands

  private mutating func emitProtocol(of file: SchemaFile) {
    let commands = file.commands.filter { $0.constant == nil }
    if commands.isEmpty { return }
    output.line()
    output.document("Handlers of the commands of schemas/\(file.name): \(file.title).")
    output.line("package protocol \(file.stem)Commands: AnyObject {")
    for command in commands {
      output.document(command.description)
      output.line(command.requirement)
    }
    output.line("}")
  }
}
