import CLinux
import Glibc

/// What this process uses of its host, as `/proc` tells (proc(5)).
package struct ProcessUsage: Equatable, Sendable {
  /// In user and kernel mode, all threads.
  package var cpuSeconds: Double
  package var residentBytes: Int
  package var virtualBytes: Int
  package var threads: Int
  /// Since 1970-01-01 UTC.
  package var startSeconds: Double
  /// Nil when they cannot be counted.
  package var descriptors: Int?

  /// As it is now; nil when `/proc` does not tell.
  package static var current: ProcessUsage? {
    guard let fields = statistics("/proc/self/stat"), fields.count > 21 else { return nil }
    let ticks = Double(max(sysconf(Int32(_SC_CLK_TCK)), 1))
    let page = max(sysconf(Int32(_SC_PAGESIZE)), 1)
    // Numbered as in proc(5), less the two before the name's end and one for counting from 1.
    let sinceBoot = Double(HostClock.boottime) / 1e9
    let now = Double(HostClock.realtime) / 1e9
    return ProcessUsage(
      cpuSeconds: Double(fields[11] + fields[12]) / ticks, residentBytes: fields[21] * page,
      virtualBytes: fields[20], threads: fields[17],
      startSeconds: now - sinceBoot + Double(fields[19]) / ticks, descriptors: descriptorCount)
  }

  /// Processor time of a thread of this process; nil when there is none of that id.
  package static func cpuSeconds(ofThread id: Int64) -> Double? {
    guard let bytes = try? FileDescriptor.contents(of: "/proc/self/task/\(id)/schedstat"),
      let first = String(decoding: bytes, as: UTF8.self).split(separator: " ").first,
      let nanoseconds = Double(first)
    else { return nil }
    return nanoseconds / 1e9
  }

  /// The numbers behind the program's name.
  private static func statistics(_ path: String) -> [Int]? {
    guard let bytes = try? FileDescriptor.contents(of: path),
      let end = bytes.lastIndex(of: UInt8(ascii: ")")), end + 4 < bytes.count
    else { return nil }
    // The state's letter comes first.
    return String(decoding: bytes[(end + 2)...], as: UTF8.self).split(separator: " ").map {
      Int($0.filter { $0 != "\n" }) ?? 0
    }
  }

  private static var descriptorCount: Int? {
    // SAFETY: the stream is used by this function alone and closed by it.
    guard let folder = unsafe opendir("/proc/self/fd") else { return nil }
    defer { unsafe closedir(folder) }
    var count = 0
    while unsafe readdir(folder) != nil { count += 1 }
    // Not `.`, `..` and the folder itself.
    return max(count - 3, 0)
  }
}
