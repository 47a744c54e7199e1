import Host

/// Where the parts of a TCP or UDP frame are; everything was found to be inside of it.
struct FrameHeaders: Equatable {
  enum Transport { case tcp, udp }
  /// Offsets from the frame's start.
  let network: Int
  let transport: Int
  let payload: Int
  let kind: Transport
  let isIPv6: Bool
  /// The frame's end as the IP header has it; Ethernet pads short frames.
  let end: Int

  /// Nil for anything else, for fragments, and for what does not hold together. `isLarge`: the IP header's length may be wrong.
  init?(_ frame: Frame, isLarge: Bool = false) {
    var at = 12
    var type = frame.word(at)
    var tags = 0
    while type == 0x8100 || type == 0x88A8, tags < 2 {
      at += 4
      tags += 1
      type = frame.word(at)
    }
    at += 2
    network = at
    let number: UInt8
    switch type {
    case 0x0800:
      isIPv6 = false
      let first = frame.byte(at)
      let length = Int(first & 15) * 4
      guard first >> 4 == 4, length >= 20, at + length <= frame.count,
        frame.word(at + 6) & 0x3FFF == 0
      else { return nil }
      let total = Int(frame.word(at + 2))
      end = isLarge || total == 0 ? frame.count : at + total
      number = frame.byte(at + 9)
      at += length
    case 0x86DD:
      isIPv6 = true
      guard frame.byte(at) >> 4 == 6, at + 40 <= frame.count else { return nil }
      let total = Int(frame.word(at + 4))
      end = isLarge || total == 0 ? frame.count : at + 40 + total
      number = frame.byte(at + 6)
      at += 40
    default: return nil
    }
    transport = at
    guard end <= frame.count else { return nil }
    switch number {
    case 6:
      kind = .tcp
      let length = Int(frame.byte(at + 12) >> 4) * 4
      guard length >= 20 else { return nil }
      payload = at + length
    case 17:
      kind = .udp
      payload = at + 8
    default: return nil
    }
    guard payload <= end else { return nil }
  }

  /// Offset of the transport's checksum.
  var checksum: Int { transport + (kind == .tcp ? 16 : 6) }

  /// The pseudo header's sum (RFC 793, 3.1; RFC 8200, 8.1) for `length` bytes of transport header and payload.
  func pseudoSum(_ frame: Frame, length: Int) -> UInt32 {
    let start = frame.range.lowerBound + network
    let addresses = isIPv6 ? start + 8..<start + 40 : start + 12..<start + 20
    var sum = UInt32(frame.buffer.onesSum(addresses))
    sum += kind == .tcp ? 6 : 17
    sum += UInt32(length >> 16) + UInt32(length & 0xFFFF)
    return Checksum.fold(sum)
  }

  /// Writes the IPv4 header's checksum.
  func finishNetwork(_ frame: Frame) {
    guard !isIPv6 else { return }
    frame.set(UInt16(0), at: network + 10)
    let start = frame.range.lowerBound
    frame.set(~frame.buffer.onesSum(start + network..<start + transport), at: network + 10)
  }

  /// Writes the transport's checksum over everything up to `end`.
  func finishTransport(_ frame: Frame, end: Int) {
    frame.set(UInt16(0), at: checksum)
    let start = frame.range.lowerBound
    let sum =
      pseudoSum(frame, length: end - transport)
      + UInt32(frame.buffer.onesSum(start + transport..<start + end))
    let value = ~UInt16(truncatingIfNeeded: Checksum.fold(sum))
    frame.set(kind == .udp && value == 0 ? 0xFFFF : value, at: checksum)
  }

  /// Whether the transport's checksum is right.
  func isTransportIntact(_ frame: Frame) -> Bool {
    if kind == .udp, !isIPv6, frame.word(checksum) == 0 { return true }
    let start = frame.range.lowerBound
    let sum =
      pseudoSum(frame, length: end - transport)
      + UInt32(frame.buffer.onesSum(start + transport..<start + end))
    return Checksum.fold(sum) == 0xFFFF
  }
}

/// Ones' complement arithmetic (RFC 1071).
enum Checksum {
  static func fold(_ sum: UInt32) -> UInt32 {
    let once = (sum & 0xFFFF) + (sum >> 16)
    return (once & 0xFFFF) + (once >> 16)
  }

  /// Completes a partial checksum; false when the frame does not have the place.
  static func finish(_ frame: inout Frame) -> Bool {
    guard frame.offload.needsChecksum else { return true }
    let start = Int(frame.offload.checksumStart)
    let place = start + Int(frame.offload.checksumOffset)
    guard start < frame.count, place + 2 <= frame.count else { return false }
    // What is behind the IP packet is padding.
    var end = frame.count
    if let headers = FrameHeaders(frame), headers.transport == start { end = headers.end }
    let first = frame.range.lowerBound
    // The pseudo header's sum stands in the field already.
    let value = ~frame.buffer.onesSum(first + start..<first + end)
    let isUDP = frame.offload.checksumOffset == 6
    frame.set(value == 0 && isUDP ? 0xFFFF : value, at: place)
    frame.offload.needsChecksum = false
    frame.offload.isChecked = true
    return true
  }
}
