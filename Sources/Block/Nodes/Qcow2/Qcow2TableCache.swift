/// A map from words to small numbers: open addressing, power-of-two room, no allocation when nothing is added.
struct Qcow2WordMap: Sendable {
  private var keys: [UInt64]
  private var values: [Int32]
  private(set) var count = 0
  private static let free = UInt64.max

  init(room: Int = 16) {
    var size = 16
    while size < room * 2 { size *= 2 }
    keys = [UInt64](repeating: Self.free, count: size)
    values = [Int32](repeating: 0, count: size)
  }

  private func home(_ key: UInt64) -> Int {
    // The high bits of the product depend on all bits of the key.
    let mixed = key &* 0x9E37_79B9_7F4A_7C15
    return Int(truncatingIfNeeded: (mixed >> 32) ^ mixed) & (keys.count - 1)
  }

  /// -1 when the key is not there. Keys are anything but the largest word.
  func value(_ key: UInt64) -> Int32 {
    var index = home(key)
    while true {
      let found = keys[index]
      if found == key { return values[index] }
      if found == Self.free { return -1 }
      index = (index + 1) & (keys.count - 1)
    }
  }

  mutating func set(_ key: UInt64, _ value: Int32) {
    guard key != Self.free else { return }
    if count * 2 >= keys.count { grow() }
    var index = home(key)
    while keys[index] != Self.free, keys[index] != key { index = (index + 1) & (keys.count - 1) }
    if keys[index] == Self.free { count += 1 }
    keys[index] = key
    values[index] = value
  }

  mutating func remove(_ key: UInt64) {
    var index = home(key)
    while keys[index] != key {
      if keys[index] == Self.free { return }
      index = (index + 1) & (keys.count - 1)
    }
    count -= 1
    var hole = index
    while true {
      index = (index + 1) & (keys.count - 1)
      if keys[index] == Self.free { break }
      // Moves back what could not be found across the hole.
      let distance = (index - home(keys[index])) & (keys.count - 1)
      if distance >= (index - hole) & (keys.count - 1) {
        keys[hole] = keys[index]
        values[hole] = values[index]
        hole = index
      }
    }
    keys[hole] = Self.free
  }

  mutating func removeAll() {
    for index in keys.indices { keys[index] = Self.free }
    count = 0
  }

  private mutating func grow() {
    let old = (keys, values)
    keys = [UInt64](repeating: Self.free, count: old.0.count * 2)
    values = [Int32](repeating: 0, count: old.0.count * 2)
    count = 0
    for (index, key) in old.0.enumerated() where key != Self.free { set(key, old.1[index]) }
  }
}

/// Parts of tables (slices) in memory, as words in the host's order, at most so many; written back by whoever takes the dirty ones.
///
/// All words lie in one flat array. What is clean and was not used lately makes room (clock).
struct Qcow2TableCache: Sendable {
  /// Words of a slice, a power of two.
  let sliceWords: Int
  let maximumSlots: Int
  private(set) var words: [UInt64] = []
  private var keys: [UInt64] = []
  private var flags: [UInt8] = []
  private var map = Qcow2WordMap()
  private var hand = 0
  private(set) var dirtySlots: [Int] = []
  /// How often a slice was thrown out: a slice that was read before the last of them may be outdated.
  private(set) var evictions: UInt64 = 0

  private static let dirty: UInt8 = 1
  /// Being written to the image: not to be thrown out, or it would be read back too early.
  private static let writing: UInt8 = 2
  private static let used: UInt8 = 4
  private static let noKey = UInt64.max

  init(sliceWords: Int, maximumSlots: Int) {
    self.sliceWords = sliceWords
    self.maximumSlots = maximumSlots
  }

  var count: Int { map.count }

  /// The slot of a slice; nil when it is not here.
  @inline(__always)
  mutating func slot(_ key: UInt64) -> Int? {
    let slot = Int(map.value(key))
    if slot < 0 { return nil }
    flags[slot] |= Self.used
    return slot
  }

  func contains(_ key: UInt64) -> Bool { map.value(key) >= 0 }
  func key(ofSlot slot: Int) -> UInt64 { keys[slot] }

  @inline(__always)
  func word(_ slot: Int, _ index: Int) -> UInt64 {
    words[slot &* sliceWords &+ index]
  }

  mutating func set(_ slot: Int, _ index: Int, _ value: UInt64) {
    words[slot * sliceWords + index] = value
    markDirty(slot)
  }

  mutating func markDirty(_ slot: Int) {
    if flags[slot] & Self.dirty == 0 {
      flags[slot] |= Self.dirty
      dirtySlots.append(slot)
    }
  }

  /// Room for a slice, filled with zeros; nil when all slots are dirty or being written. Its key must not be there.
  mutating func insert(_ key: UInt64) -> Int? {
    let slot: Int
    if keys.count < maximumSlots {
      slot = keys.count
      if slot == 0 { words.reserveCapacity(min(maximumSlots, 4096) * sliceWords) }
      keys.append(key)
      flags.append(Self.used)
      words.append(contentsOf: repeatElement(0, count: sliceWords))
    } else {
      guard let victim = findVictim() else { return nil }
      slot = victim
      if keys[slot] != Self.noKey {
        map.remove(keys[slot])
        evictions &+= 1
      }
      keys[slot] = key
      flags[slot] = Self.used
      for index in slot * sliceWords..<(slot + 1) * sliceWords { words[index] = 0 }
    }
    map.set(key, Int32(slot))
    return slot
  }

  private mutating func findVictim() -> Int? {
    for _ in 0..<keys.count * 2 {
      hand = hand + 1 < keys.count ? hand + 1 : 0
      if flags[hand] & (Self.dirty | Self.writing) != 0 { continue }
      if flags[hand] & Self.used == 0 || keys[hand] == Self.noKey { return hand }
      flags[hand] &= ~Self.used
    }
    return nil
  }

  /// Whether so much is dirty that it should be written now.
  var isCrowded: Bool { dirtySlots.count * 4 > maximumSlots * 3 }

  mutating func load(_ slot: Int, _ body: (inout [UInt64], Int) -> Void) {
    body(&words, slot * sliceWords)
  }

  /// The dirty slots, which count as clean and being written from now on.
  mutating func takeDirty() -> [Int] {
    let slots = dirtySlots
    dirtySlots = []
    for slot in slots { flags[slot] = flags[slot] & ~Self.dirty | Self.writing }
    return slots
  }

  /// What `takeDirty` gave has been written, or not.
  mutating func finishWriting(_ slots: [Int], failed: Bool) {
    for slot in slots {
      flags[slot] &= ~Self.writing
      if failed { markDirty(slot) }
    }
  }

  /// Forgets everything. Nothing may be dirty.
  mutating func removeAll() {
    words.removeAll(keepingCapacity: true)
    keys.removeAll(keepingCapacity: true)
    flags.removeAll(keepingCapacity: true)
    dirtySlots = []
    map.removeAll()
    hand = 0
    evictions &+= 1
  }
}
