import DistIRQ
import Testing

@Suite struct LocalAPICTimerTests {
  @Test(arguments: [
    (UInt32(0x0), UInt64(2)), (0x1, 4), (0x2, 8), (0x3, 16), (0x8, 32), (0x9, 64), (0xA, 128),
    (0xB, 1),
  ])
  func dividerFollowsItsRegister(code: UInt32, divider: UInt64) {
    var apic = LocalAPIC.enabled()
    apic.put(0x3E0, code)
    apic.put(0x320, 0x40)
    apic.put(0x380, 1_000, at(5))
    #expect(apic.timer.divider == divider)
    #expect(apic.nextDeadline == .nanoseconds(5 + 1_000 * divider))
    #expect(apic.get(0x390, at(5 + 10 * divider)) == 990)
  }

  @Test func oneShotFiresOnceAtZero() {
    var apic = LocalAPIC.enabled()
    apic.put(0x3E0, 0xB)
    apic.put(0x320, 0x40)
    apic.put(0x380, 500, at(100))
    #expect(apic.advance(to: at(599)) == false)
    #expect(apic.get(0x390, at(599)) == 1)
    #expect(apic.advance(to: at(600)) == true)
    #expect(apic.irrVectors == [0x40])
    #expect(apic.nextDeadline == .none)
    #expect(apic.get(0x390, at(700)) == 0)
    #expect(apic.get(0x380) == 500)
    #expect(apic.advance(to: at(10_000)) == false)
  }

  @Test func periodicReloads() {
    var apic = LocalAPIC.enabled()
    apic.put(0x3E0, 0xB)
    apic.put(0x320, 0x2_0040)
    apic.put(0x380, 1_000_000, at(0))
    #expect(apic.nextDeadline == .nanoseconds(1_000_000))
    #expect(apic.advance(to: at(1_000_100)) == true)
    #expect(apic.nextDeadline == .nanoseconds(2_000_000))
    #expect(apic.get(0x390, at(1_250_000)) == 750_000)
    // Late by several periods: one interrupt, and no drift.
    #expect(apic.advance(to: at(5_500_000)) == true)
    #expect(apic.nextDeadline == .nanoseconds(6_000_000))
  }

  @Test func absurdlyShortPeriodDoesNotBusyTheHost() {
    var apic = LocalAPIC.enabled()
    apic.put(0x3E0, 0xB)
    apic.put(0x320, 0x2_0040)
    apic.put(0x380, 1, at(0))
    apic.advance(to: at(1))
    guard case .nanoseconds(let next) = apic.nextDeadline else {
      Issue.record("no deadline")
      return
    }
    #expect(next >= APICTimer.minimumPeriodNanoseconds)
  }

  @Test func zeroStopsTheTimer() {
    var apic = LocalAPIC.enabled()
    apic.put(0x320, 0x2_0040)
    apic.put(0x380, 1_000, at(0))
    apic.put(0x380, 0, at(10))
    #expect(apic.nextDeadline == .none)
    #expect(apic.get(0x390, at(20)) == 0)
  }

  @Test func maskedTimerCountsWithoutInterrupts() {
    var apic = LocalAPIC.enabled()
    apic.put(0x3E0, 0xB)
    apic.put(0x320, 0x1_0040)
    apic.put(0x380, 1_000, at(0))
    #expect(apic.nextDeadline == .none)
    #expect(apic.get(0x390, at(400)) == 600)
    apic.put(0x320, 0x40, at(400))
    #expect(apic.nextDeadline == .nanoseconds(1_000))
    // An expiry that was masked does not fire late.
    var other = LocalAPIC.enabled()
    other.put(0x3E0, 0xB)
    other.put(0x320, 0x1_0040)
    other.put(0x380, 1_000, at(0))
    other.put(0x320, 0x40, at(2_000))
    #expect(other.irr.isEmpty)
    #expect(other.nextDeadline == .none)
  }

  @Test func newDividerAppliesToTheRest() {
    var apic = LocalAPIC.enabled()
    apic.put(0x3E0, 0xB)
    apic.put(0x320, 0x40)
    apic.put(0x380, 1_000, at(0))
    apic.put(0x3E0, 0x0, at(400))
    #expect(apic.get(0x390, at(400)) == 600)
    #expect(apic.nextDeadline == .nanoseconds(1_600))
  }

  // MARK: - TSC deadline

  static func deadlineMode() -> LocalAPIC {
    var apic = LocalAPIC.enabled()
    apic.put(0x320, 0x4_0040)
    return apic
  }

  @Test func tscDeadlineFiresWhenTheCounterPasses() {
    var apic = Self.deadlineMode()
    #expect(apic.writeMSR(0x6E0, 5_000, at: at(0, tsc: 1_000)) != nil)
    #expect(apic.nextDeadline == .tsc(5_000))
    #expect(apic.readMSR(0x6E0, at: t0) == 5_000)
    #expect(apic.advance(to: at(1 << 40, tsc: 4_999)) == false)
    #expect(apic.advance(to: at(0, tsc: 5_000)) == true)
    #expect(apic.irrVectors == [0x40])
    #expect(apic.readMSR(0x6E0, at: t0) == 0)
    #expect(apic.nextDeadline == .none)
  }

  @Test func tscDeadlineInThePastFiresAtOnce() {
    var apic = Self.deadlineMode()
    _ = apic.writeMSR(0x6E0, 10, at: at(0, tsc: 11))
    #expect(apic.irrVectors == [0x40])
  }

  @Test func zeroDisarmsTheDeadline() {
    var apic = Self.deadlineMode()
    _ = apic.writeMSR(0x6E0, 5_000, at: t0)
    _ = apic.writeMSR(0x6E0, 0, at: t0)
    #expect(apic.nextDeadline == .none)
  }

  @Test func deadlineIsIgnoredInOtherModesAndTheCountInThisOne() {
    var apic = LocalAPIC.enabled()
    apic.put(0x320, 0x40)
    _ = apic.writeMSR(0x6E0, 5_000, at: t0)
    #expect(apic.readMSR(0x6E0, at: t0) == 0)
    var deadline = Self.deadlineMode()
    deadline.put(0x380, 1_000)
    #expect(deadline.get(0x380) == 0 && deadline.get(0x390) == 0)
  }

  @Test func changingTheModeDisarms() {
    var apic = Self.deadlineMode()
    _ = apic.writeMSR(0x6E0, 5_000, at: t0)
    apic.put(0x320, 0x40)
    #expect(apic.nextDeadline == .none)
    #expect(apic.readMSR(0x6E0, at: t0) == 0)
    apic.put(0x380, 1_000)
    apic.put(0x320, 0x4_0040)
    #expect(apic.nextDeadline == .none)
  }

  @Test func deadlineRegisterNeedsTheFeature() {
    var apic = LocalAPIC.enabled(features: [.x2APIC])
    #expect(apic.readMSR(0x6E0, at: t0) == nil)
    #expect(apic.writeMSR(0x6E0, 1, at: t0) == nil)
    apic.put(0x320, 0x4_0040)
    #expect(apic.get(0x320) == 0x40)
  }
}
