// Options with one simple value, and the small groups.

internal import JSON

enum ScalarOptions {
  static let cpu: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    guard !text.isEmpty else {
      throw OptionError(.invalidValue, origin, "-cpu option cannot be empty")
    }
    if OptionText.isHelp(text) { state.help = .cpus }
    state.configuration.cpu = CPUConfiguration(text: text, origin: origin)
  }

  static let uuid: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    guard let uuid = MachineUUID(text) else {
      throw OptionError(.invalidValue, origin, "failed to parse UUID string: wrong format")
    }
    state.configuration.uuid = uuid
  }

  static let escapeCharacter: OptionDescriptor.Handler = {
    state, text, origin throws(OptionError) in
    guard case .value(let number) = OptionText.integer(text), let byte = UInt8(exactly: number)
    else { throw OptionError(.invalidValue, origin, "Bad argument to echr") }
    state.configuration.escapeCharacter = byte
  }

  static let display: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    let pairs =
      text.hasPrefix("{")
      ? try jsonMembers(text, origin)
      : try KeyValueText.splitStrict(text, impliedKey: "type", origin: origin)
    let type = pairs.last { $0.key == "type" }?.value
    if OptionText.isHelp(type ?? "") {
      state.help = .displays
      return
    }
    guard let type else {
      throw OptionError(.invalidValue, origin, "Parameter 'type' is missing")
    }
    guard type == "none" else {
      let known = ["gtk", "sdl", "vnc", "curses", "egl-headless", "spice-app", "dbus", "cocoa"]
      let word = type.prefix { $0 != "=" }
      guard known.contains(String(word)) || text.hasPrefix("vnc=") else {
        throw OptionError(
          .invalidValue, origin, "Parameter 'type' does not accept value '\(type)'",
          suggestion: Spelling.nearest(to: type, among: ["none"]))
      }
      throw OptionError(
        .unsupported, origin,
        "display '\(word)' is not supported yet; use -nographic, or -display none with -serial")
    }
    if let extra = pairs.first(where: { $0.key != "type" }) {
      throw OptionError(.unknownParameter, origin, "Parameter '\(extra.key)' is unexpected")
    }
  }

  /// The members of a JSON object with strings, numbers and booleans in it.
  private static func jsonMembers(
    _ text: String, _ origin: OptionOrigin
  ) throws(OptionError) -> [KeyValuePair] {
    do throws(JSONError) {
      guard let object = try JSONValue(parsing: text).objectValue else { return [] }
      return (0..<object.count).map {
        let member = object.member(at: $0)
        return KeyValuePair(member.name, member.value.stringValue ?? member.value.text)
      }
    } catch {
      throw OptionError(.invalidValue, origin, error.text)
    }
  }

  /// Layouts that QEMU has tables for.
  private static let keyboardLayouts = [
    "ar", "bepo", "cz", "da", "de", "de-ch", "en-gb", "en-us", "es", "et", "fi", "fo", "fr",
    "fr-be", "fr-ca", "fr-ch", "hr", "hu", "is", "it", "ja", "lt", "lv", "mk", "nl", "no", "pl",
    "pt", "pt-br", "ru", "sl", "sv", "th", "tr",
  ]

  /// A layout only matters to a display, and there is none: known ones are warned about.
  static let keyboardLayout: OptionDescriptor.Handler = {
    state, text, origin throws(OptionError) in
    guard keyboardLayouts.contains(text) else {
      throw OptionError(
        .invalidValue, origin, "could not read keymap file: '\(text)'",
        suggestion: Spelling.nearest(to: text, among: keyboardLayouts))
    }
    state.warnings.append(
      OptionWarning(origin, "there is no display that would use a keyboard layout"))
  }

  static let videoCard: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    if OptionText.isHelp(text) {
      state.help = .videoCards
      return
    }
    guard text == "none" else {
      let known = ["std", "cirrus", "vmware", "qxl", "virtio", "xenfb", "tcx", "cg3"]
      guard known.contains(text) else {
        throw OptionError(
          .invalidValue, origin, "unknown vga type: \(text)",
          suggestion: Spelling.nearest(to: text, among: ["none"]))
      }
      throw OptionError(
        .unsupported, origin, "video card '\(text)' is not supported yet; use -vga none")
    }
    state.configuration.hasNoVideoCard = true
  }

  static let logItems: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    if OptionText.isHelp(text) || text.isEmpty {
      state.help = .logItems
      return
    }
    let known = state.catalog.logItems.map(\.name)
    for word in text.split(separator: ",").map(String.init) {
      if word.hasPrefix("trace:") {
        let source = TraceRequest.Source.pattern(String(word.dropFirst(6)))
        state.configuration.log.traces.append(TraceRequest(source: source, origin: origin))
        continue
      }
      let items = word == "all" ? known : [word]
      for item in items {
        guard known.contains(item) else {
          if HelpCatalog.foreignLogItems.contains(item) {
            throw OptionError(
              .unsupported, origin, "log item '\(item)' is not supported",
              hints: ["There are: \(known.joined(separator: ","))"])
          }
          throw OptionError(
            .invalidValue, origin, "unknown log item '\(item)'",
            suggestion: Spelling.nearest(to: item, among: known),
            hints: ["There are: \(known.joined(separator: ","))"])
        }
        if !state.configuration.log.items.contains(item) {
          state.configuration.log.items.append(item)
        }
      }
    }
  }

  static let trace: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    for pair in try KeyValueText.splitStrict(text, impliedKey: "enable", origin: origin) {
      switch pair.key {
      case "enable" where OptionText.isHelp(pair.value): state.help = .traceEvents
      case "enable":
        let source = TraceRequest.Source.pattern(pair.value)
        state.configuration.log.traces.append(TraceRequest(source: source, origin: origin))
      case "events":
        let source = TraceRequest.Source.file(pair.value)
        state.configuration.log.traces.append(TraceRequest(source: source, origin: origin))
      case "file": state.configuration.log.file = pair.value
      default:
        throw OptionError(.unknownParameter, origin, "Invalid parameter '\(pair.key)'")
      }
    }
  }

  /// Fills in the small groups.
  static func resolve(
    _ state: ParserState, into configuration: inout LaunchConfiguration
  ) throws(OptionError) {
    if let values = state.merged(.name) {
      configuration.name.guest = values.string("guest")
      configuration.name.process = values.string("process")
      configuration.name.debugThreads = values.boolean("debug-threads") ?? false
    }
    if let values = state.merged(.messages) {
      configuration.messages.timestamp = values.boolean("timestamp") ?? false
      configuration.messages.guestName = values.boolean("guest-name") ?? false
    }
    if let values = state.merged(.overcommit) {
      configuration.overcommit.lockMemory = values.boolean("mem-lock") ?? false
      if values.boolean("cpu-pm") == true, let entry = values["cpu-pm"] {
        throw OptionError(
          .unsupported, entry.origin,
          "cpu-pm=on is not supported: interrupt controllers are in user space and must see a vCPU"
            + " halt, so HLT and MWAIT are not left to the guest")
      }
    }
    if let values = state.merged(.action) {
      for entry in values.entries {
        let (key, value, origin) = (entry.key, entry.value, entry.origin)
        switch key {
        case "reboot":
          configuration.actions.reboot = try OptionValues.choice(value, of: key, origin)
        case "shutdown":
          configuration.actions.shutdown = try OptionValues.choice(value, of: key, origin)
        case "panic":
          configuration.actions.panic = try OptionValues.choice(value, of: key, origin)
        default:
          configuration.actions.watchdog = try OptionValues.choice(value, of: key, origin)
        }
      }
    }
    try resolveClock(state, into: &configuration)
    try resolveSandbox(state, into: &configuration)
    for values in state.list(.descriptorSet) {
      configuration.process.addedDescriptors.append(try addedDescriptor(values))
    }
  }

  private static func resolveClock(
    _ state: ParserState, into configuration: inout LaunchConfiguration
  ) throws(OptionError) {
    guard let values = state.merged(.rtc) else { return }
    if let entry = values["base"] {
      switch entry.value {
      case "utc": configuration.rtc.base = .utc
      case "localtime": configuration.rtc.base = .localTime
      default:
        guard let seconds = CalendarText.seconds(entry.value) else {
          throw OptionError(
            .invalidValue, entry.origin, "invalid datetime format",
            hints: ["valid formats: '2006-06-17T16:01:21' or '2006-06-17'"])
        }
        configuration.rtc.base = .fixed(secondsSince1970: seconds)
      }
    }
    func invalid(_ entry: OptionEntry, _ choices: [String]) -> OptionError {
      OptionError(
        .invalidValue, entry.origin, "invalid option value '\(entry.value)'",
        suggestion: Spelling.nearest(to: entry.value, among: choices),
        hints: ["'\(entry.key)' takes \(choices.joined(separator: ", "))"])
    }
    if let entry = values["clock"] {
      guard let clock = RTCConfiguration.Clock(rawValue: entry.value) else {
        throw invalid(entry, ["host", "rt", "vm"])
      }
      configuration.rtc.clock = clock
    }
    if let entry = values["driftfix"] {
      guard ["none", "slew"].contains(entry.value) else { throw invalid(entry, ["none", "slew"]) }
      configuration.rtc.slewsLostTicks = entry.value == "slew"
    }
  }

  private static func addedDescriptor(
    _ values: OptionValues
  ) throws(OptionError) -> AddedDescriptor {
    func number(_ key: String) throws(OptionError) -> Int64 {
      // Written with a sign it wraps, as any number of QEMU's does.
      guard let value = values.number(key).map({ Int64(bitPattern: $0) }), value >= 0 else {
        throw OptionError(
          .invalidValue, values.origin, "\(key) option is required and must be non-negative")
      }
      return value
    }
    let descriptor = Int32(clamping: try number("fd"))
    guard descriptor > 2 else {
      throw OptionError(.invalidValue, values.origin, "fd cannot be a standard I/O stream")
    }
    return AddedDescriptor(
      descriptor: descriptor, set: try number("set"), note: values.string("opaque"),
      origin: values.origin)
  }

  private static func resolveSandbox(
    _ state: ParserState, into configuration: inout LaunchConfiguration
  ) throws(OptionError) {
    guard let values = state.list(.sandbox).last, values.boolean("enable") == true else { return }
    var sandbox = SandboxConfiguration()
    func denies(_ key: String, otherwise: Bool) throws(OptionError) -> Bool {
      guard let entry = values[key] else { return otherwise }
      guard ["allow", "deny"].contains(entry.value) else {
        throw OptionError(.invalidValue, entry.origin, "invalid argument for \(key)")
      }
      return entry.value == "deny"
    }
    sandbox.deniesObsolete = try denies("obsolete", otherwise: true)
    sandbox.deniesSpawn = try denies("spawn", otherwise: false)
    sandbox.deniesResourceControl = try denies("resourcecontrol", otherwise: false)
    if let entry = values["elevateprivileges"] {
      sandbox.elevatePrivileges = try OptionValues.choice(
        entry.value, of: entry.key, entry.origin, reason: "invalid argument for elevateprivileges")
    }
    configuration.process.sandbox = sandbox
  }
}

extension MachineUUID {
  /// Reads the form with dashes, digits in either case; nil for anything else.
  package init?(_ text: String) {
    let groups = text.split(separator: "-", omittingEmptySubsequences: false)
    guard groups.map(\.utf8.count) == [8, 4, 4, 4, 12] else { return nil }
    var bytes: [UInt8] = []
    var high: UInt8?
    for digit in groups.joined().utf8 {
      guard let value = Character(UnicodeScalar(digit)).hexDigitValue else { return nil }
      if let first = high {
        bytes.append(first << 4 | UInt8(value))
        high = nil
      } else {
        high = UInt8(value)
      }
    }
    self.init(bytes: bytes)
  }
}

/// Dates of `-rtc base=`.
enum CalendarText {
  /// Seconds since 1970 of `YYYY-MM-DD` or `YYYY-MM-DDTHH:MM:SS`, proleptic Gregorian; nil when the
  /// text has another form or no such moment exists.
  static func seconds(_ text: String) -> Int64? {
    let halves = text.split(separator: "T", omittingEmptySubsequences: false)
    guard (1...2).contains(halves.count), let date = numbers(halves[0], "-"),
      let time = halves.count == 2 ? numbers(halves[1], ":") : [0, 0, 0]
    else { return nil }
    let (year, month, day) = (date[0], date[1], date[2])
    let isLeap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
    let lengths = [31, isLeap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    guard (1...9999).contains(year), (1...12).contains(month),
      (1...lengths[month - 1]).contains(day), (0...23).contains(time[0]),
      (0...59).contains(time[1]), (0...60).contains(time[2])
    else { return nil }
    let past = year - 1
    let days =
      past * 365 + past / 4 - past / 100 + past / 400 + lengths[..<(month - 1)].reduce(0, +) + day
      - 1
    return Int64((days - 719_162) * 86400 + time[0] * 3600 + time[1] * 60 + time[2])
  }

  private static func numbers(_ text: Substring, _ separator: Character) -> [Int]? {
    let parts = text.split(separator: separator, omittingEmptySubsequences: false)
    let values = parts.compactMap { part in
      part.utf8.count <= 4 && part.utf8.allSatisfy { (0x30...0x39).contains($0) } ? Int(part) : nil
    }
    return values.count == 3 && parts.count == 3 ? values : nil
  }
}
