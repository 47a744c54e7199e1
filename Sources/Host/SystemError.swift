import Glibc

/// A failed system call: its name and `errno`. The only error that `Host` throws for the operating system's refusals.
package struct SystemError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The call as its manual page spells it, such as `open`.
  package let call: String
  /// `errno` after the call, positive.
  package let code: Int32

  package init(call: String, code: Int32) {
    self.call = call
    self.code = code
  }

  /// What the C library says about `code`, such as `No such file or directory`.
  package var reason: String {
    // SAFETY: a C string, copied at once.
    unsafe String(cString: strerror(code))
  }

  package var description: String { "\(call): \(reason)" }

  /// Calls `body` until it is not interrupted, and turns -1 into the error.
  ///
  /// `EINTR` is handled here and nowhere else.
  package static func check(_ call: String, _ body: () -> Int) throws(SystemError) -> Int {
    while true {
      let result = body()
      if result != -1 { return result }
      let code = errno
      if code != EINTR { throw SystemError(call: call, code: code) }
    }
  }

  /// The same for calls that answer an `Int32`.
  @discardableResult
  package static func check(_ call: String, _ body: () -> Int32) throws(SystemError) -> Int32 {
    Int32(truncatingIfNeeded: try check(call) { () -> Int in Int(body()) })
  }
}
