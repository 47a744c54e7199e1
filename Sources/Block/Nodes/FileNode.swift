import Glibc
package import Host
import Synchronization

/// A file of the host, or a block device (drivers `file`, `host_device`, `host_cdrom`).
package final class FileNode: ReopenableNode, PermissionHolder {
  package let driver: String
  package let name: String
  private let file: BlockFile
  private let settings: NodeSettings
  private let locks: Bool
  private let readOnly: Atomic<Bool>
  /// The end of the highest write so far (`wr_highest_offset`).
  private let highest = Atomic<UInt64>(0)
  /// A flush has failed: none succeeds any more.
  private let hasLost = Atomic<Bool>(false)
  /// Discards: done, refused, failed, and bytes done (`discard-nb-ok`…).
  private let discards = Mutex((done: UInt64(0), failed: UInt64(0), bytes: UInt64(0)))

  /// The three drivers of this class.
  package static let drivers = ["file", "host_device", "host_cdrom"]

  /// Opens `path`. Throws in QEMU's words. With `locking` false no locks are taken.
  package init(
    name: String, driver: String = "file", path: String, settings: NodeSettings,
    locking: Bool = true
  ) throws(BlockError) {
    var options = BlockFile.Options(isWritable: !settings.isReadOnly && driver != "host_cdrom")
    options.isDirect = settings.cache.isDirect
    options.mayBeReadOnly = settings.isAutoReadOnly
    do throws(SystemError) {
      file = try BlockFile(path, options)
    } catch {
      if error.code == EINVAL, settings.cache.isDirect {
        throw BlockError(
          EINVAL, "Could not open '\(path)': filesystem does not support O_DIRECT")
      }
      throw BlockError(error, "Could not open '\(path)'")
    }
    switch (driver, file.kind) {
    case ("file", .regular), ("host_device", .blockDevice), ("host_device", .characterDevice),
      ("host_cdrom", .blockDevice), ("host_cdrom", .characterDevice):
      break
    case ("file", _):
      throw BlockError(EINVAL, "'file' driver requires '\(path)' to be a regular file")
    default:
      throw BlockError(
        EINVAL,
        "'\(driver)' driver requires '\(path)' to be either a character or block device")
    }
    self.name = name
    self.driver = driver
    self.settings = settings
    readOnly = Atomic(!file.isWritable)
    locks = locking
  }

  /// A file that is open for writing already.
  init(name: String, _ file: BlockFile) {
    self.name = name
    driver = "file"
    self.file = file
    settings = NodeSettings()
    readOnly = Atomic(false)
    locks = true
  }

  package var isReadOnly: Bool { readOnly.load(ordering: .acquiring) }
  package var path: String { file.path }
  package var length: UInt64 { file.length }
  package var allocatedSize: UInt64? { file.allocatedSize }
  package var highestWrite: UInt64 { highest.load(ordering: .relaxed) }
  /// Counted since opening.
  package var discardCounts: (done: UInt64, failed: UInt64, bytes: UInt64) {
    discards.withLock { $0 }
  }
  /// The open file, for copies within the kernel.
  package var blockFile: BlockFile { file }

  package var limits: BlockLimits {
    var limits = BlockLimits()
    limits.requestAlignment = UInt32(file.alignment)
    return limits
  }

  package func read(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    do throws(SystemError) { try file.read(offset, into: target) } catch { throw failed(error) }
  }

  package func readNow(_ offset: UInt64, into target: IOVector) throws(BlockError) -> Bool {
    do throws(SystemError) { return try file.readNow(offset, into: target) } catch {
      throw failed(error)
    }
  }

  package func write(
    _ offset: UInt64, from source: IOVector, _ flags: WriteFlags
  ) throws(BlockError) {
    try checkWritable()
    let through = flags.contains(.forceUnitAccess) && !settings.cache.ignoresFlushes
    do throws(SystemError) {
      try file.write(offset, from: source, through: through)
    } catch {
      throw failed(error)
    }
    noteWrite(offset &+ UInt64(source.count))
  }

  package func writeZeroes(
    _ offset: UInt64, _ count: UInt64, _ flags: WriteFlags
  ) throws(BlockError) {
    try checkWritable()
    do throws(SystemError) {
      let mayUnmap = flags.contains(.mayUnmap) && settings.unmaps
      if try !file.zero(offset, count, mayUnmap: mayUnmap) {
        guard !flags.contains(.noFallback) else {
          throw SystemError(call: "fallocate", code: ENOTSUP)
        }
        try writePlainZeroes(offset, count)
      }
      if flags.contains(.forceUnitAccess), !settings.cache.ignoresFlushes {
        try file.synchronize()
      }
    } catch {
      throw failed(error)
    }
    noteWrite(offset &+ count)
  }

  package func discard(_ offset: UInt64, _ count: UInt64) throws(BlockError) {
    try checkWritable()
    guard settings.unmaps else { return }
    do throws(SystemError) {
      let end = min(offset &+ count, length)
      guard offset < end else { return }
      guard try file.discard(offset, end - offset) else {
        throw SystemError(call: "fallocate", code: ENOTSUP)
      }
      discards.withLock {
        $0.done += 1
        $0.bytes += end - offset
      }
    } catch {
      discards.withLock { $0.failed += 1 }
      throw failed(error)
    }
  }

  package func flush() throws(BlockError) {
    if settings.cache.ignoresFlushes || isReadOnly { return }
    if hasLost.load(ordering: .relaxed) { throw BlockError(EIO, "Input/output error") }
    do throws(SystemError) { try file.synchronize() } catch {
      // The kernel says it once; what the page cache holds may be other than what is on the disk from now on.
      if !settings.cache.isDirect { hasLost.store(true, ordering: .relaxed) }
      throw failed(error)
    }
  }

  package func truncate(
    to length: UInt64, _ preallocation: Preallocation
  ) throws(BlockError) {
    try checkWritable()
    guard file.kind == .regular else {
      if preallocation != .off {
        throw BlockError(
          ENOTSUP,
          "Preallocation mode '\(preallocation.rawValue)' unsupported for this non-regular file")
      }
      let now = (try? file.refreshLength()) ?? self.length
      if length > now { throw BlockError(EINVAL, "Cannot grow device files") }
      return
    }
    let old = (try? file.refreshLength()) ?? self.length
    if length < old, preallocation != .off {
      throw BlockError(ENOTSUP, "Preallocation can't be used for shrinking files")
    }
    if preallocation == .metadata {
      throw BlockError(ENOTSUP, "Unsupported preallocation mode 'metadata'")
    }
    do throws(SystemError) {
      switch preallocation {
      case .off, .metadata:
        try file.resize(to: length)
      case .falloc:
        if length > old { try file.allocate(old, length - old) }
      case .full:
        try file.resize(to: length)
        try writePlainZeroes(old, length - old)
        try file.synchronize()
      }
    } catch {
      if length > old { try? file.resize(to: old) }
      switch preallocation {
      case .falloc: throw BlockError(error, "Could not preallocate data for the new file")
      case .full: throw BlockError(error, "Could not write zeros for preallocation")
      default: throw BlockError(error, "Failed to resize the file")
      }
    }
  }

  package func status(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> BlockStatus {
    let end = length
    let count = offset < end ? min(count, end - offset) : 0
    guard count > 0 else {
      return BlockStatus(length: 0, isAllocated: true, isZero: true, isData: false)
    }
    let extent = file.extent(offset, count)
    return BlockStatus(
      length: extent.length, isAllocated: true, isZero: extent.isHole, isData: !extent.isHole,
      hostOffset: offset)
  }

  package func close() throws(BlockError) {
    try? setPermissions([], shared: .all)
  }

  package func setReadOnly(_ isReadOnly: Bool) throws(BlockError) {
    guard isReadOnly || file.isWritable else {
      throw BlockError(EACCES, "Could not reopen file: Permission denied")
    }
    if isReadOnly { try flush() }
    readOnly.store(isReadOnly, ordering: .releasing)
  }

  // MARK: Locks

  /// Announces what is done with the file to other processes. Throws in QEMU's words when one of them is in the way.
  package func setPermissions(
    _ used: BlockPermissions, shared: BlockPermissions
  ) throws(BlockError) {
    guard locks, file.kind == .regular || file.kind == .blockDevice else { return }
    let denied = BlockPermissions.all.subtracting(shared)
    do throws(BlockFile.LockConflict) {
      try file.setLocks(used: used.rawValue, denied: denied.rawValue)
    } catch {
      if let failure = error.failure {
        // A file system without locks: nobody else can hold any.
        if [ENOTSUP, ENOLCK, EINVAL, ENOSYS].contains(failure.code) { return }
        throw BlockError(failure, "Failed to lock byte \(100 + error.bit)")
      }
      let shared = error.isDenied ? "" : "shared "
      let name = BlockPermissions.name(ofBit: error.bit)
      throw BlockError(
        EAGAIN, "Failed to get \(shared)\"\(name)\" lock",
        hint: "Is another process using the image [\(path)]?")
    }
  }

  /// Adds to the failure of a lock who has the file. Looks through all processes.
  static func naming(_ error: BlockError, below top: any BlockNode) -> BlockError {
    guard error.code == EAGAIN, let hint = error.hint else { return error }
    var pending = [top]
    while let node = pending.popLast() {
      pending += node.children.map(\.node)
      guard let file = node as? FileNode, hint.hasSuffix("[\(file.path)]?") else { continue }
      let lines = file.file.lockHolders.map {
        "\nProcess \($0.process) (\($0.program)) has it open."
      }
      return BlockError(error.code, error.message, hint: hint + lines.joined())
    }
    return error
  }

  // MARK: -

  private func checkWritable() throws(BlockError) {
    if isReadOnly { throw BlockError(EPERM, "Block node is read-only") }
  }

  private func noteWrite(_ end: UInt64) {
    var known = highest.load(ordering: .relaxed)
    while end > known {
      let (done, now) = highest.compareExchange(expected: known, desired: end, ordering: .relaxed)
      if done { return }
      known = now
    }
  }

  private static let zeros = IOBuffer(count: 1 << 20)

  private func writePlainZeroes(_ offset: UInt64, _ count: UInt64) throws(SystemError) {
    var done: UInt64 = 0
    while done < count {
      let part = min(count - done, UInt64(FileNode.zeros.count))
      try file.write(offset &+ done, from: FileNode.zeros.vector(0..<Int(part)))
      done += part
    }
  }

  private func failed(_ error: SystemError) -> BlockError {
    BlockError(error.code, error.reason)
  }
}

/// A node that tells other processes what is done with it.
package protocol PermissionHolder: AnyObject, Sendable {
  /// Replaces what was told before, or changes nothing and throws.
  func setPermissions(_ used: BlockPermissions, shared: BlockPermissions) throws(BlockError)
}
