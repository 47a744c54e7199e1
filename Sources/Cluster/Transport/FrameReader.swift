import Host

/// Cuts frames out of a connection. It reads ahead into a buffer, so that a small frame costs one call of the kernel; the rest of a long
/// body goes straight to where its handler wants it.
///
/// One thread at a time: it belongs to whoever holds the lock of `SocketLink`.
final class FrameReader: FrameBody {
  /// What a look for the next frame found.
  enum Next {
    case frame(FrameHeader)
    /// Nothing yet; only when the caller does not want to wait.
    case nothing
    /// The connection is over, and why.
    case ended(String)
  }

  private let socket: StreamSocket
  private let protection: LinkProtection?
  private let peer: NodeID
  private let stream: StreamKind
  private let buffer: IOBuffer
  // What was read ahead.
  private var start = 0
  private var end = 0
  // Encrypted bytes that were not decrypted for want of room.
  private let cipher: IOBuffer?
  private var cipherStart = 0
  private var cipherEnd = 0
  /// Whether the session itself may hold more plaintext than it gave.
  private var mayHoldMore = false
  /// The socket has given all that it had when it was last asked: it will tell when there is more.
  private var isDrained = false
  private(set) var remaining = 0
  private var hasFailed = false

  /// - Parameter first: bytes that came before this reader was made.
  init(
    _ socket: StreamSocket, _ protection: LinkProtection?, from peer: NodeID, on stream: StreamKind,
    first: [UInt8]
  ) {
    self.socket = socket
    self.protection = protection
    self.peer = peer
    self.stream = stream
    // Pages: not much more than one of them, as what is read ahead is copied once more.
    let size = stream == .ctl ? 16 << 10 : 8 << 10
    buffer = IOBuffer(count: max(size, first.count))
    cipher = protection == nil ? nil : IOBuffer(count: 32 << 10)
    buffer.store(first, at: 0)
    end = first.count
  }

  /// The socket may have something: it has told so.
  func look() { isDrained = false }

  /// The next frame's header, after passing over what is left of the body before it. Throws `FrameError`.
  func next(waits: Bool) throws(FrameError) -> Next {
    if remaining > 0, !skip(remaining) { return .ended("\(peer) closed the connection") }
    while true {
      while end - start < FrameHeader.size {
        if isDrained, !waits, cipherEnd == cipherStart, !mayHoldMore { return .nothing }
        switch fill(waits: waits) {
        case .some(let reason): return .ended(reason)
        case .none:
          if end - start < FrameHeader.size, !waits { return .nothing }
        }
      }
      let words = buffer.words(at: start)
      start += FrameHeader.size
      switch try FrameHeader.parse(words, from: peer, on: stream, isProtected: protection != nil) {
      case .frame(let header):
        remaining = Int(header.length)
        return .frame(header)
      case .skipped(_, let length):
        remaining = length
        if !skip(length) { return .ended("\(peer) closed the connection") }
      }
    }
  }

  // MARK: - FrameBody

  func read(into target: IOVector) -> Bool {
    guard target.count <= remaining, !hasFailed else { return false }
    remaining -= target.count
    let ahead = min(target.count, end - start)
    if ahead > 0 {
      target.copy(from: buffer, start, count: ahead)
      start += ahead
    }
    if ahead == target.count { return true }
    if protection == nil {
      let rest = ahead == 0 ? target : target.slice(ahead, target.count - ahead)
      isDrained = false
      if !socket.receive(into: rest) { hasFailed = true }
      return !hasFailed
    }
    var done = ahead
    while done < target.count {
      if end == start, fill(waits: true) != nil {
        hasFailed = true
        return false
      }
      let part = min(target.count - done, end - start)
      target.copy(from: buffer, start, count: part, at: done)
      start += part
      done += part
    }
    return true
  }

  func read(into target: IOPieces) -> Bool {
    guard protection == nil else { return read(into: target.vector) }
    guard target.count <= remaining, !hasFailed else { return false }
    remaining -= target.count
    let ahead = min(target.count, end - start)
    if ahead > 0 {
      target.copy(from: buffer, start, count: ahead)
      start += ahead
    }
    if ahead == target.count { return true }
    isDrained = false
    hasFailed = !socket.receive(into: target, from: ahead)
    return !hasFailed
  }

  func read(_ count: Int) -> [UInt8]? {
    guard count >= 0, count <= remaining, !hasFailed else { return nil }
    if count <= end - start {
      remaining -= count
      start += count
      return buffer.bytes(start - count..<start)
    }
    let target = IOBuffer(count: count)
    return read(into: target.vector) ? target.bytes : nil
  }

  // MARK: -

  private func skip(_ count: Int) -> Bool {
    var left = count
    while left > 0 {
      if end == start, fill(waits: true) != nil { return false }
      let part = min(left, end - start)
      start += part
      left -= part
    }
    remaining -= count
    return true
  }

  /// Reads more ahead, at least a byte if it `waits`. Answers why there will be no more.
  private func fill(waits: Bool) -> String? {
    if hasFailed { return "\(peer) closed the connection" }
    if start == end {
      start = 0
      end = 0
    } else if start > 0, buffer.count - end < FrameHeader.size {
      buffer.move(start..<end, to: 0)
      end -= start
      start = 0
    }
    guard let protection, let cipher else {
      let got = socket.receive(into: buffer, end..<buffer.count, waits: waits)
      isDrained = got < buffer.count - end
      return taken(got) { end += $0 }
    }
    let before = end
    while true {
      if cipherEnd > cipherStart || mayHoldMore {
        do throws(TLSError) {
          let (plain, used) = try protection.receive(
            cipher, cipherStart..<cipherEnd, into: buffer, end..<buffer.count)
          end += plain
          cipherStart += used
          mayHoldMore = end == buffer.count
          if plain == 0, used == 0, cipherEnd - cipherStart > 0 {
            return "the TLS session with \(peer) ended"
          }
        } catch { return "the TLS session with \(peer) broke: \(error.message)" }
      }
      if end > before { return nil }
      if protection.hasEnded { return "\(peer) closed the connection" }
      cipherStart = 0
      cipherEnd = 0
      let got = socket.receive(into: cipher, 0..<cipher.count, waits: waits)
      isDrained = got < cipher.count
      if let reason = taken(got, { cipherEnd += $0 }) { return reason }
      if cipherEnd == 0 { return nil }
    }
  }

  private func taken(_ count: Int, _ add: (Int) -> Void) -> String? {
    if count > 0 { add(count) }
    if count > 0 || StreamSocket.isAgain(count) { return nil }
    hasFailed = true
    if count == 0 { return "\(peer) closed the connection" }
    let error = SystemError(call: "recv", code: Int32(truncatingIfNeeded: -count))
    return "the connection to \(peer) broke: \(error.reason)"
  }
}
