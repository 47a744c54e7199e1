import Glibc
import Host
import Synchronization

extension Qcow2Node {
  /// Opens an image. Throws `BlockError` with QEMU's sentence when it is none, is damaged so that it cannot be used, or cannot be written.
  package static func open(
    name: String, file: any BlockNode, backing: (any BlockNode)?, dataFile: (any BlockNode)?,
    options: Qcow2Options
  ) throws(BlockError) -> Qcow2Node {
    var parsing: Qcow2Header.ParseOptions = []
    if !options.readOnly { parsing.insert(.writable) }
    if options.isForChecking { parsing.insert(.check) }
    var header = try Qcow2Header.read(from: file, options: parsing)
    if header.incompatible.contains(.dirty), !options.readOnly, !options.isForChecking {
      header = try repair(file)
    }
    if header.hasDataFile, dataFile == nil {
      throw BlockError(EINVAL, "'data-file' is required for this image")
    }
    if !header.hasDataFile, dataFile != nil {
      throw BlockError(EINVAL, "'data-file' can only be set for images with an external data file")
    }
    if !options.readOnly, !options.isForChecking { try checkWritable(header) }
    let state = try readState(
      header, file: file, hasBacking: backing != nil, options: options, changed: WaitWord())
    let node = Qcow2Node(
      name: name, file: file, backing: backing, dataFile: dataFile, options: options, state: state)
    if !options.readOnly, !options.isForChecking { try node.beginWriting() }
    return node
  }

  /// Counts the clusters of an image that was not closed.
  private static func repair(_ file: any BlockNode) throws(BlockError) -> Qcow2Header {
    let report: ImageCheckReport
    do throws(BlockError) {
      report = try Qcow2Check.run(on: file, repair: .all) { _ in }
    } catch {
      throw BlockError(error.code, "Could not repair dirty image: \(error.message)")
    }
    // What is left, behind the repair.
    guard report.checkErrors == 0, report.corruptions == 0 else {
      throw BlockError(EIO, "Could not repair dirty image")
    }
    var header = try Qcow2Header.read(from: file, options: .writable)
    if header.incompatible.contains(.dirty) {
      header.incompatible.remove(.dirty)
      try file.write(72, bigEndian(header.incompatible.rawValue))
      try file.flush()
    }
    return header
  }

  /// Runs a change to the whole image, with no request in flight and everything written; the tables are read again behind it, done or not.
  package func maintain<R: Sendable>(
    _ body: (inout Qcow2Maintenance) throws(BlockError) -> R
  ) throws(BlockError) -> R {
    if isReadOnly { throw BlockError(EPERM, "Block node is read-only") }
    return try exclusively { () throws(BlockError) in
      // The second writes the refcounts of what the first has freed.
      try commit(isFlush: true)
      try commit(isFlush: true)
      var maintenance = try Qcow2Maintenance(file: file)
      let result: R
      do throws(BlockError) {
        result = try body(&maintenance)
      } catch {
        try? reload()
        // Half done, it is for the next who opens the image to count again.
        state.withLock { $0.staysDirty = $0.isMarkedDirty }
        throw error
      }
      try reload()
      return result
    }
  }

  /// Refuses images that we read, but could not write without losing what is in them.
  private static func checkWritable(_ header: Qcow2Header) throws(BlockError) {
    if header.cryptMethod != 0 {
      throw BlockError(ENOTSUP, "Encrypted images cannot be written yet")
    }
    if header.extensions.bitmaps != nil, header.autoclear.contains(.bitmaps) {
      throw BlockError(ENOTSUP, "Images with persistent bitmaps cannot be written yet")
    }
  }

  /// The model of an image, read from it.
  static func readState(
    _ header: Qcow2Header, file: any BlockNode, hasBacking: Bool, options: Qcow2Options,
    changed: WaitWord
  ) throws(BlockError) -> Qcow2State {
    let layout = Qcow2Layout(header)
    // A check reads the tables piece by piece: they are not held twice. Nothing else is done with such a node, whose disk is empty.
    let isForChecking = options.isForChecking
    let size = isForChecking ? 0 : header.size
    let l1 = try readWords(file, header.l1TableOffset, isForChecking ? 0 : Int(header.l1Size))
    let refcountEntries = isForChecking ? 0 : header.refcountTableEntries
    let table = try readWords(file, header.refcountTableOffset, refcountEntries)
    let fileSize = file.length
    var state = Qcow2State(
      header: header, layout: layout, size: size,
      mapping: Qcow2Mapping(
        layout: layout, l1: l1, l1Offset: header.l1TableOffset, size: size,
        cacheSize: options.l2CacheSize),
      refcounts: Qcow2RefcountCache(
        layout: layout, table: table, tableOffset: header.refcountTableOffset, fileSize: fileSize,
        cacheSize: options.refcountCacheSize),
      overlapCheck: options.overlapCheck, hasBacking: hasBacking, changed: changed,
      isCorrupt: header.incompatible.contains(.corrupt),
      isMarkedDirty: header.incompatible.contains(.dirty),
      lazyRefcounts: header.version >= 3
        && (options.lazyRefcounts ?? header.compatible.contains(.lazyRefcounts)))
    state.note(0..<1, .mainHeader)
    state.note(state.clusters(header.l1TableOffset, UInt64(l1.count) * 8), .activeL1)
    state.note(
      state.clusters(header.refcountTableOffset, UInt64(refcountEntries) * 8), .refcountTable)
    // Tables beyond the file are no tables; that bounds what a damaged L1 table can make us note.
    let limit = layout.clusterEnd(fileSize)
    for entry in l1 {
      let offset = entry & Qcow2Entry.offsetMask
      if offset != 0, offset < limit { state.note(state.clusters(offset, 1), .activeL2) }
    }
    for entry in table {
      let offset = entry & Qcow2Entry.refcountOffsetMask
      if offset != 0, offset < limit { state.note(state.clusters(offset, 1), .refcountBlock) }
    }
    if !options.readOnly { try noteSnapshots(&state, header, file, limit) }
    if let bitmaps = header.extensions.bitmaps, bitmaps.directoryOffset < limit {
      state.note(
        state.clusters(bitmaps.directoryOffset, min(bitmaps.directorySize, limit)),
        .bitmapDirectory)
    }
    return state
  }

  /// Notes where the snapshot table and the snapshots' L1 tables are, and their L2 tables when those are to be checked for.
  private static func noteSnapshots(
    _ state: inout Qcow2State, _ header: Qcow2Header, _ file: any BlockNode, _ limit: UInt64
  ) throws(BlockError) {
    guard header.snapshotCount > 0, header.snapshotCount <= 65536 else { return }
    var offset = header.snapshotsOffset
    for _ in 0..<header.snapshotCount {
      guard offset < limit else { break }
      let fields = Fields(try file.bytes(offset, 40))
      let l1 = fields.u64(0)
      let entries = UInt64(fields.u32(8))
      if l1 < limit, entries * 8 <= UInt64(Qcow2Header.maximumL1Size) {
        state.note(state.clusters(l1, min(entries * 8, limit - l1)), .inactiveL1)
        if state.overlapCheck.contains(.inactiveL2) {
          for entry in try readWords(file, l1, Int(entries)) {
            let table = entry & Qcow2Entry.offsetMask
            if table != 0, table < limit { state.note(state.clusters(table, 1), .inactiveL2) }
          }
        }
      }
      let size =
        40 + UInt64(fields.u32(36)) + UInt64(fields.u16(12)) + UInt64(fields.u16(14))
      offset = (offset &+ size &+ 7) & ~7
    }
    state.note(
      state.clusters(header.snapshotsOffset, min(offset, limit) &- header.snapshotsOffset),
      .snapshotTable)
  }

  /// Reads a table of big-endian words. Memory for it is the words and a little more.
  static func readWords(_ file: any BlockNode, _ offset: UInt64, _ count: Int) throws(BlockError)
    -> [UInt64]
  {
    var words = [UInt64](repeating: 0, count: count)
    // Beyond the end are zeros.
    let there = Int(min(UInt64(count) * 8, file.length &- min(offset, file.length)) + 7) / 8
    let step = 32768
    let buffer = IOBuffer(count: min(step, max(there, 1)) * 8)
    var done = 0
    while done < there {
      let part = min(step, there - done)
      try file.read(offset + UInt64(done) * 8, into: buffer.vector(0..<part * 8))
      buffer.loadBigEndianWords(at: 0, into: &words, at: done, count: part)
      done += part
    }
    return words
  }

  /// The header's bits for an image that is written from now on.
  private func beginWriting() throws(BlockError) {
    let changed = state.withLock { state in
      let old = state.header
      state.header.autoclear.formIntersection(.known)
      // Described by nothing, they describe nothing.
      if state.header.extensions.bitmaps == nil { state.header.autoclear.remove(.bitmaps) }
      if !state.header.hasDataFile { state.header.autoclear.remove(.dataFileRaw) }
      return old != state.header
    }
    if changed {
      try writeFeatures()
      try file.flush()
    }
  }

  /// Reads header and tables again, after someone has changed them in the file. Only within `exclusively`, with nothing unwritten
  /// (`commit`). Throws what reading throws.
  package func reload() throws(BlockError) {
    let header = try Qcow2Header.read(from: file, options: .check)
    var options = options
    options.readOnly = isReadOnly
    let fresh = try Self.readState(
      header, file: file, hasBacking: backing != nil, options: options, changed: changed)
    committing.withLock { _ in
      state.withLock { state in
        var new = fresh
        new.waiters = state.waiters
        new.isExclusive = state.isExclusive
        new.epoch = state.epoch
        new.frees = state.frees &+ 1
        state = new
        size.store(new.size, ordering: .releasing)
      }
    }
  }

  package func flush() throws(BlockError) {
    if isReadOnly { return }
    try commit(isFlush: true)
  }

  package func setReadOnly(_ isReadOnly: Bool) throws(BlockError) {
    guard isReadOnly != self.isReadOnly else { return }
    try exclusively { () throws(BlockError) in
      if isReadOnly {
        try close()
        readOnly.store(true, ordering: .releasing)
        return
      }
      guard !file.isReadOnly else { throw BlockError(EACCES, "Block node is read-only") }
      var header = try Qcow2Header.read(from: file, options: .writable)
      if header.incompatible.contains(.dirty) { header = try Self.repair(file) }
      try Self.checkWritable(header)
      readOnly.store(false, ordering: .releasing)
      do throws(BlockError) {
        try reload()
        try beginWriting()
      } catch {
        readOnly.store(true, ordering: .releasing)
        throw error
      }
    }
  }

  package func close() throws(BlockError) {
    if isReadOnly { return }
    if state.withLock({ $0.isCorrupt }) {
      try file.flush()
      return
    }
    // The second writes the refcounts of what the first has freed.
    try commit(isFlush: true)
    try commit(isFlush: true)
    let isDirty = state.withLock { state in
      let isDirty = state.isMarkedDirty && !state.staysDirty && !options.isForChecking
      if isDirty {
        state.header.incompatible.remove(.dirty)
        state.isMarkedDirty = false
      }
      return isDirty
    }
    if isDirty {
      try writeFeatures()
      try file.flush()
    }
  }
}
