import Glibc
import Host
import JSON
import QAPI

/// Runs lines on the fleet and prints what comes back: the part that prompt and scripts share.
final class Session {
  let options: ProgramOptions
  let fleet: Fleet
  let output: Output
  let style: Style
  private(set) var parser: LineParser
  /// The server's interface, once it was asked for.
  private(set) var serverSchema: APISchema?
  private(set) var showsEvents: Bool
  private var isJSON: Bool
  private var hasTiming: Bool
  /// The lines entered, for `history`.
  var history: () -> [String] = { [] }
  /// A server said that it cannot start.
  private(set) var hasStartFailure = false
  /// Set by `exit`.
  private(set) var isOver = false
  private var sourceDepth = 0

  init(_ options: ProgramOptions, _ fleet: Fleet, _ output: Output, style: Style) {
    self.options = options
    self.fleet = fleet
    self.output = output
    self.style = style
    parser = LineParser(mode: options.mode)
    showsEvents = options.showsEvents || output.isInteractive
    isJSON = options.isJSON
    hasTiming = options.hasTiming
    parser.schema = { [weak self] command in self?.schema(for: command) }
    fleet.onNews = { [weak self] node, news in self?.take(news, of: node) }
  }

  /// How messages are printed now.
  var text: MessageText {
    MessageText(
      style: style, format: isJSON ? options.isPretty ? .prettyJSON : .json : .people,
      namesNodes: fleet.nodes.count > 1,
      width: Terminal.columns(1) ?? 100)
  }

  // MARK: - Connecting

  /// Connects all nodes and waits until each is ready or has failed for good.
  func connect() -> ExitStatus {
    let deadline = Session.deadline(options.connectTimeout)
    fleet.reconnects = options.retries
    fleet.connect()
    var status = ExitStatus.success
    waiting: while !hasStartFailure {
      let open = fleet.nodes.contains { node in
        switch node.state {
        case .ready: false
        case .down(_, let retryAt): fleet.reconnects && retryAt != nil
        default: true
        }
      }
      if !open { break }
      switch fleet.wait(deadline: deadline) {
      case .interrupted, .terminated: return .interrupted
      case .deadline: break waiting
      default: break
      }
    }
    fleet.reconnects = options.reconnects || output.isInteractive
    if hasStartFailure { return .startFailed }
    for node in fleet.nodes where node.state != .ready {
      if case .down(let reason, _) = node.state {
        complain(node, reason)
      } else {
        let seconds = Session.text(options.connectTimeout)
        let what = options.mode == .human ? "prompt" : "greeting"
        let reason =
          "no \(what) within \(seconds) s"
          + (node.state == .greeting ? " (another client may hold this monitor)" : "")
        for news in node.close(reason) { take(news, of: node) }
        complain(node, reason)
      }
      status = .cannotConnect
    }
    return status
  }

  private static func deadline(_ seconds: Double?) -> Int64? {
    seconds.map { HostClock.monotonic &+ Int64(min($0, 1e6) * 1e9) }
  }

  /// A number of seconds as people write it.
  private static func text(_ seconds: Double) -> String {
    let text = "\(seconds)"
    return text.hasSuffix(".0") ? String(text.dropLast(2)) : text
  }

  private func complain(_ node: Node, _ reason: String) {
    let name = fleet.nodes.count > 1 ? "\(node.name): " : ""
    output.complain(["goliath-shell: \(name)\(Style.harmless(reason))"])
  }

  private func take(_ news: Node.News, of node: Node) {
    switch news {
    case .event(let event, let raw):
      if event["event"]?.stringValue == "X_START_FAILED" {
        hasStartFailure = true
        startFailed(event, raw, node)
      } else if showsEvents {
        output.print(
          text.event(event, raw: raw, node: node.name, offset: HostClock.localOffsetInSeconds))
      }
    case .text(let words):
      if showsEvents { output.print(text.human(words, node: node.name)) }
    case .lateReply(let reply):
      guard output.isInteractive else { return }
      output.print([style.paint("(late reply)", .faint)])
      show(reply, node, nil)
    case .ready(let version):
      guard output.isInteractive else { return }
      let name = fleet.nodes.count > 1 ? "\(node.name): " : ""
      output.print([style.paint("\(name)connected to \(Style.harmless(version))", .faint)])
      serverSchema = nil
    case .down(let reason, let wasReady):
      guard wasReady, output.isInteractive || options.follows else { return }
      complain(node, reason)
    }
  }

  private func startFailed(_ event: JSONValue, _ raw: [UInt8], _ node: Node) {
    if isJSON { return output.print(text.event(event, raw: raw, node: node.name)) }
    let data = event["data"]
    let option = [data?["option"]?.stringValue, data?["value"]?.stringValue].compactMap { $0 }
      .filter { !$0.isEmpty }.joined(separator: " ")
    let reason = data?["reason"]?.stringValue ?? "no reason given"
    complain(node, "the server cannot start: " + (option.isEmpty ? "" : "\(option): ") + reason)
  }

  // MARK: - Lines

  /// Runs one line. Prints its errors.
  func run(_ line: String) -> ExitStatus {
    do throws(LineError) {
      let statement = try parser.parse(line)
      return try run(statement.action, on: statement.node)
    } catch {
      output.complain(["goliath-shell: \(Style.harmless(error.description))"])
      return .usage
    }
  }

  private func run(_ action: Action, on name: String?) throws(LineError) -> ExitStatus {
    let targets = try fleet.nodes(named: name)
    switch action {
    case .nothing: return .success
    case .request, .human: return try perform(action, targets, .all)
    case .pass(let request, let file): return try pass(request, file, targets)
    case .select(let path, let inner): return try perform(inner, targets, .values(ValuePath(path)))
    case .expect(let path, let value, let inner):
      return try perform(inner, targets, .expectation(path, value))
    case .help(let topic): return help(topic, targets)
    case .events(let filter, let count, let seconds):
      return follow(filter, targets, count: count, seconds: seconds)
    case .wait(let filter, let seconds): return wait(filter, targets, seconds ?? options.timeout)
    case .watch(let inner, let seconds, let count):
      return try watch(inner, name, seconds: seconds, count: count)
    case .source(let path): return try source(path)
    case .sleep(let seconds):
      let wake = pause(until: Session.deadline(seconds))
      return wake ? .success : .interrupted
    case .set(let setting, let on): set(setting, on)
    case .nodes: printNodes(targets)
    case .history: output.print(history())
    case .exit: isOver = true
    }
    return .success
  }

  private func set(_ setting: Action.Setting, _ on: Bool?) {
    switch setting {
    case .events: showsEvents = on ?? !showsEvents
    case .json: isJSON = on ?? !isJSON
    case .timing: hasTiming = on ?? !hasTiming
    }
  }

  private func printNodes(_ nodes: [Node]) {
    let rows: [JSONValue] = nodes.map { node in
      let state =
        switch node.state {
        case .ready: "connected"
        case .connecting, .greeting: "connecting"
        case .down(let reason, _): "down: \(reason)"
        }
      return [
        "name": .string(node.name), "address": .string(node.address.socket.text),
        "state": .string(state), "version": .string(node.version),
      ]
    }
    output.print(ValueText(style: style, width: 1000).lines(.array(rows)))
  }

  // MARK: - Commands

  /// What of an answer is shown.
  private enum Shown {
    case all
    case values(ValuePath)
    case expectation(String, String)
  }

  private func perform(
    _ action: Action, _ targets: [Node], _ shown: Shown, passing file: Int32? = nil
  ) throws(LineError) -> ExitStatus {
    var sent = action
    if case .human(let line) = action, options.mode != .human {
      sent = .request(QMPRequest("human-monitor-command", ["command-line": .string(line)]))
    }
    guard Session.isSendable(sent) else {
      throw LineError("only a command can stand here")
    }
    if case .request(let request) = sent {
      if options.mode == .human { throw LineError("this is a human monitor: no QMP commands") }
      if request.isOutOfBand, !targets.allSatisfy(\.allowsOutOfBand) {
        throw LineError("out-of-band execution was not negotiated; start with --oob")
      }
      if options.isVerbose {
        output.complain(["> " + String(decoding: request.bytes(id: nil).dropLast(), as: UTF8.self)])
      }
    }
    var shown = shown
    if case .all = shown, let path = options.select { shown = .values(ValuePath(path)) }
    let deadline = Session.deadline(options.timeout)
    let outcomes = fleet.perform(sent, on: targets, passing: file, deadline: deadline)
    var status = ExitStatus.success
    for (node, outcome, nanoseconds) in outcomes {
      status = max(status, show(outcome, node, shown, sent))
      if hasTiming, case .reply = outcome { time(nanoseconds, node) }
      if hasTiming, case .text = outcome { time(nanoseconds, node) }
    }
    return status
  }

  private static func isSendable(_ action: Action) -> Bool {
    switch action {
    case .request, .human: true
    default: false
    }
  }

  private func time(_ nanoseconds: Int64, _ node: Node) {
    let name = fleet.nodes.count > 1 ? "\(node.name): " : ""
    let micros = nanoseconds / 1000
    let fraction = String(micros % 1000)
    let padded = String(repeating: "0", count: 3 - fraction.count) + fraction
    output.complain([style.paint("\(name)\(micros / 1000).\(padded) ms", .faint)])
  }

  private func show(
    _ outcome: Node.Outcome, _ node: Node, _ shown: Shown, _ sent: Action
  ) -> ExitStatus {
    switch outcome {
    case .reply(let reply):
      if case .success(let value) = reply.result {
        switch shown {
        case .values(let path): return select(path, value, node)
        case .expectation(let path, let text): return expect(path, text, value, node)
        case .all: break
        }
      }
      return show(reply, node, sent)
    case .text(let text):
      let value = JSONValue.string(text)
      switch shown {
      case .values(let path): return select(path, value, node)
      case .expectation(let path, let text): return expect(path, text, value, node)
      case .all: return showHuman(text, node)
      }
    case .timeout:
      complain(node, "no reply within \(Session.text(options.timeout ?? 0)) s")
      return .timeout
    case .interrupted:
      complain(node, "interrupted; the command may still be running")
      return .interrupted
    case .lost(let reason):
      if case .human(let line) = sent, ["q", "quit"].contains(line) { return .success }
      complain(node, reason)
      return .connectionLost
    case .notConnected(let reason):
      complain(node, "not connected: \(reason)")
      return .cannotConnect
    }
  }

  @discardableResult
  private func show(_ reply: QMPClientModel.Reply, _ node: Node, _ sent: Action?) -> ExitStatus {
    switch reply.result {
    case .success(let value):
      if let text = value.stringValue, case .request(let request)? = sent,
        request.name == "human-monitor-command", !isJSON
      {
        return showHuman(text, node)
      }
      if !options.isQuiet {
        output.print(
          text.reply(
            value, raw: reply.raw, node: node.name, says: output.isInteractive ? "ok" : nil))
      }
      return .success
    case .failure(let failure):
      let lines = text.failure(
        class: failure.errorClass, failure.text, raw: reply.raw, node: node.name)
      if isJSON { output.print(lines) } else { output.complain(lines) }
      return .commandFailed
    }
  }

  /// The human monitor has no errors, only texts that begin like one.
  private func showHuman(_ answer: String, _ node: Node) -> ExitStatus {
    let isError =
      answer.hasPrefix("Error: ") || answer.hasPrefix("unknown command: ")
      || answer.hasPrefix("unknown info command: ")
    if isError, !isJSON {
      output.complain(text.human(answer, node: node.name))
    } else if !options.isQuiet {
      output.print(text.human(answer, node: node.name))
    }
    return isError ? .commandFailed : .success
  }

  private func select(_ path: ValuePath, _ value: JSONValue, _ node: Node) -> ExitStatus {
    guard let values = path.values(in: value) else {
      complain(node, "the answer has nothing at '\(path.steps.joined(separator: "."))'")
      return .commandFailed
    }
    output.print(text.selection(values, node: node.name))
    return .success
  }

  private func expect(
    _ path: String, _ wanted: String, _ value: JSONValue, _ node: Node
  ) -> ExitStatus {
    let found = ValuePath(path).values(in: value)?.map(\.plainText)
    if let found, found.contains(wanted) { return .success }
    let told = found.map { "is '\($0.joined(separator: "', '"))'" } ?? "is not there"
    complain(node, "expected '\(wanted)' at '\(path)', which \(told)")
    return .commandFailed
  }

  private func pass(
    _ request: QMPRequest, _ path: String, _ targets: [Node]
  ) throws(LineError) -> ExitStatus {
    let file: FileDescriptor
    do throws(SystemError) { file = try Session.open(path) } catch {
      throw LineError("cannot open '\(path)': \(error.reason)")
    }
    return try perform(.request(request), targets, .all, passing: file.rawValue)
  }

  /// Opens a file for reading and writing, or for reading when it cannot be written. A FIFO does not hold the shell up.
  private static func open(_ path: String) throws(SystemError) -> FileDescriptor {
    if let file = try? FileDescriptor.open(path, O_RDWR | O_NONBLOCK) {
      try file.setNonBlocking(false)
      return file
    }
    let file = try FileDescriptor.open(path, O_RDONLY | O_NONBLOCK)
    try file.setNonBlocking(false)
    return file
  }

  // MARK: - Events and time

  /// Waits until `deadline`, printing events. False when a signal ended it.
  private func pause(until deadline: Int64?) -> Bool {
    while true {
      switch fleet.wait(deadline: deadline) {
      case .deadline: return true
      case .interrupted, .terminated: return false
      default: break
      }
    }
  }

  /// Prints the events that are meant, whatever the setting.
  func follow(
    _ filter: EventFilter, _ targets: [Node], count: Int?, seconds: Double?
  ) -> ExitStatus {
    let deadline = Session.deadline(seconds)
    let usual = fleet.onNews
    var seen = 0
    fleet.onNews = { [self] node, news in
      guard case .event(let event, let raw) = news else { return usual(node, news) }
      guard targets.contains(where: { $0 === node }), filter.matches(event),
        count.map({ seen < $0 }) ?? true
      else { return }
      seen += 1
      output.print(
        text.event(event, raw: raw, node: node.name, offset: HostClock.localOffsetInSeconds))
    }
    defer { fleet.onNews = usual }
    while count.map({ seen < $0 }) ?? true {
      let isConnected = targets.contains { node in
        if case .down = node.state { return false }
        return true
      }
      if !isConnected, !fleet.reconnects { return .connectionLost }
      switch fleet.wait(deadline: deadline) {
      case .interrupted: return output.isInteractive ? .success : .interrupted
      case .terminated: return .interrupted
      case .deadline: return count == nil ? .success : .timeout
      default: break
      }
    }
    return .success
  }

  /// Waits until each target has had an event that is meant; those since the last command count.
  private func wait(_ filter: EventFilter, _ targets: [Node], _ seconds: Double?) -> ExitStatus {
    let deadline = Session.deadline(seconds)
    var open = targets
    while true {
      open.removeAll { node in
        guard let event = fleet.takeRecentEvent(node, filter) else { return false }
        if !showsEvents, !options.isQuiet {
          let raw = event.printed()
          output.print(
            text.event(event, raw: raw, node: node.name, offset: HostClock.localOffsetInSeconds))
        }
        return true
      }
      if open.isEmpty { return .success }
      for node in open {
        if case .down(let reason, _) = node.state, !fleet.reconnects {
          complain(node, reason)
          return .connectionLost
        }
      }
      switch fleet.wait(deadline: deadline) {
      case .interrupted, .terminated: return .interrupted
      case .deadline:
        let names = filter.names.joined(separator: ", ")
        for node in open {
          complain(node, "no \(names) within \(Session.text(seconds ?? 0)) s")
        }
        return .timeout
      default: break
      }
    }
  }

  private func watch(
    _ action: Action, _ name: String?, seconds: Double, count: Int?
  ) throws(LineError) -> ExitStatus {
    var round = 0
    var status = ExitStatus.success
    while count.map({ round < $0 }) ?? true {
      if round > 0, !pause(until: Session.deadline(seconds)) {
        return output.isInteractive ? status : .interrupted
      }
      round += 1
      if output.isInteractive { output.print(["\u{1B}[H\u{1B}[J" + HostClock.timestamp]) }
      status = try run(action, on: name)
      if status == .interrupted { return status }
    }
    return status
  }

  private func source(_ path: String) throws(LineError) -> ExitStatus {
    guard sourceDepth < 16 else { throw LineError("'\(path)': files call each other too deep") }
    let bytes: [UInt8]
    do throws(SystemError) { bytes = try FileDescriptor.contents(of: path, limit: 64 << 20) } catch
    {
      throw LineError("cannot read '\(path)': \(error.reason)")
    }
    sourceDepth += 1
    defer { sourceDepth -= 1 }
    var lines = ScriptLines()
    return run(lines.take(bytes) + lines.finish())
  }

  /// Runs lines up to the first that fails, or all with `--keep-going`.
  func run(_ lines: [String]) -> ExitStatus {
    var worst = ExitStatus.success
    for line in lines where !isOver {
      let status = run(line)
      worst = max(worst, status)
      if status == .interrupted || (status != .success && !options.keepsGoing) { break }
    }
    return worst
  }

  /// Gives up what an unfinished line has left.
  func cancelLine() { parser.cancelTransaction() }

  // MARK: - Schema

  /// The interface for the types of a command's arguments: what the server told, or what the shell was built with when that has the
  /// command, or else what the server tells now.
  private func schema(for command: String) -> APISchema? {
    if let serverSchema { return serverSchema }
    if let built = Session.builtSchema, built.commands[command] != nil { return built }
    return askSchema()
  }

  /// The interface of Goliath as of this build.
  static let builtSchema: APISchema? =
    (try? JSONValue(parsing: Schema.schema.description)).flatMap { APISchema($0) }

  /// The server's interface; asked for once for each connection. Without one, the interface of this build.
  @discardableResult
  func askSchema(from targets: [Node]? = nil) -> APISchema? {
    if let serverSchema { return serverSchema }
    if options.mode != .human, let value = ask("query-qmp-schema", [:], of: targets) {
      serverSchema = APISchema(value)
    }
    return serverSchema ?? Session.builtSchema
  }

  /// Asks a ready node something for the shell's own use; nil when there is no answer within five seconds.
  func ask(_ command: String, _ arguments: JSONObject, of targets: [Node]? = nil) -> JSONValue? {
    guard let node = (targets ?? fleet.nodes).first(where: { $0.state == .ready && !$0.isHuman })
    else { return nil }
    let kept = fleet.recentEvents
    defer { fleet.restoreRecentEvents(kept) }
    let outcomes = fleet.perform(
      .request(QMPRequest(command, arguments)), on: [node], deadline: Session.deadline(5))
    guard case .reply(let reply)? = outcomes.first?.outcome,
      case .success(let value) = reply.result
    else { return nil }
    return value
  }

  /// Asks a human monitor, or QMP's way to it, for text.
  func askHuman(_ line: String) -> String? {
    if options.mode != .human {
      return ask("human-monitor-command", ["command-line": .string(line)])?.stringValue
    }
    guard let node = fleet.nodes.first(where: { $0.state == .ready }) else { return nil }
    let outcomes = fleet.perform(.human(line), on: [node], deadline: Session.deadline(5))
    if case .text(let text)? = outcomes.first?.outcome { return text }
    return nil
  }

  private func help(_ topic: String?, _ targets: [Node]) -> ExitStatus {
    guard let topic else {
      output.print(HelpPage.overview)
      return .success
    }
    if let own = LineParser.builtins.first(where: { $0.name == topic }) {
      output.print([own.usage, "  " + own.summary])
      if Session.builtSchema?.commands[topic] == nil { return .success }
    }
    guard let schema = askSchema(from: targets) else { return .commandFailed }
    var page = HelpPage(schema)
    if schema.commands["x-schema"] != nil {
      page.documentation = ask("x-schema", ["name": .string(topic)], of: targets).map { entry in
        Documentation(entry) { ask("x-schema", ["name": .string($0)], of: targets) }
      }
    }
    guard let lines = page.lines(about: topic) else {
      output.complain([
        "goliath-shell: the server has no command or event '\(Style.harmless(topic))'"
      ])
      return .commandFailed
    }
    output.print(lines.map(Style.harmless))
    return .success
  }
}
