// What the `help` forms list and what names are checked against: plain data from the caller.

/// Everything the parser must know about machines, CPUs and devices without depending on them.
package struct HelpCatalog: Sendable {
  /// A machine type.
  package struct Machine: Sendable, Equatable {
    /// Full name (`pc-i440fx-7.2`).
    package var name: String
    /// Short name that means the same (`pc`).
    package var alias: String?
    /// One line for lists.
    package var description: String
    /// Used when no type is given.
    package var isDefault: Bool
    /// Largest `maxcpus`.
    package var maximumCPUs: Int
    /// Accepts `dies` above 1.
    package var supportsDies: Bool
    /// A PC: has ports, firmware, and the properties of PC boards. False for `none`.
    package var isPC: Bool

    /// All members.
    package init(
      name: String, alias: String?, description: String, isDefault: Bool, maximumCPUs: Int,
      supportsDies: Bool, isPC: Bool
    ) {
      self.name = name
      self.alias = alias
      self.description = description
      self.isDefault = isDefault
      self.maximumCPUs = maximumCPUs
      self.supportsDies = supportsDies
      self.isPC = isPC
    }
  }

  /// A property of a device type, for `-device TYPE,help`.
  package struct Property: Sendable, Equatable {
    /// Property name.
    package var name: String
    /// QEMU's type name (`uint32`, `str`, `bool`).
    package var type: String
    /// One line; may be empty.
    package var description: String
    /// Default as text; nil when there is none.
    package var defaultValue: String?
    /// All members.
    package init(name: String, type: String, description: String = "", defaultValue: String? = nil)
    {
      self.name = name
      self.type = type
      self.description = description
      self.defaultValue = defaultValue
    }
  }

  /// A device type that `-device` accepts.
  package struct Device: Sendable, Equatable {
    /// Type name.
    package var name: String
    /// Bus it plugs into (`ISA`, `PCI`); nil when it needs none.
    package var bus: String?
    /// Other name for the same type.
    package var alias: String?
    /// One line.
    package var description: String?
    /// Heading in the list (`Input`, `Misc`, `Controller/Bridge/Hub`).
    package var category: String
    /// What can be set.
    package var properties: [Property]
    /// All members.
    package init(
      name: String, bus: String?, alias: String? = nil, description: String? = nil,
      category: String = "Misc", properties: [Property] = []
    ) {
      self.name = name
      self.bus = bus
      self.alias = alias
      self.description = description
      self.category = category
      self.properties = properties
    }
  }

  /// An item of `-d`.
  package struct LogItem: Sendable, Equatable {
    /// Word for `-d`.
    package var name: String
    /// What is logged.
    package var description: String
    /// All members.
    package init(name: String, description: String) {
      self.name = name
      self.description = description
    }
  }

  /// Machine types that exist.
  package var machines: [Machine]
  /// The text of `-cpu help`.
  package var cpuHelp: @Sendable () -> String
  /// Device types that `-device` accepts; asked for by help only.
  package var devices: @Sendable () -> [Device]
  /// What an object of a type takes; asked for by help only.
  package var objectProperties: @Sendable (String) -> [Property] = { _ in [] }
  /// Items of `-d`.
  package var logItems: [LogItem]
  /// Directories searched for firmware after those of `-L`.
  package var dataDirectories: [String]

  /// Everything empty but the standard machines and log items.
  package init(
    machines: [Machine] = HelpCatalog.standardMachines,
    cpuHelp: @escaping @Sendable () -> String = { "" },
    devices: @escaping @Sendable () -> [Device] = { [] },
    logItems: [LogItem] = HelpCatalog.standardLogItems, dataDirectories: [String] = []
  ) {
    self.machines = machines
    self.cpuHelp = cpuHelp
    self.devices = devices
    self.logItems = logItems
    self.dataDirectories = dataDirectories
  }

  /// The boards that exist now.
  package static let standardMachines = [
    Machine(
      name: "none", alias: nil, description: "empty machine", isDefault: false, maximumCPUs: 1,
      supportsDies: false, isPC: false),
    Machine(
      name: "pc-i440fx-7.2", alias: "pc", description: "Standard PC (i440FX + PIIX, 1996)",
      isDefault: true, maximumCPUs: 255, supportsDies: true, isPC: true),
  ]

  /// Log items with QEMU's names. What nothing prints is not among them.
  package static let standardLogItems = [
    LogItem(name: "int", description: "interrupts, exceptions (tcg), INIT, STARTUP, NMI"),
    LogItem(name: "guest_errors", description: "what a guest does that hardware forbids"),
    LogItem(name: "unimp", description: "accesses that no device answers"),
    LogItem(name: "cpu_reset", description: "CPU state before CPU resets"),
    LogItem(name: "mmu", description: "page faults of guests (tcg)"),
    LogItem(name: "pcall", description: "far calls, jumps and returns in protected mode (tcg)"),
    LogItem(name: "in_asm", description: "guest instructions of each new block (tcg)"),
    LogItem(name: "out_asm", description: "host code of each translated block (tcg)"),
    LogItem(name: "exec", description: "a line before each block that is executed (tcg; slow)"),
    LogItem(name: "cpu", description: "CPU registers before each block (tcg; very slow)"),
    LogItem(name: "fpu", description: "floating-point and vector registers too in 'cpu'"),
    LogItem(name: "nochain", description: "accepted; 'exec' and 'cpu' never miss a block"),
  ]

  /// Items that QEMU has and Goliath has not.
  static let foreignLogItems = [
    "op", "op_opt", "op_ind", "page", "plugin", "strace", "tid", "vpu",
  ]
}
