import Block
import Glibc
import Host

/// Questions about an image and the backing files below it.
enum Chain {
  /// What a stretch reads as, and which layer says so (0: the image itself).
  struct Answer: Equatable {
    var status: BlockStatus
    var depth = 0
  }

  /// An image of a chain.
  final class Layer: Sendable {
    let node: any BlockNode
    /// Clusters were allocated before anything was written: where they are holes of this file, they are zeros.
    let sparseFile: (any BlockNode)?
    /// Two entries of its first table mean the same second one, which is to be theirs alone: a small file could name exbibytes so.
    private let isEntangled: Bool

    init(_ node: any BlockNode) {
      self.node = node
      let image = node as? Qcow2Node
      sparseFile = image.flatMap(Chain.sparseFile)
      isEntangled = image.map(Chain.hasSharedTables) ?? false
    }

    var length: UInt64 { node.length }

    /// Throws when the tables lead the same way again and again.
    func mustBeSound() throws(BlockError) {
      if isEntangled { throw BlockError(EIO, "Image is corrupt: entries share an L2 table") }
    }
  }

  /// The image that is read where this one has nothing.
  static func backing(of node: any BlockNode) -> (any BlockNode)? {
    skippingFilters(node).child("backing")
  }

  /// The node itself, or what a filter passes requests to.
  static func skippingFilters(_ node: any BlockNode) -> any BlockNode {
    var node = node
    while ["throttle", "copy-on-read", "blkdebug"].contains(node.driver) {
      guard let below = node.child("file") ?? node.child("image") else { return node }
      node = below
    }
    return node
  }

  /// The image and its backing files, the image first.
  static func layers(_ node: any BlockNode) -> [Layer] {
    var nodes = [skippingFilters(node)]
    while let below = nodes.last.flatMap(backing) { nodes.append(skippingFilters(below)) }
    return nodes.map { Layer($0) }
  }

  /// What one layer says of a stretch, with what follows from there being nothing below.
  static func layer(
    _ layer: Layer, _ offset: UInt64, _ count: UInt64, below: Layer?
  ) throws(BlockError) -> BlockStatus {
    let length = layer.length
    guard offset < length else {
      return BlockStatus(length: count, isAllocated: false, isZero: true, isData: false)
    }
    let count = min(count, length - offset)
    try layer.mustBeSound()
    var status = try layer.node.status(offset, count)
    status.length = max(1, min(status.length, count))
    if !status.isAllocated {
      // Without a backing file, or behind its end, there are zeros.
      guard let below else {
        status.isZero = true
        return status
      }
      let end = below.length
      if offset >= end {
        status.isZero = true
      } else {
        status.isZero = false
        status.length = min(status.length, end - offset)
      }
    } else if let file = layer.sparseFile, status.isData, let place = status.hostOffset {
      try look(in: file, place, &status)
    }
    return status
  }

  /// What a stretch reads as, through all layers down to but not including `stop`.
  static func status(
    _ layers: [Layer], _ offset: UInt64, _ count: UInt64, stop: Int? = nil
  ) throws(BlockError) -> Answer {
    var count = count
    let end = min(stop ?? layers.count, layers.count)
    var answer = Answer(
      status: BlockStatus(length: count, isAllocated: false, isZero: false, isData: false))
    for depth in 0..<end {
      let below = depth + 1 < layers.count ? layers[depth + 1] : nil
      let status = try layer(layers[depth], offset, count, below: below)
      answer = Answer(status: status, depth: depth)
      if status.isAllocated || status.isZero || status.isData { return answer }
      count = status.length
    }
    return answer
  }

  /// The same for the stretches from `offset` on, one behind the other: puts at least one into `answers`.
  static func statuses(
    _ layers: [Layer], _ offset: UInt64, _ count: UInt64, into answers: inout [Answer],
    _ room: inout [BlockStatus]
  ) throws(BlockError) {
    answers.removeAll(keepingCapacity: true)
    guard layers.count == 1, layers[0].sparseFile == nil, offset < layers[0].length else {
      answers.append(try status(layers, offset, count))
      return
    }
    try layers[0].mustBeSound()
    room.removeAll(keepingCapacity: true)
    try layers[0].node.statuses(offset, count, into: &room)
    for var status in room {
      // There are no backing files below.
      if !status.isAllocated { status.isZero = true }
      answers.append(Answer(status: status, depth: 0))
    }
  }

  /// Whether two entries of the L1 table claim the same L2 table for themselves.
  private static func hasSharedTables(_ node: Qcow2Node) -> Bool {
    guard let file = node.child("file") else { return false }
    let header = node.header
    let buffer = IOBuffer(count: 1 << 16)
    var tables: [UInt64] = []
    var offset: UInt64 = 0
    let end = UInt64(header.l1Size) * 8
    while offset < end {
      let count = min(end - offset, UInt64(buffer.count))
      do throws(BlockError) {
        try file.read(header.l1TableOffset + offset, into: buffer.vector(0..<Int(count)))
      } catch { return false }
      for index in 0..<Int(count / 8) {
        let entry = buffer.loadBigEndian(UInt64.self, at: index * 8)
        if entry >> 63 != 0 { tables.append(entry) }
      }
      offset += count
      // More than there is room for.
      if UInt64(tables.count) > file.length / UInt64(header.clusterSize) { return true }
    }
    tables.sort()
    return zip(tables, tables.dropFirst()).contains { $0 == $1 }
  }

  // MARK: - Preallocated images

  /// Holes of the file are zeros of the image.
  private static func look(
    in file: any BlockNode, _ place: UInt64, _ status: inout BlockStatus
  ) throws(BlockError) {
    let end = file.length
    guard place < end else {
      status.isZero = true
      return
    }
    let found = try file.status(place, min(status.length, end - place))
    if found.isZero, found.length >= end - place {
      status.isZero = true
    } else {
      status.length = max(1, min(status.length, found.length))
      status.isZero = status.isZero || found.isZero
    }
  }

  /// The file to look for holes in: the one with the data, when far more clusters are allocated than the host stores.
  private static func sparseFile(_ node: Qcow2Node) -> (any BlockNode)? {
    guard let file = node.child("file"), let stored = file.allocatedSize, stored < file.length
    else { return nil }
    let header = node.header
    let size = UInt64(header.clusterSize)
    let real = stored / size
    let limit = max(real * 10 / 9, real + 2)
    do throws(BlockError) {
      guard try usedClusters(header, file, limit) >= limit else { return nil }
    } catch { return nil }
    return node.child("data-file") ?? file
  }

  /// Clusters of the file with a refcount, no longer counted from `limit` on.
  private static func usedClusters(
    _ header: Qcow2Header, _ file: any BlockNode, _ limit: UInt64
  ) throws(BlockError) -> UInt64 {
    let clusters = (file.length + UInt64(header.clusterSize) - 1) / UInt64(header.clusterSize)
    let perBlock = UInt64(header.refcountBlockEntries)
    let blocks = min((clusters + perBlock - 1) / perBlock, UInt64(header.refcountTableEntries))
    let table = IOBuffer(count: Int(blocks) * 8)
    try file.read(header.refcountTableOffset, into: table.vector)
    let block = IOBuffer(count: header.clusterSize)
    var count: UInt64 = 0
    for index in 0..<Int(blocks) {
      let place = table.loadBigEndian(UInt64.self, at: index * 8) & ~511
      if place == 0 { continue }
      try file.read(place, into: block.vector)
      count += used(block, bits: header.refcountBits)
      if count >= limit { return count }
    }
    return count
  }

  /// Entries of a refcount block that are not zero.
  private static func used(_ block: IOBuffer, bits: Int) -> UInt64 {
    var count: UInt64 = 0
    let ones = bits == 64 ? UInt64.max : UInt64(1) << UInt64(bits) - 1
    var offset = 0
    while offset < block.count {
      var word = block.loadBigEndian(UInt64.self, at: offset)
      offset += 8
      if word == 0 { continue }
      if bits == 64 {
        count += 1
        continue
      }
      while word != 0 {
        if word & ones != 0 { count += 1 }
        word >>= UInt64(bits)
      }
    }
    return count
  }
}
