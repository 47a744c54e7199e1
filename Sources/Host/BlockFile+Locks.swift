import CLinux
import Glibc
import Synchronization

/// Locks on image files with which processes tell each other what they do with a file (QEMU, docs/system/images, "Disk image file locking"): byte 100 + n says "I
/// use permission n", byte 200 + n "nobody else may use permission n". All are shared locks of the open file description; whoever wants to know tests.
extension BlockFile {
  struct LockState {
    /// Permissions announced as used, a bit each.
    var used: UInt64 = 0
    /// Permissions announced as denied to others.
    var denied: UInt64 = 0
  }

  /// Somebody else's use stands in the way.
  package struct LockConflict: Error, Sendable {
    /// The number of the permission.
    package let bit: Int
    /// We want to use it, and it is denied; else we want to deny it, and it is used.
    package let isDenied: Bool
    /// Or a system call failed.
    package let failure: SystemError?
  }

  private static let usedBase: Int64 = 100
  private static let deniedBase: Int64 = 200
  private static let bitCount = 8

  /// Announces what we do with the file from now on, or changes nothing and throws `LockConflict`. `used` and `denied` have a bit for each permission.
  package func setLocks(used: UInt64, denied: UInt64) throws(LockConflict) {
    let result: Result<Void, LockConflict> = locks.withLock { state in
      Result { () throws(LockConflict) in
        let old = state
        do throws(LockConflict) {
          try take(used & ~old.used, BlockFile.usedBase)
          try take(denied & ~old.denied, BlockFile.deniedBase)
          try test(used & ~old.used, BlockFile.deniedBase, isDenied: true)
          try test(denied & ~old.denied, BlockFile.usedBase, isDenied: false)
        } catch {
          give(used & ~old.used, BlockFile.usedBase)
          give(denied & ~old.denied, BlockFile.deniedBase)
          throw error
        }
        give(old.used & ~used, BlockFile.usedBase)
        give(old.denied & ~denied, BlockFile.deniedBase)
        state = LockState(used: used, denied: denied)
      }
    }
    try result.get()
  }

  private func take(_ bits: UInt64, _ base: Int64) throws(LockConflict) {
    for bit in 0..<BlockFile.bitCount where bits >> bit & 1 == 1 {
      let code = goliath_lock_bytes(rawDescriptor, 1, base + Int64(bit), 1)
      if code < 0 {
        throw LockConflict(
          bit: bit, isDenied: false, failure: SystemError(call: "fcntl", code: -code))
      }
    }
  }

  private func give(_ bits: UInt64, _ base: Int64) {
    for bit in 0..<BlockFile.bitCount where bits >> bit & 1 == 1 {
      _ = goliath_lock_bytes(rawDescriptor, 0, base + Int64(bit), 1)
    }
  }

  private func test(_ bits: UInt64, _ base: Int64, isDenied: Bool) throws(LockConflict) {
    for bit in 0..<BlockFile.bitCount where bits >> bit & 1 == 1 {
      let answer = goliath_bytes_locked(rawDescriptor, base + Int64(bit), 1)
      if answer != 0 {
        throw LockConflict(
          bit: bit, isDenied: isDenied,
          failure: answer < 0 ? SystemError(call: "fcntl", code: -answer) : nil)
      }
    }
  }

  /// Another process that has locks on this file.
  package struct LockHolder: Equatable, Sendable {
    package let process: Int32
    package let program: String
  }

  /// Who else has locks on the file, as far as this user may know. Looks through all processes: for error messages.
  package var lockHolders: [LockHolder] {
    var mine = stat()
    // SAFETY: `mine` outlives the call.
    guard unsafe fstat(rawDescriptor, &mine) == 0 else { return [] }
    let own = getpid()
    var result: [LockHolder] = []
    for name in BlockFile.entries("/proc") {
      guard let process = Int32(name), process != own else { continue }
      for number in BlockFile.entries("/proc/\(process)/fd") {
        var status = stat()
        // SAFETY: the string and `status` outlive the call.
        guard unsafe stat("/proc/\(process)/fd/\(number)", &status) == 0,
          status.st_dev == mine.st_dev, status.st_ino == mine.st_ino,
          let text = try? FileDescriptor.contents(
            of: "/proc/\(process)/fdinfo/\(number)", limit: 1 << 16),
          String(decoding: text, as: UTF8.self).contains("OFDLCK")
        else { continue }
        let path = HostThread.programPath(ofProcess: process)
        let program = path.split(separator: "/").last.map(String.init) ?? path
        result.append(LockHolder(process: process, program: program))
        break
      }
    }
    return result
  }

  private static func entries(_ folder: String) -> [String] {
    // SAFETY: the stream is closed below; entries are copied before the next call.
    guard let directory = unsafe opendir(folder) else { return [] }
    defer { unsafe closedir(directory) }
    var names: [String] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) {
          unsafe String(cString: $0)
        }
      }
      if !name.hasPrefix(".") { names.append(name) }
    }
    return names
  }
}
