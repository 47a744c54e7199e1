import Devices

extension DSDT {
  /// Slots whose functions come and go: the registers (`PCIHotplugModel`), a device with `_EJ0` for each slot but the chipset's, and the
  /// event that tells the system to look (ACPI 6.4, 5.6.4.1 and 6.3.3).
  static func pciHotplug() -> [AML] {
    let slots = (2..<32).map { (number: UInt64) in slot(number) }
    return [
      .scope("\\_SB.PCI0", registers() + slots + [notification()] + [count()]),
      .scope(
        "\\_GPE",
        [
          .name("_HID", .string("ACPI0006")),
          .method(
            "_E01",
            [
              .acquire("\\_SB.PCI0.BLCK"), .call("\\_SB.PCI0.PCNT"), .release("\\_SB.PCI0.BLCK"),
            ]),
        ]),
    ]
  }

  private static func name(_ slot: UInt64) -> String {
    let digits = String(slot << 3, radix: 16, uppercase: true)
    return "S" + (digits.utf8.count < 2 ? "0" : "") + digits
  }

  private static func registers() -> [AML] {
    let base = PIIX4PM.hotplugBase
    return [
      .operationRegion("PCST", .io, offset: base, size: 8),
      .field("PCST", .doubleWord, [("PCIU", bits: 32), ("PCID", bits: 32)]),
      .operationRegion("SEJ", .io, offset: base + PCIHotplugModel.Register.eject, size: 4),
      .field("SEJ", .doubleWord, [("B0EJ", bits: 32)]),
      .operationRegion("BNMR", .io, offset: base + PCIHotplugModel.Register.bus, size: 4),
      .field("BNMR", .doubleWord, [("BNUM", bits: 32)]),
      .operationRegion("POST", .io, offset: base + PCIHotplugModel.Register.reportedSlot, size: 8),
      .field("POST", .doubleWord, [("OSLT", bits: 32), ("OSTS", bits: 32)]),
      .operationRegion("LBL", .io, offset: base + PCIHotplugModel.Register.label, size: 4),
      .field("LBL", .doubleWord, [("PIDX", bits: 32)]),
      .mutex("BLCK"),
      .method(
        "PCEJ", arguments: 1,
        [
          .acquire("BLCK"), .store(.integer(0), to: .reference("BNUM")),
          .store(.shiftLeft(.integer(1), by: .argument(0)), to: .reference("B0EJ")),
          .release("BLCK"),
        ]),
      .method(
        "AIDX", arguments: 1,
        [
          .acquire("BLCK"), .store(.integer(0), to: .reference("BNUM")),
          .store(.shiftLeft(.integer(1), by: .argument(0)), to: .reference("PIDX")),
          .store(.reference("PIDX"), to: .local(0)), .release("BLCK"), .returns(.local(0)),
        ]),
      label(),
      // Slot, event, status: only what became of an eject request matters here.
      .method(
        "PCOS", arguments: 3,
        [
          .ifEqual(
            .argument(1), .integer(3),
            [
              .acquire("BLCK"), .store(.argument(0), to: .reference("OSLT")),
              .store(.argument(2), to: .reference("OSTS")), .release("BLCK"),
            ])
        ]),
    ]
  }

  /// What a function's `_DSM` says (PCI Firmware Specification 3.2, 4.6.7): its name's number, if it has one. Identifier, revision,
  /// function, slot.
  private static func label() -> AML {
    let identifier: [UInt8] = [
      0xD0, 0x37, 0xC9, 0xE5, 0x53, 0x35, 0x7A, 0x4D, 0x91, 0x17, 0xEA, 0x4D, 0x19, 0xC3, 0x43,
      0x4D,
    ]
    return .method(
      "PDSM", arguments: 4,
      [
        .store(.call("AIDX", [.argument(3)]), to: .local(0)),
        .ifEqual(
          .argument(0), .buffer(identifier),
          [
            .ifTrue(
              .local(0),
              [
                // Functions 0, which tells of all, and 7.
                .ifEqual(.argument(2), .integer(0), [.returns(.buffer([0x81]))]),
                .ifEqual(
                  .argument(2), .integer(7),
                  [
                    .store(.package([.integer(0), .string("")]), to: .local(1)),
                    .store(.local(0), to: .index(.local(1), .integer(0))), .returns(.local(1)),
                  ]),
              ])
          ]),
        .returns(.buffer([0])),
      ])
  }

  private static func slot(_ number: UInt64) -> AML {
    .device(
      name(number),
      [
        .name("_SUN", .integer(number)), .name("_ADR", .integer(number << 16)),
        .method(
          "_DSM", arguments: 4,
          [
            .returns(
              .call("PDSM", [.argument(0), .argument(1), .argument(2), .reference("_SUN")]))
          ]),
        .method("_EJ0", arguments: 1, [.call("PCEJ", [.reference("_SUN")])]),
        .method(
          "_OST", arguments: 3,
          [.call("PCOS", [.reference("_SUN"), .argument(0), .argument(1)])]),
      ])
  }

  /// Tells the devices of the slots in the first argument's bits what the second says.
  private static func notification() -> AML {
    .method(
      "DVNT", arguments: 2,
      (2..<32).map { (number: UInt64) in
        .ifTrue(
          .and(.argument(0), .integer(1 << number)), [.notify(name(number), .argument(1))])
      })
  }

  /// Looks which slots have something new (device check) and which are to be emptied (eject request).
  private static func count() -> AML {
    .method(
      "PCNT",
      [
        .store(.integer(0), to: .reference("BNUM")),
        .call("DVNT", [.reference("PCIU"), .integer(1)]),
        .call("DVNT", [.reference("PCID"), .integer(3)]),
      ])
  }
}
