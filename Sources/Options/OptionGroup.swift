// Groups of parameters: what an option with `key=value` takes, shared with -readconfig and -set.

/// How a parameter's value is written; checked when it is set.
enum ParameterType: String, Sendable {
  case string = "str"
  case boolean = "bool (on/off)"
  case number = "num"
  case size
}

/// A group of parameters.
struct OptionGroup: Sendable {
  /// Name in configuration files and for `-set`.
  let name: String
  /// Key of a first word without `=`.
  let impliedKey: String?
  /// All uses of the option make one set of values; otherwise each makes its own.
  let merges: Bool
  /// Written in the strict dialect; values are checked when they are used, not when they are set.
  let isStrict: Bool
  /// Known parameters in alphabetical order; nil: any name is accepted and checked later.
  let parameters: [(name: String, type: ParameterType)]?

  init(
    _ name: String, impliedKey: String? = nil, merges: Bool = false, isStrict: Bool = false,
    _ parameters: [(String, ParameterType)]?
  ) {
    self.name = name
    self.impliedKey = impliedKey
    self.merges = merges
    self.isStrict = isStrict
    self.parameters = parameters?.map { (name: $0.0, type: $0.1) }
  }

  static let machine = OptionGroup(
    "machine", impliedKey: "type", merges: true, isStrict: true, nil)
  static let smp = OptionGroup(
    "smp-opts", impliedKey: "cpus", merges: true, isStrict: true,
    ["clusters", "cores", "cpus", "dies", "maxcpus", "sockets", "threads"].map { ($0, .number) })
  static let boot = OptionGroup(
    "boot-opts", impliedKey: "order", merges: true, isStrict: true,
    [
      ("menu", .boolean), ("once", .string), ("order", .string), ("reboot-timeout", .number),
      ("splash", .string), ("splash-time", .number), ("strict", .boolean),
    ])
  static let memory = OptionGroup(
    "memory", impliedKey: "size", merges: true,
    [("maxmem", .size), ("size", .size), ("slots", .number)])
  static let accel = OptionGroup("accel", impliedKey: "accel", nil)
  static let device = OptionGroup("device", impliedKey: "driver", nil)
  static let drive = OptionGroup("drive", nil)
  static let netdev = OptionGroup("netdev", impliedKey: "type", nil)
  static let net = OptionGroup("net", impliedKey: "type", nil)
  static let nic = OptionGroup("nic", impliedKey: "type", nil)
  static let object = OptionGroup("object", impliedKey: "qom-type", nil)
  static let global = OptionGroup(
    "global", [("driver", .string), ("property", .string), ("value", .string)])
  static let name = OptionGroup(
    "name", impliedKey: "guest", merges: true,
    [("debug-threads", .boolean), ("guest", .string), ("process", .string)])
  static let rtc = OptionGroup(
    "rtc", merges: true, [("base", .string), ("clock", .string), ("driftfix", .string)])
  static let action = OptionGroup(
    "action", merges: true,
    [("panic", .string), ("reboot", .string), ("shutdown", .string), ("watchdog", .string)])
  static let messages = OptionGroup(
    "msg", merges: true, [("guest-name", .boolean), ("timestamp", .boolean)])
  static let overcommit = OptionGroup(
    "overcommit", merges: true, [("cpu-pm", .boolean), ("mem-lock", .boolean)])
  static let sandbox = OptionGroup(
    "sandbox", impliedKey: "enable",
    [
      ("elevateprivileges", .string), ("enable", .boolean), ("obsolete", .string),
      ("resourcecontrol", .string), ("spawn", .string),
    ])
  static let firmwareItem = OptionGroup(
    "fw_cfg", impliedKey: "name",
    [("file", .string), ("gen_id", .string), ("name", .string), ("string", .string)])
  static let descriptorSet = OptionGroup(
    "add-fd", [("fd", .number), ("opaque", .string), ("set", .number)])
  static let monitor = OptionGroup(
    "mon", impliedKey: "chardev",
    [
      ("chardev", .string), ("mode", .string), ("pretty", .boolean), ("x-access", .string),
      ("x-audit", .string),
    ])
  static let cluster = OptionGroup(
    "cluster", impliedKey: "id", merges: true,
    [
      ("check", .string), ("heartbeat-ms", .number), ("home", .string), ("id", .string),
      ("insecure", .boolean),
      ("join-timeout", .number), ("lease-ms", .number), ("memory", .string), ("node", .number),
      ("on-node-loss", .string), ("peers", .string), ("psk", .string), ("shm-path", .string),
      ("tls-creds", .string), ("transport", .string), ("vcpus", .string),
    ])
  static let localCPU = OptionGroup(
    "local-cpu", impliedKey: "cpus", merges: true,
    [("cpus", .number), ("iplist", .string), ("start", .number)])
  static let chardev = OptionGroup(
    "chardev", impliedKey: "backend",
    [
      ("abstract", .boolean), ("append", .boolean), ("backend", .string), ("chardev", .string),
      ("clipboard", .boolean), ("cols", .number), ("debug", .number), ("delay", .boolean),
      ("fd", .string), ("height", .number), ("host", .string), ("ipv4", .boolean),
      ("ipv6", .boolean), ("localaddr", .string), ("localport", .string),
      ("logappend", .boolean), ("logfile", .string), ("mouse", .boolean), ("mux", .boolean),
      ("name", .string), ("nodelay", .boolean), ("path", .string), ("port", .string),
      ("reconnect", .number), ("rows", .number), ("server", .boolean), ("signal", .boolean),
      ("size", .size), ("telnet", .boolean), ("tight", .boolean), ("tls-authz", .string),
      ("tls-creds", .string), ("tn3270", .boolean), ("to", .number), ("wait", .boolean),
      ("websocket", .boolean), ("width", .number),
    ])

  /// Every group that a configuration file may hold.
  static let all: [OptionGroup] = [
    machine, smp, boot, memory, accel, device, drive, netdev, net, nic, object, global, name, rtc,
    action, messages,
    overcommit, sandbox, firmwareItem, monitor, chardev, descriptorSet, cluster, localCPU,
  ]
}

/// A value and where it was written.
struct OptionEntry: Sendable {
  let key: String
  let value: String
  let origin: OptionOrigin
}

/// One set of values of a group.
struct OptionValues: Sendable {
  let group: OptionGroup
  let id: String?
  /// Where the set began.
  let origin: OptionOrigin
  /// In order of writing; of equal keys the last one counts.
  private(set) var entries: [OptionEntry] = []

  init(_ group: OptionGroup, id: String? = nil, origin: OptionOrigin) {
    self.group = group
    self.id = id
    self.origin = origin
  }

  /// The entry that counts for `key`.
  subscript(key: String) -> OptionEntry? { entries.last { $0.key == key } }

  /// The value that counts for `key`.
  func string(_ key: String) -> String? { self[key]?.value }

  /// The value of a parameter that is declared boolean, hence was checked when it was set.
  func boolean(_ key: String) -> Bool? { string(key).flatMap(OptionText.boolean) }

  /// The value of a parameter that is declared a number.
  func number(_ key: String) -> UInt64? {
    guard let text = string(key), case .value(let value) = OptionText.number(text) else {
      return nil
    }
    return value
  }

  /// Sets a value after checking the key and, by its declared type, the text.
  mutating func set(_ key: String, _ value: String, origin: OptionOrigin) throws(OptionError) {
    if let parameters = group.parameters {
      guard let parameter = parameters.first(where: { $0.name == key }) else {
        throw OptionError(
          .unknownParameter, origin, "Invalid parameter '\(key)'",
          suggestion: Spelling.nearest(to: key, among: parameters.map(\.name)))
      }
      try OptionValues.check(value, of: parameter.name, as: parameter.type, origin)
    }
    entries.append(OptionEntry(key: key, value: value, origin: origin))
  }

  /// Throws QEMU's sentence unless `value` is written as `type` demands.
  static func check(
    _ value: String, of name: String, as type: ParameterType, _ origin: OptionOrigin
  ) throws(OptionError) {
    switch type {
    case .string: break
    case .boolean: _ = try boolean(value, of: name, origin)
    case .number:
      switch OptionText.number(value) {
      case .value: break
      case .malformed:
        throw OptionError(.invalidValue, origin, "Parameter '\(name)' expects a number")
      case .outOfRange:
        throw OptionError(
          .invalidValue, origin, "Value '\(value)' is too large for parameter '\(name)'")
      }
    case .size: _ = try size(value, of: name, origin)
    }
  }

  /// A boolean, or QEMU's sentence.
  static func boolean(
    _ value: String, of name: String, _ origin: OptionOrigin
  ) throws(OptionError) -> Bool {
    guard let result = OptionText.boolean(value) else {
      throw OptionError(.invalidValue, origin, "Parameter '\(name)' expects 'on' or 'off'")
    }
    return result
  }

  /// A size in bytes, or QEMU's sentences.
  static func size(
    _ value: String, of name: String, defaultUnit: UInt64 = 1, _ origin: OptionOrigin
  ) throws(OptionError) -> UInt64 {
    switch OptionText.size(value, defaultUnit: defaultUnit) {
    case .value(let bytes): return bytes
    case .malformed:
      throw OptionError(
        .invalidValue, origin,
        "Parameter '\(name)' expects a non-negative number below 2^64",
        hints: [
          "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-",
          "and exabytes, respectively.",
        ])
    case .outOfRange:
      throw OptionError(
        .invalidValue, origin, "Value '\(value)' is out of range for parameter '\(name)'")
    }
  }

  /// One of an enumeration's values, or QEMU's sentence with the nearest value.
  static func choice<Choice: RawRepresentable & CaseIterable>(
    _ value: String, of name: String, _ origin: OptionOrigin, reason: String? = nil
  ) throws(OptionError) -> Choice where Choice.RawValue == String {
    if let choice = Choice(rawValue: value) { return choice }
    throw OptionError(
      .invalidValue, origin, reason ?? "Parameter '\(name)' does not accept value '\(value)'",
      suggestion: Spelling.nearest(to: value, among: Choice.allCases.map(\.rawValue)))
  }
}
