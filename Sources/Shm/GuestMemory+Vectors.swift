package import Host

extension GuestMemory {
  /// Appends the host memory of a range of guest RAM to a request's memory; false, with `vector` unusable, unless all of it is RAM (for
  /// `.read`: or ROM). Where pages may be another node's, each is acquired with `right` first.
  ///
  /// Whoever has let a device write there calls `noteWrite` for the range afterwards, so that decoded code is thrown away.
  package func append(
    _ address: GuestAddress, _ length: UInt32, for right: PageRight, to vector: inout IOVector
  ) -> Bool {
    var at = address
    var left = UInt64(length)
    while left > 0 {
      guard let piece = unsafe translate(at), unsafe right == .read || !piece.isReadOnly else {
        return false
      }
      var part = unsafe min(left, piece.length)
      if isShared {
        part = min(part, GuestAddress.pageSize - at.rawValue % GuestAddress.pageSize)
        acquire(at, right)
      }
      // SAFETY: `part` bytes from there belong to one mapping, which lives as long as this object.
      unsafe vector.append(piece.host, count: Int(part))
      at = at + part
      left -= part
    }
    return true
  }
}
