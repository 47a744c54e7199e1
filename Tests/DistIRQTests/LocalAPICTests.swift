import DistIRQ
import Testing

@Suite struct LocalAPICTests {
  // MARK: - Registers

  /// Offset, value after power-on, bits that a guest can set while the APIC is enabled (SDM table 11-1).
  static let registers: [(offset: UInt32, reset: UInt32, writable: UInt32)] = [
    (0x020, 0x0500_0000, 0xFF00_0000), (0x030, 0x0105_0014, 0), (0x080, 0, 0xFF),
    (0x0B0, 0, 0), (0x0C0, 0, 0), (0x0D0, 0, 0xFF00_0000),
    (0x0E0, 0xFFFF_FFFF, 0xF000_0000), (0x0F0, 0xFF, 0x13FF), (0x100, 0, 0), (0x170, 0, 0),
    (0x180, 0, 0), (0x1F0, 0, 0), (0x200, 0, 0), (0x270, 0, 0), (0x280, 0, 0),
    (0x310, 0, 0xFF00_0000), (0x320, 0x1_0000, 0x7_00FF), (0x330, 0x1_0000, 0x1_07FF),
    (0x340, 0x1_0000, 0x1_07FF), (0x350, 0x1_0000, 0x1_A7FF), (0x360, 0x1_0000, 0x1_A7FF),
    (0x370, 0x1_0000, 0x1_00FF), (0x380, 0, 0xFFFF_FFFF), (0x390, 0, 0), (0x3E0, 0, 0xB),
  ]

  @Test func registersHaveTheirResetValues() {
    var apic = LocalAPIC(
      initialID: 5, isBootstrap: false,
      features: [.x2APIC, .tscDeadline, .eoiBroadcastSuppression])
    for register in Self.registers {
      #expect(
        apic.get(register.offset) == register.reset, "\(String(register.offset, radix: 16))")
    }
  }

  @Test func onlyDefinedBitsCanBeWritten() {
    for register in Self.registers where register.offset != 0x0F0 {
      // The timer's mode 3 and count are covered by the timer's tests.
      let value: UInt32 = register.offset == 0x320 ? 0xFFFD_FFFF : 0xFFFF_FFFF
      var apic = LocalAPIC.enabled(id: 5, isBootstrap: false)
      apic.put(register.offset, value)
      let constant: UInt32 =
        register.offset == 0x0E0 ? 0x0FFF_FFFF : register.writable == 0 ? register.reset : 0
      #expect(
        apic.get(register.offset) == value & register.writable | constant,
        "\(String(register.offset, radix: 16))")
    }
  }

  @Test func narrowAndMisalignedWritesAreIgnored() {
    var apic = LocalAPIC.enabled()
    _ = apic.write(offset: 0x80, width: 1, 0x20, at: t0)
    _ = apic.write(offset: 0x80, width: 2, 0x20, at: t0)
    _ = apic.write(offset: 0x84, width: 4, 0x20, at: t0)
    #expect(apic.tpr == 0)
  }

  @Test func narrowReadsGiveTheirBytes() {
    var apic = LocalAPIC.enabled()
    #expect(apic.read(offset: 0x30, width: 1, at: t0) == 0x14)
    #expect(apic.read(offset: 0x32, width: 1, at: t0) == 0x05)
    #expect(apic.read(offset: 0x32, width: 2, at: t0) == 0x0105)
    #expect(apic.read(offset: 0x34, width: 4, at: t0) == 0)
    #expect(apic.read(offset: 0x30, width: 8, at: t0) == 0x0105_0014)
  }

  @Test func corrrectedMachineCheckVectorExistsOnlyWhenPromised() {
    var without = LocalAPIC.enabled()
    #expect(without.get(0x2F0) == 0)
    without.put(0x280, 0)
    #expect(without.get(0x280) == UInt32(APICError.illegalRegister))
    var with = LocalAPIC.enabled(features: [.cmci])
    with.put(0x2F0, 0x41)
    #expect(with.get(0x2F0) == 0x41)
    #expect(with.get(0x30) >> 16 & 0xFF == 6)
  }

  @Test func bootProcessorsLINT0IsOpenToThePICAfterReset() {
    var apic = LocalAPIC(initialID: 0, isBootstrap: true)
    #expect(apic.get(0x350) == 0x700)
    apic.setLINT0(true)
    #expect(apic.externalInterruptPending)
    #expect(apic.acknowledge() == .external)
    apic.setLINT0(false)
    #expect(!apic.externalInterruptPending)
  }

  @Test func softwareDisableMasksTheLocalVectorsAndRefusesInterrupts() {
    var apic = LocalAPIC.enabled()
    apic.put(0x370, 0x55)
    apic.put(0xF0, 0xFF)
    #expect(apic.get(0x370) == 0x1_0055)
    apic.put(0x370, 0x56)
    #expect(apic.get(0x370) == 0x1_0056)
    apic.fixed(0x40)
    #expect(apic.irr.isEmpty)
    #expect(apic.accept(InterruptMessage(destination: 0, deliveryMode: .nmi, vector: 0)) == true)
    #expect(apic.events == .nmi)
  }

  @Test func whatWasPendingIsHeldWhileDisabledBySoftware() {
    var apic = LocalAPIC.enabled()
    apic.fixed(0x40)
    apic.put(0xF0, 0xFF)
    #expect(apic.deliverableVector == nil)
    apic.put(0xF0, 0x1FF)
    #expect(apic.deliverableVector == 0x40)
  }

  // MARK: - Priorities

  @Test func taskPriorityHoldsBackItsClassAndBelow() {
    var apic = LocalAPIC.enabled()
    apic.fixed(0x4F)
    for tpr in 0...0xFF {
      apic.put(0x80, UInt32(tpr))
      #expect((apic.deliverableVector != nil) == (tpr >> 4 < 4))
      #expect(apic.cr8 == UInt8(tpr >> 4))
    }
    apic.cr8 = 3
    #expect(apic.get(0x80) == 0x30)
  }

  @Test func processorPriorityIsTheHigherOfTaskAndService() {
    var apic = LocalAPIC.enabled()
    apic.fixed(0x62)
    #expect(apic.acknowledge() == .vector(0x62))
    #expect(apic.get(0xA0) == 0x60)
    apic.put(0x80, 0x65)
    #expect(apic.get(0xA0) == 0x65)
    apic.put(0x80, 0x5F)
    #expect(apic.get(0xA0) == 0x60)
    apic.fixed(0x6F)
    #expect(apic.deliverableVector == nil)
    apic.fixed(0x70)
    #expect(apic.acknowledge() == .vector(0x70))
    #expect(apic.isrVectors == [0x62, 0x70])
  }

  @Test func edgeWhileInServiceIsKeptOnce() {
    var apic = LocalAPIC.enabled()
    apic.fixed(0x40)
    #expect(apic.acknowledge() == .vector(0x40))
    apic.fixed(0x40)
    apic.fixed(0x40)
    #expect(apic.deliverableVector == nil)
    #expect(apic.put(0xB0, 0) == .none)
    #expect(apic.acknowledge() == .vector(0x40))
    apic.put(0xB0, 0)
    #expect(apic.deliverableVector == nil && apic.isr.isEmpty)
  }

  @Test func acknowledgeWithoutADeliverableVectorIsSpurious() {
    var apic = LocalAPIC.enabled()
    apic.put(0xF0, 0x1EF)
    apic.fixed(0x40)
    apic.put(0x80, 0x50)
    #expect(apic.acknowledge() == .vector(0xEF))
    #expect(apic.isr.isEmpty)
    #expect(apic.irrVectors == [0x40])
  }

  /// The SDM's rules once more, over plain sets and without thought of speed.
  struct NaiveAPIC {
    var irr = Set<UInt8>()
    var isr = Set<UInt8>()
    var tmr = Set<UInt8>()
    var tpr: UInt8 = 0

    var next: UInt8? {
      let inService = isr.map { $0 / 16 }.max() ?? 0
      let threshold = max(tpr / 16, inService)
      return irr.filter { $0 / 16 > threshold }.max()
    }
    mutating func acknowledge() -> UInt8? {
      guard let vector = next else { return nil }
      irr.remove(vector)
      isr.insert(vector)
      return vector
    }
    mutating func end() -> UInt8? {
      guard let vector = isr.max() else { return nil }
      isr.remove(vector)
      return tmr.contains(vector) ? vector : nil
    }
  }

  @Test(arguments: 1...8) func agreesWithANaiveModelOnRandomTraffic(seed: Int) {
    var generator = SeededWords(seed: UInt64(seed))
    var apic = LocalAPIC.enabled()
    var naive = NaiveAPIC()
    for step in 0..<4_000 {
      switch Int.random(in: 0..<8, using: &generator) {
      case 0...2:
        let vector = UInt8.random(in: 16...255, using: &generator)
        let trigger: TriggerMode = Bool.random(using: &generator) ? .level : .edge
        apic.fixed(vector, trigger)
        naive.irr.insert(vector)
        if trigger == .level { naive.tmr.insert(vector) } else { naive.tmr.remove(vector) }
      case 3:
        let tpr = UInt8.random(in: 0...255, using: &generator)
        apic.put(0x80, UInt32(tpr))
        naive.tpr = tpr
      case 4, 5:
        let expected = naive.acknowledge()
        #expect(apic.acknowledge() == .vector(expected ?? 0xFF), "seed \(seed) step \(step)")
      default:
        let expected = naive.end()
        let outcome = apic.put(0xB0, 0)
        #expect(
          outcome == (expected.map { .endOfInterrupt($0) } ?? .none), "seed \(seed) step \(step)")
      }
      #expect(apic.deliverableVector == naive.next, "seed \(seed) step \(step)")
    }
    #expect(Set(apic.irrVectors) == naive.irr)
    #expect(Set(apic.isrVectors) == naive.isr)
  }

  // MARK: - End of interrupt

  @Test func endOfALevelInterruptIsBroadcastUnlessSuppressed() {
    var apic = LocalAPIC.enabled()
    apic.fixed(0x40, .level)
    _ = apic.acknowledge()
    #expect(apic.put(0xB0, 0) == .endOfInterrupt(0x40))
    apic.put(0xF0, 0x11FF)
    apic.fixed(0x40, .level)
    _ = apic.acknowledge()
    #expect(apic.put(0xB0, 0) == .none)
    #expect(apic.isr.isEmpty)
  }

  @Test func endWithoutAnInterruptDoesNothing() {
    var apic = LocalAPIC.enabled()
    let before = apic
    #expect(apic.put(0xB0, 0) == .none)
    #expect(apic == before)
  }

  @Test func triggerModeRegisterFollowsTheMessage() {
    var apic = LocalAPIC.enabled()
    apic.fixed(0x45, .level)
    #expect(apic.get(0x180 + 0x20) == 1 << 5)
    apic.fixed(0x45, .edge)
    #expect(apic.get(0x180 + 0x20) == 0)
  }

  // MARK: - Errors

  @Test func illegalReceivedVectorIsLoggedAndReportedOnce() {
    var apic = LocalAPIC.enabled()
    apic.put(0x370, 0xFE)
    apic.fixed(0x0F)
    #expect(apic.irrVectors == [0xFE])
    #expect(apic.get(0x280) == 0)
    apic.put(0x280, 0)
    #expect(apic.get(0x280) == UInt32(APICError.receiveIllegalVector))
    _ = apic.acknowledge()
    apic.put(0xB0, 0)
    apic.fixed(0x01)
    apic.fixed(0x02)
    #expect(apic.irrVectors == [0xFE])
    apic.put(0x280, 0)
    apic.put(0x280, 0)
    #expect(apic.get(0x280) == 0)
  }

  @Test func illegalSentVectorIsLoggedAndNotSent() {
    var apic = LocalAPIC.enabled()
    #expect(apic.put(0x300, 0x0F) == .none)
    apic.put(0x280, 0)
    #expect(apic.get(0x280) == UInt32(APICError.sendIllegalVector))
  }

  @Test func accessToAMissingRegisterIsLogged() {
    for offset in [0x000, 0x010, 0x040, 0x290, 0x3A0, 0x3F0, 0x400, 0xFF0] as [UInt32] {
      var apic = LocalAPIC.enabled()
      _ = apic.get(offset)
      apic.put(0x280, 0)
      #expect(apic.get(0x280) == UInt32(APICError.illegalRegister), "\(offset)")
      apic.put(offset, 1)
      apic.put(0x280, 0)
      #expect(apic.get(0x280) == UInt32(APICError.illegalRegister), "\(offset)")
    }
  }

  @Test func errorInterruptWithAnIllegalVectorDoesNotRecurse() {
    var apic = LocalAPIC.enabled()
    apic.put(0x370, 0x03)
    apic.fixed(0x01)
    #expect(apic.irr.isEmpty)
    apic.put(0x280, 0)
    #expect(apic.get(0x280) == UInt32(APICError.receiveIllegalVector))
  }

  // MARK: - Reset, INIT, start-up

  @Test func initResetsRegistersAndKeepsIdentity() {
    var apic = LocalAPIC.enabled(id: 3, isBootstrap: false)
    apic.put(0x20, 0x0900_0000)
    apic.put(0xD0, 0x0800_0000)
    apic.put(0x80, 0x30)
    apic.fixed(0x50)
    _ = apic.writeMSR(0x1B, 0xFEC8_0800, at: t0)
    apic.accept(InterruptMessage(destination: 9, deliveryMode: .initialize, vector: 0))
    #expect(apic.events == .initialize)
    #expect(apic.takeEvents() == .initialize)
    #expect(apic.get(0x20) == 0x0900_0000)
    #expect(apic.base.pageAddress == 0xFEC8_0000)
    #expect(apic.get(0x80) == 0 && apic.get(0xD0) == 0 && apic.get(0xF0) == 0xFF)
    #expect(apic.irr.isEmpty)
    #expect(apic.isWaitingForStartUp)
  }

  @Test func initKeepsX2APICMode() {
    var apic = LocalAPIC.extended(id: 0x123)
    apic.accept(
      InterruptMessage(
        destination: 0x123, width: .x2APIC, deliveryMode: .initialize, vector: 0))
    _ = apic.takeEvents()
    #expect(apic.mode == .x2APIC)
    #expect(apic.readMSR(0x802, at: t0) == 0x123)
    #expect(apic.readMSR(0x80F, at: t0) == 0xFF)
    apic.reset()
    #expect(apic.mode == .xAPIC)
  }

  @Test func startUpIsTakenOnceAndOnlyAfterINIT() {
    let initialize = InterruptMessage(destination: 1, deliveryMode: .initialize, vector: 0)
    let start = InterruptMessage(destination: 1, deliveryMode: .startUp, vector: 0x9A)
    var apic = LocalAPIC.enabled(id: 1, isBootstrap: false)
    #expect(apic.isWaitingForStartUp)
    #expect(apic.accept(start) == true)
    #expect(apic.accept(start) == false)
    #expect(apic.takeEvents() == .startUp)
    #expect(apic.startUpVector == 0x9A)
    #expect(apic.accept(start) == false)
    apic.accept(initialize)
    #expect(apic.accept(start) == true)
    #expect(apic.takeEvents() == [.initialize, .startUp])
  }

  @Test func bootProcessorDoesNotWaitAfterINIT() {
    var apic = LocalAPIC.enabled()
    apic.accept(InterruptMessage(destination: 0, deliveryMode: .initialize, vector: 0))
    #expect(!apic.isWaitingForStartUp)
    #expect(
      apic.accept(InterruptMessage(destination: 0, deliveryMode: .startUp, vector: 1)) == false)
    #expect(apic.takeEvents() == .initialize)
  }

  @Test func initDropsPendingEventsAndInterruptsUntilTaken() {
    var apic = LocalAPIC.enabled(id: 1, isBootstrap: false)
    apic.accept(InterruptMessage(destination: 1, deliveryMode: .nmi, vector: 0))
    apic.accept(InterruptMessage(destination: 1, deliveryMode: .smi, vector: 0))
    #expect(apic.events == [.nmi, .smi])
    apic.accept(InterruptMessage(destination: 1, deliveryMode: .initialize, vector: 0))
    apic.fixed(0x40)
    #expect(apic.takeEvents() == .initialize)
    #expect(apic.irr.isEmpty)
  }

  @Test func resetKeepsThePinLevels() {
    var apic = LocalAPIC.enabled()
    apic.setLINT0(true)
    apic.put(0x350, 0x1_0000)
    #expect(!apic.externalInterruptPending)
    apic.reset()
    #expect(apic.externalInterruptPending)
    #expect(apic.get(0xF0) == 0xFF)
  }

  // MARK: - Pins and local sources

  @Test func localVectorDeliveryModes() {
    let cases: [(mode: UInt32, event: LocalAPIC.Events, irr: [UInt8])] = [
      (0, [], [0x44]), (2, .smi, []), (4, .nmi, []), (5, .initialize, []), (1, [], []), (3, [], []),
      (6, [], []),
    ]
    for test in cases {
      var apic = LocalAPIC.enabled()
      apic.put(0x360, test.mode << 8 | 0x44)
      apic.setLINT1(true)
      #expect(apic.events == test.event, "mode \(test.mode)")
      #expect(apic.irrVectors == test.irr, "mode \(test.mode)")
      apic.setLINT1(true)
      apic.put(0x330, test.mode << 8 | 0x44)
      var other = apic
      other.raise(.thermal)
      #expect(other.irrVectors == test.irr)
    }
  }

  @Test func levelTriggeredPinFollowsEndOfInterrupt() {
    var apic = LocalAPIC.enabled()
    apic.put(0x350, 0x8050)
    apic.setLINT0(true)
    #expect(apic.get(0x350) == 0xC050)
    #expect(apic.acknowledge() == .vector(0x50))
    apic.put(0xB0, 0)
    #expect(apic.irrVectors == [0x50])
    _ = apic.acknowledge()
    apic.setLINT0(false)
    apic.put(0xB0, 0)
    #expect(apic.irr.isEmpty)
    #expect(apic.get(0x350) == 0x8050)
  }

  @Test func counterOverflowMasksItsEntry() {
    var apic = LocalAPIC.enabled()
    apic.put(0x340, 0x400)
    apic.raise(.performance)
    #expect(apic.takeEvents() == .nmi)
    #expect(apic.get(0x340) == 0x1_0400)
    apic.raise(.performance)
    #expect(apic.events.isEmpty)
  }

  @Test func withoutAnAPICThePinsAreTheCores() {
    var apic = LocalAPIC.enabled()
    _ = apic.writeMSR(0x1B, 0, at: t0)
    apic.setLINT0(true)
    #expect(apic.acknowledge() == .external)
    apic.setLINT1(true)
    #expect(apic.takeEvents() == .nmi)
    #expect(apic.accept(InterruptMessage(destination: 0, deliveryMode: .nmi, vector: 0)) == false)
    #expect(apic.get(0x30) == 0)
  }

  @Test func externalMessageAsksThePICOnce() {
    var apic = LocalAPIC.enabled()
    apic.accept(InterruptMessage(destination: 0, deliveryMode: .external, vector: 0))
    #expect(apic.externalInterruptPending)
    #expect(apic.acknowledge() == .external)
    #expect(!apic.externalInterruptPending)
  }

  @Test func anyAccessByTheGuestIsSurvived() {
    var generator = SeededWords(seed: 99)
    var apic = LocalAPIC.enabled(id: 0xFFFF_FFFF)
    for step in 0..<60_000 {
      let time = at(generator.next(), tsc: generator.next())
      let value = generator.next() >> UInt64.random(in: 0...63, using: &generator)
      switch Int.random(in: 0..<6, using: &generator) {
      case 0:
        _ = apic.read(
          offset: UInt32.random(in: 0...0xFFF, using: &generator),
          width: [1, 2, 4, 8][step & 3], at: time)
      case 1:
        _ = apic.write(
          offset: UInt32.random(in: 0...0xFF, using: &generator) << 4, width: 4, value, at: time)
      case 2:
        _ = apic.writeMSR(
          UInt32.random(in: 0x800...0x840, using: &generator), value, at: time)
        _ = apic.readMSR(UInt32.random(in: 0x7FF...0x900, using: &generator), at: time)
      case 3:
        let modes: [UInt64] = [0, 0x800, 0xC00, 0x400]
        _ = apic.writeMSR(0x1B, 0xFEE0_0000 | modes[step & 3], at: time)
        _ = apic.writeMSR(0x6E0, value, at: time)
      case 4:
        apic.advance(to: time)
        _ = apic.acknowledge()
      default:
        apic.fixed(UInt8(truncatingIfNeeded: value))
        _ = apic.takeEvents()
      }
      _ = apic.nextDeadline
    }
  }
}
