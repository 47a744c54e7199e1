import CLinux
import Glibc

/// Who asked the process to end.
package struct TerminationRequest: Sendable {
  /// SIGINT, SIGTERM or SIGHUP.
  package let signal: Int32
  package let processID: Int32
}

/// Signals as events of the main loop.
@MainLoop
package enum Signals {
  private static var watch: Watch?

  /// Blocks SIGINT, SIGTERM and SIGHUP for every thread made from now on, and ignores SIGPIPE. First thing in the process.
  package nonisolated static func prepare() {
    var set = sigset_t()
    // SAFETY: all work on a local.
    unsafe sigemptyset(&set)
    for number in [SIGINT, SIGTERM, SIGHUP] { unsafe sigaddset(&set, number) }
    unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
    _ = Glibc.signal(SIGPIPE, SIG_IGN)
  }

  /// Calls `handler` for each of the signals that `prepare` blocked. Throws `SystemError` for `signalfd`.
  package static func watch(_ handler: @escaping @MainLoop (TerminationRequest) -> Void) throws {
    var set = sigset_t()
    // SAFETY: all work on a local.
    unsafe sigemptyset(&set)
    for number in [SIGINT, SIGTERM, SIGHUP] { unsafe sigaddset(&set, number) }
    let copy = set
    let descriptor: Int32 = try SystemError.check("signalfd") { () -> Int32 in
      var set = copy
      return unsafe signalfd(-1, &set, Int32(SFD_NONBLOCK) | Int32(SFD_CLOEXEC))
    }
    watch = try MainLoop.watch(descriptor, .readable) { _ in
      var info = signalfd_siginfo()
      // SAFETY: the kernel fills at most the struct.
      while unsafe read(descriptor, &info, MemoryLayout<signalfd_siginfo>.size)
        == MemoryLayout<signalfd_siginfo>.size
      {
        handler(
          TerminationRequest(
            signal: Int32(truncatingIfNeeded: info.ssi_signo),
            processID: Int32(truncatingIfNeeded: info.ssi_pid)))
      }
    }
  }
}
