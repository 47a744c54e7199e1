import Host

/// Clusters of the image that nothing refers to any more, as soon as the tables that say so are on disk.
struct Qcow2Freed: Equatable, Sendable {
  /// Why, which decides whether the file below is told (`pass-discard-*`).
  enum Reason: UInt8, Sendable { case rewritten, request, snapshot, other }
  var clusters: Range<UInt64>
  var reason: Reason
}

/// All that is known of an open image: the model behind the node's lock. No I/O here: what is missing is asked for by throwing `Qcow2Need`.
struct Qcow2State: Sendable {
  var header: Qcow2Header
  let layout: Qcow2Layout
  /// The virtual size.
  var size: UInt64
  var mapping: Qcow2Mapping
  var refcounts: Qcow2RefcountCache
  /// Clusters with metadata, and of which kinds (`Qcow2OverlapCheck`).
  var metadata = Qcow2WordMap(room: 64)
  let overlapCheck: Qcow2OverlapCheck
  let hasBacking: Bool
  let changed: WaitWord

  /// Guest ranges (whole clusters) that are being allocated: nobody else changes their entries.
  var allocating: [Range<UInt64>] = []
  /// Threads that sleep until one of them is over.
  var waiters = 0
  /// An operation that must be alone has the image.
  var isExclusive = false
  /// Requests count as in flight in one of two epochs; freed clusters are free when those that may have seen them are over.
  var epoch = 0
  /// Freed, but the tables on disk may still refer to them.
  var freed: [Qcow2Freed] = []
  /// Nothing on disk refers to them; requests in flight may.
  var unreferenced: [Qcow2Freed] = []
  /// The same, and the epoch in which they may be in use is closed.
  var retiring: [Qcow2Freed] = []
  /// Counts the clusters that became free: what was read from them before is worth nothing.
  var frees: UInt64 = 0
  /// Where the next compressed cluster may begin; 0 at no particular place.
  var compressedEnd: UInt64 = 0
  var isCorrupt = false
  /// The header's dirty bit is set, or (lazy refcounts) to be set before the first table is written.
  var isMarkedDirty = false
  /// A change to the whole image has failed half-way: the dirty bit is not ours to clear.
  var staysDirty = false
  var lazyRefcounts: Bool

  // MARK: - What must not be hit

  mutating func note(_ clusters: Range<UInt64>, _ kind: Qcow2OverlapCheck) {
    for cluster in clusters {
      let old = metadata.value(cluster)
      metadata.set(cluster, (old < 0 ? 0 : old) | Int32(kind.rawValue))
    }
  }

  mutating func forget(_ clusters: Range<UInt64>, _ kind: Qcow2OverlapCheck) {
    for cluster in clusters {
      let old = metadata.value(cluster)
      if old < 0 { continue }
      let new = old & ~Int32(kind.rawValue)
      if new == 0 { metadata.remove(cluster) } else { metadata.set(cluster, new) }
    }
  }

  func clusters(_ offset: UInt64, _ length: UInt64) -> Range<UInt64> {
    let bits = UInt64(layout.clusterBits)
    let first = offset >> bits
    return first..<max(first, length == 0 ? first : (offset &+ (length &- 1)) >> bits &+ 1)
  }

  /// Throws when a write there would hit metadata other than `kind`.
  func check(_ offset: UInt64, _ length: UInt64, as kind: Qcow2OverlapCheck = [])
    throws(Qcow2Need)
  {
    for cluster in clusters(offset, length) {
      let value = metadata.value(cluster)
      if value <= 0 { continue }
      let hit = Qcow2OverlapCheck(rawValue: UInt16(truncatingIfNeeded: value))
        .intersection(overlapCheck).subtracting(kind)
      if !hit.isEmpty {
        let what = kind.isEmpty ? "data" : "metadata"
        throw .corrupt(
          Qcow2Corruption(
            "Preventing invalid write on \(what) (overlaps with \(hit.words))", offset: offset,
            size: length, isFatal: true))
      }
    }
  }

  // MARK: - Allocation

  /// Free clusters, counted as used once, at most (`exact`: just) `wanted` of them in a row.
  mutating func allocate(
    _ wanted: UInt64, exact: Bool, from minimum: UInt64 = 0, as kind: Qcow2OverlapCheck = [],
    _ what: String = "data cluster"
  ) throws(Qcow2Need) -> Qcow2RefcountCache.Allocation {
    let result = try refcounts.allocate(wanted, exact: exact, from: minimum)
    for cluster in result.blocks.lowerBound..<result.start + result.count {
      let value = metadata.value(cluster)
      guard value > 0 else { continue }
      let hit = Qcow2OverlapCheck(rawValue: UInt16(truncatingIfNeeded: value))
      guard !hit.intersection(overlapCheck).isEmpty || cluster == 0 else { continue }
      let name = result.blocks.contains(cluster) ? "refcount block" : what
      let offset = cluster << UInt64(layout.clusterBits)
      throw .corrupt(
        Qcow2Corruption(
          "Preventing invalid allocation of \(name) at offset \(offset)", isFatal: true))
    }
    note(result.blocks, .refcountBlock)
    if !kind.isEmpty { note(result.start..<result.start + result.count, kind) }
    return result
  }

  /// The clusters lose one user when the tables are on disk.
  mutating func free(_ clusters: Range<UInt64>, _ reason: Qcow2Freed.Reason) {
    if clusters.isEmpty || (layout.hasDataFile && reason != .other) { return }
    if let last = freed.last, last.reason == reason,
      last.clusters.upperBound == clusters.lowerBound
    {
      freed[freed.count - 1].clusters = last.clusters.lowerBound..<clusters.upperBound
    } else {
      freed.append(Qcow2Freed(clusters: clusters, reason: reason))
    }
  }

  /// What an L2 entry refers to loses this user.
  mutating func free(entry: UInt64, _ reason: Qcow2Freed.Reason) {
    if entry & Qcow2Entry.compressed != 0 {
      let range = Qcow2Entry.compressedRange(entry, clusterBits: layout.clusterBits)
      free(clusters(range.offset, range.length), reason)
    } else if mapping.hasPlace(entry) {
      free(clusters(entry & Qcow2Entry.offsetMask, 1), reason)
    }
  }

  /// Too much waits to be freed: the tables should be written.
  var hasManyFreed: Bool { freed.count > 16384 }

  /// Makes sure that the L2 table for a guest offset is there and the active table's own.
  mutating func ownTable(_ offset: UInt64) throws(Qcow2Need) {
    let index = mapping.l1Index(offset)
    guard index < mapping.l1.count else { throw .failed(5, "Offset beyond the L1 table") }
    let entry = mapping.l1[index]
    let old = entry & Qcow2Entry.offsetMask
    if old != 0, entry & Qcow2Entry.copied != 0 { return }
    if layout.inCluster(old) != 0 {
      throw .corrupt(
        Qcow2Corruption(
          "L2 table offset \(hex(old)) unaligned (L1 index: \(hex(UInt64(index))))",
          isFatal: true))
    }
    let place = try allocate(1, exact: true, as: .activeL2, "L2 table")
    let table = place.start << UInt64(layout.clusterBits)
    mapping.fresh[table] = old != 0 ? old : place.isZero ? 1 : 0
    mapping.setL1(index, table | Qcow2Entry.copied)
    if old != 0 {
      forget(clusters(old, 1), .activeL2)
      freed.append(Qcow2Freed(clusters: clusters(old, 1), reason: .rewritten))
    }
  }

  // MARK: - Requests in flight

  func isAllocating(_ offset: UInt64) -> Bool {
    for range in allocating where range.contains(offset) { return true }
    return false
  }

  /// Throws what makes the caller sleep until something is over.
  mutating func sleep() -> Qcow2Need {
    waiters += 1
    return .wait(seen: changed.value)
  }

  /// An allocation is over, done or not. True when somebody is to be woken.
  mutating func endAllocation(_ range: Range<UInt64>) -> Bool {
    if let index = allocating.firstIndex(of: range) { allocating.remove(at: index) }
    return waiters > 0
  }

  /// The tables want to be written before more is changed.
  var wantsCommit: Bool {
    mapping.cache.isCrowded || refcounts.cache.isCrowded || hasManyFreed
  }
}

// MARK: - Writing

/// Clusters that a write has got: the places are its own, the L2 entries still tell of the old ones.
struct Qcow2WriteAllocation: Equatable, Sendable {
  /// Guest clusters (bytes).
  var guest: Range<UInt64>
  /// Where the first of them goes.
  var host: UInt64
  /// The places were the guest's already.
  var isReused: Bool
  /// The image has zeros there.
  var isZero: Bool
  /// Guest bytes to be stored: the request's, and around them what must be copied.
  var range: Range<UInt64>
  /// The request's bytes among them.
  var data: Range<UInt64>
}

enum Qcow2WriteStep: Sendable {
  case inPlace(host: UInt64, length: UInt64)
  case allocated(Qcow2WriteAllocation)
}

extension Qcow2State {
  /// At most this much is allocated at once.
  private static let allocationLimit: UInt64 = 16 << 20

  /// How the first bytes of a write are to be done.
  mutating func prepareWrite(_ offset: UInt64, _ count: UInt64) throws(Qcow2Need)
    -> Qcow2WriteStep
  {
    let extent = try mapping.lookup(offset, count, owned: true)
    if extent.kind == .data, extent.isOwned {
      if !layout.hasDataFile { try check(extent.host, extent.length) }
      return .inPlace(host: extent.host, length: extent.length)
    }
    let first = layout.clusterStart(offset)
    if isAllocating(first) { throw sleep() }
    if wantsCommit { throw .room }
    try ownTable(offset)
    guard let slot = try mapping.slot(for: offset) else { throw .failed(5, "No L2 table") }
    let end = offset + count
    let sliceEnd = (mapping.sliceKey(offset) + 1) << mapping.sliceCoverageBits
    let limit = min(end, sliceEnd, first + max(Self.allocationLimit, layout.clusterSize))
    let step = layout.clusterSize
    let (entry, bitmap) = mapping.entry(slot, first)
    let isReused = reuses(entry)
    var host = layout.hasDataFile ? first : entry & Qcow2Entry.offsetMask
    var next = first + step
    while next < limit, !isAllocating(next), !(isReused && layout.hasSubclusters) {
      let other = mapping.entry(slot, next).entry
      if reuses(other) != isReused { break }
      if isReused, !layout.hasDataFile {
        if other & Qcow2Entry.zero == 0 { break }
        if other & Qcow2Entry.offsetMask != host + (next - first) { break }
      } else if isReused, other & Qcow2Entry.zero == 0, mapping.hasPlace(other) {
        break
      }
      next += step
    }
    var isZero = false
    if isReused {
      if !layout.hasDataFile { try check(host, next - first) }
    } else {
      let place = try allocate((next - first) >> UInt64(layout.clusterBits), exact: false)
      host = place.start << UInt64(layout.clusterBits)
      next = first + place.count << UInt64(layout.clusterBits)
      isZero = place.isZero
    }
    let dataEnd = min(end, next)
    let last = next - step
    let lastEntry = last == first ? (entry, bitmap) : mapping.entry(slot, last)
    let start = copyStart(entry, bitmap, offset)
    let stop = copyEnd(lastEntry.0, lastEntry.1, dataEnd)
    allocating.append(first..<next)
    return .allocated(
      Qcow2WriteAllocation(
        guest: first..<next, host: host, isReused: isReused, isZero: isZero, range: start..<stop,
        data: offset..<dataEnd))
  }

  /// Whether a write goes to the place that the entry has.
  private func reuses(_ entry: UInt64) -> Bool {
    if layout.hasDataFile { return true }
    return entry & Qcow2Entry.compressed == 0 && entry & Qcow2Entry.copied != 0
      && mapping.hasPlace(entry)
  }

  /// Whether all of the old cluster is copied, not only around the subclusters that are written.
  private func copiesWhole(_ entry: UInt64) -> Bool {
    if !layout.hasSubclusters || entry & Qcow2Entry.compressed != 0 { return true }
    return mapping.hasPlace(entry) && !reuses(entry)
  }

  private func copyStart(_ entry: UInt64, _ bitmap: UInt64, _ offset: UInt64) -> UInt64 {
    if copiesWhole(entry) { return layout.clusterStart(offset) }
    // What is stored already stays as it is: others may be writing there.
    let index = layout.inCluster(offset) >> UInt64(layout.subclusterBits)
    if bitmap >> index & 1 != 0 { return offset }
    return offset & ~(layout.subclusterSize - 1)
  }

  private func copyEnd(_ entry: UInt64, _ bitmap: UInt64, _ end: UInt64) -> UInt64 {
    if copiesWhole(entry) { return layout.clusterEnd(end) }
    let index = layout.inCluster(end - 1) >> UInt64(layout.subclusterBits)
    if bitmap >> index & 1 != 0 { return end }
    return (end + layout.subclusterSize - 1) & ~(layout.subclusterSize - 1)
  }

  /// The data is stored: the entries refer to it. True when somebody is to be woken.
  mutating func finishWrite(_ write: Qcow2WriteAllocation) throws(Qcow2Need) -> Bool {
    guard let slot = try mapping.slot(for: write.guest.lowerBound) else {
      throw .failed(5, "No L2 table")
    }
    var cluster = write.guest.lowerBound
    while cluster < write.guest.upperBound {
      let (old, bitmap) = mapping.entry(slot, cluster)
      var new: UInt64 = 0
      if layout.hasSubclusters {
        new = bitmap
        let whole = copiesWhole(old)
        let start = whole ? cluster : max(cluster, write.range.lowerBound)
        let end =
          whole
          ? cluster + layout.clusterSize
          : min(cluster + layout.clusterSize, write.range.upperBound)
        let from = (start - cluster) >> UInt64(layout.subclusterBits)
        let to = (end - cluster - 1) >> UInt64(layout.subclusterBits)
        let bits = ((UInt64(1) << (to - from + 1)) - 1) << from
        new = (new | bits) & ~(bits << 32)
      }
      if !write.isReused { free(entry: old, .rewritten) }
      let place = write.host + (cluster - write.guest.lowerBound)
      mapping.setEntry(slot, cluster, place | Qcow2Entry.copied, bitmap: new)
      cluster += layout.clusterSize
    }
    return endAllocation(write.guest)
  }

  /// The data could not be stored: the places are free again.
  mutating func abortWrite(_ write: Qcow2WriteAllocation) -> Bool {
    if !write.isReused {
      freed.append(
        Qcow2Freed(
          clusters: clusters(write.host, write.guest.upperBound - write.guest.lowerBound),
          reason: .other))
    }
    return endAllocation(write.guest)
  }

  // MARK: - Compressed clusters

  /// A place for `length` compressed bytes of the guest's cluster at `guest`; the entry that will refer to it. Its range is being allocated then.
  mutating func prepareCompressed(_ guest: UInt64, _ length: UInt64) throws(Qcow2Need)
    -> (entry: UInt64, offset: UInt64)
  {
    if isAllocating(guest) { throw sleep() }
    if wantsCommit { throw .room }
    try ownTable(guest)
    guard try mapping.slot(for: guest) != nil else { throw .failed(5, "No L2 table") }
    let offset = try allocateBytes(length)
    guard
      let entry = Qcow2Entry.compressedEntry(
        offset: offset, length: length, clusterBits: layout.clusterBits)
    else {
      free(clusters(offset, length), .other)
      throw .failed(27, "Compressed cluster beyond what an entry can tell")
    }
    allocating.append(guest..<guest + layout.clusterSize)
    return (entry, offset)
  }

  /// Compressed clusters stand close together; each counts as a user of every cluster that it touches.
  private mutating func allocateBytes(_ length: UInt64) throws(Qcow2Need) -> UInt64 {
    let bits = UInt64(layout.clusterBits)
    if compressedEnd != 0 {
      let cluster = compressedEnd >> bits
      let room = layout.clusterSize - layout.inCluster(compressedEnd)
      if length <= room {
        if try refcounts.increment(cluster) {
          let offset = compressedEnd
          compressedEnd = length == room ? 0 : offset + length
          return offset
        }
      } else {
        let count = try refcounts.count(cluster)
        if count > 0, count < layout.maximumRefcount {
          let next = try allocate(1, exact: true)
          // Slices may have been thrown out to make room; then the two clusters are not joined.
          if next.start == cluster + 1,
            (try? incrementCached(cluster)) == true
          {
            let offset = compressedEnd
            compressedEnd = offset + length
            return offset
          }
          compressedEnd = next.start << bits + length
          return next.start << bits
        }
      }
    }
    let place = try allocate(1, exact: true)
    compressedEnd = length == layout.clusterSize ? 0 : place.start << bits + length
    return place.start << bits
  }

  private mutating func incrementCached(_ cluster: UInt64) throws(Qcow2Need) -> Bool {
    try refcounts.increment(cluster)
  }

  mutating func finishCompressed(_ guest: UInt64, _ entry: UInt64) throws(Qcow2Need) -> Bool {
    guard let slot = try mapping.slot(for: guest) else { throw .failed(5, "No L2 table") }
    free(entry: mapping.entry(slot, guest).entry, .rewritten)
    mapping.setEntry(slot, guest, entry)
    return endAllocation(guest..<guest + layout.clusterSize)
  }

  mutating func abortCompressed(_ guest: UInt64, _ entry: UInt64) -> Bool {
    free(entry: entry, .other)
    return endAllocation(guest..<guest + layout.clusterSize)
  }
}
