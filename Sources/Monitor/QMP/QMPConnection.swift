import Host
import JSON
import Options
import QAPI

/// One client of a QMP monitor, from its arrival to its leaving: feeds a `QMPSession`, runs its
/// requests, writes what it says.
@MainLoop
final class QMPConnection {
  /// What a connection needs of the transport below it.
  @MainLoop
  protocol Transport: AnyObject {
    /// Sends one message; keeps what cannot be sent at once.
    func write(_ message: [UInt8])
    /// How many bytes wait for the client to read.
    var queuedByteCount: Int { get }
    /// Asks to hear `drained` when nothing waits any more.
    func notifyWhenDrained()
    /// Asks for the bytes that `receive` did not take.
    func resumeReceiving()
    /// Stops reading, so that a client's half close is not seen before its requests are answered.
    func setPaused(_ isPaused: Bool)
    /// Takes the descriptor that came last with the client's bytes; the caller owns it.
    func takeDescriptor() -> Int32?
  }

  /// Who it is and what it may do.
  let client: MonitorClient
  private var session: QMPSession
  private let transport: any Transport
  private let context: MonitorContext
  private var handlers: MonitorCommands?
  private var isOpen = true
  /// It has just negotiated.
  private var isFresh = false
  /// Bytes wait below that were not taken.
  private var isParked = false
  private var isPaused = false
  private var isScheduled = false
  /// A command that may wait has not waited yet.
  private var isStarting = false
  /// The command that had to wait.
  private var waiting: Task<Void, Never>?
  /// Events that the client did not get because it does not read.
  private var droppedEvents = 0

  /// How many requests run before other work of the main loop gets its turn.
  private static let batch = 32
  /// A client that leaves so much unread gets no further request answered until it has read.
  private static let replyLimit = 256 << 10
  /// A client that leaves so much unread gets no further events.
  private static let eventLimit = 1 << 20

  /// Greets a client that has just arrived.
  init(
    _ client: MonitorClient, isPretty: Bool, transport: any Transport, context: MonitorContext
  ) {
    self.client = client
    session = QMPSession(version: .current, isPretty: isPretty)
    self.transport = transport
    self.context = context
    handlers = MonitorCommands(
      context, client: client, takeDescriptor: { transport.takeDescriptor() },
      negotiation: { [unowned self] capabilities throws(QAPIError) in
        try session.negotiate(capabilities)
        isFresh = true
      })
    context.dispatcher.add(self)
    context.events.subscribe(self)
    transport.write(session.greeting())
  }

  /// Whether the client gets events.
  var isNegotiated: Bool { session.isNegotiated }

  // MARK: - Input

  /// Takes bytes that the client sent: as many as it parses by the rules; the others must come again.
  func receive(_ bytes: [UInt8]) -> Int {
    guard isOpen else { return bytes.count }
    guard !session.isSuspended, !isUnread else {
      isParked = true
      return 0
    }
    session.receive(bytes)
    work()
    let rest = session.giveBack()
    if rest > 0 { isParked = true }
    updatePause()
    return bytes.count - rest
  }

  /// The client has read everything.
  func drained() {
    guard isOpen else { return }
    if droppedEvents > 0 {
      let count = droppedEvents
      droppedEvents = 0
      send(EventMessage(context.events.timed(.xEventsDropped(count: count))))
    }
    goOn()
  }

  /// The client has left. What it had queued is dropped.
  func close() {
    guard isOpen else { return }
    isOpen = false
    context.dispatcher.remove(self)
    context.events.unsubscribe(self)
    handlers = nil
    // Its reply is lost; a command that only waits ends, others see to their end.
    waiting?.cancel()
  }

  /// Goes on with what waits: there is a machine now, a command has ended, the client has read.
  func goOn() {
    guard isOpen else { return }
    work()
    updatePause()
    if isParked, !session.isSuspended, !isUnread {
      isParked = false
      transport.resumeReceiving()
    }
  }

  /// Sends an event.
  func send(_ message: EventMessage, always: Bool = false) {
    guard isOpen, session.isNegotiated || always else { return }
    guard transport.queuedByteCount <= Self.eventLimit, droppedEvents == 0 else {
      droppedEvents += 1
      transport.notifyWhenDrained()
      return
    }
    transport.write(session.isPretty ? message.pretty : message.plain)
  }

  // MARK: - Requests

  /// The client does not read what it was sent; asks to hear when it has.
  private var isUnread: Bool {
    guard transport.queuedByteCount > Self.replyLimit else { return false }
    transport.notifyWhenDrained()
    return true
  }

  /// Runs what may be run.
  private func work() {
    var left = Self.batch
    while isOpen {
      if let request = session.takeOutOfBand() {
        run(request, isOutOfBand: true)
        continue
      }
      guard context.dispatcher.isStarted, session.hasRequest, !isUnread else { return }
      // The machine comes when all of its nodes have: what needs it waits, and what this client has sent behind.
      if context.joining != nil, let call = try? session.peek?.call.get(),
        context.waits(call.command)
      {
        return
      }
      if left == 0 { return schedule() }
      left -= 1
      guard let request = session.nextRequest() else { return }
      run(request, isOutOfBand: false)
    }
  }

  /// Goes on in the next turn of the main loop.
  private func schedule() {
    guard !isScheduled else { return }
    isScheduled = true
    MainLoop.post { [self] in
      isScheduled = false
      goOn()
    }
  }

  private func updatePause() {
    guard isPaused != session.isSuspended else { return }
    isPaused.toggle()
    transport.setPaused(isPaused)
  }

  private func run(_ request: QMPRequest, isOutOfBand: Bool) {
    guard let handlers else { return }
    let start = client.audit == nil ? 0 : HostClock.monotonic
    do throws(QAPIError) {
      let call = try request.call.get()
      Trace.write(
        .handleQMPCommand, "req: \(call.command.rawValue) \(JSONValue.object(call.arguments).text)")
      Trace.write(
        isOutOfBand ? .monitorQMPCommandOutOfBand : .monitorQMPCommandInBand,
        "id: \(request.id?.text ?? "")")
      try context.checkAvailable(call.command)
      try client.access.check(call.command)
      if !isOutOfBand, let cluster = context.cluster, let node = cluster.target(of: call.command) {
        return runAsynchronously(request, call) { printer throws(QAPIError) in
          printer.print(
            try await cluster.execute(call.command.rawValue, call.arguments, on: node))
        }
      }
      if call.command.isAsynchronous {
        return runAsynchronously(request, call) { printer throws(QAPIError) in
          _ = try await call.command.dispatchAsynchronously(
            call.arguments, to: handlers, into: &printer)
        }
      }
      var printer = session.beginReply()
      if isOutOfBand {
        _ = try call.command.dispatchOutOfBand(call.arguments, to: handlers, into: &printer)
      } else {
        _ = try call.command.dispatch(call.arguments, to: handlers, into: &printer)
      }
      let text = session.reply(to: request, printer, isOutOfBand: isOutOfBand)
      respond(text)
      client.audit?.record(client, request, nil, since: start)
      if isFresh {
        isFresh = false
        context.greet(self)
      }
    } catch {
      fail(request, error, isOutOfBand, since: start)
    }
  }

  /// Runs a command that may wait. This client's next in-band request waits for its end; nothing else does.
  private func runAsynchronously(
    _ request: QMPRequest, _ call: QMPRequest.Call,
    _ body: @escaping @MainLoop @Sendable (inout JSONPrinter) async throws(QAPIError) -> Void
  ) {
    let start = HostClock.monotonic
    let number = context.inFlight.begin(call.command.rawValue, request.id, client, at: start)
    isStarting = true
    let task = MainLoop.start { [self] in
      var printer = session.beginReply()
      do throws(QAPIError) {
        try await body(&printer)
        let text = session.reply(to: request, printer)
        respond(text)
        client.audit?.record(client, request, nil, since: start)
      } catch {
        fail(request, error, false, since: start)
      }
      waiting = nil
      context.inFlight.end(number)
      if !isStarting { goOn() }
    }
    isStarting = false
    if session.isRunning { waiting = task }
  }

  private func respond(_ text: [UInt8]) {
    Trace.write(.monitorQMPRespond, "req: \(String(decoding: text.dropLast(2), as: UTF8.self))")
    if isOpen { transport.write(text) }
  }

  private func fail(
    _ request: QMPRequest, _ error: QAPIError, _ isOutOfBand: Bool, since start: Int64
  ) {
    let text = session.reply(to: request, failure: error, isOutOfBand: isOutOfBand)
    respond(text)
    client.audit?.record(client, request, error, since: start)
  }
}
