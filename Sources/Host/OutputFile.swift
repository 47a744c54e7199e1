import CLinux
import Glibc
import Synchronization

/// A file, pipe or socket that a thread of its own writes to in order, waiting as long as it takes; another thread may cancel it.
@safe package final class OutputFile: Sendable {
  private enum Kind: Sendable { case file, pipe, socket }
  private let descriptor: Int32
  private let kind: Kind
  /// Whether bytes that are skipped read as zero later: a plain file whose end we are at.
  package let leavesHoles: Bool
  private let isCancelled = Atomic<Bool>(false)
  /// Whether the last thing written was a hole.
  private let endsInHole = Atomic<Bool>(false)

  private static let zeros = [UInt8](repeating: 0, count: 1 << 16)

  /// Takes the descriptor over.
  package init(_ owned: consuming FileDescriptor) {
    var status = stat()
    // SAFETY: `status` outlives the call.
    let known = unsafe fstat(owned.rawValue, &status) == 0
    switch known ? status.st_mode & S_IFMT : S_IFREG {
    case S_IFSOCK: kind = .socket
    case S_IFIFO, S_IFCHR: kind = .pipe
    default: kind = .file
    }
    let position = lseek(owned.rawValue, 0, SEEK_CUR)
    let flags = fcntl(owned.rawValue, F_GETFL)
    leavesHoles =
      known && status.st_mode & S_IFMT == S_IFREG && position >= status.st_size
      && flags & O_APPEND == 0
    if kind == .pipe, let reopened = try? Descriptors.reopenForWriting(owned.rawValue) {
      // The copy may be non-blocking without changing the client's.
      descriptor = reopened.release()
    } else {
      descriptor = owned.release()
    }
  }

  deinit { close(descriptor) }

  /// Makes the present write and all later ones fail with `ECANCELED`, soon. Any thread.
  package func cancel() { isCancelled.store(true, ordering: .releasing) }

  /// Throws `ECANCELED` when cancelled.
  package func checkCancelled() throws(SystemError) {
    if isCancelled.load(ordering: .acquiring) { throw SystemError(call: "write", code: ECANCELED) }
  }

  /// Writes all of `bytes`. Throws `SystemError`.
  package func write(_ bytes: [UInt8]) throws(SystemError) {
    // SAFETY: valid within the closure.
    let result = unsafe bytes.withUnsafeBytes { buffer in
      Result { () throws(SystemError) in unsafe try write(buffer) }
    }
    try result.get()
  }

  /// Writes all of `bytes`, which must stay valid through the call. Throws `SystemError`.
  @unsafe package func write(_ bytes: UnsafeRawBufferPointer) throws(SystemError) {
    var done = 0
    while unsafe done < bytes.count {
      try checkCancelled()
      let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[done...])
      done += unsafe try writeSome(rest)
    }
    if unsafe !bytes.isEmpty { endsInHole.store(false, ordering: .relaxed) }
  }

  /// Writes so many zeros: as a hole where the file can have one.
  package func writeZeros(_ count: Int) throws(SystemError) {
    try checkCancelled()
    if leavesHoles {
      let target = descriptor
      _ = try SystemError.check("lseek") { () -> Int in lseek(target, count, SEEK_CUR) }
      endsInHole.store(true, ordering: .relaxed)
      return
    }
    var left = count
    while left > 0 {
      let step = min(left, OutputFile.zeros.count)
      // SAFETY: valid within the closure; `step` is within it.
      let result = unsafe OutputFile.zeros.withUnsafeBytes { buffer in
        Result { () throws(SystemError) in
          unsafe try write(UnsafeRawBufferPointer(rebasing: buffer[..<step]))
        }
      }
      try result.get()
      left -= step
    }
  }

  /// Gives a file that ends in a hole its full length. After the last write.
  package func finish() throws(SystemError) {
    guard endsInHole.load(ordering: .relaxed) else { return }
    let target = descriptor
    let length = lseek(target, 0, SEEK_CUR)
    try SystemError.check("ftruncate") { () -> Int32 in ftruncate(target, length) }
  }

  private static let sendFlags = Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL)

  private func writeSome(_ bytes: UnsafeRawBufferPointer) throws(SystemError) -> Int {
    // A file takes large pieces quickly; smaller ones let a cancel through.
    let part = unsafe UnsafeRawBufferPointer(rebasing: bytes.prefix(4 << 20))
    let target = descriptor
    if kind != .file { try waitWritable() }
    let isSocket = kind == .socket
    do throws(SystemError) {
      // SAFETY: the caller keeps the bytes valid.
      return try SystemError.check("write") { () -> Int in
        unsafe isSocket
          ? Glibc.send(target, part.baseAddress, part.count, OutputFile.sendFlags)
          : Glibc.write(target, part.baseAddress, part.count)
      }
    } catch {
      if error.code == EAGAIN { return 0 }
      throw error
    }
  }

  private func waitWritable() throws(SystemError) {
    while true {
      try checkCancelled()
      var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
      // SAFETY: one entry, alive through the call.
      if unsafe poll(&entry, 1, 100) > 0 { return }
    }
  }
}
