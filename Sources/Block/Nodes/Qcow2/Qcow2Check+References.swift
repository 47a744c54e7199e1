import Glibc
import Host

/// L2 tables that L1 tables refer to: offsets, with bit 0 for a reference from the active table. Those that are referred to again and again take
/// no room for it.
struct Qcow2TableList {
  /// After `sort` in the order of the file, each once.
  private(set) var references: [UInt64] = []
  /// How often more.
  private(set) var repeated: [UInt64: Int] = [:]
  private var limit = 1 << 17

  mutating func append(_ reference: UInt64, times: Int = 1) {
    references.append(reference)
    if times > 1 { repeated[reference, default: 0] += times - 1 }
    if references.count < limit { return }
    sort()
    if references.count > limit / 2 { limit *= 2 }
  }

  mutating func sort() {
    references.sort()
    var kept = 0
    var index = 0
    while index < references.count {
      let reference = references[index]
      let first = index
      while index < references.count, references[index] == reference { index += 1 }
      if index - first > 1 { repeated[reference, default: 0] += index - first - 1 }
      references[kept] = reference
      kept += 1
    }
    references.removeLast(references.count - kept)
  }
}

/// Counting what an image's tables refer to.
extension Qcow2Checker {
  /// Counts everything but the refcount structures.
  mutating func countReferences() throws(BlockError) {
    count(bytes: 0, UInt64(header.clusterSize))
    var tables = Qcow2TableList()
    var l1Bytes: UInt64 = 0
    countL1(header.l1TableOffset, header.l1Size, isActive: true, &tables, &l1Bytes)
    if header.hasDataFile, !snapshots.snapshots.isEmpty {
      corrupt("ERROR \(snapshots.snapshots.count) snapshots in image with data file")
    }
    for snapshot in snapshots.snapshots {
      if snapshot.l1TableOffset & UInt64(header.clusterSize - 1) != 0 {
        corrupt(
          "ERROR snapshot \(snapshot.id) (\(snapshot.name)) l1_offset=\(Self.hexSharp(snapshot.l1TableOffset)): L1 table is not cluster aligned; snapshot table entry corrupted"
        )
        continue
      }
      if snapshot.l1Size > UInt32(Qcow2Header.maximumL1Size / 8) {
        corrupt(
          "ERROR snapshot \(snapshot.id) (\(snapshot.name)) l1_size=\(Self.hexSharp(UInt64(snapshot.l1Size))): L1 table is too large; snapshot table entry corrupted"
        )
        continue
      }
      countL1(snapshot.l1TableOffset, snapshot.l1Size, isActive: false, &tables, &l1Bytes)
    }
    tables.sort()
    try countTables(tables)
    count(bytes: header.snapshotsOffset, snapshots.byteCount)
    if let encryption = header.extensions.encryption {
      count(bytes: encryption.offset, encryption.length)
    }
    try countBitmaps()
  }

  /// Counts the clusters that a stretch of the file touches.
  mutating func count(
    bytes start: UInt64, _ size: UInt64, times: Int = 1, flags: UInt16 = 0
  ) {
    guard size > 0 else { return }
    let (end, overflow) = start.addingReportingOverflow(size)
    // The last cluster may be there in part.
    if overflow || end > length && end - length >= UInt64(header.clusterSize) {
      corrupt(
        each: times,
        "ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset 0x\(Self.hex(start)) size 0x\(Self.hex(size))"
      )
      if flags & Qcow2Counts.copied != 0 { mustCheckFlags = true }
      return
    }
    let last = Int((end - 1) >> bits)
    for cluster in Int(start >> bits)...last where cluster < counts.capacity {
      counts.add(times, cluster, flags: flags)
    }
  }

  /// Entries of an L1 table that are held at a time.
  private static var l1Piece: Int { 1 << 17 }

  /// Counts an L1 table and notes the L2 tables it refers to.
  private mutating func countL1(
    _ offset: UInt64, _ entries: UInt32, isActive: Bool, _ tables: inout Qcow2TableList,
    _ l1Bytes: inout UInt64
  ) {
    guard entries > 0 else { return }
    let size = UInt64(entries) * 8
    l1Bytes += size
    // Tables that do not overlap fit into the file together; those that do are not read again and again.
    guard l1Bytes <= length &+ UInt64(header.clusterSize) else {
      corrupt("ERROR: L1 tables overlap: offset 0x\(Self.hex(offset)) size 0x\(Self.hex(size))")
      return
    }
    count(bytes: offset, size)
    guard offset < length else { return }
    var done = 0
    while done < Int(entries) {
      let part = min(Self.l1Piece, Int(entries) - done)
      let loaded: [UInt64]
      do {
        loaded = try Qcow2Tables.load(file, offset + UInt64(done * 8), part)
      } catch {
        report.checkErrors += 1
        message("ERROR: I/O error in check_refcounts_l1")
        return
      }
      var index = 0
      while index < part {
        // The same entry again and again, which no sound image has, costs as much as one.
        let entry = loaded[index]
        let first = index
        while index < part, loaded[index] == entry { index += 1 }
        if entry != 0 { noteL1(entry, times: index - first, isActive, &tables) }
      }
      done += part
    }
  }

  private mutating func noteL1(
    _ entry: UInt64, times: Int, _ isActive: Bool, _ tables: inout Qcow2TableList
  ) {
    if entry & Qcow2Entry.l1Reserved != 0 {
      corrupt(each: times, "ERROR found L1 entry with reserved bits set: \(Self.hex(entry))")
    }
    let table = entry & Qcow2Entry.offsetMask
    // An entry with bits but no offset is taken at its word, as QEMU does: the header is no table, which will show.
    let flag =
      !isActive
      ? 0 : entry & Qcow2Entry.copied != 0 ? Qcow2Counts.copied : Qcow2Counts.uncopied
    count(bytes: table, UInt64(header.clusterSize), times: times, flags: flag)
    if table & UInt64(header.clusterSize - 1) != 0 {
      corrupt(
        each: times,
        "ERROR l2_offset=\(Self.hex(table)): Table is not cluster aligned; L1 entry corrupted")
    }
    // What is not in the file is not read.
    if table < length { tables.append(table | (isActive ? 1 : 0), times: times) }
  }

  /// Counts what the L2 tables refer to; neighbours are read together.
  private mutating func countTables(_ list: Qcow2TableList) throws(BlockError) {
    let tables = list.references
    let size = header.clusterSize
    let perRead = max(1, (1 << 20) / size)
    let buffer = IOBuffer(count: perRead * size)
    var index = 0
    var bytesRead = 0
    var run: [(offset: UInt64, times: Int, active: Int)] = []
    while index < tables.count {
      run.removeAll(keepingCapacity: true)
      while index < tables.count, run.count < perRead {
        let offset = tables[index] & ~1
        if let last = run.last, last.offset + UInt64(size) != offset { break }
        var (times, active) = (0, 0)
        while index < tables.count, tables[index] & ~1 == offset {
          let count = 1 + list.repeated[tables[index], default: 0]
          times += count
          active += tables[index] & 1 != 0 ? count : 0
          index += 1
        }
        run.append((offset, times, active))
      }
      guard let first = run.first, first.offset < length else { continue }
      // Huge tables that are not there are recognised without reading them.
      if bytesRead > 64 << 20, isHole(first.offset, UInt64(run.count * size)) { continue }
      bytesRead += run.count * size
      do {
        try file.read(first.offset, into: buffer.vector(0..<run.count * size))
      } catch {
        report.checkErrors += 1
        message("ERROR: I/O error in check_refcounts_l2")
        continue
      }
      for (position, table) in run.enumerated() {
        try countTable(buffer, position * size, table.offset, table.times, active: table.active)
      }
    }
  }

  private func isHole(_ offset: UInt64, _ size: UInt64) -> Bool {
    guard let status = try? file.status(offset, size) else { return false }
    return status.isZero && status.length >= size
  }

  /// Counts one L2 table's references, `times` over.
  private mutating func countTable(
    _ buffer: IOBuffer, _ base: Int, _ offset: UInt64, _ times: Int, active: Int
  ) throws(BlockError) {
    let entrySize = header.l2EntrySize
    let extended = entrySize == 16
    let clusterMask = UInt64(header.clusterSize - 1)
    let ordinary = !header.hasDataFile && !extended
    var expected: UInt64 = 0
    var (allocated, fragmented) = (0, 0)
    let limit = UInt64(clusters) << bits
    let entries = header.l2Entries
    var next = 0
    while next < entries {
      if !extended {
        next += buffer.zeroWords(at: base + next * 8, limit: entries - next)
        if next >= entries { break }
      }
      let index = next
      let entry = buffer.loadBigEndian(UInt64.self, at: base &+ index &* entrySize)
      let place = entry & Qcow2Entry.offsetMask
      // The usual: nothing but an offset and the copied flag, and others that continue it.
      if ordinary, entry & ~Qcow2Entry.copied == place, place & clusterMask == 0, place < limit,
        place != 0
      {
        let flag =
          active == 0
          ? 0 : entry & Qcow2Entry.copied != 0 ? Qcow2Counts.copied : Qcow2Counts.uncopied
        let room = Int((limit - place) >> bits)
        let run = buffer.risingWords(
          at: base + index * 8, limit: min(entries - index, room), step: clusterMask + 1)
        let first = Int(place >> bits)
        counts.add(times, clusters: first..<first + run, flags: flag)
        allocated += run
        if expected != 0, place != expected { fragmented += 1 }
        expected = place &+ UInt64(run) << bits
        next += run
        continue
      }
      next += 1
      let bitmap =
        extended ? buffer.loadBigEndian(UInt64.self, at: base &+ index &* 16 &+ 8) : 0
      let at = offset + UInt64(index * entrySize)
      let kind = try countUnusual(entry, bitmap, index, at, times, isActive: active > 0)
      switch kind {
      case .nothing: break
      case .stored(let place):
        allocated += 1
        if expected != 0, place != expected { fragmented += 1 }
        expected = place &+ clusterMask &+ 1
      case .compressed:
        allocated += 1
        fragmented += 1
        report.compressedClusters += UInt64(active)
      }
    }
    report.allocatedClusters += UInt64(allocated * active)
    report.fragmentedClusters += UInt64(fragmented * active)
  }

  private enum Kind {
    case nothing
    case stored(UInt64)
    case compressed
  }

  private mutating func countUnusual(
    _ entry: UInt64, _ bitmap: UInt64, _ index: Int, _ at: UInt64, _ times: Int, isActive: Bool
  ) throws(BlockError) -> Kind {
    let extended = header.hasExtendedL2
    let many = UInt64(times)
    if entry & Qcow2Entry.compressed != 0 {
      return countCompressed(entry, bitmap, index, times)
    }
    // With subclusters bit 0 is reserved as well; qemu-img passes over it, and nobody reads it.
    if entry & Qcow2Entry.l2Reserved != 0 {
      corrupt("ERROR found l2 entry with reserved bits set: \(Self.hex(entry))", times: many)
    }
    let place = entry & Qcow2Entry.offsetMask
    let isZero = entry & Qcow2Entry.zero != 0 && !extended
    let isThere = place != 0 || (header.hasDataFile && entry & Qcow2Entry.copied != 0)
    guard isThere else {
      if !isZero, bitmap & Qcow2Entry.allAllocated != 0 {
        corrupt(
          "ERROR: Unallocated cluster has non-zero subcluster allocation map", times: many)
      }
      return .nothing
    }
    if bitmap >> 32 & bitmap != 0 {
      corrupt(
        "ERROR offset=\(Self.hex(place)): Allocated cluster has corrupted subcluster allocation bitmap",
        times: many)
      if repair == .all {
        try zero(at, bitmap: true, times: many)
        return .stored(place)
      }
    }
    if place & UInt64(header.clusterSize - 1) != 0 {
      let holdsData = extended ? bitmap & Qcow2Entry.allAllocated != 0 : !isZero
      if holdsData {
        corrupt(
          "ERROR offset=\(Self.hex(place)): Data cluster is not properly aligned; L2 entry corrupted.",
          times: many)
      } else {
        corrupt(
          "\(repair == .all ? "Repairing" : "ERROR") offset=\(Self.hex(place)): Preallocated cluster is not properly aligned; L2 entry corrupted.",
          times: many)
        if repair == .all {
          try zero(at, bitmap: extended, times: many)
          return .stored(place)
        }
      }
    }
    if !header.hasDataFile {
      let flag =
        !isActive
        ? 0 : entry & Qcow2Entry.copied != 0 ? Qcow2Counts.copied : Qcow2Counts.uncopied
      count(bytes: place, UInt64(header.clusterSize), times: times, flags: flag)
    } else if isActive, entry & Qcow2Entry.copied == 0 {
      // Clusters of a data file count as used once: seen by the pass over the flags.
      mustCheckFlags = true
    }
    return .stored(place)
  }

  private mutating func countCompressed(
    _ entry: UInt64, _ bitmap: UInt64, _ index: Int, _ times: Int
  ) -> Kind {
    let many = UInt64(times)
    if entry & Qcow2Entry.copied != 0 {
      let shift = UInt64(62 - (header.clusterBits - 8))
      corrupt(
        "ERROR: coffset=0x\(Self.hex(entry & ((1 << shift) - 1))): copied flag must never be set for compressed clusters",
        times: many)
    }
    if header.hasDataFile {
      corrupt("ERROR compressed cluster \(index) with data file, entry=0x\(Self.hex(entry))")
      return .nothing
    }
    if bitmap != 0 {
      corrupt(
        "ERROR compressed cluster \(index) with non-zero subcluster allocation bitmap, entry=0x\(Self.hex(entry))",
        times: many)
      return .nothing
    }
    let range = Qcow2Entry.compressedRange(
      entry & ~Qcow2Entry.copied, clusterBits: header.clusterBits)
    count(bytes: range.offset, range.length, times: times)
    return .compressed
  }

  /// Replaces a damaged entry by one that reads as zeros.
  private mutating func zero(_ at: UInt64, bitmap: Bool, times: UInt64) throws(BlockError) {
    guard try !isGuarded(at) else {
      report.checkErrors += 1
      message("ERROR: Overlap check failed")
      return
    }
    var entry = BigEndianBytes()
    entry.u64(bitmap || header.version < 3 ? 0 : Qcow2Entry.zero)
    if bitmap { entry.u64(Qcow2Entry.allZero) }
    try file.write(at, entry.bytes)
    report.corruptions -= times
    report.corruptionsFixed += times
  }

  /// Whether what looks like an L2 table is other metadata, to which its repair would be damage: the header above all.
  private mutating func isGuarded(_ offset: UInt64) throws(BlockError) -> Bool {
    if let guarded { return guarded.contains(offset >> bits) }
    var clusters: Set<UInt64> = [0]
    func add(_ start: UInt64, _ bytes: UInt64) {
      let end = min(length, start &+ bytes)
      guard bytes > 0, start < end else { return }
      for cluster in start >> bits...(end - 1) >> bits { clusters.insert(cluster) }
    }
    add(header.l1TableOffset, UInt64(header.l1Size) * 8)
    add(header.snapshotsOffset, header.snapshotCount == 0 ? 0 : 1)
    let start = header.refcountTableOffset
    let size = UInt64(header.refcountTableClusters) << bits
    add(start, size)
    if start < length {
      let entries = Int(min(size, length - start) / 8)
      for entry in try Qcow2Tables.load(file, start, entries) where entry < length {
        if entry != 0 { clusters.insert(entry >> bits) }
      }
    }
    guarded = clusters
    return clusters.contains(offset >> bits)
  }

  // MARK: - Bitmaps

  private mutating func countBitmaps() throws(BlockError) {
    guard let bitmaps = header.extensions.bitmaps else { return }
    count(bytes: bitmaps.directoryOffset, bitmaps.directorySize)
    let size = min(bitmaps.directorySize, length - min(length, bitmaps.directoryOffset))
    guard size == bitmaps.directorySize,
      let directory = try? file.bytes(bitmaps.directoryOffset, Int(size))
    else {
      report.corruptions += 1
      return
    }
    let fields = Fields(directory)
    var offset = 0
    var tableBytes: UInt64 = 0
    for _ in 0..<bitmaps.count {
      let table = fields.u64(offset)
      let entries = fields.u32(offset + 8)
      let nameSize = Int(fields.u16(offset + 18))
      let extra = Int(fields.u32(offset + 20))
      tableBytes += UInt64(entries) * 8
      guard offset + 24 <= directory.count, nameSize > 0, nameSize <= 1023, table != 0,
        table & UInt64(header.clusterSize - 1) == 0, extra <= directory.count,
        tableBytes <= length
      else {
        report.corruptions += 1
        return
      }
      count(bytes: table, UInt64(entries) * 8)
      offset += (24 + extra + nameSize + 7) & ~7
      guard table < length, let loaded = try? Qcow2Tables.load(file, table, Int(entries)) else {
        report.corruptions += 1
        continue
      }
      for entry in loaded {
        let place = entry & Qcow2Entry.offsetMask
        let isBad =
          entry & 0xFF00_0000_0000_01FE != 0 || (place != 0 && entry & 1 != 0)
          || place & UInt64(header.clusterSize - 1) != 0
        if isBad {
          report.corruptions += 1
        } else if place != 0 {
          count(bytes: place, UInt64(header.clusterSize))
        }
      }
    }
  }

  // MARK: - Copied flags

  /// Compares the copied flags of the active tables with the refcounts, says what differs and mends it.
  mutating func checkCopiedFlags(refcounts: Qcow2Refcounts) throws(BlockError) {
    let mend =
      repair == .all
      || (repair == .leaks && report.checkErrors == 0 && report.corruptions == 0
        && report.leaks == 0)
    let verb = mend ? "Repairing" : "ERROR"
    guard header.l1TableOffset < length else { return }
    var seen = Qcow2Counts(capacity: clusters + 2)
    let buffer = IOBuffer(count: header.clusterSize)
    var done = 0
    while done < Int(header.l1Size) {
      let part = min(Self.l1Piece, Int(header.l1Size) - done)
      let offset = header.l1TableOffset + UInt64(done * 8)
      var l1 = try Qcow2Tables.load(file, offset, part)
      if try checkCopiedFlags(&l1, done, refcounts, &seen, buffer, verb, mend) {
        try Qcow2Tables.store(l1, file, offset)
      }
      done += part
    }
  }

  /// The same for a part of the L1 table, that from entry `first` on. Answers whether the part has changed.
  private mutating func checkCopiedFlags(
    _ l1: inout [UInt64], _ first: Int, _ refcounts: Qcow2Refcounts, _ seen: inout Qcow2Counts,
    _ buffer: IOBuffer, _ verb: String, _ mend: Bool
  ) throws(BlockError) -> Bool {
    var isChanged = false
    // The last table and its refcount: entries that repeat it look nothing up.
    var last: (offset: UInt64, refcount: UInt64?) = (0, nil)
    for index in l1.indices {
      let offset = l1[index] & Qcow2Entry.offsetMask
      guard offset != 0 else { continue }
      let isRepeated = offset == last.offset
      if !isRepeated { last = (offset, try? refcounts.refcount(Int(offset >> bits))) }
      if let refcount = last.refcount,
        (refcount == 1) != (l1[index] & Qcow2Entry.copied != 0)
      {
        corrupt(
          isSilent
            ? ""
            : "\(verb) OFLAG_COPIED L2 cluster: l1_index=\(first + index) l1_entry=\(Self.hex(l1[index])) refcount=\(refcount)"
        )
        if mend {
          l1[index] ^= Qcow2Entry.copied
          isChanged = true
          fixed(1)
        }
      }
      guard !isRepeated, offset < length else { continue }
      // The same table again says nothing new, and may be meant to take for ever.
      guard seen.count(Int(offset >> bits)) == 0 else { continue }
      seen.add(1, Int(offset >> bits))
      do { try file.read(offset, into: buffer.vector) } catch {
        report.checkErrors += 1
        message("ERROR: I/O error in check_oflag_copied")
        continue
      }
      let found = checkCopiedFlags(buffer, refcounts, verb, mend)
      if found > 0, mend {
        guard try !isGuarded(offset) else {
          report.checkErrors += 1
          message("ERROR: Could not write L2 table; metadata overlap check failed")
          continue
        }
        try file.write(offset, from: buffer.vector, [])
        fixed(found)
      }
    }
    return isChanged
  }

  private mutating func fixed(_ times: UInt64) {
    report.corruptions -= times
    report.corruptionsFixed += times
  }

  private mutating func checkCopiedFlags(
    _ buffer: IOBuffer, _ refcounts: Qcow2Refcounts, _ verb: String, _ mend: Bool
  ) -> UInt64 {
    var found: UInt64 = 0
    let entrySize = header.l2EntrySize
    for index in 0..<header.l2Entries {
      let entry = buffer.loadBigEndian(UInt64.self, at: index * entrySize)
      guard entry & Qcow2Entry.compressed == 0 else { continue }
      let place = entry & Qcow2Entry.offsetMask
      let isCopied = entry & Qcow2Entry.copied != 0
      guard place != 0 || (header.hasDataFile && isCopied) else { continue }
      var refcount: UInt64 = 1
      if !header.hasDataFile {
        guard let stored = try? refcounts.refcount(Int(place >> bits)) else { continue }
        refcount = stored
      }
      guard (refcount == 1) != isCopied else { continue }
      corrupt(
        isSilent
          ? ""
          : "\(verb) OFLAG_COPIED data cluster: l2_entry=\(Self.hex(entry)) refcount=\(refcount)")
      found += 1
      if mend { buffer.storeBigEndian(entry ^ Qcow2Entry.copied, at: index * entrySize) }
    }
    return found
  }
}
