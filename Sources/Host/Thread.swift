import CLinux
import Glibc
import Synchronization

/// A plain POSIX thread with a name that `ps -L` and debuggers show.
///
/// For code that may not be `async`: vCPU loops, link receivers.
package final class HostThread: Sendable {
  private let handle: pthread_t
  /// The kernel's thread id, as `query-cpus-fast` reports it. The kernel tells it only to the thread itself, which is under way from the
  /// first: the answer may wait for its first moment, but is never 0, which clients take for a failure.
  package var id: Int64 {
    while true {
      let id = started.id.load(ordering: .acquiring)
      if id != 0 { return id }
      sched_yield()
    }
  }

  private final class Start: Sendable {
    let name: String
    let body: @Sendable () -> Void
    let id = Atomic<Int64>(0)
    init(name: String, body: @escaping @Sendable () -> Void) {
      self.name = name
      self.body = body
    }
  }
  private let started: Start

  /// Starts a thread that runs `body` once. Throws `SystemError` for `pthread_create`.
  package init(name: String, _ body: @escaping @Sendable () -> Void) throws(SystemError) {
    let start = Start(name: name, body: body)
    var thread = pthread_t()
    // SAFETY: the retained object is released by the thread, or below when there is none.
    let context = unsafe Unmanaged.passRetained(start).toOpaque()
    let code = unsafe pthread_create(&thread, nil, HostThread.enter, context)
    if code != 0 {
      unsafe Unmanaged<Start>.fromOpaque(context).release()
      throw SystemError(call: "pthread_create", code: code)
    }
    handle = thread
    started = start
  }

  /// Runs `body`, which may block, on a thread of its own, and answers what it gives. The caller waits without holding up its
  /// own thread. Throws what `body` throws, or `SystemError` for `pthread_create`.
  @MainLoop
  package static func value<T: Sendable>(
    name: String, _ body: @escaping @Sendable () throws -> T
  ) async throws -> T {
    try await withCheckedThrowingContinuation { continuation in
      do throws(SystemError) {
        _ = try HostThread(name: name) { continuation.resume(with: Result { try body() }) }
      } catch {
        continuation.resume(throwing: error)
      }
    }
  }

  /// What tells the calling thread from all others that are alive; no system call.
  package static var currentHandle: UInt { UInt(pthread_self()) }

  /// Waits for the thread's end. Call it once.
  package func join() { pthread_join(handle, nil) }

  /// Nobody will wait for its end: what it took is freed then. In place of `join`.
  package func detach() { pthread_detach(handle) }

  /// Sends a signal to the thread; with an empty handler it interrupts a system call.
  package func signal(_ number: Int32) { _ = pthread_kill(handle, number) }

  /// Runs another program in this process from here on, found as a shell finds it. Comes back only with the reason why it cannot.
  package static func replaceProgram(with program: String, _ arguments: [String]) -> SystemError {
    var words = unsafe ([program] + arguments).map { unsafe strdup($0) }
    unsafe words.append(nil)
    // SAFETY: a list of C strings that ends with nil; freed when there is no other program.
    unsafe execvp(program, words)
    let code = errno
    for index in unsafe words.indices { unsafe free(words[index]) }
    return SystemError(call: "execvp", code: code)
  }

  /// This process's id, which is also its first thread's.
  package static var processID: Int { Int(getpid()) }

  /// How many processors the host has for us, at least one.
  package static var processorCount: Int { max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))) }

  /// Gives the process a name for `ps` and `top` (`-name process=`): at most 15 bytes of it show.
  package static func nameProcess(_ name: String) {
    _ = unsafe goliath_set_thread_name(String(name.prefix(15)))
  }

  /// The program that a process runs, as `/proc` tells; `<unknown process>` when it does not.
  package static func programPath(ofProcess id: Int32) -> String {
    var buffer = [UInt8](repeating: 0, count: 4096)
    // SAFETY: the kernel fills at most the array's size.
    let count = unsafe buffer.withUnsafeMutableBytes { bytes in
      guard let start = unsafe bytes.bindMemory(to: CChar.self).baseAddress else { return -1 }
      return unsafe readlink("/proc/\(id)/exe", start, bytes.count)
    }
    return count > 0 ? String(decoding: buffer[..<count], as: UTF8.self) : "<unknown process>"
  }

  // A named nonisolated function: a closure made in isolated code would carry that isolation to the new thread.
  private nonisolated static let enter:
    @convention(c) (UnsafeMutableRawPointer?) ->
      UnsafeMutableRawPointer? = { context in
        guard let context = unsafe context else { return nil }
        // SAFETY: made by passRetained in init.
        let start = unsafe Unmanaged<Start>.fromOpaque(context).takeRetainedValue()
        start.id.store(goliath_thread_id(), ordering: .releasing)
        _ = unsafe goliath_set_thread_name(String(start.name.prefix(15)))
        start.body()
        return nil
      }
}

/// A word that threads sleep on (futex): the cheapest wake-up there is.
@safe package final class WaitWord: Sendable {
  // SAFETY: the pointee is an atomic, so any thread may use it.
  nonisolated(unsafe) private let word: UnsafeMutablePointer<Atomic<UInt32>>

  package init() {
    // SAFETY: initialised here, freed in deinit; only atomics touch it.
    unsafe word = UnsafeMutablePointer<Atomic<UInt32>>.allocate(capacity: 1)
    unsafe word.initialize(to: Atomic(0))
  }

  deinit {
    unsafe word.deinitialize(count: 1)
    unsafe word.deallocate()
  }

  /// The present value, to be given to `wait`.
  package var value: UInt32 { unsafe word.pointee.load(ordering: .acquiring) }

  /// Adds one and wakes all sleepers.
  package func advance() {
    unsafe word.pointee.wrappingAdd(1, ordering: .acquiringAndReleasing)
    unsafe goliath_futex_wake(word, Int32.max)
  }

  /// Adds one and wakes one sleeper.
  package func advanceOne() {
    unsafe word.pointee.wrappingAdd(1, ordering: .acquiringAndReleasing)
    unsafe goliath_futex_wake(word, 1)
  }

  /// Sleeps until the value differs from `seen`, a spurious wake-up, or `nanoseconds` have passed (nil: no limit).
  package func wait(while seen: UInt32, nanoseconds: Int64? = nil) {
    _ = unsafe goliath_futex_wait(word, seen, nanoseconds.map { max($0, 0) } ?? -1)
  }
}
