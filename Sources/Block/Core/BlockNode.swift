package import Host

/// What a write is to guarantee or may do.
package struct WriteFlags: OptionSet, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }

  /// On stable storage before it returns (force unit access).
  package static let forceUnitAccess = WriteFlags(rawValue: 1)
  /// Zeros may be stored as a hole.
  package static let mayUnmap = WriteFlags(rawValue: 2)
  /// Zeros only if it is cheaper than writing them: `ENOTSUP` otherwise.
  package static let noFallback = WriteFlags(rawValue: 4)
  /// Data is to be stored compressed (`qcow2`).
  package static let compressed = WriteFlags(rawValue: 8)
}

/// What a stretch of a node holds (QEMU's block status).
package struct BlockStatus: Equatable, Sendable {
  /// Bytes from the offset asked for to which this applies; at least 1 but for an empty question.
  package var length: UInt64
  /// This layer, and no backing file, decides what is read.
  package var isAllocated: Bool
  /// Known to read as zeros.
  package var isZero: Bool
  /// Stored somewhere (a zero cluster may be preallocated and be both).
  package var isData: Bool
  package var isCompressed: Bool
  /// Where in `file` the first byte is stored as it is.
  package var hostOffset: UInt64?

  package init(
    length: UInt64, isAllocated: Bool, isZero: Bool, isData: Bool, isCompressed: Bool = false,
    hostOffset: UInt64? = nil
  ) {
    self.length = length
    self.isAllocated = isAllocated
    self.isZero = isZero
    self.isData = isData
    self.isCompressed = isCompressed
    self.hostOffset = hostOffset
  }
}

/// Sizes that requests to a node should keep, in bytes.
package struct BlockLimits: Equatable, Sendable {
  /// Offsets, lengths and memory must be multiples (1 where anything goes, 512 or 4096 with O_DIRECT).
  package var requestAlignment: UInt32 = 1
  /// The largest read or write; 0 is no limit.
  package var maximumTransfer: UInt32 = 0
  /// The unit in which zeroing and discarding are cheap: a qcow2 cluster; 0 is none.
  package var preferredZeroing: UInt32 = 0

  package init() {}
}

/// Where the space of a resized or new file comes from (`preallocation=`).
package enum Preallocation: String, CaseIterable, Sendable {
  case off, metadata, falloc, full
}

/// A node below another, and what it is for.
package struct BlockChild: Sendable {
  /// `file`, `backing`, `data-file`, as QEMU names it.
  package let role: String
  package let node: any BlockNode

  package init(role: String, node: any BlockNode) {
    self.role = role
    self.node = node
  }
}

/// One node of the block graph: a file, a format over a file, a filter.
///
/// Every call is made from any thread, any number at a time, and **may block** until its request is done; none may be made on the main loop, but
/// for the properties. Whoever has many requests has several threads (`IOThread`, `WorkerPool`); nodes lock for themselves and do no I/O with a lock
/// held that another request needs. Calls cost no allocation beyond what the format needs: three nested nodes cost nanoseconds, where suspending
/// functions cost the better part of a microsecond.
///
/// Offsets and lengths are bytes. Reads beyond the end deliver zeros; writes beyond it fail with `EIO` (`EINVAL` for an offset that
/// overflows). `IOVector.count` is the length. Overlapping requests in flight at the same time have no order.
package protocol BlockNode: AnyObject, Sendable {
  /// The driver's name, such as `qcow2` or `file`.
  var driver: String { get }
  /// `node-name`; unique in the graph.
  var name: String { get }
  /// The virtual size in bytes, now.
  var length: UInt64 { get }
  var limits: BlockLimits { get }
  var isReadOnly: Bool { get }
  /// The nodes that this one stands on.
  var children: [BlockChild] { get }

  func read(_ offset: UInt64, into target: IOVector) throws(BlockError)
  /// The same without waiting for a disk; false, with `target` undefined, when it would have to wait. What is in the page cache is delivered
  /// so on the caller's own thread, be it a vCPU's.
  func readNow(_ offset: UInt64, into target: IOVector) throws(BlockError) -> Bool
  func write(_ offset: UInt64, from source: IOVector, _ flags: WriteFlags) throws(BlockError)
  func writeZeroes(_ offset: UInt64, _ count: UInt64, _ flags: WriteFlags) throws(BlockError)
  /// The bytes may be forgotten; what is read there afterwards is unspecified by the caller. `ENOTSUP` is no failure to callers.
  func discard(_ offset: UInt64, _ count: UInt64) throws(BlockError)
  /// Everything written before is on stable storage when it returns (nothing is promised with `cache=unsafe`).
  func flush() throws(BlockError)
  /// Changes the virtual size; new space reads as zeros.
  func truncate(to length: UInt64, _ preallocation: Preallocation) throws(BlockError)
  /// What the stretch from `offset`, at most `count` bytes, holds. `length` of the answer may be shorter than it could be.
  func status(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> BlockStatus
  /// Appends to `answers` what the stretches from `offset` on hold, one behind the other: at least one, and as many more as cost little.
  func statuses(_ offset: UInt64, _ count: UInt64, into answers: inout [BlockStatus])
    throws(BlockError)
  /// Bytes that it takes on the host; nil when unknown.
  var allocatedSize: UInt64? { get }
  /// Writes what is cached and marks the image clean, before the node is dropped. No request is in flight. Called once.
  func close() throws(BlockError)
}

/// A node that may be written no longer, or again, while it is in use for reading.
package protocol ReopenableNode: BlockNode {
  /// Changes `isReadOnly`, with no write in flight. Blocks. Throws, and nothing has changed, when it cannot be written.
  func setReadOnly(_ isReadOnly: Bool) throws(BlockError)
}

extension BlockNode {
  package var limits: BlockLimits { BlockLimits() }
  package var isReadOnly: Bool { false }
  package var children: [BlockChild] { [] }
  package var allocatedSize: UInt64? { nil }
  package func readNow(_ offset: UInt64, into target: IOVector) throws(BlockError) -> Bool { false }
  package func close() throws(BlockError) {}
  package func statuses(
    _ offset: UInt64, _ count: UInt64, into answers: inout [BlockStatus]
  ) throws(BlockError) { answers.append(try status(offset, count)) }

  /// Reads whole bytes of metadata.
  package func bytes(_ offset: UInt64, _ count: Int) throws(BlockError) -> [UInt8] {
    let buffer = IOBuffer(count: count)
    try read(offset, into: buffer.vector)
    return buffer.bytes
  }

  /// Writes whole bytes of metadata.
  package func write(_ offset: UInt64, _ bytes: [UInt8]) throws(BlockError) {
    try write(offset, from: IOBuffer(bytes).vector, [])
  }

  /// The child in a role.
  package func child(_ role: String) -> (any BlockNode)? {
    children.first { $0.role == role }?.node
  }
}
