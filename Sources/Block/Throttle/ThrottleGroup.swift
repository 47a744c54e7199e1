package import Host
import Synchronization

/// Requests that share limits (`-object throttle-group`, or the group of a `-drive`).
package final class ThrottleGroup: Sendable {
  package let name: String

  private struct Waiting: Sendable {
    let bytes: UInt64
    let start: @Sendable () -> Void
  }
  private struct State {
    var model = ThrottleModel()
    /// Requests in order of arrival: reads, writes.
    var reads: [Waiting] = []
    var writes: [Waiting] = []
    var timer: HostTimer?
    var users = 0
  }
  private let state: Mutex<State>
  private let clock: @Sendable () -> Int64
  private let isEnabledNow = Atomic<Bool>(false)

  /// A group without limits. `clock` answers monotonic nanoseconds.
  package init(name: String, clock: @escaping @Sendable () -> Int64 = { HostClock.monotonic }) {
    self.name = name
    self.clock = clock
    state = Mutex(State())
  }

  package var limits: ThrottleLimits {
    get { state.withLock { $0.model.limits } }
  }

  /// Replaces the limits. Throws in QEMU's words when they contradict each other. What waits is looked at anew.
  package func configure(_ limits: ThrottleLimits) throws(BlockError) {
    try limits.check()
    let now = clock()
    state.withLock { $0.model.configure(limits, now: now) }
    isEnabledNow.store(limits.isEnabled, ordering: .releasing)
    release()
  }

  /// Whether requests need asking at all.
  package var isEnabled: Bool { isEnabledNow.load(ordering: .acquiring) }

  /// How many requests wait.
  package var waitingCount: Int { state.withLock { $0.reads.count + $0.writes.count } }

  /// True when a request may start at once. Else `start` is called when it may, on the thread of the timers; it must be short.
  package func admit(
    isWrite: Bool, bytes: UInt64, _ start: @escaping @Sendable () -> Void
  ) -> Bool {
    guard isEnabled else { return true }
    let now = clock()
    return state.withLock { state in
      let isFirst = isWrite ? state.writes.isEmpty : state.reads.isEmpty
      if isFirst, state.model.wait(isWrite: isWrite, now: now) == 0 {
        state.model.account(isWrite: isWrite, bytes: bytes)
        return true
      }
      let waiting = Waiting(bytes: bytes, start: start)
      if isWrite { state.writes.append(waiting) } else { state.reads.append(waiting) }
      arm(&state, now)
      return false
    }
  }

  /// Waits on the calling thread until a request may start.
  package func waitToStart(isWrite: Bool, bytes: UInt64) {
    guard isEnabled else { return }
    let word = WaitWord()
    let seen = word.value
    if admit(isWrite: isWrite, bytes: bytes, { word.advance() }) { return }
    while word.value == seen { word.wait(while: seen) }
  }

  /// Lets everything go that waits, limits or not: what is drained may not wait for long.
  package func releaseAll() {
    let all = state.withLock { state in
      let all = state.reads + state.writes
      state.reads = []
      state.writes = []
      for request in all { state.model.account(isWrite: false, bytes: request.bytes) }
      return all
    }
    for request in all { request.start() }
  }

  /// Starts what may start now. Called by the timer; by tests, whose clock has moved.
  package func release() {
    let now = clock()
    let ready = state.withLock { state in
      var ready: [Waiting] = []
      while let first = state.reads.first,
        state.model.wait(isWrite: false, now: now) == 0
      {
        state.model.account(isWrite: false, bytes: first.bytes)
        ready.append(state.reads.removeFirst())
        // In turns, so that neither starves the other.
        if let write = state.writes.first, state.model.wait(isWrite: true, now: now) == 0 {
          state.model.account(isWrite: true, bytes: write.bytes)
          ready.append(state.writes.removeFirst())
        }
      }
      while let first = state.writes.first, state.model.wait(isWrite: true, now: now) == 0 {
        state.model.account(isWrite: true, bytes: first.bytes)
        ready.append(state.writes.removeFirst())
      }
      arm(&state, now)
      return ready
    }
    for request in ready { request.start() }
  }

  private func arm(_ state: inout State, _ now: Int64) {
    var wait = Int64.max
    if !state.reads.isEmpty { wait = min(wait, state.model.wait(isWrite: false, now: now)) }
    if !state.writes.isEmpty { wait = min(wait, state.model.wait(isWrite: true, now: now)) }
    guard wait != Int64.max else { return }
    if state.timer == nil {
      state.timer = BlockThreads.timers?.makeTimer { [weak self] in self?.release() }
    }
    let (deadline, overflow) = now.addingReportingOverflow(max(wait, 1))
    state.timer?.arm(at: overflow ? Int64.max - 1 : deadline)
  }
}

/// The groups of a process by name.
package final class ThrottleGroups: Sendable {
  private let groups = Mutex<[String: (group: ThrottleGroup, users: Int)]>([:])

  package init() {}

  /// The group of that name, made when missing; each call is a use, to be given back with `release`.
  package func use(_ name: String) -> ThrottleGroup {
    groups.withLock { groups in
      var entry = groups[name] ?? (ThrottleGroup(name: name), 0)
      entry.users += 1
      groups[name] = entry
      return entry.group
    }
  }

  /// The group of that name.
  package func find(_ name: String) -> ThrottleGroup? { groups.withLock { $0[name]?.group } }

  /// How many use it.
  package func userCount(_ name: String) -> Int { groups.withLock { $0[name]?.users ?? 0 } }

  /// Ends a use; the last one ends the group.
  package func release(_ name: String) {
    groups.withLock { groups in
      guard var entry = groups[name] else { return }
      entry.users -= 1
      groups[name] = entry.users > 0 ? entry : nil
    }
  }
}

/// Threads that the block graph needs by itself, made at first use.
enum BlockThreads {
  private static let service = Mutex<IOThread?>(nil)

  /// Timers that fire on a thread of our own: tools have no main loop. Nil when the system has no thread for us.
  static var timers: TimerQueue? {
    service.withLock { thread in
      if thread == nil { thread = try? IOThread(name: "block") }
      return thread?.timers
    }
  }
}
