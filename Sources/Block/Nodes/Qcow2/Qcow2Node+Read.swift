import Glibc
package import Host
import Synchronization

extension Qcow2Node {
  package func read(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    guard target.count > 0 else { return }
    if isEncrypted { throw BlockError(ENOTSUP, "Encrypted images cannot be read yet") }
    // One request's first stretch is looked up with the lock that counts it: nearly always that is all of it.
    let first = try begin(offset, UInt64(target.count))
    defer { leave(first.epoch) }
    try read(first.extent, offset, into: target, at: 0)
    var done = Int(first.extent.length)
    while done < target.count {
      let extent = try lookup(offset &+ UInt64(done), UInt64(target.count - done))
      try read(extent, offset &+ UInt64(done), into: target, at: done)
      done += Int(extent.length)
    }
  }

  package func readNow(_ offset: UInt64, into target: IOVector) throws(BlockError) -> Bool {
    guard target.count > 0 else { return true }
    if isEncrypted { return false }
    var epoch = -1
    defer { if epoch >= 0 { leave(epoch) } }
    var done = 0
    var tries = 0
    while done < target.count {
      let at = offset &+ UInt64(done)
      let extent: Qcow2Extent
      do throws(Qcow2Need) {
        let hasEntered = epoch >= 0
        let first = try state.withLock { (state) throws(Qcow2Need) -> Begun in
          if !hasEntered, state.isExclusive { throw .room }
          let extent = try self.extent(&state, at, UInt64(target.count - done))
          return Begun(epoch: hasEntered ? -1 : try self.count(&state), extent: extent)
        }
        if !hasEntered { epoch = first.epoch }
        extent = first.extent
      } catch {
        tries += 1
        guard tries < 4, case .l2Slice(let key, let place) = error,
          try loadL2(key, place, mayWait: false)
        else { return false }
        continue
      }
      let part = Int(extent.length)
      switch extent.kind {
      case .zero: target.fill(0, done, part)
      case .data:
        guard try dataTarget.readNow(extent.host, into: target.slice(done, part)) else {
          return false
        }
      case .unallocated:
        if let backing {
          guard try backing.readNow(at, into: target.slice(done, part)) else { return false }
        } else {
          target.fill(0, done, part)
        }
      case .compressed: return false
      }
      done += part
    }
    return true
  }

  struct Begun: Sendable {
    var epoch: Int
    var extent: Qcow2Extent
  }

  private func begin(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> Begun {
    try model { (state) throws(Qcow2Need) in
      let extent = try self.extent(&state, offset, count)
      return Begun(epoch: try self.count(&state), extent: extent)
    }
  }

  /// How bytes are stored; beyond the end they are zeros.
  @inline(__always)
  func extent(_ state: inout Qcow2State, _ offset: UInt64, _ count: UInt64) throws(Qcow2Need)
    -> Qcow2Extent
  {
    let size = state.size
    if offset >= size {
      return Qcow2Extent(
        kind: .zero, isOwned: false, hasPlace: false, length: count, host: 0)
    }
    return try state.mapping.lookup(offset, min(count, size - offset), owned: false)
  }

  func lookup(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> Qcow2Extent {
    try model { (state) throws(Qcow2Need) in try self.extent(&state, offset, count) }
  }

  private func read(
    _ extent: Qcow2Extent, _ offset: UInt64, into target: IOVector, at done: Int
  ) throws(BlockError) {
    let part = Int(extent.length)
    switch extent.kind {
    case .data: try dataTarget.read(extent.host, into: target.slice(done, part))
    case .zero: target.fill(0, done, part)
    case .unallocated:
      if let backing {
        try backing.read(offset, into: target.slice(done, part))
      } else {
        target.fill(0, done, part)
      }
    case .compressed:
      try readCompressed(
        extent.host, from: Int(layout.inCluster(offset)), into: target.slice(done, part))
    }
  }

  /// Reads within a request that counts already, or within `exclusively`.
  func readMapped(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    var done = 0
    while done < target.count {
      let extent = try lookup(offset &+ UInt64(done), UInt64(target.count - done))
      try read(extent, offset &+ UInt64(done), into: target, at: done)
      done += Int(extent.length)
    }
  }

  /// Whether bytes read as zeros, as far as tables tell.
  func isKnownZero(_ range: Range<UInt64>) throws(BlockError) -> Bool {
    var at = range.lowerBound
    while at < range.upperBound {
      let extent = try lookup(at, range.upperBound - at)
      switch extent.kind {
      case .zero: break
      case .unallocated:
        if let backing {
          let below = backing.length
          if at < below {
            let status = try backing.status(at, min(extent.length, below - at))
            if !status.isZero { return false }
            at += max(1, status.length)
            continue
          }
        }
      default: return false
      }
      at += extent.length
    }
    return true
  }
}
