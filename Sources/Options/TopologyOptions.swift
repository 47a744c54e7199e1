// -smp, -m and -boot: values that are checked against each other.

/// vCPU count and topology, with QEMU 7.2's rules for what is left out: cores are preferred to
/// sockets, threads are computed last.
enum TopologyOptions {
  static func resolve(
    _ entries: [OptionEntry], _ board: HelpCatalog.Machine
  ) throws(OptionError) -> SMPConfiguration {
    var given: [String: Int] = [:]
    var origin: OptionOrigin?
    for entry in entries where entry.key.hasPrefix("smp.") {
      origin = entry.origin
      let name = String(entry.key.dropFirst(4))
      let names = OptionGroup.smp.parameters?.map(\.name) ?? []
      guard names.contains(name) else {
        throw OptionError(
          .unknownParameter, entry.origin, "Parameter '\(entry.key)' is unexpected",
          suggestion: Spelling.nearest(to: name, among: names))
      }
      guard case .value(let value) = OptionText.integer(entry.value) else {
        throw OptionError(
          .invalidValue, entry.origin, "Parameter '\(entry.key)' expects integer")
      }
      guard value > 0, value <= Int32.max else {
        throw OptionError(
          .invalidValue, entry.origin,
          value <= 0
            ? "Invalid CPU topology: CPU topology parameters must be greater than zero"
            : "Invalid SMP CPUs \(value). The max CPUs supported by machine '\(board.name)'"
              + " is \(board.maximumCPUs)")
      }
      given[name] = Int(value)
    }
    if (given["dies"] ?? 1) > 1, !board.supportsDies {
      throw OptionError(
        .unsupported, origin, "dies not supported by this machine's CPU topology")
    }
    if (given["clusters"] ?? 1) > 1 {
      throw OptionError(
        .unsupported, origin, "clusters not supported by this machine's CPU topology")
    }
    let smp = complete(given)
    let parts =
      board.supportsDies
      ? "sockets (\(smp.sockets)) * dies (\(smp.dies)) * cores (\(smp.cores))"
        + " * threads (\(smp.threads))"
      : "sockets (\(smp.sockets)) * cores (\(smp.cores)) * threads (\(smp.threads))"
    guard product(smp.sockets, smp.dies, smp.cores, smp.threads) == smp.maxCPUs else {
      throw OptionError(
        .conflict, origin,
        "Invalid CPU topology: product of the hierarchy must match maxcpus: \(parts)"
          + " != maxcpus (\(smp.maxCPUs))")
    }
    guard smp.maxCPUs >= smp.cpus else {
      throw OptionError(
        .conflict, origin,
        "Invalid CPU topology: maxcpus must be equal to or greater than smp: \(parts)"
          + " == maxcpus (\(smp.maxCPUs)) < smp_cpus (\(smp.cpus))")
    }
    guard smp.maxCPUs <= board.maximumCPUs else {
      throw OptionError(
        .invalidValue, origin,
        "Invalid SMP CPUs \(smp.maxCPUs). The max CPUs supported by machine '\(board.name)'"
          + " is \(board.maximumCPUs)")
    }
    return smp
  }

  private static func complete(_ given: [String: Int]) -> SMPConfiguration {
    var smp = SMPConfiguration()
    smp.dies = given["dies"] ?? 1
    var sockets = given["sockets"] ?? 0
    var cores = given["cores"] ?? 0
    var threads = given["threads"] ?? 0
    var maxCPUs = given["maxcpus"] ?? given["cpus"] ?? 0
    if maxCPUs == 0 {
      sockets = max(sockets, 1)
      cores = max(cores, 1)
      threads = max(threads, 1)
    } else {
      if cores == 0 {
        sockets = max(sockets, 1)
        threads = max(threads, 1)
        cores = maxCPUs / product(sockets, smp.dies, threads)
      } else if sockets == 0 {
        threads = max(threads, 1)
        sockets = maxCPUs / product(smp.dies, cores, threads)
      }
      if threads == 0 { threads = maxCPUs / max(product(sockets, smp.dies, cores), 1) }
    }
    smp.sockets = sockets
    smp.cores = cores
    smp.threads = threads
    if maxCPUs == 0 { maxCPUs = product(sockets, smp.dies, cores, threads) }
    smp.maxCPUs = maxCPUs
    smp.cpus = given["cpus"] ?? maxCPUs
    smp.isTopologyGiven = ["sockets", "dies", "cores", "threads"].contains { given[$0] != nil }
    return smp
  }

  /// Saturating product of counts below 2^31.
  private static func product(_ factors: Int...) -> Int {
    factors.reduce(1) { total, factor in
      let (result, overflow) = total.multipliedReportingOverflow(by: factor)
      return overflow ? Int.max : result
    }
  }
}

/// RAM size, slots and limit.
enum MemoryOptions {
  static func resolve(
    _ state: ParserState, _ machineEntries: [OptionEntry]
  ) throws(OptionError) -> MemoryConfiguration {
    var memory = MemoryConfiguration()
    let values = state.merged(.memory)
    let nested = machineEntries.filter { $0.key.hasPrefix("memory.") }
    for entry in nested
    where !["memory.size", "memory.slots", "memory.max-size"].contains(entry.key) {
      throw OptionError(
        .unknownParameter, entry.origin, "Parameter '\(entry.key)' is unexpected",
        suggestion: Spelling.nearest(
          to: entry.key, among: ["memory.size", "memory.slots", "memory.max-size"]))
    }
    func last(_ key: String, _ nestedKey: String) -> OptionEntry? {
      values?[key] ?? nested.last { $0.key == nestedKey }
    }
    if let entry = last("size", "memory.size"), !entry.value.isEmpty {
      // What ends in a digit counts in MiB with -m, in bytes as a machine property.
      let isBare = entry.value.utf8.last.map { (0x30...0x39).contains($0) } ?? false
      let unit: UInt64 = entry.key == "size" && isBare ? 1 << 20 : 1
      let size = try OptionValues.size(entry.value, of: entry.key, defaultUnit: unit, entry.origin)
      guard size <= UInt64(Int64.max) - 8191 else {
        throw OptionError(.invalidValue, entry.origin, "ram size too large")
      }
      if size > 0 {
        memory.size = (size + 8191) & ~8191
        memory.isSizeGiven = true
      }
    }
    memory.maxSize = memory.size
    let slots = last("slots", "memory.slots")
    let limit = last("maxmem", "memory.max-size")
    if let entry = slots {
      guard case .value(let count) = OptionText.number(entry.value) else {
        throw OptionError(
          .invalidValue, entry.origin, "Parameter '\(entry.key)' expects a number")
      }
      guard limit != nil else {
        throw OptionError(.conflict, entry.origin, "slots specified but no max-size")
      }
      guard count <= 256 else {
        throw OptionError(
          .invalidValue, entry.origin, "unsupported amount of memory slots: \(count)")
      }
      memory.slots = Int(count)
    }
    if let entry = limit {
      memory.maxSize = try OptionValues.size(entry.value, of: entry.key, entry.origin)
      let size = String(memory.size, radix: 16)
      let most = String(memory.maxSize, radix: 16)
      guard memory.maxSize >= memory.size else {
        throw OptionError(
          .conflict, entry.origin,
          "invalid value of maxmem: maximum memory size (0x\(most)) must be at least the initial"
            + " memory size (0x\(size))")
      }
      guard memory.maxSize > memory.size || memory.slots == 0 else {
        throw OptionError(
          .conflict, entry.origin,
          "invalid value of maxmem: memory slots were specified but maximum memory size"
            + " (0x\(most)) is equal to the initial memory size (0x\(size))")
      }
    }
    return memory
  }
}

/// What the firmware is told.
enum BootOptions {
  static func resolve(
    _ entries: [OptionEntry], _ board: HelpCatalog.Machine
  ) throws(OptionError) -> BootOrderConfiguration {
    var boot = BootOrderConfiguration()
    for entry in entries where entry.key.hasPrefix("boot.") {
      let value = entry.value
      switch entry.key {
      case "boot.order": boot.order = try drives(entry, board)
      case "boot.once": boot.once = try drives(entry, board)
      case "boot.menu": boot.menu = try OptionValues.boolean(value, of: entry.key, entry.origin)
      case "boot.strict":
        boot.strict = try OptionValues.boolean(value, of: entry.key, entry.origin)
      case "boot.splash": boot.splash = value
      case "boot.splash-time":
        boot.splashTime = try milliseconds(
          entry, 0, "splash-time is invalid, it should be a value between 0 and 65535")
      case "boot.reboot-timeout":
        boot.rebootTimeout = try milliseconds(
          entry, -1, "reboot timeout is invalid,it should be a value between -1 and 65535")
      default:
        throw OptionError(
          .unknownParameter, entry.origin, "Parameter '\(entry.key)' is unexpected",
          suggestion: Spelling.nearest(
            to: String(entry.key.dropFirst(5)),
            among: OptionGroup.boot.parameters?.map(\.name) ?? []))
      }
    }
    return boot
  }

  /// Letters `a` to `p`, each at most once; on a PC three of its four kinds, as its CMOS holds no more.
  private static func drives(
    _ entry: OptionEntry, _ board: HelpCatalog.Machine
  ) throws(OptionError) -> String {
    if let complaint = BootOrder.complaint(about: entry.value, isPC: board.isPC) {
      throw OptionError(.invalidValue, entry.origin, complaint)
    }
    return entry.value
  }

  private static func milliseconds(
    _ entry: OptionEntry, _ least: Int64, _ reason: String
  ) throws(OptionError) -> Int {
    switch OptionText.integer(entry.value) {
    case .malformed:
      throw OptionError(.invalidValue, entry.origin, "Parameter '\(entry.key)' expects integer")
    case .value(let value) where value >= least && value <= 65535: return Int(value)
    default: throw OptionError(.invalidValue, entry.origin, reason)
    }
  }
}
