import Glibc
import Synchronization

/// Messages for the user on standard error, one line and one write each.
package enum Log {
  private static let program = Mutex("goliath")

  /// The name before each message: how the program was called.
  package static var programName: String {
    get { program.withLock { $0 } }
    set { program.withLock { $0 = newValue } }
  }

  /// Writes `goliath: message`.
  package static func error(_ message: String) { line("\(programName): \(message)") }

  /// Writes `goliath: warning: message`.
  package static func warning(_ message: String) { line("\(programName): warning: \(message)") }

  /// Writes a line as it is.
  package static func line(_ text: String) {
    let bytes = Array((text + "\n").utf8)
    // SAFETY: the pointer is used within the call and covers the array.
    _ = unsafe bytes.withUnsafeBytes { unsafe write(2, $0.baseAddress, $0.count) }
  }
}
