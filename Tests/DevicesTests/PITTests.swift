import DeviceModel
import Devices
import Support
import Testing

@Suite struct PITTests {
  /// Control word and a two-byte count for a counter of a model.
  static func program(
    _ pit: inout PITModel, _ counter: UInt8, mode: UInt8, _ count: UInt16, at now: UInt64 = 0
  ) {
    pit.write(3, counter << 6 | 0x30 | mode << 1, at: now)
    pit.write(counter, UInt8(count & 0xFF), at: now)
    pit.write(counter, UInt8(count >> 8), at: now)
  }
  static func read(_ pit: inout PITModel, _ counter: UInt8, at now: UInt64) -> UInt16 {
    pit.advance(to: now)
    let low = pit.read(counter, at: now)
    return UInt16(low) | UInt16(pit.read(counter, at: now)) << 8
  }
  /// OUT of counter 0 at each clock.
  static func wave(_ pit: PITModel, _ clocks: Range<UInt64>) -> String {
    var pit = pit
    return String(
      clocks.map { clock -> Character in
        pit.advance(to: clock)
        return pit.counter0.out(at: clock) ? "H" : "L"
      })
  }

  @Test func outputFollowsTheModesDiagrams() {
    var pit = PITModel()
    Self.program(&pit, 0, mode: 0, 4)
    #expect(Self.wave(pit, 0..<8) == "LLLLHHHH")
    Self.program(&pit, 0, mode: 2, 4)
    #expect(Self.wave(pit, 0..<9) == "HHHLHHHLH")
    Self.program(&pit, 0, mode: 3, 4)
    #expect(Self.wave(pit, 0..<9) == "HHLLHHLLH")
    Self.program(&pit, 0, mode: 3, 5)
    #expect(Self.wave(pit, 0..<11) == "HHHLLHHHLLH")
    Self.program(&pit, 0, mode: 4, 3)
    #expect(Self.wave(pit, 0..<6) == "HHHLHH")
    // Without a trigger the triggered modes wait.
    Self.program(&pit, 0, mode: 1, 3)
    #expect(Self.wave(pit, 0..<6) == "HHHHHH")
    Self.program(&pit, 0, mode: 6, 4)
    #expect(pit.counter0.mode == 2)
  }

  @Test func gateTriggersTheTriggeredModes() {
    for mode in [UInt8(1), 5] {
      var pit = PITModel()
      Self.program(&pit, 2, mode: mode, 3)
      #expect(pit.counter2.out(at: 5))
      pit.writePort61(1, at: 10)
      let wave = String((10..<16).map { pit.counter2.out(at: $0) ? "H" as Character : "L" })
      #expect(wave == (mode == 1 ? "LLLHHH" : "HHHLHH"))
      #expect(pit.counter2.nextRise(after: 10) == (mode == 1 ? 13 : 14))
      pit.writePort61(0, at: 16)
      pit.writePort61(1, at: 20)
      #expect(pit.counter2.out(at: 22) == (mode == 5))
    }
  }

  @Test func gateHoldsAndReloads() {
    // Mode 0: the gate stops the count and lets it go on.
    var pit = PITModel()
    pit.writePort61(1, at: 0)
    Self.program(&pit, 2, mode: 0, 100)
    pit.writePort61(0, at: 40)
    #expect(Self.read(&pit, 2, at: 1_000) == 60)
    pit.writePort61(1, at: 2_000)
    #expect(!pit.counter2.out(at: 2_059) && pit.counter2.out(at: 2_060))
    // Mode 3: low gate forces OUT high, its rise begins a new period.
    Self.program(&pit, 2, mode: 3, 10, at: 3_000)
    #expect(!pit.counter2.out(at: 3_007))
    pit.writePort61(0, at: 3_007)
    #expect(pit.counter2.out(at: 3_008))
    #expect(pit.counter2.nextRise(after: 3_008) == nil)
    pit.writePort61(1, at: 3_100)
    #expect(pit.counter2.out(at: 3_104) && !pit.counter2.out(at: 3_105))
  }

  @Test func countsDownAsTheModeSays() {
    var pit = PITModel()
    Self.program(&pit, 0, mode: 2, 1_000)
    #expect(Self.read(&pit, 0, at: 0) == 1_000)
    #expect(Self.read(&pit, 0, at: 999) == 1)
    #expect(Self.read(&pit, 0, at: 1_000) == 1_000)
    Self.program(&pit, 0, mode: 3, 1_000)
    #expect(Self.read(&pit, 0, at: 499) == 2)
    #expect(Self.read(&pit, 0, at: 500) == 1_000)
    Self.program(&pit, 0, mode: 0, 10)
    #expect(Self.read(&pit, 0, at: 10) == 0)
    #expect(Self.read(&pit, 0, at: 11) == 0xFFFF)
    Self.program(&pit, 0, mode: 2, 0)
    #expect(Self.read(&pit, 0, at: 1) == 0xFFFF)
  }

  @Test func decimalCounts() {
    var pit = PITModel()
    pit.write(3, 0x31 | 2 << 1, at: 0)
    pit.write(0, 0x34, at: 0)
    pit.write(0, 0x12, at: 0)
    #expect(pit.counter0.reload == 1_234)
    #expect(Self.read(&pit, 0, at: 34) == 0x1200)
    pit.write(3, 0x31, at: 0)
    pit.write(0, 0, at: 0)
    pit.write(0, 0, at: 0)
    #expect(pit.counter0.reload == 10_000)
    #expect(Self.read(&pit, 0, at: 10_001) == 0x9999)
  }

  @Test func latchesKeepTheirValue() {
    var pit = PITModel()
    Self.program(&pit, 0, mode: 2, 1_000)
    pit.write(3, 0x00, at: 100)
    pit.write(3, 0x00, at: 200)
    #expect(Self.read(&pit, 0, at: 300) == 900)
    #expect(Self.read(&pit, 0, at: 300) == 700)
    // Read-back of status and count of counter 0: status first.
    pit.write(3, 0xC2, at: 400)
    #expect(pit.read(0, at: 450) == 0x80 | 0x30 | 2 << 1)
    #expect(Self.read(&pit, 0, at: 450) == 600)
    pit.write(3, 0xEE, at: 500)
    #expect(pit.read(2, at: 500) & 0x40 != 0, "counter 2 was never loaded")
  }

  @Test func singleByteAccess() {
    var pit = PITModel()
    pit.write(3, 0x14, at: 0)
    pit.write(0, 0x80, at: 0)
    #expect(pit.counter0.reload == 0x80)
    #expect(pit.read(0, at: 1) == 0x7F)
    pit.write(3, 0x24, at: 0)
    pit.write(0, 0x02, at: 0)
    #expect(pit.counter0.reload == 0x200)
    #expect(pit.read(0, at: 0) == 2)
  }

  @Test func newPeriodBeginsWhenTheOldIsOver() {
    var pit = PITModel()
    Self.program(&pit, 0, mode: 2, 1_000)
    pit.advance(to: 300)
    pit.write(0, 100, at: 300)
    pit.write(0, 0, at: 300)
    #expect(pit.counter0.nextRise(after: 300) == 1_000)
    pit.advance(to: 1_000)
    #expect(pit.counter0.nextRise(after: 1_000) == 1_100)
  }

  @Test func port61ShowsRefreshAndOutput() {
    var pit = PITModel()
    pit.writePort61(0xFF, at: 0)
    #expect(pit.readPort61(at: 0) & 0x0F == 0x0F)
    var toggles = 0
    for clock in UInt64(1)...1_800 {
      if (pit.readPort61(at: clock) ^ pit.readPort61(at: clock - 1)) & 0x10 != 0 { toggles += 1 }
    }
    #expect(toggles == 100)
    Self.program(&pit, 2, mode: 0, 100, at: 2_000)
    #expect(pit.readPort61(at: 2_099) & 0x20 == 0)
    #expect(pit.readPort61(at: 2_100) & 0x20 != 0)
  }

  // MARK: - In place

  static func machine() throws -> (TimerBench, PIT) {
    let bench = TimerBench()
    let pit = PIT()
    let speaker = PCSpeaker(pit: pit)
    try pit.realize(in: bench.context)
    try speaker.realize(in: bench.context)
    return (bench, pit)
  }

  @Test func periodicInterruptsComeAtTheirRate() throws {
    let (bench, _) = try Self.machine()
    bench.out(0x43, 0x34)
    bench.out(0x40, 0xA9)
    bench.out(0x40, 0x04)  // 1193: about 1000 Hz
    let before = bench.lines[0].rises
    bench.clock.advance(by: 1_000_000_000)
    #expect((999...1_001).contains(bench.lines[0].rises - before))
  }

  @Test func oneShotInterruptsOnce() throws {
    let (bench, _) = try Self.machine()
    bench.out(0x43, 0x30)
    #expect(!bench.lines[0].level)
    bench.out(0x40, 0xA9)
    bench.out(0x40, 0x04)
    bench.clock.advance(by: 999_000)
    #expect(!bench.lines[0].level)
    bench.clock.advance(by: 2_000)
    #expect(bench.lines[0].level)
    let rises = bench.lines[0].rises
    bench.clock.advance(by: 1_000_000_000)
    #expect(bench.lines[0].rises == rises)
  }

  @Test func absurdRateDoesNotBusyTheHost() throws {
    let (bench, _) = try Self.machine()
    bench.out(0x43, 0x14)
    bench.out(0x40, 1)
    let before = bench.lines[0].rises
    bench.clock.advance(by: 10_000_000)
    #expect((100...250).contains(bench.lines[0].rises - before))
  }

  @Test func isCutFromItsInterruptByTheHPET() throws {
    let (bench, pit) = try Self.machine()
    bench.out(0x43, 0x34)
    bench.out(0x40, 0xA9)
    bench.out(0x40, 0x04)
    pit.setInterruptConnected(false)
    let before = bench.lines[0].rises
    bench.clock.advance(by: 100_000_000)
    #expect(bench.lines[0].rises == before)
    #expect(bench.clock.nextDeadline == nil)
    pit.setInterruptConnected(true)
    bench.clock.advance(by: 10_000_000)
    #expect((9...12).contains(bench.lines[0].rises - before))
  }

  @Test func speakerGateMeasuresTime() throws {
    let (bench, _) = try Self.machine()
    // As kernels calibrate: mode 0 on counter 2, wait for OUT in port 0x61.
    bench.out(0x61, bench.in(0x61) & ~2 | 1)
    bench.out(0x43, 0xB0)
    bench.out(0x42, 0x9B)
    bench.out(0x42, 0x2E)  // 11,931: about 10 ms
    #expect(bench.in(0x61) & 0x20 == 0)
    bench.clock.advance(by: 9_990_000)
    #expect(bench.in(0x61) & 0x20 == 0)
    bench.clock.advance(by: 20_000)
    #expect(bench.in(0x61) & 0x20 != 0)
    #expect(bench.in(0x61) & 3 == 1)
  }

  @Test func anyAccessIsSurvived() throws {
    let (bench, pit) = try Self.machine()
    var generator = SeededGenerator(seed: 3)
    for _ in 0..<20_000 {
      let word = generator.next()
      let port = [0x40, 0x41, 0x42, 0x43, 0x43, 0x61][Int(word % 6)] as UInt64
      if word & 1 << 20 != 0 { bench.out(port, UInt8(truncatingIfNeeded: word >> 32)) }
      _ = bench.in(port)
      if word & 1 << 21 != 0 { bench.clock.advance(by: Int64(word >> 44)) }
    }
    pit.reset(.cold)
  }
}
