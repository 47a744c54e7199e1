import Host

/// Cuts large frames into such as a network takes (what hardware calls TSO and UFO). One buffer, used again for each segment.
final class Segmenter {
  private let buffer = IOBuffer(count: Frame.maximum + 64)

  /// Calls `body` for each segment; the memory is good until `body` returns. False when the frame does not hold together.
  func segment(_ frame: Frame, _ body: (Frame) -> Void) -> Bool {
    guard let headers = FrameHeaders(frame, isLarge: true), headers.end == frame.count,
      frame.offload.segmentSize > 0
    else { return false }
    switch (frame.offload.segmentation, headers.kind, headers.isIPv6) {
    case (.tcp4, .tcp, false), (.tcp6, .tcp, true): cutTCP(frame, headers, body)
    case (.udp, .udp, let isIPv6): return cutUDP(frame, headers, isIPv6, body)
    default: return false
    }
    return true
  }

  private func cutTCP(_ frame: Frame, _ headers: FrameHeaders, _ body: (Frame) -> Void) {
    let size = Int(frame.offload.segmentSize)
    let start = frame.range.lowerBound
    let head = headers.payload
    let total = frame.count - head
    let sequence = frame.double(headers.transport + 4)
    let flags = frame.byte(headers.transport + 13)
    let identification = frame.word(headers.network + 4)
    var done = 0
    var index: UInt16 = 0
    repeat {
      let part = min(size, total - done)
      let isLast = done + part >= total
      buffer.copy(start..<start + head, of: frame.buffer, at: 0)
      buffer.copy(start + head + done..<start + head + done + part, of: frame.buffer, at: head)
      var segment = Frame(buffer, 0..<head + part)
      if headers.isIPv6 {
        segment.set(
          UInt16(truncatingIfNeeded: head + part - headers.network - 40), at: headers.network + 4)
      } else {
        segment.set(
          UInt16(truncatingIfNeeded: head + part - headers.network), at: headers.network + 2)
        segment.set(identification &+ index, at: headers.network + 4)
        headers.finishNetwork(segment)
      }
      segment.set(sequence &+ UInt32(truncatingIfNeeded: done), at: headers.transport + 4)
      // FIN and PSH belong to the last one, CWR to the first.
      var own = flags
      if !isLast { own &= ~0x09 }
      if done > 0 { own &= ~0x80 }
      segment.set(own, at: headers.transport + 13)
      headers.finishTransport(segment, end: head + part)
      segment.offload.isChecked = true
      body(segment)
      done += part
      index &+= 1
    } while done < total
  }

  /// A large datagram becomes fragments (RFC 791, RFC 8200).
  private func cutUDP(
    _ frame: Frame, _ headers: FrameHeaders, _ isIPv6: Bool, _ body: (Frame) -> Void
  ) -> Bool {
    let start = frame.range.lowerBound
    let head = headers.transport
    let total = frame.count - head
    let size = max(8, Int(frame.offload.segmentSize) & ~7)
    // The checksum covers the whole datagram, whose length the header tells.
    frame.set(UInt16(truncatingIfNeeded: total), at: headers.transport + 4)
    headers.finishTransport(frame, end: frame.count)
    let extra = isIPv6 ? 8 : 0
    let identification =
      isIPv6 ? frame.double(headers.transport) ^ frame.double(headers.network + 20) : 0
    var done = 0
    repeat {
      let part = min(size, total - done)
      let isLast = done + part >= total
      buffer.copy(start..<start + head, of: frame.buffer, at: 0)
      buffer.copy(
        start + head + done..<start + head + done + part, of: frame.buffer, at: head + extra)
      let segment = Frame(buffer, 0..<head + extra + part)
      let offset = UInt16(truncatingIfNeeded: done)
      if isIPv6 {
        segment.set(UInt16(truncatingIfNeeded: 8 + part), at: headers.network + 4)
        segment.set(UInt8(44), at: headers.network + 6)
        segment.set(UInt16(17) << 8, at: head)
        segment.set(offset | (isLast ? 0 : 1), at: head + 2)
        segment.set(identification, at: head + 4)
      } else {
        segment.set(
          UInt16(truncatingIfNeeded: head + part - headers.network), at: headers.network + 2)
        segment.set(offset >> 3 | (isLast ? 0 : 0x2000), at: headers.network + 6)
        headers.finishNetwork(segment)
      }
      body(segment)
      done += part
    } while done < total
    return true
  }
}
