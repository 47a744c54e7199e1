import Glibc
package import Host
import Synchronization

/// The bytes of the node below as they are, or a part of them (driver `raw`, options `offset` and `size`).
package final class RawNode: ReopenableNode, BlockParent {
  package let driver = "raw"
  package let name: String
  private let file: ChildSlot
  private let offset: UInt64
  private let fixedSize: UInt64?
  private let settings: NodeSettings
  private let readOnly: Atomic<Bool>
  /// The first bytes of an image whose format was guessed: nothing may be written there that looks like another format.
  private static let guarded: UInt64 = 512

  /// Throws in QEMU's words when offset and size do not fit the file.
  package init(
    name: String, file: any BlockNode, settings: NodeSettings = NodeSettings(), offset: UInt64 = 0,
    size: UInt64? = nil
  ) throws(BlockError) {
    let length = file.length
    guard offset <= length else {
      throw BlockError(
        EINVAL, "Offset (\(offset)) cannot be greater than size of the containing file (\(length))")
    }
    if let size {
      guard size <= length - offset else {
        throw BlockError(
          EINVAL,
          "The sum of offset (\(offset)) and size (\(size)) has to be smaller or equal to the "
            + "actual size of the containing file (\(length))")
      }
      guard size % 512 == 0 else {
        throw BlockError(EINVAL, "Specified size is not multiple of 512")
      }
    }
    self.name = name
    self.file = ChildSlot(file)
    self.offset = offset
    self.settings = settings
    fixedSize = size
    readOnly = Atomic(settings.isReadOnly || (settings.isAutoReadOnly && file.isReadOnly))
  }

  package var isReadOnly: Bool { readOnly.load(ordering: .acquiring) }
  /// Whether it shows all of the file.
  package var isWhole: Bool { offset == 0 && fixedSize == nil }
  package var length: UInt64 {
    if let fixedSize { return fixedSize }
    // Whole sectors, as guests and tools see disks.
    let length = file.node.length
    return length > offset ? (length - offset + 511) & ~511 : 0
  }
  package var limits: BlockLimits { file.node.limits }
  package var children: [BlockChild] { [BlockChild(role: "file", node: file.node)] }
  package var allocatedSize: UInt64? { file.node.allocatedSize }

  package func setReadOnly(_ isReadOnly: Bool) throws(BlockError) {
    guard isReadOnly || !file.node.isReadOnly else {
      throw BlockError(EACCES, "Block node is read-only")
    }
    readOnly.store(isReadOnly, ordering: .releasing)
  }

  package func replaceChild(_ role: String, with node: any BlockNode) -> Bool {
    guard role == "file" else { return false }
    file.node = node
    return true
  }

  package func read(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    let inside = try window(offset, target.count)
    if inside == target.count { return try file.node.read(self.offset + offset, into: target) }
    if inside > 0 { try file.node.read(self.offset + offset, into: target.slice(0, inside)) }
    target.fill(0, inside)
  }

  package func readNow(_ offset: UInt64, into target: IOVector) throws(BlockError) -> Bool {
    guard try window(offset, target.count) == target.count else { return false }
    return try file.node.readNow(self.offset + offset, into: target)
  }

  package func write(
    _ offset: UInt64, from source: IOVector, _ flags: WriteFlags
  ) throws(BlockError) {
    try checkWrite(offset, UInt64(source.count))
    if settings.isProbed, offset < RawNode.guarded, source.count > 0 {
      try checkGuarded(offset, source)
    }
    try file.node.write(self.offset + offset, from: source, flags)
  }

  package func writeZeroes(
    _ offset: UInt64, _ count: UInt64, _ flags: WriteFlags
  ) throws(BlockError) {
    try checkWrite(offset, count)
    var flags = flags
    if !settings.unmaps { flags.remove(.mayUnmap) }
    try file.node.writeZeroes(self.offset + offset, count, flags)
  }

  package func discard(_ offset: UInt64, _ count: UInt64) throws(BlockError) {
    try checkWrite(offset, count)
    guard settings.unmaps else { return }
    try file.node.discard(self.offset + offset, count)
  }

  package func flush() throws(BlockError) {
    if isReadOnly || settings.cache.ignoresFlushes { return }
    try file.node.flush()
  }

  package func truncate(
    to length: UInt64, _ preallocation: Preallocation
  ) throws(BlockError) {
    if isReadOnly { throw BlockError(EACCES, "Image is read-only") }
    if fixedSize != nil { throw BlockError(ENOTSUP, "Cannot resize fixed-size raw disks") }
    guard length <= UInt64(Int64.max) - offset else {
      throw BlockError(EINVAL, "Disk size too large for the chosen offset")
    }
    try file.node.truncate(to: offset + length, preallocation)
  }

  package func status(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> BlockStatus {
    let inside = try window(offset, Int(clamping: count))
    guard inside > 0 else {
      return BlockStatus(length: 0, isAllocated: true, isZero: true, isData: false)
    }
    return try file.node.status(self.offset + offset, UInt64(inside))
  }

  // MARK: -

  /// How many of `count` bytes lie within.
  private func window(_ offset: UInt64, _ count: Int) throws(BlockError) -> Int {
    let (end, overflow) = offset.addingReportingOverflow(UInt64(max(0, count)))
    guard !overflow, end <= UInt64(Int64.max) else { throw BlockError(EINVAL, "Invalid offset") }
    let length = length
    return end <= length ? count : offset < length ? Int(length - offset) : 0
  }

  private func checkWrite(_ offset: UInt64, _ count: UInt64) throws(BlockError) {
    if isReadOnly { throw BlockError(EPERM, "Block node is read-only") }
    let (end, overflow) = offset.addingReportingOverflow(count)
    guard !overflow, end <= UInt64(Int64.max) else { throw BlockError(EINVAL, "Invalid offset") }
    guard end <= length else { throw BlockError(EIO, "Write beyond the end of the disk") }
  }

  private func checkGuarded(_ offset: UInt64, _ source: IOVector) throws(BlockError) {
    var head = try file.node.bytes(self.offset, Int(RawNode.guarded))
    for (place, byte) in source.bytes(0, Int(RawNode.guarded - offset)).enumerated() {
      head[Int(offset) + place] = byte
    }
    if ImageFormat.probe(head, filename: "") != "raw" {
      throw BlockError(EPERM, "Writing this would make a raw image look like another format")
    }
  }
}

/// The place of a node below another, which can be taken by a third.
package final class ChildSlot: Sendable {
  private let held: Mutex<any BlockNode>

  package init(_ node: any BlockNode) { held = Mutex(node) }

  package var node: any BlockNode {
    get { held.withLock { $0 } }
    set { held.withLock { $0 = newValue } }
  }
}

/// A node whose children can be replaced while nobody uses it.
package protocol BlockParent: BlockNode {
  /// Puts another node into the place; false when there is no such place.
  func replaceChild(_ role: String, with node: any BlockNode) -> Bool
}
