/// How often each cluster of the image is used (qcow2 specification, Refcounts): the refcount table, and what is cached of refcount blocks.
/// Clusters are numbers here. A model: no I/O, no locks.
struct Qcow2RefcountCache: Sendable {
  let layout: Qcow2Layout
  private(set) var table: [UInt64]
  private(set) var tableOffset: UInt64
  /// Pages (512 entries) of the table that differ from the image.
  var dirtyPages: Set<Int> = []
  var cache: Qcow2TableCache
  /// Refcount blocks that were never written; what is not cached of them is zero. As in `Qcow2Mapping`.
  var fresh: [UInt64: UInt64] = [:]
  /// No cluster below is free.
  var hint: UInt64 = 0
  /// Clusters from here on were never written: the image has zeros there.
  var untouched: UInt64
  /// log2 of the refcounts in a slice.
  let sliceBits: UInt64

  /// What an allocation gave.
  struct Allocation: Equatable, Sendable {
    var start: UInt64
    var count: UInt64
    /// New refcount blocks, at these clusters: metadata from now on.
    var blocks: Range<UInt64>
    /// The image has zeros there.
    var isZero: Bool
  }

  /// - Parameter cacheSize: Bytes of refcount blocks to keep at most; nil: the whole image's, up to 8 MiB.
  init(
    layout: Qcow2Layout, table: [UInt64], tableOffset: UInt64, fileSize: UInt64, cacheSize: Int?
  ) {
    self.layout = layout
    self.table = table
    self.tableOffset = tableOffset
    untouched = layout.clusters(fileSize)
    let bytes = min(layout.clusterSize, Qcow2Mapping.sliceBytes)
    sliceBits = UInt64(bytes.trailingZeroBitCount) + 3 - UInt64(layout.refcountOrder)
    let wanted = max(1 << 20, min(cacheSize ?? 8 << 20, 1 << 30))
    cache = Qcow2TableCache(sliceWords: Int(bytes / 8), maximumSlots: wanted / Int(bytes))
  }

  private var blockBits: UInt64 { UInt64(layout.refcountBlockBits) }

  private func block(_ cluster: UInt64) -> Int {
    Int(truncatingIfNeeded: cluster >> blockBits)
  }

  /// Where in the image a slice belongs.
  func sliceOffset(_ key: UInt64) -> UInt64? {
    let index = block(key << sliceBits)
    guard index < table.count else { return nil }
    let start = table[index] & Qcow2Entry.refcountOffsetMask
    let within = (key << sliceBits & ((1 << blockBits) - 1)) >> sliceBits
    return start == 0 ? nil : start + within * UInt64(cache.sliceWords * 8)
  }

  /// The slot with a cluster's refcount; nil when there is no block for it.
  private mutating func slot(_ cluster: UInt64) throws(Qcow2Need) -> Int? {
    let key = cluster >> sliceBits
    if let slot = cache.slot(key) { return slot }
    let index = block(cluster)
    guard index < table.count else { return nil }
    let start = table[index] & Qcow2Entry.refcountOffsetMask
    if start == 0 { return nil }
    if layout.inCluster(start) != 0 || start > 1 << 62 {
      throw .corrupt(
        Qcow2Corruption(
          "Refblock offset \(hex(start)) unaligned (reftable index: \(hex(UInt64(index))))",
          isFatal: true))
    }
    if fresh[start] == nil, let offset = sliceOffset(key) {
      throw .refcountSlice(key: key, offset: offset)
    }
    guard let slot = cache.insert(key) else { throw .room }
    return slot
  }

  /// Takes in a slice that was read from `offset`; false when it belongs elsewhere by now. Throws `.room`.
  mutating func insert(_ key: UInt64, from offset: UInt64, _ fill: (inout [UInt64], Int) -> Void)
    throws(Qcow2Need) -> Bool
  {
    if cache.contains(key) { return true }
    guard sliceOffset(key) == offset else { return false }
    guard let slot = cache.insert(key) else { throw .room }
    cache.load(slot, fill)
    return true
  }

  /// Word in the slice, and shift within the word. Refcounts of a byte and more are big-endian; smaller ones fill a byte from its low bits.
  @inline(__always)
  private func position(_ cluster: UInt64) -> (word: Int, shift: UInt64) {
    let index = cluster & ((1 << sliceBits) - 1)
    let order = UInt64(layout.refcountOrder)
    let bit = index << order
    let word = Int(bit >> 6)
    let within = bit & 63
    if order >= 3 { return (word, 64 - within - (1 << order)) }
    return (word, 56 - (within & ~7) + (within & 7))
  }

  private var valueMask: UInt64 {
    layout.refcountOrder == 6 ? .max : (1 << (1 << UInt64(layout.refcountOrder))) - 1
  }

  /// A cluster's refcount.
  mutating func count(_ cluster: UInt64) throws(Qcow2Need) -> UInt64 {
    guard let slot = try slot(cluster) else { return 0 }
    let (word, shift) = position(cluster)
    return cache.word(slot, word) >> shift & valueMask
  }

  private mutating func store(_ slot: Int, _ cluster: UInt64, _ value: UInt64) {
    let (word, shift) = position(cluster)
    let old = cache.word(slot, word)
    cache.set(slot, word, old & ~(valueMask << shift) | value << shift)
  }

  /// Adds one to a cluster's refcount; false when it cannot be stored or the cluster is free.
  mutating func increment(_ cluster: UInt64) throws(Qcow2Need) -> Bool {
    guard let slot = try slot(cluster) else { return false }
    let (word, shift) = position(cluster)
    let value = cache.word(slot, word) >> shift & valueMask
    guard value > 0, value < layout.maximumRefcount else { return false }
    store(slot, cluster, value + 1)
    return true
  }

  /// Takes one from a cluster's refcount; what is left, nil when it was 0 already.
  mutating func decrement(_ cluster: UInt64) throws(Qcow2Need) -> UInt64? {
    guard let slot = try slot(cluster) else { return nil }
    let (word, shift) = position(cluster)
    let value = cache.word(slot, word) >> shift & valueMask
    guard value > 0 else { return nil }
    store(slot, cluster, value - 1)
    if value == 1, cluster < hint { hint = cluster }
    return value - 1
  }

  /// Up to `wanted` (`exact`: just as many) free clusters in a row, from `minimum` on; their refcounts are one. New refcount blocks
  /// take their place beside them.
  mutating func allocate(_ wanted: UInt64, exact: Bool, from minimum: UInt64 = 0)
    throws(Qcow2Need) -> Allocation
  {
    var start = max(hint, minimum)
    var at = start
    var missing: [Int] = []
    var firstFree: UInt64?
    let word = UInt64(64 >> layout.refcountOrder)
    let limit = (UInt64(1) << 56) >> UInt64(layout.clusterBits)
    while at - start < wanted + UInt64(missing.count) {
      guard at < limit else { throw .failed(28, "The image file would become too large") }
      // Behind the file's end something may have leaked, but hardly that much.
      if start > untouched, start - untouched > 1 << 24, start > minimum {
        throw .failed(5, "Refcounts far beyond the end of the image")
      }
      let index = block(at)
      guard index < table.count else { throw .refcountTable(cluster: at) }
      let end = start + wanted + UInt64(missing.count)
      if table[index] & Qcow2Entry.refcountOffsetMask == 0 {
        if missing.last != index { missing.append(index) }
        if firstFree == nil { firstFree = at }
        at = min((at >> blockBits + 1) << blockBits, end + 1)
        continue
      }
      guard let slot = try slot(at) else { continue }
      let (word0, shift) = position(at)
      let bits = cache.word(slot, word0)
      if bits == 0, at & (word - 1) == 0 {
        if firstFree == nil { firstFree = at }
        at = min(at + word, end)
      } else if bits >> shift & valueMask == 0 {
        if firstFree == nil { firstFree = at }
        at += 1
      } else {
        if !exact, at - start > UInt64(missing.count) { break }
        start = at + 1
        at = start
        missing = []
      }
    }
    at = min(at, start + wanted + UInt64(missing.count))
    // Every slice that is written below is there first: from here on nothing fails.
    var cluster = start
    while cluster < at {
      let key = cluster >> sliceBits
      if table[block(cluster)] & Qcow2Entry.refcountOffsetMask == 0 {
        if !cache.contains(key), cache.insert(key) == nil { throw .room }
      } else {
        _ = try slot(cluster)
      }
      cluster = (key + 1) << sliceBits
    }
    cluster = start
    while cluster < at {
      let key = cluster >> sliceBits
      if !cache.contains(key) { throw .room }
      cluster = (key + 1) << sliceBits
    }
    let isZero = start >= untouched
    for (number, index) in missing.enumerated() {
      let place = (start + UInt64(number)) << UInt64(layout.clusterBits)
      table[index] = place
      dirtyPages.insert(index >> 9)
      fresh[place] = isZero ? 1 : 0
    }
    for cluster in start..<at {
      if let slot = cache.slot(cluster >> sliceBits) { store(slot, cluster, 1) }
    }
    if minimum <= hint { hint = min(firstFree ?? at, start) == start ? at : firstFree ?? at }
    untouched = max(untouched, at)
    let data = start + UInt64(missing.count)
    return Allocation(start: data, count: at - data, blocks: start..<data, isZero: isZero)
  }

  /// The table as it is stored, with zeros for blocks that were not written yet; for a new place.
  func storedTable() -> [UInt64] {
    table.map { fresh[$0 & Qcow2Entry.refcountOffsetMask] != nil ? 0 : $0 }
  }

  /// A longer table, written at `offset`, takes over; `added` are the entries behind the present ones.
  mutating func extendTable(_ added: [UInt64], at offset: UInt64) {
    table += added
    tableOffset = offset
    dirtyPages = []
    for (index, entry) in table.enumerated()
    where fresh[entry & Qcow2Entry.refcountOffsetMask] != nil {
      dirtyPages.insert(index >> 9)
    }
  }
}
