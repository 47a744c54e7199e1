extension Qcow2State {
  /// What to do with guest clusters.
  enum Clearing: Sendable {
    /// They read as zeros, and keep their places.
    case zero
    /// They read as zeros, and their places are free.
    case unmap
    /// As `unmap`, but what is not stored anyway stays (a discard).
    case discard
    /// They are not stored here: what is below shows.
    case full
  }

  /// Clears whole clusters from `offset`, at most `count` bytes; how many bytes are done (at least a cluster). Nothing may be written
  /// there at the same time but by requests whose order does not matter.
  mutating func clear(_ offset: UInt64, _ count: UInt64, _ how: Clearing) throws(Qcow2Need)
    -> UInt64
  {
    let index = mapping.l1Index(offset)
    guard index < mapping.l1.count else { return count }
    if wantsCommit { throw .room }
    if mapping.l1[index] & Qcow2Entry.offsetMask == 0, how == .full || !hasBacking {
      // Zeros already.
      return try mapping.lookup(offset, count, owned: false).length
    }
    let sliceEnd = (mapping.sliceKey(offset) + 1) << mapping.sliceCoverageBits
    let end = min(offset + count, sliceEnd)
    var cluster = offset
    while cluster < end {
      if isAllocating(cluster) {
        if cluster == offset { throw sleep() }
        return cluster - offset
      }
      cluster += layout.clusterSize
    }
    try ownTable(offset)
    guard let slot = try mapping.slot(for: offset) else { return end - offset }
    cluster = offset
    while cluster < end {
      clear(slot, cluster, how)
      cluster += layout.clusterSize
    }
    return end - offset
  }

  private mutating func clear(_ slot: Int, _ cluster: UInt64, _ how: Clearing) {
    let (old, bitmap) = mapping.entry(slot, cluster)
    let isCompressed = old & Qcow2Entry.compressed != 0
    let isStored = isCompressed || mapping.hasPlace(old)
    var new: UInt64 = 0
    var newBitmap: UInt64 = 0
    var keeps = false
    switch how {
    case .full: break
    case .discard where !isStored && !hasBacking: return
    case .zero where isStored && !isCompressed && layout.version >= 3:
      new = old
      keeps = true
      fallthrough
    default:
      if layout.hasSubclusters {
        newBitmap = Qcow2Entry.allZero
      } else if layout.version >= 3 {
        new |= Qcow2Entry.zero
      }
    }
    if new == old, newBitmap == bitmap { return }
    mapping.setEntry(slot, cluster, new, bitmap: newBitmap)
    if isStored, !keeps { free(entry: old, how == .zero ? .rewritten : .request) }
  }

  /// Makes subclusters of one cluster zeros; `range` is whole subclusters of it. False when the cluster is compressed or has none.
  mutating func zeroSubclusters(_ range: Range<UInt64>) throws(Qcow2Need) -> Bool {
    guard layout.hasSubclusters else { return false }
    let cluster = layout.clusterStart(range.lowerBound)
    if isAllocating(cluster) { throw sleep() }
    if wantsCommit { throw .room }
    try ownTable(cluster)
    guard let slot = try mapping.slot(for: cluster) else { return false }
    let (entry, bitmap) = mapping.entry(slot, cluster)
    if entry & Qcow2Entry.compressed != 0 { return false }
    let from = (range.lowerBound - cluster) >> UInt64(layout.subclusterBits)
    let to = (range.upperBound - cluster - 1) >> UInt64(layout.subclusterBits)
    let bits = ((UInt64(1) << (to - from + 1)) - 1) << from
    let new = (bitmap | bits << 32) & ~bits
    if new != bitmap { mapping.setEntry(slot, cluster, entry, bitmap: new) }
    return true
  }

  /// Places for clusters that have none, from `offset` to `end` (whole clusters; end of the slice at most), one after the other behind all others.
  /// How many bytes are done, and where they are; nil where there was something.
  mutating func preallocate(_ offset: UInt64, _ end: UInt64) throws(Qcow2Need)
    -> (length: UInt64, host: UInt64?, isZero: Bool)
  {
    if isAllocating(offset) { throw sleep() }
    if wantsCommit { throw .room }
    try ownTable(offset)
    guard let slot = try mapping.slot(for: offset) else { throw .failed(5, "No L2 table") }
    let sliceEnd = (mapping.sliceKey(offset) + 1) << mapping.sliceCoverageBits
    let limit = min(end, sliceEnd)
    var cluster = offset
    while cluster < limit, mapping.entry(slot, cluster).entry == 0 {
      cluster += layout.clusterSize
    }
    if cluster == offset { return (layout.clusterSize, nil, true) }
    var host = offset
    var isZero = false
    if !layout.hasDataFile {
      let place = try allocate(
        (cluster - offset) >> UInt64(layout.clusterBits), exact: false, from: refcounts.untouched)
      host = place.start << UInt64(layout.clusterBits)
      cluster = offset + place.count << UInt64(layout.clusterBits)
      isZero = place.isZero
    }
    for position in stride(from: offset, to: cluster, by: Int(layout.clusterSize)) {
      // With subclusters, none of them counts as stored: what is below still shows, and zeros stay zeros.
      let bitmap = mapping.entry(slot, position).bitmap
      mapping.setEntry(
        slot, position, (host + (position - offset)) | Qcow2Entry.copied, bitmap: bitmap)
    }
    return (cluster - offset, host, isZero)
  }
}
