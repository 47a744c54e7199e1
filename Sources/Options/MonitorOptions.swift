// Monitors, serial ports and their defaults: labels, order of creation, and who uses which device.

internal import JSON
internal import QAPI

enum MonitorOptions {
  /// `-monitor`, `-qmp`, `-qmp-pretty`.
  static func short(
    _ text: String, _ mode: MonitorConfiguration.Mode, pretty: Bool, _ state: inout ParserState,
    _ origin: OptionOrigin
  ) throws(OptionError) {
    state.wantsDefaultMonitor = false
    if mode == .readline, text == "none" { return }
    var label = "compat_monitor\(state.shortMonitorCount)"
    state.shortMonitorCount += 1
    if text.hasPrefix("chardev:") {
      label = String(text.dropFirst(8))
    } else {
      do throws(OptionError) {
        try state.add(
          ChardevShortForm.parameters(text, origin), id: label, to: .chardev, origin)
      } catch { throw error.followed(by: "parse error: \(text)") }
    }
    let entries = [
      ("chardev", label), ("mode", mode.rawValue), ("pretty", pretty ? "on" : "off"),
    ]
    try state.add(
      entries.map { OptionEntry(key: $0.0, value: $0.1, origin: origin) }, id: label, to: .monitor,
      origin)
  }

  /// Adds what a machine gets without asking: with `-nographic` serial port and monitor on stdio,
  /// else all on text consoles.
  static func addDefaults(
    _ state: inout ParserState, _ board: HelpCatalog.Machine
  ) throws(OptionError) {
    let drivers =
      state.list(.device).compactMap { $0.string("driver") }
      + state.jsonDevices.values.compactMap { $0["driver"]?.stringValue }
      + state.list(.global).compactMap { $0.string("driver") }
    let hasDefaults = !state.configuration.noDefaults
    let serial =
      state.wantsDefaultSerial && hasDefaults && board.isPC && !drivers.contains("isa-serial")
    let parallel =
      state.wantsDefaultParallel && hasDefaults && board.isPC && !drivers.contains("isa-parallel")
    let monitor = state.wantsDefaultMonitor && hasDefaults
    // Only what would go to a terminal is in the way; with -nodefaults nothing does.
    if let origin = state.nographic, state.daemonize != nil, serial || parallel || monitor {
      throw OptionError(.conflict, origin, "-nographic cannot be used with -daemonize")
    }
    let console = "vc:80Cx24C"
    func origin(_ option: String, _ text: String) -> OptionOrigin {
      OptionOrigin(option: option, argument: text)
    }
    let isMuxed = serial && monitor && state.nographic != nil
    let onTerminal = state.nographic != nil ? "stdio" : console
    if serial { state.serials.append(origin("-serial", isMuxed ? "mon:stdio" : onTerminal)) }
    if parallel {
      state.parallels.append(origin("-parallel", state.nographic != nil ? "null" : console))
    }
    if monitor, !isMuxed {
      try short(
        onTerminal, .readline, pretty: false, &state, origin("-monitor", onTerminal))
    }
  }

  /// Fills in character devices, monitors and ports in QEMU's order of creation: the group `chardev`
  /// (with the devices of `-monitor` and `-qmp`), monitors, serial ports, parallel ports, debug console.
  static func resolve(
    _ state: inout ParserState, _ board: HelpCatalog.Machine,
    into configuration: inout LaunchConfiguration
  ) throws(OptionError) {
    var users = ChardevUsers(isDaemon: state.daemonize != nil, nographic: state.nographic != nil)
    for values in state.list(.chardev) {
      for device in try ChardevOptions.resolve(values, &state.warnings) { try users.create(device) }
    }
    for values in state.list(.monitor) {
      let monitor = try monitor(values, users)
      try users.attach(to: monitor.chardev, values.origin)
      configuration.monitors.append(monitor)
    }
    for origin in state.serials where origin.argument != "none" {
      let label = "serial\(configuration.serials.count)"
      configuration.serials.append(
        try connect(
          origin, label, "could not connect serial device to character backend", &state, &users,
          &configuration))
    }
    for origin in state.parallels where origin.argument != "none" {
      guard configuration.parallels.count < 3 else {
        throw OptionError(.conflict, origin, "too many parallel ports")
      }
      let label = "parallel\(configuration.parallels.count)"
      configuration.parallels.append(
        try connect(
          origin, label, "could not connect parallel device to character backend", &state, &users,
          &configuration))
    }
    for origin in state.debugConsoles {
      guard board.isPC else {
        throw OptionError(
          .unsupported, origin, "No 'ISA' bus found for device 'isa-debugcon'")
      }
      guard configuration.debugConsole == nil else {
        throw OptionError(.conflict, origin, "there is one debug console only")
      }
      configuration.debugConsole = try connect(
        origin, "debugcon", "invalid character backend", &state, &users, &configuration)
    }
    configuration.chardevs = users.devices
  }

  private static func monitor(
    _ values: OptionValues, _ users: ChardevUsers
  ) throws(OptionError) -> MonitorConfiguration {
    guard let chardev = values.string("chardev") else {
      throw OptionError(.invalidValue, values.origin, "Parameter 'chardev' is missing")
    }
    let text = values.string("mode") ?? "readline"
    guard let mode = MonitorConfiguration.Mode(rawValue: text) else {
      throw OptionError(
        .invalidValue, values.origin, "Parameter 'mode' does not accept value '\(text)'",
        suggestion: Spelling.nearest(to: text, among: ["readline", "control"]))
    }
    let pretty = values.boolean("pretty") ?? false
    if pretty, mode == .readline {
      throw OptionError(
        .conflict, values.origin, "'pretty' is not compatible with HMP monitors")
    }
    guard users.exists(chardev) else { throw users.notFound(chardev, values.origin) }
    var monitor = MonitorConfiguration(
      id: values.id, chardev: chardev, mode: mode, pretty: pretty, origin: values.origin)
    if let text = values.string("x-access") {
      do throws(QAPIError) { monitor.access = try MonitorAccess(text) } catch {
        throw OptionError(.invalidValue, values.origin, error.description)
      }
    }
    monitor.auditFile = values.string("x-audit")
    return monitor
  }

  /// Creates the device of a short form, with a monitor on it for `mon:`, and returns its label;
  /// `chardev:ID` names an existing one.
  private static func connect(
    _ origin: OptionOrigin, _ label: String, _ complaint: String, _ state: inout ParserState,
    _ users: inout ChardevUsers, _ configuration: inout LaunchConfiguration
  ) throws(OptionError) -> String {
    let text = origin.argument ?? ""
    let consequence = "\(complaint) '\(text)'"
    do throws(OptionError) {
      if text.hasPrefix("chardev:") {
        let id = String(text.dropFirst(8))
        guard users.exists(id) else { throw users.notFound(id, origin) }
        try users.attach(to: id, origin)
        return id
      }
      if users.exists(label) {
        throw OptionError(.conflict, origin, "Duplicate ID '\(label)' for chardev")
      }
      var values = OptionValues(.chardev, id: label, origin: origin)
      for entry in try ChardevShortForm.parameters(text, origin) {
        try values.set(entry.key, entry.value, origin: origin)
      }
      for var device in try ChardevOptions.resolve(values, &state.warnings) {
        device.consequence = consequence
        try users.create(device)
      }
      try users.attach(to: label, origin)
      if values.boolean("mux") == true {
        try users.attach(to: label, origin)
        configuration.monitors.append(
          MonitorConfiguration(
            id: nil, chardev: label, mode: .readline, pretty: false, origin: origin))
      }
      return label
    } catch { throw error.followed(by: consequence) }
  }
}

/// Character devices so far and how many users each has: one, or four for a multiplexer.
struct ChardevUsers {
  private static let multiplexerLimit = 4
  let isDaemon: Bool
  let nographic: Bool
  private(set) var devices: [ChardevConfiguration] = []
  private var userCounts: [String: Int] = [:]

  init(isDaemon: Bool, nographic: Bool) {
    self.isDaemon = isDaemon
    self.nographic = nographic
  }

  func exists(_ label: String) -> Bool { devices.contains { $0.label == label } }

  func notFound(_ label: String, _ origin: OptionOrigin) -> OptionError {
    OptionError(
      .invalidValue, origin, "chardev \"\(label)\" not found",
      suggestion: Spelling.nearest(to: label, among: devices.map(\.label)))
  }

  mutating func create(_ device: ChardevConfiguration) throws(OptionError) {
    switch device.backend {
    case .stdio:
      if isDaemon { throw device.failure("cannot use stdio with -daemonize") }
      if let other = devices.first(where: { if case .stdio = $0.backend { true } else { false } }) {
        throw OptionError(
          .conflict, device.origin, "cannot use stdio by multiple character devices",
          hints: ["('\(other.label)' has it already; 'mon:stdio' shares it)"],
          consequence: device.consequence)
      }
    case .mux(let mux):
      guard exists(mux.chardev) else {
        throw device.failure("mux: base chardev \(mux.chardev) not found")
      }
      if mux.chardev != "\(device.label)-base" { try attach(to: mux.chardev, device.origin) }
    default: break
    }
    if exists(device.label) {
      throw OptionError(.conflict, device.origin, "Duplicate ID '\(device.label)' for chardev")
    }
    devices.append(device)
  }

  mutating func attach(to label: String, _ origin: OptionOrigin) throws(OptionError) {
    let isMultiplexer = devices.contains {
      if case .mux = $0.backend { $0.label == label } else { false }
    }
    let count = userCounts[label, default: 0]
    guard count < (isMultiplexer ? ChardevUsers.multiplexerLimit : 1) else {
      throw OptionError(.conflict, origin, "Device '\(label)' is in use")
    }
    userCounts[label] = count + 1
  }
}

extension OptionError {
  /// The same error with a second message.
  package func followed(by consequence: String) -> OptionError {
    OptionError(
      kind, origin, reason, suggestion: suggestion, hints: hints,
      consequence: self.consequence ?? consequence)
  }
}
