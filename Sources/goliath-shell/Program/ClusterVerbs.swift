import Glibc
import Host
import JSON

/// `goliath-shell cluster VERB …`.
package enum ClusterCommandLine: Equatable, Sendable {
  /// Starts the program in place of this one, which meets the other nodes and compares.
  case check(program: String, arguments: [String])
  /// Shows a cluster live.
  case top(TopOptions)
  case help

  package struct TopOptions: Equatable, Sendable {
    package var address: String
    /// Seconds between two pictures.
    package var interval = 2.0
    /// How many pictures; nil: until interrupted.
    package var count: Int?
    /// Most hot pages in a picture.
    package var pages = 8

    package init(address: String) { self.address = address }
  }

  package static let helpLines = [
    "Usage: goliath-shell cluster check [--json] [--] PROGRAM OPTION…",
    "       goliath-shell cluster top [-d SECONDS] [-n COUNT] [-p PAGES] ADDRESS",
    "",
    "check   Run on every node, in any order, with the command line that will start that node",
    "        (PROGRAM is goliath, or its path). The nodes meet, compare configuration, CPU features,",
    "        memory, clocks and links, say what differs, and end: status 0 when they would start,",
    "        1 when not. No machine is made.",
    "top     Shows the cluster of the QMP monitor at ADDRESS, on any node, until interrupted: nodes,",
    "        vCPUs, faults a second, pages that move most.",
  ]

  /// Reads what follows `cluster`. Throws `LineError` with a sentence for the user.
  package init(_ arguments: [String]) throws(LineError) {
    var rest = arguments[...]
    switch rest.popFirst() {
    case "check": self = try Self.check(&rest)
    case "top": self = try Self.top(&rest)
    case "-h", "--help", "help", nil: self = .help
    case let word?: throw LineError("cluster: there is no '\(word)'; it is check or top")
    }
  }

  private static func check(_ rest: inout ArraySlice<String>) throws(LineError) -> Self {
    var form = "on"
    while let word = rest.first, word.hasPrefix("-") {
      rest.removeFirst()
      if word == "--" { break }
      switch word {
      case "--json", "-j": form = "json"
      case "-h", "--help": return .help
      default: throw LineError("cluster check: unknown option '\(word)'; see --help")
      }
    }
    guard let program = rest.popFirst() else {
      throw LineError(
        "cluster check: what to start is missing, as in: cluster check -- goliath -cluster …")
    }
    return .check(program: program, arguments: rest + ["-cluster", "check=\(form)"])
  }

  private static func top(_ rest: inout ArraySlice<String>) throws(LineError) -> Self {
    var options = TopOptions(address: "")
    while let word = rest.popFirst() {
      guard word.hasPrefix("-"), word != "-" else {
        guard options.address.isEmpty else { throw LineError("cluster top: one address only") }
        options.address = word
        continue
      }
      if word == "-h" || word == "--help" { return .help }
      guard ["-d", "-n", "-p"].contains(word) else {
        throw LineError("cluster top: unknown option '\(word)'; see --help")
      }
      guard let value = rest.popFirst() else { throw LineError("option '\(word)' needs a value") }
      if word == "-d" {
        options.interval = try LineParser.seconds(value)
        continue
      }
      guard let number = Int(value), number > 0 else {
        throw LineError("option '\(word)' takes a number from 1, not '\(value)'")
      }
      if word == "-n" { options.count = number } else { options.pages = min(number, 1024) }
    }
    guard !options.address.isEmpty else {
      throw LineError("cluster top: the address of a QMP monitor is missing")
    }
    return .top(options)
  }
}

/// Runs the verbs.
enum ClusterVerbs {
  static func run(_ arguments: [String]) throws(LineError) -> ExitStatus {
    switch try ClusterCommandLine(arguments) {
    case .help:
      Output(isInteractive: false).print(ClusterCommandLine.helpLines)
      return .success
    case .check(let program, let arguments):
      let error = HostThread.replaceProgram(with: program, arguments)
      throw LineError("cannot start '\(program)': \(error.reason)")
    case .top(let options): return try top(options)
    }
  }

  private static func top(_ options: ClusterCommandLine.TopOptions) throws(LineError) -> ExitStatus
  {
    _ = signal(SIGPIPE, SIG_IGN)
    let isTerminal = Terminal.isTerminal(1)
    let output = Output(isInteractive: false)
    let node = Node(
      try NodeAddress(parsing: options.address), isHuman: false, outOfBand: false, credentials: nil,
      hostName: nil)
    let fleet: Fleet
    do throws(SystemError) { fleet = try Fleet([node]) } catch { throw LineError("\(error)") }
    let session = Session(ProgramOptions(), fleet, output, style: Style(coloured: false))
    let connected = session.connect()
    guard connected == .success else { return connected }
    var before: ClusterSample?
    var round = 0
    while options.count.map({ round < $0 }) ?? true {
      if round > 0 {
        let deadline = HostClock.monotonic &+ Int64(options.interval * 1e9)
        waiting: while true {
          switch fleet.wait(deadline: deadline) {
          case .interrupted, .terminated: return .success
          case .deadline: break waiting
          default: if case .down = node.state { return .connectionLost }
          }
        }
      }
      round += 1
      let sample: ClusterSample
      switch take(fleet, node, options.pages) {
      case .success(let taken): sample = taken
      case .failure(let failure):
        output.complain(["goliath-shell: \(Style.harmless(failure.text))"])
        return failure.status
      }
      let lines = ClusterScreen.lines(sample, since: before).map(Style.harmless)
      before = sample
      // Home, then each line with what is left of it cleared, then the rest of the screen.
      output.print(
        isTerminal
          ? ["\u{1B}[H" + lines.joined(separator: "\u{1B}[K\n") + "\u{1B}[K\u{1B}[J"]
          : lines + [""])
    }
    return .success
  }

  private struct Failure: Error {
    let text: String
    let status: ExitStatus
  }

  private static func take(
    _ fleet: Fleet, _ node: Node, _ pages: Int
  ) -> Result<ClusterSample, Failure> {
    func ask(_ name: String, _ arguments: JSONObject = [:]) -> Result<JSONValue, Failure> {
      let deadline = HostClock.monotonic &+ 10_000_000_000
      let outcome = fleet.perform(
        .request(QMPRequest(name, arguments)), on: [node], deadline: deadline
      ).first?.outcome
      switch outcome {
      case .reply(let reply):
        switch reply.result {
        case .success(let value): return .success(value)
        case .failure(let failure):
          return .failure(Failure(text: failure.text, status: .commandFailed))
        }
      case .lost(let reason)?, .notConnected(let reason)?:
        return .failure(Failure(text: reason, status: .connectionLost))
      case .interrupted?: return .failure(Failure(text: "interrupted", status: .interrupted))
      default: return .failure(Failure(text: "no reply within 10 s", status: .timeout))
      }
    }
    switch ask("query-cluster") {
    case .failure(let failure): return .failure(failure)
    case .success(let cluster):
      var sample = ClusterSample(time: HostClock.monotonic, cluster: cluster)
      if case .success(let status) = ask("query-status") { sample.status = status }
      guard cluster["memory"]?.stringValue == "dsm" else { return .success(sample) }
      for entry in cluster["nodes"]?.arrayValue ?? [] {
        guard let number = entry["node"]?.intValue, entry["state"]?.stringValue == "joined" else {
          continue
        }
        if case .success(let memory) = ask("query-dsm", ["node": JSONValue(number)]) {
          sample.memory[number] = memory
        }
      }
      if case .success(let hot) = ask("query-dsm-hot-pages", ["limit": JSONValue(pages)]) {
        sample.hotPages = hot.arrayValue ?? []
      }
      return .success(sample)
    }
  }
}
