/// Python's `random.Random`, as far as the page protocol's reference uses it (MT19937; seeding by an integer; `random`, `randrange`,
/// `choice`), so that both see the same numbers.
final class MersenneTwister {
  private var state = [UInt32](repeating: 0, count: 624)
  private var index = 624

  /// `random.Random(seed)`.
  init(seed: UInt64) {
    var key = [UInt32(truncatingIfNeeded: seed)]
    if seed >> 32 != 0 { key.append(UInt32(truncatingIfNeeded: seed >> 32)) }
    state[0] = 19_650_218
    for i in 1..<624 {
      state[i] = 1_812_433_253 &* (state[i - 1] ^ state[i - 1] >> 30) &+ UInt32(i)
    }
    var i = 1
    var j = 0
    for _ in 0..<max(624, key.count) {
      state[i] =
        (state[i] ^ (state[i - 1] ^ state[i - 1] >> 30) &* 1_664_525) &+ key[j] &+ UInt32(j)
      i += 1
      j += 1
      if i >= 624 {
        state[0] = state[623]
        i = 1
      }
      if j >= key.count { j = 0 }
    }
    for _ in 0..<623 {
      state[i] = (state[i] ^ (state[i - 1] ^ state[i - 1] >> 30) &* 1_566_083_941) &- UInt32(i)
      i += 1
      if i >= 624 {
        state[0] = state[623]
        i = 1
      }
    }
    state[0] = 0x8000_0000
  }

  private func word() -> UInt32 {
    if index >= 624 {
      for k in 0..<624 {
        let y = state[k] & 0x8000_0000 | state[(k + 1) % 624] & 0x7FFF_FFFF
        state[k] = state[(k + 397) % 624] ^ y >> 1 ^ (y & 1 == 0 ? 0 : 0x9908_B0DF)
      }
      index = 0
    }
    var y = state[index]
    index += 1
    y ^= y >> 11
    y ^= y << 7 & 0x9D2C_5680
    y ^= y << 15 & 0xEFC6_0000
    return y ^ y >> 18
  }

  /// A number in 0..<1.
  func random() -> Double {
    let a = Double(word() >> 5)
    let b = Double(word() >> 6)
    return (a * 67_108_864.0 + b) * (1.0 / 9_007_199_254_740_992.0)
  }

  /// A number below `n`.
  func randrange(_ n: Int) -> Int {
    let bits = Int.bitWidth - n.leadingZeroBitCount
    while true {
      let value = Int(word() >> UInt32(32 - bits))
      if value < n { return value }
    }
  }

  func choice<T>(_ values: [T]) -> T { values[randrange(values.count)] }
}
