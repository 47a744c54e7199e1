/// What the firmware tables of a `pc` machine have to say about it.
package struct FirmwareConfiguration: Equatable, Sendable {
  /// One virtual CPU that is there.
  package struct Processor: Equatable, Sendable {
    package let uid: UInt32
    package let apicID: UInt32

    package init(uid: UInt32, apicID: UInt32) {
      self.uid = uid
      self.apicID = apicID
    }
  }

  package var memory: MemoryLayout
  package var processors: [Processor]
  /// Which processors are near which memory; nil when all are alike.
  package var numa: NUMATopology?
  /// How the processors divide into sockets, for SMBIOS.
  package var sockets = 1
  package var coresPerSocket = 1
  package var threadsPerCore = 1
  /// `-uuid`, 16 bytes in the order in which it is written; nil for none.
  package var uuid: [UInt8]?
  /// The versioned machine type.
  package var machineName = "pc-i440fx-7.2"
  /// Indices of COM ports that exist (0 for COM1).
  package var serialPorts: [UInt32] = []
  /// Indices of parallel ports that exist (0 for LPT1).
  package var parallelPorts: [UInt32] = []
  package var hasHPET = true
  package var hasKeyboardController = true
  /// The pvpanic device's port; nil without one.
  package var pvpanicPort: UInt16?
  package var hasVGA = false
  package var hasACPI = true
  /// Identifiers in the ACPI tables' headers, of up to 6 and 8 characters (`x-oem-id`, `x-oem-table-id`).
  package var oemID = "BOCHS "
  package var oemTableID = "BXPC    "
  package var allowsS3 = true
  package var allowsS4 = true
  /// `SLP_TYP` of S4.
  package var s4Value: UInt8 = 2
  /// The 64-bit entry point of SMBIOS 3.0 instead of the 32-bit one of 2.8.
  package var hasSMBIOS3 = false

  package init(memory: MemoryLayout, processors: [Processor]) {
    self.memory = memory
    self.processors = processors
  }
}

/// ACPI and SMBIOS of a machine in both forms: as files for firmware to place, and placed for a guest without firmware.
package struct FirmwareTables: Equatable, Sendable {
  /// Nil with `acpi=off`.
  let acpi: ACPITables?
  let smbios: SMBIOSTables

  package init(_ configuration: FirmwareConfiguration) {
    acpi = configuration.hasACPI ? ACPITables(configuration) : nil
    smbios = SMBIOSTables(configuration)
  }

  /// The fw_cfg files that SeaBIOS and OVMF look for.
  package var files: [BootPlan.ConfigurationFile] {
    var files: [BootPlan.ConfigurationFile] = []
    if let acpi {
      files = [
        BootPlan.ConfigurationFile(ACPITables.tablesFile, acpi.tables),
        BootPlan.ConfigurationFile(ACPITables.rootPointerFile, acpi.rootPointer),
        BootPlan.ConfigurationFile("etc/table-loader", acpi.loaderScript),
      ]
    }
    return files + [
      BootPlan.ConfigurationFile("etc/smbios/smbios-anchor", smbios.anchor),
      BootPlan.ConfigurationFile("etc/smbios/smbios-tables", smbios.tables),
    ]
  }
}
