import Host
import Net
import Support

/// Someone at one end of a cable who keeps what comes.
@MainLoop
final class Listener: NetPortOwner {
  private var made: NetPort?
  var frames: [[UInt8]] = []
  var offloads: [Offload] = []
  var hasRoom = true
  var resumed = 0

  init(_ name: String, accepts: OffloadSet = [], kind: String = "nic") {
    made = nil
    let port = NetPort(name, kind: kind, owner: self)
    port.accepts = accepts
    made = port
  }

  var port: NetPort {
    guard let made else { preconditionFailure("made in init") }
    return made
  }

  func receive(_ frame: Frame, on port: NetPort) -> Bool {
    guard hasRoom else { return false }
    frames.append(frame.bytes)
    offloads.append(frame.offload)
    return true
  }
  func resumeSending(on port: NetPort) { resumed += 1 }
  func linkChanged(on port: NetPort) {}
}

/// Frames for tests.
enum Sample {
  static func sum(_ bytes: some Collection<UInt8>) -> UInt16 {
    var total: UInt32 = 0
    for (index, byte) in bytes.enumerated() {
      total += index & 1 == 0 ? UInt32(byte) << 8 : UInt32(byte)
    }
    while total > 0xFFFF { total = (total & 0xFFFF) + (total >> 16) }
    return UInt16(total)
  }

  static func word(_ value: Int) -> [UInt8] {
    [UInt8(truncatingIfNeeded: value >> 8), UInt8(truncatingIfNeeded: value)]
  }

  static let addresses: [UInt8] = [10, 0, 2, 15, 10, 0, 2, 2]

  /// A TCP segment over IPv4 in an Ethernet frame with right checksums.
  static func tcp(
    sequence: Int = 1000, flags: UInt8 = 0x10, payload: [UInt8], identification: Int = 7,
    port: Int = 80
  ) -> [UInt8] {
    var header =
      word(40_000) + word(port) + word(sequence >> 16) + word(sequence) + [0, 0, 0, 9]
      + [0x50, flags] + word(4096) + [0, 0, 0, 0]
    let pseudo = addresses + [0, 6] + word(20 + payload.count)
    let check = ~sum(pseudo + header + payload)
    header[16] = UInt8(check >> 8)
    header[17] = UInt8(truncatingIfNeeded: check)
    return ip(header + payload, 6, identification)
  }

  static func udp(payload: [UInt8]) -> [UInt8] {
    var header = word(5000) + word(53) + word(8 + payload.count) + [0, 0]
    let check = ~sum(addresses + [0, 17] + word(8 + payload.count) + header + payload)
    header[6] = UInt8(check >> 8)
    header[7] = UInt8(truncatingIfNeeded: check)
    return ip(header + payload, 17, 7)
  }

  private static func ip(_ body: [UInt8], _ number: UInt8, _ identification: Int) -> [UInt8] {
    var header: [UInt8] =
      [0x45, 0] + word(20 + body.count) + word(identification) + [0x40, 0, 64, number, 0, 0]
      + addresses
    let check = ~sum(header)
    header[10] = UInt8(check >> 8)
    header[11] = UInt8(truncatingIfNeeded: check)
    return [0x52, 0x55, 10, 0, 2, 2, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 8, 0] + header + body
  }

  /// Whether a TCP or UDP frame's checksums are both right.
  static func isIntact(_ frame: [UInt8]) -> Bool {
    let total = Int(frame[16]) << 8 | Int(frame[17])
    let body = frame[34..<14 + total]
    return sum(frame[14..<34]) == 0xFFFF
      && sum(Array(frame[26..<34]) + [0, frame[23]] + word(body.count) + Array(body)) == 0xFFFF
  }

  static func payload(_ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }
  }

  /// The offload of a large TCP frame whose checksum is left to others: the pseudo header's sum stands in its field.
  static func large(_ frame: inout [UInt8], size: UInt16) -> Offload {
    let length = frame.count - 34
    let partial = sum(addresses + [0, 6] + word(length))
    frame[50] = UInt8(partial >> 8)
    frame[51] = UInt8(truncatingIfNeeded: partial)
    var offload = Offload()
    offload.needsChecksum = true
    offload.segmentation = .tcp4
    offload.segmentSize = size
    offload.headerLength = 54
    offload.checksumStart = 34
    offload.checksumOffset = 16
    return offload
  }
}

extension Frame {
  init(_ bytes: [UInt8], _ offload: Offload = .none) {
    self.init(IOBuffer(bytes), 0..<bytes.count, offload)
  }
}
