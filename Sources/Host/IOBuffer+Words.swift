import Glibc

extension IOBuffer {
  /// Copies `count` big-endian words from `offset` into `words` from `index`, in the host's order. What lies outside of either is left out.
  package func loadBigEndianWords(
    at offset: Int, into words: inout [UInt64], at index: Int, count wanted: Int
  ) {
    guard offset >= 0, offset < count, index >= 0, index < words.count else { return }
    let number = min(wanted, (count - offset) / 8, words.count - index)
    vector(offset..<count).forEachPiece(0, number * 8) { start, length in
      // SAFETY: `length` bytes are there, and the same number of words in the array.
      unsafe words.withUnsafeMutableBufferPointer { target in
        for word in 0..<length / 8 {
          unsafe target[index + word] = UInt64(
            bigEndian: start.loadUnaligned(fromByteOffset: word * 8, as: UInt64.self))
        }
      }
    }
  }

  /// Copies `count` words of `words` from `index` to `offset`, as big-endian ones. What lies outside of either is left out.
  package func storeBigEndianWords(
    _ words: borrowing [UInt64], at index: Int, count wanted: Int, to offset: Int
  ) {
    guard offset >= 0, offset < count, index >= 0, index < words.count else { return }
    let number = min(wanted, (count - offset) / 8, words.count - index)
    let source = words.span
    vector(offset..<count).forEachPiece(0, number * 8) { start, length in
      for word in 0..<length / 8 {
        // SAFETY: `length` bytes are there.
        unsafe start.storeBytes(
          of: source[index + word].bigEndian, toByteOffset: word * 8, as: UInt64.self)
      }
    }
  }
}

extension IOVector {
  /// Adds the other's memory at the end. Whoever owns it keeps it until the request is over: this value does not.
  package mutating func append(contentsOf other: IOVector) {
    for index in 0..<other.pieceCount {
      let piece = unsafe other.pieces[index]
      guard let start = unsafe piece.iov_base else { continue }
      // SAFETY: lives as long as `other`'s owner, which the caller keeps.
      unsafe append(start, count: Int(piece.iov_len))
    }
  }
}
