import CLinux
import Glibc
import Synchronization

/// A named thread with an epoll loop of its own: jobs posted to it, descriptors, timers. Devices put their queues on one (`-object iothread`).
package final class IOThread: Sendable {
  package typealias Job = @Sendable () -> Void

  /// The name without what the thread's own begins with.
  package let name: String
  /// Timers that fire on this thread.
  package let timers: TimerQueue
  private let epoll: FileDescriptor
  private let wake: FileDescriptor
  private let thread = Mutex<HostThread?>(nil)
  private let threadHandle = Atomic<UInt>(0)
  private let isStopping = Atomic<Bool>(false)
  /// Nanoseconds; see `setPolling`.
  private let pollMaximum = Atomic<Int64>(0)
  private let pollGrow = Atomic<Int64>(0)
  private let pollShrink = Atomic<Int64>(0)

  private struct State {
    var jobs: [Job] = []
    /// The thread looks at `jobs` again only when woken.
    var isSleeping = false
    var watches: [UInt64: IOWatch] = [:]
    var nextWatch: UInt64 = 1
  }
  private let state = Mutex(State())

  /// Starts the thread, called `io/name`. Throws `SystemError`.
  package init(name: String) throws(SystemError) {
    self.name = name
    epoll = FileDescriptor(
      owning: try SystemError.check("epoll_create1") { () -> Int32 in
        epoll_create1(Int32(EPOLL_CLOEXEC))
      })
    wake = FileDescriptor(
      owning: try SystemError.check("eventfd") { () -> Int32 in
        eventfd(0, Int32(EFD_NONBLOCK) | Int32(EFD_CLOEXEC))
      })
    timers = try TimerQueue()
    try control(EPOLL_CTL_ADD, wake.rawValue, .readable, 0)
    try control(EPOLL_CTL_ADD, timers.pollDescriptor, .readable, UInt64.max)
    let started = try HostThread(name: "io/\(name)") { [self] in loop() }
    thread.withLock { $0 = started }
  }

  /// The thread's kernel id.
  package var threadID: Int64 { thread.withLock { $0 }?.id ?? 0 }

  /// Whether the caller is this thread.
  package var isCurrent: Bool {
    threadHandle.load(ordering: .relaxed) == UInt(pthread_self())
  }

  /// Runs `job` on the thread soon, in order of the calls. Any thread.
  package func post(_ job: @escaping Job) {
    let mustWake = state.withLock { state in
      state.jobs.append(job)
      defer { state.isSleeping = false }
      return state.isSleeping
    }
    if mustWake { signal() }
  }

  /// How long the thread looks for work before it sleeps (`poll-max-ns` of `-object iothread`): 0 never; it looks only as long as that has been worth it.
  /// `grow` and `shrink` are the factors by which the time changes, 0 for doubling and for dropping it.
  package func setPolling(maximum: Int64, grow: Int64, shrink: Int64) {
    pollGrow.store(grow, ordering: .relaxed)
    pollShrink.store(shrink, ordering: .relaxed)
    pollMaximum.store(maximum, ordering: .relaxed)
  }

  /// Runs `job` on the thread and waits for its end; at once on the thread itself.
  package func run(_ job: @escaping Job) {
    if isCurrent { return job() }
    let done = WaitWord()
    let seen = done.value
    post {
      job()
      done.advance()
    }
    while done.value == seen { done.wait(while: seen) }
  }

  /// Calls `handler` on the thread whenever `descriptor` is ready for `interest`, until the watch is cancelled. Throws `SystemError`.
  package func watch(
    _ descriptor: Int32, _ interest: Readiness, _ handler: @escaping @Sendable (Readiness) -> Void
  ) throws(SystemError) -> IOWatch {
    let watch = state.withLock { state in
      let watch = IOWatch(self, descriptor, state.nextWatch, handler)
      state.watches[state.nextWatch] = watch
      state.nextWatch += 1
      return watch
    }
    do throws(SystemError) {
      try control(EPOLL_CTL_ADD, descriptor, interest, watch.id)
    } catch {
      state.withLock { $0.watches[watch.id] = nil }
      throw error
    }
    return watch
  }

  /// Ends the loop after what has been posted, and waits for it. Not from the thread itself. Later calls do nothing.
  package func stop() {
    guard let ending = thread.withLock({ $0.take() }) else { return }
    isStopping.store(true, ordering: .releasing)
    state.withLock { $0.isSleeping = false }
    signal()
    ending.join()
    state.withLock { $0.watches = [:] }
  }

  // MARK: -

  fileprivate func modify(_ watch: IOWatch, _ interest: Readiness) {
    _ = try? control(EPOLL_CTL_MOD, watch.descriptor, interest, watch.id)
  }

  fileprivate func remove(_ watch: IOWatch) {
    let isKnown = state.withLock { $0.watches.removeValue(forKey: watch.id) != nil }
    if isKnown { _ = try? control(EPOLL_CTL_DEL, watch.descriptor, [], watch.id) }
  }

  private func signal() {
    var one: UInt64 = 1
    // SAFETY: writes the eight bytes of a local.
    _ = unsafe write(wake.rawValue, &one, 8)
  }

  private func control(
    _ operation: Int32, _ descriptor: Int32, _ interest: Readiness, _ id: UInt64
  ) throws(SystemError) {
    // SAFETY: a plain struct of the kernel's; `event` outlives the call.
    var event = unsafe epoll_event()
    unsafe event.events = interest.rawValue
    unsafe event.data.u64 = id
    if unsafe epoll_ctl(epoll.rawValue, operation, descriptor, &event) != 0 {
      throw SystemError(call: "epoll_ctl", code: errno)
    }
  }

  /// Looking for work pays when work mostly comes within the longest time allowed.
  private func adapt(_ time: inout Int64, waited: Int64) {
    let maximum = pollMaximum.load(ordering: .relaxed)
    if maximum <= 0 {
      time = 0
    } else if waited > maximum {
      let factor = pollShrink.load(ordering: .relaxed)
      time = factor > 0 ? time / factor : 0
    } else if waited > time {
      let factor = pollGrow.load(ordering: .relaxed)
      let (grown, overflow) = time.multipliedReportingOverflow(by: factor > 0 ? factor : 2)
      time = overflow ? maximum : min(maximum, max(grown, 4000))
    }
  }

  private func loop() {
    threadHandle.store(UInt(pthread_self()), ordering: .relaxed)
    // SAFETY: plain structs, filled by the kernel.
    var events = unsafe [epoll_event](repeating: epoll_event(), count: 64)
    var jobs: [Job] = []
    var pollTime: Int64 = 0
    while true {
      // The two arrays change places, so that neither is allocated anew.
      state.withLock { swap(&jobs, &$0.jobs) }
      if jobs.isEmpty {
        if isStopping.load(ordering: .acquiring) { return }
      } else {
        for job in jobs { job() }
        jobs.removeAll(keepingCapacity: jobs.capacity <= 4096)
      }
      let began = HostClock.monotonic
      var count: Int32 = 0
      if pollTime > 0 {
        repeat {
          // SAFETY: the kernel fills at most the array's size.
          count = unsafe epoll_wait(epoll.rawValue, &events, Int32(events.count), 0)
        } while count == 0 && state.withLock { $0.jobs.isEmpty }
          && HostClock.monotonic &- began < pollTime && !isStopping.load(ordering: .acquiring)
      }
      if count == 0 {
        let sleeps = state.withLock { state in
          state.isSleeping = state.jobs.isEmpty && !isStopping.load(ordering: .acquiring)
          return state.isSleeping
        }
        // SAFETY: as above.
        count = unsafe epoll_wait(
          epoll.rawValue, &events, Int32(events.count), sleeps ? -1 : 0)
      }
      adapt(&pollTime, waited: HostClock.monotonic &- began)
      if count <= 0 { continue }
      for index in 0..<Int(count) {
        let id = unsafe events[index].data.u64
        if id == 0 {
          var value: UInt64 = 0
          // SAFETY: reads the counter into a local.
          _ = unsafe read(wake.rawValue, &value, 8)
        } else if id == UInt64.max {
          timers.expire()
        } else if let watch = state.withLock({ $0.watches[id] }) {
          watch.handler(Readiness(rawValue: unsafe events[index].events))
        }
      }
    }
  }
}

/// A descriptor's registration with an `IOThread`. Cancel it before the descriptor is closed.
package final class IOWatch: Sendable {
  private let owner: IOThread
  fileprivate let descriptor: Int32
  fileprivate let id: UInt64
  fileprivate let handler: @Sendable (Readiness) -> Void

  fileprivate init(
    _ owner: IOThread, _ descriptor: Int32, _ id: UInt64,
    _ handler: @escaping @Sendable (Readiness) -> Void
  ) {
    self.owner = owner
    self.descriptor = descriptor
    self.id = id
    self.handler = handler
  }

  /// Waits for something else from now on; empty pauses the watch. Any thread.
  package func change(to interest: Readiness) { owner.modify(self, interest) }

  /// Ends the watch; when called on the thread itself, the handler is not called again, else it may be running once more.
  package func cancel() { owner.remove(self) }
}
