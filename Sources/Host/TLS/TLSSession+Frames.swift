internal import CGnuTLS

/// The same session for frames between nodes: bytes from and to memory that is there already, so that nothing is allocated for a frame.
extension TLSSession {
  /// Encrypts a header of 32 bytes and a body. Nothing unless the phase is `open`. Throws `TLSError`.
  package func send(_ header: SIMD4<UInt64>, _ body: IOVector) throws(TLSError) {
    guard phase == .open else { return }
    var header = header
    // SAFETY: the header is a local of this call.
    try unsafe withUnsafeBytes(of: &header) { (bytes) throws(TLSError) in
      try unsafe write(bytes)
    }
    var failure: TLSError?
    body.forEachPiece(0, body.count) { start, count in
      guard failure == nil else { return }
      // SAFETY: the piece has `count` bytes for the time of this call.
      do throws(TLSError) {
        try unsafe write(UnsafeRawBufferPointer(start: start, count: count))
      } catch { failure = error }
    }
    if let failure { throw failure }
  }

  /// Decrypts bytes of `source` into a part of `target`. Answers how many came out and how many were used: less than all when there was
  /// no room for more. Throws `TLSError`; the phase is `ended` then.
  package func receive(
    _ source: IOBuffer, _ range: Range<Int>, into target: IOBuffer, _ room: Range<Int>
  ) throws(TLSError) -> (plain: Int, used: Int) {
    let range = range.clamped(to: 0..<source.count)
    let room = room.clamped(to: 0..<target.count)
    // SAFETY: both ranges were clamped to their buffers, which live through the call.
    return try unsafe decrypt(
      UnsafeRawBufferPointer(start: source.base + range.lowerBound, count: range.count),
      UnsafeMutableRawBufferPointer(start: target.base + room.lowerBound, count: room.count))
  }

  /// What is for the peer, as a copy from `start` on.
  package func output(from start: Int) -> [UInt8] {
    withOutput { bytes in
      let start = min(max(start, 0), bytes.count)
      return unsafe [UInt8](UnsafeRawBufferPointer(rebasing: bytes[start...]))
    }
  }

  /// Whether there is something for the peer.
  package var hasOutput: Bool { withOutput { unsafe !$0.isEmpty } }

  /// Forgets what was for the peer: it is on its way.
  package func dropOutput() { unsafe goliath_tls_output_taken(handle) }

  /// Lends what is for the peer.
  // SAFETY: the memory is valid during the call.
  @safe func withOutput<T>(_ body: (UnsafeRawBufferPointer) -> T) -> T {
    var count = 0
    // SAFETY: the memory is the session's until its next call, which the closure does not make.
    let bytes = unsafe goliath_tls_output(handle, &count)
    return unsafe body(UnsafeRawBufferPointer(start: bytes, count: count))
  }

  private func write(_ bytes: UnsafeRawBufferPointer) throws(TLSError) {
    var position = 0
    while position < bytes.count {
      // SAFETY: within the caller's memory.
      let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[position...])
      let result = unsafe goliath_tls_write(
        handle, rest.baseAddress?.assumingMemoryBound(to: UInt8.self), rest.count)
      if result == Int64(GOLIATH_TLS_INTERRUPTED) || result == Int64(GOLIATH_TLS_AGAIN) {
        continue
      }
      guard result > 0 else {
        phase = .ended
        throw TLSError("Cannot write to TLS channel", Int32(truncatingIfNeeded: result))
      }
      position += Int(result)
    }
  }

  private func decrypt(
    _ source: UnsafeRawBufferPointer, _ target: UnsafeMutableRawBufferPointer
  ) throws(TLSError) -> (plain: Int, used: Int) {
    guard phase == .open else { return (0, source.count) }
    // SAFETY: the session reads from `source` within this call only; the feed below ends that.
    unsafe goliath_tls_feed(
      handle, source.baseAddress?.assumingMemoryBound(to: UInt8.self), source.count, 0)
    defer { unsafe goliath_tls_feed(handle, nil, 0, 0) }
    var done = 0
    while done < target.count {
      let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: target[done...])
      let result = unsafe goliath_tls_read(
        handle, rest.baseAddress?.assumingMemoryBound(to: UInt8.self), rest.count)
      if result > 0 {
        done += Int(result)
        continue
      }
      let code = Int32(truncatingIfNeeded: result)
      if code == GOLIATH_TLS_AGAIN { break }
      if code == GOLIATH_TLS_INTERRUPTED || code == GOLIATH_TLS_WARNING_ALERT { continue }
      phase = .ended
      if code == 0 { break }
      throw TLSError("Cannot read from TLS channel", code)
    }
    let unread = unsafe goliath_tls_unread(handle)
    return (done, source.count - unread)
  }

  /// Whether the peer's certificate is for the host or node of this name: an alternative name of it (RFC 6125), or its common name.
  package func peerHas(name: String) -> Bool {
    if let peerName, peerName.split(separator: ",").contains("CN=\(name)") { return true }
    var list: OpaquePointer?
    // SAFETY: the local lives through the call; the list frees what it adopts.
    guard unsafe goliath_tls_peer_certificates(handle, &list) >= 0, let list = unsafe list else {
      return false
    }
    return unsafe CertificateList(adopting: list).matches(0, host: name)
  }
}
