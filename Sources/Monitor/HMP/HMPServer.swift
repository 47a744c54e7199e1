package import Chardev
package import Host
import Machine
import QAPI

/// A human monitor on a character device (`-monitor`, `-mon mode=readline`, `mon:`): a session for each client, one history.
@MainLoop
package final class HMPServer {
  /// Clients match on this; the version is the one that `query-version` tells.
  package static let banner =
    "QEMU \(VersionInfo.current.qemu.text) monitor - type 'help' for more information\n"
  package static let prompt = "(qemu) "

  /// The lines of all clients, which the next client finds.
  fileprivate var history = LineHistory()

  /// Attaches a monitor to `chardev`. Throws when that is in use.
  package init(on chardev: Chardev, context: MonitorContext) throws(ChardevError) {
    try chardev.serve { [self] client in
      let result = HMPClientSession(client, self)
      context.whenStarted { [weak result] in
        guard let result, let machine = try? context.machine else { return }
        result.session = HMPSession(
          commands: MonitorCommands(context), machine: MachineInspector(machine),
          defaults: context.humanMonitorDefaults)
        client.port.resumeReceiving()
      }
      return result
    }
  }

  /// A server over sessions of the caller's making, one for each client.
  package init(
    on chardev: Chardev, session makeSession: @autoclosure @escaping () -> HMPSession
  ) throws(ChardevError) {
    try chardev.serve { [self] client in
      let result = HMPClientSession(client, self)
      result.session = makeSession()
      return result
    }
  }

  /// Lets `human-monitor-command` of the context's monitors run lines, each in a session of its own.
  package static func serveHumanMonitorCommand(in context: MonitorContext) {
    context.humanMonitor = { [weak context] line, cpuIndex in
      guard let context, let machine = try? context.machine else { return "" }
      let session = HMPSession(
        commands: MonitorCommands(context), machine: MachineInspector(machine),
        defaults: context.humanMonitorDefaults)
      return session.run(commandLine: line, cpuIndex: cpuIndex)
    }
  }
}

/// The frontend of one client: line editor, banner, prompt.
@MainLoop
private final class HMPClientSession: ChardevFrontend {
  private let client: ChardevClient
  private let server: HMPServer
  /// Nil before there is a machine.
  var session: HMPSession?
  private var editor: LineEditor
  private var hasFocus = true
  /// What was printed while keys went to another frontend.
  private var withheld: [UInt8] = []
  private var isOpen = false

  init(_ client: ChardevClient, _ server: HMPServer) {
    self.client = client
    self.server = server
    editor = LineEditor(prompt: HMPServer.prompt, history: server.history)
  }

  // MARK: - ChardevFrontend

  func chardevOpened() {
    isOpen = true
    withheld = []
    send(Array(HMPServer.banner.utf8) + editor.begin())
  }

  func chardevClosed() {
    isOpen = false
    withheld = []
  }

  /// Keys go to this monitor from now on, or no longer. A newline ends the visit; coming back shows the prompt.
  func chardevFocusChanged(_ hasFocus: Bool) {
    guard hasFocus != self.hasFocus else { return }
    if hasFocus {
      self.hasFocus = true
      let text = exchange(&withheld, with: [])
      if isOpen { client.port.write(text.isEmpty ? editor.begin() : text) }
    } else {
      if isOpen { send([10]) }
      self.hasFocus = false
    }
  }

  func chardevReceived(_ bytes: [UInt8]) -> Int {
    // Lines typed before the machine exists wait for it.
    guard session != nil else { return 0 }
    var output: [UInt8] = []
    for byte in bytes {
      switch editor.receive(byte, into: &output) {
      case .editing: break
      case .completion(let line):
        guard let (candidates, typed) = session?.completions(for: line) else { break }
        output += editor.complete(candidates, typed: typed)
      case .line(let line):
        // What came before the command is on its way before the command acts.
        send(output)
        output = []
        run(line)
        output = session?.hasQuit == true ? [] : editor.begin()
      }
    }
    send(output)
    return bytes.count
  }

  // MARK: -

  private func run(_ line: [UInt8]) {
    session?.history = editor.history.lines
    server.history.add(line)
    let text = session?.run(commandLine: String(decoding: line, as: UTF8.self)) ?? ""
    if !text.isEmpty { write(Array(text.utf8)) }
  }

  /// Sends text with `\n` line ends.
  private func send(_ text: [UInt8]) {
    guard !text.isEmpty else { return }
    guard text.contains(10) else { return write(text) }
    var bytes: [UInt8] = []
    for byte in text {
      if byte == 10 { bytes.append(13) }
      bytes.append(byte)
    }
    write(bytes)
  }

  private func write(_ bytes: [UInt8]) {
    if hasFocus { client.port.write(bytes) } else { withheld += bytes }
  }
}

/// Stores a new value and answers the old one.
private func exchange<T>(_ place: inout T, with value: T) -> T {
  let old = place
  place = value
  return old
}
