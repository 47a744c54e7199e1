/// What the command line asks for.
package struct ProgramOptions: Equatable, Sendable {
  /// A line or a file of lines to run, in the order given.
  package enum Step: Equatable, Sendable {
    case line(String)
    case file(String)
  }

  /// When to use colours.
  package enum Colour: String, Equatable, Sendable, CaseIterable { case auto, always, never }

  /// What to print in place of connecting.
  package enum Page: Equatable, Sendable {
    case help, manual, version
    case completion(String)
  }

  package var page: Page?
  package var nodes: [NodeAddress] = []
  package var mode = LineParser.Mode.qmp
  package var isRaw = false
  package var steps: [Step] = []
  package var isJSON = false
  package var isPretty = false
  package var colour = Colour.auto
  package var isQuiet = false
  package var isVerbose = false
  package var hasTiming = false
  package var showsEvents = false
  package var follows = false
  package var keepsGoing = false
  package var reconnects = false
  package var retries = false
  package var wantsOutOfBand = false
  package var wantsStartFailure = false
  package var select: String?
  package var hasHistory = true
  package var tls = TLSOptions()
  /// Seconds for a reply; nil: no limit.
  package var timeout: Double?
  /// Seconds until a node must have greeted.
  package var connectTimeout = 10.0

  package init() {}

  /// Reads the arguments after the program's name. Throws `LineError` with a sentence for the user.
  package init(_ arguments: [String]) throws(LineError) {
    self.init()
    var rest = arguments[...]
    var addresses: [String] = []
    while let argument = rest.popFirst() {
      if argument == "--" {
        addresses += rest
        break
      }
      guard argument.hasPrefix("-"), argument != "-" else {
        addresses.append(argument)
        continue
      }
      // --name=value, and -cvalue, are the same as two words.
      var name = argument
      var attached: String?
      if argument.hasPrefix("--"), let equals = argument.firstIndex(of: "=") {
        name = String(argument[..<equals])
        attached = String(argument[argument.index(after: equals)...])
      } else if !argument.hasPrefix("--"), argument.count > 2 {
        name = String(argument.prefix(2))
        attached = String(argument.dropFirst(2))
      }
      guard let option = OptionEntry.all.first(where: { $0.names.contains(name) }) else {
        throw LineError("unknown option '\(name)'; see --help")
      }
      guard option.value != nil else {
        if let attached, !argument.hasPrefix("--") {
          // -qk: several letters in one word.
          rest = ["-" + attached] + rest
        } else if attached != nil {
          throw LineError("option '\(name)' takes no value")
        }
        try option.apply("", &self)
        continue
      }
      guard let value = attached ?? rest.popFirst() else {
        throw LineError("option '\(name)' needs a value")
      }
      try option.apply(value, &self)
    }
    if page != nil { return }
    for text in addresses { nodes.append(try NodeAddress(parsing: text)) }
    nodes = NodeAddress.distinct(nodes)
  }
}

/// How connections are encrypted.
package struct TLSOptions: Equatable, Sendable {
  /// The folder of certificates or keys, laid out as for `tls-creds-x509` and `tls-creds-psk`; nil: no TLS.
  package var folder: String?
  /// Keys that both sides know (`keys.psk`) in place of certificates.
  package var usesSharedKey = false
  /// The name for which the key is.
  package var user: String?
  /// What the server's certificate must be for; nil: the host of the address.
  package var hostName: String?
  package var verifiesServer = true
}

/// One option of the command line: how it is written, what it does, what the help says.
package struct OptionEntry: Sendable {
  package let names: [String]
  /// What stands for the value in the help; nil when there is none.
  package let value: String?
  package let help: String
  let apply: @Sendable (String, inout ProgramOptions) throws(LineError) -> Void

  private init(
    _ names: String, _ value: String? = nil, _ help: String,
    _ apply: @escaping @Sendable (String, inout ProgramOptions) throws(LineError) -> Void
  ) {
    self.names = names.split(separator: " ").map(String.init)
    self.value = value
    self.help = help
    self.apply = apply
  }

  package static let all: [OptionEntry] = [
    OptionEntry("-c --command", "LINE", "run LINE, then end; may be repeated") { value, options in
      options.steps.append(.line(value))
    },
    OptionEntry("-f --file", "FILE", "run the lines of FILE ('-': standard input), then end") {
      value, options in options.steps.append(.file(value))
    },
    OptionEntry("-k --keep-going", nil, "go on after a line that failed") { _, options in
      options.keepsGoing = true
    },
    OptionEntry(
      "-s --select", "PATH",
      "print only the value at PATH of each answer, such as 0.name or *.label"
    ) {
      value, options in options.select = value
    },
    OptionEntry("-j --json", nil, "print replies and events as the server's JSON, one in a line") {
      _, options in options.isJSON = true
    },
    OptionEntry("-p --pretty", nil, "as --json, over several lines") { _, options in
      options.isJSON = true
      options.isPretty = true
    },
    OptionEntry("-q --quiet", nil, "print no answers, only errors and what was asked for") {
      _, options in options.isQuiet = true
    },
    OptionEntry("-v --verbose", nil, "print what is sent, on standard error") { _, options in
      options.isVerbose = true
    },
    OptionEntry("-t --timeout", "SECONDS", "how long to wait for a reply (no limit unless given)") {
      value, options throws(LineError) in options.timeout = try LineParser.seconds(value)
    },
    OptionEntry("-e --events", nil, "print events also when not interactive") { _, options in
      options.showsEvents = true
    },
    OptionEntry("-F --follow", nil, "after the lines, print events until interrupted or the end") {
      _, options in
      options.follows = true
      options.showsEvents = true
    },
    OptionEntry(
      "-H --human", nil,
      "lines are the human monitor's, sent through QMP; /NAME for the shell's own"
    ) {
      _, options in options.mode = .humanOverQMP
    },
    OptionEntry("--hmp", nil, "the addresses are human monitors (plain or telnet)") { _, options in
      options.mode = .human
    },
    OptionEntry("--raw", nil, "with --hmp: pass keys and screen through; Ctrl-] leaves") {
      _, options in
      options.mode = .human
      options.isRaw = true
    },
    OptionEntry("--oob", nil, "negotiate out-of-band execution, for the word oob") { _, options in
      options.wantsOutOfBand = true
    },
    OptionEntry("--connect-timeout", "SECONDS", "how long a node may take to greet (10)") {
      value, options throws(LineError) in options.connectTimeout = try LineParser.seconds(value)
    },
    OptionEntry(
      "--retry", nil, "try to connect again until --connect-timeout, for a server that is starting"
    ) {
      _, options in options.retries = true
    },
    OptionEntry(
      "--reconnect", nil, "connect again when a connection is lost (always so at the prompt)"
    ) {
      _, options in options.reconnects = true
    },
    OptionEntry(
      "--start-failure", nil, "wait until the server runs or tells why it cannot start, then end"
    ) {
      _, options in
      options.wantsStartFailure = true
      options.retries = true
    },
    OptionEntry(
      "--tls-creds-dir", "DIR", "use TLS, with the certificates in DIR (as tls-creds-x509 has them)"
    ) {
      value, options in options.tls.folder = value
    },
    OptionEntry("--tls-psk", nil, "use the keys in DIR's keys.psk in place of certificates") {
      _, options in options.tls.usesSharedKey = true
    },
    OptionEntry("--tls-user", "NAME", "whose key (qemu)") { value, options in
      options.tls.user = value
    },
    OptionEntry(
      "--tls-hostname", "NAME",
      "whom the server's certificate must be for (the host of the address)"
    ) {
      value, options in options.tls.hostName = value
    },
    OptionEntry("--tls-no-verify", nil, "take any certificate of the server") { _, options in
      options.tls.verifiesServer = false
    },
    OptionEntry("--timing", nil, "print how long each reply took") { _, options in
      options.hasTiming = true
    },
    OptionEntry("--color", "WHEN", "auto, always or never; NO_COLOR is heeded") {
      value, options throws(LineError) in
      guard let colour = ProgramOptions.Colour(rawValue: value) else {
        throw LineError("--color: auto, always or never, not '\(value)'")
      }
      options.colour = colour
    },
    OptionEntry("--no-history", nil, "neither read nor write the history of lines") {
      _, options in options.hasHistory = false
    },
    OptionEntry("-h --help", nil, "this help") { _, options in options.page = .help },
    OptionEntry("--manual", nil, "the manual page, as text") { _, options in
      options.page = .manual
    },
    OptionEntry("--version", nil, "the version") { _, options in options.page = .version },
    OptionEntry("--completion", "SHELL", "a completion script for a shell (bash)") {
      value, options throws(LineError) in
      guard value == "bash" else { throw LineError("--completion: only for bash") }
      options.page = .completion(value)
    },
  ]
}
