/// Loops over tables of big-endian numbers, as qcow2 keeps them: whole runs in one call, since tables have millions of entries.
extension IOBuffer {
  // MARK: - Words of 64 bits

  /// How many words from `offset` on are zero, at most `limit`.
  package func zeroWords(at offset: Int, limit: Int) -> Int {
    let number = words(from: offset, limit)
    var index = 0
    // SAFETY: `number` words are there.
    let start = unsafe base + max(0, offset)
    while index &+ 8 <= number {
      let block = unsafe start.loadUnaligned(
        fromByteOffset: index &* 8, as: SIMD8<UInt64>.self)
      if block != SIMD8<UInt64>.zero { break }
      index &+= 8
    }
    while index < number,
      unsafe start.loadUnaligned(fromByteOffset: index &* 8, as: UInt64.self) == 0
    {
      index &+= 1
    }
    return index
  }

  /// How many words from `offset` on, at most `limit`, follow each other: each is `step` more than the one before. At least 1 where there is one.
  package func risingWords(at offset: Int, limit: Int, step: UInt64) -> Int {
    let number = words(from: offset, limit)
    guard number > 0 else { return 0 }
    // SAFETY: `number` words are there.
    let start = unsafe base + offset
    var expected = unsafe UInt64(bigEndian: start.loadUnaligned(as: UInt64.self))
    var index = 1
    while index < number {
      expected = expected &+ step
      let word = unsafe start.loadUnaligned(fromByteOffset: index &* 8, as: UInt64.self)
      if word != expected.bigEndian { break }
      index &+= 1
    }
    return index
  }

  /// Stores `count` words from `offset` on: `first`, and each `step` more than the one before. What does not fit is left out.
  package func storeRisingWords(at offset: Int, count: Int, from first: UInt64, step: UInt64) {
    let number = words(from: offset, count)
    // SAFETY: `number` words are there.
    let start = unsafe base + max(0, offset)
    var value = first
    for index in 0..<number {
      unsafe start.storeBytes(of: value.bigEndian, toByteOffset: index &* 8, as: UInt64.self)
      value = value &+ step
    }
  }

  /// In `count` words from `offset` on, clears the bits of `mask` and sets those of `bits`.
  package func changeWords(at offset: Int, count: Int, clear mask: UInt64, set bits: UInt64) {
    let number = words(from: offset, count)
    let (kept, added) = ((~mask).bigEndian, bits.bigEndian)
    // SAFETY: `number` words are there.
    let start = unsafe base + max(0, offset)
    for index in 0..<number {
      let word = unsafe start.loadUnaligned(fromByteOffset: index &* 8, as: UInt64.self)
      unsafe start.storeBytes(of: word & kept | added, toByteOffset: index &* 8, as: UInt64.self)
    }
  }

  private func words(from offset: Int, _ limit: Int) -> Int {
    guard offset >= 0, offset < count else { return 0 }
    return max(0, min(limit, (count - offset) / 8))
  }

  // MARK: - Lanes

  // A lane is one of the numbers of `1 << order` bits that fill the buffer (order 0 to 6); those of less than a byte from its low bits on.

  /// The number at an index; 0 outside.
  package func lane(_ index: Int, _ order: Int) -> UInt64 {
    switch order {
    case 4: return UInt64(loadBigEndian(UInt16.self, at: index &* 2))
    case 3: return UInt64(loadBigEndian(UInt8.self, at: index))
    case 5: return UInt64(loadBigEndian(UInt32.self, at: index &* 4))
    case 6: return loadBigEndian(UInt64.self, at: index &* 8)
    default:
      let byte = loadBigEndian(UInt8.self, at: (index << order) >> 3)
      return UInt64(byte >> UInt8((index << order) & 7)) & ((1 << (1 << UInt64(order))) - 1)
    }
  }

  /// Sets the number at an index, to the low bits of `value`; nothing outside.
  package func setLane(_ index: Int, _ order: Int, _ value: UInt64) {
    switch order {
    case 4: storeBigEndian(UInt16(truncatingIfNeeded: value), at: index &* 2)
    case 3: storeBigEndian(UInt8(truncatingIfNeeded: value), at: index)
    case 5: storeBigEndian(UInt32(truncatingIfNeeded: value), at: index &* 4)
    case 6: storeBigEndian(value, at: index &* 8)
    default:
      let at = (index << order) >> 3
      let shift = UInt8((index << order) & 7)
      let mask = UInt8((1 << (1 << order)) - 1) << shift
      let byte = loadBigEndian(UInt8.self, at: at)
      let bits = UInt8(truncatingIfNeeded: value) << shift & mask
      storeBigEndian(byte & ~mask | bits, at: at)
    }
  }

  /// Sets all numbers of a range.
  package func fillLanes(_ range: Range<Int>, _ order: Int, _ value: UInt64) {
    let range = lanes(range, order)
    guard order == 4 else {
      for index in range { setLane(index, order, value) }
      return
    }
    let stored = UInt16(truncatingIfNeeded: value).bigEndian
    // SAFETY: the range was cut to the buffer.
    for index in range {
      unsafe base.storeBytes(of: stored, toByteOffset: index &* 2, as: UInt16.self)
    }
  }

  /// Adds 1 or -1 to all numbers of a range. `fits`: none has left what it can hold (at most `maximum`); otherwise what was stored means nothing.
  /// `hasZero`: one is 0 now.
  package func addToLanes(_ delta: Int, _ range: Range<Int>, _ order: Int, maximum: UInt64)
    -> (fits: Bool, hasZero: Bool)
  {
    let range = lanes(range, order)
    guard order == 4 else {
      var result = (fits: true, hasZero: false)
      for index in range {
        let old = lane(index, order)
        if delta < 0 ? old == 0 : old >= maximum { result.fits = false }
        let new = delta < 0 ? old &- 1 : old &+ 1
        if new == 0 { result.hasZero = true }
        setLane(index, order, new)
      }
      return result
    }
    let step = UInt16(truncatingIfNeeded: delta)
    // What a number must not be before, and what tells of one that is free now.
    let wrong: UInt16 = delta < 0 ? 0 : .max
    var isWrong: UInt16 = 0
    var isZero: UInt16 = 0
    // SAFETY: the range was cut to the buffer.
    for index in range {
      let old = unsafe UInt16(
        bigEndian: base.loadUnaligned(fromByteOffset: index &* 2, as: UInt16.self))
      let new = old &+ step
      isWrong |= old == wrong ? 1 : 0
      isZero |= new == 0 ? 1 : 0
      unsafe base.storeBytes(of: new.bigEndian, toByteOffset: index &* 2, as: UInt16.self)
    }
    return (isWrong == 0, isZero != 0)
  }

  /// The first index of a range whose number is `value` (`isEqual`), or is another one; nil when there is none.
  package func firstLane(
    in range: Range<Int>, _ order: Int, _ value: UInt64, isEqual: Bool = true
  ) -> Int? {
    let range = lanes(range, order)
    var index = range.lowerBound
    guard order == 4, let wanted = UInt16(exactly: value)?.bigEndian else {
      while index < range.upperBound {
        if (lane(index, order) == value) == isEqual { return index }
        index &+= 1
      }
      return nil
    }
    // Eight at once while all are alike.
    let alike = SIMD8<UInt16>(repeating: wanted)
    while !isEqual, index &+ 8 <= range.upperBound {
      // SAFETY: the range was cut to the buffer.
      let block = unsafe base.loadUnaligned(
        fromByteOffset: index &* 2, as: SIMD8<UInt16>.self)
      if block != alike { break }
      index &+= 8
    }
    while index < range.upperBound {
      // SAFETY: as above.
      let number = unsafe base.loadUnaligned(fromByteOffset: index &* 2, as: UInt16.self)
      if (number == wanted) == isEqual { return index }
      index &+= 1
    }
    return nil
  }

  /// Whether `count` numbers of 16 bits from index `first` on are those of `words` from `start` on, of which only the bits of `mask` count.
  package func hasLanes(
    _ first: Int, _ count: Int, equalTo words: borrowing [UInt16], from start: Int, mask: UInt16
  ) -> Bool {
    guard first >= 0, start >= 0, count > 0, first + count <= self.count / 2,
      start + count <= words.count
    else { return count == 0 }
    var difference: UInt16 = 0
    // SAFETY: as many numbers are in the buffer and in the array.
    unsafe words.withUnsafeBufferPointer { words in
      for index in 0..<count {
        let number = unsafe UInt16(
          bigEndian: base.loadUnaligned(fromByteOffset: (first &+ index) &* 2, as: UInt16.self))
        difference |= unsafe number ^ (words[start &+ index] & mask)
      }
    }
    return difference == 0
  }

  private func lanes(_ range: Range<Int>, _ order: Int) -> Range<Int> {
    range.clamped(to: 0..<(count * 8) >> order)
  }
}
