/// What the model needs before it can answer; the caller sees to it and asks again. Nothing was changed.
enum Qcow2Need: Error {
  /// A slice of an L2 table, stored at `offset`.
  case l2Slice(key: UInt64, offset: UInt64)
  /// A slice of a refcount block.
  case refcountSlice(key: UInt64, offset: UInt64)
  /// A refcount table that knows of this cluster.
  case refcountTable(cluster: UInt64)
  /// Dirty tables must be written.
  case room
  /// Something else in flight must be over; the word that tells.
  case wait(seen: UInt32)
  case corrupt(Qcow2Corruption)
  case failed(Int32, String)
}

/// A stretch of the guest's disk that is stored in one way.
struct Qcow2Extent: Equatable, Sendable {
  enum Kind: UInt8, Sendable {
    /// What is below decides.
    case unallocated
    case zero
    case data
    case compressed
  }
  var kind: Kind
  /// It may be written in place (the refcount is one); false for what has no place.
  var isOwned: Bool
  /// There is a place for it, which may hold anything unless `kind` is data.
  var hasPlace: Bool
  /// Bytes from the offset asked for.
  var length: UInt64
  /// Where the byte asked for is stored; for a compressed cluster its L2 entry.
  var host: UInt64
}

/// The tables from guest offsets to places in the image: the L1 table, and what is cached of L2 tables (qcow2 specification, Cluster mapping).
/// A model: no I/O, no locks.
struct Qcow2Mapping: Sendable {
  let layout: Qcow2Layout
  /// The active L1 table, as much as the virtual size needs or the image has.
  private(set) var l1: [UInt64]
  private(set) var l1Offset: UInt64
  /// Pages (512 entries) of the L1 table that differ from the image.
  var dirtyL1Pages: Set<Int> = []
  var cache: Qcow2TableCache
  /// L2 tables that were never written: nil-source ones are zeros (0; 1 when the image has zeros there already), others have another table's
  /// content where nothing is cached.
  var fresh: [UInt64: UInt64] = [:]
  /// log2 of the guest bytes of a slice.
  let sliceCoverageBits: UInt64
  let sliceEntryBits: UInt64

  static let sliceBytes: UInt64 = 4096

  /// - Parameter cacheSize: Bytes of L2 tables to keep at most; nil: the whole image's, up to 32 MiB.
  init(layout: Qcow2Layout, l1: [UInt64], l1Offset: UInt64, size: UInt64, cacheSize: Int?) {
    self.layout = layout
    self.l1 = l1
    self.l1Offset = l1Offset
    let bytes = min(layout.clusterSize, Self.sliceBytes)
    let entries = bytes / UInt64(layout.entryWords * 8)
    sliceEntryBits = UInt64(entries.trailingZeroBitCount)
    sliceCoverageBits = sliceEntryBits + UInt64(layout.clusterBits)
    let whole = 32 << 20
    let wanted = max(1 << 20, min(cacheSize ?? whole, 1 << 30))
    cache = Qcow2TableCache(sliceWords: Int(bytes / 8), maximumSlots: wanted / Int(bytes))
  }

  // MARK: - Tables

  func l1Index(_ offset: UInt64) -> Int {
    Int(truncatingIfNeeded: offset >> UInt64(layout.l2CoverageBits))
  }
  func sliceKey(_ offset: UInt64) -> UInt64 { offset >> sliceCoverageBits }
  /// Index of a cluster's first word in its slice.
  func wordIndex(_ offset: UInt64) -> Int {
    let entry = (offset >> UInt64(layout.clusterBits)) & ((1 << sliceEntryBits) - 1)
    return Int(entry) * layout.entryWords
  }

  private func slicePlace(_ key: UInt64) -> (l1: Int, within: UInt64) {
    let shift = UInt64(layout.l2Bits) - sliceEntryBits
    let within = (key & ((1 << shift) - 1)) * UInt64(cache.sliceWords * 8)
    return (Int(truncatingIfNeeded: key >> shift), within)
  }

  /// Where in the image a cached slice belongs.
  func sliceOffset(_ key: UInt64) -> UInt64? {
    let place = slicePlace(key)
    guard place.l1 < l1.count else { return nil }
    let table = l1[place.l1] & Qcow2Entry.offsetMask
    return table == 0 ? nil : table + place.within
  }

  /// Where a slice that is not cached is to be read: nil for zeros.
  private func loadOffset(_ table: UInt64, _ within: UInt64) -> UInt64? {
    guard let source = fresh[table] else { return table + within }
    return source <= 1 ? nil : source + within
  }

  /// The slot of the slice that maps `offset`; nil when there is no L2 table.
  @inline(__always)
  mutating func slot(for offset: UInt64) throws(Qcow2Need) -> Int? {
    let key = sliceKey(offset)
    if let slot = cache.slot(key) { return slot }
    return try load(key)
  }

  private mutating func load(_ key: UInt64) throws(Qcow2Need) -> Int? {
    let place = slicePlace(key)
    guard place.l1 < l1.count else { return nil }
    let table = l1[place.l1] & Qcow2Entry.offsetMask
    if table == 0 { return nil }
    if layout.inCluster(table) != 0 {
      throw .corrupt(
        Qcow2Corruption(
          "L2 table offset \(hex(table)) unaligned (L1 index: \(hex(UInt64(place.l1))))",
          isFatal: true))
    }
    if let from = loadOffset(table, place.within) { throw .l2Slice(key: key, offset: from) }
    guard let slot = cache.insert(key) else { throw .room }
    return slot
  }

  /// Takes in a slice that was read from `offset`; false when it belongs elsewhere by now. Throws `.room`.
  mutating func insert(_ key: UInt64, from offset: UInt64, _ fill: (inout [UInt64], Int) -> Void)
    throws(Qcow2Need) -> Bool
  {
    if cache.contains(key) { return true }
    let place = slicePlace(key)
    guard place.l1 < l1.count else { return false }
    let table = l1[place.l1] & Qcow2Entry.offsetMask
    guard table != 0, loadOffset(table, place.within) == offset else { return false }
    guard let slot = cache.insert(key) else { throw .room }
    cache.load(slot, fill)
    return true
  }

  mutating func setL1(_ index: Int, _ value: UInt64) {
    l1[index] = value
    dirtyL1Pages.insert(index >> 9)
  }

  /// Another L1 table, already written, takes over.
  mutating func replaceL1(_ table: [UInt64], at offset: UInt64) {
    l1 = table
    l1Offset = offset
    dirtyL1Pages = []
  }

  // MARK: - Entries

  mutating func setEntry(_ slot: Int, _ offset: UInt64, _ entry: UInt64, bitmap: UInt64 = 0) {
    let index = wordIndex(offset)
    cache.set(slot, index, entry)
    if layout.hasSubclusters { cache.set(slot, index + 1, bitmap) }
  }

  func entry(_ slot: Int, _ offset: UInt64) -> (entry: UInt64, bitmap: UInt64) {
    let index = wordIndex(offset)
    return (
      cache.word(slot, index), layout.hasSubclusters ? cache.word(slot, index + 1) : 0
    )
  }

  /// How the bytes from `offset` are stored, at most `count` (at least 1) of them. With `owned`, places that may be written and others are kept apart.
  mutating func lookup(_ offset: UInt64, _ count: UInt64, owned: Bool) throws(Qcow2Need)
    -> Qcow2Extent
  {
    guard let slot = try slot(for: offset) else {
      var index = l1Index(offset)
      let bits = UInt64(layout.l2CoverageBits)
      var length = (1 << bits) - offset & ((1 << bits) - 1)
      index += 1
      while length < count, index < l1.count, l1[index] & Qcow2Entry.offsetMask == 0 {
        length += 1 << bits
        index += 1
      }
      return Qcow2Extent(
        kind: .unallocated, isOwned: false, hasPlace: false, length: min(length, count), host: 0)
    }
    if layout.hasSubclusters { return try lookupSubclusters(slot, offset, count, owned: owned) }
    var index = wordIndex(offset)
    let first = cache.word(slot, index)
    let inside = layout.inCluster(offset)
    var extent = try classify(first, offset)
    var length = layout.clusterSize - inside
    if extent.kind == .compressed || length >= count {
      extent.host += extent.kind == .compressed ? 0 : inside
      extent.length = min(length, count)
      return extent
    }
    // Entries that continue the first one: the same bits, and the next place.
    let mask =
      (extent.hasPlace ? Qcow2Entry.offsetMask : 0) | Qcow2Entry.compressed | Qcow2Entry.zero
      | (owned && extent.hasPlace ? Qcow2Entry.copied : 0)
    let step = extent.hasPlace ? layout.clusterSize : 0
    var expected = first & mask
    index += 1
    while index < cache.sliceWords, length < count {
      expected &+= step
      let word = cache.word(slot, index)
      if word & mask != expected { break }
      // Without a place, offset 0 is part of what makes the kind.
      if !extent.hasPlace, hasPlace(word) { break }
      length += layout.clusterSize
      index += 1
    }
    extent.host += inside
    extent.length = min(length, count)
    return extent
  }

  @inline(__always)
  func hasPlace(_ entry: UInt64) -> Bool {
    entry & Qcow2Entry.offsetMask != 0
      || (layout.hasDataFile && entry & Qcow2Entry.copied != 0)
  }

  private func isOwned(_ entry: UInt64) -> Bool {
    entry & Qcow2Entry.copied != 0 || layout.hasDataFile
  }

  /// The kind of an entry without subclusters; `host` is the cluster's place.
  @inline(__always)
  private func classify(_ entry: UInt64, _ offset: UInt64) throws(Qcow2Need) -> Qcow2Extent {
    var extent = Qcow2Extent(
      kind: .unallocated, isOwned: false, hasPlace: false, length: 0, host: 0)
    if entry & Qcow2Entry.compressed != 0 {
      if layout.hasDataFile {
        throw corrupt("Compressed cluster entry found in image with external data file", offset)
      }
      extent.kind = .compressed
      extent.host = entry
      return extent
    }
    extent.hasPlace = hasPlace(entry)
    if extent.hasPlace {
      extent.host = entry & Qcow2Entry.offsetMask
      extent.isOwned = isOwned(entry)
      extent.kind = .data
      try checkPlace(extent.host, offset)
    }
    if !layout.hasSubclusters, entry & Qcow2Entry.zero != 0 {
      if layout.version < 3 { throw corrupt("Zero cluster entry found in pre-v3 image", offset) }
      extent.kind = .zero
    }
    return extent
  }

  @inline(__always)
  private func checkPlace(_ host: UInt64, _ offset: UInt64) throws(Qcow2Need) {
    if layout.inCluster(host) != 0 {
      throw corrupt("Cluster allocation offset \(hex(host)) unaligned", offset)
    }
    if layout.hasDataFile, host != layout.clusterStart(offset) {
      throw corrupt(
        "External data file host cluster offset \(hex(host)) does not match guest cluster offset: "
          + hex(layout.clusterStart(offset)), offset)
    }
  }

  private func corrupt(_ what: String, _ offset: UInt64) -> Qcow2Need {
    let index = l1Index(offset)
    let table = index < l1.count ? l1[index] & Qcow2Entry.offsetMask : 0
    let entry = (offset >> UInt64(layout.clusterBits)) & (layout.l2Entries - 1)
    return .corrupt(
      Qcow2Corruption(
        "\(what) (L2 offset: \(hex(table)), L2 index: \(hex(entry)))", isFatal: true))
  }

  // MARK: - Subclusters

  /// The kind of subcluster `index` of an entry.
  private func kind(_ extent: Qcow2Extent, _ bitmap: UInt64, _ index: UInt64, _ offset: UInt64)
    throws(Qcow2Need) -> Qcow2Extent.Kind
  {
    if extent.kind == .compressed { return .compressed }
    let allocated = bitmap >> index & 1 != 0
    if bitmap >> (index + 32) & 1 != 0 {
      if allocated { throw corrupt("Invalid cluster entry found", offset) }
      return .zero
    }
    if allocated {
      if !extent.hasPlace { throw corrupt("Invalid cluster entry found", offset) }
      return .data
    }
    return .unallocated
  }

  private mutating func lookupSubclusters(
    _ slot: Int, _ offset: UInt64, _ count: UInt64, owned: Bool
  ) throws(Qcow2Need) -> Qcow2Extent {
    let (entry, bitmap) = self.entry(slot, offset)
    var extent = try classify(entry, offset)
    let inside = layout.inCluster(offset)
    if extent.kind == .compressed {
      extent.length = min(layout.clusterSize - inside, count)
      return extent
    }
    let size = layout.subclusterSize
    var index = inside >> UInt64(layout.subclusterBits)
    extent.kind = try kind(extent, bitmap, index, offset)
    var length = size - inside & (size - 1)
    var current = (entry: entry, bitmap: bitmap)
    var cluster = layout.clusterStart(offset)
    let words = wordIndex(offset)
    var position = words
    index += 1
    while length < count {
      if index == UInt64(Qcow2Entry.subclusters) {
        position += 2
        cluster += layout.clusterSize
        if position >= cache.sliceWords { break }
        let next = (cache.word(slot, position), cache.word(slot, position + 1))
        let kept = try classify(next.0, cluster)
        if kept.kind == .compressed || kept.hasPlace != extent.hasPlace { break }
        if extent.hasPlace {
          if kept.host != extent.host + (cluster - layout.clusterStart(offset)) { break }
          if owned, kept.isOwned != extent.isOwned { break }
        }
        current = next
        index = 0
      }
      if try kind(extent, current.bitmap, index, cluster) != extent.kind { break }
      length += size
      index += 1
    }
    extent.host += extent.hasPlace ? inside : 0
    extent.length = min(length, count)
    return extent
  }
}

/// `0x…`, as messages show offsets.
func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
