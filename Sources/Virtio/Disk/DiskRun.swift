package import Block
package import Host

/// Requests of one notification that continue each other on the disk, and are one request to the block layer (`request-merging`): each costs
/// the layer as much as the other, and a disk's driver cuts long ones at its limit of segments.
package struct DiskRun {
  /// As many as with QEMU.
  package static let mostParts = 32
  /// What one call to the host takes.
  package static let mostPieces = 1024
  /// Longer ones are as cheap alone, and go to several threads.
  package static let mostBytes: UInt64 = 2 << 20

  /// The first one's, and what it is a part of is all of them as far as offset and lengths go. The memory is the first one's own: the others'
  /// is added when it is known which they are.
  package private(set) var request: BlockRequest
  /// Numbers of the first and the last of the device's requests.
  package let head: Int
  package private(set) var last: Int
  private var pieces: Int

  package init(_ request: BlockRequest, _ number: Int) {
    self.request = request
    head = number
    last = number
    pieces = request.vector.pieceCount
  }

  package var isMerged: Bool { request.parts > 1 }

  /// Whether requests of that kind can be parts of a run.
  package static func canHave(_ kind: BlockRequest.Kind) -> Bool { kind == .read || kind == .write }

  /// Adds the request with that number if it goes on where the last one ends, and all stays within the limits.
  package mutating func add(_ next: BlockRequest, _ number: Int) -> Bool {
    let (end, overflow) = request.offset.addingReportingOverflow(request.count)
    guard next.kind == request.kind, next.offset == end, !overflow,
      request.count > 0, next.count > 0, request.parts < DiskRun.mostParts,
      pieces + next.vector.pieceCount <= DiskRun.mostPieces,
      next.count <= DiskRun.mostBytes, request.count <= DiskRun.mostBytes - next.count
    else { return false }
    request.count += next.count
    request.parts += 1
    pieces += next.vector.pieceCount
    last = number
    return true
  }

  /// The request to the block layer, with the memory of all of them.
  package func whole(_ vector: IOVector) -> BlockRequest {
    var whole = request
    whole.vector = vector
    return whole
  }
}
