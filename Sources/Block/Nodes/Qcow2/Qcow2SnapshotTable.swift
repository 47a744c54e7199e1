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
      let at = try input.take(40)
      snapshot.l1TableOffset = input.u64(at)
      snapshot.l1Size = input.u32(at + 8)
      let (idSize, nameSize) = (Int(input.u16(at + 12)), Int(input.u16(at + 14)))
      snapshot.seconds = input.u32(at + 16)
      snapshot.nanoseconds = input.u32(at + 20)
      snapshot.vmClockNanoseconds = input.u64(at + 24)
      snapshot.vmStateSize = UInt64(input.u32(at + 32))
      snapshot.extraSize = input.u32(at + 36)
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
      let extra = try input.take(Int(kept))
      snapshot.extraSize = kept
      if kept >= 8 { snapshot.vmStateSize = input.u64(extra) }
      snapshot.diskSize = kept >= 16 ? input.u64(extra + 8) : header.size
      if kept >= 24 { snapshot.instructionCount = input.u64(extra + 16) }
      if kept > 24 { snapshot.unknownExtra = input.bytes(extra + 24, Int(kept) - 24) }
      input.skip(UInt64(wanted - kept))
      snapshot.id = input.text(try input.take(idSize), idSize)
      snapshot.name = input.text(try input.take(nameSize), nameSize)
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
  private let buffer = IOBuffer(count: 1 << 17)
  private var cached: Range<UInt64> = 0..<0

  init(file: any BlockNode, start: UInt64) {
    self.file = file
    self.start = start
  }

  /// The next `count` bytes, at most 65,536; where they are in the buffer until the next call.
  mutating func take(_ count: Int) throws(BlockError) -> Int {
    let end = position + UInt64(count)
    if position < cached.lowerBound || end > cached.upperBound {
      // Small tables cost a small read.
      let size = position == 0 ? max(count, 4096) : buffer.count
      try file.read(start &+ position, into: buffer.vector(0..<size))
      cached = position..<position + UInt64(size)
    }
    let at = Int(position - cached.lowerBound)
    position = end
    return at
  }

  func u16(_ at: Int) -> UInt16 { buffer.loadBigEndian(UInt16.self, at: at) }
  func u32(_ at: Int) -> UInt32 { buffer.loadBigEndian(UInt32.self, at: at) }
  func u64(_ at: Int) -> UInt64 { buffer.loadBigEndian(UInt64.self, at: at) }
  func bytes(_ at: Int, _ count: Int) -> [UInt8] { buffer.bytes(at..<at + count) }
  func text(_ at: Int, _ count: Int) -> String {
    count == 0 ? "" : String(decoding: bytes(at, count), as: UTF8.self)
  }

  mutating func skip(_ count: UInt64) { position += count }
  mutating func align(_ multiple: UInt64) {
    position = (position + multiple - 1) & ~(multiple - 1)
  }
}
