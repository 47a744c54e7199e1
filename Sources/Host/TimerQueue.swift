import CLinux
import Glibc
import Synchronization

/// Timers on the monotonic clock that any thread may arm; they fire on the main loop's thread.
///
/// A machine has some dozen timers, so the earliest is found by a scan of a flat table: no allocation when arming.
package final class TimerQueue: Sendable {
  package static let never = Int64.max

  private struct Slot {
    var deadline: Int64
    var fire: (@Sendable () -> Void)?
  }
  private struct Slots {
    var table: [Slot] = []
    var programmed = TimerQueue.never
    var earliest: Int64 { table.reduce(TimerQueue.never) { min($0, $1.deadline) } }
  }
  private let slots = Mutex(Slots())
  private let descriptor: Int32

  init() throws(SystemError) {
    descriptor = try SystemError.check("timerfd_create") { () -> Int32 in
      timerfd_create(CLOCK_MONOTONIC, Int32(TFD_NONBLOCK) | Int32(TFD_CLOEXEC))
    }
  }

  deinit { _ = close(descriptor) }

  var pollDescriptor: Int32 { descriptor }

  /// A new timer, not armed. `fire` runs on the main loop's thread and must be short.
  package func makeTimer(_ fire: @escaping @Sendable () -> Void) -> HostTimer {
    let index = slots.withLock { state in
      if let free = state.table.firstIndex(where: { $0.fire == nil }) {
        state.table[free] = Slot(deadline: TimerQueue.never, fire: fire)
        return free
      }
      state.table.append(Slot(deadline: TimerQueue.never, fire: fire))
      return state.table.count - 1
    }
    return HostTimer(queue: self, index: index)
  }

  fileprivate func arm(_ index: Int, at deadline: Int64) {
    slots.withLock { state in
      state.table[index].deadline = deadline
      // A later deadline leaves the descriptor as it is: it wakes once too early and is programmed anew then.
      if deadline < state.programmed { program(&state, deadline) }
    }
  }

  fileprivate func remove(_ index: Int) {
    slots.withLock { $0.table[index] = Slot(deadline: TimerQueue.never, fire: nil) }
  }

  /// Fires what is due. Main loop only.
  func expire() {
    var count: UInt64 = 0
    // SAFETY: reads the descriptor's eight-byte counter into a local.
    _ = unsafe read(descriptor, &count, 8)
    let now = HostClock.monotonic
    slots.withLock { $0.programmed = TimerQueue.never }
    while true {
      let fire: (@Sendable () -> Void)? = slots.withLock { state in
        guard let due = state.table.firstIndex(where: { $0.deadline <= now }) else {
          program(&state, state.earliest)
          return nil
        }
        state.table[due].deadline = TimerQueue.never
        return state.table[due].fire
      }
      guard let fire else { return }
      fire()
    }
  }

  private func program(_ state: inout Slots, _ deadline: Int64) {
    state.programmed = deadline
    var time = itimerspec()
    if deadline != TimerQueue.never {
      let at = max(deadline, 1)  // zero would disarm
      time.it_value.tv_sec = Int(at / 1_000_000_000)
      time.it_value.tv_nsec = Int(at % 1_000_000_000)
    }
    // SAFETY: `time` outlives the call.
    _ = unsafe timerfd_settime(descriptor, Int32(TFD_TIMER_ABSTIME), &time, nil)
  }
}

/// One timer of a `TimerQueue`; gone with its last reference.
package final class HostTimer: Sendable {
  private let queue: TimerQueue
  private let index: Int

  fileprivate init(queue: TimerQueue, index: Int) {
    self.queue = queue
    self.index = index
  }

  deinit { queue.remove(index) }

  /// Fires once at `deadline` (monotonic nanoseconds); a new call replaces the old one. Any thread.
  package func arm(at deadline: Int64) { queue.arm(index, at: deadline) }

  /// Does not fire any more, unless it is firing right now. Any thread.
  package func cancel() { queue.arm(index, at: TimerQueue.never) }
}
