import Devices

/// The differentiated system description table of a `pc` machine: PCI bridge with interrupt routing, ISA devices, processors, sleep states.
enum DSDT {
  /// All definition blocks behind the table's header.
  static func body(_ configuration: FirmwareConfiguration) -> [UInt8] {
    var pieces: [AML] = []
    pieces.append(.scope("\\_SB", [pciRoot(configuration)] + isaBridge(configuration)))
    pieces.append(.scope("\\_SB", links()))
    pieces.append(.scope("\\_SB", processors(configuration) + otherDevices(configuration)))
    pieces += sleepStates(configuration)
    pieces += DSDT.pciHotplug()
    return AML.join(pieces)
  }

  // MARK: - PCI

  private static func pciRoot(_ configuration: FirmwareConfiguration) -> AML {
    .device(
      "PCI0",
      [
        .name("_HID", .eisaID("PNP0A03")), .name("_UID", .integer(0)),
        .name("_CRS", AMLResource.template(windows(configuration))),
        .name("_PRT", routing()),
      ])
  }

  /// Everything that is not RAM, board devices at the top, or the fixed devices' ports.
  private static func windows(_ configuration: FirmwareConfiguration) -> [AMLResource] {
    let holeStart = UInt32(truncatingIfNeeded: configuration.memory.below4G)
    return [
      .busNumbers(0, 0xFF), .io(0xCF8, length: 8), .ioWindow(0, 0xCF7),
      .ioWindow(0xD00, 0xFFFF),
      .memoryWindow32(0xA_0000, 0xB_FFFF, isCacheable: true),
      .memoryWindow32(holeStart, 0xFEBF_FFFF, isCacheable: false),
    ]
  }

  /// Pin and device to interrupt link: rotated by device; the power management function uses the SCI.
  private static func routing() -> AML {
    let links = ["LNKA", "LNKB", "LNKC", "LNKD"]
    var entries: [AML] = []
    for device in 0..<32 {
      for pin in 0..<4 {
        let link = device == 1 && pin == 0 ? "LNKS" : links[(device + pin + 3) % 4]
        entries.append(
          .package([
            .integer(UInt64(device) << 16 | 0xFFFF), .integer(UInt64(pin)), .reference(link),
            .integer(0),
          ]))
      }
    }
    return .package(entries)
  }

  /// Interrupt link devices over the bridge's route registers 0x60 to 0x63 (6.2.13).
  private static func links() -> [AML] {
    let choices: [UInt32] = [5, 10, 11]
    var devices: [AML] = [
      .operationRegion("\\_SB.PCI0.ISA.P40C", .pciConfiguration, offset: 0x60, size: 4),
      .scope(
        "\\_SB.PCI0.ISA",
        [
          .field(
            "P40C", .byte,
            [("PRQ0", bits: 8), ("PRQ1", bits: 8), ("PRQ2", bits: 8), ("PRQ3", bits: 8)])
        ]),
      // Present when routed: bit 7 of the register disables.
      .method(
        "IQST", arguments: 1,
        [
          .ifTrue(.and(.integer(0x80), .argument(0)), [.returns(.integer(0x09))]),
          .returns(.integer(0x0B)),
        ]),
      .method(
        "IQCR", arguments: 1, isSerialized: true,
        [
          .name("PRR0", AMLResource.template([.sharedInterrupts([0])])),
          .doubleWordField(.reference("PRR0"), 5, "PRRI"),
          .store(.integer(0), to: .reference("PRRI")),
          .ifTrue(
            AML([0x95] + AML.argument(0).bytes + AML.integer(0x80).bytes),  // LLess
            [.store(.argument(0), to: .reference("PRRI"))]),
          .returns(.reference("PRR0")),
        ]),
    ]
    for (index, name) in ["LNKA", "LNKB", "LNKC", "LNKD"].enumerated() {
      let register = AML.reference("\\_SB.PCI0.ISA.PRQ\(index)")
      devices.append(
        .device(
          name,
          [
            .name("_HID", .eisaID("PNP0C0F")), .name("_UID", .integer(UInt64(index))),
            .name("_PRS", AMLResource.template([.sharedInterrupts(choices)])),
            .method("_STA", [.returns(AML(AML.nameString("IQST") + register.bytes))]),
            .method("_DIS", [.store(.or(register, .integer(0x80)), to: register)]),
            .method("_CRS", [.returns(AML(AML.nameString("IQCR") + register.bytes))]),
            .method(
              "_SRS", arguments: 1,
              [
                .doubleWordField(.argument(0), 5, "PRRI"),
                .store(.reference("PRRI"), to: register),
              ]),
          ]))
    }
    let sci = AMLResource.template([.sharedInterrupts([FixedHardware.interrupt])])
    devices.append(
      .device(
        "LNKS",
        [
          .name("_HID", .eisaID("PNP0C0F")), .name("_UID", .integer(4)), .name("_PRS", sci),
          .method("_STA", [.returns(.integer(0x0B))]),
          .method("_DIS", []),
          .method("_CRS", [.returns(.reference("_PRS"))]),
          .method("_SRS", arguments: 1, []),
        ]))
    return devices
  }

  // MARK: - ISA

  private static func isaBridge(_ configuration: FirmwareConfiguration) -> [AML] {
    func device(_ name: String, _ id: String, uid: UInt64? = nil, _ resources: [AMLResource]) -> AML
    {
      var contents: [AML] = [.name("_HID", .eisaID(id))]
      if let uid { contents.append(.name("_UID", .integer(uid))) }
      contents.append(.name("_STA", .integer(0x0F)))
      contents.append(.name("_CRS", AMLResource.template(resources)))
      return .device(name, contents)
    }
    var devices: [AML] = [.name("_ADR", .integer(0x0001_0000))]
    devices.append(device("RTC", "PNP0B00", [.io(0x70, length: 8), .irq([8])]))
    if configuration.hasKeyboardController {
      devices.append(
        device("KBD", "PNP0303", [.io(0x60, length: 1), .io(0x64, length: 1), .irq([1])]))
      devices.append(device("MOU", "PNP0F13", [.irq([12])]))
    }
    let serial: [(UInt16, UInt8)] = [(0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3)]
    for index in configuration.serialPorts where serial.indices.contains(Int(index)) {
      let (port, irq) = serial[Int(index)]
      devices.append(
        device(
          "COM\(index + 1)", "PNP0501", uid: UInt64(index) + 1,
          [.io(port, length: 8), .irq([irq])]))
    }
    let parallel: [UInt16] = [0x378, 0x278, 0x3BC]
    for index in configuration.parallelPorts where parallel.indices.contains(Int(index)) {
      devices.append(
        device(
          "LPT\(index + 1)", "PNP0400", uid: UInt64(index) + 1,
          [.io(parallel[Int(index)], length: index == 2 ? 4 : 8), .irq([7])]))
    }
    if let port = configuration.pvpanicPort { devices.append(pvpanic(port)) }
    return [.scope("\\_SB.PCI0", [.device("ISA", devices)])]
  }

  /// The panic notifier with the methods that drivers call.
  private static func pvpanic(_ port: UInt16) -> AML {
    .device(
      "PEVT",
      [
        .name("_HID", .string("QEMU0001")),
        .name("_CRS", AMLResource.template([.io(port, length: 1)])),
        .operationRegion("PEOR", .io, offset: UInt64(port), size: 1),
        .field("PEOR", .byte, [("PEPT", bits: 8)]), .name("_STA", .integer(0x0F)),
        .method("RDPT", [.returns(.reference("PEPT"))]),
        .method("WRPT", arguments: 1, [.store(.argument(0), to: .reference("PEPT"))]),
      ])
  }

  // MARK: - The rest

  private static func otherDevices(_ configuration: FirmwareConfiguration) -> [AML] {
    var devices: [AML] = []
    if configuration.hasHPET {
      devices.append(
        .device(
          "HPET",
          [
            .name("_HID", .eisaID("PNP0103")), .name("_UID", .integer(0)),
            .name("_STA", .integer(0x0F)),
            .name("_CRS", AMLResource.template([.memory32(0xFED0_0000, length: 0x400)])),
          ]))
    }
    devices.append(
      .scope(
        "\\_SB.PCI0",
        [
          .device(
            "FWCF",
            [
              .name("_HID", .string("QEMU0002")), .name("_STA", .integer(0x0B)),
              .name("_CRS", AMLResource.template([.io(0x510, length: 0x0C)])),
            ]),
          // Keeps the ports of hot plug from being given to PCI devices.
          .device(
            "PHPR",
            [
              .name("_HID", .eisaID("PNP0A06")),
              .name("_UID", .string("PCI Hotplug resources")), .name("_STA", .integer(0x0B)),
              .name(
                "_CRS",
                AMLResource.template([
                  .io(
                    UInt16(truncatingIfNeeded: PIIX4PM.hotplugBase),
                    length: UInt8(truncatingIfNeeded: PIIX4PM.hotplugSize))
                ])),
            ]),
          // The same for the GPE0 block's.
          .device(
            "GPE0",
            [
              .name("_HID", .eisaID("PNP0A06")), .name("_UID", .string("GPE0 resources")),
              .name("_STA", .integer(0x0B)),
              .name(
                "_CRS",
                AMLResource.template([
                  .io(UInt16(truncatingIfNeeded: FixedHardware.gpeBase), length: 4)
                ])),
            ]),
        ]))
    return devices
  }

  private static func processors(_ configuration: FirmwareConfiguration) -> [AML] {
    configuration.processors.map { processor in
      let digits = String(processor.uid & 0xFFF, radix: 16, uppercase: true)
      let name = "C" + String(repeating: "0", count: 3 - digits.utf8.count) + digits
      return .device(
        name,
        [
          .name("_HID", .string("ACPI0007")), .name("_UID", .integer(UInt64(processor.uid))),
          .name("_STA", .integer(0x0F)),
        ])
    }
  }

  /// SLP_TYP for PM1a and PM1b, two reserved (7.4.2); the values that the power management block implements.
  private static func sleepStates(_ configuration: FirmwareConfiguration) -> [AML] {
    func state(_ name: String, _ type: UInt64) -> AML {
      .name(name, .package([.integer(type), .integer(type), .integer(0), .integer(0)]))
    }
    var states: [AML] = []
    if configuration.allowsS3 { states.append(state("\\_S3", 1)) }
    if configuration.allowsS4 { states.append(state("\\_S4", UInt64(configuration.s4Value))) }
    states.append(state("\\_S5", 0))
    return states
  }
}
