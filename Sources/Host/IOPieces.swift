import CLinux
import Glibc

/// Memory in pieces for one request after another: what `IOVector` is, without reference counts and allocations (hot paths of links between
/// nodes).
///
/// The room for the pieces is made once and freed by `free`; copies of the value share it, so one of them is in use at a time.
@safe package struct IOPieces: @unchecked Sendable {
  // SAFETY: room for `capacity` pieces and one before them, which is for a header; freed by `free` only.
  @unsafe private let room: UnsafeMutablePointer<iovec>
  /// Most pieces.
  package let capacity: Int
  package private(set) var pieceCount = 0
  /// Bytes in all.
  package private(set) var count = 0

  /// None yet, with room for `capacity`.
  package init(capacity: Int) {
    self.capacity = capacity
    unsafe room = UnsafeMutablePointer<iovec>.allocate(capacity: capacity + 1)
    unsafe room.initialize(repeating: iovec(), count: capacity + 1)
  }

  /// Gives the room back. The last use of all copies.
  package func free() { unsafe room.deallocate() }

  /// Adds memory that outlives the request. Pieces that touch become one.
  @unsafe package mutating func append(_ start: UnsafeMutableRawPointer, count length: Int) {
    guard length > 0 else { return }
    if pieceCount > 0, let base = unsafe room[pieceCount].iov_base,
      unsafe base + room[pieceCount].iov_len == start
    {
      unsafe room[pieceCount].iov_len += length
    } else {
      precondition(pieceCount < capacity, "more than \(capacity) pieces of memory")
      pieceCount += 1
      unsafe room[pieceCount] = iovec(iov_base: start, iov_len: length)
    }
    count += length
  }

  /// The same as a value with memory of its own for the list.
  package var vector: IOVector {
    var result = IOVector()
    for index in 0..<pieceCount {
      let piece = unsafe room[index + 1]
      if let base = unsafe piece.iov_base { unsafe result.append(base, count: piece.iov_len) }
    }
    return result
  }

  /// Copies the first `length` bytes from a buffer at `start`. What either lacks is left out.
  package func copy(from buffer: IOBuffer, _ start: Int, count length: Int) {
    guard start >= 0, length > 0, start <= buffer.count - length else { return }
    var done = 0
    for index in 0..<pieceCount where done < length {
      let piece = unsafe room[index + 1]
      guard let base = unsafe piece.iov_base else { continue }
      let part = unsafe min(piece.iov_len, length - done)
      // SAFETY: the buffer has `length` bytes from `start`, the piece at least `part`.
      unsafe memcpy(base, buffer.base + start + done, part)
      done += part
    }
  }

  /// Sends a header of 32 bytes and the pieces in one call, without waiting. Answers how many bytes went, or `-errno`.
  func send(_ header: SIMD4<UInt64>, _ number: Int32) -> Int {
    var header = header
    // SAFETY: the header is a local of this call; the pieces outlive the request.
    return unsafe withUnsafeMutableBytes(of: &header) { header in
      unsafe room[0] = iovec(iov_base: header.baseAddress, iov_len: header.count)
      var message = unsafe msghdr()
      unsafe message.msg_iov = room
      unsafe message.msg_iovlen = pieceCount + 1
      return Int(
        unsafe goliath_socket_send(
          number, &message, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT)))
    }
  }

  /// Receives everything but the first `offset` bytes, and waits for it. False when the connection ends before. Uses the list up.
  func receive(_ number: Int32, from offset: Int) -> Bool {
    var index = 1
    var skip = offset
    while true {
      while index <= pieceCount, unsafe skip >= room[index].iov_len {
        skip -= unsafe room[index].iov_len
        index += 1
      }
      if index > pieceCount { return true }
      if skip > 0, let base = unsafe room[index].iov_base {
        unsafe room[index].iov_base = base + skip
        unsafe room[index].iov_len -= skip
      }
      var message = unsafe msghdr()
      unsafe message.msg_iov = room + index
      unsafe message.msg_iovlen = pieceCount - index + 1
      // SAFETY: pieces that the caller owns, within the room.
      let got = unsafe recvmsg(number, &message, Int32(MSG_WAITALL))
      if got < 0, errno == EINTR {
        skip = 0
        continue
      }
      if got <= 0 { return false }
      skip = got
    }
  }
}

extension StreamSocket {
  /// Sends a header of 32 bytes and a body in one call, without waiting. Answers how many bytes went, or `-errno`.
  package func send(_ header: SIMD4<UInt64>, _ body: IOPieces) -> Int { body.send(header, number) }

  /// Receives all but the first `offset` bytes of the pieces in one call or few, and waits for them. False when the connection ends before. The list
  /// is of no use afterwards.
  package func receive(into target: IOPieces, from offset: Int) -> Bool {
    target.receive(number, from: offset)
  }
}
