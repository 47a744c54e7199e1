package import Glibc

/// An open file descriptor, closed exactly once: when its owner goes out of scope or calls `close()`.
package struct FileDescriptor: ~Copyable, Sendable {
  /// The number, for calls that borrow it. Never closed through this.
  package let rawValue: Int32

  /// Takes ownership of an open descriptor.
  package init(owning rawValue: Int32) { self.rawValue = rawValue }

  /// Closes now.
  package consuming func close() {}

  /// Gives the number away; the caller closes it.
  package consuming func release() -> Int32 {
    let value = rawValue
    discard self
    return value
  }

  deinit {
    DescriptorSets.shared.closing(rawValue)
    _ = Glibc.close(rawValue)
  }

  /// Opens `path`; `/dev/fdset/N` is a descriptor of that set (`DescriptorSets`). Throws `SystemError` for `open`.
  package static func open(
    _ path: String, _ flags: Int32, mode: mode_t = 0o666
  ) throws(SystemError) -> FileDescriptor {
    if let set = try DescriptorSets.number(in: path) {
      return FileDescriptor(owning: try DescriptorSets.shared.open(set, flags))
    }
    let number: Int32 = try SystemError.check("open") { () -> Int32 in
      // SAFETY: the string lives through the call.
      unsafe Glibc.open(path, flags | O_CLOEXEC, mode)
    }
    return FileDescriptor(owning: number)
  }

  /// Another descriptor of the same open file. Throws `SystemError` for `fcntl`.
  package borrowing func duplicate() throws(SystemError) -> FileDescriptor {
    let from = rawValue
    let number: Int32 = try SystemError.check("fcntl") { () -> Int32 in
      fcntl(from, F_DUPFD_CLOEXEC, 3)
    }
    return FileDescriptor(owning: number)
  }

  /// Reads up to `buffer`'s size; 0 is the end. Throws `SystemError` (also for `EAGAIN`).
  package borrowing func read(into buffer: inout [UInt8]) throws(SystemError) -> Int {
    let from = rawValue
    return try SystemError.check("read") { () -> Int in
      // SAFETY: the pointer is used within the call and covers the array.
      unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(from, $0.baseAddress, $0.count) }
    }
  }

  /// Writes from `bytes[from...]`; answers how many bytes went. Throws `SystemError` (also for `EAGAIN`).
  package borrowing func write(_ bytes: [UInt8], from start: Int = 0) throws(SystemError) -> Int {
    let to = rawValue
    return try SystemError.check("write") { () -> Int in
      // SAFETY: the pointer is used within the call and covers the array.
      unsafe bytes.withUnsafeBytes {
        let part = unsafe UnsafeRawBufferPointer(rebasing: $0[start...])
        return unsafe Glibc.write(to, part.baseAddress, part.count)
      }
    }
  }

  /// Makes reads and writes answer `EAGAIN` in place of waiting.
  package borrowing func setNonBlocking(_ on: Bool = true) throws(SystemError) {
    let target = rawValue
    let flags: Int32 = try SystemError.check("fcntl") { () -> Int32 in fcntl(target, F_GETFL) }
    let wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK
    try SystemError.check("fcntl") { () -> Int32 in fcntl(target, F_SETFL, wanted) }
  }

  /// The whole content of a file. Throws `SystemError`; `EFBIG` when there are more than `limit` bytes (a device that never ends, too).
  package static func contents(
    of path: String, limit: Int = Int.max
  ) throws(SystemError) -> [UInt8] {
    let file = try open(path, O_RDONLY)
    var result: [UInt8] = []
    var status = stat()
    // SAFETY: `status` outlives the call.
    if unsafe fstat(file.rawValue, &status) == 0, status.st_size > 0 {
      guard status.st_size <= limit else { throw SystemError(call: "read", code: EFBIG) }
      result.reserveCapacity(Int(status.st_size))
    }
    var chunk = [UInt8](repeating: 0, count: 1 << 18)
    while true {
      let count = try file.read(into: &chunk)
      if count == 0 { return result }
      guard count <= limit - result.count else { throw SystemError(call: "read", code: EFBIG) }
      result.append(contentsOf: chunk[..<count])
    }
  }

  /// Removes a file; one that is not there is no error.
  package static func remove(_ path: String) {
    _ = unsafe unlink(path)  // SAFETY: the string lives through the call.
  }

  /// Writes all of `text` to standard output, for what is printed before the program ends.
  package static func writeToStandardOutput(_ text: String) {
    let bytes = Array(text.utf8)
    var done = 0
    while done < bytes.count {
      // SAFETY: the pointer is used within the call and covers the array.
      let count = unsafe bytes.withUnsafeBytes {
        let rest = unsafe UnsafeRawBufferPointer(rebasing: $0[done...])
        return unsafe Glibc.write(1, rest.baseAddress, rest.count)
      }
      if count <= 0 { return }
      done += count
    }
  }
}
