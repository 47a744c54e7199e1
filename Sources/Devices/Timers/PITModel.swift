// Intel 8254 programmable interval timer (datasheet 231164-005). Time is a count of its clock, 1.193182 MHz,
// that every call brings along; OUT is a function of when the counter was loaded, so nothing has to tick.
// Deviations: a count is loaded at once, not at the next clock; in mode 3 a new count waits for the end of
// the whole period instead of the half.

/// One of the three counters.
package struct PITCounter: Equatable, Sendable, BitwiseCopyable {
  /// Which bytes a read or write transfers (control word bits 5-4).
  package enum Access: UInt8, Sendable, BitwiseCopyable {
    case low = 1, high = 2, both = 3
  }

  /// Mode 0 to 5.
  package private(set) var mode: UInt8 = 3
  /// Counts in four decimal digits.
  package private(set) var isBCD = false
  /// Which bytes are transferred.
  package private(set) var access = Access.both
  /// The GATE input.
  package private(set) var gate: Bool
  /// Length of a count: 1 to 65,536.
  package private(set) var reload: UInt32 = 65_536

  /// Clock at which the present count began; meaningful while `isCounting`.
  private var start: UInt64 = 0
  /// A count is under way (or over, in the modes that count once).
  package private(set) var isCounting = false
  /// Clocks counted before GATE stopped the counter (modes 0 and 4).
  private var held: UInt64?
  /// Modes 2 and 3: takes effect at the end of the period. Modes 1 and 5: at the next trigger.
  private var nextReload: UInt32?

  private var lowWritten: UInt8?
  private var readsHigh = false
  private var latchedCount: UInt16?
  private var latchedStatus: UInt8?

  /// A counter with this GATE. It runs with a full count, as firmware finds it.
  init(gate: Bool) {
    self.gate = gate
    isCounting = gate
  }

  private var isPeriodic: Bool { mode == 2 || mode == 3 }
  private var isTriggered: Bool { mode == 1 || mode == 5 }

  private func elapsed(_ now: UInt64) -> UInt64 {
    if let held { return held }
    let difference = Int64(bitPattern: now &- start)
    return difference < 0 ? 0 : UInt64(difference)
  }

  /// Adopts a new count whose time has come. To be called before anything else at `now`.
  mutating func advance(to now: UInt64) {
    guard isPeriodic, isCounting, let next = nextReload else { return }
    let boundary = start &+ UInt64(reload)
    guard Int64(bitPattern: now &- boundary) >= 0 else { return }
    start = boundary
    reload = next
    nextReload = nil
  }

  // MARK: - Output

  /// The OUT pin at `now`.
  package func out(at now: UInt64) -> Bool {
    guard isCounting else { return mode != 0 }
    let clocks = elapsed(now)
    let length = UInt64(reload)
    switch mode {
    case 0, 1: return clocks >= length
    case 2: return !gate || clocks % length != length &- 1
    case 3: return !gate || clocks % length < (length &+ 1) / 2
    default: return clocks != length
    }
  }

  /// OUT as an edge-triggered interrupt input sees it: strobes of one clock are left out.
  package func level(at now: UInt64) -> Bool {
    mode == 2 || mode == 4 || mode == 5 ? true : out(at: now)
  }

  /// The first clock after `now` at which OUT rises, or nil.
  package func nextRise(after now: UInt64) -> UInt64? {
    guard isCounting, held == nil else { return nil }
    let clocks = elapsed(now)
    let length = UInt64(reload)
    switch mode {
    case 0, 1: return clocks < length ? start &+ length : nil
    case 2, 3:
      guard gate else { return nil }
      return start &+ (clocks / length &+ 1) &* length
    default: return clocks <= length ? start &+ length &+ 1 : nil
    }
  }

  /// Clocks between two interrupts of a periodic mode, or nil.
  package var period: UInt64? { isPeriodic ? UInt64(reload) : nil }

  /// The counting element at `now`, as a latch command keeps it.
  package func count(at now: UInt64) -> UInt16 {
    guard isCounting else { return encode(UInt64(reload)) }
    let clocks = elapsed(now)
    let length = UInt64(reload)
    switch mode {
    case 2: return encode(length &- clocks % length)
    case 3:
      // By two from an even number, in each half.
      let half = (length &+ 1) / 2
      let phase = clocks % length
      let inHalf = phase < half ? phase : phase &- half
      return encode((length & ~1) &- 2 &* inHalf)
    default:
      let modulus: UInt64 = isBCD ? 10_000 : 65_536
      return encode((length &+ modulus &- clocks % modulus) % modulus)
    }
  }

  private func encode(_ value: UInt64) -> UInt16 {
    guard isBCD else { return UInt16(truncatingIfNeeded: value) }
    let v = value % 10_000
    let digits = (v / 1_000) << 12 | (v / 100 % 10) << 8 | (v / 10 % 10) << 4 | v % 10
    return UInt16(truncatingIfNeeded: digits)
  }

  private func decode(_ value: UInt16) -> UInt32 {
    guard isBCD else { return value == 0 ? 65_536 : UInt32(value) }
    let v = UInt32(value)
    let decimal = (v >> 12) * 1_000 + (v >> 8 & 15) * 100 + (v >> 4 & 15) * 10 + (v & 15)
    return decimal == 0 ? 10_000 : decimal
  }

  // MARK: - Registers

  /// A control word for this counter, bits 5-0; not a latch command.
  mutating func control(_ word: UInt8) {
    mode = word >> 1 & 7
    if mode > 5 { mode &= 3 }
    isBCD = word & 1 != 0
    access = Access(rawValue: word >> 4 & 3) ?? .both
    isCounting = false
    held = nil
    nextReload = nil
    lowWritten = nil
    readsHigh = false
    latchedCount = nil
    latchedStatus = nil
  }

  /// A byte written to the counter's port.
  mutating func write(_ value: UInt8, at now: UInt64) {
    switch access {
    case .low: load(UInt16(value), now)
    case .high: load(UInt16(value) << 8, now)
    case .both:
      if let low = lowWritten {
        lowWritten = nil
        load(UInt16(value) << 8 | UInt16(low), now)
      } else {
        lowWritten = value
        // In mode 0 the first byte stops the count.
        if mode == 0 { isCounting = false }
      }
    }
  }

  /// A byte read from the counter's port.
  mutating func read(at now: UInt64) -> UInt8 {
    if let status = latchedStatus {
      latchedStatus = nil
      return status
    }
    let value = latchedCount ?? count(at: now)
    switch access {
    case .low:
      latchedCount = nil
      return UInt8(truncatingIfNeeded: value)
    case .high:
      latchedCount = nil
      return UInt8(truncatingIfNeeded: value >> 8)
    case .both:
      defer { readsHigh.toggle() }
      guard readsHigh else { return UInt8(truncatingIfNeeded: value) }
      latchedCount = nil
      return UInt8(truncatingIfNeeded: value >> 8)
    }
  }

  /// Keeps the count for the next reads, unless one is kept already.
  mutating func latchCount(at now: UInt64) {
    if latchedCount == nil { latchedCount = count(at: now) }
  }

  /// Keeps the status byte: OUT, null count, access, mode, BCD (datasheet, figure 14).
  mutating func latchStatus(at now: UInt64) {
    guard latchedStatus == nil else { return }
    let isNull = nextReload != nil || !isCounting
    latchedStatus =
      (out(at: now) ? 0x80 : 0) | (isNull ? 0x40 : 0) | access.rawValue << 4 | mode << 1
      | (isBCD ? 1 : 0)
  }

  /// The GATE input (datasheet, figure 21).
  mutating func setGate(_ level: Bool, at now: UInt64) {
    guard level != gate else { return }
    gate = level
    switch mode {
    case 0, 4:
      guard isCounting else { return }
      if level {
        start = now &- (held ?? 0)
        held = nil
      } else {
        held = elapsed(now)
      }
    default: if level { trigger(now) }
    }
  }

  private mutating func trigger(_ now: UInt64) {
    guard isCounting || nextReload != nil else { return }
    if let next = nextReload {
      reload = next
      nextReload = nil
    }
    start = now
    isCounting = true
  }

  private mutating func load(_ value: UInt16, _ now: UInt64) {
    var length = decode(value)
    if isPeriodic && length < 2 { length = 2 }
    if isTriggered || isPeriodic && isCounting {
      nextReload = length
      return
    }
    reload = length
    start = now
    isCounting = true
    held = !gate && !isPeriodic ? 0 : nil
  }
}

/// The three counters and the control port.
package struct PITModel: Equatable, Sendable {
  /// Clocks in a second.
  package static let frequency: UInt64 = 1_193_182

  /// Counter 0: the timer interrupt.
  package private(set) var counter0 = PITCounter(gate: true)
  /// Counter 1: memory refresh, on old machines.
  package private(set) var counter1 = PITCounter(gate: true)
  /// Counter 2: the speaker; its GATE is bit 0 of port 0x61.
  package private(set) var counter2 = PITCounter(gate: false)
  /// Bits 3-0 of port 0x61.
  private var control: UInt8 = 0

  /// The timer after power-on.
  package init() {}

  /// Brings all counters to `now`.
  package mutating func advance(to now: UInt64) {
    counter0.advance(to: now)
    counter1.advance(to: now)
    counter2.advance(to: now)
  }

  /// A read of port 0x40 plus `offset`.
  package mutating func read(_ offset: UInt8, at now: UInt64) -> UInt8 {
    switch offset & 3 {
    case 0: counter0.read(at: now)
    case 1: counter1.read(at: now)
    case 2: counter2.read(at: now)
    default: 0
    }
  }

  /// A write of port 0x40 plus `offset`.
  package mutating func write(_ offset: UInt8, _ value: UInt8, at now: UInt64) {
    switch offset & 3 {
    case 0: counter0.write(value, at: now)
    case 1: counter1.write(value, at: now)
    case 2: counter2.write(value, at: now)
    default: writeControl(value, now)
    }
  }

  /// Port 0x61: bits 3-0 as written, 4 toggles with every refresh request (about 15 us), 5 OUT of counter 2.
  package func readPort61(at now: UInt64) -> UInt8 {
    control | (now / 18 & 1 != 0 ? 0x10 : 0) | (counter2.out(at: now) ? 0x20 : 0)
  }

  /// Port 0x61: bit 0 GATE of counter 2, 1 speaker, 2 and 3 error checks (kept only).
  package mutating func writePort61(_ value: UInt8, at now: UInt64) {
    control = value & 0xF
    counter2.setGate(value & 1 != 0, at: now)
  }

  private mutating func writeControl(_ value: UInt8, _ now: UInt64) {
    let counter = value >> 6
    if counter == 3 {
      // Read-back: bits 5 and 4 are active low, 3 to 1 choose counters.
      if value & 2 != 0 { Self.readBack(&counter0, value, now) }
      if value & 4 != 0 { Self.readBack(&counter1, value, now) }
      if value & 8 != 0 { Self.readBack(&counter2, value, now) }
      return
    }
    switch counter {
    case 0: Self.command(&counter0, value, now)
    case 1: Self.command(&counter1, value, now)
    default: Self.command(&counter2, value, now)
    }
  }

  private static func command(_ counter: inout PITCounter, _ value: UInt8, _ now: UInt64) {
    if value & 0x30 == 0 {
      counter.latchCount(at: now)
    } else {
      counter.control(value & 0x3F)
    }
  }

  private static func readBack(_ counter: inout PITCounter, _ value: UInt8, _ now: UInt64) {
    if value & 0x20 == 0 { counter.latchCount(at: now) }
    if value & 0x10 == 0 { counter.latchStatus(at: now) }
  }
}
