import CLinux
import Glibc
import Synchronization

/// The thread of monitors, chardevs, timers and run state: one epoll loop, and the executor of code marked `@MainLoop`.
///
/// `MainLoop.run` makes the calling thread that thread. Nothing on it may block.
@globalActor
package actor MainLoop {
  package static let shared = MainLoop()

  private nonisolated let executor = EpollExecutor()

  package nonisolated var unownedExecutor: UnownedSerialExecutor {
    // SAFETY: the executor lives as long as the process.
    unsafe executor.asUnownedSerialExecutor()
  }

  /// The timers that fire on this loop.
  package nonisolated static var timers: TimerQueue { shared.executor.timers }

  /// Makes the calling thread the main loop and runs `start`, then events until `stop` is called. Answers `stop`'s status.
  package nonisolated static func run(_ start: @escaping @MainLoop () -> Void) -> Int32 {
    shared.executor.adoptThread()
    let body: @MainLoop () -> Int32 = {
      start()
      return shared.executor.loop()
    }
    // SAFETY: this thread is the executor's from here on; the cast drops the isolation it now has.
    return unsafe unsafeBitCast(body, to: (() -> Int32).self)()
  }

  /// Ends `run` after the present event. Any thread.
  package nonisolated static func stop(status: Int32) { shared.executor.stop(status) }

  /// Runs `job` on the main loop soon, in order of the calls. Any thread.
  package nonisolated static func post(_ job: @escaping @MainLoop @Sendable () -> Void) {
    shared.executor.post(job)
  }

  /// Starts `body` at once and answers when it ends or first waits; it goes on in later turns.
  ///
  /// The loop is the task's preferred executor as well: continuations resume there, and not by way of the global
  /// executor, which the process otherwise never needs. (`Task.immediate` knows no preference.)
  @MainLoop
  @discardableResult
  package static func start(_ body: @escaping @MainLoop @Sendable () async -> Void) -> Task<
    Void, Never
  > {
    shared.executor.runImmediately {
      Task(executorPreference: shared.executor, operation: body)
    }
  }

  /// Lets others have their turn and goes on in the next one: long work on the main loop is cut into pieces with this.
  ///
  /// (Isolated by name, as `HostThread.value` is.)
  @MainLoop
  package static func nextTurn() async {
    await withCheckedContinuation { continuation in post { continuation.resume() } }
  }

  /// Whether the caller runs on the main loop's thread.
  package nonisolated static var isCurrent: Bool { shared.executor.isCurrentThread }

  /// Runs `body` at once; for callbacks (timers, C) that are known to come on the main loop's thread.
  ///
  /// Stops the process when they do not: that is an error of ours that no guest can cause.
  package nonisolated static func assumeIsolated<T>(_ body: @MainLoop () -> T) -> T {
    precondition(isCurrent, "not on the main loop")
    return withoutActuallyEscaping(body) { body in
      // SAFETY: checked above; the cast drops an isolation that holds.
      unsafe unsafeBitCast(body, to: (() -> T).self)()
    }
  }

  /// Calls `handler` whenever `descriptor` is ready for `interest`, until the watch is cancelled or released.
  @MainLoop
  package static func watch(
    _ descriptor: Int32, _ interest: Readiness, _ handler: @escaping @MainLoop (Readiness) -> Void
  ) throws(SystemError) -> Watch {
    try shared.executor.watch(descriptor, interest, handler)
  }
}

/// What a descriptor is ready for.
package struct Readiness: OptionSet, Sendable {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }
  package static let readable = Readiness(rawValue: 1)
  package static let writable = Readiness(rawValue: 4)
  /// Error or hang-up; always reported, need not be asked for.
  package static let hungUp = Readiness(rawValue: 0x18)
}

/// A descriptor's registration with the main loop. Cancel it before the descriptor is closed.
@MainLoop
package final class Watch {
  private let executor: EpollExecutor
  private let descriptor: Int32
  fileprivate let handler: @MainLoop (Readiness) -> Void
  fileprivate private(set) var isActive = true

  fileprivate init(
    _ executor: EpollExecutor, _ descriptor: Int32,
    _ handler: @escaping @MainLoop (Readiness) -> Void
  ) {
    self.executor = executor
    self.descriptor = descriptor
    self.handler = handler
  }

  /// Waits for something else from now on; empty pauses the watch.
  package func change(to interest: Readiness) {
    if isActive { executor.modify(descriptor, interest) }
  }

  /// Ends the watch; the handler is not called again.
  package func cancel() {
    guard isActive else { return }
    isActive = false
    executor.unwatch(descriptor)
  }
}

/// The epoll loop behind `MainLoop`.
private final class EpollExecutor: SerialExecutor, TaskExecutor {
  let timers: TimerQueue
  private let epoll: Int32
  private let wake: Int32
  private let thread = Atomic<UInt>(0)
  private struct Pending {
    var jobs: [UnownedJob] = []
    var posts: [@MainLoop @Sendable () -> Void] = []
    var stopped: Int32?
  }
  private let pending = Mutex(Pending())
  // SAFETY: touched by @MainLoop functions only, which run on this executor's one thread.
  nonisolated(unsafe) private var watches: [Int32: Watch] = [:]
  /// What the loop's thread enqueues goes to `caught` instead of the queue.
  // SAFETY: touched on the loop's thread only.
  nonisolated(unsafe) private var isCatching = false
  nonisolated(unsafe) private var caught: [UnownedJob] = []

  init() {
    epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
    wake = eventfd(0, Int32(EFD_NONBLOCK) | Int32(EFD_CLOEXEC))
    guard epoll >= 0, wake >= 0, let timers = try? TimerQueue() else {
      preconditionFailure("the kernel refuses epoll, eventfd or timerfd")
    }
    self.timers = timers
    control(EPOLL_CTL_ADD, wake, .readable)
    control(EPOLL_CTL_ADD, timers.pollDescriptor, .readable)
  }

  var isCurrentThread: Bool { thread.load(ordering: .relaxed) == UInt(pthread_self()) }

  func adoptThread() { thread.store(UInt(pthread_self()), ordering: .relaxed) }

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    // SAFETY: only the loop's thread touches these two.
    if isCurrentThread, unsafe isCatching {
      unsafe caught.append(job)
      return
    }
    let first = pending.withLock { state in
      state.jobs.append(job)
      return state.jobs.count + state.posts.count == 1
    }
    if first { signal() }
  }

  func post(_ job: @escaping @MainLoop @Sendable () -> Void) {
    let first = pending.withLock { state in
      state.posts.append(job)
      return state.jobs.count + state.posts.count == 1
    }
    // The loop itself looks before it sleeps.
    if first, !isCurrentThread { signal() }
  }

  /// Runs the jobs of the task that `make` makes until it ends or waits for something.
  @MainLoop
  func runImmediately(_ make: () -> Task<Void, Never>) -> Task<Void, Never> {
    // SAFETY: only the loop's thread touches these two; each job that was caught runs here exactly once.
    let outer = unsafe (isCatching, caught)
    unsafe isCatching = true
    unsafe caught = []
    let task = make()
    while unsafe !caught.isEmpty { unsafe run(caught.removeFirst()) }
    unsafe (isCatching, caught) = unsafe outer
    return task
  }

  /// SAFETY: the caller has taken `job` from where `enqueue` put it, so it runs once.
  @unsafe
  private func run(_ job: UnownedJob) {
    unsafe job.runSynchronously(on: asUnownedSerialExecutor())
  }

  func stop(_ status: Int32) {
    pending.withLock { if $0.stopped == nil { $0.stopped = status } }
    signal()
  }

  func checkIsolated() { precondition(isCurrentThread, "not on the main loop") }
  func isIsolatingCurrentContext() -> Bool? { isCurrentThread }

  private func signal() {
    var one: UInt64 = 1
    // SAFETY: writes the eight bytes of a local.
    _ = unsafe write(wake, &one, 8)
  }

  @discardableResult
  private func control(_ operation: Int32, _ descriptor: Int32, _ interest: Readiness) -> Int32 {
    // SAFETY: a plain struct of the kernel's; `event` outlives the call.
    var event = unsafe epoll_event()
    unsafe event.events = interest.rawValue
    unsafe event.data.fd = descriptor
    return unsafe epoll_ctl(epoll, operation, descriptor, &event)
  }

  @MainLoop
  func watch(
    _ descriptor: Int32, _ interest: Readiness, _ handler: @escaping @MainLoop (Readiness) -> Void
  ) throws(SystemError) -> Watch {
    let watch = Watch(self, descriptor, handler)
    if control(EPOLL_CTL_ADD, descriptor, interest) != 0 {
      throw SystemError(call: "epoll_ctl", code: errno)
    }
    unsafe watches[descriptor] = watch
    return watch
  }

  @MainLoop
  func modify(_ descriptor: Int32, _ interest: Readiness) {
    control(EPOLL_CTL_MOD, descriptor, interest)
  }

  @MainLoop
  func unwatch(_ descriptor: Int32) {
    control(EPOLL_CTL_DEL, descriptor, [])
    unsafe watches[descriptor] = nil
  }

  @MainLoop
  private func drain() {
    let (jobs, posts) = pending.withLock { state in
      let taken = (state.jobs, state.posts)
      state.jobs = []
      state.posts = []
      return taken
    }
    // SAFETY: each job was enqueued once and is taken out here, so it runs exactly once.
    for job in jobs { unsafe run(job) }
    for post in posts { post() }
  }

  @MainLoop
  func loop() -> Int32 {
    // SAFETY: plain structs, filled by the kernel.
    var events = unsafe [epoll_event](repeating: epoll_event(), count: 64)
    while true {
      drain()
      if let status = pending.withLock({ $0.stopped }) {
        drain()
        return status
      }
      let wait: Int32 = pending.withLock { $0.jobs.isEmpty && $0.posts.isEmpty } ? -1 : 0
      // SAFETY: the kernel fills at most the array's size.
      let count = unsafe epoll_wait(epoll, &events, Int32(events.count), wait)
      if count <= 0 { continue }
      for index in 0..<Int(count) {
        let descriptor = unsafe events[index].data.fd
        if descriptor == wake {
          var value: UInt64 = 0
          // SAFETY: reads the counter into a local.
          _ = unsafe read(wake, &value, 8)
        } else if descriptor == timers.pollDescriptor {
          timers.expire()
        } else if let watch = unsafe watches[descriptor], watch.isActive {
          watch.handler(Readiness(rawValue: unsafe events[index].events))
        }
      }
    }
  }
}
