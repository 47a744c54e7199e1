import Glibc
package import Host

/// What a check of an image found (`ImageCheck`).
package struct ImageCheckReport: Equatable, Sendable {
  /// Things that could not be checked.
  package var checkErrors: UInt64 = 0
  /// The end of the last cluster in use, in bytes.
  package var imageEndOffset: UInt64 = 0
  package var corruptions: UInt64 = 0
  package var leaks: UInt64 = 0
  package var corruptionsFixed: UInt64 = 0
  package var leaksFixed: UInt64 = 0
  /// Clusters of the virtual disk; those that are stored; those not stored behind their predecessor; the compressed ones.
  package var totalClusters: UInt64 = 0
  package var allocatedClusters: UInt64 = 0
  package var fragmentedClusters: UInt64 = 0
  package var compressedClusters: UInt64 = 0

  package init() {}
}

/// Checking and repairing qcow2 images.
///
/// All references are counted in one pass over the tables in the order of the file, each table once however many snapshots share it, and compared
/// with the refcounts in one pass over those: two bytes of memory for a cluster that is referenced, so that a damaged image with absurd offsets
/// costs no more than its own tables' size.
package enum Qcow2Check {
  /// What to repair: nothing; leaks, which is without risk; everything.
  package enum Repair: Sendable {
    case nothing, leaks, all
  }

  /// Checks the image in `file`, which nobody else uses, and repairs it. `message` gets a line for each finding, in QEMU's words. Throws `BlockError`
  /// when the header is none, when the image is too large, and when writing a repair fails.
  package static func run(
    on file: any BlockNode, repair: Repair = .nothing, message: (String) -> Void
  ) throws(BlockError) -> ImageCheckReport {
    let header = try Qcow2Header.read(from: file, options: .check)
    let length = file.length
    let size = UInt64(header.clusterSize)
    let clusters = length / size + (length % size == 0 ? 0 : 1)
    guard clusters <= UInt64(Int32.max) else {
      throw BlockError(EFBIG, "The image file is too large to be checked")
    }
    return try withoutActuallyEscaping(message) { escaping throws(BlockError) in
      var checker = Qcow2Checker(
        file: file, header: header, length: length, clusters: Int(clusters), repair: repair,
        message: escaping)
      return try checker.run()
    }
  }
}

/// One check. Split over several files by topic: here what is done in which order, and refcounts.
struct Qcow2Checker {
  let file: any BlockNode
  var header: Qcow2Header
  /// Of the file, in bytes.
  let length: UInt64
  /// Clusters of the file.
  let clusters: Int
  let repair: Qcow2Check.Repair
  private let show: (String) -> Void
  private let shown = LineCount()
  var report = ImageCheckReport()
  var counts: Qcow2Counts
  var snapshots = Qcow2SnapshotTable()
  /// The refcount structures themselves cannot be kept.
  var mustRebuild = false
  /// An entry of the active tables with a wrong copied flag has been seen that the counts do not show.
  var mustCheckFlags = false
  /// Clusters that a repaired L2 table must not lie in, once one was repaired.
  var guarded: Set<UInt64>?
  /// Corruptions of the snapshot table that writing it again mends.
  var snapshotCorruptions: UInt64 = 0

  init(
    file: any BlockNode, header: Qcow2Header, length: UInt64, clusters: Int,
    repair: Qcow2Check.Repair, message: @escaping (String) -> Void
  ) {
    self.file = file
    self.header = header
    self.length = length
    self.clusters = clusters
    self.repair = repair
    show = message
    // A compressed cluster may end within the last cluster, a little behind the end of the file.
    counts = Qcow2Counts(capacity: clusters + 2)
  }

  /// A number as C's `%lx` prints it.
  static func hex(_ value: UInt64) -> String { String(value, radix: 16) }
  /// As `%#lx`.
  static func hexSharp(_ value: UInt64) -> String { value == 0 ? "0" : "0x" + hex(value) }

  /// Lines that were shown: a small image can have more faults than anybody reads.
  private final class LineCount {
    static let limit = 100_000
    var value = 0
  }

  /// Whether lines are shown no longer; faults are still counted.
  var isSilent: Bool { shown.value > LineCount.limit }

  func message(_ line: @autoclosure () -> String) {
    shown.value += 1
    if shown.value <= LineCount.limit {
      show(line())
    } else if shown.value == LineCount.limit + 1 {
      show("There are more errors, which are counted and not shown.")
    }
  }

  mutating func corrupt(_ sentence: String, times: UInt64 = 1) {
    report.corruptions += times
    message(sentence)
  }

  /// The same for so many errors of one kind, each of them shown as long as any are.
  mutating func corrupt(each times: Int, _ sentence: @autoclosure () -> String) {
    report.corruptions += UInt64(times)
    var left = times
    while left > 0, !isSilent {
      message(sentence())
      left -= 1
    }
    shown.value += left
  }

  mutating func run() throws(BlockError) -> ImageCheckReport {
    report.totalClusters = (header.size &+ UInt64(header.clusterSize) - 1) >> bits
    try readSnapshots()
    try countReferences()
    let refcounts = try Qcow2Refcounts(file: file, header: header)
    try countRefcountStructures(refcounts)
    var comparison = try compare(refcounts)
    if repair == .nothing || !(comparison.differs || mustRebuild) {
      report.leaks += comparison.leaks
      report.corruptions += comparison.corruptions
    } else {
      comparison = try repairRefcounts(refcounts, comparison)
    }
    if comparison.flagsDiffer || mustCheckFlags
      || (repair != .nothing && comparison.differs)
    {
      try checkCopiedFlags(refcounts: try Qcow2Refcounts(file: file, header: header))
    }
    report.imageEndOffset = UInt64(comparison.highest + 1) << bits
    try writeSnapshots()
    if repair != .nothing, report.checkErrors == 0, report.corruptions == 0 { try markClean() }
    return report
  }

  var bits: UInt64 { UInt64(header.clusterBits) }

  // MARK: - Snapshot table

  private mutating func readSnapshots() throws(BlockError) {
    do throws(BlockError) {
      try header.checkTable(
        "snapshot table", at: header.snapshotsOffset, 0, entrySize: 40, atMost: 1 << 40)
      if header.snapshotCount > UInt32(Qcow2Header.maximumSnapshots) {
        guard repair == .all else {
          throw BlockError(EFBIG, "snapshot table too large")
        }
        let over = header.snapshotCount - UInt32(Qcow2Header.maximumSnapshots)
        message("Discarding \(over) overhanging snapshots")
        snapshotCorruptions += UInt64(over)
        header.snapshotCount = UInt32(Qcow2Header.maximumSnapshots)
      }
      guard header.snapshotsOffset <= UInt64(Int64.max) / 2 else {
        throw BlockError(EINVAL, "snapshot table offset invalid")
      }
      let show = show
      snapshots = try Qcow2SnapshotTable(
        reading: file, header: header, repair: repair == .all ? { show($0) } : nil)
    } catch {
      report.checkErrors += 1
      message("ERROR \(error.message)")
      snapshots = Qcow2SnapshotTable()
    }
    snapshotCorruptions += UInt64(snapshots.dropped + snapshots.cut)
    if header.version >= 3 {
      for (index, snapshot) in snapshots.snapshots.enumerated() where snapshot.extraSize < 16 {
        snapshotCorruptions += 1
        message(
          "\(repair == .all ? "Repairing" : "ERROR") snapshot table entry \(index) is incomplete")
      }
    }
    report.corruptions += snapshotCorruptions
  }

  /// Writes a snapshot table that had to be changed.
  private mutating func writeSnapshots() throws(BlockError) {
    guard snapshotCorruptions > 0, repair == .all, report.checkErrors == 0 else { return }
    var image = try Qcow2Maintenance(file: file)
    try image.replaceSnapshots(snapshots, oldBytes: snapshots.byteCount)
    report.corruptions -= snapshotCorruptions
    report.corruptionsFixed += snapshotCorruptions
  }

  // MARK: - Refcount structures

  /// Counts the refcount table and blocks, and finds out whether they can be kept.
  private mutating func countRefcountStructures(_ refcounts: Qcow2Refcounts) throws(BlockError) {
    count(bytes: header.refcountTableOffset, UInt64(refcounts.table.count * 8))
    for index in refcounts.table.indices where refcounts.table[index] != 0 {
      let entry = refcounts.table[index]
      if entry & 0x1FF != 0 {
        corrupt("ERROR refcount table entry \(index) has reserved bits set")
        mustRebuild = true
        continue
      }
      if entry & UInt64(header.clusterSize - 1) != 0 {
        corrupt(
          "ERROR refcount block \(index) is not cluster aligned; refcount table entry corrupted")
        mustRebuild = true
        continue
      }
      guard entry >> bits < UInt64(clusters) else {
        corrupt("ERROR refcount block \(index) is outside image")
        mustRebuild = true
        continue
      }
      count(bytes: entry, UInt64(header.clusterSize))
      let references = counts.count(Int(entry >> bits))
      if references != 1 {
        corrupt("ERROR refcount block \(index) refcount=\(references)")
        mustRebuild = true
      }
    }
  }

  struct Comparison {
    var leaks: UInt64 = 0
    var corruptions: UInt64 = 0
    /// The highest cluster that is referenced or has a refcount.
    var highest = 0
    /// A referenced cluster has refcount 0.
    var hasUnreferenced = false
    /// Entries of the active tables whose copied flag does not fit.
    var flagsDiffer = false
    var differs: Bool { leaks > 0 || corruptions > 0 }
  }

  /// Compares all refcounts with the references. With `change`, each difference is handed to it with whether it is a leak; true: it is mended.
  private mutating func compare(
    _ refcounts: Qcow2Refcounts, silent: Bool = false,
    change: ((Int, UInt64, Bool) throws(BlockError) -> Bool)? = nil
  ) throws(BlockError) -> Comparison {
    var result = Comparison()
    let shift = refcounts.blockShift
    // Compressed data may end a little behind the file's last whole cluster.
    let isLonger = counts.count(clusters) > 0 || counts.count(clusters + 1) > 0
    let clusters = isLonger ? clusters + 2 : clusters
    let blockCount = (clusters >> shift) + 1
    for index in 0..<blockCount {
      let first = index << shift
      let end = min(first + (1 << shift), clusters)
      var block: IOBuffer?
      if isUnreadable(refcounts, index) {
        report.checkErrors += UInt64(end - first)
        message("Can't get refcount for clusters \(first) to \(end - 1): Input/output error")
        continue
      }
      if isUsable(refcounts, index) {
        do throws(BlockError) {
          block = try refcounts.block(index)
        } catch {
          report.checkErrors += 1
          message("Can't get refcount for cluster \(first): \(error.message)")
          continue
        }
      }
      if let block {
        var cluster = first
        while let at = firstDifference(block, cluster, end, first, &result, order: refcounts.order)
        {
          let stored = block.lane(at - first, refcounts.order)
          try note(at, stored, &result, silent, change)
          cluster = at + 1
        }
        if change == nil { refcounts.forget(index) }
      } else {
        var cluster = first
        while let at = counts.next(from: cluster, below: end) {
          result.highest = at
          try note(at, 0, &result, silent, change)
          cluster = at + 1
        }
      }
    }
    return result
  }

  /// Whether a block is in the image, and not many entries' at once.
  private func isUsable(_ refcounts: Qcow2Refcounts, _ index: Int) -> Bool {
    guard index < refcounts.table.count else { return false }
    let entry = refcounts.table[index] & Qcow2Entry.refcountOffsetMask
    guard entry != 0, refcounts.isSane(entry), entry >> bits < UInt64(clusters) else {
      return false
    }
    return !mustRebuild || counts.count(Int(entry >> bits)) <= 16
  }

  /// Whether an entry of the table is no cluster's offset: QEMU cannot tell the refcounts then.
  private func isUnreadable(_ refcounts: Qcow2Refcounts, _ index: Int) -> Bool {
    guard repair == .nothing, index < refcounts.table.count else { return false }
    return !refcounts.isSane(refcounts.table[index] & Qcow2Entry.refcountOffsetMask)
  }

  /// The first cluster whose refcount is not what is referenced; notes flags and the highest cluster in use on the way.
  private func firstDifference(
    _ block: IOBuffer, _ start: Int, _ end: Int, _ first: Int, _ result: inout Comparison,
    order: Int
  ) -> Int? {
    var highest = result.highest
    var flagsDiffer = result.flagsDiffer
    defer {
      result.highest = highest
      result.flagsDiffer = flagsDiffer
    }
    var cluster = start
    while cluster < end {
      // Nearly always whole pieces are as they should be.
      if order == 4, cluster & (Qcow2Counts.pieceSize - 1) == 0,
        cluster + Qcow2Counts.pieceSize <= end
      {
        let piece = counts.hasPiece(cluster, in: block, at: cluster - first)
        if piece.same {
          if let used = piece.highest { highest = used }
          cluster += Qcow2Counts.pieceSize
          continue
        }
        let stop = cluster + Qcow2Counts.pieceSize
        if let found = look(block, cluster, stop, first, &highest, &flagsDiffer, order) {
          return found
        }
        cluster = stop
      } else {
        let stop = min(
          end, (cluster / Qcow2Counts.pieceSize + 1) * Qcow2Counts.pieceSize)
        if let found = look(block, cluster, stop, first, &highest, &flagsDiffer, order) {
          return found
        }
        cluster = stop
      }
    }
    return nil
  }

  /// The same, cluster by cluster.
  private func look(
    _ block: IOBuffer, _ start: Int, _ end: Int, _ first: Int, _ highest: inout Int,
    _ flagsDiffer: inout Bool, _ order: Int
  ) -> Int? {
    for cluster in start..<end {
      let stored = block.lane(cluster &- first, order)
      let word = counts.word(cluster)
      if stored | UInt64(word) == 0 { continue }
      highest = cluster
      let wrong = stored == 1 ? Qcow2Counts.uncopied : Qcow2Counts.copied
      if word & wrong != 0 { flagsDiffer = true }
      let low = word & Qcow2Counts.countMask
      if UInt64(low) != stored || low == Qcow2Counts.countMask,
        counts.count(cluster) != stored
      {
        return cluster
      }
    }
    return nil
  }

  private mutating func note(
    _ cluster: Int, _ stored: UInt64, _ result: inout Comparison, _ silent: Bool,
    _ change: ((Int, UInt64, Bool) throws(BlockError) -> Bool)?
  ) throws(BlockError) {
    var references = counts.count(cluster)
    if references > header.maximumRefcount {
      corrupt(
        "ERROR: overflow cluster offset=0x\(Self.hex(UInt64(cluster) << bits))\nUse qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy if the image cannot be opened for writing"
      )
      references = header.maximumRefcount
      if references == stored { return }
    }
    let isLeak = stored > references
    if stored == 0 {
      result.hasUnreferenced = true
      if counts.word(cluster) & Qcow2Counts.copied != 0 { result.flagsDiffer = true }
    }
    let mended = try change?(cluster, references, isLeak) ?? false
    if !silent {
      let verb = mended ? "Repairing" : isLeak ? "Leaked" : "ERROR"
      message("\(verb) cluster \(cluster) refcount=\(stored) reference=\(references)")
    }
    if mended {
      if isLeak { report.leaksFixed += 1 } else { report.corruptionsFixed += 1 }
    } else if isLeak {
      result.leaks += 1
    } else {
      result.corruptions += 1
    }
  }

  // MARK: - Repair of refcounts

  private mutating func repairRefcounts(_ refcounts: Qcow2Refcounts, _ found: Comparison)
    throws(BlockError) -> Comparison
  {
    if mustRebuild || found.hasUnreferenced {
      guard repair == .all else {
        message("ERROR need to rebuild refcount structures")
        throw BlockError(EIO, "Input/output error")
      }
      return try rebuild(found)
    }
    let everything = repair == .all
    let result = try compare(refcounts) { cluster, references, isLeak throws(BlockError) in
      guard isLeak || everything else { return false }
      try refcounts.set(references, cluster)
      return true
    }
    _ = try refcounts.flush()
    try file.flush()
    report.leaks += result.leaks
    report.corruptions += result.corruptions
    var comparison = found
    comparison.highest = result.highest
    return comparison
  }

  /// Makes a new refcount table and new blocks behind everything that is referenced, and makes the header point to them.
  private mutating func rebuild(_ found: Comparison) throws(BlockError) -> Comparison {
    message("Rebuilding refcount structure")
    let structural = report.corruptions
    // Everything again but the refcount structures.
    let before = report
    // Behind all that is referenced, and the old structures: a repair that is cut off has harmed nothing.
    var start = counts.capacity
    while start > 0, counts.count(start - 1) == 0 { start -= 1 }
    counts = Qcow2Counts(capacity: clusters + 2)
    var again = Qcow2Checker.silenced(self)
    try again.countReferences()
    counts = again.counts
    let order = Int(header.refcountOrder)
    let shift = Int(header.clusterBits) + 3 - order
    var builder = Qcow2RefcountBuilder(
      file: file, clusterBits: Int(bits), order: order, start: start, needed: [])
    var index = 0
    while let cluster = counts.next(from: index << shift, below: start) {
      index = cluster >> shift
      builder.needed.insert(index)
      index += 1
    }
    let (references, maximum) = (counts, header.maximumRefcount)
    // What is referenced more often than can be counted stays so.
    var overflows: UInt64 = 0
    var from = 0
    while let cluster = counts.next(from: from, below: start) {
      if counts.count(cluster) > maximum { overflows += 1 }
      from = cluster + 1
    }
    let built = try builder.write { min(references.count($0), maximum) }
    guarded = nil
    header.refcountTableOffset = built.table
    header.refcountTableClusters = UInt32(built.clusters)
    var pointer = BigEndianBytes()
    pointer.u64(header.refcountTableOffset)
    pointer.u32(header.refcountTableClusters)
    try file.write(48, pointer.bytes)
    try file.flush()
    report = before
    report.corruptions = again.report.corruptions + snapshotCorruptions + overflows
    report.corruptionsFixed += structural - min(structural, report.corruptions)
    report.corruptionsFixed += found.corruptions
    report.leaksFixed += found.leaks
    mustRebuild = false
    var result = Comparison()
    result.highest = built.end - 1
    result.flagsDiffer = true
    return result
  }

  /// The same check from the start, saying and changing nothing.
  private static func silenced(_ other: Qcow2Checker) -> Qcow2Checker {
    var copy = Qcow2Checker(
      file: other.file, header: other.header, length: other.length, clusters: other.clusters,
      repair: .nothing, message: { _ in })
    copy.snapshots = other.snapshots
    copy.report = ImageCheckReport()
    return copy
  }

  /// Clears the dirty and the corrupt bit.
  private mutating func markClean() throws(BlockError) {
    let marks: Qcow2Header.Incompatible = [.dirty, .corrupt]
    guard header.version >= 3, !header.incompatible.isDisjoint(with: marks) else { return }
    try file.flush()
    header.incompatible.subtract(marks)
    var features = BigEndianBytes()
    features.u64(header.incompatible.rawValue)
    try file.write(72, features.bytes)
    try file.flush()
  }
}
