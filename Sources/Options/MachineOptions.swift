// -machine, -smp, -boot and the options that are short for -machine properties.

internal import QAPI

/// Reads and resolves the board's options. All of them become entries of the group `machine`, those
/// of -smp and -boot under `smp.` and `boot.`, so that later ones win whatever their spelling.
enum MachineOptions {
  static let machine: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    let pairs = try KeyValueText.splitStrict(text, impliedKey: "type", origin: origin)
    if pairs.contains(where: { OptionText.isHelp($0.shortForm ?? "") }) {
      let type = pairs.last { $0.key == "type" }?.value
      state.help = .machineProperties(type: type ?? state.merged(.machine)?.string("type") ?? "pc")
      return
    }
    if let type = pairs.last(where: { $0.key == "type" }), OptionText.isHelp(type.value) {
      state.help = .machines
      return
    }
    for pair in pairs { try set(pair.key, pair.value, &state, origin) }
  }
  static let smp: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    try addNested(text, to: .smp, prefix: "smp.", &state, origin)
  }
  static let boot: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    try addNested(text, to: .boot, prefix: "boot.", &state, origin)
  }

  /// A handler that sets one property of the machine to the argument.
  static func setter(_ key: String) -> OptionDescriptor.Handler {
    { state, text, origin throws(OptionError) in try set(key, text, &state, origin) }
  }

  /// Sets a property of the machine; underscores are an old spelling of dashes.
  static func set(
    _ key: String, _ value: String, _ state: inout ParserState, _ origin: OptionOrigin
  ) throws(OptionError) {
    let key = String(key.map { $0 == "_" ? "-" : $0 })
    let value = key == "type" && value.isEmpty ? nil : value
    guard let value else { return }
    try state.add([OptionEntry(key: key, value: value, origin: origin)], to: .machine, origin)
  }

  private static func addNested(
    _ text: String, to group: OptionGroup, prefix: String, _ state: inout ParserState,
    _ origin: OptionOrigin
  ) throws(OptionError) {
    if OptionText.isHelp(text) {
      state.help = .group(group.name)
      return
    }
    let pairs = try KeyValueText.splitStrict(text, impliedKey: group.impliedKey, origin: origin)
    if pairs.contains(where: { OptionText.isHelp($0.shortForm ?? "") }) {
      state.help = .group(group.name)
      return
    }
    for pair in pairs { try set(prefix + pair.key, pair.value, &state, origin) }
  }

  /// The machine type that the options name.
  static func type(_ state: ParserState) throws(OptionError) -> HelpCatalog.Machine {
    let machines = state.catalog.machines
    guard let entry = state.merged(.machine)?["type"] else {
      if let standard = machines.first(where: \.isDefault) { return standard }
      throw OptionError(
        .invalidValue, nil, "No machine specified, and there is no default",
        hints: ["Use -machine help to list supported machines"])
    }
    if let match = machines.first(where: { $0.name == entry.value || $0.alias == entry.value }) {
      return match
    }
    throw OptionError(
      .invalidValue, entry.origin, "unsupported machine type",
      suggestion: Spelling.nearest(
        to: entry.value, among: machines.flatMap { [$0.name, $0.alias].compactMap { $0 } }),
      hints: ["Use -machine help to list supported machines"])
  }

  /// Fills in the board, its properties, boot sources, topology and memory.
  static func resolve(
    _ state: ParserState, _ board: HelpCatalog.Machine,
    into configuration: inout LaunchConfiguration
  ) throws(OptionError) {
    configuration.machine.type = board.name
    let entries = state.merged(.machine)?.entries ?? []
    let properties = MachineProperty.table(for: board)
    var sources: [String: OptionOrigin] = [:]
    for entry in entries {
      if let group = entry.key.split(separator: ".").first, entry.key.contains("."),
        ["smp", "boot", "memory"].contains(group)
      {
        continue
      }
      guard let property = properties.first(where: { $0.name == entry.key }) else {
        throw OptionError(
          .unknownParameter, entry.origin,
          "Property '\(board.name)-machine.\(entry.key)' not found",
          suggestion: Spelling.nearest(to: entry.key, among: properties.map(\.name)))
      }
      sources[entry.key] = entry.origin
      try property.apply(entry, to: &configuration)
    }
    if configuration.boot.kernel != nil, !board.isPC {
      throw OptionError(
        .unsupported, sources["kernel"], "The -kernel parameter is not supported by machine 'none'")
    }
    if configuration.boot.kernel == nil {
      for key in ["append", "initrd"] {
        guard let origin = sources[key] else { continue }
        throw OptionError(.conflict, origin, "-\(key) only allowed with -kernel option")
      }
    }
    if let limit = configuration.machine.maximumRAMBelow4GiB, limit > 1 << 32 {
      throw OptionError(
        .invalidValue, sources["max-ram-below-4g"],
        "Machine option 'max-ram-below-4g=\(limit)' expects size less than or equal to 4G")
    }
    configuration.smp = try TopologyOptions.resolve(entries, board)
    configuration.memory = try MemoryOptions.resolve(state, entries)
    configuration.bootOrder = try BootOptions.resolve(entries, board)
  }
}

extension MachineOptions {
  /// The object that `memory-backend` names: it must be memory, and its size is the machine's.
  static func resolveMemoryBackend(
    _ state: ParserState, into configuration: inout LaunchConfiguration
  ) throws(OptionError) {
    guard let entry = state.merged(.machine)?["memory-backend"] else { return }
    let id = entry.value.hasPrefix("/objects/") ? String(entry.value.dropFirst(9)) : entry.value
    guard let size = configuration.objects.first(where: { $0.options.id == id })?.memorySize
    else {
      throw OptionError(.invalidValue, entry.origin, "Memory backend '\(entry.value)' not found")
    }
    if configuration.memory.isSizeGiven, size != configuration.memory.size {
      throw OptionError(
        .conflict, entry.origin,
        "Size specified by -m option must match size of explicitly specified 'memory-backend'"
          + " property")
    }
    configuration.machine.memoryBackend = id
    configuration.memory.size = size
    configuration.memory.maxSize = max(configuration.memory.maxSize, size)
  }
}

/// One property of `-machine`.
struct MachineProperty {
  enum Kind {
    case boolean(WritableKeyPath<LaunchConfiguration, Bool>)
    case onOffAuto(WritableKeyPath<LaunchConfiguration, ThreeStates>)
    case text(WritableKeyPath<LaunchConfiguration, String?>, limit: Int = .max)
    /// One of a few words.
    case choice(WritableKeyPath<LaunchConfiguration, String?>, [String])
    case size(WritableKeyPath<LaunchConfiguration, UInt64?>)
    /// Read elsewhere (`type`, `accel`, …).
    case elsewhere
    /// QEMU has it; only `accepted` values are what Goliath does anyway.
    case refused(accepted: [String], reason: String)
  }
  let name: String
  /// Type as `-machine TYPE,help` shows it.
  let type: String
  let summary: String
  let kind: Kind

  /// Takes over the value, or throws QEMU's sentence about it.
  func apply(
    _ entry: OptionEntry, to configuration: inout LaunchConfiguration
  ) throws(OptionError) {
    let value = entry.value
    switch kind {
    case .elsewhere: break
    case .boolean(let path):
      configuration[keyPath: path] = try OptionValues.boolean(value, of: name, entry.origin)
    case .onOffAuto(let path):
      guard let state = ThreeStates(rawValue: value) else {
        throw OptionError(
          .invalidValue, entry.origin, "Parameter '\(name)' does not accept value '\(value)'",
          suggestion: Spelling.nearest(to: value, among: ["on", "off", "auto"]))
      }
      configuration[keyPath: path] = state
    case .text(let path, let limit):
      guard value.utf8.count <= limit else {
        throw OptionError(
          .invalidValue, entry.origin,
          "Parameter '\(name)' takes at most \(limit) bytes, '\(value)' has \(value.utf8.count)")
      }
      configuration[keyPath: path] = value
    case .choice(let path, let words):
      guard words.contains(value) else {
        throw OptionError(
          .invalidValue, entry.origin, "Parameter '\(name)' does not accept value '\(value)'",
          suggestion: Spelling.nearest(to: value, among: words))
      }
      configuration[keyPath: path] = value
    case .size(let path):
      configuration[keyPath: path] = try OptionValues.size(value, of: name, entry.origin)
    case .refused(let accepted, let reason):
      if type == "OnOffAuto", ThreeStates(rawValue: value) == nil {
        throw OptionError(
          .invalidValue, entry.origin, "Parameter '\(name)' does not accept value '\(value)'",
          suggestion: Spelling.nearest(to: value, among: ["on", "off", "auto"]))
      }
      guard accepted.contains(value) else {
        throw OptionError(
          .unsupported, entry.origin, "machine property '\(name)=\(value)' is refused: \(reason)")
      }
    }
  }

  /// Every property of the machine type, in alphabetical order.
  static func table(for board: HelpCatalog.Machine) -> [MachineProperty] {
    (board.isPC ? common + pc : common).sorted { $0.name < $1.name }
  }

  private static var common: [MachineProperty] {
    [
      MachineProperty(
        name: "accel", type: "string", summary: "accelerators, tried in order: kvm:tcg",
        kind: .elsewhere),
      MachineProperty(
        name: "append", type: "string", summary: "kernel command line",
        kind: .text(\.boot.append)),
      MachineProperty(
        name: "dump-guest-core", type: "bool", summary: "guest RAM is part of core dumps",
        kind: .boolean(\.machine.dumpGuestCore)),
      MachineProperty(
        name: "firmware", type: "string", summary: "firmware image",
        kind: .text(\.boot.firmware)),
      MachineProperty(
        name: "graphics", type: "bool", summary: "graphical output",
        kind: .boolean(\.machine.graphics)),
      MachineProperty(
        name: "initrd", type: "string", summary: "initial RAM disk",
        kind: .text(\.boot.initrd)),
      MachineProperty(
        name: "kernel", type: "string", summary: "kernel image", kind: .text(\.boot.kernel)),
      MachineProperty(
        name: "kernel-irqchip", type: "on|off|split",
        summary: "interrupt controllers in the host kernel: off only", kind: .elsewhere),
      MachineProperty(
        name: "mem-merge", type: "bool", summary: "guest RAM may be merged with equal pages",
        kind: .boolean(\.machine.mergeMemory)),
      MachineProperty(
        name: "memory-backend", type: "link<memory-backend>",
        summary: "object that provides guest RAM",
        kind: .text(\.machine.memoryBackend)),
      MachineProperty(
        name: "suppress-vmdesc", type: "bool", summary: "no description in migration streams",
        kind: .refused(
          accepted: ["off", "no", "false", "n"], reason: "migration is not supported yet")),
      MachineProperty(
        name: "type", type: "string", summary: "name of the machine type", kind: .elsewhere),
      MachineProperty(
        name: "usb", type: "bool", summary: "on-board USB controller, with nothing plugged in",
        kind: .boolean(\.machine.usb)),
    ]
      + [
        "confidential-guest-support", "dtb", "dumpdtb", "dt-compatible", "kvm-shadow-mem",
        "memory-encryption", "phandle-start", "iommu", "igd-passthru",
      ].map {
        MachineProperty(
          name: $0, type: "string", summary: "not supported",
          kind: .refused(
            accepted: $0 == "igd-passthru" || $0 == "iommu" ? ["off"] : [],
            reason: "it is not supported"))
      }
  }

  private static var pc: [MachineProperty] {
    [
      MachineProperty(
        name: "acpi", type: "OnOffAuto", summary: "ACPI tables and PM device",
        kind: .onOffAuto(\.machine.acpi)),
      MachineProperty(
        name: "hpet", type: "bool", summary: "high precision event timer",
        kind: .boolean(\.machine.hpet)),
      MachineProperty(
        name: "i8042", type: "bool", summary: "keyboard controller",
        kind: .boolean(\.machine.i8042)),
      MachineProperty(
        name: "max-fw-size", type: "size", summary: "largest accepted firmware",
        kind: .size(\.machine.maximumFirmwareSize)),
      MachineProperty(
        name: "max-ram-below-4g", type: "size", summary: "bound of the RAM below 4 GiB",
        kind: .size(\.machine.maximumRAMBelow4GiB)),
      MachineProperty(
        name: "pit", type: "OnOffAuto", summary: "8254 timer", kind: .onOffAuto(\.machine.pit)),
      MachineProperty(
        name: "smbios-entry-point-type", type: "str", summary: "32 or 64",
        kind: .choice(\.machine.smbiosEntryPoint, ["32", "64"])),
      MachineProperty(
        name: "smbus", type: "bool", summary: "SMBus of the PM function",
        kind: .boolean(\.machine.smbus)),
      MachineProperty(
        name: "x-oem-id", type: "string", summary: "OEM id in ACPI tables, 6 characters",
        kind: .text(\.machine.oemID, limit: 6)),
      MachineProperty(
        name: "x-oem-table-id", type: "string",
        summary: "OEM table id in ACPI tables, 8 characters",
        kind: .text(\.machine.oemTableID, limit: 8)),
    ]
      + [
        ("pic", "8259 interrupt controllers: on only", "on", "the board needs them"),
        ("smm", "system management mode: off only", "off", "it is not emulated yet"),
        ("vmport", "VMware backdoor port: off only", "off", "it is not emulated yet"),
      ].map { property in
        MachineProperty(
          name: property.0, type: "OnOffAuto", summary: property.1,
          kind: .refused(accepted: [property.2, "auto"], reason: property.3))
      }
      + [
        ("nvdimm", "NVDIMMs are not supported yet"),
        ("sata", "there is no SATA controller yet"),
        ("default-bus-bypass-iommu", "there is no IOMMU yet"),
      ].map { property in
        MachineProperty(
          name: property.0, type: "bool", summary: "off only: \(property.1)",
          kind: .refused(accepted: ["off", "no", "false", "n"], reason: property.1))
      }
      + [
        ("bus-lock-ratelimit", "bus locks are not limited"),
        ("nvdimm-persistence", "NVDIMMs are not supported yet"),
        ("pflash0", "flash devices are not supported yet; -bios takes a firmware image"),
        ("pflash1", "flash devices are not supported yet; -bios takes a firmware image"),
        ("pcspk-audiodev", "sound is not supported yet"),
      ].map { property in
        MachineProperty(
          name: property.0, type: "string", summary: "not supported: \(property.1)",
          kind: .refused(accepted: [], reason: property.1))
      }
  }
}
