// The texts of the help forms. Line starts and quoted names are what clients look for.

import Host
import QAPI

/// Turns a help topic into the lines to print on stdout.
package enum HelpText {
  /// QEMU's version that the command line and the monitors are compatible with.
  package static let emulatedVersion = VersionInfo.current.qemu.text

  /// The lines, without line ends.
  ///
  /// - Throws: `OptionError` when the topic names a machine or device type that does not exist.
  package static func lines(
    for topic: HelpTopic, catalog: HelpCatalog
  ) throws(OptionError) -> [String] {
    switch topic {
    case .options: options()
    case .version: version
    case .machines: machines(catalog)
    case .machineProperties(let type): try machineProperties(type, catalog)
    case .cpus:
      catalog.cpuHelp().split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    case .accelerators: ["Accelerators supported in this binary:"] + AcceleratorOptions.names
    case .softwareCPU: TCGOptions.help
    case .devices: devices(catalog)
    case .deviceProperties(let type, let origin): try deviceProperties(type, origin, catalog)
    case .objects: objects
    case .objectProperties(let type, let origin): try objectProperties(type, origin, catalog)
    case .chardevs: chardevs
    case .blockDrivers: blockDrivers
    case .netBackends:
      ["Available netdev backend types:"]
        + ["socket", "stream", "dgram", "hubport", "tap", "user", "bridge"]
    case .netModels:
      ["Supported NIC models:"]
        + Set(NICConfiguration.models.map(\.driver)).sorted()
    case .logItems:
      ["Log items (comma separated):"]
        + catalog.logItems.map { "\(padded($0.name, 15)) \($0.description)" }
        + ["\(padded("trace:PATTERN", 15)) trace events ('-trace help' lists them)"]
    case .traceEvents: TraceEvent.allCases.map(\.name)
    case .group(let name): group(name)
    case .videoCards: ["none                 no graphic card (default)"]
    case .displays: ["Available display backend types:", "none"]
    case .dataDirectories: catalog.dataDirectories
    }
  }

  private static var blockDrivers: [String] {
    let names = BlockdevDriver.allCases.map(\.rawValue).joined(separator: " ")
    return ["Supported formats: \(names)", "Supported formats (read-only): \(names)"]
  }

  private static var version: [String] {
    [
      "QEMU emulator version \(emulatedVersion) (compatible: Goliath)",
      "Goliath, a distributed virtual machine monitor for x86-64",
    ]
  }

  private static func options() -> [String] {
    var lines = version
    lines += [
      "usage: goliath [options]", "",
      "Options start with one or two dashes. Sizes take the suffixes k, M, G, T.",
    ]
    for section in OptionDescriptor.Section.allCases {
      lines += ["", "\(section.rawValue):"]
      for option in OptionTable.options where option.section == section {
        let name = option.names.map { "-\($0)" }.joined(separator: " or ")
        switch option.action {
        case .refused: continue
        case .flag: lines += entry(name, option.summary)
        case .argument(let placeholder, _):
          lines += entry("\(name) \(placeholder)", option.summary)
        }
      }
    }
    lines += [
      "", "While a serial port shares the terminal with the monitor (mon:stdio, -nographic):",
      "  C-a h    list these keys", "  C-a x    end", "  C-a c    switch between the two",
      "  C-a b    send break", "  C-a C-a  send C-a",
    ]
    return lines
  }

  /// A name and what it means, on one line when the name is short.
  private static func entry(_ name: String, _ summary: String) -> [String] {
    name.utf8.count < 16
      ? ["\(padded(name, 15)) \(summary)"]
      : [name, "                \(summary)"]
  }

  private static func machines(_ catalog: HelpCatalog) -> [String] {
    var lines = ["Supported machines are:"]
    for machine in catalog.machines.sorted(by: { $0.name > $1.name }) {
      if let alias = machine.alias {
        lines.append("\(padded(alias, 20)) \(machine.description) (alias of \(machine.name))")
      }
      let mark = machine.isDefault ? " (default)" : ""
      lines.append("\(padded(machine.name, 20)) \(machine.description)\(mark)")
    }
    return lines
  }

  private static func machineProperties(
    _ type: String, _ catalog: HelpCatalog
  ) throws(OptionError) -> [String] {
    guard let machine = catalog.machines.first(where: { $0.name == type || $0.alias == type })
    else {
      throw OptionError(
        .invalidValue, OptionOrigin(option: "-machine", argument: "\(type),help"),
        "unsupported machine type",
        suggestion: Spelling.nearest(to: type, among: catalog.machines.map(\.name)),
        hints: ["Use -machine help to list supported machines"])
    }
    return ["\(machine.name)-machine options:"]
      + MachineProperty.table(for: machine).map {
        property($0.name, $0.type, $0.summary, defaultValue: nil)
      }
  }

  private static func devices(_ catalog: HelpCatalog) -> [String] {
    list(catalog.devices())
  }

  /// The types by category, as `-device help` lists them.
  package static func list(_ all: [HelpCatalog.Device]) -> [String] {
    var lines: [String] = []
    var categories: [String] = []
    for device in all where !categories.contains(device.category) {
      categories.append(device.category)
    }
    for category in categories.sorted() {
      if !lines.isEmpty { lines.append("") }
      lines.append("\(category) devices:")
      let members = all.filter { $0.category == category }
      for device in members.sorted(by: { $0.name < $1.name }) {
        var line = "name \"\(device.name)\""
        if let bus = device.bus { line += ", bus \(bus)" }
        if let alias = device.alias { line += ", alias \"\(alias)\"" }
        if let description = device.description, !description.isEmpty {
          line += ", desc \"\(description)\""
        }
        lines.append(line)
      }
    }
    return lines
  }

  private static func deviceProperties(
    _ type: String, _ origin: OptionOrigin, _ catalog: HelpCatalog
  ) throws(OptionError) -> [String] {
    let all = catalog.devices()
    guard let device = all.first(where: { $0.name == type || $0.alias == type }) else {
      throw OptionError(
        .invalidValue, origin, "Device '\(type)' not found",
        suggestion: Spelling.nearest(to: type, among: all.map(\.name)))
    }
    return properties(of: device)
  }

  /// The properties of a type, as `-device TYPE,help` lists them.
  package static func properties(of device: HelpCatalog.Device) -> [String] {
    if device.properties.isEmpty { return ["There are no options for \(device.name)."] }
    return ["\(device.name) options:"]
      + device.properties.sorted { $0.name < $1.name }.map {
        property($0.name, $0.type, $0.description, defaultValue: $0.defaultValue)
      }
  }

  private static func objectProperties(
    _ type: String, _ origin: OptionOrigin, _ catalog: HelpCatalog
  ) throws(OptionError) -> [String] {
    let all = ObjectType.allCases.map(\.rawValue)
    guard all.contains(type) else {
      throw OptionError(
        .invalidValue, origin, "Parameter 'qom-type' does not accept value '\(type)'",
        suggestion: Spelling.nearest(to: type, among: all))
    }
    let properties = catalog.objectProperties(type)
    if properties.isEmpty { return ["There are no options for \(type)."] }
    return ["\(type) options:"]
      + properties.sorted { $0.name < $1.name }.map {
        property($0.name, $0.type, $0.description, defaultValue: $0.defaultValue)
      }
  }

  /// Types of objects that a user can make.
  static var objects: [String] {
    ["List of user creatable objects:"] + ObjectType.allCases.map { "  \($0.rawValue)" }.sorted()
  }

  /// Kinds of character devices.
  static var chardevs: [String] {
    ["Available chardev backend types: "] + ChardevOptions.kinds.map { "  \($0.name)" }
  }

  static func group(_ name: String) -> [String] {
    guard let parameters = OptionGroup.all.first(where: { $0.name == name })?.parameters else {
      return []
    }
    return ["\(name) options:"] + parameters.map { "  \($0.name)=<\($0.type.rawValue)>" }
  }

  private static func property(
    _ name: String, _ type: String, _ description: String, defaultValue: String?
  ) -> String {
    var line = "  \(name)=<\(type)>"
    if !description.isEmpty || defaultValue != nil {
      line = "\(padded(line, 24)) - \(description)"
    }
    if let defaultValue { line += " (default: \(defaultValue))" }
    return line
  }

  private static func padded(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.utf8.count))
  }
}
