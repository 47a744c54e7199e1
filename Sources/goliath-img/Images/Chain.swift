import Block
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

    init(_ node: any BlockNode) {
      self.node = node
      sparseFile = (node as? Qcow2Node).flatMap(Chain.sparseFile)
    }

    var length: UInt64 { node.length }
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
