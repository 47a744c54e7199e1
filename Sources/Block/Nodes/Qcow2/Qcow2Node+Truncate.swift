import Glibc
import Host
import Synchronization

extension Qcow2Node {
  package func truncate(to length: UInt64, _ preallocation: Preallocation) throws(BlockError) {
    if isReadOnly { throw BlockError(EPERM, "Block node is read-only") }
    guard length % 512 == 0 else {
      throw BlockError(EINVAL, "The new size must be a multiple of 512")
    }
    if isCorrupt { throw BlockError(EIO, "Image is corrupt") }
    try exclusively { () throws(BlockError) in
      let old = self.length
      if length == old { return }
      if length < old {
        if preallocation != .off {
          throw BlockError(EINVAL, "Preallocation can't be used for shrinking an image")
        }
        return try shrink(to: length)
      }
      try grow(from: old, to: length, preallocation)
    }
  }

  private func grow(from old: UInt64, to new: UInt64, _ preallocation: Preallocation)
    throws(BlockError)
  {
    let header = self.header
    let entries = header.l1Entries(for: new)
    guard new <= UInt64(Int64.max), entries <= UInt64(Qcow2Header.maximumL1Size / 8) else {
      throw BlockError(EFBIG, "The new size is too large for this image's cluster size")
    }
    if header.snapshotCount > 0, header.version < 3 {
      throw BlockError(ENOTSUP, "Can't resize a v2 image which has snapshots")
    }
    try commit(isFlush: true)
    // Behind the old end its last cluster may hold anything.
    if let dataFile, layout.isDataFileRaw { try dataFile.truncate(to: new, .off) }
    let edge = min(layout.clusterEnd(old), new)
    if edge > old, try isStored(old, edge - old) {
      setSize(edge)
      try zero(old..<edge, [])
      try commit(isFlush: true)
    }
    if UInt64(state.withLock { $0.mapping.l1.count }) < entries { try growL1(Int(entries)) }
    setSize(new)
    do throws(BlockError) {
      if let backing, backing.length > old {
        try zero(old..<min(new, layout.clusterEnd(backing.length)), [])
      }
      try preallocate(old, new, preallocation)
      try commit(isFlush: true)
      try patchHeader([(24, bigEndian(new))])
      try file.flush()
    } catch {
      setSize(old)
      throw error
    }
  }

  /// Gives up what is behind the new end.
  private func shrink(to new: UInt64) throws(BlockError) {
    let old = length
    if header.snapshotCount > 0, header.version < 3 {
      throw BlockError(ENOTSUP, "Can't resize a v2 image which has snapshots")
    }
    let edge = layout.clusterEnd(new)
    if edge < layout.clusterEnd(old) {
      try discardMapped(edge..<layout.clusterEnd(old), .full)
    }
    try commit(isFlush: true)
    // Tables with nothing before the new end.
    state.withLock { state in
      let coverage = UInt64(1) << UInt64(layout.l2CoverageBits)
      let first = Int((new + coverage - 1) / coverage)
      guard first < state.mapping.l1.count else { return }
      for index in first..<state.mapping.l1.count {
        let table = state.mapping.l1[index] & Qcow2Entry.offsetMask
        if table == 0 { continue }
        state.forget(state.clusters(table, 1), .activeL2)
        state.mapping.fresh[table] = nil
        state.freed.append(
          Qcow2Freed(clusters: state.clusters(table, 1), reason: .other))
        state.mapping.setL1(index, 0)
      }
    }
    try commit(isFlush: true)
    committing.withLock { _ in state.withLock { $0.mapping.cache.removeAll() } }
    setSize(new)
    try patchHeader([(24, bigEndian(new))])
    try commit(isFlush: true)
    if let dataFile, layout.isDataFileRaw { try dataFile.truncate(to: new, .off) }
  }

  /// Whether any of the bytes is stored here; they are those of one cluster.
  private func isStored(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> Bool {
    try model { (state) throws(Qcow2Need) in
      let extent = try state.mapping.lookup(offset, count, owned: false)
      return extent.kind != .unallocated || extent.length < count
    }
  }

  /// The virtual size in memory.
  func setSize(_ new: UInt64) {
    state.withLock { state in
      state.size = new
      state.header.size = new
    }
    size.store(new, ordering: .releasing)
  }

  /// Moves the active L1 table to where it has room for so many entries.
  private func growL1(_ wanted: Int) throws(BlockError) {
    let old = state.withLock { ($0.mapping.l1, $0.mapping.l1Offset) }
    // Some more, so that the next growth finds room; the whole of its clusters in any case.
    let perCluster = Int(layout.clusterSize / 8)
    let entries = min(
      (wanted + perCluster - 1) / perCluster * perCluster, Qcow2Header.maximumL1Size / 8)
    let table = old.0 + [UInt64](repeating: 0, count: entries - old.0.count)
    let bytes = UInt64(entries) * 8
    let offset = try model { (state) throws(Qcow2Need) in
      try state.allocate(
        state.layout.clusters(bytes), exact: true, as: .activeL1, "L1 table"
      ).start << UInt64(state.layout.clusterBits)
    }
    try commit(isFlush: true)
    let buffer = IOBuffer(count: Int(layout.clusterEnd(bytes)))
    buffer.storeBigEndianWords(table, at: 0, count: entries, to: 0)
    try file.write(offset, from: buffer.vector, [])
    try file.flush()
    try patchHeader([(36, bigEndian(UInt32(entries))), (40, bigEndian(offset))])
    try file.flush()
    state.withLock { state in
      state.mapping.replaceL1(table, at: offset)
      state.header.l1Size = UInt32(entries)
      state.header.l1TableOffset = offset
      let clusters = state.clusters(old.1, UInt64(old.0.count) * 8)
      state.forget(clusters, .activeL1)
      state.freed.append(Qcow2Freed(clusters: clusters, reason: .other))
    }
  }

  /// Makes places for what is new between two sizes.
  private func preallocate(_ old: UInt64, _ new: UInt64, _ how: Preallocation)
    throws(BlockError)
  {
    if how == .off, !layout.isDataFileRaw { return }
    let end = layout.clusterEnd(new)
    var at = layout.clusterEnd(old)
    var top: UInt64 = 0
    while at < end {
      let from = at
      let done = try model { (state) throws(Qcow2Need) in
        let result = try state.preallocate(from, end)
        return Preallocated(length: result.length, host: result.host, isZero: result.isZero)
      }
      if let host = done.host {
        if !done.isZero, !layout.hasDataFile {
          try file.writeZeroes(host, done.length, [])
        }
        top = max(top, host + done.length)
      }
      at += done.length
    }
    guard top > 0 || layout.hasDataFile else { return }
    let target = dataTarget
    let below = target.length
    let wanted = layout.hasDataFile ? new : top
    if wanted > below {
      // `metadata`: the file ends where the places end, and has no blocks there.
      try target.truncate(to: wanted, how == .falloc || how == .full ? how : .off)
    }
  }

  private struct Preallocated: Sendable {
    var length: UInt64
    var host: UInt64?
    var isZero: Bool
  }

  // MARK: - Growing the refcount table

  /// Moves the refcount table to where it has room to tell of a cluster: behind all that it tells of now, with the blocks for its new place.
  func growRefcountTable(_ cluster: UInt64) throws(BlockError) {
    var failure: BlockError?
    committing.withLock { _ in
      do throws(BlockError) { try growLocked(cluster) } catch { failure = error }
    }
    if let failure { throw failure }
  }

  private func growLocked(_ cluster: UInt64) throws(BlockError) {
    let bits = UInt64(layout.clusterBits)
    let blockBits = UInt64(layout.refcountBlockBits)
    let (count, oldOffset, oldEntries) = state.withLock { state in
      (
        state.refcounts.table.count, state.refcounts.tableOffset,
        state.refcounts.storedTable()
      )
    }
    if cluster >> blockBits < UInt64(count) { return }
    let first = UInt64(count) << blockBits
    let perCluster = layout.clusterSize / 8
    // Blocks tell of themselves and the table; the table has room for them and half as much again.
    var blocks: UInt64 = 1
    var tableClusters: UInt64 = 1
    while true {
      let needed = max(
        UInt64(count) + blocks, cluster >> blockBits + 1, UInt64(count) + UInt64(count) / 2)
      let clusters = (needed + perCluster - 1) / perCluster
      let all = (clusters + blocks + (1 << blockBits) - 1) >> blockBits
      if clusters == tableClusters, all <= blocks { break }
      tableClusters = max(clusters, tableClusters)
      blocks = max(blocks, all)
    }
    guard tableClusters * layout.clusterSize <= UInt64(Qcow2Header.maximumRefcountTableSize) else {
      throw BlockError(EFBIG, "The refcount table would become too large")
    }
    var added = [UInt64](
      repeating: 0, count: Int(tableClusters * perCluster) - count)
    for index in 0..<blocks { added[Int(index)] = (first + index) << bits }
    // A model of its own counts them.
    let size = Int(layout.clusterSize)
    let used = blocks + tableClusters
    for index in 0..<blocks {
      let buffer = IOBuffer(count: size)
      let start = index << blockBits
      let end = min(used, start + 1 << blockBits)
      if start < end {
        Self.fillRefcounts(buffer, Int(end - start), order: Int(layout.refcountOrder))
      }
      try file.write((first + index) << bits, from: buffer.vector, [])
    }
    let offset = (first + blocks) << bits
    let buffer = IOBuffer(count: Int(tableClusters) * size)
    buffer.storeBigEndianWords(oldEntries + added, at: 0, count: count + added.count, to: 0)
    try file.write(offset, from: buffer.vector, [])
    try file.flush()
    try patchHeader([(48, bigEndian(offset)), (56, bigEndian(UInt32(tableClusters)))])
    try file.flush()
    state.withLock { state in
      state.refcounts.extendTable(added, at: offset)
      state.refcounts.untouched = max(state.refcounts.untouched, first + used)
      state.header.refcountTableOffset = offset
      state.header.refcountTableClusters = UInt32(tableClusters)
      let old = state.clusters(oldOffset, UInt64(count) * 8)
      state.forget(old, .refcountTable)
      state.note(first..<first + blocks, .refcountBlock)
      state.note(first + blocks..<first + used, .refcountTable)
      state.freed.append(Qcow2Freed(clusters: old, reason: .other))
    }
  }

  /// The first `count` refcounts of a block become one.
  private static func fillRefcounts(_ buffer: IOBuffer, _ count: Int, order: Int) {
    if order >= 3 {
      let bytes = 1 << (order - 3)
      for index in 1...count { buffer.fill(1, index * bytes - 1..<index * bytes) }
      return
    }
    let perByte = 8 >> order
    var pattern: UInt8 = 0
    for index in 0..<perByte { pattern |= 1 << UInt8(index << order) }
    let whole = count / perByte
    buffer.fill(pattern, 0..<whole)
    let rest = count % perByte
    if rest > 0 {
      buffer.fill(
        pattern & UInt8(truncatingIfNeeded: (1 << (rest << order)) - 1), whole..<whole + 1)
    }
  }
}
