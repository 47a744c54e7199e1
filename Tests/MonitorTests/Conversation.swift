import JSON
import Monitor
import QAPI
import Testing

/// Handlers that answer from fixed values, and note what they were asked.
final class RecordingHandlers: CommandHandlers {
  var negotiate: ([QMPCapability]) throws(QAPIError) -> Void = { _ throws(QAPIError) in }
  var calls: [String] = []

  func qmpCapabilities(enable: [QMPCapability]?) throws(QAPIError) { try negotiate(enable ?? []) }
  func queryStatus() throws(QAPIError) -> StatusInfo {
    StatusInfo(running: true, singlestep: false, status: .running)
  }
  func setAction(
    reboot: RebootAction?, shutdown: ShutdownAction?, panic: PanicAction?, watchdog: WatchdogAction?
  ) throws(QAPIError) { calls.append("set-action") }
  func queryChardev() throws(QAPIError) -> [ChardevInfo] { [] }
  func queryChardevBackends() throws(QAPIError) -> [ChardevBackendInfo] { [] }
  func ringbufWrite(device: String, data: String, format: DataFormat?) throws(QAPIError) {}
  func ringbufRead(
    device: String, size: Int, format: DataFormat?
  ) throws(QAPIError) -> String { "" }
  func chardevAdd(id: String, backend: ChardevBackend) throws(QAPIError) -> ChardevReturn {
    ChardevReturn()
  }
  func chardevRemove(id: String) throws(QAPIError) {}
  func chardevSendBreak(id: String) throws(QAPIError) {}
  func getfd(fdname: String) throws(QAPIError) {}
  func closefd(fdname: String) throws(QAPIError) {}
  func queryVersion() throws(QAPIError) -> VersionInfo { .current }
  func quit() throws(QAPIError) { calls.append("quit") }
  func queryCpusFast() throws(QAPIError) -> [CpuInfoFast] { [] }
  func queryMachines() throws(QAPIError) -> [MachineInfo] { [] }
  func queryTarget() throws(QAPIError) -> TargetInfo { TargetInfo(arch: .x86_64) }
  func queryUuid() throws(QAPIError) -> UuidInfo { UuidInfo(uuid: "u") }
  func systemReset() throws(QAPIError) {}
  func systemPowerdown() throws(QAPIError) {}
  func systemWakeup() throws(QAPIError) {}
  func injectNmi() throws(QAPIError) {}
  func queryKvm() throws(QAPIError) -> KvmInfo { KvmInfo(enabled: false, present: true) }
  func xQueryJit() throws(QAPIError) -> HumanReadableText {
    HumanReadableText(humanReadableText: "")
  }
  func xQueryOpcount() throws(QAPIError) -> HumanReadableText {
    HumanReadableText(humanReadableText: "")
  }
  func memsave(val: Int, size: Int, filename: String, cpuIndex: Int?) throws(QAPIError) {}
  func pmemsave(val: Int, size: Int, filename: String) throws(QAPIError) {
    calls.append("pmemsave")
  }
  func queryCpuDefinitions() throws(QAPIError) -> [CpuDefinitionInfo] { [] }
  func queryName() throws(QAPIError) -> NameInfo { NameInfo() }
  func stop() throws(QAPIError) {}
  func cont() throws(QAPIError) {}
  func humanMonitorCommand(commandLine: String, cpuIndex: Int?) throws(QAPIError) -> String { "" }
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
    var result: Result<CommandResult, QAPIError>
    do throws(QAPIError) {
      let call = try request.call.get()
      if call.command == .qmpCapabilities {
        var enabled: [QMPCapability]?
        handlers.negotiate = { enabled = $0 }
        result = .success(try call.command.dispatch(call.arguments, to: handlers))
        if let enabled { try negotiated.negotiate(enabled) }
      } else {
        result = .success(try call.command.dispatch(call.arguments, to: handlers))
      }
    } catch {
      result = .failure(error)
    }
    session = negotiated
    return session.reply(to: request, result, isOutOfBand: isOutOfBand)
  }

  /// Past negotiation.
  static func ready(outOfBand: Bool = false, isPretty: Bool = false) -> Conversation {
    var conversation = Conversation(isPretty: isPretty)
    let arguments = outOfBand ? #","arguments":{"enable":["oob"]}"# : ""
    _ = conversation.send(#"{"execute":"qmp_capabilities"\#(arguments)}"#)
    return conversation
  }
}
