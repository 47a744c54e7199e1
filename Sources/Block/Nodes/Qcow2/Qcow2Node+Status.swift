import Host

extension Qcow2Node {
  package func status(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> BlockStatus {
    let size = length
    guard offset < size, count > 0 else {
      return BlockStatus(length: count, isAllocated: true, isZero: true, isData: false)
    }
    let epoch = try enter()
    defer { leave(epoch) }
    var extent = try lookup(offset, min(count, size - offset))
    // Stretches of tables that continue each other.
    while extent.length < min(count, size - offset), extent.kind != .compressed {
      let next = try lookup(offset + extent.length, min(count, size - offset) - extent.length)
      guard next.kind == extent.kind, next.hasPlace == extent.hasPlace,
        !extent.hasPlace || next.host == extent.host + extent.length
      else { break }
      extent.length += next.length
    }
    return status(of: extent, offset)
  }

  package func statuses(
    _ offset: UInt64, _ count: UInt64, into answers: inout [BlockStatus]
  ) throws(BlockError) {
    let size = length
    guard offset < size, count > 0 else {
      answers.append(try status(offset, count))
      return
    }
    let epoch = try enter()
    defer { leave(epoch) }
    let end = min(offset &+ count < offset ? size : offset + count, size)
    // All that one part of a table says, with the lock taken once.
    try model { (state) throws(Qcow2Need) in
      var at = offset
      while at < end, at == offset || answers.count < Self.statusesAtOnce {
        let extent: Qcow2Extent
        do throws(Qcow2Need) {
          extent = try state.mapping.lookup(at, end - at, owned: false)
        } catch {
          if at == offset { throw error }
          return
        }
        let answer = self.status(of: extent, at)
        answers.append(answer)
        at += answer.length
      }
    }
  }

  private static var statusesAtOnce: Int { 512 }

  private func status(of extent: Qcow2Extent, _ offset: UInt64) -> BlockStatus {
    let place = extent.hasPlace && !isEncrypted ? extent.host : nil
    switch extent.kind {
    case .data:
      return BlockStatus(
        length: extent.length, isAllocated: true, isZero: false, isData: true, hostOffset: place)
    case .compressed:
      return BlockStatus(
        length: extent.length, isAllocated: true, isZero: false, isData: true, isCompressed: true)
    case .zero:
      return BlockStatus(
        length: extent.length, isAllocated: true, isZero: true, isData: false, hostOffset: place)
    case .unallocated:
      var length = extent.length
      var isZero = backing == nil
      if let backing {
        let below = backing.length
        if offset >= below {
          isZero = true
        } else {
          length = min(length, below - offset)
        }
      }
      return BlockStatus(
        length: length, isAllocated: false, isZero: isZero, isData: false, hostOffset: place)
    }
  }
}
