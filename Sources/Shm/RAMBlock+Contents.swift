extension RAMBlock {
  /// The bytes of a range, for other nodes; what lies outside is cut off.
  package func contents(_ range: Range<Int>) -> [UInt8] {
    let range = range.clamped(to: 0..<size)
    // SAFETY: the range was clamped to the mapping, which lives as long as the block.
    return unsafe [UInt8](
      UnsafeRawBufferPointer(start: base + range.lowerBound, count: range.count))
  }

  /// Fills a part of a block that no guest uses yet; what does not fit is cut off.
  package func fill(_ bytes: [UInt8], at offset: Int) {
    guard offset >= 0, offset < size else { return }
    let count = min(bytes.count, size - offset)
    // SAFETY: both sides hold `count` bytes from there.
    unsafe bytes.withUnsafeBytes { source in
      guard let start = source.baseAddress, count > 0 else { return }
      unsafe (base + offset).copyMemory(from: start, byteCount: count)
    }
  }
}
