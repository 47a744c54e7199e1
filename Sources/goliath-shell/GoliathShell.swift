import Glibc
import Host
import QAPI

/// Command line in, exit status out.
@main
enum GoliathShell {
  nonisolated static func main() {
    let output = Output(isInteractive: false)
    do throws(LineError) {
      let arguments = CommandLine.arguments.dropFirst()
      if arguments.first == "cluster" {
        exit(try ClusterVerbs.run(Array(arguments.dropFirst())).rawValue)
      }
      exit(try run(try options()).rawValue)
    } catch {
      output.complain(["goliath-shell: \(Style.harmless(error.description))"])
      exit(ExitStatus.usage.rawValue)
    }
  }

  /// The command line, with the addresses of the environment when it has none.
  private static func options() throws(LineError) -> ProgramOptions {
    var options = try ProgramOptions(Array(CommandLine.arguments.dropFirst()))
    if options.nodes.isEmpty, let usual = Environment.value("GOLIATH_SHELL") {
      var nodes: [NodeAddress] = []
      for text in usual.split(separator: " ") {
        nodes.append(try NodeAddress(parsing: String(text)))
      }
      options.nodes = NodeAddress.distinct(nodes)
    }
    return options
  }

  private static func run(_ options: ProgramOptions) throws(LineError) -> ExitStatus {
    if let page = options.page {
      Output(isInteractive: false).print(lines(page))
      return .success
    }
    guard !options.nodes.isEmpty else { throw LineError("no address given; see --help") }
    if options.isRaw {
      guard options.nodes.count == 1 else { throw LineError("--raw is for one address") }
      guard options.tls.folder == nil else { throw LineError("--raw knows no TLS") }
      return RawTerminal.run(options.nodes[0])
    }
    let isInteractive =
      options.steps.isEmpty && !options.follows && !options.wantsStartFailure
      && Terminal.isTerminal(0) && Terminal.isTerminal(1)
    _ = signal(SIGPIPE, SIG_IGN)
    let output = Output(isInteractive: isInteractive)
    let credentials = try credentials(options.tls)
    let nodes = options.nodes.map {
      Node(
        $0, isHuman: options.mode == .human, outOfBand: options.wantsOutOfBand,
        credentials: credentials, hostName: options.tls.hostName)
    }
    let fleet: Fleet
    do throws(SystemError) { fleet = try Fleet(nodes) } catch {
      throw LineError("\(error)")
    }
    let style = Style(coloured: isColoured(options.colour))
    let session = Session(options, fleet, output, style: style)
    let status = session.connect()
    let anyReady = nodes.contains { $0.state == .ready }
    if status == .interrupted || status == .startFailed || options.wantsStartFailure {
      return status
    }
    if isInteractive {
      guard anyReady || options.reconnects else { return status }
      return Interactive(session, output, keepsHistory: options.hasHistory).run()
    }
    if status != .success, !options.keepsGoing || !anyReady { return status }
    return max(status, Script(session, options).run())
  }

  /// What TLS needs; nil without it.
  private static func credentials(_ tls: TLSOptions) throws(LineError) -> TLSCredentials? {
    guard let folder = tls.folder else {
      if tls == TLSOptions() { return nil }
      throw LineError("TLS needs --tls-creds-dir")
    }
    do throws(TLSError) {
      if tls.usesSharedKey {
        return try .psk(folder: folder, endpoint: .client, user: tls.user)
      }
      return try .x509(folder: folder, endpoint: .client, verifiesPeer: tls.verifiesServer)
    } catch { throw LineError(error.message) }
  }

  private static func isColoured(_ colour: ProgramOptions.Colour) -> Bool {
    switch colour {
    case .always: true
    case .never: false
    case .auto:
      Terminal.isTerminal(1) && (Environment.value("NO_COLOR") ?? "").isEmpty
        && Environment.value("TERM") != "dumb"
    }
  }

  private static func lines(_ page: ProgramOptions.Page) -> [String] {
    switch page {
    case .help: Manual.help
    case .manual: Manual.manual
    case .version: ["goliath-shell of Goliath, for QMP of QEMU \(VersionInfo.current.qemu.text)"]
    case .completion: Manual.bashCompletion
    }
  }
}
