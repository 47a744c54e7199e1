import Host
import QAPI

/// The subcommands of `info` about processors, memory and devices that QMP commands tell of.
extension HMPCommandTable {
  static let machineInfoCommands = [
    HMPCommand("balloon", help: "show how much memory the guest has left", .looks) {
      session, _ throws(QAPIError) in
      session.print("balloon: actual=\(try session.commands.queryBalloon().actual >> 20)\n")
    },
    HMPCommand("cpus", help: "show the CPUs", .looks) { session, _ throws(QAPIError) in
      for cpu in try session.commands.queryCpusFast() {
        let mark = cpu.cpuIndex == session.currentCPU ? "*" : " "
        session.print("\(mark) CPU #\(cpu.cpuIndex): thread_id=\(cpu.threadId)\n")
      }
    },
    HMPCommand(
      "hotpluggable-cpus", help: "show the places for CPUs and what is in them", .looks,
      early: true
    ) { session, _ throws(QAPIError) in
      let places = try session.commands.queryHotpluggableCpus()
      session.print("Hotpluggable CPUs:\n")
      for place in places { session.print(text(place)) }
    },
    HMPCommand("memory_size_summary", help: "show how much memory the guest has", .looks) {
      session, _ throws(QAPIError) in
      let info = try session.commands.queryMemorySizeSummary()
      session.print("base memory: \(info.baseMemory)\n")
      if let plugged = info.pluggedMemory { session.print("plugged memory: \(plugged)\n") }
    },
    HMPCommand("mice", help: "show the mice and which one gets the movements", .looks) {
      session, _ throws(QAPIError) in
      let mice = try session.commands.queryMice()
      if mice.isEmpty { session.print("No mouse devices connected\n") }
      for mouse in mice {
        let mark = mouse.current ? "*" : " "
        let kind = mouse.absolute ? " (absolute)" : ""
        session.print("\(mark) Mouse #\(mouse.index): \(mouse.name)\(kind)\n")
      }
    },
    HMPCommand("numa", help: "show the NUMA nodes", .looks) { session, _ throws(QAPIError) in
      session.print(try session.commands.xQueryNuma().humanReadableText)
    },
    HMPCommand("pci", help: "show the PCI functions", .looks) { session, _ throws(QAPIError) in
      for bus in try session.commands.queryPci() {
        for device in bus.devices { session.print(PCIText.device(device)) }
      }
    },
    HMPCommand("ramblock", help: "show the blocks of memory", .looks) {
      session, _ throws(QAPIError) in
      session.print(try session.commands.xQueryRamblock().humanReadableText)
    },
    HMPCommand(
      "stats", "target:s,names:s?,provider:s?", "target [names] [provider]",
      help: "show the accelerator's counters of the machine ('vm') or the current CPU ('vcpu')",
      .looks
    ) { session, arguments throws(QAPIError) in try statistics(session, arguments) },
  ]

  // MARK: -

  private static func text(_ place: HotpluggableCPU) -> String {
    var text = "  type: \"\(place.type)\"\n  vcpus_count: \"\(place.vcpusCount)\"\n"
    if let path = place.qomPath { text += "  qom_path: \"\(path)\"\n" }
    text += "  CPUInstance Properties:\n"
    let numbers = [
      ("node-id", place.props.nodeId), ("socket-id", place.props.socketId),
      ("die-id", place.props.dieId), ("cluster-id", place.props.clusterId),
      ("core-id", place.props.coreId), ("thread-id", place.props.threadId),
    ]
    for (name, number) in numbers {
      if let number { text += "    \(name): \"\(number)\"\n" }
    }
    return text
  }

  @MainLoop
  private static func statistics(
    _ session: HMPSession, _ arguments: HMPArguments
  ) throws(QAPIError) {
    let word = arguments.text("target") ?? ""
    guard let target = StatsTarget(rawValue: word) else {
      session.print("invalid stats target \(word)\n")
      return
    }
    let provider = arguments.text("provider").flatMap { StatsProvider(rawValue: $0) }
    if let word = arguments.text("provider"), provider == nil {
      session.print("invalid stats provider \(word)\n")
      return
    }
    let names = arguments.text("names").flatMap { names in
      names == "*" ? nil : names.split(separator: ",").map(String.init)
    }
    let filter = try filter(session, target, provider, names)
    let schemas = try session.commands.queryStatsSchemas(provider: provider)
    for result in try session.commands.queryStats(filter) where !result.stats.isEmpty {
      let schema = schemas.first { $0.provider == result.provider && $0.target == target }
      guard let schema else { continue }
      if provider == nil { session.print("provider: \(result.provider.rawValue)\n") }
      for item in result.stats {
        guard let value = schema.stats.first(where: { $0.name == item.name }) else { continue }
        session.print(StatisticsText.line(item, value))
      }
    }
  }

  @MainLoop
  private static func filter(
    _ session: HMPSession, _ target: StatsTarget, _ provider: StatsProvider?, _ names: [String]?
  ) throws(QAPIError) -> StatsFilter {
    let providers: [StatsRequest]? =
      provider == nil && names == nil
      ? nil : [StatsRequest(provider: provider ?? .kvm, names: names)]
    switch target {
    case .vm: return StatsFilter(providers: providers, branch: .vm)
    case .vcpu:
      let cpu = try session.commands.queryCpusFast().first { $0.cpuIndex == session.currentCPU }
      return StatsFilter(
        providers: providers,
        branch: .vcpu(StatsVCPUFilter(vcpus: cpu.map { [$0.qomPath] })))
    }
  }
}

/// `info pci`.
enum PCIText {
  /// A function with its base address registers, lines with `\n`.
  static func device(_ device: PciDeviceInfo) -> String {
    let bus = TextForm.right(String(device.bus), 2)
    let slot = TextForm.right(String(device.slot), 3)
    let kind = device.classInfo.desc ?? "Class \(TextForm.decimal(device.classInfo.class, 4))"
    var text = "  Bus \(bus), device \(slot), function \(device.function):\n"
    text += "    \(kind): PCI device \(hex(device.id.vendor)):\(hex(device.id.device))\n"
    if let vendor = device.id.subsystemVendor, let subsystem = device.id.subsystem {
      text += "      PCI subsystem \(hex(vendor)):\(hex(subsystem))\n"
    }
    if let irq = device.irq {
      let pin = Character(UnicodeScalar(UInt8(truncatingIfNeeded: 64 + device.irqPin)))
      text += "      IRQ \(irq), pin \(pin)\n"
    }
    for region in device.regions { text += "      " + self.region(region) }
    return text + "      id \"\(device.qdevId)\"\n"
  }

  private static func region(_ region: PciMemoryRegion) -> String {
    let start = UInt64(bitPattern: Int64(region.address))
    let last = start &+ UInt64(bitPattern: Int64(region.size)) &- 1
    guard region.type != "io" else {
      return "BAR\(region.bar): I/O at 0x\(TextForm.hex(start, 4)) [0x\(TextForm.hex(last, 4))].\n"
    }
    let width = region.memType64 == true ? 64 : 32
    let prefetch = region.prefetch == true ? " prefetchable" : ""
    return "BAR\(region.bar): \(width) bit\(prefetch) memory at"
      + " 0x\(TextForm.hex(start, 8)) [0x\(TextForm.hex(last, 8))].\n"
  }

  private static func hex(_ value: Int) -> String {
    TextForm.hex(UInt64(bitPattern: Int64(value)), 4)
  }
}

/// `info stats`.
enum StatisticsText {
  /// A counter with its kind, unit and value, with `\n`.
  static func line(_ item: Stats, _ schema: StatsSchemaValue) -> String {
    let value =
      switch item.value {
      case .integer(let number): String(number)
      case .boolean(let flag): flag ? "yes" : "no"
      case .list(let numbers):
        numbers.enumerated().map { "[\($0 + 1)]=\($1) " }.joined()
      }
    return "    \(schema.name) (\(kind(schema))): \(value)\n"
  }

  private static func kind(_ schema: StatsSchemaValue) -> String {
    var text = schema.type.rawValue
    let unit = unit(schema)
    if !unit.isEmpty { text += ", " + unit }
    if schema.type == .linearHistogram, let size = schema.bucketSize {
      text += ", bucket size=\(size)"
    }
    return text
  }

  private static func unit(_ schema: StatsSchemaValue) -> String {
    let symbol: String? =
      switch schema.unit {
      case .seconds: "s"
      case .bytes: "B"
      default: nil
      }
    let exponent = Int(schema.exponent)
    if let symbol {
      if exponent == 0 { return symbol }
      if schema.base == 10, exponent % 3 == 0, let prefix = prefix(decimals, exponent / 3 + 6) {
        return prefix + symbol
      }
      if schema.base == 2, exponent % 10 == 0, exponent > 0,
        let prefix = prefix(binaries, exponent / 10)
      {
        return prefix + symbol
      }
    }
    let name = schema.unit?.rawValue ?? ""
    guard exponent != 0 else { return name }
    return "* \(schema.base ?? 10)^\(exponent)\(name.isEmpty ? "" : " ")\(name)"
  }

  private static let decimals = [
    "a", "f", "p", "n", "u", "m", "", "K", "M", "G", "T", "P", "E",
  ]
  private static let binaries = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]

  private static func prefix(_ list: [String], _ index: Int) -> String? {
    list.indices.contains(index) ? list[index] : nil
  }
}
