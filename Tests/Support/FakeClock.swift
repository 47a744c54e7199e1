package import DeviceModel
import Synchronization

/// The machine's clock in tests: it moves only when told, and fires timers on the caller's thread in order of their deadlines.
package final class FakeClock: MachineClock {
  private struct Times {
    var now: Int64
    var wallOffset: Int64
    var timers: [WeakTimer] = []
  }
  private struct WeakTimer {
    weak var timer: FakeTimer?
  }
  private let times: Mutex<Times>

  /// A clock at `now`; the wall clock is `wall` then (2024-02-29 12:00:00 UTC unless told).
  package init(now: Int64 = 0, wall: Int64 = 1_709_208_000_000_000_000) {
    times = Mutex(Times(now: now, wallOffset: wall &- now))
  }

  package var now: Int64 { times.withLock { $0.now } }
  package var wallClock: Int64 { times.withLock { $0.now &+ $0.wallOffset } }

  package func makeTimer(_ fire: @escaping @Sendable () -> Void) -> any MachineTimer {
    let timer = FakeTimer(clock: self, fire)
    times.withLock { state in
      state.timers.removeAll { $0.timer == nil }
      state.timers.append(WeakTimer(timer: timer))
    }
    return timer
  }

  /// The earliest deadline of an armed timer.
  package var nextDeadline: Int64? { due(before: Int64.max)?.deadline }

  /// Moves time by `nanoseconds`, firing what becomes due at its own deadline.
  package func advance(by nanoseconds: Int64) { advance(to: now &+ nanoseconds) }

  /// Moves time to `target`, firing what becomes due at its own deadline.
  package func advance(to target: Int64) {
    while let (timer, deadline) = due(before: target) {
      times.withLock { $0.now = max($0.now, deadline) }
      timer.expire()
    }
    times.withLock { $0.now = max($0.now, target) }
  }

  /// Sets the host's wall clock without moving virtual time.
  package func setWallClock(_ nanoseconds: Int64) {
    times.withLock { $0.wallOffset = nanoseconds &- $0.now }
  }

  private func due(before target: Int64) -> (timer: FakeTimer, deadline: Int64)? {
    let timers = times.withLock { $0.timers.compactMap(\.timer) }
    var best: (FakeTimer, Int64)?
    for timer in timers {
      guard let deadline = timer.deadline, deadline <= target else { continue }
      if let present = best, present.1 <= deadline { continue }
      best = (timer, deadline)
    }
    return best.map { ($0.0, $0.1) }
  }
}

/// A timer of a `FakeClock`.
private final class FakeTimer: MachineTimer {
  private let armed = Mutex<Int64?>(nil)
  private let fire: @Sendable () -> Void

  init(clock: FakeClock, _ fire: @escaping @Sendable () -> Void) { self.fire = fire }

  var deadline: Int64? { armed.withLock { $0 } }

  func arm(at deadline: Int64) { armed.withLock { $0 = deadline } }

  func cancel() { armed.withLock { $0 = nil } }

  func expire() {
    armed.withLock { $0 = nil }
    fire()
  }
}

/// The far end of an interrupt line: the present level and how often it rose.
package final class RecordedLine: Sendable {
  private let state = Mutex<(level: Bool, rises: Int)>((false, 0))

  package init() {}

  /// What a device is given.
  package var line: InterruptLine {
    InterruptLine { [self] level in
      state.withLock { state in
        if level && !state.level { state.rises += 1 }
        state.level = level
      }
    }
  }

  package var level: Bool { state.withLock { $0.level } }
  package var rises: Int { state.withLock { $0.rises } }
}

/// A generator with a seed, so that a failing random test can be repeated (splitmix64).
package struct SeededGenerator: RandomNumberGenerator, Sendable {
  private var state: UInt64

  package init(seed: UInt64) { state = seed }

  package mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }
}
