// -readconfig: sections of parameters, as `[group "id"]` and lines of `key = "value"`.

internal import Host

enum ConfigurationFile {
  static let read: OptionDescriptor.Handler = { state, path, origin throws(OptionError) in
    let bytes: [UInt8]
    do throws(SystemError) { bytes = try FileDescriptor.contents(of: path) } catch {
      throw OptionError(
        .configurationFile, origin, "Could not open '\(path)': \(error.reason)")
    }
    try apply(String(decoding: bytes, as: UTF8.self), path: path, &state)
  }

  /// Sections of the text, applied in order.
  static func apply(
    _ text: String, path: String, _ state: inout ParserState
  ) throws(OptionError) {
    var section: (group: OptionGroup, id: String?, origin: OptionOrigin)?
    var entries: [OptionEntry] = []
    let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    for (index, line) in lines.enumerated() {
      let origin = OptionOrigin(option: "\(path):\(index + 1)", argument: nil)
      let line = trimmed(line)
      if line.isEmpty || line.hasPrefix("#") { continue }
      if line.hasPrefix("[") {
        if let section { try finish(section, entries, &state) }
        entries = []
        section = try header(line, origin)
        continue
      }
      guard section != nil else {
        throw OptionError(.configurationFile, origin, "no group defined")
      }
      entries.append(try assignment(line, origin))
    }
    if let section { try finish(section, entries, &state) }
  }

  private static func finish(
    _ section: (group: OptionGroup, id: String?, origin: OptionOrigin), _ entries: [OptionEntry],
    _ state: inout ParserState
  ) throws(OptionError) {
    switch section.group.name {
    case "machine":
      for entry in entries { try MachineOptions.set(entry.key, entry.value, &state, entry.origin) }
    case "smp-opts", "boot-opts":
      let prefix = section.group.name == "smp-opts" ? "smp." : "boot."
      for entry in entries {
        try MachineOptions.set(prefix + entry.key, entry.value, &state, entry.origin)
      }
    default:
      if section.group.name == "mon" { state.wantsDefaultMonitor = false }
      try state.add(entries, id: section.id, to: section.group, section.origin)
    }
  }

  /// Groups of QEMU's whose options are refused on the command line too.
  private static let refusedGroups = [
    "acpi": "acpitable", "blockdev": "blockdev", "drive": "drive",
    "fsdev": "fsdev", "icount": "icount", "iscsi": "iscsi",
    "numa": "numa", "option-rom": "option-rom",
    "plugin": "plugin", "smbios": "smbios", "spice": "spice", "tpmdev": "tpmdev", "trace": "trace",
    "virtfs": "virtfs", "vnc": "vnc",
  ]

  /// `[group]` or `[group "id"]`.
  private static func header(
    _ line: Substring, _ origin: OptionOrigin
  ) throws(OptionError) -> (group: OptionGroup, id: String?, origin: OptionOrigin) {
    guard line.hasSuffix("]") else {
      throw OptionError(.configurationFile, origin, "parse error: section without ']'")
    }
    let inside = trimmed(line.dropFirst().dropLast())
    let name = String(inside.prefix { $0 != " " && $0 != "\t" && $0 != "\"" })
    let rest = trimmed(inside.dropFirst(name.count))
    var id: String?
    if !rest.isEmpty {
      guard rest.count >= 2, rest.hasPrefix("\""), rest.hasSuffix("\"") else {
        throw OptionError(
          .configurationFile, origin, "parse error: a section's id must be in double quotes")
      }
      id = String(rest.dropFirst().dropLast())
    }
    if let group = OptionGroup.all.first(where: { $0.name == name }) { return (group, id, origin) }
    if let option = refusedGroups[name],
      case .refused(let reason, _)? = OptionTable.option(
        named: option)?.action
    {
      throw OptionError(.unsupported, origin, "section '\(name)': \(reason)")
    }
    throw OptionError(
      .unknownParameter, origin, "There is no option group '\(name)'",
      suggestion: Spelling.nearest(to: name, among: OptionGroup.all.map(\.name)))
  }

  /// `key = "value"`.
  private static func assignment(
    _ line: Substring, _ origin: OptionOrigin
  ) throws(OptionError) -> OptionEntry {
    guard let equals = line.firstIndex(of: "=") else {
      throw OptionError(.configurationFile, origin, "parse error: expected key = \"value\"")
    }
    let key = trimmed(line[..<equals])
    let value = trimmed(line[line.index(after: equals)...])
    guard !key.isEmpty, value.count >= 2, value.hasPrefix("\""), value.hasSuffix("\""),
      !value.dropFirst().dropLast().contains("\"")
    else {
      throw OptionError(
        .configurationFile, origin, "parse error: expected key = \"value\" with double quotes")
    }
    return OptionEntry(
      key: String(key), value: String(value.dropFirst().dropLast()), origin: origin)
  }

  private static func trimmed(_ text: Substring) -> Substring {
    func isBlank(_ letter: Character) -> Bool { letter == " " || letter == "\t" || letter == "\r" }
    var text = text.drop(while: isBlank)
    while let last = text.last, isBlank(last) { text.removeLast() }
    return text
  }
}
