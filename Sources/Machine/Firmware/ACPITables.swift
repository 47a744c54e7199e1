package import Shm

/// The ACPI tables of a `pc` machine (ACPI 6.4, 5.2) as one blob with relative pointers, the root pointer, and the script that
/// makes the pointers absolute.
struct ACPITables: Equatable, Sendable {
  static let tablesFile = "etc/acpi/tables"
  static let rootPointerFile = "etc/acpi/rsdp"

  private(set) var tables: [UInt8] = []
  private(set) var rootPointer: [UInt8] = []
  private(set) var script: [TableLoaderCommand] = []

  private let oemID: [UInt8]
  private let oemTableID: [UInt8]

  var loaderScript: [UInt8] { script.flatMap { $0.encoded() } }

  init(_ configuration: FirmwareConfiguration) {
    func padded(_ text: String, _ count: Int) -> [UInt8] {
      Array((Array(text.utf8) + [UInt8](repeating: 0x20, count: count)).prefix(count))
    }
    oemID = padded(configuration.oemID, 6)
    oemTableID = padded(configuration.oemTableID, 8)
    script = [
      .allocate(file: ACPITables.rootPointerFile, alignment: 16, zone: .low),
      .allocate(file: ACPITables.tablesFile, alignment: 64, zone: .high),
    ]
    // First, as it must be aligned to 64 bytes.
    let facs = tables.count
    tables += ACPITables.facs()
    let dsdt = append("DSDT", revision: 1, DSDT.body(configuration))
    var listed: [Int] = []
    listed.append(appendFADT(configuration, facs: facs, dsdt: dsdt))
    listed.append(append("APIC", revision: 3, ACPITables.madt(configuration)))
    if configuration.hasHPET { listed.append(append("HPET", revision: 1, ACPITables.hpet())) }
    if let numa = configuration.numa {
      listed.append(
        append("SRAT", revision: 1, numa.srat(configuration.processors, configuration.memory)))
      listed.append(append("SLIT", revision: 1, numa.slit))
    }
    // Windows Emulated Devices Table: reading the PM timer once is enough (bit 1).
    var waet: [UInt8] = []
    waet.append32(2)
    listed.append(append("WAET", revision: 1, waet))

    let rsdt = append("RSDT", revision: 1, pointers: listed, width: 4)
    let xsdt = append("XSDT", revision: 1, pointers: listed, width: 8)
    appendRootPointer(rsdt: rsdt, xsdt: xsdt)
  }

  // MARK: - Assembling

  private static let headerSize = 36

  private func header(_ signature: String, _ revision: UInt8, _ length: Int) -> [UInt8] {
    var out = Array(signature.utf8)
    out.append32(UInt32(length))
    out += [revision, 0]
    out += oemID + oemTableID
    out.append32(1)
    out += Array("BXPC".utf8)
    out.append32(1)
    return out
  }

  /// Adds a table and its checksum command; answers its offset.
  private mutating func append(_ signature: String, revision: UInt8, _ body: [UInt8]) -> Int {
    while tables.count % 8 != 0 { tables.append(0) }
    let start = tables.count
    let length = ACPITables.headerSize + body.count
    tables += header(signature, revision, length) + body
    addChecksum(start, length)
    return start
  }

  /// Adds a table that lists other tables.
  private mutating func append(
    _ signature: String, revision: UInt8, pointers: [Int], width: Int
  ) -> Int {
    while tables.count % 8 != 0 { tables.append(0) }
    let start = tables.count
    let length = ACPITables.headerSize + pointers.count * width
    tables += header(signature, revision, length)
    for pointer in pointers { appendPointer(to: pointer, width: width) }
    addChecksum(start, length)
    return start
  }

  private mutating func appendPointer(to offset: Int, width: Int) {
    script.append(
      .addPointer(
        destination: ACPITables.tablesFile, source: ACPITables.tablesFile, offset: tables.count,
        size: width))
    if width == 8 { tables.append64(UInt64(offset)) } else { tables.append32(UInt32(offset)) }
  }

  private mutating func addChecksum(_ start: Int, _ length: Int) {
    script.append(
      .addChecksum(
        file: ACPITables.tablesFile, offset: start + 9, start: start, length: length))
  }

  /// RSDP, revision 2 (5.2.5.3).
  private mutating func appendRootPointer(rsdt: Int, xsdt: Int) {
    let file = ACPITables.rootPointerFile
    rootPointer = Array("RSD PTR ".utf8) + [0] + oemID + [2]
    rootPointer.append32(UInt32(rsdt))
    rootPointer.append32(36)
    rootPointer.append64(UInt64(xsdt))
    rootPointer += [0, 0, 0, 0]
    script += [
      .addPointer(destination: file, source: ACPITables.tablesFile, offset: 16, size: 4),
      .addPointer(destination: file, source: ACPITables.tablesFile, offset: 24, size: 8),
      .addChecksum(file: file, offset: 8, start: 0, length: 20),
      .addChecksum(file: file, offset: 32, start: 0, length: 36),
    ]
  }

  // MARK: - Tables

  /// FACS (5.2.10).
  private static func facs() -> [UInt8] {
    var out = Array("FACS".utf8)
    out.append32(64)
    return out + [UInt8](repeating: 0, count: 56)
  }

  /// A generic address structure for ports (5.2.3.2).
  private static func ports(_ address: UInt64, bits: UInt8, accessSize: UInt8 = 0) -> [UInt8] {
    var out: [UInt8] = [1, bits, 0, accessSize]
    out.append64(address)
    return out
  }

  /// FADT, revision 3 (ACPI 2.0b to 3.0; 5.2.9), 244 bytes.
  private mutating func appendFADT(
    _ configuration: FirmwareConfiguration, facs: Int, dsdt: Int
  ) -> Int {
    while tables.count % 8 != 0 { tables.append(0) }
    let start = tables.count
    tables += header("FACP", 3, 244)
    appendPointer(to: facs, width: 4)
    appendPointer(to: dsdt, width: 4)
    tables += [1, 0]  // interrupt model (reserved since 2.0), preferred profile: unspecified
    tables.append16(UInt16(FixedHardware.interrupt))
    tables.append32(FixedHardware.smiCommand)
    tables += [FixedHardware.acpiEnable, FixedHardware.acpiDisable, 0, 0]
    tables.append32(FixedHardware.pmBase)  // PM1a event
    tables.append32(0)
    tables.append32(FixedHardware.pmBase + 4)  // PM1a control
    tables.append32(0)
    tables.append32(0)
    tables.append32(FixedHardware.pmBase + 8)  // PM timer
    tables.append32(FixedHardware.gpeBase)
    tables.append32(0)
    tables += [4, 2, 0, 4, 4, 0, 0, 0]  // block lengths
    tables.append16(0xFFF)  // no C2
    tables.append16(0xFFF)  // no C3
    tables.append16(0)
    tables.append16(0)
    tables += [0, 0, 0, 0, 0x32]  // duty cycle, RTC alarm day and month, century in CMOS
    // Boot architecture: ISA devices, keyboard controller, no VGA.
    let architecture: UInt16 =
      0x1 | (configuration.hasKeyboardController ? 2 : 0) | (configuration.hasVGA ? 0 : 4)
    tables.append16(architecture)
    tables.append(0)
    // WBINVD works, C1 works, sleep button is not fixed hardware, RTC wakes from S4, reset register, the platform's clock is good.
    tables.append32(0x0000_84A5)
    tables += ACPITables.ports(0xCF9, bits: 8)
    tables += [0x0F, 0, 0, 0]  // value for the reset register
    appendPointer(to: facs, width: 8)
    appendPointer(to: dsdt, width: 8)
    let none = [UInt8](repeating: 0, count: 12)
    tables += ACPITables.ports(UInt64(FixedHardware.pmBase), bits: 32)
    tables += none
    tables += ACPITables.ports(UInt64(FixedHardware.pmBase) + 4, bits: 16)
    tables += none
    tables += none
    tables += ACPITables.ports(UInt64(FixedHardware.pmBase) + 8, bits: 32)
    tables += ACPITables.ports(UInt64(FixedHardware.gpeBase), bits: 32)
    tables += none
    addChecksum(start, 244)
    return start
  }

  /// MADT (5.2.12).
  private static func madt(_ configuration: FirmwareConfiguration) -> [UInt8] {
    var out: [UInt8] = []
    out.append32(0xFEE0_0000)
    out.append32(1)  // a pair of 8259s is there too
    var hasX2APIC = false
    for processor in configuration.processors {
      if processor.apicID < 255 && processor.uid < 255 {
        out += [0, 8, UInt8(processor.uid), UInt8(processor.apicID), 1, 0, 0, 0]
      } else {
        hasX2APIC = true
        out += [9, 16, 0, 0]
        out.append32(processor.apicID)
        out.append32(1)
        out.append32(processor.uid)
      }
    }
    out += [1, 12, 0, 0]  // IOAPIC 0, inputs from 0
    out.append32(0xFEC0_0000)
    out.append32(0)
    /// Source override: ISA interrupt, input, flags.
    func override(_ irq: UInt8, _ input: UInt32, _ flags: UInt16) {
      out += [2, 10, 0, irq]
      out.append32(input)
      out.append16(flags)
    }
    override(0, 2, 0)
    // What PCI pins may be routed to, and the SCI: active high, level.
    for irq in [5, 9, 10, 11] as [UInt8] { override(irq, UInt32(irq), 0x000D) }
    out += [4, 6, 0xFF, 0, 0, 1]  // NMI at LINT1 of all
    if hasX2APIC {
      out += [10, 12, 0, 0]
      out.append32(0xFFFF_FFFF)
      out += [1, 0, 0, 0]
    }
    return out
  }

  /// HPET table (IA-PC HPET 1.0a, 3.2.4).
  private static func hpet() -> [UInt8] {
    var out: [UInt8] = []
    out.append32(0x8086_A201)
    out += [0, 0, 0, 0]
    out.append64(0xFED0_0000)
    return out + [0, 0, 0, 0]  // number 0, minimum tick 0, no page protection
  }
}

/// Where ACPI's fixed hardware is on this machine. `Devices.PIIX4PM` implements it; the PM base is what firmware programs.
enum FixedHardware {
  static let interrupt: UInt32 = 9
  static let smiCommand: UInt32 = 0xB2
  static let acpiEnable: UInt8 = 0xF1
  static let acpiDisable: UInt8 = 0xF0
  static let pmBase: UInt32 = 0x600
  static let gpeBase: UInt32 = 0xAFE0
}

extension FirmwareTables {
  /// Where the FACS is in what `placed(at:)` makes: first of the tables.
  static let facsOffset = 64

  /// Bytes that `placed(at:)` makes.
  package var placedSize: Int { layout.size }

  private var layout: (tables: Int, smbiosTables: Int, smbiosAnchor: Int, size: Int) {
    func aligned(_ value: Int) -> Int { (value + 63) & ~63 }
    let tables = FirmwareTables.facsOffset  // behind the root pointer
    let smbiosTables = aligned(tables + (acpi?.tables.count ?? 0))
    let anchor = aligned(smbiosTables + smbios.tables.count)
    return (tables, smbiosTables, anchor, aligned(anchor + 64))
  }

  /// The tables as firmware would leave them, for memory from `base` (aligned to 64 bytes): the bytes, where the ACPI root pointer is (nil
  /// with `acpi=off`), and copies of it and of the SMBIOS entry point.
  package func placed(
    at base: GuestAddress
  ) -> (bytes: [UInt8], rsdp: GuestAddress?, rootPointer: [UInt8], smbiosAnchor: [UInt8]) {
    let layout = layout
    var bytes = [UInt8](repeating: 0, count: layout.size)
    func place(_ offset: Int, _ part: [UInt8]) {
      bytes.replaceSubrange(offset..<offset + part.count, with: part)
    }
    place(layout.smbiosTables, smbios.tables)
    let smbiosAddress = base.rawValue + UInt64(layout.smbiosTables)
    let anchor = smbios.anchor(pointingTo: UInt32(truncatingIfNeeded: smbiosAddress))
    place(layout.smbiosAnchor, anchor)
    guard let acpi else { return (bytes, nil, [], anchor) }
    var files = [
      ACPITables.tablesFile: acpi.tables, ACPITables.rootPointerFile: acpi.rootPointer,
    ]
    let addresses = [
      ACPITables.tablesFile: base.rawValue + UInt64(layout.tables),
      ACPITables.rootPointerFile: base.rawValue,
    ]
    TableLoaderCommand.run(acpi.script, &files, at: addresses)
    let rootPointer = files[ACPITables.rootPointerFile] ?? []
    place(0, rootPointer)
    place(layout.tables, files[ACPITables.tablesFile] ?? [])
    return (bytes, base, rootPointer, anchor)
  }
}
