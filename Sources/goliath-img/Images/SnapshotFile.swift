import Block
import Host

/// An image file that tells of an internal snapshot as if it were the present state: only the header reads otherwise.
final class SnapshotFile: BlockNode {
  let driver = "file"
  let name = "snapshot"
  private let file: any BlockNode
  private let head: [UInt8]

  /// Over `file`, with the header that `snapshot` needs. Throws what reading throws.
  init(_ file: any BlockNode, _ snapshot: Qcow2Snapshot) throws(BlockError) {
    self.file = file
    var head = try file.bytes(0, 72)
    func put(_ value: UInt64, _ count: Int, at offset: Int) {
      for index in 0..<count {
        head[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64((count - 1 - index) * 8))
      }
    }
    if snapshot.diskSize > 0 { put(snapshot.diskSize, 8, at: 24) }
    put(UInt64(snapshot.l1Size), 4, at: 36)
    put(snapshot.l1TableOffset, 8, at: 40)
    self.head = head
  }

  var length: UInt64 { file.length }
  var limits: BlockLimits { file.limits }
  var isReadOnly: Bool { true }
  var children: [BlockChild] { [BlockChild(role: "file", node: file)] }
  var allocatedSize: UInt64? { file.allocatedSize }

  func read(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    try file.read(offset, into: target)
    guard offset < UInt64(head.count) else { return }
    target.store(Array(head[Int(offset)...].prefix(target.count)))
  }

  func write(_ offset: UInt64, from source: IOVector, _ flags: WriteFlags) throws(BlockError) {
    throw BlockError(1, "Block node is read-only")
  }

  func writeZeroes(_ offset: UInt64, _ count: UInt64, _ flags: WriteFlags) throws(BlockError) {
    throw BlockError(1, "Block node is read-only")
  }

  func discard(_ offset: UInt64, _ count: UInt64) throws(BlockError) {
    throw BlockError(1, "Block node is read-only")
  }

  func flush() throws(BlockError) {}

  func truncate(to length: UInt64, _ preallocation: Preallocation) throws(BlockError) {
    throw BlockError(1, "Block node is read-only")
  }

  func status(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> BlockStatus {
    try file.status(offset, count)
  }
}
