package import Host

/// Ranges of guest memory that stay this node's while a request of a device, or of the kernel for it, uses them (distributed.md, section 7,
/// "devices"). Empty, and without cost, where memory is not shared between nodes by pages.
///
/// The request must not wait for pages of other nodes while it has pins; `GuestMemory.release` comes before it stores a result.
package struct MemoryPins: Sendable {
  struct Range: Sendable {
    var address: GuestAddress
    var count: UInt64
    var right: PageRight
  }
  var ranges: [Range] = []

  package init() {}

  package var isEmpty: Bool { ranges.isEmpty }
}

extension GuestMemory {
  /// Appends the host memory of a range of guest RAM to a request's memory; false, with `vector` unusable, unless all of it is RAM (for
  /// `.read`: or ROM). Where pages may be another node's, they are acquired with `right` first and pinned: call `release` when the request
  /// no longer uses them, also after false.
  ///
  /// Whoever has let a device write there calls `noteWrite` for the range afterwards, so that decoded code is thrown away.
  package func append(
    _ address: GuestAddress, _ length: UInt32, for right: PageRight, to vector: inout IOVector,
    pinning pins: inout MemoryPins
  ) -> Bool {
    var at = address
    var left = UInt64(length)
    if left > 0, isShared, contains(address, length: left),
      !pin(address, count: left, right, &pins)
    {
      return false
    }
    while left > 0 {
      guard let piece = unsafe translate(at), unsafe right == .read || !piece.isReadOnly else {
        return false
      }
      let part = unsafe min(left, piece.length)
      // SAFETY: `part` bytes from there belong to one mapping, which lives as long as this object.
      unsafe vector.append(piece.host, count: Int(part))
      at = at + part
      left -= part
    }
    return true
  }

  /// Makes the pages of a range this node's until `release`, and keeps those that `pins` has. Waits for other nodes, and for the cluster to
  /// thaw; false, with no pins left, when that does not help.
  package func pin(
    _ address: GuestAddress, count: UInt64, _ right: PageRight, _ pins: inout MemoryPins
  ) -> Bool {
    guard isShared, count > 0, let policy else { return true }
    let new = MemoryPins.Range(address: address, count: count, right: right)
    if policy.tryPin(address, count: count, right) {
      pins.ranges.append(new)
      return true
    }
    // Whoever waits has no pins: two requests that want each other's pages both go on. Nothing has used the pages yet.
    var wanted = pins.ranges
    wanted.append(new)
    release(&pins)
    while true {
      var missing: MemoryPins.Range?
      for range in wanted {
        if !policy.tryPin(range.address, count: range.count, range.right) {
          missing = range
          break
        }
        pins.ranges.append(range)
      }
      guard let missing else { return true }
      release(&pins)
      let isThere = patiently {
        policy.acquire(missing.address, count: missing.count, missing.right)
      }
      if !isThere { return false }
    }
  }

  /// Lets go of what is pinned.
  package func release(_ pins: inout MemoryPins) {
    if pins.ranges.isEmpty { return }
    if let policy {
      for range in pins.ranges { policy.unpin(range.address, count: range.count, range.right) }
    }
    pins.ranges.removeAll(keepingCapacity: true)
  }
}
