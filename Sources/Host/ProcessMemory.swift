import Glibc

/// The whole process's memory.
package enum ProcessMemory {
  /// Keeps all present and future pages of the process in memory (`-overcommit mem-lock=on`). Throws `SystemError` for `mlockall`.
  package static func lock() throws(SystemError) {
    try SystemError.check("mlockall") { () -> Int32 in mlockall(Int32(MCL_CURRENT | MCL_FUTURE)) }
  }
}
