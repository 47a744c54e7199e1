// -device, -global, -set, -fw_cfg.

internal import JSON

enum DeviceOptions {
  static let device: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    if text.hasPrefix("{") { return try state.addDevice(json: text, origin: origin) }
    let pairs = KeyValueText.split(text, impliedKey: "driver")
    let driver = pairs.last { $0.key == "driver" }?.value
    if OptionText.isHelp(driver ?? "") {
      state.help = .devices
      return
    }
    if let driver, pairs.contains(where: { OptionText.isHelp($0.shortForm ?? "") }) {
      state.help = .deviceProperties(type: driver, origin: origin)
      return
    }
    try state.add(text, to: .device, origin: origin)
  }

  static let global: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    // TYPE.PROP=VALUE, where everything after the first = is the value.
    if let equals = text.firstIndex(of: "="), let dot = text[..<equals].lastIndex(of: "."),
      dot > text.startIndex, text.index(after: dot) < equals, !text[..<equals].contains(",")
    {
      let entries = [
        ("driver", String(text[..<dot])),
        ("property", String(text[text.index(after: dot)..<equals])),
        ("value", String(text[text.index(after: equals)...])),
      ].map { OptionEntry(key: $0.0, value: $0.1, origin: origin) }
      try state.add(entries, to: .global, origin)
    } else {
      try state.add(text, to: .global, origin: origin)
    }
  }

  static let set: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    let unreadable = OptionError(.invalidValue, origin, "can't parse: \"\(text)\"")
    guard let equals = text.firstIndex(of: "=") else { throw unreadable }
    let path = text[..<equals].split(
      separator: ".", maxSplits: 2, omittingEmptySubsequences: false)
    guard path.count == 3, path.allSatisfy({ !$0.isEmpty }) else { throw unreadable }
    try state.set(
      group: String(path[0]), id: String(path[1]), key: String(path[2]),
      value: String(text[text.index(after: equals)...]), origin: origin)
  }

  /// Fills in devices, globals and firmware items.
  static func resolve(
    _ state: inout ParserState, _ board: HelpCatalog.Machine,
    into configuration: inout LaunchConfiguration
  ) throws(OptionError) {
    for (position, values) in state.list(.device).enumerated() {
      configuration.devices.append(try device(state, position, values))
    }
    // Those of drives come after the user's.
    for drive in configuration.drives where drive.interface == .virtio {
      configuration.devices.append(
        DeviceConfiguration(
          driver: "virtio-blk-pci", id: nil,
          properties: [DeviceProperty(name: "drive", value: .text(drive.id))],
          origin: drive.origin))
    }
    for values in state.list(.global) {
      guard let driver = values.string("driver"), let property = values.string("property"),
        let value = values.string("value")
      else {
        throw OptionError(
          .invalidValue, values.origin, "options 'driver', 'property', and 'value' are required")
      }
      configuration.globals.append(
        GlobalProperty(driver: driver, property: property, value: value, origin: values.origin))
    }
    for values in state.list(.firmwareItem) {
      configuration.firmwareItems.append(
        try firmwareItem(values, board, earlier: configuration.firmwareItems, &state))
    }
  }

  private static func device(
    _ state: ParserState, _ position: Int, _ values: OptionValues
  ) throws(OptionError) -> DeviceConfiguration {
    var driver: String?
    var properties: [DeviceProperty] = []
    if let object = state.jsonDevices[position] {
      driver = object["driver"]?.stringValue
      for index in 0..<object.count {
        let member = object.member(at: index)
        if member.name == "driver" || member.name == "id" { continue }
        properties.append(DeviceProperty(name: member.name, value: .json(member.value)))
      }
    } else {
      driver = values.string("driver")
      properties = values.entries.filter { $0.key != "driver" }.map {
        DeviceProperty(name: $0.key, value: .text($0.value))
      }
    }
    guard let driver else {
      throw OptionError(.invalidValue, values.origin, "Parameter 'driver' is missing")
    }
    return DeviceConfiguration(
      driver: driver, id: values.id, properties: properties, origin: values.origin)
  }

  private static func firmwareItem(
    _ values: OptionValues, _ board: HelpCatalog.Machine, earlier: [FirmwareItem],
    _ state: inout ParserState
  ) throws(OptionError) -> FirmwareItem {
    guard board.isPC else {
      throw OptionError(.unsupported, values.origin, "fw_cfg device not available")
    }
    let name = values.string("name") ?? ""
    let file = values.string("file")
    let text = values.string("string")
    let generator = values.string("gen_id")
    let sources = [file, text, generator].filter { $0?.isEmpty == false }
    guard !name.isEmpty, sources.count == 1 else {
      throw OptionError(
        .invalidValue, values.origin,
        "name, plus exactly one of file, string and gen_id, are needed")
    }
    if let generator, !generator.isEmpty {
      throw OptionError(
        .unsupported, values.origin, "Cannot find object ID '\(generator)'",
        hints: ["Objects are not supported yet; give the contents with file= or string=."])
    }
    guard name.utf8.count <= 55 else {
      throw OptionError(.invalidValue, values.origin, "name too long (max. 55 char)")
    }
    if earlier.contains(where: { $0.name == name }) {
      throw OptionError(.conflict, values.origin, "duplicate fw_cfg file name: \(name)")
    }
    if !name.hasPrefix("opt/") {
      state.warnings.append(
        OptionWarning(
          values.origin, "externally provided fw_cfg item names should be prefixed with \"opt/\""))
    }
    let contents: FirmwareItem.Contents =
      if let file, !file.isEmpty { .file(file) } else { .text(text ?? "") }
    return FirmwareItem(name: name, contents: contents, origin: values.origin)
  }
}

extension LaunchConfiguration {
  /// `-cpu`, with what `-global` says about processors before the option's own changes.
  package var cpuText: String {
    let text = cpu?.text ?? "qemu64"
    let changes = cpuGlobals.map { ",\($0.property)=\($0.value)" }.joined()
    let name = text.prefix { $0 != "," }
    return name + changes + text.dropFirst(name.count)
  }

  /// Those of `globals` that are about the machine's processors.
  package var cpuGlobals: [GlobalProperty] {
    let model = cpu?.text.prefix { $0 != "," } ?? "qemu64"
    return globals.filter { ["\(model)-x86_64-cpu", "x86_64-cpu", "cpu"].contains($0.driver) }
  }
}
