import Glibc
import Host

/// The refcounts of an image that nobody else uses meanwhile: for maintenance that changes many at once.
///
/// Blocks are read when they are first needed, changed in memory and written by `flush` in an order that leaves leaks at worst. Not for several threads.
final class Qcow2Refcounts {
  let file: any BlockNode
  /// `refcountTableOffset` and `refcountTableClusters` are kept; the caller writes the header when `flush` says that the table moved.
  private(set) var tableOffset: UInt64
  private(set) var tableClusters: Int
  private(set) var table: [UInt64]
  private var blocks: [IOBuffer?]
  private var dirty: [Bool]
  private var dirtyTableEntries: Set<Int> = []
  private var mustMove = false
  private var loaded = 0
  private let clusterBits: Int
  let order: Int
  /// log2 of the entries of a block.
  let blockShift: Int
  /// Below it nothing is free.
  private var firstFree = 0
  /// Memory for blocks after which clean and written ones are dropped by `trim`.
  private let memoryLimit = 32 << 20

  private var clusterSize: Int { 1 << clusterBits }
  private var maximum: UInt64 {
    order == 6 ? UInt64(Int64.max) : (UInt64(1) << UInt64(1 << order)) - 1
  }
  private var blockMask: Int { (1 << blockShift) - 1 }

  /// The refcounts of the image in `file`. Throws `BlockError` of reading the table.
  init(file: any BlockNode, header: Qcow2Header) throws(BlockError) {
    self.file = file
    clusterBits = Int(header.clusterBits)
    order = Int(header.refcountOrder)
    blockShift = clusterBits + 3 - order
    tableOffset = header.refcountTableOffset
    tableClusters = Int(header.refcountTableClusters)
    table = try Qcow2Tables.load(file, tableOffset, tableClusters * ((1 << clusterBits) / 8))
    blocks = Array(repeating: nil, count: table.count)
    dirty = Array(repeating: false, count: table.count)
  }

  /// Those of a new image: header, refcount table and the first block are in the first three clusters.
  init(newImage file: any BlockNode, header: Qcow2Header) {
    self.file = file
    clusterBits = Int(header.clusterBits)
    order = Int(header.refcountOrder)
    blockShift = clusterBits + 3 - order
    tableOffset = UInt64(1 << clusterBits)
    tableClusters = 1
    table = Array(repeating: 0, count: 1 << (clusterBits - 3))
    blocks = Array(repeating: nil, count: table.count)
    dirty = Array(repeating: false, count: table.count)
    install(block: 0, at: 2 << UInt64(clusterBits))
    for cluster in 0..<3 { store(1, cluster, blocks[0]) }
    firstFree = 3
  }

  // MARK: - One refcount

  /// The refcount of a cluster. Throws `BlockError` when its block cannot be read or lies at an impossible place.
  func refcount(_ cluster: Int) throws(BlockError) -> UInt64 {
    guard let block = try block(cluster >> blockShift) else { return 0 }
    return block.lane(cluster & blockMask, order)
  }

  /// Adds to the refcount of a cluster that has a block. Throws `BlockError`: `EINVAL` when it would leave its range, `EIO` when the block is bad.
  func add(_ delta: Int64, _ cluster: Int) throws(BlockError) {
    let index = cluster >> blockShift
    guard let block = try block(index) else {
      throw BlockError(EIO, "Refcount of an unused cluster cannot be changed")
    }
    let old = block.lane(cluster & blockMask, order)
    let new = delta < 0 ? old &- UInt64(-delta) : old &+ UInt64(delta)
    guard delta < 0 ? new <= old : new >= old && new <= maximum else {
      throw BlockError(EINVAL, "Refcount of cluster \(cluster) would leave its range")
    }
    block.setLane(cluster & blockMask, order, new)
    dirty[index] = true
    if new == 0 { firstFree = min(firstFree, cluster) }
  }

  /// Sets a refcount. Throws `BlockError` as `add` does.
  func set(_ value: UInt64, _ cluster: Int) throws(BlockError) {
    let index = cluster >> blockShift
    guard let block = try block(index) else {
      throw BlockError(EIO, "Refcount of an unused cluster cannot be changed")
    }
    block.setLane(cluster & blockMask, order, value)
    dirty[index] = true
    if value == 0 { firstFree = min(firstFree, cluster) }
  }

  /// Adds 1 or -1 to the refcounts of clusters in a row. Throws `BlockError` as `add` does; nothing has been written then, but what is in memory is of no
  /// use any more.
  func add(_ delta: Int, clusters: Range<Int>) throws(BlockError) {
    try forEachBlock(of: clusters) { (index, first, part) throws(BlockError) in
      guard let block = try block(index) else {
        throw BlockError(EIO, "Refcount of an unused cluster cannot be changed")
      }
      let result = block.addToLanes(delta, part, order, maximum: maximum)
      guard result.fits else {
        throw BlockError(
          EINVAL,
          "Refcounts of clusters \(first + part.lowerBound) to \(first + part.upperBound - 1) would leave their range"
        )
      }
      if result.hasZero { firstFree = min(firstFree, first + part.lowerBound) }
      dirty[index] = true
    }
  }

  /// Sets the refcounts of clusters in a row that have blocks. Throws `BlockError` as `add` does.
  func set(_ value: UInt64, clusters: Range<Int>) throws(BlockError) {
    try forEachBlock(of: clusters) { (index, first, part) throws(BlockError) in
      guard let block = try block(index) else {
        throw BlockError(EIO, "Refcount of an unused cluster cannot be changed")
      }
      block.fillLanes(part, order, value)
      dirty[index] = true
      if value == 0 { firstFree = min(firstFree, first + part.lowerBound) }
    }
  }

  /// Whether a cluster's refcount is one, and how many clusters from there on, below `end`, are alike in that. Throws `BlockError` as `refcount` does.
  func onesRun(_ cluster: Int, below end: Int) throws(BlockError) -> (isOne: Bool, end: Int) {
    let index = cluster >> blockShift
    let first = index << blockShift
    let stop = min(end, first + 1 << blockShift)
    guard let block = try block(index) else { return (false, stop) }
    let isOne = block.lane(cluster & blockMask, order) == 1
    let next = block.firstLane(in: cluster - first..<stop - first, order, 1, isEqual: !isOne)
    return (isOne, next.map { first + $0 } ?? stop)
  }

  /// Calls `body` with each cluster that has a refcount, and that. Throws what `body` throws, and `BlockError` as `refcount` does.
  func forEachUsed(_ body: (Int, UInt64) throws(BlockError) -> Void) throws(BlockError) {
    for index in table.indices {
      guard let block = try block(index) else { continue }
      let first = index << blockShift
      var lane = 0
      while let used = block.firstLane(in: lane..<1 << blockShift, order, 0, isEqual: false) {
        try body(first + used, block.lane(used, order))
        lane = used + 1
      }
      forget(index)
    }
  }

  /// Throws `BlockError` (`EIO`) when two entries of the table mean the same block: nothing can be changed then, and looking at all of them might
  /// take for ever.
  func checkBlocksAreDistinct() throws(BlockError) {
    let places = table.filter { $0 != 0 }.sorted()
    for (one, next) in zip(places, places.dropFirst()) where one == next {
      throw BlockError(
        EIO, "Refcount block at offset 0x\(String(one, radix: 16)) is referenced twice")
    }
  }

  /// Calls `body` for each block that clusters lie in: its index, its first cluster, and which of its refcounts.
  private func forEachBlock(
    of clusters: Range<Int>, _ body: (Int, Int, Range<Int>) throws(BlockError) -> Void
  ) throws(BlockError) {
    var cluster = clusters.lowerBound
    while cluster < clusters.upperBound {
      let index = cluster >> blockShift
      let first = index << blockShift
      let end = min(clusters.upperBound, first + 1 << blockShift)
      try body(index, first, cluster - first..<end - first)
      cluster = end
    }
  }

  /// Adds to the refcounts of all clusters that `count` bytes touch.
  func add(_ delta: Int64, bytes start: UInt64, _ count: UInt64) throws(BlockError) {
    guard count > 0 else { return }
    let first = Int(start >> UInt64(clusterBits))
    let last = Int((start &+ count &- 1) >> UInt64(clusterBits))
    guard first <= last else { return }
    if delta == 1 || delta == -1 { return try add(Int(delta), clusters: first..<last + 1) }
    for cluster in first...last { try add(delta, cluster) }
  }

  /// The block of an index of the table; nil where there is none, so that all its refcounts are 0.
  func block(_ index: Int) throws(BlockError) -> IOBuffer? {
    guard index < table.count else { return nil }
    if let known = blocks[index] { return known }
    let entry = table[index] & Qcow2Entry.refcountOffsetMask
    guard entry != 0 else { return nil }
    guard isSane(entry) else {
      throw BlockError(
        EIO,
        "Refblock offset 0x\(String(entry, radix: 16)) unaligned (reftable index: 0x\(String(index, radix: 16)))"
      )
    }
    let block = IOBuffer(count: clusterSize)
    try file.read(entry, into: block.vector)
    blocks[index] = block
    loaded += 1
    return block
  }

  /// Forgets a block that was only looked at.
  func forget(_ index: Int) {
    guard index < table.count, blocks[index] != nil, !dirty[index] else { return }
    blocks[index] = nil
    loaded -= 1
  }

  /// Whether an entry of the table is a cluster's offset.
  func isSane(_ entry: UInt64) -> Bool {
    entry & UInt64(clusterSize - 1) == 0 && entry < UInt64(Int64.max) - UInt64(clusterSize)
  }

  private func store(_ value: UInt64, _ cluster: Int, _ block: IOBuffer?) {
    guard let block else { return }
    block.setLane(cluster & blockMask, order, value)
    dirty[cluster >> blockShift] = true
  }

  // MARK: - Allocation

  /// Clusters in a row, with refcount 1; their first one's number. Blocks are added where they are missing, as QEMU places them. Throws `BlockError`
  /// when an old block is bad or the table would outgrow what QEMU accepts.
  func allocate(_ count: Int) throws(BlockError) -> Int {
    let count = max(count, 1)
    firstFree = try freeRun(1, from: firstFree)
    while true {
      let start = try freeRun(count, from: firstFree)
      let missing = try firstMissingBlock(start..<start + count)
      guard let missing else {
        try set(1, clusters: start..<start + count)
        firstFree = start == firstFree ? start + count : firstFree
        return start
      }
      // Behind the run, so that it stays in one piece. A block there describes itself before it describes others.
      let place = try freeRun(1, from: start + count)
      let needed = try block(place >> blockShift) == nil ? place >> blockShift : missing
      install(block: needed, at: UInt64(place) << UInt64(clusterBits))
      try set(1, place)
    }
  }

  private func firstMissingBlock(_ clusters: Range<Int>) throws(BlockError) -> Int? {
    for index in clusters.lowerBound >> blockShift...(clusters.upperBound - 1) >> blockShift
    where try block(index) == nil {
      return index
    }
    return nil
  }

  /// The first `count` clusters in a row from `from` on that are free.
  private func freeRun(_ count: Int, from: Int) throws(BlockError) -> Int {
    var cluster = from
    var start = from
    while cluster - start < count {
      guard cluster < 1 << (56 - clusterBits) else {
        throw BlockError(EFBIG, "The image file has no room")
      }
      let index = cluster >> blockShift
      guard let block = try block(index) else {
        cluster = (index + 1) << blockShift
        continue
      }
      // A block is asked for once: a large image has millions of clusters before the first free one.
      let first = index << blockShift
      let end = first + 1 << blockShift
      if cluster == start {
        let free = block.firstLane(in: cluster - first..<end - first, order, 0)
        start = free.map { first + $0 } ?? end
        cluster = start
        if free == nil {
          if loaded * clusterSize > memoryLimit { forget(index) }
          continue
        }
      }
      let stop = min(end, start + count)
      let used = block.firstLane(in: cluster - first..<stop - first, order, 0, isEqual: false)
      cluster = used.map { first + $0 } ?? stop
      if used != nil { start = cluster + 1; cluster = start }
    }
    return start
  }

  private func install(block index: Int, at offset: UInt64) {
    if index >= table.count {
      let perCluster = clusterSize / 8
      let clusters = (index + 1 + index / 2 + perCluster - 1) / perCluster
      let more = clusters * perCluster - table.count
      table += Array(repeating: 0, count: more)
      blocks += Array(repeating: nil, count: more)
      dirty += Array(repeating: false, count: more)
      mustMove = true
    }
    table[index] = offset
    blocks[index] = IOBuffer(count: clusterSize)
    loaded += 1
    dirty[index] = true
    dirtyTableEntries.insert(index)
  }

  // MARK: - Writing

  /// Writes everything that changed: blocks, then (with flushes between) the table. True when the table is at another place now and the header
  /// has to be written: `tableOffset`, `tableClusters`; call `freeOldTable` behind that.
  func flush() throws(BlockError) -> Bool {
    var moved = false
    if mustMove {
      var place: Int
      var clusters: Int
      repeat {
        clusters = table.count / (clusterSize / 8)
        guard clusters * clusterSize <= Qcow2Header.maximumRefcountTableSize else {
          throw BlockError(
            EFBIG,
            "This operation would make the refcount table grow beyond the maximum size supported by QEMU, aborting"
          )
        }
        place = try allocate(clusters)
      } while clusters != table.count / (clusterSize / 8)
      oldTable = (tableOffset, tableClusters)
      tableOffset = UInt64(place) << UInt64(clusterBits)
      tableClusters = clusters
      mustMove = false
      moved = true
    }
    let anything = try writeBlocks()
    if moved {
      try file.flush()
      try Qcow2Tables.store(table, file, tableOffset)
      try file.flush()
    } else if !dirtyTableEntries.isEmpty {
      if anything { try file.flush() }
      for index in dirtyTableEntries.sorted() {
        var entry = BigEndianBytes()
        entry.u64(table[index])
        try file.write(tableOffset + UInt64(index * 8), entry.bytes)
      }
    }
    dirtyTableEntries = []
    return moved
  }

  private var oldTable: (offset: UInt64, clusters: Int)?

  /// Gives back the clusters of the table before `flush` moved it.
  func freeOldTable() throws(BlockError) {
    guard let old = oldTable else { return }
    oldTable = nil
    try add(-1, bytes: old.offset, UInt64(old.clusters * clusterSize))
    _ = try writeBlocks()
  }

  /// Writes changed blocks, neighbours in one request; whether there were any.
  private func writeBlocks() throws(BlockError) -> Bool {
    var anything = false
    var index = 0
    while index < dirty.count {
      guard dirty[index], let block = blocks[index] else {
        index += 1
        continue
      }
      let place = table[index] & Qcow2Entry.refcountOffsetMask
      var data = block.vector
      var next = index + 1
      while next < dirty.count, dirty[next], let more = blocks[next], data.pieceCount < 64,
        table[next] & Qcow2Entry.refcountOffsetMask == place + UInt64(data.count)
      {
        data.append(contentsOf: more.vector)
        next += 1
      }
      try file.write(place, from: data, [])
      for written in index..<next { dirty[written] = false }
      anything = true
      index = next
    }
    return anything
  }

  /// Keeps the memory within bounds during long work whose order does not matter (the making of a new image).
  func trim() throws(BlockError) {
    guard loaded * clusterSize > memoryLimit else { return }
    _ = try writeBlocks()
    for index in blocks.indices where blocks[index] != nil { blocks[index] = nil }
    loaded = 0
  }
}

/// Reads and writes tables of 64-bit integers.
enum Qcow2Tables {
  private static let piece = 1 << 20

  /// `count` big-endian integers from `offset`. Throws `BlockError` of reading.
  static func load(_ file: any BlockNode, _ offset: UInt64, _ count: Int) throws(BlockError)
    -> [UInt64]
  {
    var result: [UInt64] = []
    result.reserveCapacity(count)
    let buffer = IOBuffer(count: min(piece, count * 8))
    while result.count < count {
      let part = min(piece / 8, count - result.count)
      try file.read(offset + UInt64(result.count * 8), into: buffer.vector(0..<part * 8))
      for index in 0..<part { result.append(buffer.loadBigEndian(UInt64.self, at: index * 8)) }
    }
    return result
  }

  /// Writes them. Throws `BlockError` of writing.
  static func store(_ table: [UInt64], _ file: any BlockNode, _ offset: UInt64)
    throws(BlockError)
  {
    let buffer = IOBuffer(count: min(piece, table.count * 8))
    var done = 0
    while done < table.count {
      let part = min(piece / 8, table.count - done)
      for index in 0..<part { buffer.storeBigEndian(table[done + index], at: index * 8) }
      try file.write(offset + UInt64(done * 8), from: buffer.vector(0..<part * 8), [])
      done += part
    }
  }
}
