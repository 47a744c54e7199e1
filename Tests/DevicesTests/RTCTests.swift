import DeviceModel
import Devices
import Support
import Synchronization
import Testing

@Suite struct RTCTests {
  static let second: Int64 = 1_000_000_000

  @Test(arguments: [
    (Int64(0), 1970, 1, 1, 4), (951_782_400, 2000, 2, 29, 2), (951_868_800, 2000, 3, 1, 3),
    (1_709_164_800, 2024, 2, 29, 4), (4_107_542_400, 2100, 3, 1, 1), (-86_400, 1969, 12, 31, 3),
    (-2_208_988_800, 1900, 1, 1, 1),
  ])
  func calendarKnowsItsDates(seconds: Int64, year: Int, month: Int, day: Int, weekday: Int) {
    let date = CalendarTime(seconds: seconds)
    #expect(date == CalendarTime(year: year, month: month, day: day, hour: 0, minute: 0, second: 0))
    #expect(date.seconds == seconds)
    #expect(date.weekday == weekday)
  }

  @Test func calendarRoundTrips() {
    var generator = SeededGenerator(seed: 11)
    for _ in 0..<10_000 {
      let seconds = Int64.random(in: -60_000_000_000...250_000_000_000, using: &generator)
      #expect(CalendarTime(seconds: seconds).seconds == seconds)
    }
  }

  /// A machine at 2024-02-29 12:34:56.5 UTC with an RTC.
  struct Machine {
    let bench: TimerBench
    let rtc: RTC

    init(baseOffset: Int64 = 0, slew: Bool = false) throws {
      bench = TimerBench(
        clock: FakeClock(now: 7_000, wall: 1_709_210_096 * RTCTests.second + 500_000_000))
      rtc = RTC(clock: bench.clock, baseOffset: baseOffset, slewsLostTicks: slew, path: "/rtc")
      try rtc.realize(in: bench.context)
    }
    func get(_ register: UInt8) -> UInt8 {
      bench.out(0x70, register)
      return bench.in(0x71)
    }
    func put(_ register: UInt8, _ value: UInt8) {
      bench.out(0x70, register)
      bench.out(0x71, value)
    }
    var line: RecordedLine { bench.lines[8] }
    func advance(_ seconds: Double) { bench.clock.advance(by: Int64(seconds * 1e9)) }
  }

  @Test func showsTheDateInDecimalDigits() throws {
    let machine = try Machine()
    let expected: [(UInt8, UInt8)] = [
      (0, 0x56), (2, 0x34), (4, 0x12), (6, 5), (7, 0x29), (8, 0x02), (9, 0x24), (0x32, 0x20),
      (0x37, 0x20), (0x0A, 0x26), (0x0B, 0x02), (0x0D, 0x80),
    ]
    for (register, value) in expected { #expect(machine.get(register) == value) }
    machine.advance(12 * 3_600)
    #expect(machine.get(4) == 0x00 && machine.get(7) == 0x01 && machine.get(8) == 0x03)
    #expect(machine.bench.in(0x70) == 0xFF)
  }

  @Test func baseOffsetMovesTheCalendar() throws {
    let machine = try Machine(baseOffset: -3_600 * Self.second)
    #expect(machine.get(4) == 0x11)
    #expect(machine.rtc.seconds == 1_709_206_496)
  }

  @Test func binaryAndTwelveHourFormats() throws {
    let machine = try Machine()
    machine.put(0x0B, 0x06)
    #expect(machine.get(0) == 56 && machine.get(4) == 12 && machine.get(0x32) == 20)
    machine.put(0x0B, 0x04)
    #expect(machine.get(4) == 12 | 0x80)
    machine.advance(3_600)
    #expect(machine.get(4) == 1 | 0x80)
    machine.advance(11 * 3_600)
    #expect(machine.get(4) == 12)
    machine.put(0x0B, 0x00)
    #expect(machine.get(4) == 0x12)
    machine.put(4, 0x91)
    machine.put(0x0B, 0x02)
    #expect(machine.get(4) == 0x23)
  }

  @Test func settingTheClockIsReported() throws {
    let machine = try Machine()
    machine.put(0x0B, 0x82)
    machine.put(4, 0x13)
    machine.advance(5)
    #expect(machine.get(0) == 0x56, "the clock stands while it is set")
    #expect(machine.bench.requests.withLock { $0 }.isEmpty)
    machine.put(0x0B, 0x02)
    #expect(
      machine.bench.requests.withLock { $0 } == [
        .rtcChanged(offsetInSeconds: 3_595, path: "/rtc")
      ])
    machine.advance(2)
    #expect(machine.get(4) == 0x13 && machine.get(0) == 0x58)
    // Without SET, each byte counts at once.
    machine.rtc.path = "/machine/rtc"
    machine.put(2, 0x35)
    #expect(machine.get(2) == 0x35)
    #expect(
      machine.bench.requests.withLock { $0.last }
        == .rtcChanged(offsetInSeconds: 3_655, path: "/machine/rtc"))
  }

  @Test func anyYearCanBeSet() throws {
    let machine = try Machine()
    machine.put(0x32, 0x99)
    machine.put(9, 0x99)
    #expect(machine.get(0x32) == 0x99 && machine.get(9) == 0x99)
    machine.advance(1)
    #expect(machine.get(0) == 0x57)
    machine.put(0x32, 0xFF)
    machine.put(8, 0x00)
    machine.put(7, 0xFF)
    _ = machine.get(7)
  }

  @Test func updateInProgressIsSetBeforeTheSecond() throws {
    let machine = try Machine()
    #expect(machine.get(0x0A) == 0x26)
    machine.advance(0.4999)
    #expect(machine.get(0x0A) == 0xA6)
    #expect(machine.get(0) == 0x56)
    machine.advance(0.0002)
    #expect(machine.get(0x0A) == 0x26)
    #expect(machine.get(0) == 0x57)
    machine.put(0x0B, 0x82)
    machine.advance(0.4998)
    #expect(machine.get(0x0A) == 0x26)
  }

  @Test func updateEndedInterrupt() throws {
    let machine = try Machine()
    _ = machine.get(0x0C)
    machine.put(0x0B, 0x12)
    machine.advance(0.4)
    #expect(!machine.line.level)
    machine.advance(0.2)
    #expect(machine.line.level)
    #expect(machine.get(0x0C) & 0xF0 | 0x40 == 0x80 | 0x40 | 0x10)
    #expect(!machine.line.level)
    #expect(machine.get(0x0C) & 0x90 == 0)
    machine.advance(1)
    #expect(machine.line.rises == 2)
    // Not acknowledged: no further edges, and no timer that runs for nothing.
    machine.advance(5)
    #expect(machine.line.rises == 2)
    #expect(machine.bench.clock.nextDeadline == nil)
  }

  @Test(arguments: [
    // Alarm bytes (hours, minutes, seconds) and seconds until it fires, from 12:34:56.5.
    (UInt8(0x12), UInt8(0x35), UInt8(0x00), 3.5), (0xFF, 0xFF, 0xFF, 0.5), (0xFF, 0xFF, 0x10, 13.5),
    (0xC0, 0x00, 0x00, 1_503.5), (0x12, 0x34, 0x56, 86_399.5), (0x00, 0x00, 0x00, 41_103.5),
  ])
  func alarmInterrupt(hours: UInt8, minutes: UInt8, seconds: UInt8, wait: Double) throws {
    let machine = try Machine()
    machine.put(5, hours)
    machine.put(3, minutes)
    machine.put(1, seconds)
    _ = machine.get(0x0C)
    machine.put(0x0B, 0x22)
    machine.advance(wait - 0.001)
    #expect(!machine.line.level)
    machine.advance(0.002)
    #expect(machine.line.level)
    #expect(machine.get(0x0C) & 0xA0 == 0xA0)
  }

  @Test func impossibleAlarmNeverFires() throws {
    let machine = try Machine()
    machine.put(5, 0x7F)
    machine.put(3, 0x7F)
    machine.put(1, 0x7F)
    machine.put(0x0B, 0x22)
    #expect(machine.bench.clock.nextDeadline == nil)
    machine.put(0x0B, 0x26)
    machine.put(3, 0)
    machine.put(1, 0)
    #expect(machine.bench.clock.nextDeadline == nil)
  }

  @Test(arguments: [
    (UInt8(1), 256), (2, 128), (3, 8_192), (6, 1_024), (10, 64), (15, 2),
  ])
  func periodicInterruptHasItsRate(rate: UInt8, frequency: Int) throws {
    let machine = try Machine()
    machine.put(0x0A, 0x20 | rate)
    machine.put(0x0B, 0x42)
    _ = machine.get(0x0C)
    var count = 0
    let steps = frequency * 8
    for _ in 0..<steps {
      machine.bench.clock.advance(by: Self.second / Int64(steps))
      if machine.line.level {
        #expect(machine.get(0x0C) & 0xC0 == 0xC0)
        count += 1
      }
    }
    #expect((frequency - 1...frequency + 1).contains(count))
  }

  @Test func lostTicksAreDroppedOrDelivered() throws {
    for slew in [false, true] {
      let machine = try Machine(slew: slew)
      machine.put(0x0B, 0x42)
      _ = machine.get(0x0C)
      let before = machine.line.rises
      machine.advance(10.0 / 1_024 + 0.0001)
      var acknowledged = 0
      while machine.line.level && acknowledged < 100 {
        _ = machine.get(0)  // another register does not make an edge
        _ = machine.get(0x0C)
        acknowledged += 1
      }
      #expect(acknowledged == (slew ? 10 : 1))
      #expect(machine.line.rises - before == acknowledged)
    }
  }

  @Test func dividerInResetHoldsTheClock() throws {
    let machine = try Machine()
    machine.put(0x0A, 0x76)
    machine.advance(10)
    #expect(machine.get(0) == 0x56)
    machine.put(0x0A, 0x26)
    machine.advance(0.49)
    #expect(machine.get(0) == 0x56)
    machine.advance(0.02)
    #expect(machine.get(0) == 0x57)
  }

  @Test func resetKeepsTimeAndMemory() throws {
    let machine = try Machine()
    machine.put(0x40, 0xAB)
    machine.put(0x0B, 0x72)
    machine.advance(2)
    #expect(machine.line.level)
    machine.rtc.reset(.warm)
    #expect(!machine.line.level)
    #expect(machine.get(0x0B) == 0x02 && machine.get(0x40) == 0xAB && machine.get(0) == 0x58)
  }

  @Test func boardBytes() throws {
    let machine = try Machine()
    machine.rtc.setMemorySize(below4GiB: 512 << 20, above4GiB: 3 << 30)
    #expect(machine.get(0x15) == 0x80 && machine.get(0x16) == 0x02)
    #expect(machine.get(0x17) == 0xFF && machine.get(0x18) == 0xFF && machine.get(0x30) == 0xFF)
    #expect(machine.get(0x34) == 0x00 && machine.get(0x35) == 0x1F)
    #expect(machine.get(0x5B) == 0 && machine.get(0x5C) == 0xC0 && machine.get(0x5D) == 0)
    machine.rtc.setMemorySize(below4GiB: 8 << 20, above4GiB: 0)
    #expect(machine.get(0x17) == 0x00 && machine.get(0x18) == 0x1C && machine.get(0x35) == 0)
    machine.rtc.setBootOrder("cdn")
    #expect(machine.get(0x3D) == 0x32 && machine.get(0x38) == 0x40)
    machine.rtc.setBootOrder("a", checksFloppySignature: false)
    #expect(machine.get(0x3D) == 0x01 && machine.get(0x38) == 0x01)
    machine.rtc[byte: 0x0B] = 0xFF
    #expect(machine.get(0x0B) == 0x02)
  }

  @Test func anyAccessIsSurvived() throws {
    let machine = try Machine(slew: true)
    var generator = SeededGenerator(seed: 17)
    for _ in 0..<20_000 {
      let word = generator.next()
      machine.put(UInt8(word & 0x3F) % 0x3A, UInt8(truncatingIfNeeded: word >> 8))
      _ = machine.get(UInt8(word >> 16 & 0xFF))
      if word & 1 << 40 != 0 { machine.bench.clock.advance(by: Int64(word >> 36)) }
    }
  }
}
