package import Glibc

/// Memory of our own for input and output, aligned for O_DIRECT, freed with its last owner.
///
/// Threads: whoever has given an `IOVector` of it to a request leaves those bytes alone until the request is over; nothing here locks.
@safe package final class IOBuffer: @unchecked Sendable {
  // SAFETY: allocated in init with `count` bytes, freed in deinit only.
  @unsafe let base: UnsafeMutableRawPointer
  /// Bytes.
  package let count: Int

  /// Zeroed memory of `count` bytes at a multiple of 4,096.
  package init(count: Int) {
    self.count = count
    let start = unsafe UnsafeMutableRawPointer.allocate(byteCount: max(count, 1), alignment: 4096)
    unsafe memset(start, 0, count)
    unsafe base = unsafe start
  }

  /// A copy of `bytes`.
  package convenience init(_ bytes: [UInt8]) {
    self.init(count: bytes.count)
    store(bytes, at: 0)
  }

  deinit { unsafe base.deallocate() }

  /// The whole buffer as the memory of a request.
  package var vector: IOVector { IOVector(self) }

  /// A part of it as the memory of a request. What lies outside is cut off.
  package func vector(_ range: Range<Int>) -> IOVector { IOVector(self, range) }

  /// Copies bytes out; what lies outside is cut off.
  package func bytes(_ range: Range<Int>) -> [UInt8] {
    let range = range.clamped(to: 0..<count)
    // SAFETY: the range was clamped to the allocation.
    return unsafe [UInt8](
      UnsafeRawBufferPointer(start: base + range.lowerBound, count: range.count))
  }

  package var bytes: [UInt8] { bytes(0..<count) }

  /// Copies bytes in; what does not fit is cut off.
  package func store(_ bytes: [UInt8], at offset: Int) {
    guard offset >= 0, offset < count else { return }
    let length = min(bytes.count, count - offset)
    // SAFETY: both sides hold `length` bytes from there.
    unsafe bytes.withUnsafeBytes { source in
      guard let start = source.baseAddress, length > 0 else { return }
      unsafe memcpy(base + offset, start, length)
    }
  }

  /// Sets every byte of the range.
  package func fill(_ value: UInt8, _ range: Range<Int>) {
    let range = range.clamped(to: 0..<count)
    unsafe memset(base + range.lowerBound, Int32(value), range.count)
  }

  /// An integer at `offset` in big-endian order, as qcow2 stores it; 0 outside. One function for each width: generic ones are not specialised
  /// across modules.
  package func loadBigEndian(_ type: UInt8.Type, at offset: Int) -> UInt8 {
    guard offset >= 0, offset <= count - MemoryLayout<UInt8>.size else { return 0 }
    // SAFETY: inside the allocation; unaligned loads are allowed here.
    return unsafe UInt8(bigEndian: base.loadUnaligned(fromByteOffset: offset, as: UInt8.self))
  }

  /// The same.
  package func loadBigEndian(_ type: UInt16.Type, at offset: Int) -> UInt16 {
    guard offset >= 0, offset <= count - MemoryLayout<UInt16>.size else { return 0 }
    // SAFETY: inside the allocation; unaligned loads are allowed here.
    return unsafe UInt16(bigEndian: base.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
  }

  /// The same.
  package func loadBigEndian(_ type: UInt32.Type, at offset: Int) -> UInt32 {
    guard offset >= 0, offset <= count - MemoryLayout<UInt32>.size else { return 0 }
    // SAFETY: inside the allocation; unaligned loads are allowed here.
    return unsafe UInt32(bigEndian: base.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
  }

  /// The same.
  package func loadBigEndian(_ type: UInt64.Type, at offset: Int) -> UInt64 {
    guard offset >= 0, offset <= count - MemoryLayout<UInt64>.size else { return 0 }
    // SAFETY: inside the allocation; unaligned loads are allowed here.
    return unsafe UInt64(bigEndian: base.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
  }

  /// Stores an integer at `offset` in big-endian order; nothing outside.
  package func storeBigEndian(_ value: UInt8, at offset: Int) {
    guard offset >= 0, offset <= count - MemoryLayout<UInt8>.size else { return }
    // SAFETY: inside the allocation.
    unsafe base.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt8.self)
  }

  /// The same.
  package func storeBigEndian(_ value: UInt16, at offset: Int) {
    guard offset >= 0, offset <= count - MemoryLayout<UInt16>.size else { return }
    // SAFETY: inside the allocation.
    unsafe base.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt16.self)
  }

  /// The same.
  package func storeBigEndian(_ value: UInt32, at offset: Int) {
    guard offset >= 0, offset <= count - MemoryLayout<UInt32>.size else { return }
    // SAFETY: inside the allocation.
    unsafe base.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt32.self)
  }

  /// The same.
  package func storeBigEndian(_ value: UInt64, at offset: Int) {
    guard offset >= 0, offset <= count - MemoryLayout<UInt64>.size else { return }
    // SAFETY: inside the allocation.
    unsafe base.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt64.self)
  }
}

/// Memory in pieces, the source or the target of one request: the guest's buffers, or an `IOBuffer`.
@safe package struct IOVector: @unchecked Sendable {
  // SAFETY: the pieces lie in `owner`s' memory or in guest RAM, whose mappings live as long as the machine (GuestMemory).
  @unsafe package private(set) var pieces: [iovec] = unsafe []
  private var owner: IOBuffer?
  /// Bytes in all.
  package private(set) var count = 0
  package var pieceCount: Int { unsafe pieces.count }

  package init() {}

  package init(_ buffer: IOBuffer, _ range: Range<Int>? = nil) {
    let range = (range ?? 0..<buffer.count).clamped(to: 0..<buffer.count)
    owner = buffer
    if !range.isEmpty {
      // SAFETY: inside the buffer, which this value keeps alive.
      unsafe append(buffer.base + range.lowerBound, count: range.count)
    }
  }

  /// Adds memory that outlives this value. Pieces that touch become one.
  @unsafe package mutating func append(_ start: UnsafeMutableRawPointer, count length: Int) {
    guard length > 0 else { return }
    count += length
    if let last = unsafe pieces.last, let base = unsafe last.iov_base,
      unsafe base + last.iov_len == start
    {
      unsafe pieces[pieces.count - 1].iov_len += length
    } else {
      unsafe pieces.append(iovec(iov_base: start, iov_len: length))
    }
  }

  /// Forgets the pieces and keeps the room for new ones.
  package mutating func removeAll() {
    unsafe pieces.removeAll(keepingCapacity: true)
    owner = nil
    count = 0
  }

  /// The part from `offset`, at most `length` bytes.
  package func slice(_ offset: Int, _ length: Int) -> IOVector {
    if offset == 0, length >= count { return self }
    var result = IOVector()
    result.owner = owner
    forEachPiece(offset, length) { start, count in unsafe result.append(start, count: count) }
    return result
  }

  /// Copies bytes of the request's memory out.
  package func bytes(_ offset: Int = 0, _ length: Int = Int.max) -> [UInt8] {
    var result: [UInt8] = []
    result.reserveCapacity(min(length, max(0, count - offset)))
    forEachPiece(offset, length) { start, count in
      unsafe result.append(contentsOf: UnsafeRawBufferPointer(start: start, count: count))
    }
    return result
  }

  /// Copies `bytes` into the request's memory from `offset`; what does not fit is cut off.
  package func store(_ bytes: [UInt8], at offset: Int = 0) {
    unsafe bytes.withUnsafeBytes { source in
      guard let from = source.baseAddress else { return }
      var done = 0
      forEachPiece(offset, bytes.count) { start, count in
        unsafe memcpy(start, from + done, count)
        done += count
      }
    }
  }

  /// Copies from the other's start into this one's from `offset`, as much as both have.
  package func copy(from source: IOVector, at offset: Int = 0) {
    var position = offset
    source.forEachPiece(0, min(source.count, max(0, count - offset))) { from, length in
      var done = 0
      forEachPiece(position, length) { to, count in
        unsafe memcpy(to, from + done, count)
        done += count
      }
      position += length
    }
  }

  /// Sets bytes of the request's memory.
  package func fill(_ value: UInt8, _ offset: Int = 0, _ length: Int = Int.max) {
    forEachPiece(offset, length) { start, count in unsafe memset(start, Int32(value), count) }
  }

  /// Whether all bytes are zero.
  package var isZero: Bool {
    var zero = true
    forEachPiece(0, count) { start, length in
      if zero { zero = unsafe UnsafeRawBufferPointer(start: start, count: length).isZero }
    }
    return zero
  }

  /// How many bytes from `offset` on (a multiple of `granularity` from there, or what is left) are all zero, or all not all-zero, and which.
  package func zeroRun(_ offset: Int, granularity: Int) -> (isZero: Bool, length: Int) {
    let first = slice(offset, granularity).isZero
    var end = min(count, offset + granularity)
    while end < count, slice(end, granularity).isZero == first {
      end = min(count, end + granularity)
    }
    return (first, max(0, end - offset))
  }

  /// Whether both hold the same bytes.
  package func hasSameBytes(as other: IOVector) -> Bool {
    guard count == other.count else { return false }
    var same = true
    var position = 0
    forEachPiece(0, count) { mine, length in
      var done = 0
      other.forEachPiece(position, length) { theirs, part in
        if same { same = unsafe memcmp(mine + done, theirs, part) == 0 }
        done += part
      }
      position += length
    }
    return same
  }

  /// Calls `body` with each stretch of memory of the part, in order.
  // SAFETY: the pointers are valid during the call.
  @safe package func forEachPiece(
    _ offset: Int, _ length: Int, _ body: (UnsafeMutableRawPointer, Int) -> Void
  ) {
    guard offset >= 0, length > 0 else { return }
    var skip = offset
    var left = min(length, max(0, count - offset))
    for index in 0..<pieceCount {
      if left == 0 { return }
      let piece = unsafe pieces[index]
      guard let base = unsafe piece.iov_base else { continue }
      let size = unsafe Int(piece.iov_len)
      if skip >= size {
        skip -= size
        continue
      }
      let part = min(size - skip, left)
      unsafe body(base + skip, part)
      left -= part
      skip = 0
    }
  }
}

extension UnsafeRawBufferPointer {
  /// Whether all bytes are zero.
  // SAFETY: every load is checked to be within the buffer.
  @safe package var isZero: Bool {
    var offset = 0
    while unsafe offset + 64 <= count {
      let block = unsafe loadUnaligned(fromByteOffset: offset, as: SIMD8<UInt64>.self)
      if block != SIMD8<UInt64>.zero { return false }
      offset += 64
    }
    while unsafe offset < count {
      if unsafe self[offset] != 0 { return false }
      offset += 1
    }
    return true
  }
}
