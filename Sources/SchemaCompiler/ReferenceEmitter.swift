/// Writes the reference pages: one Markdown page per schema file, and a table of contents.
struct ReferenceEmitter {
  private let api: API
  private var text = ""

  /// File names and texts.
  static func pages(of api: API) -> [(name: String, text: String)] {
    var pages: [(String, String)] = [("README.md", contents(of: api))]
    for file in api.files {
      var emitter = ReferenceEmitter(api: api)
      emitter.emit(file)
      pages.append((page(of: file), emitter.text))
    }
    return pages
  }

  private static func page(of file: SchemaFile) -> String {
    file.name.dropLast(".json".count) + ".md"
  }

  private static func contents(of api: API) -> String {
    var text = """
      # QMP reference

      Generated from `schemas/`. Commands are sent as `{"execute": NAME, "arguments": {...}}`; members marked *optional* may be left out.

      | page | commands | events |
      | --- | --- | --- |

      """
    for file in api.files {
      let commands = file.commands.map { "`\($0.name)`" }.joined(separator: ", ")
      let events = file.events.map { "`\($0.name)`" }.joined(separator: ", ")
      text += "| [\(file.title)](\(page(of: file))) | \(commands) | \(events) |\n"
    }
    return text
  }

  private init(api: API) { self.api = api }

  private mutating func emit(_ file: SchemaFile) {
    text = "# \(file.title)\n\n\(file.description)\n"
    if !file.commands.isEmpty { text += "\n## Commands\n" }
    for command in file.commands { emit(command) }
    if !file.events.isEmpty { text += "\n## Events\n" }
    for event in file.events { emit(event) }
    if !file.definitions.isEmpty { text += "\n## Types\n" }
    for definition in file.definitions { emit(definition) }
  }

  private mutating func emit(_ command: Command) {
    text += "\n### `\(command.name)`\n\n\(command.description)\n"
    switch command.arguments {
    case .members(let members) where members.isEmpty: text += "\nNo arguments.\n"
    case .members(let members): table("argument", members)
    case .type(let name): text += "\nArguments: those of `\(name)`.\n"
    }
    if let returns = command.returns {
      let description =
        command.returnsDescription.isEmpty ? "" : ": " + command.returnsDescription
      text += "\nReturns \(show(returns))\(description)\n"
    }
    notes(command.since, command.features)
    let flags = command.flags.sorted().map { "`\($0)`" }.joined(separator: ", ")
    if !flags.isEmpty { text += "\nFlags: \(flags).\n" }
    for example in command.examples {
      text += "\n\(example.description)\n\n```\n-> \(example.request)\n<- \(example.reply)\n```\n"
    }
  }

  private mutating func emit(_ event: Event) {
    text += "\n### `\(event.name)`\n\n\(event.description)\n"
    if !event.members.isEmpty { table("member of `data`", event.members) }
    if let throttle = event.throttle {
      let each = throttle.key.map { " for each `\($0)`" } ?? ""
      text += "\nAt most one every \(throttle.milliseconds) ms\(each); the newest is kept.\n"
    }
    notes(event.since, event.features)
  }

  private mutating func emit(_ definition: Definition) {
    text += "\n### `\(definition.name)`\n\n\(definition.description)\n"
    switch definition.kind {
    case .enumeration(let values):
      text += "\n| value | meaning |\n| --- | --- |\n"
      for value in values { text += "| `\(value.name)` | \(value.description) |\n" }
    case .structure:
      let members = api.members(of: definition.name)
      if !members.isEmpty { table("member", members) }
    case .union(let union):
      table("member", union.allMembers)
      text += "\n| `\(union.tag.name)` | further members |\n| --- | --- |\n"
      for branch in union.branches {
        let content =
          switch branch.content {
          case .empty: "none"
          case .flat(let name): "those of `\(name)`"
          case .data(let member): "`data`: \(show(member.type))"
          }
        text += "| `\(branch.value)` | \(content) |\n"
      }
    case .alternate(let cases):
      text += "\nOne of: \(cases.map { show($0.type) }.joined(separator: ", ")).\n"
    }
    notes(definition.since, definition.features)
  }

  private mutating func table(_ heading: String, _ members: [Member]) {
    text += "\n| \(heading) | type | meaning |\n| --- | --- | --- |\n"
    for member in members {
      let optional = member.isOptional ? ", *optional*" : ""
      text += "| `\(member.name)` | \(show(member.type))\(optional) | \(member.description) |\n"
    }
  }

  private mutating func notes(_ since: String, _ features: [Feature]) {
    for feature in features { text += "\nFeature `\(feature.name)`: \(feature.description)\n" }
    text += "\nSince \(since).\n"
  }

  private func show(_ type: TypeReference) -> String {
    switch type {
    case .builtin(let name): "\(name)"
    case .named(let name): "`\(name)`"
    case .array(let element): "list of \(show(element))"
    }
  }
}
