import Glibc
package import Host
import Synchronization

extension Qcow2Node {
  package func write(_ offset: UInt64, from source: IOVector, _ flags: WriteFlags)
    throws(BlockError)
  {
    guard source.count > 0 else { return }
    try writing { () throws(BlockError) in
      try checkRange(offset, UInt64(source.count))
      if flags.contains(.compressed) {
        try writeCompressed(offset, from: source)
      } else {
        try writeMapped(offset, from: source)
      }
    }
    if flags.contains(.forceUnitAccess) { try flush() }
  }

  /// Counts `body` as a request that changes the image.
  private func writing(_ body: () throws(BlockError) -> Void) throws(BlockError) {
    let epoch = try enterWriting()
    defer { leave(epoch) }
    try body()
  }

  func checkRange(_ offset: UInt64, _ count: UInt64) throws(BlockError) {
    let (end, overflow) = offset.addingReportingOverflow(count)
    if overflow { throw BlockError(EINVAL, "Offset too large") }
    if end > length { throw BlockError(EIO, "Write beyond the end of the image") }
  }

  /// Writes within a request that counts already, or within `exclusively`.
  func writeMapped(_ offset: UInt64, from source: IOVector) throws(BlockError) {
    var done = 0
    while done < source.count {
      let at = offset + UInt64(done)
      let left = UInt64(source.count - done)
      let step = try model { (state) throws(Qcow2Need) in try state.prepareWrite(at, left) }
      switch step {
      case .inPlace(let host, let length):
        try dataTarget.write(host, from: source.slice(done, Int(length)), [])
        done += Int(length)
      case .allocated(let write):
        let length = Int(write.data.upperBound - write.data.lowerBound)
        try store(write, source.slice(done, length))
        done += length
      }
    }
  }

  /// Stores the data in its new place with what belongs around it, and lets the tables refer to it.
  private func store(_ write: Qcow2WriteAllocation, _ source: IOVector) throws(BlockError) {
    do throws(BlockError) {
      try storeData(write, source)
    } catch {
      wake(state.withLock { $0.abortWrite(write) })
      throw error
    }
    do throws(BlockError) {
      wake(try model { (state) throws(Qcow2Need) in try state.finishWrite(write) })
    } catch {
      wake(state.withLock { $0.abortWrite(write) })
      throw error
    }
  }

  private func storeData(_ write: Qcow2WriteAllocation, _ source: IOVector) throws(BlockError) {
    let head = Int(write.data.lowerBound - write.range.lowerBound)
    let tail = Int(write.range.upperBound - write.data.upperBound)
    let host = write.host + (write.range.lowerBound - write.guest.lowerBound)
    if head == 0, tail == 0 { return try dataTarget.write(host, from: source, []) }
    let before = write.range.lowerBound..<write.data.lowerBound
    let after = write.data.upperBound..<write.range.upperBound
    // What is below may be shorter or longer than we are: behind our end are zeros in any case.
    var isZero = try isKnownZero(before)
    if isZero { isZero = try isKnownZero(after) }
    if isZero, write.isZero {
      return try dataTarget.write(host + UInt64(head), from: source, [])
    }
    let around = IOBuffer(count: head + tail)
    if !isZero {
      if head > 0 { try readMapped(before.lowerBound, into: around.vector(0..<head)) }
      if tail > 0 { try readMapped(after.lowerBound, into: around.vector(head..<head + tail)) }
    }
    // One request: it is the caller who keeps the request's memory, and `around` is kept here.
    var joined = IOVector()
    joined.append(contentsOf: around.vector(0..<head))
    joined.append(contentsOf: source)
    joined.append(contentsOf: around.vector(head..<head + tail))
    try withExtendedLifetime(around) { () throws(BlockError) in
      try dataTarget.write(host, from: joined, [])
    }
  }

  func wake(_ isNeeded: Bool) {
    if isNeeded { changed.advance() }
  }

  // MARK: - Zeros

  package func writeZeroes(_ offset: UInt64, _ count: UInt64, _ flags: WriteFlags)
    throws(BlockError)
  {
    guard count > 0 else { return }
    try writing { () throws(BlockError) in
      try checkRange(offset, count)
      try zero(offset..<offset + count, flags)
    }
    if flags.contains(.forceUnitAccess) { try flush() }
  }

  /// Within a request that counts already, or within `exclusively`.
  func zero(_ range: Range<UInt64>, _ flags: WriteFlags) throws(BlockError) {
    if layout.isDataFileRaw {
      // The data file alone must tell the same.
      try dataTarget.writeZeroes(range.lowerBound, range.upperBound - range.lowerBound, flags)
    }
    if layout.version < 3, backing != nil {
      if flags.contains(.noFallback) { throw BlockError(ENOTSUP, "Operation not supported") }
      return try writeZeroBytes(range)
    }
    let unit = layout.subclusterSize
    let end = range.upperBound == length ? layout.clusterEnd(range.upperBound) : range.upperBound
    var first = (range.lowerBound + unit - 1) & ~(unit - 1)
    var last = end & ~(unit - 1)
    // Around whole units: where the rest of the unit is zero too, it becomes zero as a whole.
    if first > range.lowerBound {
      let edge = min(first, end)
      var isZero = try isKnownZero(first - unit..<range.lowerBound)
      if isZero, edge < first { isZero = try isKnownZero(edge..<first) }
      if isZero {
        first -= unit
        last = max(last, first + unit)
      } else {
        try zeroPart(range.lowerBound..<min(edge, range.upperBound), flags)
        if edge < first { return }
      }
    }
    if last < end, last >= first {
      if try isKnownZero(end..<last + unit) {
        last += unit
      } else {
        try zeroPart(last..<range.upperBound, flags)
      }
    }
    if first < last { try zeroUnits(first..<last, flags) }
  }

  private func zeroPart(_ range: Range<UInt64>, _ flags: WriteFlags) throws(BlockError) {
    if range.isEmpty { return }
    if try isKnownZero(range) { return }
    if flags.contains(.noFallback) { throw BlockError(ENOTSUP, "Operation not supported") }
    try writeZeroBytes(range)
  }

  private func writeZeroBytes(_ range: Range<UInt64>) throws(BlockError) {
    let total = range.upperBound - range.lowerBound
    let buffer = IOBuffer(count: Int(min(total, 1 << 20)))
    var done: UInt64 = 0
    while done < total {
      let part = Int(min(total - done, UInt64(buffer.count)))
      try writeMapped(range.lowerBound + done, from: buffer.vector(0..<part))
      done += UInt64(part)
    }
  }

  /// Whole clusters or subclusters.
  private func zeroUnits(_ range: Range<UInt64>, _ flags: WriteFlags) throws(BlockError) {
    let how: Qcow2State.Clearing =
      flags.contains(.mayUnmap) && !layout.isDataFileRaw ? .unmap : .zero
    var at = range.lowerBound
    while at < range.upperBound {
      let cluster = layout.clusterStart(at)
      let next = cluster + layout.clusterSize
      if at > cluster || range.upperBound < next {
        let part = at..<min(next, range.upperBound)
        let done = try model { (state) throws(Qcow2Need) in try state.zeroSubclusters(part) }
        if !done { try zeroPart(part.clamped(to: 0..<length), flags) }
        at = part.upperBound
      } else {
        let from = at
        let whole = layout.clusterStart(range.upperBound) - at
        let done = try model { (state) throws(Qcow2Need) in
          try state.clear(from, whole, how)
        }
        at = from + min(done, whole)
      }
    }
  }

  package func discard(_ offset: UInt64, _ count: UInt64) throws(BlockError) {
    guard count > 0 else { return }
    let epoch = try enterWriting()
    defer { leave(epoch) }
    try checkRange(offset, count)
    try discardMapped(offset..<offset + count, .discard)
  }

  /// Whole clusters of the range; within a request that counts already, or within `exclusively`.
  func discardMapped(_ range: Range<UInt64>, _ how: Qcow2State.Clearing) throws(BlockError) {
    if layout.version < 3, backing != nil, how != .full {
      // What is below would show.
      throw BlockError(ENOTSUP, "Operation not supported")
    }
    let first = layout.clusterEnd(range.lowerBound)
    let last =
      range.upperBound >= length
      ? layout.clusterEnd(range.upperBound) : layout.clusterStart(range.upperBound)
    if layout.isDataFileRaw {
      // The data file alone must tell the same, so all of it stays mapped.
      if first < min(last, length) {
        try dataTarget.writeZeroes(first, min(last, length) - first, .mayUnmap)
      }
      return
    }
    var at = first
    while at < last {
      let from = at
      let done = try model { (state) throws(Qcow2Need) in
        try state.clear(from, last - from, how)
      }
      at = from + min(max(done, layout.clusterSize), last - from)
    }
    if let dataFile, options.passDiscardRequest ?? options.discard, first < last {
      try? dataFile.discard(first, min(last, dataFile.length) - min(first, dataFile.length))
    }
  }
}
