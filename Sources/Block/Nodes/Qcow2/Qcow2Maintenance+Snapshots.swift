import Glibc
import Host

/// Internal snapshots: the active tables' clusters are shared with a copy of the L1 table that the directory names.
extension Qcow2Maintenance {
  /// What a new snapshot is called and when it was taken.
  package struct NewSnapshot: Sendable {
    package var name: String
    package var seconds: UInt32
    package var nanoseconds: UInt32
    package var vmClockNanoseconds: UInt64 = 0
    /// Bytes of machine state that have been written behind the disk.
    package var vmStateSize: UInt64 = 0
    package var instructionCount = UInt64.max

    package init(name: String, seconds: UInt32, nanoseconds: UInt32) {
      self.name = name
      self.seconds = seconds
      self.nanoseconds = nanoseconds
    }
  }

  /// Takes a snapshot; returns it with its id. Throws `BlockError`: `ENOTSUP` with a data file, `EFBIG` with too many snapshots.
  package mutating func createSnapshot(_ new: NewSnapshot) throws(BlockError) -> Qcow2Snapshot {
    guard !header.hasDataFile else {
      throw BlockError(ENOTSUP, "Internal snapshots are not supported with a data file")
    }
    var table = try snapshots()
    guard table.snapshots.count < Qcow2Header.maximumSnapshots else {
      throw BlockError(EFBIG, "Too many snapshots")
    }
    let oldBytes = table.byteCount
    var snapshot = Qcow2Snapshot()
    snapshot.id = table.nextID
    snapshot.name = new.name
    snapshot.seconds = new.seconds
    snapshot.nanoseconds = new.nanoseconds
    snapshot.vmClockNanoseconds = new.vmClockNanoseconds
    snapshot.vmStateSize = new.vmStateSize
    snapshot.instructionCount = new.instructionCount
    snapshot.diskSize = header.size
    snapshot.l1Size = header.l1Size
    try begin()
    var l1 = try l1Table(header.l1TableOffset, header.l1Size)
    snapshot.l1TableOffset = try allocate(bytes: l1.count * 8)
    do throws(BlockError) {
      try walk(&l1, 1, .clear)
    } catch {
      try abandon()
      throw error
    }
    if !l1.isEmpty {
      try Qcow2Tables.store(l1, file, snapshot.l1TableOffset)
      try Qcow2Tables.store(l1, file, header.l1TableOffset)
    }
    table.snapshots.append(snapshot)
    try replaceSnapshots(table, oldBytes: oldBytes)
    try end()
    return snapshot
  }

  /// Makes the disk what it was when the snapshot was taken. Throws `BlockError` when the snapshot's tables are damaged.
  package mutating func applySnapshot(_ index: Int) throws(BlockError) {
    let table = try snapshots()
    guard !header.hasDataFile else {
      throw BlockError(ENOTSUP, "Internal snapshots are not supported with a data file")
    }
    guard table.snapshots.indices.contains(index) else {
      throw BlockError(ENOENT, "Can't find the snapshot")
    }
    let snapshot = table.snapshots[index]
    let needed = header.l1Entries(for: snapshot.diskSize)
    guard needed <= UInt64(Qcow2Header.maximumL1Size / 8) else {
      throw BlockError(EFBIG, "Snapshot L1 table too large")
    }
    var new = try l1Table(snapshot.l1TableOffset, snapshot.l1Size)
    var old = try l1Table(header.l1TableOffset, header.l1Size)
    let (oldOffset, oldEntries) = (header.l1TableOffset, header.l1Size)
    try begin()
    new += Array(repeating: 0, count: max(0, Int(needed) - new.count))
    let place = try allocate(bytes: new.count * 8)
    // Everything in it is shared with the snapshot now.
    do throws(BlockError) {
      try walk(&new, 1, .clear)
    } catch {
      try abandon()
      throw error
    }
    try flushRefcounts()
    if !new.isEmpty { try Qcow2Tables.store(new, file, place) }
    header.l1TableOffset = place
    header.l1Size = UInt32(new.count)
    header.size = snapshot.diskSize
    try writePlaces()
    try walk(&old, -1, .keep)
    try free(oldOffset, bytes: UInt64(oldEntries) * 8)
    try flushRefcounts()
    try end()
  }

  /// Forgets a snapshot. Throws `BlockError` when its tables are damaged.
  package mutating func deleteSnapshot(_ index: Int) throws(BlockError) {
    var table = try snapshots()
    guard table.snapshots.indices.contains(index) else {
      throw BlockError(ENOENT, "Can't find the snapshot")
    }
    let snapshot = table.snapshots.remove(at: index)
    let oldBytes = table.byteCount
    var gone = try l1Table(snapshot.l1TableOffset, snapshot.l1Size)
    try begin()
    try replaceSnapshots(table, oldBytes: oldBytes)
    try walk(&gone, -1, .keep)
    try free(snapshot.l1TableOffset, bytes: UInt64(snapshot.l1Size) * 8)
    try flushRefcounts()
    try file.flush()
    try updateActiveFlags()
    try end()
  }

  /// Takes back what `walk` has written: refcounts that did not fit are in memory only.
  private mutating func abandon() throws(BlockError) {
    let refused = self
    self = try Qcow2Maintenance(file: file)
    takeMark(from: refused)
    try updateActiveFlags()
    try end()
  }

  /// Makes the copied flags of the active tables what the refcounts say.
  mutating func updateActiveFlags() throws(BlockError) {
    var l1 = try l1Table(header.l1TableOffset, header.l1Size)
    let before = l1
    try walk(&l1, 0, .update)
    if l1 != before { try Qcow2Tables.store(l1, file, header.l1TableOffset) }
  }

  /// Writes the directory to a new place, makes it the valid one and frees the old one.
  mutating func replaceSnapshots(_ new: Qcow2SnapshotTable, oldBytes: UInt64) throws(BlockError) {
    var new = new
    let bytes = try new.serialize()
    let old = header.snapshotsOffset
    let place = try allocate(bytes: bytes.count)
    if !bytes.isEmpty { try file.write(place, bytes) }
    try flushRefcounts()
    header.snapshotsOffset = place
    header.snapshotCount = UInt32(new.snapshots.count)
    try writePlaces()
    try free(old, bytes: oldBytes)
    try flushRefcounts()
  }
}
