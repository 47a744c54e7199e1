import Block
import Host

/// Questions about an image and the backing files below it.
enum Chain {
  /// What a stretch reads as, and which layer says so (0: the image itself).
  struct Answer: Equatable {
    var status: BlockStatus
    var depth = 0
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

  /// The file name under which the data of a node is found, for people.
  static func layers(_ node: any BlockNode) -> [any BlockNode] {
    var result = [skippingFilters(node)]
    while let below = result.last.flatMap(backing) { result.append(skippingFilters(below)) }
    return result
  }

  /// What one layer says of a stretch, with what follows from there being nothing below.
  static func layer(
    _ node: any BlockNode, _ offset: UInt64, _ count: UInt64, below: (any BlockNode)?
  ) throws(BlockError) -> BlockStatus {
    let length = node.length
    guard offset < length else {
      return BlockStatus(length: count, isAllocated: false, isZero: true, isData: false)
    }
    let count = min(count, length - offset)
    var status = try node.status(offset, count)
    status.length = max(1, min(status.length, count))
    if !status.isAllocated, !status.isZero {
      // Without a backing file, or behind its end, there are zeros.
      guard let below else {
        status.isZero = true
        return status
      }
      let end = below.length
      if offset >= end {
        status.isZero = true
      } else {
        status.length = min(status.length, end - offset)
      }
    }
    return status
  }

  /// What a stretch reads as, through all layers (`layers(_:)`) down to but not including `stop`.
  static func status(
    _ layers: [any BlockNode], _ offset: UInt64, _ count: UInt64, stop: Int? = nil
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
}
