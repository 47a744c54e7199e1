import CLinux
import Glibc

/// The whole process's memory.
package enum ProcessMemory {
  /// Keeps all present and future pages of the process in memory (`-overcommit mem-lock=on`). Throws `SystemError` for `mlockall`.
  package static func lock() throws(SystemError) {
    try SystemError.check("mlockall") { () -> Int32 in mlockall(Int32(MCL_CURRENT | MCL_FUTURE)) }
  }

  /// Lets threads share `count` arenas of the C library's allocator, each of which may reserve 64 MiB of address space; for programs that run
  /// with little of it (`ulimit -v`). Call it before the first thread starts.
  package static func limitArenas(_ count: Int32) { goliath_limit_arenas(count) }

  /// Why an address has no place in physical memory.
  package struct NoPlace: Error, Equatable {
    package let text: String
  }

  /// The host-physical address behind an address of this process, now (Linux, Documentation/admin-guide/mm/pagemap). Without
  /// CAP_SYS_ADMIN the kernel shows frame 0 for all.
  package static func physicalAddress(of address: UInt64) -> Result<UInt64, NoPlace> {
    let pageSize = UInt64(clamping: sysconf(Int32(_SC_PAGESIZE)))
    let table: Int32
    do throws(SystemError) {
      table = try FileDescriptor.open("/proc/self/pagemap", O_RDONLY).release()
    } catch {
      return .failure(NoPlace(text: "Cannot open /proc/self/pagemap: \(error.reason)"))
    }
    defer { close(table) }
    var entry: UInt64 = 0
    let offset = off_t(clamping: address / pageSize * 8)
    // SAFETY: the eight bytes of `entry` are written while it is lent.
    let count = unsafe withUnsafeMutableBytes(of: &entry) {
      unsafe pread(table, $0.baseAddress, 8, offset)
    }
    guard count == 8 else { return .failure(NoPlace(text: "Cannot read pagemap")) }
    guard entry >> 63 == 1 else { return .failure(NoPlace(text: "Page not present")) }
    // Bits 0 to 54 are the frame's number.
    return .success((entry & (1 << 55 - 1)) &* pageSize &+ address % pageSize)
  }
}
