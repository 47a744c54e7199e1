// Motorola MC146818 real-time clock with 128 bytes of CMOS RAM, as in a PC/AT. Time is brought along by every call;
// flags are worked out when somebody looks. Deviations: an update takes no time (UIP goes up 244 us before it, as in the data
// sheet, and down with it); no square wave; daylight saving (register B bit 0) is stored only.

/// The two clocks that the chip's time is made of.
package struct RTCTime: Equatable, Sendable, BitwiseCopyable {
  /// Virtual time in nanoseconds: what interrupts are timed by.
  package var virtual: Int64
  /// Wall clock, nanoseconds since 1970-01-01: what the calendar follows.
  package var wall: Int64

  /// One moment on both clocks.
  package init(virtual: Int64, wall: Int64) {
    self.virtual = virtual
    self.wall = wall
  }
}

/// Pure model of the chip.
package struct RTCModel: Equatable, Sendable {
  /// Offsets of registers in the CMOS.
  package enum Register {
    package static let seconds: UInt8 = 0x00
    package static let secondsAlarm: UInt8 = 0x01
    package static let minutes: UInt8 = 0x02
    package static let minutesAlarm: UInt8 = 0x03
    package static let hours: UInt8 = 0x04
    package static let hoursAlarm: UInt8 = 0x05
    package static let weekday: UInt8 = 0x06
    package static let day: UInt8 = 0x07
    package static let month: UInt8 = 0x08
    package static let year: UInt8 = 0x09
    package static let a: UInt8 = 0x0A
    package static let b: UInt8 = 0x0B
    package static let c: UInt8 = 0x0C
    package static let d: UInt8 = 0x0D
    /// Century of the PC/AT, named by the ACPI FADT.
    package static let century: UInt8 = 0x32
    /// Century of the PS/2; the same byte.
    package static let centuryPS2: UInt8 = 0x37
  }

  /// Register B, and the flags of register C at the same places.
  package struct Interrupts: OptionSet, Sendable, BitwiseCopyable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }
    package static let update = Interrupts(rawValue: 0x10)
    package static let alarm = Interrupts(rawValue: 0x20)
    package static let periodic = Interrupts(rawValue: 0x40)
    static let all: Interrupts = [.update, .alarm, .periodic]
  }

  private static let nanosecondsPerSecond: Int64 = 1_000_000_000
  /// How long before an update UIP is set: 8 periods of 32,768 Hz.
  private static let updateWarning: Int64 = 244_140

  /// Stored bytes; the calendar's are current only while the clock stands.
  private var cmos = [UInt8](repeating: 0, count: 128)
  private var index: UInt8 = 0
  /// Calendar time minus wall clock, in nanoseconds: 128 bits, since a guest may set any year.
  private var offset: Int128
  /// The same as `-rtc base=` gave it: RTC_CHANGE tells the difference.
  private let baseOffset: Int128
  /// Calendar nanoseconds at which the clock was stopped, while it is.
  private var stoppedAt: Int128?
  /// Calendar second up to which update and alarm have been looked for.
  private var seenSecond: Int64
  /// Virtual time of the last periodic tick looked at.
  private var seenTick: Int64 = 0
  private var flags: Interrupts = []
  /// Periodic interrupts that the guest had no chance to see.
  private var missedTicks: UInt32 = 0
  /// `-rtc driftfix=slew`: missed ones are delivered after acknowledgement.
  private let deliversMissedTicks: Bool

  /// A running clock that shows the wall clock plus `baseOffset` nanoseconds at `time`.
  package init(baseOffset: Int64, deliversMissedTicks: Bool = false, at time: RTCTime) {
    offset = Int128(baseOffset)
    self.baseOffset = offset
    self.deliversMissedTicks = deliversMissedTicks
    seenSecond = Self.second(Int128(time.wall) + offset)
    cmos[Int(Register.a)] = 0x26
    cmos[Int(Register.b)] = 0x02
    cmos[Int(Register.d)] = 0x80
  }

  /// How often register C was read: a pin that is up again after it has had an edge.
  package private(set) var acknowledgements: UInt32 = 0

  // MARK: - Outside

  /// The interrupt pin.
  package var interruptAsserted: Bool {
    !flags.isDisjoint(with: enabled)
  }

  /// The calendar, in seconds since 1970-01-01 of its own zone.
  package func seconds(at time: RTCTime) -> Int64 { Self.second(calendar(time)) }

  /// Seconds by which the guest has moved its clock away from what `-rtc base=` gave it.
  package var changeInSeconds: Int64 { Self.second(offset - baseOffset + 500_000_000) }

  /// A byte of CMOS RAM, for the board. Registers 0 to 0xD are not reached by it.
  package subscript(byte index: UInt8) -> UInt8 {
    get { cmos[Int(index & 0x7F)] }
    set { if index & 0x7F > Register.d { cmos[Int(index & 0x7F)] = newValue } }
  }

  /// The RESET pin: interrupts off, flags clear; time and RAM stay.
  package mutating func reset() {
    cmos[Int(Register.b)] &= ~(Interrupts.all.rawValue | 0x08)
    flags = []
    missedTicks = 0
    index = 0
  }

  /// Forgets the periodic interrupts that the guest has missed and would still get.
  package mutating func dropMissedTicks() { missedTicks = 0 }

  /// Sets flags for everything up to `time`. To be called before anything else.
  package mutating func advance(to time: RTCTime) {
    advancePeriodic(to: time.virtual)
    guard stoppedAt == nil else { return }
    let now = seconds(at: time)
    guard now != seenSecond else { return }
    flags.insert(.update)
    if now > seenSecond, let alarm = nextAlarm(after: seenSecond), alarm <= now {
      flags.insert(.alarm)
    }
    seenSecond = now
  }

  /// Virtual time at which the interrupt pin may change next, or nil. After `advance`.
  package func nextDeadline(at time: RTCTime) -> Int64? {
    let open = enabled.subtracting(flags)
    var deadline: Int64?
    func consider(_ at: Int64) { deadline = min(deadline ?? at, at) }
    if open.contains(.periodic), let period = periodNanoseconds { consider(seenTick &+ period) }
    if stoppedAt == nil {
      let now = calendar(time)
      if open.contains(.update) { consider(time.virtual &+ untilSecond(seenSecond &+ 1, now)) }
      if open.contains(.alarm), let alarm = nextAlarm(after: seenSecond) {
        consider(time.virtual &+ untilSecond(alarm, now))
      }
    }
    return deadline
  }

  // MARK: - Ports

  /// A write of port 0x70; bit 7 (NMI mask) is not kept.
  package mutating func select(_ value: UInt8) { index = value & 0x7F }

  /// A read of port 0x71. After `advance`.
  package mutating func read(at time: RTCTime) -> UInt8 {
    switch index {
    case Register.seconds, Register.minutes, Register.hours, Register.weekday, Register.day,
      Register.month, Register.year, Register.century:
      if stoppedAt == nil { showCalendar(at: time) }
      return cmos[Int(index)]
    case Register.centuryPS2:
      if stoppedAt == nil { showCalendar(at: time) }
      return cmos[Int(Register.century)]
    case Register.a: return cmos[Int(index)] & 0x7F | (isUpdating(at: time) ? 0x80 : 0)
    case Register.c: return readFlags()
    default: return cmos[Int(index)]
    }
  }

  /// A write of port 0x71. After `advance`. Returns true when the guest has set the clock.
  package mutating func write(_ value: UInt8, at time: RTCTime) -> Bool {
    switch index {
    case Register.seconds, Register.minutes, Register.hours, Register.weekday, Register.day,
      Register.month, Register.year, Register.century:
      return writeCalendar(index, value, time)
    case Register.centuryPS2: return writeCalendar(Register.century, value, time)
    case Register.a: writeA(value, time)
    case Register.b: return writeB(value, time)
    case Register.c, Register.d: break
    default: cmos[Int(index)] = value
    }
    return false
  }

  // MARK: - Registers A to C

  private var enabled: Interrupts { Interrupts(rawValue: cmos[Int(Register.b)]).intersection(.all) }
  private var isBinary: Bool { cmos[Int(Register.b)] & 0x04 != 0 }
  private var is24Hour: Bool { cmos[Int(Register.b)] & 0x02 != 0 }
  /// Register B bit 7: the program is setting the calendar.
  private var isSetting: Bool { cmos[Int(Register.b)] & 0x80 != 0 }
  /// Register A bits 6-4: 11x holds the divider chain in reset.
  private var isDividerReset: Bool { cmos[Int(Register.a)] & 0x60 == 0x60 }

  /// Distance of periodic interrupts (data sheet, table 5, 32,768 Hz time base), or nil for rate 0.
  private var periodNanoseconds: Int64? {
    let rate = Int64(cmos[Int(Register.a)] & 0xF)
    guard rate != 0, !isDividerReset else { return nil }
    let shift = rate <= 2 ? rate + 6 : rate - 1
    return (Self.nanosecondsPerSecond << shift) / 32_768
  }

  private func isUpdating(at time: RTCTime) -> Bool {
    guard stoppedAt == nil else { return false }
    return untilSecond(seenSecond &+ 1, calendar(time)) <= Self.updateWarning
  }

  private mutating func readFlags() -> UInt8 {
    let value = flags.rawValue | (interruptAsserted ? 0x80 : 0)
    flags = []
    acknowledgements &+= 1
    if missedTicks > 0 && deliversMissedTicks {
      missedTicks -= 1
      flags.insert(.periodic)
    }
    return value
  }

  private mutating func writeA(_ value: UInt8, _ time: RTCTime) {
    let wasReset = isDividerReset
    let oldRate = cmos[Int(Register.a)] & 0xF
    cmos[Int(Register.a)] = value & 0x7F
    if value & 0xF != oldRate || wasReset != isDividerReset {
      seenTick = time.virtual
      missedTicks = 0
    }
    if isDividerReset && !wasReset && stoppedAt == nil {
      stop(time)
    } else if wasReset && !isDividerReset && !isSetting {
      // The first update follows half a second after the chain is released (data sheet, "divider control").
      start(time, subsecond: Self.nanosecondsPerSecond / 2)
    }
  }

  private mutating func writeB(_ value: UInt8, _ time: RTCTime) -> Bool {
    let wasSetting = isSetting
    let formatChanged = (cmos[Int(Register.b)] ^ value) & 0x06 != 0
    if formatChanged && stoppedAt == nil && value & 0x80 == 0 { showCalendar(at: time) }
    // SET keeps the update interrupt off (data sheet, register B).
    let periodicStarts = value & 0x40 != 0 && cmos[Int(Register.b)] & 0x40 == 0
    if periodicStarts { missedTicks = 0 }
    if value & 0x80 != 0 && !wasSetting && stoppedAt == nil { stop(time) }
    cmos[Int(Register.b)] = value & 0x80 != 0 ? value & ~0x10 : value
    guard wasSetting && !isSetting && !isDividerReset else { return false }
    start(time, subsecond: nil)
    return true
  }

  private mutating func advancePeriodic(to now: Int64) {
    guard let period = periodNanoseconds, now > seenTick else { return }
    let ticks = (now &- seenTick) / period
    guard ticks > 0 else { return }
    seenTick = seenTick &+ ticks &* period
    let isFirst = !flags.contains(.periodic)
    flags.insert(.periodic)
    if deliversMissedTicks && enabled.contains(.periodic) {
      let missed = ticks &- (isFirst ? 1 : 0)
      missedTicks = UInt32(min(Int64(missedTicks) &+ missed, 100_000))
    }
  }

  // MARK: - Calendar

  private static func second(_ nanoseconds: Int128) -> Int64 {
    let unit = Int128(nanosecondsPerSecond)
    let quotient = nanoseconds / unit
    return Int64(clamping: nanoseconds % unit < 0 ? quotient - 1 : quotient)
  }

  private func calendar(_ time: RTCTime) -> Int128 { stoppedAt ?? Int128(time.wall) + offset }

  /// Nanoseconds until the calendar reaches `second`, at least 0.
  private func untilSecond(_ second: Int64, _ now: Int128) -> Int64 {
    let rest = Int128(second) * Int128(Self.nanosecondsPerSecond) - now
    return Int64(clamping: min(max(rest, 0), Int128(Int64.max / 4)))
  }

  private mutating func stop(_ time: RTCTime) {
    showCalendar(at: time)
    stoppedAt = calendar(time)
  }

  /// Lets the clock run from what the registers show, `subsecond` nanoseconds into that second, or as far into it as when it stopped.
  private mutating func start(_ time: RTCTime, subsecond: Int64?) {
    let shown = shownSeconds
    let stopped = stoppedAt ?? calendar(time)
    let unit = Int128(Self.nanosecondsPerSecond)
    let kept = stopped - Int128(Self.second(stopped)) * unit
    offset = Int128(shown) * unit + (subsecond.map { Int128($0) } ?? kept) - Int128(time.wall)
    stoppedAt = nil
    seenSecond = shown
  }

  private mutating func writeCalendar(_ register: UInt8, _ value: UInt8, _ time: RTCTime) -> Bool {
    guard stoppedAt == nil else {
      cmos[Int(register)] = value
      return false
    }
    showCalendar(at: time)
    let before = calendar(time)
    cmos[Int(register)] = value
    stoppedAt = before
    start(time, subsecond: nil)
    return true
  }

  private mutating func showCalendar(at time: RTCTime) {
    let date = CalendarTime(seconds: seconds(at: time))
    cmos[Int(Register.seconds)] = encode(date.second)
    cmos[Int(Register.minutes)] = encode(date.minute)
    if is24Hour {
      cmos[Int(Register.hours)] = encode(date.hour)
    } else {
      let hour = date.hour % 12 == 0 ? 12 : date.hour % 12
      cmos[Int(Register.hours)] = encode(hour) | (date.hour >= 12 ? 0x80 : 0)
    }
    cmos[Int(Register.weekday)] = encode(date.weekday + 1)
    cmos[Int(Register.day)] = encode(date.day)
    cmos[Int(Register.month)] = encode(date.month)
    // A clock outside these years shows their last two digits, as the chip would.
    let year = ((date.year % 10_000) + 10_000) % 10_000
    cmos[Int(Register.year)] = encode(year % 100)
    cmos[Int(Register.century)] = encode(year / 100)
  }

  /// The calendar's registers as seconds; whatever a guest writes there is some date.
  private var shownSeconds: Int64 {
    CalendarTime(
      year: decode(cmos[Int(Register.century)]) * 100 + decode(cmos[Int(Register.year)]),
      month: decode(cmos[Int(Register.month)]), day: decode(cmos[Int(Register.day)]),
      hour: decodeHour(cmos[Int(Register.hours)]), minute: decode(cmos[Int(Register.minutes)]),
      second: decode(cmos[Int(Register.seconds)])
    ).seconds
  }

  private func encode(_ value: Int) -> UInt8 {
    UInt8(truncatingIfNeeded: isBinary ? value : (value / 10) << 4 | value % 10)
  }

  private func decode(_ value: UInt8) -> Int {
    isBinary ? Int(value) : Int(value >> 4) * 10 + Int(value & 0xF)
  }

  private func decodeHour(_ value: UInt8) -> Int {
    guard !is24Hour else { return decode(value) }
    return decode(value & 0x7F) % 12 + (value & 0x80 != 0 ? 12 : 0)
  }

  // MARK: - Alarm

  /// Two set bits at the top mean: any value (data sheet, "alarm don't care").
  private func alarmMatches(_ register: UInt8, _ value: Int) -> Bool {
    let alarm = cmos[Int(register)]
    if alarm & 0xC0 == 0xC0 { return true }
    return (register == Register.hoursAlarm ? decodeHour(alarm) : decode(alarm)) == value
  }

  /// The first second after `second` that matches the alarm, within a day.
  private func nextAlarm(after second: Int64) -> Int64? {
    guard (0..<60).contains(where: { alarmMatches(Register.secondsAlarm, $0) }),
      (0..<60).contains(where: { alarmMatches(Register.minutesAlarm, $0) })
    else { return nil }
    let first = second &+ 1
    let date = CalendarTime(seconds: first)
    let midnight = first &- Int64(date.hour * 3_600 + date.minute * 60 + date.second)
    for step in 0...24 {
      let hour = date.hour + step
      guard alarmMatches(Register.hoursAlarm, hour % 24) else { continue }
      for minute in (step == 0 ? date.minute : 0)..<60
      where alarmMatches(Register.minutesAlarm, minute) {
        let from = step == 0 && minute == date.minute ? date.second : 0
        for second in from..<60 where alarmMatches(Register.secondsAlarm, second) {
          return midnight &+ Int64(hour * 3_600 + minute * 60 + second)
        }
      }
    }
    return nil
  }
}
