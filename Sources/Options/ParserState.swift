// What has been read so far while the arguments are gone through.

internal import JSON
internal import QAPI

/// Everything that options have set, before it is resolved into a `LaunchConfiguration`.
struct ParserState {
  let catalog: HelpCatalog
  /// Values by group name; merging groups have at most one set.
  private(set) var sets: [String: [OptionValues]] = [:]
  /// Members of JSON forms of `-device`, by position in `sets["device"]`.
  private(set) var jsonDevices: [Int: JSONObject] = [:]
  /// What JSON forms of `-object` say, by position in `sets["object"]`.
  var jsonObjects: [Int: ObjectOptions] = [:]
  /// What JSON forms of `-netdev` say, by position in `sets["netdev"]`.
  var jsonNetdevs: [Int: Netdev] = [:]
  var warnings: [OptionWarning] = []
  /// Set by the first option that asks for help; nothing after it is read.
  var help: HelpTopic?

  /// Arguments of `-serial`, `-parallel`, `-debugcon` in order.
  var serials: [OptionOrigin] = []
  var parallels: [OptionOrigin] = []
  var debugConsoles: [OptionOrigin] = []
  /// How many short forms (`-monitor`, `-qmp`) have been met: the number in the next label.
  var shortMonitorCount = 0
  /// `-snapshot`.
  var wantsSnapshots = false
  var wantsDefaultSerial = true
  var wantsDefaultParallel = true
  var wantsDefaultMonitor = true
  /// `-shm-path`.
  var sharedMemory: (name: String, origin: OptionOrigin)?
  var nographic: OptionOrigin?
  var daemonize: OptionOrigin?
  var configuration = LaunchConfiguration(
    machine: MachineConfiguration(type: ""), accelerators: [], smp: SMPConfiguration(),
    memory: MemoryConfiguration())

  init(catalog: HelpCatalog) { self.catalog = catalog }

  /// The only set of a merging group.
  func merged(_ group: OptionGroup) -> OptionValues? { sets[group.name]?.first }

  /// All sets of a group in order.
  func list(_ group: OptionGroup) -> [OptionValues] { sets[group.name] ?? [] }

  /// Parses an argument of an option whose values form `group`, or asks for the group's help.
  mutating func add(
    _ text: String, to group: OptionGroup, origin: OptionOrigin
  ) throws(OptionError) {
    let pairs =
      group.isStrict
      ? try KeyValueText.splitStrict(text, impliedKey: group.impliedKey, origin: origin)
      : KeyValueText.split(text, impliedKey: group.impliedKey)
    if group.parameters != nil, let first = pairs.first,
      OptionText.isHelp(first.shortForm ?? "")
        || (OptionText.isHelp(text) && group.name != OptionGroup.name.name)
    {
      help = .group(group.name)
      return
    }
    warnAboutShortForms(pairs, origin)
    try add(
      pairs.map { OptionEntry(key: $0.key, value: $0.value, origin: origin) }, to: group, origin)
  }

  /// Adds values to a group's only set, or as a new set.
  mutating func add(
    _ entries: [OptionEntry], id: String? = nil, to group: OptionGroup, _ origin: OptionOrigin
  ) throws(OptionError) {
    if group.merges {
      var values = merged(group) ?? OptionValues(group, origin: origin)
      for entry in entries { try values.set(entry.key, entry.value, origin: entry.origin) }
      sets[group.name] = [values]
      return
    }
    let id = id ?? entries.last { $0.key == "id" }?.value
    if let id {
      guard OptionText.isIdentifier(id) else { throw ParserState.badIdentifier(origin) }
      if list(group).contains(where: { $0.id == id }) {
        throw OptionError(.conflict, origin, "Duplicate ID '\(id)' for \(group.name)")
      }
    }
    var values = OptionValues(group, id: id, origin: origin)
    for entry in entries where entry.key != "id" {
      try values.set(entry.key, entry.value, origin: entry.origin)
    }
    sets[group.name, default: []].append(values)
  }

  /// Adds a device written as a JSON object.
  mutating func addDevice(json text: String, origin: OptionOrigin) throws(OptionError) {
    let value: JSONValue
    do throws(JSONError) { value = try JSONValue(parsing: text) } catch {
      throw OptionError(.invalidValue, origin, error.text)
    }
    guard let object = value.objectValue else {
      throw OptionError(.invalidValue, origin, "A JSON object is expected")
    }
    var id: String?
    if let member = object["id"] {
      guard let text = member.stringValue else {
        throw OptionError(
          .invalidValue, origin, "Invalid parameter type for 'id', expected: string")
      }
      guard OptionText.isIdentifier(text) else { throw ParserState.badIdentifier(origin) }
      if list(.device).contains(where: { $0.id == text }) {
        throw OptionError(.conflict, origin, "Duplicate ID '\(text)' for device")
      }
      id = text
    }
    jsonDevices[list(.device).count] = object
    sets[OptionGroup.device.name, default: []].append(
      OptionValues(.device, id: id, origin: origin))
  }

  /// `-set group.id.key=value`.
  mutating func set(
    group name: String, id: String, key: String, value: String, origin: OptionOrigin
  ) throws(OptionError) {
    guard OptionGroup.all.contains(where: { $0.name == name }) else {
      throw OptionError(
        .unknownParameter, origin, "There is no option group '\(name)'",
        suggestion: Spelling.nearest(to: name, among: OptionGroup.all.map(\.name)))
    }
    let position = sets[name]?.firstIndex { $0.id == id }
    guard let position, name != "device" || jsonDevices[position] == nil,
      name != "object" || jsonObjects[position] == nil
    else {
      throw OptionError(.invalidValue, origin, "there is no \(name) \"\(id)\" defined")
    }
    try sets[name]?[position].set(key, value, origin: origin)
  }

  /// QEMU's warning for each `key` or `nokey` that stands for a boolean.
  private mutating func warnAboutShortForms(_ pairs: [KeyValuePair], _ origin: OptionOrigin) {
    for pair in pairs {
      guard let word = pair.shortForm else { continue }
      warnings.append(
        OptionWarning(
          origin, "short-form boolean option '\(word)' deprecated",
          hints: ["Please use \(pair.key)=\(pair.value) instead"]))
    }
  }

  static func badIdentifier(_ origin: OptionOrigin) -> OptionError {
    OptionError(
      .invalidValue, origin, "Parameter 'id' expects an identifier",
      hints: [
        "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."
      ])
  }
}
