import CLinux
import Glibc

/// `-daemonize`: the parent leaves when the child says that it is ready.
package final class Daemon: Sendable {
  private let ready: Int32

  private init(ready: Int32) { self.ready = ready }

  /// Goes on in a child process with a session of its own; the parent waits. Only before any thread was made.
  ///
  /// Throws `SystemError` for `fork`.
  package static func begin() throws(SystemError) -> Daemon {
    var ready: Int32 = -1
    // SAFETY: fills a local; no thread exists yet.
    let code = unsafe goliath_daemonize(&ready)
    if code < 0 { throw SystemError(call: "fork", code: -code) }
    return Daemon(ready: ready)
  }

  /// Everything listens: the parent exits with 0, and standard input, output and error become /dev/null. Call it once.
  package func announceReady() {
    if unsafe chdir("/") != 0 { Log.warning("cannot change to the root folder") }
    let null = unsafe open("/dev/null", O_RDWR | O_CLOEXEC)  // SAFETY: a literal.
    if null >= 0 {
      for number: Int32 in 0...2 { dup2(null, number) }
      close(null)
    }
    var status: UInt8 = 0
    // SAFETY: one byte of a local.
    _ = unsafe write(ready, &status, 1)
    close(ready)
  }
}
