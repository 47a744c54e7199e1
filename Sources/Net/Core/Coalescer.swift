import Host

/// Joins segments of one TCP connection that come one after the other into one large frame, which costs a guest a fraction of their
/// handling. The opposite of `Segmenter`.
final class Coalescer {
  private let buffer = IOBuffer(count: Frame.maximum)
  private var length = 0
  private var headers: FrameHeaders?
  private var size = 0
  private var segments = 0
  private var nextSequence: UInt32 = 0
  /// A segment shorter than the others, or with PSH, ends the frame.
  private var isComplete = false

  var isEmpty: Bool { headers == nil }
  private var joined: Frame { Frame(buffer, 0..<length) }

  /// Takes a frame that continues what is held, or begins; false: it is for somebody else, after `take`.
  ///
  /// `isTrusted`: its checksum is right.
  func add(_ frame: Frame, isTrusted: Bool) -> Bool {
    if let held = headers {
      guard continues(frame, held, isTrusted) else { return false }
      return true
    }
    guard let found = FrameHeaders(frame), found.kind == .tcp, found.payload < found.end,
      frame.byte(found.transport + 13) & ~0x08 == 0x10,
      !found.isIPv6 || frame.byte(found.network + 6) == 6,
      found.isIPv6 || found.transport == found.network + 20,
      isTrusted || found.isTransportIntact(frame)
    else { return false }
    headers = found
    length = found.end
    buffer.copy(
      frame.range.lowerBound..<frame.range.lowerBound + length, of: frame.buffer, at: 0)
    size = found.end - found.payload
    segments = 1
    nextSequence = frame.double(found.transport + 4) &+ UInt32(truncatingIfNeeded: size)
    isComplete = frame.byte(found.transport + 13) & 8 != 0
    return true
  }

  private func continues(_ frame: Frame, _ held: FrameHeaders, _ isTrusted: Bool) -> Bool {
    guard !isComplete, let found = FrameHeaders(frame), found.network == held.network,
      found.transport == held.transport, found.payload == held.payload, found.kind == .tcp,
      found.isIPv6 == held.isIPv6
    else { return false }
    let part = found.end - found.payload
    let start = frame.range.lowerBound
    let transport = held.transport
    guard part > 0, part <= size, length - held.network + part <= 65_535,
      frame.double(transport + 4) == nextSequence,
      frame.byte(transport + 13) & ~0x08 == 0x10
    else { return false }
    // The same addresses, ports, and everything else that is to be alike.
    let isSame =
      frame.buffer.equals(start..<start + held.network, buffer, at: 0)
      && frame.double(transport) == joined.double(transport)
      && (held.isIPv6
        ? frame.buffer.equals(
          start + held.network + 6..<start + held.network + 40, buffer, at: held.network + 6)
          && frame.double(held.network) == joined.double(held.network)
        : frame.word(held.network) == joined.word(held.network)
          && frame.word(held.network + 8) == joined.word(held.network + 8)
          && frame.buffer.equals(
            start + held.network + 12..<start + held.network + 20, buffer, at: held.network + 12))
      && frame.buffer.equals(
        start + transport + 20..<start + held.payload, buffer, at: transport + 20)
    guard isSame, isTrusted || found.isTransportIntact(frame) else { return false }
    guard
      buffer.copy(start + found.payload..<start + found.end, of: frame.buffer, at: length)
    else { return false }
    length += part
    segments += 1
    nextSequence = nextSequence &+ UInt32(truncatingIfNeeded: part)
    // The latest acknowledgement, window and PSH count.
    joined.set(frame.double(transport + 8), at: transport + 8)
    joined.set(frame.word(transport + 14), at: transport + 14)
    let flags = frame.byte(transport + 13)
    joined.set(flags | joined.byte(transport + 13), at: transport + 13)
    isComplete = part < size || flags & 8 != 0
    return true
  }

  /// The frame that is held, if any; the next one begins anew.
  func take() -> Frame? {
    guard let headers else { return nil }
    self.headers = nil
    var frame = joined
    frame.offload.isChecked = true
    guard segments > 1 else { return frame }
    if headers.isIPv6 {
      frame.set(UInt16(truncatingIfNeeded: length - headers.network - 40), at: headers.network + 4)
    } else {
      frame.set(UInt16(truncatingIfNeeded: length - headers.network), at: headers.network + 2)
      headers.finishNetwork(frame)
    }
    let sum = headers.pseudoSum(frame, length: length - headers.transport)
    frame.set(UInt16(truncatingIfNeeded: sum), at: headers.checksum)
    frame.offload.isChecked = false
    frame.offload.needsChecksum = true
    frame.offload.segmentation = headers.isIPv6 ? .tcp6 : .tcp4
    frame.offload.headerLength = UInt16(truncatingIfNeeded: headers.payload)
    frame.offload.segmentSize = UInt16(truncatingIfNeeded: size)
    frame.offload.checksumStart = UInt16(truncatingIfNeeded: headers.transport)
    frame.offload.checksumOffset = 16
    return frame
  }
}
