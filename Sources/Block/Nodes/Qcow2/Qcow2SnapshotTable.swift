import Glibc
package import Host

/// One internal snapshot (qcow2 specification, Snapshots).
package struct Qcow2Snapshot: Equatable, Sendable {
  package var l1TableOffset: UInt64 = 0
  /// Entries of its L1 table.
  package var l1Size: UInt32 = 0
  /// A number in text, usually.
  package var id = ""
  package var name = ""
  /// When it was taken.
  package var seconds: UInt32 = 0
  package var nanoseconds: UInt32 = 0
  /// How long the guest had run.
  package var vmClockNanoseconds: UInt64 = 0
  /// Bytes of the machine's state, stored behind the disk; 0 when there is none.
  package var vmStateSize: UInt64 = 0
  /// The virtual size then.
  package var diskSize: UInt64 = 0
  /// Instructions counted; all ones when they were not.
  package var instructionCount = UInt64.max
  /// Extra data beyond what we know; preserved.
  package var unknownExtra: [UInt8] = []
  /// Bytes of extra data in the file.
  package var extraSize: UInt32 = 24

  package init() {}
}

/// The directory of the internal snapshots of an image.
package struct Qcow2SnapshotTable: Equatable, Sendable {
  static let maximumBytes: UInt64 = 1024 * 65536
  static let maximumExtra: UInt32 = 1024

  package var snapshots: [Qcow2Snapshot] = []
  /// Bytes in the file, padding included.
  package private(set) var byteCount: UInt64 = 0
  /// Snapshots that reading with repair left out because the table is too large, and entries whose extra data it cut.
  private(set) var dropped = 0
  private(set) var cut = 0

  package init() {}

  /// Reads the table that the header describes. With `repair`, what is too much is left out instead of refused. Throws `BlockError` with QEMU's sentence.
  package init(
    reading file: any BlockNode, header: Qcow2Header, repair: ((String) -> Void)? = nil
  ) throws(BlockError) {
    guard header.snapshotCount > 0 else { return }
    var input = Window(file: file, start: header.snapshotsOffset)
    for index in 0..<Int(header.snapshotCount) {
      var snapshot = Qcow2Snapshot()
      let entry = Fields(try input.take(40))
      snapshot.l1TableOffset = entry.u64(0)
      snapshot.l1Size = entry.u32(8)
      snapshot.seconds = entry.u32(16)
      snapshot.nanoseconds = entry.u32(20)
      snapshot.vmClockNanoseconds = entry.u64(24)
      snapshot.vmStateSize = UInt64(entry.u32(32))
      snapshot.extraSize = entry.u32(36)
      let wanted = snapshot.extraSize
      if wanted > Self.maximumExtra {
        guard let repair else {
          throw BlockError(
            EINVAL,
            "Too much extra metadata in snapshot table entry \(index)\nYou can force-remove this extra metadata with qemu-img check -r all"
          )
        }
        repair(
          "Discarding too much extra metadata in snapshot table entry \(index) (\(wanted) > \(Self.maximumExtra))"
        )
        cut += 1
      }
      let kept = min(wanted, Self.maximumExtra)
      let extra = Fields(try input.take(Int(kept)))
      input.skip(UInt64(wanted - kept))
      snapshot.extraSize = kept
      if kept >= 8 { snapshot.vmStateSize = extra.u64(0) }
      snapshot.diskSize = kept >= 16 ? extra.u64(8) : header.size
      if kept >= 24 { snapshot.instructionCount = extra.u64(16) }
      if kept > 24 { snapshot.unknownExtra = extra.bytes(24..<Int(kept)) }
      snapshot.id = String(decoding: try input.take(Int(entry.u16(12))), as: UTF8.self)
      snapshot.name = String(decoding: try input.take(Int(entry.u16(14))), as: UTF8.self)
      input.align(8)
      if input.position > Self.maximumBytes {
        let left = Int(header.snapshotCount) - index
        guard let repair else {
          throw BlockError(
            EFBIG,
            "Snapshot table is too big\nYou can force-remove all \(left) overhanging snapshots with qemu-img check -r all"
          )
        }
        repair("Discarding \(left) overhanging snapshots (snapshot table is too big)")
        dropped += left
        return
      }
      snapshots.append(snapshot)
      byteCount = input.position
    }
  }

  /// The table as it is to be in the file. Throws `BlockError` (`EFBIG`) when it would be larger than QEMU reads.
  package mutating func serialize() throws(BlockError) -> [UInt8] {
    var output = BigEndianBytes()
    for snapshot in snapshots {
      let (id, name) = (Array(snapshot.id.utf8), Array(snapshot.name.utf8))
      guard id.count <= Int(UInt16.max), name.count <= Int(UInt16.max) else {
        throw BlockError(EINVAL, "The snapshot's name is too long")
      }
      output.u64(snapshot.l1TableOffset)
      output.u32(snapshot.l1Size)
      output.u16(UInt16(id.count))
      output.u16(UInt16(name.count))
      output.u32(snapshot.seconds)
      output.u32(snapshot.nanoseconds)
      output.u64(snapshot.vmClockNanoseconds)
      output.u32(UInt32(min(snapshot.vmStateSize, UInt64(UInt32.max))))
      output.u32(UInt32(24 + snapshot.unknownExtra.count))
      output.u64(snapshot.vmStateSize)
      output.u64(snapshot.diskSize)
      output.u64(snapshot.instructionCount)
      output.bytes += snapshot.unknownExtra
      output.bytes += id
      output.bytes += name
      output.pad(to: 8)
    }
    guard UInt64(output.bytes.count) <= Self.maximumBytes,
      snapshots.count <= Qcow2Header.maximumSnapshots
    else { throw BlockError(EFBIG, "Snapshot table is too big") }
    byteCount = UInt64(output.bytes.count)
    return output.bytes
  }

  // MARK: - Finding

  /// By id, else by name (`-a`, `-l`, `snapshot.…`).
  package func index(idOrName text: String) -> Int? {
    snapshots.firstIndex { $0.id == text } ?? snapshots.firstIndex { $0.name == text }
  }

  /// With both given, both must match; nil and empty are not given.
  package func index(id: String?, name: String?) -> Int? {
    let id = id.flatMap { $0.isEmpty ? nil : $0 }
    let name = name.flatMap { $0.isEmpty ? nil : $0 }
    guard id != nil || name != nil else { return nil }
    return snapshots.firstIndex { (id == nil || $0.id == id) && (name == nil || $0.name == name) }
  }

  /// The id of the next snapshot: one more than the highest.
  var nextID: String {
    String(
      (snapshots.map { UInt64($0.id.prefix { $0.isASCII && $0.isNumber }) ?? 0 }.max() ?? 0) &+ 1)
  }
}

/// Bytes of a file in order, read in large pieces.
private struct Window {
  let file: any BlockNode
  let start: UInt64
  private(set) var position: UInt64 = 0
  private var cached: [UInt8] = []
  private var cachedAt: UInt64 = 0

  init(file: any BlockNode, start: UInt64) {
    self.file = file
    self.start = start
  }

  mutating func take(_ count: Int) throws(BlockError) -> [UInt8] {
    guard count > 0 else { return [] }
    if position < cachedAt || position + UInt64(count) > cachedAt + UInt64(cached.count) {
      cached = try file.bytes(start &+ position, max(count, 4096))
      cachedAt = position
    }
    let from = Int(position - cachedAt)
    position += UInt64(count)
    return Array(cached[from..<from + count])
  }

  mutating func skip(_ count: UInt64) { position += count }
  mutating func align(_ multiple: UInt64) {
    position = (position + multiple - 1) & ~(multiple - 1)
  }
}
