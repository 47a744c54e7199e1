// The local APIC's timer (Intel SDM vol. 3A, 11.5.4). It counts at 1 GHz before the divider: one tick per
// nanosecond of guest time. The model never waits: it says when it wants to be asked again.

/// When the timer has something to do next.
package enum APICDeadline: Equatable, Sendable, BitwiseCopyable {
  /// Never.
  case none
  /// At this guest time.
  case nanoseconds(UInt64)
  /// When the time stamp counter has this value.
  case tsc(UInt64)
}

/// State of the timer; its mode and mask are those of the local vector.
package struct APICTimer: Equatable, Sendable, BitwiseCopyable {
  /// Shortest distance of two periodic interrupts: a guest that asks for less gets fewer, not a busy host.
  package static let minimumPeriodNanoseconds: UInt64 = 50_000

  /// Initial count register.
  package internal(set) var initialCount: UInt32 = 0
  /// Divide configuration register, bits 0, 1 and 3.
  package internal(set) var divideConfiguration: UInt32 = 0
  /// Guest time at which the count was `initialCount`.
  var start: UInt64 = 0
  /// A count-down is under way.
  package internal(set) var isRunning = false
  /// Guest time of the next zero crossing that is to be acted on.
  var expiry: UInt64 = 0
  /// IA32_TSC_DEADLINE; 0 is disarmed.
  package internal(set) var tscDeadline: UInt64 = 0

  /// Stopped, as after reset.
  package init() {}

  /// Nanoseconds per count: 1 to 128 (SDM figure 11-10).
  package var divider: UInt64 {
    let code = divideConfiguration & 3 | divideConfiguration >> 1 & 4
    return code == 7 ? 1 : 2 << UInt64(code)
  }

  /// Length of a whole count-down in nanoseconds, below 2^39.
  var periodNanoseconds: UInt64 { UInt64(initialCount) &* divider }

  /// The current count register.
  func currentCount(at now: UInt64, _ mode: APICTimerMode) -> UInt32 {
    guard isRunning, initialCount != 0 else { return 0 }
    let ticks = Self.elapsed(from: start, to: now) / divider
    switch mode {
    case .oneShot:
      return ticks >= UInt64(initialCount) ? 0 : initialCount &- UInt32(truncatingIfNeeded: ticks)
    case .periodic:
      return initialCount &- UInt32(truncatingIfNeeded: ticks % UInt64(initialCount))
    case .tscDeadline, .reserved: return 0
    }
  }

  /// Nanoseconds since `start`; 0 when a reader's clock was taken a moment before the writer's.
  static func elapsed(from start: UInt64, to now: UInt64) -> UInt64 {
    let difference = Int64(bitPattern: now &- start)
    return difference < 0 ? 0 : UInt64(difference)
  }
}

extension LocalAPIC {
  /// When `advance` must be called next. Nothing is due while the local vector is masked: a masked expiry has
  /// no visible effect that a later register access could not compute.
  package var nextDeadline: APICDeadline {
    guard !lvt.timer.isMasked else { return .none }
    switch lvt.timer.timerMode {
    case .oneShot, .periodic: return timer.isRunning ? .nanoseconds(timer.expiry) : .none
    case .tscDeadline: return timer.tscDeadline != 0 ? .tsc(timer.tscDeadline) : .none
    case .reserved: return .none
    }
  }

  /// Lets the timer expire if it is time. Returns whether it did.
  @discardableResult
  package mutating func advance(to time: APICTime) -> Bool {
    switch lvt.timer.timerMode {
    case .oneShot:
      guard timer.isRunning, hasPassed(timer.expiry, time.nanoseconds) else { return false }
      timer.isRunning = false
    case .periodic:
      guard timer.isRunning, hasPassed(timer.expiry, time.nanoseconds) else { return false }
      scheduleNextPeriod(after: time.nanoseconds)
    case .tscDeadline:
      guard timer.tscDeadline != 0, time.tsc >= timer.tscDeadline else { return false }
      timer.tscDeadline = 0
    case .reserved: return false
    }
    if !lvt.timer.isMasked { acceptVector(lvt.timer.vector, .edge) }
    return true
  }

  // MARK: - Register writes

  mutating func setTimerVector(_ entry: LocalVector, at time: APICTime) {
    advance(to: time)
    let old = lvt.timer.timerMode
    lvt.timer = entry
    guard old != entry.timerMode else { return }
    // Into or out of TSC-deadline mode the timer is disarmed (SDM 11.5.4.1); between the other
    // two the count goes on.
    if old == .tscDeadline || entry.timerMode == .tscDeadline {
      timer.isRunning = false
      timer.initialCount = 0
      timer.tscDeadline = 0
    } else if timer.isRunning {
      scheduleNextPeriod(after: time.nanoseconds)
    }
  }

  mutating func setInitialCount(_ value: UInt32, at time: APICTime) {
    guard lvt.timer.timerMode != .tscDeadline else { return }
    advance(to: time)
    timer.initialCount = value
    timer.start = time.nanoseconds
    timer.isRunning = value != 0
    timer.expiry = timer.start &+ timer.periodNanoseconds
  }

  /// A new divider applies to what is left of the count.
  mutating func setDivide(_ value: UInt32, at time: APICTime) {
    advance(to: time)
    let now = time.nanoseconds
    let ticks =
      APICTimer.elapsed(from: timer.start, to: now) / timer.divider
      % max(UInt64(timer.initialCount), 1)
    timer.divideConfiguration = value
    guard timer.isRunning else { return }
    timer.start = now &- ticks &* timer.divider
    timer.expiry = timer.start &+ timer.periodNanoseconds
  }

  /// IA32_TSC_DEADLINE: writes in other timer modes are ignored, 0 disarms (SDM 11.5.4.1).
  mutating func setTSCDeadline(_ value: UInt64, at time: APICTime) {
    guard lvt.timer.timerMode == .tscDeadline else { return }
    timer.tscDeadline = value
    advance(to: time)
  }

  // MARK: - Private

  private func hasPassed(_ deadline: UInt64, _ now: UInt64) -> Bool {
    Int64(bitPattern: now &- deadline) >= 0
  }

  /// The next multiple of the period that is at least the minimum away; missed ones are one interrupt.
  private mutating func scheduleNextPeriod(after now: UInt64) {
    let period = timer.periodNanoseconds
    guard period != 0 else { return }
    let earliest =
      period < APICTimer.minimumPeriodNanoseconds
      ? now &+ APICTimer.minimumPeriodNanoseconds : now &+ 1
    let elapsed = APICTimer.elapsed(from: timer.start, to: earliest)
    let periods = elapsed / period &+ (elapsed % period == 0 ? 0 : 1)
    timer.expiry = timer.start &+ periods &* period
  }
}
