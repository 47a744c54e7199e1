import JSON
import Monitor
import QAPI
import Testing

/// Handlers that answer from fixed values, and note what they were asked.
final class RecordingHandlers: DecliningHandlers {
  var negotiate: ([QMPCapability]) throws(QAPIError) -> Void = { _ throws(QAPIError) in }
  var calls: [String] = []

  func qmpCapabilities(enable: [QMPCapability]?) throws(QAPIError) { try negotiate(enable ?? []) }
  func queryStatus() throws(QAPIError) -> StatusInfo {
    StatusInfo(running: true, singlestep: false, status: .running)
  }
  func setAction(
    reboot: RebootAction?, shutdown: ShutdownAction?, panic: PanicAction?, watchdog: WatchdogAction?
  ) throws(QAPIError) { calls.append("set-action") }
  func queryVersion() throws(QAPIError) -> VersionInfo { .current }
  func quit() throws(QAPIError) { calls.append("quit") }
  func queryTarget() throws(QAPIError) -> TargetInfo { TargetInfo(arch: .x86_64) }
  func queryKvm() throws(QAPIError) -> KvmInfo { KvmInfo(enabled: false, present: true) }
  func queryName() throws(QAPIError) -> NameInfo { NameInfo() }
  func pmemsave(val: Int, size: Int, filename: String) async throws(QAPIError) {
    calls.append("pmemsave")
  }
}

/// A session whose requests are run as they come, with the text that its client reads.
struct Conversation {
  var session: QMPSession
  let handlers = RecordingHandlers()

  init(isPretty: Bool = false) {
    session = QMPSession(version: .current, isPretty: isPretty)
  }

  /// Sends text; gives what comes back, without line ends.
  mutating func send(_ text: String) -> [String] { send(Array(text.utf8)) }

  mutating func send(_ bytes: [UInt8]) -> [String] {
    var output: [UInt8] = []
    session.receive(bytes)
    while true {
      if let request = session.takeOutOfBand() {
        output += run(request, isOutOfBand: true)
      } else if let request = session.nextRequest() {
        output += run(request, isOutOfBand: false)
      } else {
        break
      }
    }
    let text = String(decoding: output, as: UTF8.self)
    #expect(text.isEmpty || text.hasSuffix("\r\n"))
    return text.split(separator: "\r\n").map(String.init)
  }

  private mutating func run(_ request: QMPRequest, isOutOfBand: Bool) -> [UInt8] {
    // The handler changes a copy: while it runs the session itself is being used.
    var negotiated = session
    var printer = session.beginReply()
    do throws(QAPIError) {
      let call = try request.call.get()
      if call.command == .qmpCapabilities {
        var enabled: [QMPCapability]?
        handlers.negotiate = { enabled = $0 }
        _ = try call.command.dispatch(call.arguments, to: handlers, into: &printer)
        if let enabled { try negotiated.negotiate(enabled) }
      } else {
        try dispatch(call, into: &printer)
      }
    } catch {
      session = negotiated
      return session.reply(to: request, failure: error, isOutOfBand: isOutOfBand)
    }
    session = negotiated
    return session.reply(to: request, printer, isOutOfBand: isOutOfBand)
  }

  /// Runs a command; one that may wait must not do so here.
  private func dispatch(
    _ call: QMPRequest.Call, into printer: inout JSONPrinter
  ) throws(QAPIError) {
    guard call.command.isAsynchronous else {
      _ = try call.command.dispatch(call.arguments, to: handlers, into: &printer)
      return
    }
    nonisolated(unsafe) let handlers = handlers
    nonisolated(unsafe) var result = Result<JSONPrinter, QAPIError>.success(printer)
    Task.immediate {
      do throws(QAPIError) {
        var printer = try result.get()
        _ = try await call.command.dispatchAsynchronously(
          call.arguments, to: handlers, into: &printer)
        result = .success(printer)
      } catch {
        result = .failure(error)
      }
    }
    printer = try result.get()
  }

  /// Past negotiation.
  static func ready(outOfBand: Bool = false, isPretty: Bool = false) -> Conversation {
    var conversation = Conversation(isPretty: isPretty)
    let arguments = outOfBand ? #","arguments":{"enable":["oob"]}"# : ""
    _ = conversation.send(#"{"execute":"qmp_capabilities"\#(arguments)}"#)
    return conversation
  }
}
