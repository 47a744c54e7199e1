package import Chardev
package import Host
import Machine
package import Options
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

  /// The vCPU that a client chose last, which the next client finds.
  fileprivate var currentCPU = 0

  /// Attaches a monitor to `chardev`. Throws when that is in use.
  ///
  /// `access` is what its clients may do, `audit` where it is noted what they did.
  package init(
    on chardev: Chardev, access: MonitorAccess = .full, audit: AuditLog? = nil,
    context: MonitorContext
  ) throws(ChardevError) {
    try chardev.serve { [self] client in
      let result = HMPClientSession(client, self)
      let who = MonitorClient(
        client, on: chardev.label, access: access, audit: audit, context: context)
      result.who = who
      context.whenReady { [weak result] in
        let commands = MonitorCommands(
          context, client: who, takeDescriptor: { client.takeDescriptor() }, negotiation: nil)
        let session = HMPSession(commands, of: context, access: access)
        session.findsNodes(of: context)
        result?.session = session
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
    context.humanMonitor = { [weak context] line, cpuIndex, access in
      guard let context else { return "" }
      let session = HMPSession(MonitorCommands(context), of: context, access: access)
      session.findsNodes(of: context)
      return await session.perform(commandLine: line, cpuIndex: cpuIndex)
    }
  }
}

/// The frontend of one client: line editor, banner, prompt.
@MainLoop
private final class HMPClientSession: ChardevFrontend {
  private let client: ChardevClient
  private let server: HMPServer
  /// Who it is, for the audit.
  var who: MonitorClient?
  /// Nil before there is a machine.
  var session: HMPSession? {
    didSet { session?.currentCPU = server.currentCPU }
  }
  private var editor: LineEditor
  private var hasFocus = true
  /// What is to be printed; kept while keys go to another frontend.
  private var output: [UInt8] = []
  private var isOpen = false
  /// Keys wait because the client reads nothing.
  private var isHeldUp = false
  /// A command runs that waits for something.
  private var isBusy = false
  /// The command has not waited yet.
  private var isStarting = false

  init(_ client: ChardevClient, _ server: HMPServer) {
    self.client = client
    self.server = server
    editor = LineEditor(prompt: HMPServer.prompt, history: server.history)
  }

  // MARK: - ChardevFrontend

  func chardevOpened() {
    DescriptorSets.shared.clientsChanged(by: 1)
    isOpen = true
    output = []
    append(Array(HMPServer.banner.utf8) + editor.begin())
    flush()
  }

  func chardevClosed() {
    DescriptorSets.shared.clientsChanged(by: -1)
    isOpen = false
    output = []
  }

  /// Keys go to this monitor from now on, or no longer. A newline ends the visit; coming back shows the prompt.
  func chardevFocusChanged(_ hasFocus: Bool) {
    guard hasFocus != self.hasFocus else { return }
    if !hasFocus, isOpen {
      append([10])
      flush()
    }
    self.hasFocus = hasFocus
    if hasFocus, isOpen {
      if output.isEmpty { append(editor.begin()) }
      flush()
    }
  }

  /// Takes keys as long as the client reads what they print and this turn of the main loop is short; what they print goes
  /// out in one write.
  func chardevReceived(_ bytes: [UInt8]) -> Int {
    // Lines typed before the machine exists wait for it.
    guard session != nil, !isBusy else { return 0 }
    var taken = 0
    var work = 0
    while taken < bytes.count, session?.hasQuit != true, !isBusy {
      if output.count + client.port.queuedByteCount > HMPClientSession.outputLimit {
        flush()
        if client.port.queuedByteCount > HMPClientSession.outputLimit {
          client.port.notifyWhenDrained()
          isHeldUp = true
          return taken
        }
      }
      if work > HMPClientSession.workLimit {
        client.port.resumeReceiving()
        break
      }
      work += receive(bytes[taken])
      taken += 1
    }
    flush()
    return taken
  }

  func chardevDrained() {
    guard isHeldUp else { return }
    isHeldUp = false
    client.port.resumeReceiving()
  }

  // MARK: -

  /// So much may wait for a client that does not read; then its keys wait too.
  private static let outputLimit = 256 << 10
  /// After printing about so many bytes others have their turn.
  private static let workLimit = 64 << 10
  /// What a line costs beside its printed bytes.
  private static let lineCost = 512

  /// Takes one key; answers about how much work it was.
  private func receive(_ byte: UInt8) -> Int {
    let before = output.count
    switch editor.receive(byte, into: &output) {
    case .editing: return output.count - before
    case .completion(let line):
      if let (candidates, typed) = session?.completions(for: line) {
        append(editor.complete(candidates, typed: typed))
      }
    case .line(let line):
      // The editor's newline.
      output.removeLast()
      append([10])
      run(line)
    }
    return output.count - before + HMPClientSession.lineCost
  }

  /// Runs a line to its end, or as far as it gets without waiting: `isBusy` from then on.
  private func run(_ line: [UInt8]) {
    guard let session else { return }
    session.history = editor.history.lines
    server.history.add(line)
    isBusy = true
    isStarting = true
    let start = HostClock.monotonic
    MainLoop.start { [self] in
      let text = await session.perform(commandLine: String(decoding: line, as: UTF8.self))
      isBusy = false
      if let who {
        who.audit?.record(who, line: String(decoding: line, as: UTF8.self), since: start)
      }
      guard isOpen else { return }
      output += text.utf8
      server.currentCPU = session.currentCPU
      if !session.hasQuit { append(editor.begin()) }
      if !isStarting {
        flush()
        client.port.resumeReceiving()
      }
    }
    isStarting = false
  }

  /// Prints text with `\n` line ends.
  private func append(_ text: [UInt8]) {
    for byte in text {
      if byte == 10 { output.append(13) }
      output.append(byte)
    }
  }

  private func flush() {
    guard !output.isEmpty, hasFocus else { return }
    client.port.write(output)
    output.removeAll(keepingCapacity: output.count < 4096)
  }
}

extension HMPSession {
  /// Lines run on the node where they belong.
  fileprivate func findsNodes(of context: MonitorContext) {
    elsewhere = { [weak context] name, line, cpu in
      await context?.cluster?.run(line: line, named: name, cpuIndex: cpu)
    }
  }

  /// A session about the machine of `context`, or about what is known before there is one.
  fileprivate convenience init(
    _ commands: MonitorCommands, of context: MonitorContext, access: MonitorAccess
  ) {
    self.init(early: commands, defaults: context.humanMonitorDefaults, access: access)
    context.whenStarted { [weak self, weak context] in
      guard let machine = try? context?.machine else { return }
      self?.machineCame(MachineInspector(machine))
    }
  }
}
