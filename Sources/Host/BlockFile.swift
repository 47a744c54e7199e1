import CLinux
import Glibc
import Synchronization

/// An open file or block device that holds a disk: vectored reads and writes at offsets, from any thread.
///
/// With `direct` (O_DIRECT) requests may still have any offset, length and memory: what the kernel would refuse goes through aligned memory, and a
/// write of parts of a block reads the rest first.
package final class BlockFile: Sendable {
  package enum Kind: Sendable { case regular, blockDevice, characterDevice, other }

  package struct Identity: Hashable, Sendable {
    package let device: UInt64
    package let node: UInt64
  }

  private let file: FileDescriptor
  package let path: String
  package let kind: Kind
  package let isWritable: Bool
  package let isDirect: Bool
  /// Device and number of the file: the same for all its names.
  package let identity: Identity
  /// What offsets, lengths and memory of requests should be multiples of to go straight through: 1 without `direct`.
  package let alignment: Int
  /// Whether reads may be tried without waiting: the kernel's `RWF_NOWAIT`, or a file system in memory, where nothing waits.
  private let nowFlags = Atomic<Int32>(GOLIATH_READ_NOW)
  private let isInMemory: Bool
  private let knownLength: Atomic<UInt64>
  /// Serialises the writes of parts of a block.
  private let partialWrites = Mutex(())
  let locks = Mutex(LockState())

  package var rawDescriptor: Int32 { file.rawValue }

  /// How to open.
  package struct Options: Sendable {
    package var isWritable: Bool
    package var isDirect = false
    /// Opened for reading when writing is not allowed.
    package var mayBeReadOnly = false
    /// Made when it is missing.
    package var creates = false

    package init(isWritable: Bool) { self.isWritable = isWritable }
  }

  /// Opens `path`, promptly whatever it is: a FIFO, too. Throws `SystemError`.
  package init(_ path: String, _ options: Options) throws(SystemError) {
    self.path = path
    // Not to wait for the other end of a FIFO, nor for a medium.
    var flags = O_NONBLOCK | (options.isDirect ? GOLIATH_O_DIRECT : 0)
    if options.creates { flags |= O_CREAT }
    var writable = options.isWritable
    do throws(SystemError) {
      file = try FileDescriptor.open(path, flags | (writable ? O_RDWR : O_RDONLY), mode: 0o644)
    } catch {
      guard writable, options.mayBeReadOnly, [EACCES, EPERM, EROFS].contains(error.code) else {
        throw error
      }
      writable = false
      file = try FileDescriptor.open(path, flags | O_RDONLY)
    }
    isWritable = writable
    let descriptor = file.rawValue
    var status = stat()
    // SAFETY: `status` outlives the call.
    try SystemError.check("fstat") { () -> Int32 in unsafe fstat(descriptor, &status) }
    identity = Identity(device: UInt64(status.st_dev), node: UInt64(status.st_ino))
    switch status.st_mode & S_IFMT {
    case S_IFREG: kind = .regular
    case S_IFBLK: kind = .blockDevice
    case S_IFCHR: kind = .characterDevice
    default: kind = .other
    }
    if kind == .regular || kind == .blockDevice {
      let own = fcntl(descriptor, F_GETFL)
      if own != -1 { _ = fcntl(descriptor, F_SETFL, own & ~O_NONBLOCK) }
    }
    // TMPFS_MAGIC, RAMFS_MAGIC
    isInMemory =
      kind == .regular && [0x0102_1994, 0x8584_58F6].contains(goliath_file_system(descriptor))
    isDirect = options.isDirect
    alignment =
      options.isDirect ? BlockFile.directAlignment(descriptor, kind, Int(status.st_size)) : 1
    knownLength = Atomic(0)
    if kind != .other { try refreshLength() }
  }

  // MARK: Size

  /// Bytes, as last seen.
  package var length: UInt64 { knownLength.load(ordering: .relaxed) }

  /// Asks the system anew. Throws `SystemError`.
  @discardableResult
  package func refreshLength() throws(SystemError) -> UInt64 {
    let now = try currentLength()
    knownLength.store(now, ordering: .relaxed)
    return now
  }

  private func currentLength() throws(SystemError) -> UInt64 {
    if kind == .blockDevice {
      var bytes: UInt64 = 0
      // SAFETY: a local.
      let code = unsafe goliath_device_size(file.rawValue, &bytes)
      if code < 0 { throw SystemError(call: "ioctl", code: -code) }
      return bytes
    }
    let end = lseek(file.rawValue, 0, SEEK_END)
    // Character devices have no end.
    if end < 0 {
      if kind == .characterDevice { return 0 }
      throw SystemError(call: "lseek", code: errno)
    }
    return UInt64(end)
  }

  func noteLength(atLeast end: UInt64) {
    var known = knownLength.load(ordering: .relaxed)
    while end > known {
      let (done, now) = knownLength.compareExchange(
        expected: known, desired: end, ordering: .relaxed)
      if done { return }
      known = now
    }
  }

  func setLength(_ length: UInt64) { knownLength.store(length, ordering: .relaxed) }

  // MARK: Reading

  /// Reads; what lies beyond the end is zeros. Throws `SystemError`.
  package func read(_ offset: UInt64, into target: IOVector) throws(SystemError) {
    let start = try BlockFile.checked(offset, UInt64(target.count))
    if alignment > 1, !isAligned(offset, target) {
      return try readUnaligned(offset, into: target)
    }
    let done = try readSome(start, target)
    if done < target.count { target.fill(0, done) }
  }

  /// Reads what needs no waiting; false, with `target` undefined, when it would wait. Throws `SystemError`.
  package func readNow(_ offset: UInt64, into target: IOVector) throws(SystemError) -> Bool {
    let flags = nowFlags.load(ordering: .relaxed)
    if isDirect || flags < 0 { return false }
    let start = try BlockFile.checked(offset, UInt64(target.count))
    guard target.pieceCount <= 1024 else { return false }
    let descriptor = file.rawValue
    // SAFETY: the vector's memory stays valid through the call.
    let got = unsafe target.pieces.withUnsafeBufferPointer {
      unsafe goliath_read_vector(descriptor, $0.baseAddress, Int32($0.count), start, flags)
    }
    if got == target.count { return true }
    if got == -Int64(EOPNOTSUPP) || got == -Int64(ENOSYS) || got == -Int64(EINVAL), flags != 0 {
      // A file system without it: memory never waits, and from others nothing can be had so.
      nowFlags.store(isInMemory ? 0 : -1, ordering: .relaxed)
      return isInMemory ? try readNow(offset, into: target) : false
    }
    guard got >= 0 else { return false }
    // Less than asked for is the end, or the rest is not cached.
    let end = offset &+ UInt64(got)
    guard end >= length, end >= (try currentLength()) else { return false }
    target.fill(0, Int(got))
    return true
  }

  /// Reads until the end of the file or the vector. Answers how much.
  private func readSome(_ start: Int64, _ target: IOVector) throws(SystemError) -> Int {
    var done = 0
    while done < target.count {
      let rest = BlockFile.part(target, done)
      let descriptor = file.rawValue
      // SAFETY: the vector's memory stays valid through the call.
      let got = unsafe rest.pieces.withUnsafeBufferPointer {
        unsafe goliath_read_vector(
          descriptor, $0.baseAddress, Int32($0.count), start + Int64(done), 0)
      }
      if got == -Int64(EINTR) || got == -Int64(EAGAIN) { continue }
      if got < 0 {
        // Behind a last block that is not whole, O_DIRECT refuses to go on.
        if got == -Int64(EINVAL), isDirect, done % alignment != 0 { return done }
        throw SystemError(call: "preadv", code: Int32(-got))
      }
      if got == 0 { return done }
      done += Int(got)
    }
    return done
  }

  // MARK: Writing

  /// Writes; a file grows. With `through` it is on stable storage when this returns. Throws `SystemError`.
  package func write(
    _ offset: UInt64, from source: IOVector, through: Bool = false
  ) throws(SystemError) {
    let start = try BlockFile.checked(offset, UInt64(source.count))
    if alignment > 1, !isAligned(offset, source) {
      try writeUnaligned(offset, from: source, through)
    } else {
      try writeAll(start, source, through)
    }
    noteLength(atLeast: offset + UInt64(source.count))
  }

  private func writeAll(
    _ start: Int64, _ source: IOVector, _ through: Bool
  ) throws(SystemError) {
    var done = 0
    let descriptor = file.rawValue
    while done < source.count {
      let rest = BlockFile.part(source, done)
      // SAFETY: the vector's memory stays valid through the call.
      let put = unsafe rest.pieces.withUnsafeBufferPointer {
        unsafe goliath_write_vector(
          descriptor, $0.baseAddress, Int32($0.count), start + Int64(done),
          through ? GOLIATH_WRITE_THROUGH : 0)
      }
      if put == -Int64(EINTR) || put == -Int64(EAGAIN) { continue }
      if through, put == -Int64(EOPNOTSUPP) {
        try writeAll(start + Int64(done), source.slice(done, source.count - done), false)
        return try synchronize()
      }
      if put < 0 { throw SystemError(call: "pwritev", code: Int32(-put)) }
      if put == 0 { throw SystemError(call: "pwritev", code: ENOSPC) }
      done += Int(put)
    }
  }

  /// Everything written before is on stable storage when it returns (fdatasync(2)). Throws `SystemError`.
  package func synchronize() throws(SystemError) {
    let descriptor = file.rawValue
    try SystemError.check("fdatasync") { () -> Int32 in fdatasync(descriptor) }
  }

  // MARK: O_DIRECT

  private static func directAlignment(_ descriptor: Int32, _ kind: Kind, _ size: Int) -> Int {
    var sector: UInt32 = 0
    // SAFETY: a local.
    if kind == .blockDevice, unsafe goliath_device_sector(descriptor, &sector) == 0 {
      return min(max(Int(sector), 512), 4096)
    }
    guard size >= 512 else { return 4096 }
    let probe = IOBuffer(count: 4096)
    // Memory at a multiple of 512 and of nothing more.
    let vector = probe.vector(512..<1024)
    // SAFETY: the buffer outlives the call.
    let got = unsafe vector.pieces.withUnsafeBufferPointer {
      unsafe goliath_read_vector(descriptor, $0.baseAddress, Int32($0.count), 0, 0)
    }
    return got == 512 ? 512 : 4096
  }

  private func isAligned(_ offset: UInt64, _ vector: IOVector) -> Bool {
    let mask = UInt64(alignment - 1)
    guard offset & mask == 0, UInt64(vector.count) & mask == 0 else { return false }
    var fits = true
    vector.forEachPiece(0, vector.count) { start, count in
      let bits = UInt(bitPattern: start) | UInt(count)
      if bits & UInt(mask) != 0 { fits = false }
    }
    return fits
  }

  /// Memory for pieces of a request at a time.
  private static let bounceSize = 1 << 20

  private func readUnaligned(_ offset: UInt64, into target: IOVector) throws(SystemError) {
    let unit = UInt64(alignment)
    var done = 0
    let span = Int(offset % unit) + target.count + alignment
    let buffer = IOBuffer(count: min(BlockFile.bounceSize, (span + alignment) & ~(alignment - 1)))
    while done < target.count {
      let at = offset + UInt64(done)
      let first = at / unit * unit
      let skip = Int(at - first)
      let part = min(target.count - done, buffer.count - skip)
      let whole = (skip + part + alignment - 1) / alignment * alignment
      let got = try readSome(Int64(first), buffer.vector(0..<whole))
      if got < whole { buffer.fill(0, got..<whole) }
      target.copy(from: buffer.vector(skip..<skip + part), at: done)
      done += part
    }
  }

  private func writeUnaligned(
    _ offset: UInt64, from source: IOVector, _ through: Bool
  ) throws(SystemError) {
    let result: Result<Void, SystemError> = partialWrites.withLock { _ in
      Result { () throws(SystemError) in try writeParts(offset, source, through) }
    }
    try result.get()
  }

  private func writeParts(
    _ offset: UInt64, _ source: IOVector, _ through: Bool
  ) throws(SystemError) {
    let unit = UInt64(alignment)
    let before = kind == .regular ? try currentLength() : UInt64.max
    let wanted = max(before, offset + UInt64(source.count))
    var done = 0
    let span = Int(offset % unit) + source.count + alignment
    let buffer = IOBuffer(count: min(BlockFile.bounceSize, (span + alignment) & ~(alignment - 1)))
    while done < source.count {
      let at = offset + UInt64(done)
      let first = at / unit * unit
      let skip = Int(at - first)
      let part = min(source.count - done, buffer.count - skip)
      let whole = (skip + part + alignment - 1) / alignment * alignment
      // Only the first and the last block can be written in part.
      if skip > 0 { try fetchBlock(first, buffer, 0) }
      if (skip + part) % alignment != 0, skip == 0 || whole > alignment {
        try fetchBlock(first + UInt64(whole) - unit, buffer, whole - alignment)
      }
      buffer.vector(skip..<skip + part).copy(from: source.slice(done, part))
      try writeAll(Int64(first), buffer.vector(0..<whole), through)
      done += part
    }
    if kind == .regular, try currentLength() > wanted {
      let descriptor = file.rawValue
      try SystemError.check("ftruncate") { () -> Int32 in ftruncate(descriptor, off_t(wanted)) }
    }
  }

  private func fetchBlock(_ offset: UInt64, _ buffer: IOBuffer, _ place: Int) throws(SystemError) {
    let got = try readSome(Int64(offset), buffer.vector(place..<place + alignment))
    if got < alignment { buffer.fill(0, place + got..<place + alignment) }
  }

  // MARK: -

  /// The rest of a vector, at most as many pieces as the kernel takes.
  private static func part(_ vector: IOVector, _ done: Int) -> IOVector {
    if done == 0, vector.pieceCount <= 1024 { return vector }
    let rest = done == 0 ? vector : vector.slice(done, vector.count - done)
    if rest.pieceCount <= 1024 { return rest }
    // SAFETY: only the lengths are read.
    let length = unsafe rest.pieces.prefix(1024).reduce(0) { unsafe $0 + $1.iov_len }
    return rest.slice(0, length)
  }

  static func checked(_ offset: UInt64, _ count: UInt64) throws(SystemError) -> Int64 {
    let (end, overflow) = offset.addingReportingOverflow(count)
    guard !overflow, end <= UInt64(Int64.max) else {
      throw SystemError(call: "pread", code: EINVAL)
    }
    return Int64(offset)
  }
}
