import CLinux
import Glibc

// What network code does with buffers: copies, checksums, and reading and writing frames.

extension FileDescriptor {
  /// For a file that is made, or emptied, and written.
  package static var createFlags: Int32 { O_WRONLY | O_CREAT | O_TRUNC }
}

extension IOBuffer {
  /// Copies `count` bytes of the request's memory from `offset` into this buffer at `position`; false when it does not fit.
  @discardableResult
  package func gather(_ vector: IOVector, from offset: Int, count length: Int, at position: Int)
    -> Bool
  {
    guard position >= 0, length >= 0, position <= count - length else { return false }
    var at = position
    vector.forEachPiece(offset, length) { start, size in
      unsafe memcpy(base + at, start, size)
      at += size
    }
    return at == position + length
  }

  /// Copies a part of this buffer into the request's memory from `offset`; what does not fit is cut off.
  package func scatter(_ range: Range<Int>, to vector: IOVector, at offset: Int = 0) {
    let range = range.clamped(to: 0..<count)
    var at = range.lowerBound
    vector.forEachPiece(offset, range.count) { start, size in
      unsafe memcpy(start, base + at, size)
      at += size
    }
  }

  /// Copies a part of another buffer (or of this one: they may overlap) to `position`; false when it does not fit.
  @discardableResult
  package func copy(_ range: Range<Int>, of source: IOBuffer, at position: Int) -> Bool {
    guard range.lowerBound >= 0, range.upperBound <= source.count, position >= 0,
      position <= count - range.count
    else { return false }
    unsafe memmove(base + position, source.base + range.lowerBound, range.count)
    return true
  }

  /// Whether two parts of equal length hold the same bytes; false outside.
  package func equals(_ range: Range<Int>, _ other: IOBuffer, at position: Int) -> Bool {
    guard range.lowerBound >= 0, range.upperBound <= count, position >= 0,
      position <= other.count - range.count
    else { return false }
    return unsafe memcmp(base + range.lowerBound, other.base + position, range.count) == 0
  }

  /// A little-endian integer at `offset`; 0 outside.
  package func loadLittleEndian<T: FixedWidthInteger & BitwiseCopyable>(
    _ type: T.Type, at offset: Int
  ) -> T {
    guard offset >= 0, offset <= count - MemoryLayout<T>.size else { return 0 }
    // SAFETY: inside the allocation; unaligned loads are allowed here.
    return unsafe T(littleEndian: base.loadUnaligned(fromByteOffset: offset, as: T.self))
  }

  /// Stores a little-endian integer at `offset`; nothing outside.
  package func storeLittleEndian<T: FixedWidthInteger & BitwiseCopyable>(
    _ value: T, at offset: Int
  ) {
    guard offset >= 0, offset <= count - MemoryLayout<T>.size else { return }
    unsafe base.storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
  }

  /// The ones' complement sum of big-endian 16-bit words (RFC 1071), folded to 16 bits, of a part that is cut to the buffer.
  package func onesSum(_ range: Range<Int>) -> UInt16 {
    let range = range.clamped(to: 0..<count)
    // SAFETY: the range was clamped to the allocation.
    let sum = unsafe goliath_ones_sum(base + range.lowerBound, UInt64(range.count), 0)
    return UInt16(truncatingIfNeeded: sum).byteSwapped
  }

  // MARK: - Descriptors

  /// Reads at most what fits behind `position`. Nil when there is nothing now; 0 at the end. Throws `SystemError`.
  package func read(from descriptor: Int32, at position: Int) throws(SystemError) -> Int? {
    guard position >= 0, position < count else { return 0 }
    while true {
      // SAFETY: the rest of the allocation, with its size.
      let result = unsafe Glibc.read(descriptor, base + position, count - position)
      if result >= 0 { return result }
      let code = errno
      if code == EAGAIN { return nil }
      if code != EINTR { throw SystemError(call: "read", code: code) }
    }
  }

  /// Writes a part; nil when the descriptor takes nothing now. Throws `SystemError`.
  package func write(_ range: Range<Int>, to descriptor: Int32) throws(SystemError) -> Int? {
    let range = range.clamped(to: 0..<count)
    while true {
      // SAFETY: the range was clamped to the allocation.
      let result = unsafe Glibc.write(descriptor, base + range.lowerBound, range.count)
      if result >= 0 { return result }
      let code = errno
      if code == EAGAIN || code == ENOBUFS { return nil }
      if code != EINTR { throw SystemError(call: "write", code: code) }
    }
  }

  /// Sends a part to `address`, or to the peer that the socket has; nil when it takes nothing now. Throws `SystemError`.
  package func send(
    _ range: Range<Int>, to descriptor: Int32, address: ResolvedAddress? = nil
  ) throws(SystemError) -> Int? {
    let range = range.clamped(to: 0..<count)
    let flags = Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT)
    while true {
      let result: Int
      if let address {
        // SAFETY: both memories live through the call, with their sizes.
        result = unsafe address.withSockaddr {
          unsafe Glibc.sendto(descriptor, base + range.lowerBound, range.count, flags, $0, $1)
        }
      } else {
        // SAFETY: the range was clamped to the allocation.
        result = unsafe Glibc.send(descriptor, base + range.lowerBound, range.count, flags)
      }
      if result >= 0 { return result }
      let code = errno
      if code == EAGAIN || code == ENOBUFS { return nil }
      if code != EINTR { throw SystemError(call: "send", code: code) }
    }
  }
}
