import Host
import JSON
import QAPI

/// One client of a QMP monitor, from its arrival to its leaving: feeds a `QMPSession`, runs its
/// requests, writes what it says.
@MainLoop
final class QMPConnection {
  /// What a connection needs of the transport below it.
  struct Transport {
    /// Sends one message; keeps what cannot be sent at once.
    let write: @MainLoop ([UInt8]) -> Void
    /// Asks for the bytes that `receive` did not take.
    let resumeReceiving: @MainLoop () -> Void
    /// Takes the descriptor that came last with the client's bytes; the caller owns it.
    let takeDescriptor: @MainLoop () -> Int32?
  }

  private var session: QMPSession
  private let transport: Transport
  private let context: MonitorContext
  private var handlers: MonitorCommands?
  private var isHoldingBack = false
  private var isOpen = true
  /// A command that may wait has not waited yet.
  private var isStarting = false
  /// The command that had to wait.
  private var waiting: Task<Void, Never>?

  /// Greets a client that has just arrived.
  init(isPretty: Bool, transport: Transport, context: MonitorContext) {
    session = QMPSession(version: .current, isPretty: isPretty)
    self.transport = transport
    self.context = context
    handlers = MonitorCommands(
      context, takeDescriptor: transport.takeDescriptor,
      negotiation: { [weak self] capabilities throws(QAPIError) in
        try self?.session.negotiate(capabilities)
      })
    context.dispatcher.add(self)
    context.events.subscribe(self) { [weak self] event in self?.send(event) }
    transport.write(session.greeting())
  }

  /// Takes bytes that the client sent: all of them, or none when enough requests wait already.
  func receive(_ bytes: [UInt8]) -> Int {
    guard isOpen else { return bytes.count }
    guard session.wantsInput else {
      isHoldingBack = true
      return 0
    }
    session.receive(bytes)
    parse()
    context.dispatcher.kick()
    return bytes.count
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

  // MARK: - Requests

  /// Whether a request waits to be run.
  var hasRequest: Bool { isOpen && session.hasRequest }

  /// Runs the request that waits first.
  func runNext() {
    guard let request = session.nextRequest() else { return }
    run(request, isOutOfBand: false)
    // There is room for another one now.
    readOn()
  }

  private func readOn() {
    parse()
    if isHoldingBack, isOpen, session.wantsInput {
      isHoldingBack = false
      transport.resumeReceiving()
    }
  }

  /// After a command that had to wait.
  private func goOn() {
    readOn()
    context.dispatcher.kick()
  }

  private func parse() {
    while isOpen, let request = session.takeOutOfBand() { run(request, isOutOfBand: true) }
  }

  private func run(_ request: QMPRequest, isOutOfBand: Bool) {
    guard let handlers else { return }
    let result: Result<CommandResult, QAPIError>
    do throws(QAPIError) {
      let call = try request.call.get()
      Trace.write(
        .handleQMPCommand, "req: \(call.command.rawValue) \(JSONValue.object(call.arguments).text)")
      Trace.write(
        isOutOfBand ? .monitorQMPCommandOutOfBand : .monitorQMPCommandInBand,
        "id: \(request.id?.text ?? "")")
      try context.checkAvailable(call.command)
      if call.command.isAsynchronous { return runAsynchronously(request, call, handlers) }
      if isOutOfBand,
        let answer = try call.command.dispatchOutOfBand(call.arguments, to: handlers)
      {
        result = .success(answer)
      } else {
        result = .success(try call.command.dispatch(call.arguments, to: handlers) ?? .empty)
      }
    } catch {
      result = .failure(error)
    }
    reply(to: request, result, isOutOfBand: isOutOfBand)
  }

  /// Runs a command that may wait. This client's next in-band request waits for its end; nothing else does.
  private func runAsynchronously(
    _ request: QMPRequest, _ call: QMPRequest.Call, _ handlers: MonitorCommands
  ) {
    isStarting = true
    let task = MainLoop.start {
      let result: Result<CommandResult, QAPIError>
      do throws(QAPIError) {
        result = .success(
          try await call.command.dispatchAsynchronously(call.arguments, to: handlers) ?? .empty)
      } catch {
        result = .failure(error)
      }
      self.waiting = nil
      self.reply(to: request, result, isOutOfBand: false)
      if !self.isStarting { self.goOn() }
    }
    isStarting = false
    if session.isRunning { waiting = task }
  }

  private func reply(
    to request: QMPRequest, _ result: Result<CommandResult, QAPIError>, isOutOfBand: Bool
  ) {
    let text = session.reply(to: request, result, isOutOfBand: isOutOfBand)
    Trace.write(.monitorQMPRespond, "req: \(String(decoding: text.dropLast(2), as: UTF8.self))")
    if isOpen { transport.write(text) }
  }

  private func send(_ event: TimedEvent) {
    if isOpen, let text = session.text(of: event) { transport.write(text) }
  }
}
