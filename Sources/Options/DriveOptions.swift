// -drive, -hda and the like, -cdrom, -snapshot, -blockdev.

internal import JSON
package import QAPI

enum DriveOptions {
  static let drive: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    if let format = KeyValueText.split(text, impliedKey: nil).last(where: { $0.key == "format" }),
      OptionText.isHelp(format.value)
    {
      state.help = .blockDrivers
      return
    }
    try state.add(text, to: .drive, origin: origin)
  }

  /// `-hda` to `-hdd` and an image alone.
  static func disk(_ index: Int) -> OptionDescriptor.Handler {
    { state, text, origin throws(OptionError) in
      try add(["index": "\(index)", "media": "disk", "file": text], &state, origin)
    }
  }

  static let cdrom: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    try add(["index": "2", "media": "cdrom", "file": text], &state, origin)
  }

  private static func add(
    _ values: KeyValuePairs<String, String>, _ state: inout ParserState, _ origin: OptionOrigin
  ) throws(OptionError) {
    try state.add(
      values.map { OptionEntry(key: $0.key, value: $0.value, origin: origin) }, to: .drive, origin)
  }

  static let blockdev: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    var value = JSONValue.object(JSONObject())
    if text.hasPrefix("{") {
      do throws(JSONError) { value = try JSONValue(parsing: text) } catch {
        throw OptionError(.invalidValue, origin, error.text)
      }
    } else {
      let pairs = try KeyValueText.splitStrict(text, impliedKey: "driver", origin: origin)
      if pairs.contains(where: { OptionText.isHelp($0.shortForm ?? "") })
        || OptionText.isHelp(text)
      {
        throw OptionError(.invalidValue, origin, "Help is not available for this option")
      }
      for pair in pairs { NestedText.set(pair.value, at: pair.key, in: &value) }
    }
    do throws(QAPIError) {
      let options = try BlockdevOptions(
        decoding: value, at: text.hasPrefix("{") ? .json : .keyValue)
      state.configuration.blockdevs.append(
        BlockdevConfiguration(options: options, origin: origin))
    } catch {
      var reason = error.description
      let words = reason.split(separator: "'", omittingEmptySubsequences: false)
      // Of `key=value` QEMU says what is expected, not that a type is wrong.
      if !text.hasPrefix("{"), words.count == 3, words[2] == ", expected: integer" {
        reason = "Parameter '\(words[1])' expects integer"
      }
      throw OptionError(.invalidValue, origin, reason)
    }
  }

  /// Fills in drives and nodes. The boards' default drives come last.
  static func resolve(
    _ state: inout ParserState, _ board: HelpCatalog.Machine,
    into configuration: inout LaunchConfiguration
  ) throws(OptionError) {
    for node in configuration.blockdevs where node.options.nodeName == nil {
      throw OptionError(
        .invalidValue, node.origin, "'node-name' must be specified for the root node")
    }
    for values in state.list(.drive) {
      var reader = DriveReader(values)
      let drive = try reader.drive(
        defaultInterface: board.isPC ? .ide : .none, snapshot: state.wantsSnapshots,
        earlier: configuration.drives)
      state.warnings += reader.warnings
      configuration.drives.append(drive)
    }
    for drive in configuration.drives { try check(drive, board) }
    guard board.isPC, !configuration.noDefaults, !namesOpticalDrive(state),
      !configuration.drives.contains(where: { $0.interface == .ide && $0.index == 2 })
    else { return }
    let origin = OptionOrigin(option: "-cdrom", argument: nil)
    let values = [("if", "ide"), ("index", "2"), ("media", "cdrom")].map {
      OptionEntry(key: $0.0, value: $0.1, origin: origin)
    }
    try state.add(values, to: .drive, origin)
    guard let added = state.list(.drive).last else { return }
    var reader = DriveReader(added)
    var drive = try reader.drive(
      defaultInterface: .ide, snapshot: false, earlier: configuration.drives)
    drive.isDefault = true
    configuration.drives.append(drive)
  }

  /// Whoever makes IDE or SCSI drives with `-device` gets no others.
  private static func namesOpticalDrive(_ state: ParserState) -> Bool {
    let kinds: Set = ["ide-cd", "ide-hd", "scsi-cd", "scsi-hd"]
    return state.list(.device).enumerated().contains { position, values in
      let driver =
        state.jsonDevices[position]?["driver"]?.stringValue ?? values.string("driver") ?? ""
      return kinds.contains(driver)
    }
      || state.list(.global).contains { kinds.contains($0.string("driver") ?? "") }
  }

  /// What no board here has a place for.
  private static func check(
    _ drive: DriveConfiguration, _ board: HelpCatalog.Machine
  ) throws(OptionError) {
    func refuse(_ reason: String) -> OptionError {
      OptionError(.unsupported, drive.origin, reason)
    }
    let place = "if=\(drive.interface.rawValue),bus=\(drive.bus),unit=\(drive.unit)"
    switch drive.interface {
    case .none, .virtio: break
    case .ide:
      guard board.isPC, drive.bus < 2 else {
        throw refuse("machine type does not support \(place)")
      }
    case .floppy: throw refuse("floppy drives are not supported yet")
    case .pflash:
      throw refuse("flash memory is not supported yet; firmware is loaded with -bios")
    case .scsi, .mtd, .sd, .xen: throw refuse("machine type does not support \(place)")
    }
  }
}

/// Puts `a.b.c=text` into a tree.
enum NestedText {
  static func set(_ text: String, at path: String, in value: inout JSONValue) {
    ObjectOption.set(text, at: path.split(separator: ".").map(String.init)[...], in: &value)
  }
}

/// Reads one set of values of `-drive`, in QEMU's order and with its sentences.
struct DriveReader {
  private var entries: [OptionEntry]
  private let origin: OptionOrigin
  private let givenID: String?
  var warnings: [OptionWarning] = []

  init(_ values: OptionValues) {
    entries = values.entries
    origin = values.origin
    givenID = values.id
  }

  mutating func drive(
    defaultInterface: DriveConfiguration.Interface, snapshot: Bool, earlier: [DriveConfiguration]
  ) throws(OptionError) -> DriveConfiguration {
    try renameAliases()
    var options = JSONValue.object(JSONObject())
    var isWriteback = true
    if let cache = take("cache") {
      guard let mode = CacheMode.named[cache.value] else {
        throw fault("invalid cache option")
      }
      isWriteback = mode.writeback
      NestedText.set(mode.direct ? "on" : "off", at: "cache.direct", in: &options)
      NestedText.set(mode.noFlush ? "on" : "off", at: "cache.no-flush", in: &options)
    }
    let isCDROM = try takeMedia()
    var isReadOnly = isCDROM
    if try takeFlag("read-only", default: false) { isReadOnly = true }
    try checkCopyOnRead(isReadOnly)
    let interface = try takeInterface() ?? defaultInterface
    let (bus, unit) = try takePlace(interface, earlier)
    let id = givenID ?? DriveReader.name(interface, bus, unit, isCDROM)
    let filename = take("file")?.value
    let canReport: [DriveConfiguration.Interface] = [.ide, .scsi, .virtio, .none]
    for key in ["werror", "rerror"] where has(key) && !canReport.contains(interface) {
      throw fault("\(key) is not supported by this bus type")
    }
    let isSnapshot = try takeFlag("snapshot", default: snapshot)
    isWriteback = try takeFlag("cache.writeback", default: isWriteback)
    let accountsInvalid = try takeFlag("stats-account-invalid", default: true)
    let accountsFailed = try takeFlag("stats-account-failed", default: true)
    if let aio = take("aio") {
      guard BlockdevAioOptions(rawValue: aio.value) != nil else {
        throw fault("invalid aio option")
      }
      NestedText.set(aio.value, at: "aio", in: &options)
    }
    let throttling = try takeThrottling()
    if let reason = throttling.fault { throw fault(reason) }
    let detectZeroes = try takeDetectZeroes()
    if let format = take("format") {
      if has("driver") { throw fault("Cannot specify both 'driver' and 'format'") }
      NestedText.set(format.value, at: "driver", in: &options)
    }
    let writeErrors = try takeErrorAction("werror", "write", also: .enospc)
    let readErrors = try takeErrorAction("rerror", "read", also: nil)
    for entry in entries { NestedText.set(entry.value, at: entry.key, in: &options) }
    var tree = options.objectValue ?? JSONObject()
    // Caching alone is no medium.
    if (filename ?? "").isEmpty, tree.keys.allSatisfy({ ["cache", "aio"].contains($0) }) {
      tree = JSONObject()
    }
    return DriveConfiguration(
      id: id, interface: interface, bus: bus, unit: unit, isCDROM: isCDROM, filename: filename,
      options: tree, isReadOnly: isReadOnly, isSnapshot: isSnapshot, writesBack: isWriteback,
      detectZeroes: detectZeroes, writeErrors: writeErrors, readErrors: readErrors,
      throttling: throttling, accountsInvalid: accountsInvalid, accountsFailed: accountsFailed,
      isDefault: false, origin: origin)
  }

  /// `ide0-hd0`, `virtio1`, `none0`.
  static func name(
    _ interface: DriveConfiguration.Interface, _ bus: Int, _ unit: Int, _ isCDROM: Bool
  ) -> String {
    let medium = [.ide, .scsi].contains(interface) ? (isCDROM ? "-cd" : "-hd") : ""
    let place = interface.unitsPerBus == nil ? "" : "\(bus)"
    return "\(interface.rawValue)\(place)\(medium)\(unit)"
  }

  private func fault(_ reason: String) -> OptionError {
    OptionError(.invalidValue, origin, reason)
  }

  private func has(_ key: String) -> Bool { entries.contains { $0.key == key } }

  /// Removes all entries of a key; the last one counts.
  private mutating func take(_ key: String) -> OptionEntry? {
    guard let entry = entries.last(where: { $0.key == key }) else { return nil }
    entries.removeAll { $0.key == key }
    return entry
  }

  private mutating func takeFlag(_ key: String, default value: Bool) throws(OptionError) -> Bool {
    guard let entry = take(key) else { return value }
    return try OptionValues.boolean(entry.value, of: key, origin)
  }

  private mutating func takeNumber(_ key: String) throws(OptionError) -> UInt64? {
    guard let entry = take(key) else { return nil }
    try OptionValues.check(entry.value, of: key, as: .number, origin)
    guard case .value(let number) = OptionText.number(entry.value) else { return nil }
    return number
  }

  /// The short names of old versions.
  private mutating func renameAliases() throws(OptionError) {
    var aliases = [
      "readonly": "read-only", "iops_size": "throttling.iops-size",
      "group": "throttling.group",
    ]
    for (short, long) in [("iops", "iops"), ("bps", "bps")] {
      for (suffix, kind) in [("", "total"), ("_rd", "read"), ("_wr", "write")] {
        aliases["\(short)\(suffix)"] = "throttling.\(long)-\(kind)"
        aliases["\(short)\(suffix)_max"] = "throttling.\(long)-\(kind)-max"
      }
    }
    for (position, entry) in entries.enumerated() {
      guard let name = aliases[entry.key] else { continue }
      if has(name) {
        throw fault("'\(name)' and its alias '\(entry.key)' can't be used at the same time")
      }
      entries[position] = OptionEntry(key: name, value: entry.value, origin: entry.origin)
    }
  }

  private mutating func takeMedia() throws(OptionError) -> Bool {
    guard let media = take("media")?.value else { return false }
    guard ["disk", "cdrom"].contains(media) else { throw fault("'\(media)' invalid media") }
    return media == "cdrom"
  }

  private mutating func checkCopyOnRead(_ isReadOnly: Bool) throws(OptionError) {
    guard try takeFlag("copy-on-read", default: false) else { return }
    guard isReadOnly else {
      throw OptionError(.unsupported, origin, "copy-on-read is not supported yet")
    }
    warnings.append(OptionWarning(origin, "disabling copy-on-read on read-only drive"))
  }

  private mutating func takeInterface() throws(OptionError) -> DriveConfiguration.Interface? {
    guard let name = take("if")?.value else { return nil }
    guard let interface = DriveConfiguration.Interface(rawValue: name) else {
      throw OptionError(
        .invalidValue, origin, "unsupported bus type '\(name)'",
        suggestion: Spelling.nearest(
          to: name, among: DriveConfiguration.Interface.allCases.map(\.rawValue)))
    }
    return interface
  }

  /// The place that is given, or the next free one.
  private mutating func takePlace(
    _ interface: DriveConfiguration.Interface, _ earlier: [DriveConfiguration]
  ) throws(OptionError) -> (bus: Int, unit: Int) {
    func signed(_ number: UInt64?) -> Int? {
      number.map { Int(Int32(truncatingIfNeeded: $0)) }
    }
    var bus = signed(try takeNumber("bus")) ?? 0
    var unit = signed(try takeNumber("unit")) ?? -1
    let index = signed(try takeNumber("index")) ?? -1
    let limit = interface.unitsPerBus
    if index != -1 {
      guard bus == 0, unit == -1 else { throw fault("index cannot be used with bus and unit") }
      bus = limit.map { index / $0 } ?? 0
      unit = limit.map { index % $0 } ?? index
    }
    func isTaken(_ bus: Int, _ unit: Int) -> Bool {
      earlier.contains { $0.interface == interface && $0.bus == bus && $0.unit == unit }
    }
    if unit == -1 {
      unit = 0
      while isTaken(bus, unit) {
        unit += 1
        if let limit, unit >= limit {
          unit -= limit
          bus = bus &+ 1
        }
      }
    }
    if let limit, unit >= limit {
      throw fault("unit \(unit) too big (max is \(limit - 1))")
    }
    if isTaken(bus, unit) {
      throw OptionError(
        .conflict, origin, "drive with bus=\(bus), unit=\(unit) (index=\(index)) exists")
    }
    return (bus, unit)
  }

  private mutating func takeDetectZeroes() throws(OptionError) -> BlockdevDetectZeroesOptions {
    guard let text = take("detect-zeroes")?.value else { return .off }
    guard let choice = BlockdevDetectZeroesOptions(rawValue: text) else {
      throw fault("invalid parameter value: \(text)")
    }
    return choice
  }

  private mutating func takeErrorAction(
    _ key: String, _ direction: String, also special: DriveConfiguration.ErrorAction?
  ) throws(OptionError) -> DriveConfiguration.ErrorAction? {
    guard let text = take(key)?.value else { return nil }
    guard let action = DriveConfiguration.ErrorAction(rawValue: text),
      action != .enospc || special == .enospc
    else { throw fault("'\(text)' invalid \(direction) error action") }
    return action
  }

  private mutating func takeThrottling() throws(OptionError) -> ThrottleConfiguration {
    var result = ThrottleConfiguration()
    let kinds: [(String, WritableKeyPath<ThrottleConfiguration, ThrottleConfiguration.Limit>)] = [
      ("bps-total", \.bytes), ("bps-read", \.bytesRead), ("bps-write", \.bytesWritten),
      ("iops-total", \.operations), ("iops-read", \.reads), ("iops-write", \.writes),
    ]
    for (name, path) in kinds {
      let key = "throttling.\(name)"
      result[keyPath: path] = ThrottleConfiguration.Limit(
        average: try takeNumber(key) ?? 0, burst: try takeNumber("\(key)-max") ?? 0,
        burstLength: try takeNumber("\(key)-max-length") ?? 1)
    }
    result.operationSize = try takeNumber("throttling.iops-size") ?? 0
    result.group = take("throttling.group")?.value
    return result
  }
}

/// What the words of `cache=` stand for.
struct CacheMode {
  let writeback: Bool
  let direct: Bool
  let noFlush: Bool

  static let named: [String: CacheMode] = [
    "writeback": CacheMode(writeback: true, direct: false, noFlush: false),
    "writethrough": CacheMode(writeback: false, direct: false, noFlush: false),
    "none": CacheMode(writeback: true, direct: true, noFlush: false),
    "off": CacheMode(writeback: true, direct: true, noFlush: false),
    "directsync": CacheMode(writeback: false, direct: true, noFlush: false),
    "unsafe": CacheMode(writeback: true, direct: false, noFlush: true),
  ]
}

/// A drive in text, as `drive_add` has it.
package enum DriveText {
  /// Reads the values of a `-drive`. `earlier`: the drives that there are or have been. Throws QEMU's sentences.
  package static func drive(
    _ text: String, earlier: [DriveConfiguration]
  ) throws(OptionError) -> DriveConfiguration {
    let origin = OptionOrigin(option: "drive_add", argument: text)
    let id = KeyValueText.split(text, impliedKey: nil).last { $0.key == "id" }?.value
    if let id, earlier.contains(where: { $0.id == id }) {
      throw OptionError(.conflict, origin, "Duplicate ID '\(id)' for drive")
    }
    var state = ParserState(catalog: HelpCatalog())
    try state.add(text, to: .drive, origin: origin)
    guard let values = state.list(.drive).first else {
      throw OptionError(.invalidValue, origin, "no drive")
    }
    var reader = DriveReader(values)
    return try reader.drive(defaultInterface: .ide, snapshot: false, earlier: earlier)
  }

  /// Reads a node as `-blockdev` has it. Throws QEMU's sentences.
  package static func node(_ text: String) throws(OptionError) -> BlockdevOptions {
    var state = ParserState(catalog: HelpCatalog())
    try DriveOptions.blockdev(&state, text, OptionOrigin(option: "drive_add", argument: text))
    guard let node = state.configuration.blockdevs.first?.options else {
      throw OptionError(.invalidValue, nil, "no node")
    }
    return node
  }
}
