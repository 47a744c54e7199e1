import Glibc

extension IOBuffer {
  /// The 32 bytes at `offset`; zeros outside.
  @inline(__always)
  package func words(at offset: Int) -> SIMD4<UInt64> {
    guard offset >= 0, offset <= count - 32 else { return SIMD4() }
    // SAFETY: inside the allocation; unaligned loads are allowed here.
    return unsafe base.loadUnaligned(fromByteOffset: offset, as: SIMD4<UInt64>.self)
  }

  /// Moves bytes within the buffer; they may overlap. What lies outside is cut off.
  package func move(_ range: Range<Int>, to target: Int) {
    let range = range.clamped(to: 0..<count)
    guard target >= 0, target < count else { return }
    // SAFETY: both ends are inside.
    unsafe memmove(base + target, base + range.lowerBound, min(range.count, count - target))
  }
}

extension IOVector {
  /// Copies bytes of a buffer into this memory, from `offset` on. What either lacks is left out.
  package func copy(from buffer: IOBuffer, _ start: Int, count length: Int, at offset: Int = 0) {
    guard start >= 0, length > 0, start <= buffer.count - length else { return }
    var done = 0
    forEachPiece(offset, length) { to, count in
      // SAFETY: the buffer has `length` bytes from `start`.
      unsafe memcpy(to, buffer.base + start + done, count)
      done += count
    }
  }
}

extension StreamSocket {
  /// Whether a result says only that there is nothing now, or no room.
  package static func isAgain(_ result: Int) -> Bool { result == -Int(EAGAIN) }
}
