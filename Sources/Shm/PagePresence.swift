import Glibc
package import Host

/// Which pages of private memory have ever been touched: the others are zero and need not be read (proc(5), pagemap).
@safe package final class PagePresence {
  /// -1 when there is none.
  private let pagemap: Int32

  /// Without `/proc` every page counts as touched.
  package init() {
    pagemap = (try? FileDescriptor.open("/proc/self/pagemap", O_RDONLY))?.release() ?? -1
  }

  deinit { if pagemap >= 0 { close(pagemap) } }

  /// For each of `count` pages from host address `start` whether it may hold anything but zeros.
  func touched(from start: UInt, count: Int) -> [Bool] {
    let all = [Bool](repeating: true, count: count)
    guard pagemap >= 0 else { return all }
    let number = pagemap
    var entries = [UInt64](repeating: 0, count: count)
    // SAFETY: the kernel fills at most the array's size.
    let got = unsafe entries.withUnsafeMutableBytes {
      unsafe pread(number, $0.baseAddress, $0.count, Int(start / UInt(GuestAddress.pageSize)) * 8)
    }
    guard got == count * 8 else { return all }
    // Bit 63: present; bit 62: swapped out.
    return entries.map { $0 >> 62 != 0 }
  }
}
