package import Host
import Synchronization

/// What a page holds, for a file that stores each page for itself.
package enum PageContent: Equatable, Sendable {
  case zero
  /// As it is.
  case plain
  /// Compressed to so many bytes.
  case compressed(Int)
}

/// Writing guest memory to files, without a copy where pages are this node's.
extension GuestMemory {
  /// Runs of zero pages shorter than this are written and not skipped, in pages.
  private static let shortestHole = 16

  /// Writes `count` bytes from `address`, zeros where there is no memory. Zero pages become holes where the file can have them.
  /// Throws `SystemError`.
  package func send(
    _ address: GuestAddress, count: Int, to output: OutputFile, presence: PagePresence
  ) throws(SystemError) {
    var at = address
    var left = count
    while left > 0 {
      guard let piece = unsafe translate(at) else {
        let step = Int(
          min(UInt64(left), GuestAddress.pageSize - at.rawValue % GuestAddress.pageSize))
        try output.writeZeros(step)
        at = at + UInt64(step)
        left -= step
        continue
      }
      let step = unsafe Int(min(UInt64(left), piece.length, 4 << 20))
      if hasPolicy.load(ordering: .relaxed) {
        guard let bytes = read(at, count: step) else { return }
        try output.write(bytes)
      } else {
        // SAFETY: `step` is within the slot, whose block stays mapped as long as this object lives.
        unsafe try send(
          UnsafeRawBufferPointer(start: piece.host, count: step), at, output, presence)
      }
      at = at + UInt64(step)
      left -= step
    }
  }

  private func send(
    _ bytes: UnsafeRawBufferPointer, _ address: GuestAddress, _ output: OutputFile,
    _ presence: PagePresence
  ) throws(SystemError) {
    let page = Int(GuestAddress.pageSize)
    let lead = Int(address.rawValue % GuestAddress.pageSize)
    let pages = unsafe (lead + bytes.count + page - 1) / page
    let host = unsafe UInt(bitPattern: bytes.baseAddress)
    let touched =
      isPrivate(address)
      ? presence.touched(from: host, count: pages) : [Bool](repeating: true, count: pages)
    var pending = 0  // first byte that is not written yet
    var zeros = 0  // length of the run of zero pages that ends here
    var end = 0
    for index in 0..<pages {
      let start = max(0, index * page - lead)
      end = unsafe min(bytes.count, (index + 1) * page - lead)
      let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[start..<end])
      // A pipe gets every byte anyway: looking for zeros that are there would only cost.
      let isZero = unsafe !touched[index] || output.leavesHoles && part.isZero
      if isZero {
        zeros += end - start
        continue
      }
      if zeros >= GuestMemory.shortestHole * page {
        unsafe try output.write(UnsafeRawBufferPointer(rebasing: bytes[pending..<(start - zeros)]))
        try output.writeZeros(zeros)
        pending = start
      }
      zeros = 0
    }
    if zeros < GuestMemory.shortestHole * page, zeros < end - pending { zeros = 0 }
    unsafe try output.write(UnsafeRawBufferPointer(rebasing: bytes[pending..<(end - zeros)]))
    if zeros > 0 { try output.writeZeros(zeros) }
  }

  /// Which of the pages from `address` on, all in memory, need to be looked at; the others are zero.
  package func touchedPages(
    from address: GuestAddress, count: Int, presence: PagePresence
  ) -> [Bool] {
    var result: [Bool] = []
    result.reserveCapacity(count)
    while result.count < count {
      let at = address + UInt64(result.count) * GuestAddress.pageSize
      guard !hasPolicy.load(ordering: .relaxed), isPrivate(at), let piece = unsafe translate(at)
      else {
        result.append(true)
        continue
      }
      let left = UInt64(count - result.count)
      let pages = unsafe Int(min(left, max(piece.length / GuestAddress.pageSize, 1)))
      result += unsafe presence.touched(from: UInt(bitPattern: piece.host), count: pages)
    }
    return result
  }

  /// Appends the page at `address` to `buffer`, compressed when that makes it shorter; nothing when it is zero.
  package func append(
    page address: GuestAddress, to buffer: inout [UInt8], with compressor: PageCompressor
  ) -> PageContent {
    let page = Int(GuestAddress.pageSize)
    if !hasPolicy.load(ordering: .relaxed), let piece = unsafe translate(address),
      unsafe piece.length >= UInt64(page)
    {
      // SAFETY: the page is within the slot, whose block stays mapped as long as this object lives.
      return unsafe append(
        UnsafeRawBufferPointer(start: piece.host, count: page), to: &buffer, compressor)
    }
    guard let bytes = read(address, count: page) else { return .zero }
    // SAFETY: valid within the closure.
    return unsafe bytes.withUnsafeBytes { unsafe append($0, to: &buffer, compressor) }
  }

  private func append(
    _ page: UnsafeRawBufferPointer, to buffer: inout [UInt8], _ compressor: PageCompressor
  ) -> PageContent {
    if unsafe page.isZero { return .zero }
    let start = buffer.count
    let room = unsafe PageCompressor.room(for: page.count)
    buffer.append(contentsOf: repeatElement(0, count: room))
    // SAFETY: the part of the buffer was just made, and has `room` bytes.
    let length = unsafe buffer.withUnsafeMutableBytes {
      unsafe compressor.compress(page, into: UnsafeMutableRawBufferPointer(rebasing: $0[start...]))
    }
    if let length, unsafe length < page.count {
      buffer.removeLast(room - length)
      return .compressed(length)
    }
    buffer.removeLast(room)
    unsafe buffer.append(contentsOf: page)
    return .plain
  }

  /// Whether untouched pages there are zero: not so for memory that other processes write to.
  private func isPrivate(_ address: GuestAddress) -> Bool {
    let slot = slots.last { $0.guest <= address }
    return slot.map { $0.block.descriptor < 0 } ?? false
  }
}
