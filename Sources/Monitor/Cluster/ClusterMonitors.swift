package import Cluster
package import Host
import JSON
package import QAPI
import Synchronization

/// The monitors of a machine on several nodes as one: commands run where they belong, whichever node is asked, and events of every
/// node reach all clients.
///
/// Uses frames of the types `qmpProxy` (requests and answers, JSON) and `event`.
@MainLoop
package final class ClusterMonitors {
  /// Who is there, and what memory does.
  package let control: any ClusterControl
  /// This node.
  package let node: Int
  private unowned let context: MonitorContext
  private let sender: ClusterSender
  private let receiver: Receiver
  private var lastNumber: UInt32 = 0
  /// Who waits for an answer, by number.
  private var waiting: [UInt32: (node: Int, continuation: CheckedContinuation<Reply, Never>)] = [:]

  typealias Reply = Result<JSONValue, QAPIError>

  /// Connects the monitors of `context` with those of the other nodes. Throws when there can be no more threads.
  ///
  /// Call it before the links carry frames; requests of other nodes are answered from `context.start` on.
  package init(
    _ control: any ClusterControl, transport: any FrameTransport, context: MonitorContext
  ) throws(SystemError) {
    self.control = control
    self.context = context
    node = Int(transport.node.rawValue)
    sender = try ClusterSender(transport)
    receiver = Receiver()
    receiver.connect(self)
    transport.setHandler(receiver, for: [.qmpProxy, .event])
    let count = transport.nodeCount
    context.cluster = self
    context.events.joinCluster(node: node) { [weak self] event in self?.share(event, count) }
    context.events.isLeft = { [weak self] name in self?.isLeftToNode0(name) ?? false }
  }

  deinit { sender.close() }

  // MARK: - Commands

  /// The node that runs a command, when it is another one.
  func target(of command: Command) -> Int? {
    guard node != 0, !ClusterRoute.local.contains(command), control.status.reaches(0) else {
      return nil
    }
    return 0
  }

  /// The node that runs a line of the human monitor, when it is another one.
  func target(ofLine name: String, cpuIndex: Int) -> Int? {
    let target: Int
    switch ClusterRoute.human(name) {
    case .here: return nil
    case .node0: target = 0
    case .vcpu:
      target = control.status.nodes.first { $0.vcpus.contains(cpuIndex) }?.node ?? node
    }
    return target == node || !control.status.reaches(target) ? nil : target
  }

  /// Runs a command on a node, this one too, and gives what it returns.
  func execute(
    _ command: String, _ arguments: JSONObject, on target: Int
  ) async throws(QAPIError) -> JSONValue {
    let status = control.status
    guard let entry = status.node(target) else {
      throw QAPIError("There is no node \(target); nodes are 0 to \(status.nodes.count - 1)")
    }
    if target == node { return try await run(command, arguments) }
    guard status.reaches(target) else {
      throw QAPIError("Node \(target) is not there (\(entry.state.rawValue))")
    }
    var request: JSONObject = ["execute": .string(command)]
    if !arguments.isEmpty { request["arguments"] = .object(arguments) }
    let text = JSONValue.object(request).printed()
    lastNumber &+= 1
    let number = lastNumber
    let reply = await withCheckedContinuation { (continuation: CheckedContinuation<Reply, Never>) in
      waiting[number] = (target, continuation)
      send(text, number, isAnswer: false, to: target)
    }
    // A node that ends as it was told says goodbye on another way than its answer.
    if command == Command.quit.rawValue, case .failure = reply,
      control.status.node(target)?.state == .left
    {
      return .object([:])
    }
    return try reply.get()
  }

  /// Runs a line of the human monitor where it belongs and gives what it prints, with plain line ends; nil when that is here.
  func run(line: String, named name: String, cpuIndex: Int) async -> String? {
    guard let target = target(ofLine: name, cpuIndex: cpuIndex) else { return nil }
    do throws(QAPIError) {
      let text = try await execute(
        Command.humanMonitorCommand.rawValue,
        ["command-line": .string(line), "cpu-index": JSONValue(cpuIndex)], on: target)
      return (text.stringValue ?? "").split(separator: "\r\n", omittingEmptySubsequences: false)
        .joined(separator: "\n")
    } catch {
      return "Error: \(error.description)\n"
    }
  }

  /// Runs a command here.
  private func run(
    _ name: String, _ arguments: JSONObject
  ) async throws(QAPIError) -> JSONValue {
    guard let command = CommandTable.command(named: name), command != .qmpCapabilities else {
      throw QAPIError(.commandNotFound, "The command \(name) has not been found")
    }
    try context.checkAvailable(command)
    let handlers = MonitorCommands(context)
    var printer = JSONPrinter()
    if command.isAsynchronous {
      _ = try await command.dispatchAsynchronously(arguments, to: handlers, into: &printer)
    } else {
      _ = try command.dispatch(arguments, to: handlers, into: &printer)
    }
    do throws(JSONError) { return try JSONValue(parsing: printer.output) } catch {
      throw QAPIError("The reply to \(name) is no JSON: \(error.text)")
    }
  }

  // MARK: - Frames

  private func send(_ text: [UInt8], _ number: UInt32, isAnswer: Bool, to target: Int) {
    let node = NodeID(rawValue: UInt8(truncatingIfNeeded: target))
    for frame in ClusterMessage.frames(text, number: number, isAnswer: isAnswer) {
      sender.send(frame.header, frame.body, to: node)
    }
  }

  fileprivate func received(
    _ text: [UInt8], _ number: UInt32, isAnswer: Bool, from source: Int
  ) {
    let value = try? JSONValue(parsing: text)
    if isAnswer {
      guard let entry = waiting[number], entry.node == source else { return }
      waiting[number] = nil
      entry.continuation.resume(returning: Self.reply(value, from: source))
      return
    }
    // Whatever waits for the machine to be made waits here as well.
    context.whenReady { [weak self] in
      MainLoop.start { [weak self] in await self?.answer(value, number, to: source) }
    }
  }

  private func answer(_ request: JSONValue?, _ number: UInt32, to source: Int) async {
    var reply: JSONObject = [:]
    do throws(QAPIError) {
      guard let name = request?["execute"]?.stringValue else {
        throw QAPIError("QMP input lacks member 'execute'")
      }
      reply["return"] = try await run(name, request?["arguments"]?.objectValue ?? [:])
    } catch {
      reply["error"] = error.encoded
    }
    send(JSONValue.object(reply).printed(), number, isAnswer: true, to: source)
  }

  private static func reply(_ value: JSONValue?, from node: Int) -> Reply {
    if let result = value?["return"] { return .success(result) }
    guard let error = value?["error"], let text = error["desc"]?.stringValue else {
      return .failure(QAPIError("Node \(node) gave no reply that can be read"))
    }
    let name = error["class"]?.stringValue ?? ""
    return .failure(QAPIError(QAPIError.Class(rawValue: name) ?? .generic, text))
  }

  fileprivate func lost(_ peer: Int) {
    let reason = control.status.node(peer)?.reason
    for (number, entry) in waiting where entry.node == peer {
      waiting[number] = nil
      let text = "Node \(peer) was lost before it answered" + (reason.map { ": \($0)" } ?? "")
      entry.continuation.resume(returning: .failure(QAPIError(text)))
    }
  }

  // MARK: - Events

  private func share(_ event: TimedEvent, _ count: Int) {
    guard ClusterRoute.isShared(event.name) else { return }
    let body = JSONValue.object(event.encoded).printed()
    guard body.count <= FrameHeader.longestCtlBody else { return }
    for target in 0..<count where target != node {
      sender.send(
        FrameHeader(.event, flags: .errorOK), body,
        to: NodeID(rawValue: UInt8(truncatingIfNeeded: target)))
    }
  }

  /// Whether an event of this node's machine is left to node 0 to tell.
  func isLeftToNode0(_ name: String) -> Bool {
    node != 0 && ClusterRoute.machineWide.contains(name) && control.status.reaches(0)
  }

  fileprivate func received(event text: [UInt8], from source: Int) {
    guard let value = try? JSONValue(parsing: text), let name = value["event"]?.stringValue else {
      return
    }
    var data = value["data"]?.objectValue ?? [:]
    data["node"] = JSONValue(source)
    let seconds = value["timestamp"]?["seconds"]?.intValue ?? 0
    let rest = value["timestamp"]?["microseconds"]?.intValue ?? 0
    context.events.relay(
      TimedEvent(
        name: name, data: data,
        microseconds: (Int64(seconds) &* 1_000_000) &+ Int64(rest)))
  }

  // MARK: -

  /// Takes frames on the links' threads and brings them to the main loop.
  private final class Receiver: FrameHandler {
    private struct Weak: Sendable { weak var value: ClusterMonitors? }
    private let owner = Mutex(Weak())
    private let assemblies = Mutex<[NodeID: ClusterMessage.Assembly]>([:])

    func connect(_ owner: ClusterMonitors) {
      let weak = Weak(value: owner)
      self.owner.withLock { $0 = weak }
    }

    func received(_ header: FrameHeader, from node: NodeID, _ body: any FrameBody) {
      let bytes = body.remaining > 0 ? body.read(body.remaining) ?? [] : []
      let source = Int(node.rawValue)
      let weak = owner.withLock { $0 }
      if header.type == .event {
        MainLoop.post { weak.value?.received(event: bytes, from: source) }
        return
      }
      let message = assemblies.withLock { $0[node, default: .init()].take(header.argument, bytes) }
      guard let message else { return }
      MainLoop.post {
        weak.value?.received(
          message.text, message.number, isAnswer: message.isAnswer, from: source)
      }
    }

    func lost(_ node: NodeID) {
      _ = assemblies.withLock { $0.removeValue(forKey: node) }
      let weak = owner.withLock { $0 }
      MainLoop.post { weak.value?.lost(Int(node.rawValue)) }
    }
  }
}
