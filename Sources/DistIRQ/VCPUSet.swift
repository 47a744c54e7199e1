/// A set of vCPUs, up to `capacity` of them, as plain words: destinations of a message, vCPUs to wake.
package struct VCPUSet: Sendable, BitwiseCopyable {
  /// Largest number of vCPUs of a machine.
  package static let capacity = 512

  /// 64 vCPUs each, lowest first: also the wire form.
  package var words: [8 of UInt64] = .init(repeating: 0)

  /// The empty set.
  package init() {}

  /// True when no vCPU is in the set.
  package var isEmpty: Bool {
    var all: UInt64 = 0
    for index in words.indices { all |= words[index] }
    return all == 0
  }

  /// Number of vCPUs in the set.
  package var count: Int {
    var count = 0
    for index in words.indices { count &+= words[index].nonzeroBitCount }
    return count
  }

  /// True when the vCPU with this index is in the set.
  package func contains(_ index: Int) -> Bool {
    guard index >= 0, index < Self.capacity else { return false }
    return words[index >> 6] & 1 << UInt64(index & 63) != 0
  }

  /// Adds the vCPU with this index; indices beyond the capacity are ignored.
  package mutating func insert(_ index: Int) {
    guard index >= 0, index < Self.capacity else { return }
    words[index >> 6] |= 1 << UInt64(index & 63)
  }

  /// Removes the vCPU with this index.
  package mutating func remove(_ index: Int) {
    guard index >= 0, index < Self.capacity else { return }
    words[index >> 6] &= ~(1 << UInt64(index & 63))
  }

  /// Those that are in both.
  package func intersection(_ other: VCPUSet) -> VCPUSet {
    var result = self
    for index in words.indices { result.words[index] &= other.words[index] }
    return result
  }

  /// The first index in the set that is at least `start`, or nil.
  package func first(from start: Int) -> Int? {
    guard start < Self.capacity else { return nil }
    var index = max(start, 0) >> 6
    var word = words[index] & (UInt64.max << UInt64(max(start, 0) & 63))
    while word == 0 {
      index &+= 1
      guard index < words.count else { return nil }
      word = words[index]
    }
    return index &* 64 &+ word.trailingZeroBitCount
  }

  /// The indices, lowest first.
  package var indices: Indices { Indices(rest: self, word: 0) }

  /// Iterates over a set without allocating.
  package struct Indices: Sequence, IteratorProtocol, Sendable {
    var rest: VCPUSet
    var word: Int

    /// The next index.
    package mutating func next() -> Int? {
      while word < rest.words.count {
        let bits = rest.words[word]
        if bits != 0 {
          rest.words[word] = bits & (bits &- 1)
          return word &* 64 &+ bits.trailingZeroBitCount
        }
        word &+= 1
      }
      return nil
    }
  }
}
