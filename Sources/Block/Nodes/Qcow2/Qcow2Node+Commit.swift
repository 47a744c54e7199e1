import Glibc
import Host
import Synchronization

/// A part of a table on its way to the image.
private struct Qcow2TableWrite: Sendable {
  var offset: UInt64
  var buffer: IOBuffer
  var kind: Qcow2OverlapCheck
}

/// Everything that is to be written at one moment.
private struct Qcow2Commit: Sendable {
  var refcounts: [Qcow2TableWrite] = []
  var refcountTable: [Qcow2TableWrite] = []
  var l2: [Qcow2TableWrite] = []
  var l1: [Qcow2TableWrite] = []
  var refcountSlots: [Int] = []
  var l2Slots: [Int] = []
  var refcountPages: Set<Int> = []
  var l1Pages: Set<Int> = []
  var freshBlocks: [UInt64: UInt64] = [:]
  var freshTables: [UInt64: UInt64] = [:]
  var freed: [Qcow2Freed] = []
  var marksDirty = false

  var isEmpty: Bool {
    refcounts.isEmpty && refcountTable.isEmpty && l2.isEmpty && l1.isEmpty
  }
}

extension Qcow2Node {
  /// Writes all changed tables. With `isFlush`, everything written before is on stable storage then, and freed clusters become free.
  ///
  /// Refcount blocks go first, then what refers to them (the refcount table), then, behind a barrier that also holds guest data, L2 tables, then the L1
  /// entries that refer to new ones. So after a crash nothing is referred to that is not counted, and nothing flushed is lost; what is left over is
  /// counted and not referred to (a leak). Clusters that lost their last user are not reused before the tables which say so are stable.
  package func commit(isFlush: Bool) throws(BlockError) {
    var failure: BlockError?
    committing.withLock { _ in
      do throws(BlockError) { try commitLocked(isFlush: isFlush) } catch { failure = error }
    }
    if let failure { throw failure }
  }

  func commitLocked(isFlush: Bool) throws(BlockError) {
    if state.withLock({ $0.isCorrupt }) {
      if isFlush { throw BlockError(EIO, "Image is corrupt") }
      return
    }
    let work = state.withLock { gather(&$0) }
    do throws(BlockError) {
      try write(work)
      if isFlush || !work.freed.isEmpty {
        if let dataFile { try dataFile.flush() }
        try file.flush()
      }
    } catch {
      state.withLock { $0.undo(work) }
      throw error
    }
    state.withLock { $0.finish(work) }
    try retire()
  }

  private func write(_ work: Qcow2Commit) throws(BlockError) {
    if work.isEmpty { return }
    for write in work.refcounts + work.refcountTable + work.l2 + work.l1 {
      try model { (state) throws(Qcow2Need) in
        try state.check(write.offset, UInt64(write.buffer.count), as: write.kind)
      }
    }
    if work.marksDirty {
      try writeFeatures()
      try file.flush()
    }
    for write in work.refcounts { try file.write(write.offset, from: write.buffer.vector, []) }
    if !work.refcountTable.isEmpty {
      if !work.refcounts.isEmpty { try file.flush() }
      for write in work.refcountTable {
        try file.write(write.offset, from: write.buffer.vector, [])
      }
    }
    if work.l2.isEmpty, work.l1.isEmpty { return }
    // Guest data that was copied or is referred to for the first time is stable before that.
    if let dataFile { try dataFile.flush() }
    try file.flush()
    for write in work.l2 {
      if let source = work.freshTables[write.offset], source > 1 {
        // A copy of a table: what was not in memory is still there.
        let rest = IOBuffer(count: write.buffer.count)
        try file.read(source, into: rest.vector)
        let slices = state.withLock { $0.slices(ofTable: write.offset, work.l2Slots) }
        for range in slices {
          rest.vector(range).copy(from: write.buffer.vector(range))
        }
        try file.write(write.offset, from: rest.vector, [])
      } else {
        try file.write(write.offset, from: write.buffer.vector, [])
      }
    }
    if !work.l1.isEmpty {
      try file.flush()
      for write in work.l1 { try file.write(write.offset, from: write.buffer.vector, []) }
    }
  }

  private func gather(_ state: inout Qcow2State) -> Qcow2Commit {
    var work = Qcow2Commit()
    work.l1Pages = state.mapping.dirtyL1Pages
    state.mapping.dirtyL1Pages = []
    work.freshTables = state.mapping.fresh
    work.l2Slots = state.mapping.cache.takeDirty()
    work.refcountPages = state.refcounts.dirtyPages
    state.refcounts.dirtyPages = []
    work.freshBlocks = state.refcounts.fresh
    work.refcountSlots = state.refcounts.cache.takeDirty()
    work.freed = state.freed
    state.freed = []
    work.l1 = Self.pages(
      state.mapping.l1, work.l1Pages, at: state.mapping.l1Offset, .activeL1)
    work.refcountTable = Self.pages(
      state.refcounts.table, work.refcountPages, at: state.refcounts.tableOffset, .refcountTable)
    let mapping = state.mapping
    work.l2 = Self.slices(
      state.mapping.cache, work.l2Slots, work.freshTables, state.layout, .activeL2
    ) { mapping.sliceOffset($0) }
    let refcounts = state.refcounts
    work.refcounts = Self.slices(
      state.refcounts.cache, work.refcountSlots, work.freshBlocks, state.layout, .refcountBlock
    ) { refcounts.sliceOffset($0) }
    if state.lazyRefcounts, !state.isMarkedDirty, !work.l2.isEmpty || !work.l1.isEmpty {
      work.marksDirty = true
      state.isMarkedDirty = true
      state.header.incompatible.insert(.dirty)
    }
    return work
  }

  private static func pages(
    _ table: [UInt64], _ pages: Set<Int>, at offset: UInt64, _ kind: Qcow2OverlapCheck
  ) -> [Qcow2TableWrite] {
    pages.sorted().map { page in
      let count = min(512, table.count - page * 512)
      let buffer = IOBuffer(count: count * 8)
      buffer.storeBigEndianWords(table, at: page * 512, count: count, to: 0)
      return Qcow2TableWrite(offset: offset + UInt64(page) * 4096, buffer: buffer, kind: kind)
    }
  }

  /// The dirty slices, those that touch in one write; tables that are new as a whole.
  private static func slices(
    _ cache: borrowing Qcow2TableCache, _ slots: [Int], _ fresh: [UInt64: UInt64],
    _ layout: Qcow2Layout, _ kind: Qcow2OverlapCheck, _ place: (UInt64) -> UInt64?
  ) -> [Qcow2TableWrite] {
    var result: [Qcow2TableWrite] = []
    var places: [(offset: UInt64, slot: Int)] = []
    places.reserveCapacity(slots.count)
    for slot in slots {
      if let offset = place(cache.key(ofSlot: slot)) { places.append((offset, slot)) }
    }
    // Those of the image's zeros need no more than what is not zero.
    for (table, source) in fresh where source != 1 {
      result.append(
        Qcow2TableWrite(
          offset: table, buffer: IOBuffer(count: Int(layout.clusterSize)), kind: kind))
    }
    result.sort { $0.offset < $1.offset }
    let whole = result
    places.sort { $0.offset < $1.offset }
    let bytes = cache.sliceWords * 8
    var index = 0
    while index < places.count {
      let start = places[index].offset
      let table = layout.clusterStart(start)
      if let source = fresh[table], source != 1,
        let target = whole.first(where: { $0.offset == table })
      {
        target.buffer.storeBigEndianWords(
          cache.words, at: places[index].slot * cache.sliceWords, count: cache.sliceWords,
          to: Int(start - table))
        index += 1
        continue
      }
      var end = index + 1
      while end < places.count, end - index < 256,
        places[end].offset == start + UInt64((end - index) * bytes)
      {
        if let source = fresh[layout.clusterStart(places[end].offset)], source != 1 { break }
        end += 1
      }
      let buffer = IOBuffer(count: (end - index) * bytes)
      for number in index..<end {
        buffer.storeBigEndianWords(
          cache.words, at: places[number].slot * cache.sliceWords, count: cache.sliceWords,
          to: (number - index) * bytes)
      }
      result.append(Qcow2TableWrite(offset: start, buffer: buffer, kind: kind))
      index = end
    }
    return result
  }

  // MARK: - Freed clusters

  /// Frees clusters that nothing on disk and no request in flight refers to.
  private func retire() throws(BlockError) {
    while true {
      let ripe = state.withLock { state -> [Qcow2Freed] in
        // Nobody enters an epoch that is not the present one.
        let closed = requests(in: 1 - state.epoch)
        if !state.retiring.isEmpty {
          if closed != 0 { return [] }
          let ripe = state.retiring
          state.retiring = []
          return ripe
        }
        if state.unreferenced.isEmpty || closed != 0 { return [] }
        state.retiring = state.unreferenced
        state.unreferenced = []
        state.epoch = 1 - state.epoch
        if requests(in: 1 - state.epoch) != 0 { return [] }
        let ripe = state.retiring
        state.retiring = []
        return ripe
      }
      if ripe.isEmpty { return }
      for freed in ripe { try release(freed) }
    }
  }

  /// How many requests of an epoch are in flight.
  private func requests(in epoch: Int) -> Int {
    epoch == 0 ? inFlight0.load(ordering: .acquiring) : inFlight1.load(ordering: .acquiring)
  }

  /// Counts one user less of some clusters; those without one are discarded below, if that is wanted, and free.
  func release(_ freed: Qcow2Freed) throws(BlockError) {
    let discards =
      switch freed.reason {
      case .rewritten: false
      case .request: options.passDiscardRequest ?? options.discard
      case .snapshot: options.passDiscardSnapshot
      case .other: options.passDiscardOther
      }
    if discards {
      // While the clusters still count as used: nobody else has them.
      var start: UInt64?
      for cluster in freed.clusters.lowerBound...freed.clusters.upperBound {
        let isLast =
          cluster < freed.clusters.upperBound
          ? try countNow(cluster) == 1 : false
        if isLast, start == nil { start = cluster }
        if !isLast, let from = start {
          let bits = UInt64(layout.clusterBits)
          // Only a hint.
          try? file.discard(from << bits, (cluster - from) << bits)
          start = nil
        }
      }
    }
    for cluster in freed.clusters {
      do throws(Qcow2Need) {
        _ = try state.withLock { (state) throws(Qcow2Need) in try state.release(cluster) }
      } catch {
        try releaseSlowly(cluster, error)
      }
    }
  }

  private func countNow(_ cluster: UInt64) throws(BlockError) -> UInt64 {
    while true {
      do throws(Qcow2Need) {
        return try state.withLock { (state) throws(Qcow2Need) in
          try state.refcounts.count(cluster)
        }
      } catch {
        try satisfyLocked(error)
      }
    }
  }

  private func releaseSlowly(_ cluster: UInt64, _ need: Qcow2Need) throws(BlockError) {
    var need = need
    while true {
      try satisfyLocked(need)
      do throws(Qcow2Need) {
        _ = try state.withLock { (state) throws(Qcow2Need) in try state.release(cluster) }
        return
      } catch {
        need = error
      }
    }
  }

  /// The same as `satisfy`, for whoever holds `committing`.
  func satisfyLocked(_ need: Qcow2Need) throws(BlockError) {
    switch need {
    case .refcountSlice(let key, let offset):
      try loadRefcounts(key, offset, isCommitting: true)
    case .room:
      let work = state.withLock { gatherRefcounts(&$0) }
      do throws(BlockError) { try write(work) } catch {
        state.withLock { $0.undo(work) }
        throw error
      }
      state.withLock { $0.finish(work) }
    default: try satisfy(need)
    }
  }

  /// Only refcounts: to make room among them.
  private func gatherRefcounts(_ state: inout Qcow2State) -> Qcow2Commit {
    var work = Qcow2Commit()
    work.refcountPages = state.refcounts.dirtyPages
    state.refcounts.dirtyPages = []
    work.freshBlocks = state.refcounts.fresh
    work.refcountSlots = state.refcounts.cache.takeDirty()
    work.refcountTable = Self.pages(
      state.refcounts.table, work.refcountPages, at: state.refcounts.tableOffset, .refcountTable)
    let refcounts = state.refcounts
    work.refcounts = Self.slices(
      state.refcounts.cache, work.refcountSlots, work.freshBlocks, state.layout, .refcountBlock
    ) { refcounts.sliceOffset($0) }
    return work
  }
}

extension Qcow2State {
  /// The bytes of the table at `offset` that the slots hold.
  fileprivate func slices(ofTable offset: UInt64, _ slots: [Int]) -> [Range<Int>] {
    var result: [Range<Int>] = []
    let bytes = mapping.cache.sliceWords * 8
    for slot in slots {
      guard let place = mapping.sliceOffset(mapping.cache.key(ofSlot: slot)),
        layout.clusterStart(place) == offset
      else { continue }
      let start = Int(place - offset)
      result.append(start..<start + bytes)
    }
    return result
  }

  /// Nothing, or not all, has been written.
  fileprivate mutating func undo(_ work: Qcow2Commit) {
    mapping.cache.finishWriting(work.l2Slots, failed: true)
    refcounts.cache.finishWriting(work.refcountSlots, failed: true)
    mapping.dirtyL1Pages.formUnion(work.l1Pages)
    refcounts.dirtyPages.formUnion(work.refcountPages)
    freed = work.freed + freed
    if work.marksDirty {
      isMarkedDirty = false
      header.incompatible.remove(.dirty)
    }
  }

  fileprivate mutating func finish(_ work: Qcow2Commit) {
    mapping.cache.finishWriting(work.l2Slots, failed: false)
    refcounts.cache.finishWriting(work.refcountSlots, failed: false)
    for table in work.freshTables.keys { mapping.fresh[table] = nil }
    for block in work.freshBlocks.keys { refcounts.fresh[block] = nil }
    unreferenced += work.freed
  }

  /// One user less of a cluster.
  fileprivate mutating func release(_ cluster: UInt64) throws(Qcow2Need) {
    guard let left = try refcounts.decrement(cluster) else { return }
    if left == 0 {
      frees &+= 1
      if compressedEnd >> UInt64(layout.clusterBits) == cluster { compressedEnd = 0 }
    }
  }
}
