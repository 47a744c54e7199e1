/// Writes `Commands.swift` (the command table and its dispatch) and `Event.swift`.
enum DispatchEmitter {
  // MARK: - Commands

  static func commands(of api: API) -> String {
    let commands = api.files.flatMap(\.commands)
    var output = Output()
    output.line("// Generated from schemas/. Edit those files.")
    output.line()
    output.line("package import JSON")
    output.line()
    let protocols = api.files
      .filter { $0.commands.contains { $0.constant == nil } }.map { "\($0.stem)Commands" }
    output.document("A class that can run every command.")
    output.line("package protocol CommandHandlers: \(protocols.joined(separator: ", ")) {}")
    output.line()
    emitOutOfBandProtocol(commands.filter { $0.isOutOfBand }, &output)
    output.line()
    output.document("Every command; the raw value is the name on the wire.")
    output.line("package enum Command: String, CaseIterable, Sendable {")
    for command in commands {
      output.document(command.description)
      let identifier = Names.identifier(command.name)
      let raw = identifier == command.name ? "" : " = " + Names.literal(command.name)
      output.line("case \(Names.declared(command.name))\(raw)")
    }
    output.line("}")
    output.line()
    output.line("extension Command {")
    emitFlag(
      "allowsOutOfBand", "Whether it may be sent with `exec-oob`.", "allow-oob", commands, &output)
    output.line()
    emitFlag(
      "allowsPreconfig", "Whether it works before the machine is initialised (`-preconfig`).",
      "allow-preconfig", commands, &output)
    output.line()
    emitFlag(
      "isAsynchronous", "Whether its handler may wait; run it with `dispatchAsynchronously`.",
      "coroutine", commands, &output)
    output.line()
    emitFlag(
      "isReadOnly", "Whether it only looks: a monitor that may only read may run it.",
      "read-only", commands, &output)
    output.line()
    emitDispatch(commands, &output)
    output.line()
    emitAsynchronousDispatch(commands.filter { $0.isAsynchronous }, &output)
    output.line()
    emitOutOfBandDispatch(commands.filter { $0.isOutOfBand }, &output)
    output.line("}")
    return output.text
  }

  /// Handlers of the commands that run on any thread.
  private static func emitOutOfBandProtocol(_ commands: [Command], _ output: inout Output) {
    output.document(
      """
      Handlers of the commands that may be sent with `exec-oob`. They run on any thread, also while
      the main loop is busy.
      """)
    output.line("package protocol OutOfBandHandlers: AnyObject, Sendable {")
    for command in commands {
      output.document(command.description)
      output.line(command.requirement)
    }
    output.line("}")
  }

  /// Writes `DecliningHandlers.swift`.
  static func declining(of api: API) -> String {
    var output = Output()
    output.line("// Generated from schemas/. Edit those files.")
    output.line()
    output.line("package import JSON")
    output.line()
    output.document(
      """
      Handlers that decline every command which the conforming class does not implement itself: for
      tools and tests that need a few commands only.
      """)
    output.line("package protocol DecliningHandlers: CommandHandlers {}")
    output.line()
    output.line("extension DecliningHandlers {")
    for command in api.files.flatMap(\.commands) where command.constant == nil {
      output.document("Declines.")
      output.line("package \(command.requirement) {")
      output.line("throw QAPIError(\"\(command.name) is not served here\")")
      output.line("}")
    }
    output.line("}")
    return output.text
  }

  private static func emitFlag(
    _ property: String, _ description: String, _ flag: String, _ commands: [Command],
    _ output: inout Output
  ) {
    output.document(description)
    output.line("package var \(property): Bool {")
    let names = commands.filter { $0.flags.contains(flag) }
      .map { "." + Names.identifier($0.name) }
    if names.isEmpty {
      output.line("false")
    } else {
      output.line("switch self {")
      output.line("case \(names.joined(separator: ", ")): true")
      if names.count < commands.count { output.line("default: false") }
      output.line("}")
    }
    output.line("}")
  }

  private static func emitDispatch(_ commands: [Command], _ output: inout Output) {
    output.document(
      """
      Reads the arguments, runs the command's handler and prints what it gives. All checks of the
      arguments come before the handler runs. Throws what the client is to read. Answers false, and
      does nothing, for a command with `isAsynchronous`.
      """)
    output.line("package func dispatch<Handlers: CommandHandlers>(")
    output.line("  _ arguments: JSONObject, to handlers: Handlers, into printer: inout JSONPrinter")
    output.line(") throws(QAPIError) -> Bool {")
    output.line("var decoder = ObjectDecoder(arguments)")
    output.line("switch self {")
    for command in commands where !command.isAsynchronous {
      output.line("case .\(Names.identifier(command.name)):")
      emitCall(command, &output)
    }
    if commands.contains(where: \.isAsynchronous) { output.line("default: return false") }
    output.line("}")
    output.line("}")
  }

  private static func emitAsynchronousDispatch(_ commands: [Command], _ output: inout Output) {
    output.document(
      """
      `dispatch` for commands with `isAsynchronous`. Answers false, and does nothing, for the others.
      """)
    output.line("package func dispatchAsynchronously<Handlers: CommandHandlers>(")
    output.line("  _ arguments: JSONObject, to handlers: Handlers, into printer: inout JSONPrinter")
    output.line(") async throws(QAPIError) -> Bool {")
    emitSelectedCalls(commands, &output)
    output.line("}")
  }

  private static func emitOutOfBandDispatch(_ commands: [Command], _ output: inout Output) {
    output.document(
      """
      `dispatch` for commands with `allowsOutOfBand`, on any thread. Answers false, and does nothing,
      for the others.
      """)
    output.line("package func dispatchOutOfBand<Handlers: OutOfBandHandlers>(")
    output.line("  _ arguments: JSONObject, to handlers: Handlers, into printer: inout JSONPrinter")
    output.line(") throws(QAPIError) -> Bool {")
    emitSelectedCalls(commands, &output)
    output.line("}")
  }

  private static func emitSelectedCalls(_ commands: [Command], _ output: inout Output) {
    if commands.isEmpty {
      output.line("return false")
      return
    }
    output.line("var decoder = ObjectDecoder(arguments)")
    output.line("switch self {")
    for command in commands {
      output.line("case .\(Names.identifier(command.name)):")
      emitCall(command, &output)
    }
    output.line("default: return false")
    output.line("}")
  }

  private static func emitCall(_ command: Command, _ output: inout Output) {
    var labels: [String] = []
    switch command.arguments {
    case _ where command.takesRawArguments:
      labels = ["arguments"]
    case .type(let name):
      output.line("  let arguments = try \(name)(members: &decoder)")
      labels = ["arguments"]
    case .members(let members):
      for member in members {
        let type = Names.type(member.type) + (member.isOptional ? "?" : "")
        let how = member.isOptional ? "optional" : "required"
        let name = Names.declared(member.name)
        output.line("  let \(name): \(type) = try decoder.\(how)(\(Names.literal(member.name)))")
        labels.append("\(name): \(name)")
      }
    }
    if !command.takesRawArguments { output.line("  try decoder.finish()") }
    if let constant = command.constant {
      output.line("  printer.print(printed: Schema.\(constant))")
      output.line("  return true")
      return
    }
    let call =
      "try \(command.isAsynchronous ? "await " : "")handlers."
      + "\(Names.identifier(command.name))(\(labels.joined(separator: ", ")))"
    if command.returns == nil {
      output.line("  \(call)")
      output.line("  printer.beginObject()")
      output.line("  printer.endObject()")
    } else {
      output.line("  let result = \(call)")
      output.line("  result.print(into: &printer)")
    }
    output.line("  return true")
  }

  // MARK: - Events

  static func events(of api: API) -> String {
    let events = api.files.flatMap(\.events)
    var output = Output()
    output.line("// Generated from schemas/. Edit those files.")
    output.line()
    output.line("package import JSON")
    output.line()
    output.document("Something that happened to the machine, for every client of a monitor.")
    output.line("package enum Event: Equatable, Sendable {")
    for event in events {
      output.document(event.description)
      let members = event.members.map { member in
        "\(Names.declared(member.name)): \(Names.type(member.type))"
          + (member.isOptional ? "? = nil" : "")
      }
      let payload = members.isEmpty ? "" : "(\(members.joined(separator: ", ")))"
      output.line("case \(Names.declared(event.name))\(payload)")
    }
    output.line("}")
    output.line()
    output.line("extension Event {")
    output.document("The name on the wire.")
    output.line("package var name: String {")
    output.line("switch self {")
    for event in events {
      output.line("case .\(Names.identifier(event.name)): \(Names.literal(event.name))")
    }
    output.line("}")
    output.line("}")
    output.line()
    output.document("The members of `data`, or nil when the event has none.")
    output.line("package var data: JSONObject? {")
    output.line("switch self {")
    for event in events { emitData(event, &output) }
    output.line("}")
    output.line("}")
    output.line()
    output.document("How often it may be sent, or nil when every one is.")
    output.line("package var throttle: EventThrottle? {")
    output.line("switch self {")
    for event in events {
      guard let throttle = event.throttle else { continue }
      let key = throttle.key.map(Names.literal) ?? "nil"
      output.line(
        "case .\(Names.identifier(event.name)): "
          + "EventThrottle(milliseconds: \(throttle.milliseconds), key: \(key))")
    }
    if events.contains(where: { $0.throttle == nil }) { output.line("default: nil") }
    output.line("}")
    output.line("}")
    output.line("}")
    return output.text
  }

  private static func emitData(_ event: Event, _ output: inout Output) {
    let name = Names.identifier(event.name)
    if event.members.isEmpty {
      output.line("case .\(name): return nil")
      return
    }
    let bindings = event.members.map { "let \(Names.declared($0.name))" }
    output.line("case .\(name)(\(bindings.joined(separator: ", "))):")
    output.line("  var object = JSONObject()")
    for member in event.members {
      output.line(
        "  object[\(Names.literal(member.name))] = "
          + "\(Names.declared(member.name))\(member.isOptional ? "?" : "").encoded")
    }
    output.line("  return object")
  }
}
