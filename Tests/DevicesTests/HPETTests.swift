import DeviceModel
import Devices
import Support
import Synchronization
import Testing

@Suite struct HPETTests {
  /// An HPET in place.
  struct Machine {
    let bench = TimerBench()
    let hpet: HPET
    let legacy = Log()

    final class Log: Sendable {
      let values = Mutex<[Bool]>([])
    }

    init(inputs: UInt32 = 0xFF_0104, hasMessages: Bool = false) throws {
      let legacy = legacy
      hpet = HPET(inputs: inputs, hasMessages: hasMessages) { value in
        legacy.values.withLock { $0.append(value) }
      }
      try hpet.realize(in: bench.context)
    }
    func get(_ offset: UInt64, _ width: Int = 8) -> UInt64 {
      bench.memory.read(HPET.address + offset, width: width, vcpu: VCPUID(0))
    }
    func put(_ offset: UInt64, _ value: UInt64, _ width: Int = 8) {
      bench.memory.write(HPET.address + offset, width: width, value, vcpu: VCPUID(0))
    }
    /// Time in counts of 10 ns.
    func advance(_ counts: Int64) { bench.clock.advance(by: counts * 10) }
  }

  @Test func registersHaveTheirResetValues() throws {
    let machine = try Machine()
    #expect(machine.get(0) == 10_000_000 << 32 | 0x8086_A201)
    #expect(machine.get(0, 4) == UInt64(HPET.blockID))
    #expect(machine.get(4, 4) == 10_000_000)
    for offset in [0x10, 0x20, 0xF0, 0x08, 0x160, 0x3F8] as [UInt64] {
      #expect(machine.get(offset) == 0)
    }
    for timer in 0..<3 as Range<UInt64> {
      #expect(machine.get(0x100 + timer * 0x20) == 0x00FF_0104_0000_0030)
      #expect(machine.get(0x108 + timer * 0x20) == UInt64.max)
      machine.put(0x100 + timer * 0x20, UInt64.max)
      #expect(machine.get(0x100 + timer * 0x20) == 0x00FF_0104_0000_3F7E)
    }
  }

  @Test func counterRunsOnlyWhenEnabled() throws {
    let machine = try Machine()
    machine.advance(100)
    #expect(machine.get(0xF0) == 0)
    machine.put(0xF0, 0xFFFF_FFFF)
    machine.put(0x10, 1)
    machine.advance(100)
    #expect(machine.get(0xF0) == 0x1_0000_0063)
    #expect(machine.get(0xF0, 4) == 0x63 && machine.get(0xF4, 4) == 1)
    machine.put(0xF0, 5)
    #expect(machine.get(0xF0) == 0x1_0000_0063, "a running counter cannot be written")
    machine.put(0x10, 0)
    machine.advance(100)
    #expect(machine.get(0xF0) == 0x1_0000_0063)
    machine.put(0xF4, 7, 4)
    #expect(machine.get(0xF0) == 0x7_0000_0063)
  }

  @Test func oneShotFiresOnce() throws {
    let machine = try Machine()
    machine.put(0x10, 1)
    machine.put(0x140, 18 << 9 | 4)
    machine.put(0x148, 1_000)
    machine.advance(999)
    #expect(machine.bench.lines[18].rises == 0)
    machine.advance(1)
    #expect(machine.bench.lines[18].rises == 1)
    machine.advance(1 << 33)
    #expect(machine.bench.lines[18].rises == 1)
    #expect(machine.bench.clock.nextDeadline == nil)
    // A comparator that was just missed fires at once.
    machine.put(0x148, machine.get(0xF0) - 1)
    #expect(machine.bench.lines[18].rises == 2)
  }

  @Test func periodicKeepsItsPhase() throws {
    let machine = try Machine()
    machine.put(0x100, 20 << 9 | 4 | 8 | 0x40)
    machine.put(0x108, 500_000)
    #expect(machine.get(0x100) & 0x40 == 0)
    machine.put(0x108, 100_000)
    #expect(machine.get(0x108) == 500_000)
    machine.put(0x10, 1)
    machine.advance(499_999)
    #expect(machine.bench.lines[20].rises == 0)
    machine.advance(1)
    #expect(machine.bench.lines[20].rises == 1)
    #expect(machine.get(0x108) == 600_000)
    machine.advance(1_000_000)
    #expect(machine.bench.lines[20].rises == 11)
  }

  @Test func absurdPeriodDoesNotBusyTheHost() throws {
    let machine = try Machine()
    machine.put(0x100, 20 << 9 | 4 | 8 | 0x40)
    machine.put(0x108, 1)
    machine.put(0x10, 1)
    machine.advance(1_000_000)
    #expect((100...250).contains(machine.bench.lines[20].rises))
    machine.put(0x108, 0)
    machine.advance(1_000_000)
  }

  @Test func thirtyTwoBitTimerComparesTheLowHalf() throws {
    let machine = try Machine()
    machine.put(0xF0, 0x5_FFFF_FF00)
    machine.put(0x120, 19 << 9 | 4 | 0x100)
    machine.put(0x128, 0x100)
    machine.put(0x10, 1)
    machine.advance(0x1FF)
    #expect(machine.bench.lines[19].rises == 0)
    machine.advance(1)
    #expect(machine.bench.lines[19].rises == 1)
    #expect(machine.get(0x128) == 0x100)
  }

  @Test func levelTriggeredHoldsItsLineUntilCleared() throws {
    let machine = try Machine()
    machine.put(0x140, 18 << 9 | 4 | 2)
    machine.put(0x148, 1_000)
    machine.put(0x10, 1)
    machine.advance(2_000)
    #expect(machine.bench.lines[18].level)
    #expect(machine.get(0x20) == 4)
    machine.put(0x20, 3)
    #expect(machine.bench.lines[18].level)
    machine.put(0x20, 4)
    #expect(!machine.bench.lines[18].level)
    #expect(machine.get(0x20) == 0)
  }

  @Test func disabledTimerOnlySetsItsStatus() throws {
    let machine = try Machine()
    machine.put(0x140, 18 << 9 | 2)
    machine.put(0x148, 1_000)
    machine.put(0x10, 1)
    machine.advance(2_000)
    #expect(machine.get(0x20) == 4)
    #expect(!machine.bench.lines[18].level)
    machine.put(0x140, 18 << 9 | 2 | 4)
    #expect(machine.bench.lines[18].level)
  }

  @Test func legacyReplacementTakesTheOldInterrupts() throws {
    let machine = try Machine()
    machine.put(0x100, 20 << 9 | 4)
    machine.put(0x120, 21 << 9 | 4)
    machine.put(0x108, 1_000)
    machine.put(0x128, 1_000)
    machine.put(0x10, 3)
    #expect(machine.legacy.values.withLock { $0 } == [true])
    machine.advance(1_000)
    #expect([0, 8, 20, 21].map { machine.bench.lines[$0].rises } == [1, 1, 0, 0])
    machine.put(0x10, 1)
    #expect(machine.legacy.values.withLock { $0 } == [true, false])
    machine.put(0x10, 3)
    machine.hpet.reset(.warm)
    #expect(machine.legacy.values.withLock { $0 } == [true, false, true, false])
    #expect(machine.get(0x10) == 0)
  }

  @Test func messagesGoToTheirAddress() throws {
    let machine = try Machine(hasMessages: true)
    #expect(machine.get(0x100) & 0x8000 != 0)
    machine.put(0x100, 4 | 0x4000)
    machine.put(0x110, 0xFEE0_1000_0000_0041)
    machine.put(0x108, 1_000)
    machine.put(0x10, 1)
    machine.advance(1_000)
    #expect(machine.bench.messages.withLock { $0 } == [[0xFEE0_1000, 0x41]])
    let plain = try Machine()
    plain.put(0x110, UInt64.max)
    #expect(plain.get(0x110) == 0)
  }

  @Test func counterSetBackLetsAOneShotFireAgain() throws {
    let machine = try Machine()
    machine.put(0x100, 20 << 9 | 4)
    machine.put(0x108, 1_000)
    machine.put(0x10, 1)
    machine.advance(2_000)
    machine.put(0x10, 0)
    machine.put(0x10, 1)
    machine.advance(100)
    #expect(machine.bench.lines[20].rises == 1)
    machine.put(0x10, 0)
    machine.put(0xF0, 0)
    machine.put(0x10, 1)
    machine.advance(1_000)
    #expect(machine.bench.lines[20].rises == 2)
  }

  @Test func anyAccessIsSurvived() throws {
    let machine = try Machine(hasMessages: true)
    var generator = SeededGenerator(seed: 23)
    for _ in 0..<20_000 {
      let word = generator.next()
      let offset = [0x10, 0x20, 0xF0, 0x100, 0x108, 0x110, 0x128, 0x148][Int(word & 7)] as UInt64
      machine.put(
        offset + (word >> 8 & 7), generator.next() >> (word >> 16 & 63),
        [1, 2, 4, 8][Int(word >> 4 & 3)])
      _ = machine.get(word >> 24 & 0x3FF, [1, 2, 4, 8][Int(word >> 6 & 3)])
      if word & 1 << 40 != 0 { machine.advance(Int64(word >> 44)) }
    }
  }
}
