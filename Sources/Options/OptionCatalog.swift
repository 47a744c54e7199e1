package import QAPI

/// The options with parameters as `query-command-line-options` lists them: what this program accepts, under QEMU's names.
package enum OptionCatalog {
  /// One entry for each option, in the order of the option table.
  package static var list: [CommandLineOptionInfo] {
    OptionGroup.all.map { group in
      var parameters = group.parameters?.map { parameter in
        CommandLineParameterInfo(name: parameter.name, type: parameter.type.listed)
      }
      if group.name == "machine" { parameters = machineParameters }
      if group.name == "drive" { parameters = driveParameters }
      return CommandLineOptionInfo(
        option: group.name,
        parameters: (parameters ?? []).filter { !refused.contains("\(group.name).\($0.name)") })
    }
  }

  /// Of `-machine`, those that QEMU lists, spelled as there.
  private static var machineParameters: [CommandLineParameterInfo] {
    let list: [(String, CommandLineParameterType)] = [
      ("suppress-vmdesc", .boolean), ("firmware", .string), ("usb", .boolean),
      ("mem-merge", .boolean), ("dump-guest-core", .boolean), ("append", .string),
      ("initrd", .string), ("kernel", .string), ("kernel_irqchip", .boolean), ("accel", .string),
      ("type", .string),
    ]
    return list.map { CommandLineParameterInfo(name: $0.0, type: $0.1) }
  }

  /// Of `-drive`, those that QEMU lists: what every block node takes, and what is about the drive.
  private static var driveParameters: [CommandLineParameterInfo] {
    let limits = ["-max-length", "-max", ""].flatMap { suffix in
      ["bps-write", "bps-read", "bps-total", "iops-write", "iops-read", "iops-total"].map {
        ("throttling.\($0)\(suffix)", CommandLineParameterType.number)
      }
    }
    let list: [(String, CommandLineParameterType)] =
      [
        ("copy-on-read", .boolean), ("werror", .string), ("rerror", .string),
        ("read-only", .boolean), ("file", .string), ("if", .string), ("media", .string),
        ("index", .number), ("unit", .number), ("bus", .number),
        ("stats-account-failed", .boolean), ("stats-account-invalid", .boolean),
        ("detect-zeroes", .string), ("throttling.group", .string),
        ("throttling.iops-size", .number),
      ] + limits + [
        ("werror", .string), ("format", .string), ("cache.writeback", .boolean),
        ("aio", .string), ("snapshot", .boolean), ("force-share", .boolean),
        ("discard", .string), ("auto-read-only", .boolean), ("cache.no-flush", .boolean),
        ("cache.direct", .boolean), ("driver", .string), ("node-name", .string),
      ]
    return list.map { CommandLineParameterInfo(name: $0.0, type: $0.1) }
  }

  /// Parameters that are known and refused whatever their value.
  private static let refused: Set<String> = [
    "chardev.clipboard", "chardev.cols", "chardev.debug", "chardev.height", "chardev.mouse",
    "chardev.name", "chardev.rows", "chardev.width", "fw_cfg.gen_id", "smp-opts.clusters",
  ]
}

extension ParameterType {
  fileprivate var listed: CommandLineParameterType {
    switch self {
    case .string: .string
    case .boolean: .boolean
    case .number: .number
    case .size: .size
    }
  }
}
