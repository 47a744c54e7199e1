import Synchronization

/// Threads for calls that block: started when there is work and none is free, gone when idle for a while.
package final class WorkerPool: Sendable {
  /// The process's own, for input and output that would wait.
  package static let shared = WorkerPool(name: "worker", limit: 128)

  private struct State {
    var jobs: [@Sendable () -> Void] = []
    /// The first of `jobs` that is still to be done: taking is cheap however many there are.
    var next = 0
    var threadCount = 0
    var idleCount = 0
    var started = 0
    var waiting: Int { jobs.count - next }
  }

  private let name: String
  private let limit: Int
  private let idleNanoseconds: Int64
  private let state = Mutex(State())
  private let work = WaitWord()

  /// A pool of at most `limit` threads, each called `name/N`.
  package init(name: String, limit: Int, idleMilliseconds: Int64 = 10_000) {
    self.name = name
    self.limit = max(1, limit)
    idleNanoseconds = idleMilliseconds * 1_000_000
  }

  /// How many threads there are now.
  package var threadCount: Int { state.withLock { $0.threadCount } }

  /// Runs `job` on a thread of the pool, soon, in order of the calls as far as threads are free. Any thread.
  package func submit(_ job: @escaping @Sendable () -> Void) {
    let (mustWake, number): (Bool, Int?) = state.withLock { state in
      state.jobs.append(job)
      if state.idleCount >= state.waiting { return (true, nil) }
      guard state.threadCount < limit else { return (state.idleCount > 0, nil) }
      state.threadCount += 1
      state.started += 1
      return (state.idleCount > 0, state.started)
    }
    if let number {
      do throws(SystemError) {
        try HostThread(name: "\(name)/\(number)") { [self] in run() }.detach()
      } catch {
        let isAlone = state.withLock { state in
          state.threadCount -= 1
          return state.threadCount == 0
        }
        // Without any thread the caller does it.
        if isAlone { drain() }
      }
    }
    if mustWake { work.advanceOne() }
  }

  private func take(_ state: inout State) -> (@Sendable () -> Void)? {
    guard state.next < state.jobs.count else { return nil }
    let job = state.jobs[state.next]
    state.jobs[state.next] = {}
    state.next += 1
    if state.next == state.jobs.count {
      state.jobs.removeAll(keepingCapacity: state.jobs.capacity <= 1024)
      state.next = 0
    } else if state.next > 4096 {
      state.jobs.removeFirst(state.next)
      state.next = 0
    }
    return job
  }

  private func drain() {
    while let job = state.withLock({ take(&$0) }) { job() }
  }

  private func run() {
    while true {
      drain()
      let seen = work.value
      let isEmpty = state.withLock { state in
        guard state.waiting == 0 else { return false }
        state.idleCount += 1
        return true
      }
      guard isEmpty else { continue }
      let before = HostClock.monotonic
      work.wait(while: seen, nanoseconds: idleNanoseconds)
      let ends = state.withLock { state in
        state.idleCount -= 1
        guard state.waiting == 0, HostClock.monotonic - before >= idleNanoseconds else {
          return false
        }
        state.threadCount -= 1
        return true
      }
      if ends { return }
    }
  }
}
