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
      .mutex("BLCK"),
      .method(
        "PCEJ", arguments: 1,
        [
          .acquire("BLCK"), .store(.integer(0), to: .reference("BNUM")),
          .store(.shiftLeft(.integer(1), by: .argument(0)), to: .reference("B0EJ")),
          .release("BLCK"),
        ]),
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

  private static func slot(_ number: UInt64) -> AML {
    .device(
      name(number),
      [
        .name("_SUN", .integer(number)), .name("_ADR", .integer(number << 16)),
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
