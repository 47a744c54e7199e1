// High precision event timer (Intel IA-PC HPET Specification 1.0a): one 64-bit counter at 100 MHz, three comparators, legacy
// replacement. Time is brought along by every call. Deviation: a one-shot comparator that is set to a count already passed fires at
// once instead of after the counter has come round, and a 32-bit one fires once, not at every round.

/// What the outside must do after the model has moved.
package struct HPETEffects: Equatable, Sendable, BitwiseCopyable {
  /// Interrupt inputs (by number) that get an edge.
  package var pulses: UInt32 = 0
  /// Timers (by number) that send their message.
  package var messages: UInt8 = 0
}

/// Pure model.
package struct HPETModel: Equatable, Sendable {
  /// Nanoseconds of one count.
  package static let period: UInt64 = 10
  /// Shortest distance of two periodic interrupts, in counts (50 us).
  private static let minimumPeriod: UInt64 = 5_000

  /// One comparator with its configuration (2.3.8).
  package struct Timer: Equatable, Sendable, BitwiseCopyable {
    /// Configuration, low half.
    package fileprivate(set) var configuration: UInt32 = 0
    /// Comparator: the count at which the timer fires next.
    package fileprivate(set) var comparator = UInt64.max
    /// Last value written in periodic mode.
    package fileprivate(set) var period: UInt64 = 0
    /// Message address (high half) and data (low half).
    package fileprivate(set) var route: UInt64 = 0
    /// The timer has yet to fire.
    fileprivate var isArmed = false

    package var isLevel: Bool { configuration & 1 << 1 != 0 }
    package var isEnabled: Bool { configuration & 1 << 2 != 0 }
    package var isPeriodic: Bool { configuration & 1 << 3 != 0 }
    package var setsValue: Bool { configuration & 1 << 6 != 0 }
    package var is32Bit: Bool { configuration & 1 << 8 != 0 }
    package var input: UInt32 { configuration >> 9 & 0x1F }
    package var sendsMessage: Bool { configuration & 1 << 14 != 0 }
  }

  private let hasMessages: Bool
  private let inputs: UInt32
  /// Timers 0 to 2.
  package private(set) var timers = [Timer](repeating: Timer(), count: 3)
  /// General configuration: bit 0 running, 1 legacy replacement.
  package private(set) var configuration: UInt8 = 0
  /// Status of level-triggered timers.
  package private(set) var status: UInt32 = 0
  /// Counter when it stands, or when it was started.
  private var base: UInt64 = 0
  /// Guest time of the start.
  private var start: UInt64 = 0

  /// A block whose timers can be routed to the interrupt inputs in the mask `inputs`; with `hasMessages` also as messages.
  package init(inputs: UInt32 = 0x4, hasMessages: Bool = false) {
    self.inputs = inputs
    self.hasMessages = hasMessages
  }

  /// Back to the state after power-on.
  package mutating func reset() { self = HPETModel(inputs: inputs, hasMessages: hasMessages) }

  /// The counter runs.
  package var isRunning: Bool { configuration & 1 != 0 }
  /// Timers 0 and 1 stand in for the 8254 and the real-time clock.
  package var isLegacy: Bool { configuration & 2 != 0 }

  /// Interrupt inputs that level-triggered timers hold up.
  package var levels: UInt32 {
    var mask: UInt32 = 0
    for index in timers.indices
    where timers[index].isLevel && timers[index].isEnabled && !timers[index].sendsMessage
      && status & 1 << UInt32(index) != 0
    {
      mask |= 1 << input(of: index)
    }
    return mask
  }

  private func input(of index: Int) -> UInt32 {
    if isLegacy && index == 0 { return 0 }
    if isLegacy && index == 1 { return 8 }
    return timers[index].input
  }

  /// Main counter at guest time `now`, in nanoseconds.
  package func counter(at now: UInt64) -> UInt64 {
    guard isRunning else { return base }
    let elapsed = Int64(bitPattern: now &- start)
    return elapsed < 0 ? base : base &+ UInt64(elapsed) / Self.period
  }

  // MARK: - Time

  /// Fires what is due at guest time `now`. To be called before anything else.
  package mutating func advance(to now: UInt64) -> HPETEffects {
    var effects = HPETEffects()
    guard isRunning else { return effects }
    let count = counter(at: now)
    for index in timers.indices where timers[index].isArmed {
      let late = Self.distance(timers[index], from: timers[index].comparator, to: count)
      guard late >= 0 else { continue }
      if timers[index].isPeriodic && timers[index].period != 0 {
        let step = timers[index].period
        timers[index].comparator = Self.truncated(
          timers[index], timers[index].comparator &+ (UInt64(late) / step &+ 1) &* step)
      } else {
        timers[index].isArmed = false
      }
      fire(index, &effects)
    }
    return effects
  }

  /// Guest time at which a timer has something to do next, or nil. After `advance`.
  package func nextDeadline(at now: UInt64) -> UInt64? {
    guard isRunning else { return nil }
    let count = counter(at: now)
    var nearest: UInt64?
    for timer in timers where timer.isArmed && (timer.isEnabled || timer.isLevel) {
      var wait = UInt64(max(Self.distance(timer, from: count, to: timer.comparator), 0))
      if timer.isPeriodic && timer.period < Self.minimumPeriod {
        wait = max(wait, Self.minimumPeriod)
      }
      nearest = min(nearest ?? wait, wait)
    }
    // From the count's own beginning, so that the deadline does not come a fraction of a count early.
    return nearest.map { wait in
      let (product, overflow) = (count &- base &+ wait).multipliedReportingOverflow(by: Self.period)
      return overflow || product > 1 << 62 ? 1 << 62 : start &+ product
    }
  }

  private mutating func fire(_ index: Int, _ effects: inout HPETEffects) {
    let timer = timers[index]
    if timer.isLevel { status |= 1 << UInt32(index) }
    guard timer.isEnabled else { return }
    if timer.sendsMessage {
      effects.messages |= 1 << UInt8(index)
    } else if !timer.isLevel {
      effects.pulses |= 1 << input(of: index)
    }
  }

  /// Signed counts between two values, in the timer's width.
  private static func distance(_ timer: Timer, from: UInt64, to: UInt64) -> Int64 {
    timer.is32Bit
      ? Int64(Int32(truncatingIfNeeded: to &- from)) : Int64(bitPattern: to &- from)
  }

  private static func truncated(_ timer: Timer, _ value: UInt64) -> UInt64 {
    timer.is32Bit ? value & 0xFFFF_FFFF : value
  }

  // MARK: - Registers (2.3)

  /// The 64-bit register at `offset` (a multiple of 8). After `advance`.
  package func read(_ offset: UInt64, at now: UInt64) -> UInt64 {
    switch offset {
    case 0x000:
      // Period in femtoseconds; vendor 8086, legacy capable, 64 bits, number of timers, revision 1.
      return (Self.period &* 1_000_000) << 32 | 0x8086_A001 | UInt64(timers.count - 1) << 8
    case 0x010: return UInt64(configuration)
    case 0x020: return UInt64(status)
    case 0x0F0: return counter(at: now)
    case 0x100..<0x160:
      let timer = timers[Int(offset - 0x100) >> 5]
      switch offset & 0x1F {
      case 0x00:
        return UInt64(timer.configuration) | 0x30 | (hasMessages ? 1 << 15 : 0)
          | UInt64(inputs) << 32
      case 0x08: return Self.truncated(timer, timer.comparator)
      case 0x10: return timer.route
      default: return 0
      }
    default: return 0
    }
  }

  /// A write of `bits` (in place within the 64-bit register at `offset`) where `mask` says. After `advance`.
  package mutating func write(_ offset: UInt64, _ bits: UInt64, mask: UInt64, at now: UInt64) {
    switch offset {
    case 0x010 where mask & 3 != 0: setConfiguration(bits, mask, now)
    case 0x020: status &= ~UInt32(truncatingIfNeeded: bits & mask)
    case 0x0F0: if !isRunning { base = base & ~mask | bits & mask }
    case 0x100..<0x160: writeTimer(Int(offset - 0x100) >> 5, offset & 0x1F, bits & mask, mask)
    default: break
    }
  }

  private mutating func setConfiguration(_ bits: UInt64, _ mask: UInt64, _ now: UInt64) {
    let old = configuration
    let value = UInt8(truncatingIfNeeded: UInt64(old) & ~mask | bits & mask) & 3
    if old & 1 != 0 && value & 1 == 0 { base = counter(at: now) }
    configuration = value
    guard old & 1 == 0 && value & 1 != 0 else { return }
    start = now
    // One that has fired fires again only if the counter was set back behind it.
    for index in timers.indices
    where timers[index].comparator != UInt64.max
      && Self.distance(timers[index], from: base, to: timers[index].comparator) > 0
    {
      timers[index].isArmed = true
    }
  }

  private mutating func writeTimer(
    _ index: Int, _ register: UInt64, _ bits: UInt64, _ mask: UInt64
  ) {
    switch register {
    case 0x00:
      let writable: UInt64 = hasMessages ? 0x7F4E : 0x3F4E
      let merged = UInt64(timers[index].configuration) & ~mask | bits
      timers[index].configuration = UInt32(truncatingIfNeeded: merged & writable)
      if !timers[index].isLevel { status &= ~(1 << UInt32(index)) }
      if timers[index].is32Bit {
        timers[index].comparator &= 0xFFFF_FFFF
        timers[index].period &= 0xFFFF_FFFF
      }
    case 0x08:
      let timer = timers[index]
      if !timer.isPeriodic || timer.setsValue {
        timers[index].comparator = Self.truncated(timer, timer.comparator & ~mask | bits)
      }
      if timer.isPeriodic {
        timers[index].period = Self.truncated(timer, timer.period & ~mask | bits)
      }
      timers[index].configuration &= ~(1 << 6)
      timers[index].isArmed = true
    case 0x10: if hasMessages { timers[index].route = timers[index].route & ~mask | bits }
    default: break
    }
  }
}
