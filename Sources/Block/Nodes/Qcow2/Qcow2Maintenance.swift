import Glibc
package import Host

/// Changes to a whole image: internal snapshots, options, size. For an image that nobody else uses meanwhile: tools have it so, and `Qcow2Node` when
/// it runs `exclusively` with everything written, and reads its tables again behind that.
///
/// New tables are written beside the old ones, and a single write of the header's first sector makes them valid. What lies between is marked with
/// the dirty bit (version 3), so that an image whose maintenance was cut off is repaired when it is next opened for writing; nothing but leaks and
/// copied flags can be wrong then.
package struct Qcow2Maintenance {
  package let file: any BlockNode
  package internal(set) var header: Qcow2Header
  let refcounts: Qcow2Refcounts
  private var isMarked = false

  /// Reads header and refcount table. Throws `BlockError` when the image is none or cannot be maintained.
  package init(file: any BlockNode) throws(BlockError) {
    self.file = file
    header = try Qcow2Header.read(from: file, options: .check)
    refcounts = try Qcow2Refcounts(file: file, header: header)
    try refcounts.checkBlocksAreDistinct()
  }

  var bits: UInt64 { UInt64(header.clusterBits) }

  /// Reads the directory of snapshots.
  package func snapshots() throws(BlockError) -> Qcow2SnapshotTable {
    try Qcow2SnapshotTable(reading: file, header: header)
  }

  // MARK: - The header

  /// Says in the image that refcounts may be behind, until `end`.
  mutating func begin() throws(BlockError) {
    guard header.version >= 3, !header.incompatible.contains(.dirty) else { return }
    isMarked = true
    header.incompatible.insert(.dirty)
    try writeFeatures()
    try file.flush()
  }

  /// What `begin` has marked is for this one to clear.
  mutating func takeMark(from other: Qcow2Maintenance) { isMarked = other.isMarked }

  /// Everything is consistent again.
  mutating func end() throws(BlockError) {
    try file.flush()
    guard isMarked else { return }
    isMarked = false
    header.incompatible.remove(.dirty)
    try writeFeatures()
    try file.flush()
  }

  func writeFeatures() throws(BlockError) {
    var fields = BigEndianBytes()
    fields.u64(header.incompatible.rawValue)
    fields.u64(header.compatible.rawValue)
    fields.u64(header.autoclear.rawValue)
    try file.write(72, fields.bytes)
  }

  /// Writes size and places of all tables, in one sector, between two flushes.
  func writePlaces() throws(BlockError) {
    try file.flush()
    var fields = BigEndianBytes()
    fields.u64(header.size)
    fields.u32(header.cryptMethod)
    fields.u32(header.l1Size)
    fields.u64(header.l1TableOffset)
    fields.u64(header.refcountTableOffset)
    fields.u32(header.refcountTableClusters)
    fields.u32(header.snapshotCount)
    fields.u64(header.snapshotsOffset)
    try file.write(24, fields.bytes)
    try file.flush()
  }

  /// Writes refcounts; the header too when their table had to move.
  mutating func flushRefcounts() throws(BlockError) {
    guard try refcounts.flush() else { return }
    header.refcountTableOffset = refcounts.tableOffset
    header.refcountTableClusters = UInt32(refcounts.tableClusters)
    try writePlaces()
    try refcounts.freeOldTable()
  }

  // MARK: - Tables

  /// The entries of an L1 table.
  func l1Table(_ offset: UInt64, _ entries: UInt32) throws(BlockError) -> [UInt64] {
    try header.checkTable(
      "Snapshot L1 table", at: offset, UInt64(entries), entrySize: 8,
      atMost: UInt64(Qcow2Header.maximumL1Size))
    guard offset < file.length || entries == 0 else {
      throw BlockError(EINVAL, "Snapshot L1 table offset invalid")
    }
    return try Qcow2Tables.load(file, offset, Int(entries))
  }

  /// Allocates clusters for a new table of so many bytes; its offset.
  mutating func allocate(bytes: Int) throws(BlockError) -> UInt64 {
    guard bytes > 0 else { return 0 }
    return UInt64(try refcounts.allocate((bytes + header.clusterSize - 1) >> Int(bits))) << bits
  }

  /// Gives the clusters of a table back.
  mutating func free(_ offset: UInt64, bytes: UInt64) throws(BlockError) {
    guard offset != 0, bytes > 0 else { return }
    try refcounts.add(-1, bytes: offset, bytes)
  }

  /// What happens to the copied flags of the entries that a walk over tables meets.
  enum Flags {
    case keep
    /// None: everything is shared now.
    case clear
    /// As the refcounts say.
    case update
  }

  /// Goes over all that an L1 table refers to: adds `delta` to the refcounts (unless it is 0), mends the copied flags. Changed L2 tables are written at once,
  /// refcounts by `flushRefcounts`. Throws `BlockError` for damaged tables.
  mutating func walk(_ l1: inout [UInt64], _ delta: Int, _ flags: Flags) throws(BlockError) {
    var order: [Int] = []
    for index in l1.indices where l1[index] & Qcow2Entry.offsetMask != 0 { order.append(index) }
    order.sort { l1[$0] & Qcow2Entry.offsetMask < l1[$1] & Qcow2Entry.offsetMask }
    let size = header.clusterSize
    let perRead = max(1, (1 << 20) / size)
    let buffer = IOBuffer(count: max(1, min(perRead, order.count)) * size)
    var next = 0
    while next < order.count {
      let start = l1[order[next]] & Qcow2Entry.offsetMask
      var run = 0
      while next + run < order.count, run < perRead,
        l1[order[next + run]] & Qcow2Entry.offsetMask == start + UInt64(run * size)
      { run += 1 }
      guard start & UInt64(size - 1) == 0, start < file.length else {
        throw BlockError(
          EIO, "L2 table offset 0x\(String(start, radix: 16)) unaligned (L1 index: \(order[next]))")
      }
      try file.read(start, into: buffer.vector(0..<run * size))
      // Changed tables that are neighbours are written in one request.
      var changed = 0..<0
      for position in 0..<run {
        let index = order[next + position]
        if try walkTable(buffer, position * size, delta, flags) {
          let from = changed.upperBound == position ? changed.lowerBound : position
          if from == position { try write(buffer, changed, start) }
          changed = from..<position + 1
        }
        let cluster = Int(start >> bits) + position
        if delta != 0 { try refcounts.add(delta, clusters: cluster..<cluster + 1) }
        switch flags {
        case .keep: break
        case .clear: l1[index] &= ~Qcow2Entry.copied
        case .update:
          if try refcounts.refcount(cluster) == 1 {
            l1[index] |= Qcow2Entry.copied
          } else {
            l1[index] &= ~Qcow2Entry.copied
          }
        }
      }
      try write(buffer, changed, start)
      next += max(run, 1)
    }
  }

  /// Writes some of the tables in `buffer`, the first of which belongs to `start`.
  private func write(_ buffer: IOBuffer, _ tables: Range<Int>, _ start: UInt64) throws(BlockError) {
    guard !tables.isEmpty else { return }
    let size = header.clusterSize
    try file.write(
      start + UInt64(tables.lowerBound * size),
      from: buffer.vector(tables.lowerBound * size..<tables.upperBound * size), [])
  }

  /// One L2 table, at `base` in the buffer; whether it was changed. Clusters in a row are treated together.
  private func walkTable(
    _ buffer: IOBuffer, _ base: Int, _ delta: Int, _ flags: Flags
  ) throws(BlockError) -> Bool {
    let entrySize = header.l2EntrySize
    // What is asked of the header in the loop would copy all of it each time.
    let (clusterBits, hasDataFile) = (header.clusterBits, header.hasDataFile)
    let bits = UInt64(clusterBits)
    let clusterSize = UInt64(1) << bits
    var changed = false
    let end = base + header.clusterSize
    var at = base
    while at < end {
      if entrySize == 8 {
        at += buffer.zeroWords(at: at, limit: (end - at) / 8) * 8
        if at >= end { break }
      }
      let entry = buffer.loadBigEndian(UInt64.self, at: at)
      let place = entry & Qcow2Entry.offsetMask
      if entry & Qcow2Entry.compressed != 0 {
        if delta != 0 {
          let range = Qcow2Entry.compressedRange(entry, clusterBits: clusterBits)
          try refcounts.add(Int64(delta), bytes: range.offset, range.length)
        }
        at += entrySize
        continue
      }
      if place == 0 || hasDataFile {
        at += entrySize
        continue
      }
      guard place & (clusterSize - 1) == 0 else {
        throw BlockError(
          EIO,
          "Cluster allocation offset 0x\(String(place, radix: 16)) unaligned (entry \((at - base) / entrySize))"
        )
      }
      let first = Int(truncatingIfNeeded: place >> bits)
      // No further than offsets go: what looks like the next one may be reserved bits.
      let room = Int(truncatingIfNeeded: (Qcow2Entry.offsetMask - place) >> bits) + 1
      let run =
        entrySize == 8
        ? buffer.risingWords(at: at, limit: min(room, (end - at) / 8), step: clusterSize) : 1
      if delta != 0 { try refcounts.add(delta, clusters: first..<first + run) }
      switch flags {
      case .keep: break
      case .clear:
        if entry & Qcow2Entry.copied != 0 {
          buffer.changeWords(
            at: at, count: run, clear: Qcow2Entry.copied, set: 0)
          changed = true
        }
      case .update:
        var cluster = first
        while cluster < first + run {
          let same = try refcounts.onesRun(cluster, below: first + run)
          if same.isOne != (entry & Qcow2Entry.copied != 0) {
            buffer.changeWords(
              at: at + (cluster - first) * 8, count: same.end - cluster,
              clear: Qcow2Entry.copied, set: same.isOne ? Qcow2Entry.copied : 0)
            changed = true
          }
          cluster = same.end
        }
      }
      at += run * entrySize
    }
    return changed
  }
}
