import DistIRQ
import Testing

/// Interrupt command register (SDM 11.6.1) and x2APIC interface (11.12).
@Suite struct LocalAPICCommandTests {
  @Test(arguments: [
    (UInt32(0x0000_0041), DeliveryMode.fixed, DestinationMode.physical, DestinationShorthand.none),
    (0x0000_0941, .lowestPriority, .logical, .none),
    (0x0000_0200, .smi, .physical, .none),
    (0x0000_0400, .nmi, .physical, .none),
    (0x0000_4500, .initialize, .physical, .none),
    (0x0000_C500, .initialize, .physical, .none),
    (0x0000_0699, .startUp, .physical, .none),
    (0x0004_0041, .fixed, .physical, .itself),
    (0x0008_0041, .fixed, .physical, .allIncludingSelf),
    (0x000C_0400, .nmi, .physical, .allExcludingSelf),
    (0x000C_4500, .initialize, .physical, .allExcludingSelf),
  ])
  func commandBecomesAMessage(
    low: UInt32, delivery: DeliveryMode, mode: DestinationMode, shorthand: DestinationShorthand
  ) {
    var apic = LocalAPIC.enabled()
    apic.put(0x310, 0x0700_0000)
    let expected = InterruptMessage(
      destination: 7, destinationMode: mode, deliveryMode: delivery,
      vector: UInt8(truncatingIfNeeded: low))
    #expect(apic.put(0x300, low) == .ipi(expected, shorthand))
    #expect(apic.get(0x300) == low)
    #expect(apic.get(0x310) == 0x0700_0000)
    var extended = LocalAPIC.extended()
    var wide = expected
    wide.width = .x2APIC
    wide.destination = 0x0700_0000
    #expect(
      extended.writeMSR(0x830, 0x0700_0000_0000_0000 | UInt64(low), at: t0)
        == .ipi(wide, shorthand))
    #expect(extended.readMSR(0x830, at: t0) == 0x0700_0000_0000_0000 | UInt64(low))
  }

  @Test func commandsThatSendNothing() {
    for low in [0x0000_8500, 0x0000_0341, 0x0000_0741] as [UInt32] {
      var apic = LocalAPIC.enabled()
      #expect(apic.put(0x300, low) == .none, "\(String(low, radix: 16))")
    }
  }

  @Test func selfIPIRegister() {
    var apic = LocalAPIC.extended(id: 0x500)
    #expect(
      apic.writeMSR(0x83F, 0x41, at: t0)
        == .ipi(
          InterruptMessage(destination: 0x500, width: .x2APIC, vector: 0x41), .itself))
    #expect(apic.writeMSR(0x83F, 0x141, at: t0) == nil)
    #expect(apic.readMSR(0x83F, at: t0) == nil)
    #expect(apic.writeMSR(0x83F, 0x0E, at: t0) == LocalAPICOutcome.none)
    _ = apic.writeMSR(0x828, 0, at: t0)
    #expect(apic.readMSR(0x828, at: t0) == UInt64(APICError.sendIllegalVector))
  }

  // MARK: - IA32_APIC_BASE

  static let page: UInt64 = 0xFEE0_0000

  /// From mode, EN and EXTD bits written, allowed (SDM 11.12.5, figure 11-27).
  @Test(arguments: [
    (APICMode.disabled, UInt64(0), true), (.disabled, 2, true), (.disabled, 3, false),
    (.disabled, 1, false),
    (.xAPIC, 0, true), (.xAPIC, 2, true), (.xAPIC, 3, true), (.xAPIC, 1, false),
    (.x2APIC, 0, true), (.x2APIC, 2, false), (.x2APIC, 3, true), (.x2APIC, 1, false),
  ])
  func modeTransition(from mode: APICMode, bits: UInt64, isAllowed: Bool) {
    var apic = mode == .x2APIC ? LocalAPIC.extended() : LocalAPIC.enabled()
    if mode == .disabled { _ = apic.writeMSR(0x1B, Self.page, at: t0) }
    #expect(apic.mode == mode)
    let before = apic
    let value = Self.page | bits << 10
    #expect((apic.writeMSR(0x1B, value, at: t0) != nil) == isAllowed)
    if isAllowed {
      #expect(apic.readMSR(0x1B, at: t0) == value)
    } else {
      #expect(apic == before)
    }
  }

  @Test func reservedBitsOfTheBaseFault() {
    var apic = LocalAPIC(initialID: 0, isBootstrap: true, physicalAddressBits: 40)
    for bit in [0, 7, 9, 40, 52, 63] as [UInt64] {
      #expect(apic.writeMSR(0x1B, Self.page | 0x900 | 1 << bit, at: t0) == nil, "bit \(bit)")
    }
    #expect(apic.writeMSR(0x1B, 0xFF_FFFF_F900, at: t0) != nil)
    var plain = LocalAPIC(initialID: 0, isBootstrap: true, features: [])
    #expect(plain.writeMSR(0x1B, Self.page | 0xC00, at: t0) == nil)
  }

  @Test func bootProcessorBitIsReported() {
    #expect(LocalAPIC(initialID: 0, isBootstrap: true).readMSR(0x1B, at: t0) == 0xFEE0_0900)
    #expect(LocalAPIC(initialID: 1, isBootstrap: false).readMSR(0x1B, at: t0) == 0xFEE0_0800)
  }

  @Test func disablingForgetsTheRegisters() {
    var apic = LocalAPIC.enabled()
    apic.put(0x80, 0x30)
    apic.fixed(0x99)
    _ = apic.writeMSR(0x1B, Self.page, at: t0)
    _ = apic.writeMSR(0x1B, Self.page | 0x800, at: t0)
    #expect(apic.get(0x80) == 0)
    #expect(apic.get(0xF0) == 0xFF)
    #expect(apic.irr.isEmpty)
  }

  @Test func enteringX2APICKeepsStateButNotTheCommandDestination() {
    var apic = LocalAPIC.enabled(id: 0x2345)
    apic.put(0x310, 0x0700_0000)
    apic.put(0x20, 0x1100_0000)
    apic.put(0x80, 0x20)
    apic.fixed(0x99)
    _ = apic.writeMSR(0x1B, Self.page | 0xC00, at: t0)
    #expect(apic.readMSR(0x802, at: t0) == 0x2345)
    #expect(apic.readMSR(0x80D, at: t0) == 0x0234_0020)
    #expect(apic.readMSR(0x830, at: t0).map { $0 >> 32 } == 0)
    #expect(apic.readMSR(0x808, at: t0) == 0x20)
    #expect(apic.irrVectors == [0x99])
    #expect(apic.get(0x30) == 0, "no register page in x2APIC mode")
  }

  // MARK: - MSRs

  /// MSR, readable, largest value that may be written (nil: a write faults) (SDM table 11-6).
  static let msrs: [(index: UInt32, readable: Bool, writable: UInt64?)] = [
    (0x802, true, nil), (0x803, true, nil), (0x808, true, 0xFF), (0x809, false, nil),
    (0x80A, true, nil), (0x80B, false, 0), (0x80C, false, nil), (0x80D, true, nil),
    (0x80E, false, nil), (0x80F, true, 0x3FF), (0x810, true, nil), (0x817, true, nil),
    (0x818, true, nil), (0x81F, true, nil), (0x820, true, nil), (0x827, true, nil),
    (0x828, true, 0), (0x829, false, nil), (0x82E, false, nil), (0x82F, true, 0x1_17FF),
    (0x830, true, 0xFFFF_FFFF_000C_DFFF), (0x831, false, nil), (0x832, true, 0x7_10FF),
    (0x833, true, 0x1_17FF), (0x834, true, 0x1_17FF), (0x835, true, 0x1_F7FF),
    (0x836, true, 0x1_F7FF), (0x837, true, 0x1_10FF), (0x838, true, 0xFFFF_FFFF),
    (0x839, true, nil), (0x83A, false, nil), (0x83D, false, nil), (0x83E, true, 0xB),
    (0x83F, false, 0xFF), (0x840, false, nil), (0x8FF, false, nil), (0x800, false, nil),
    (0x801, false, nil),
  ]

  @Test func msrsFaultWhereTheyShould() {
    for msr in Self.msrs {
      let name = String(msr.index, radix: 16)
      var apic = LocalAPIC.extended()
      #expect((apic.readMSR(msr.index, at: t0) != nil) == msr.readable, "read \(name)")
      guard let writable = msr.writable else {
        #expect(apic.writeMSR(msr.index, 0, at: t0) == nil, "write \(name)")
        continue
      }
      #expect(apic.writeMSR(msr.index, writable, at: t0) != nil, "write \(name)")
      for bit in 0..<64 where writable & 1 << UInt64(bit) == 0 {
        var other = LocalAPIC.extended()
        #expect(
          other.writeMSR(msr.index, 1 << UInt64(bit), at: t0) == nil, "write \(name) bit \(bit)")
      }
      var legacy = LocalAPIC.enabled()
      #expect(legacy.readMSR(msr.index, at: t0) == nil)
      #expect(legacy.writeMSR(msr.index, 0, at: t0) == nil)
    }
  }

  @Test func extendedRegistersShowTheSameStateAsThePage() {
    var apic = LocalAPIC.extended()
    apic.accept(InterruptMessage(destination: 0, width: .x2APIC, vector: 0x45, trigger: .level))
    #expect(apic.readMSR(0x822, at: t0) == 1 << 5)
    #expect(apic.readMSR(0x81A, at: t0) == 1 << 5)
    #expect(apic.acknowledge() == .vector(0x45))
    #expect(apic.readMSR(0x812, at: t0) == 1 << 5)
    #expect(apic.readMSR(0x80A, at: t0) == 0x40)
    #expect(apic.writeMSR(0x80B, 0, at: t0) == .endOfInterrupt(0x45))
  }

  // MARK: - Destination matching

  @Test func physicalAndBroadcastDestinations() {
    let legacy = LocalAPIC.enabled(id: 5).route
    let wide = LocalAPIC.extended(id: 0x105).route
    func match(_ route: APICRoute, _ id: UInt32, _ to: UInt32, _ width: DestinationWidth) -> Bool {
      route.matches(
        InterruptMessage(destination: to, width: width, vector: 0x40), initialID: id)
    }
    #expect(match(legacy, 5, 5, .xAPIC) && !match(legacy, 5, 4, .xAPIC))
    #expect(match(legacy, 5, 0xFF, .xAPIC) && match(wide, 0x105, 0xFF, .xAPIC))
    #expect(match(legacy, 5, 0xFFFF_FFFF, .x2APIC))
    #expect(match(wide, 0x105, 0x105, .x2APIC) && !match(wide, 0x105, 5, .xAPIC))
    #expect(!match(legacy, 5, 0xFF, .x2APIC), "not a broadcast in the wide form")
    // An application processor beyond 0xFF is still in xAPIC mode when it is started.
    let beyond = LocalAPIC(initialID: 0x1_0005, isBootstrap: false).route
    #expect(match(beyond, 0x1_0005, 0x1_0005, .x2APIC))
  }

  @Test(arguments: [
    // Destination format, logical ID, destination, matches.
    (UInt32(0xF), UInt32(0x04), UInt32(0x06), true), (0xF, 0x04, 0x03, false),
    (0xF, 0x00, 0xFE, false), (0xF, 0x00, 0xFF, true),
    (0x0, 0x24, 0x2C, true), (0x0, 0x24, 0x28, false), (0x0, 0x24, 0x14, false),
    (0x7, 0x04, 0x04, false),
  ])
  func logicalDestination(format: UInt32, logicalID: UInt32, destination: UInt32, hit: Bool) {
    var apic = LocalAPIC.enabled(id: 9)
    apic.put(0xE0, format << 28)
    apic.put(0xD0, logicalID << 24)
    let message = InterruptMessage(
      destination: destination, destinationMode: .logical, vector: 0x40)
    #expect(apic.route.matches(message, initialID: 9) == hit)
  }

  @Test func extendedLogicalDestinationIsClusterAndBit() {
    let apic = LocalAPIC.extended(id: 0x35)
    for (destination, hit) in [
      (UInt32(0x0003_0020), true), (0x0003_FFFF, true), (0x0003_0010, false), (0x0002_0020, false),
      (0xFFFF_FFFF, true),
    ] {
      let message = InterruptMessage(
        destination: destination, destinationMode: .logical, width: .x2APIC, vector: 0x40)
      #expect(apic.route.matches(message, initialID: 0x35) == hit, "\(destination)")
    }
  }

  @Test func disabledAPICMatchesNothing() {
    var apic = LocalAPIC.enabled(id: 2)
    _ = apic.writeMSR(0x1B, Self.page, at: t0)
    #expect(
      !apic.route.matches(InterruptMessage(destination: 0xFF, vector: 0x40), initialID: 2))
  }
}
