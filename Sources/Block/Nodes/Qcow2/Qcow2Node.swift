import Glibc
import Host
import Synchronization

/// A qcow2 image over a file (qcow2 specification, versions 2 and 3).
///
/// The tables are a model (`Qcow2State`) behind one lock; no I/O happens with it held. Whoever needs a part of a table that is not in memory reads it and
/// asks again. Changed tables stay in memory until `flush`, `close` or until they are many; then they are written in an order in which
/// the image is whole after every write: refcounts, then what refers to the clusters, then what refers to that; freed clusters last (`commit`).
package final class Qcow2Node: ReopenableNode {
  package let driver = "qcow2"
  package let name: String
  let file: any BlockNode
  let backing: (any BlockNode)?
  let dataFile: (any BlockNode)?
  package let options: Qcow2Options
  let readOnly: Atomic<Bool>
  package let layout: Qcow2Layout
  /// LUKS or AES: nothing but metadata can be read.
  package let isEncrypted: Bool

  let state: Mutex<Qcow2State>
  let changed: WaitWord
  /// Held while tables are written, and by whoever moves them. Taken before `state`.
  let committing = Mutex(())
  /// The virtual size, for those who only look.
  let size: Atomic<UInt64>
  /// Requests in flight of either epoch.
  let inFlight0 = Atomic<Int>(0)
  let inFlight1 = Atomic<Int>(0)
  /// Somebody waits until there are none.
  let wantsExclusive = Atomic<Bool>(false)
  private let hasReported = Atomic<Bool>(false)
  /// What clusters are compressed with, as many as threads have needed.
  let codecs = Mutex<[Qcow2Codec]>([])

  /// Where guest clusters are stored.
  var dataTarget: any BlockNode { dataFile ?? file }

  init(
    name: String, file: any BlockNode, backing: (any BlockNode)?, dataFile: (any BlockNode)?,
    options: Qcow2Options, state: consuming Qcow2State
  ) {
    self.name = name
    self.file = file
    self.backing = backing
    self.dataFile = dataFile
    self.options = options
    readOnly = Atomic(options.readOnly)
    layout = state.layout
    isEncrypted = state.header.cryptMethod != 0
    changed = state.changed
    size = Atomic(state.size)
    self.state = Mutex(state)
  }

  // MARK: - Properties

  package var length: UInt64 { size.load(ordering: .acquiring) }

  package var limits: BlockLimits {
    var limits = BlockLimits()
    limits.requestAlignment = max(1, dataTarget.limits.requestAlignment)
    limits.preferredZeroing = UInt32(layout.clusterSize)
    return limits
  }

  package var isReadOnly: Bool { readOnly.load(ordering: .acquiring) }

  package var children: [BlockChild] {
    var result = [BlockChild(role: "file", node: file)]
    if let backing { result.append(BlockChild(role: "backing", node: backing)) }
    if let dataFile { result.append(BlockChild(role: "data-file", node: dataFile)) }
    return result
  }

  package var allocatedSize: UInt64? {
    guard let own = file.allocatedSize else { return nil }
    guard let dataFile else { return own }
    return dataFile.allocatedSize.map { own &+ $0 }
  }

  /// The header as it is now.
  package var header: Qcow2Header { state.withLock { $0.header } }
  /// The image was found damaged, or was marked so.
  package var isCorrupt: Bool { state.withLock { $0.isCorrupt } }

  // MARK: - The model

  /// Asks the model, and sees to what it needs until it answers.
  func model<R: Sendable>(_ body: (inout Qcow2State) throws(Qcow2Need) -> R) throws(BlockError)
    -> R
  {
    while true {
      do throws(Qcow2Need) {
        return try state.withLock { (state) throws(Qcow2Need) -> R in try body(&state) }
      } catch {
        try satisfy(error)
      }
    }
  }

  func satisfy(_ need: Qcow2Need) throws(BlockError) {
    switch need {
    case .l2Slice(let key, let offset): try loadL2(key, offset, mayWait: true)
    case .refcountSlice(let key, let offset): try loadRefcounts(key, offset, isCommitting: false)
    case .refcountTable(let cluster): try growRefcountTable(cluster)
    case .room: try commit(isFlush: false)
    case .wait(let seen):
      changed.wait(while: seen)
      state.withLock { $0.waiters -= 1 }
    case .corrupt(let corruption):
      report(corruption)
      throw BlockError(EIO, corruption.message)
    case .failed(let code, let message): throw BlockError(code, message)
    }
  }

  /// Reads a slice of an L2 table; false when that would have to wait and may not.
  @discardableResult
  func loadL2(_ key: UInt64, _ offset: UInt64, mayWait: Bool) throws(BlockError) -> Bool {
    let (words, seen) = state.withLock { ($0.mapping.cache.sliceWords, $0.mapping.cache.evictions) }
    let buffer = IOBuffer(count: words * 8)
    if mayWait {
      try file.read(offset, into: buffer.vector)
    } else if try !file.readNow(offset, into: buffer.vector) {
      return false
    }
    do throws(Qcow2Need) {
      try state.withLock { (state) throws(Qcow2Need) in
        // Thrown out and written meanwhile, it may be outdated.
        guard state.mapping.cache.evictions == seen else { return }
        _ = try state.mapping.insert(key, from: offset) { target, index in
          buffer.loadBigEndianWords(at: 0, into: &target, at: index, count: words)
        }
      }
    } catch {
      if !mayWait { return false }
      try satisfy(error)
    }
    return true
  }

  /// - Parameter isCommitting: The caller holds `committing`.
  func loadRefcounts(_ key: UInt64, _ offset: UInt64, isCommitting: Bool) throws(BlockError) {
    let (words, seen) = state.withLock {
      ($0.refcounts.cache.sliceWords, $0.refcounts.cache.evictions)
    }
    let buffer = IOBuffer(count: words * 8)
    try file.read(offset, into: buffer.vector)
    do throws(Qcow2Need) {
      try state.withLock { (state) throws(Qcow2Need) in
        guard state.refcounts.cache.evictions == seen else { return }
        _ = try state.refcounts.insert(key, from: offset) { target, index in
          buffer.loadBigEndianWords(at: 0, into: &target, at: index, count: words)
        }
      }
    } catch {
      if isCommitting { try satisfyLocked(error) } else { try satisfy(error) }
    }
  }

  // MARK: - Requests

  /// Counts a request as in flight; returns what `leave` is to be given. Waits for whoever must be alone.
  func enter() throws(BlockError) -> Int {
    try model { (state) throws(Qcow2Need) in try self.count(&state) }
  }

  /// The same for requests that change the image. Throws when it must not be changed.
  func enterWriting() throws(BlockError) -> Int {
    if isReadOnly { throw BlockError(EPERM, "Block node is read-only") }
    return try model { (state) throws(Qcow2Need) in
      if state.isCorrupt { throw .failed(EIO, "Image is corrupt") }
      return try self.count(&state)
    }
  }

  @inline(__always)
  func count(_ state: inout Qcow2State) throws(Qcow2Need) -> Int {
    if state.isExclusive { throw state.sleep() }
    if state.epoch == 0 {
      inFlight0.wrappingAdd(1, ordering: .acquiringAndReleasing)
    } else {
      inFlight1.wrappingAdd(1, ordering: .acquiringAndReleasing)
    }
    return state.epoch
  }

  @inline(__always)
  func leave(_ epoch: Int) {
    // Sequentially consistent against `exclusively`: either it sees the count, or this sees its wish.
    if epoch == 0 {
      inFlight0.wrappingSubtract(1, ordering: .sequentiallyConsistent)
    } else {
      inFlight1.wrappingSubtract(1, ordering: .sequentiallyConsistent)
    }
    if wantsExclusive.load(ordering: .sequentiallyConsistent) { changed.advance() }
  }

  /// Runs `body` with no request in flight and none let in. It may call what takes the model, `commit`, `readMapped`, `writeMapped`, the file, but no
  /// request of this node. Tables in memory are what they were; `reload` reads all of them again.
  package func exclusively<R: Sendable>(_ body: () throws(BlockError) -> R) throws(BlockError) -> R
  {
    try model { (state) throws(Qcow2Need) in
      if state.isExclusive { throw state.sleep() }
      state.isExclusive = true
    }
    wantsExclusive.store(true, ordering: .sequentiallyConsistent)
    defer {
      wantsExclusive.store(false, ordering: .sequentiallyConsistent)
      state.withLock { $0.isExclusive = false }
      changed.advance()
    }
    while true {
      let seen = changed.value
      let busy =
        inFlight0.load(ordering: .sequentiallyConsistent)
        + inFlight1.load(ordering: .sequentiallyConsistent)
      if busy == 0 { break }
      changed.wait(while: seen)
    }
    return try body()
  }

  // MARK: - Damage

  /// Tells of damage, once; fatal damage of a writable image also marks it, and nothing is written any more.
  func report(_ corruption: Qcow2Corruption) {
    let isFatal = corruption.isFatal && !isReadOnly
    if isFatal {
      let first = state.withLock { state in
        let first = !state.isCorrupt
        state.isCorrupt = true
        state.header.incompatible.insert(.corrupt)
        return first
      }
      if first {
        // What cannot be written cannot be helped: the image stays unmarked.
        try? writeFeatures()
        try? file.flush()
      }
    }
    if !hasReported.exchange(true, ordering: .acquiringAndReleasing) {
      options.onCorrupt?(
        Qcow2Corruption(
          corruption.message, offset: corruption.offset, size: corruption.size, isFatal: isFatal))
    }
  }

  /// Writes fields of the header in place.
  func patchHeader(_ fields: [(offset: Int, bytes: [UInt8])]) throws(BlockError) {
    let count = max(512, Int(file.limits.requestAlignment))
    let buffer = IOBuffer(count: count)
    try file.read(0, into: buffer.vector)
    for field in fields { buffer.store(field.bytes, at: field.offset) }
    try file.write(0, from: buffer.vector, [])
  }

  /// Writes the header's feature bits; version 2 has none.
  func writeFeatures() throws(BlockError) {
    let header = self.header
    guard header.version >= 3 else { return }
    try patchHeader([
      (72, bigEndian(header.incompatible.rawValue)), (80, bigEndian(header.compatible.rawValue)),
      (88, bigEndian(header.autoclear.rawValue)),
    ])
  }
}

/// The bytes of an integer as qcow2 stores them.
func bigEndian<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
  var result: [UInt8] = []
  var shift = T.bitWidth - 8
  while shift >= 0 {
    result.append(UInt8(truncatingIfNeeded: value >> T(shift)))
    shift -= 8
  }
  return result
}
