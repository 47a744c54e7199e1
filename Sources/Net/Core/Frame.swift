package import Host

/// What a frame's sender left to others, in the terms of virtio (virtio 1.1, 5.1.6).
package struct Offload: Equatable, Sendable {
  /// How a large frame is to be cut.
  package enum Segmentation: UInt8, Sendable {
    case none = 0
    case tcp4 = 1
    case udp = 3
    case tcp6 = 4
  }
  package var segmentation = Segmentation.none
  /// With `tcp4` or `tcp6`: the frame has explicit congestion notification's CWR.
  package var hasECN = false
  /// The checksum at `checksumStart + checksumOffset` holds the pseudo header's sum only.
  package var needsChecksum = false
  /// Checksums are known to be right.
  package var isChecked = false
  /// Bytes of all headers; a hint.
  package var headerLength: UInt16 = 0
  /// Payload of each segment.
  package var segmentSize: UInt16 = 0
  /// From the frame's first byte.
  package var checksumStart: UInt16 = 0
  package var checksumOffset: UInt16 = 0

  package static let none = Offload()
  /// Bytes of the header without and with a count of buffers.
  package static let shortHeader = 10
  package static let longHeader = 12

  package init() {}

  /// Reads a header (`virtio_net_hdr`, little-endian); nil when it makes no sense.
  package init?(from buffer: IOBuffer, at offset: Int) {
    let flags = buffer.loadLittleEndian(UInt8.self, at: offset)
    let kind = buffer.loadLittleEndian(UInt8.self, at: offset + 1)
    guard let segmentation = Segmentation(rawValue: kind & 0x7F) else { return nil }
    self.segmentation = segmentation
    hasECN = kind & 0x80 != 0
    needsChecksum = flags & 1 != 0
    isChecked = flags & 2 != 0
    headerLength = buffer.loadLittleEndian(UInt16.self, at: offset + 2)
    segmentSize = buffer.loadLittleEndian(UInt16.self, at: offset + 4)
    checksumStart = buffer.loadLittleEndian(UInt16.self, at: offset + 6)
    checksumOffset = buffer.loadLittleEndian(UInt16.self, at: offset + 8)
    if segmentation != .none, segmentSize == 0 || !needsChecksum { return nil }
  }

  /// Writes the header's first ten bytes.
  package func store(to buffer: IOBuffer, at offset: Int) {
    let flags: UInt8 = (needsChecksum ? 1 : 0) | (isChecked && !needsChecksum ? 2 : 0)
    buffer.storeLittleEndian(flags, at: offset)
    buffer.storeLittleEndian(segmentation.rawValue | (hasECN ? 0x80 : 0), at: offset + 1)
    buffer.storeLittleEndian(headerLength, at: offset + 2)
    buffer.storeLittleEndian(segmentSize, at: offset + 4)
    buffer.storeLittleEndian(needsChecksum ? checksumStart : 0, at: offset + 6)
    buffer.storeLittleEndian(needsChecksum ? checksumOffset : 0, at: offset + 8)
  }
}

/// What a receiver of frames takes unfinished.
package struct OffloadSet: OptionSet, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }
  /// Partial checksums.
  package static let checksum = OffloadSet(rawValue: 1)
  /// Large TCP frames over IPv4 and IPv6; with congestion notification.
  package static let tcp4 = OffloadSet(rawValue: 2)
  package static let tcp6 = OffloadSet(rawValue: 4)
  package static let ecn = OffloadSet(rawValue: 8)
  /// Large UDP datagrams.
  package static let udp = OffloadSet(rawValue: 16)
  /// Large frames of either kind with checksums that are complete.
  package static let all: OffloadSet = [.checksum, .tcp4, .tcp6, .ecn, .udp]

  /// Whether frames cut that way may be given.
  package func takes(_ offload: Offload) -> Bool {
    switch offload.segmentation {
    case .none: return true
    case .tcp4: return contains(.tcp4) && (!offload.hasECN || contains(.ecn))
    case .tcp6: return contains(.tcp6) && (!offload.hasECN || contains(.ecn))
    case .udp: return contains(.udp)
    }
  }
}

/// One Ethernet frame on its way, without frame check sequence. The memory is lent for the time of a call.
package struct Frame {
  package let buffer: IOBuffer
  package var range: Range<Int>
  package var offload: Offload

  package init(_ buffer: IOBuffer, _ range: Range<Int>, _ offload: Offload = .none) {
    self.buffer = buffer
    self.range = range.clamped(to: 0..<buffer.count)
    self.offload = offload
  }

  /// Bytes.
  package var count: Int { range.count }

  /// The largest frame that goes through here: an IP packet of 64 KiB with Ethernet and VLAN headers.
  package static let maximum = 65_536 + 18

  /// A copy of the frame's bytes.
  package var bytes: [UInt8] { buffer.bytes(range) }

  /// A byte; 0 behind the end.
  func byte(_ offset: Int) -> UInt8 {
    offset >= 0 && offset < range.count
      ? buffer.loadLittleEndian(UInt8.self, at: range.lowerBound + offset) : 0
  }
  /// 16 bits in network order; 0 behind the end.
  package func word(_ offset: Int) -> UInt16 {
    offset >= 0 && offset + 2 <= range.count
      ? buffer.loadBigEndian(UInt16.self, at: range.lowerBound + offset) : 0
  }
  /// 32 bits in network order; 0 behind the end.
  func double(_ offset: Int) -> UInt32 {
    offset >= 0 && offset + 4 <= range.count
      ? buffer.loadBigEndian(UInt32.self, at: range.lowerBound + offset) : 0
  }
  func set(_ value: UInt8, at offset: Int) {
    guard offset >= 0, offset < range.count else { return }
    buffer.storeBigEndian(value, at: range.lowerBound + offset)
  }
  func set(_ value: UInt16, at offset: Int) {
    guard offset >= 0, offset + 2 <= range.count else { return }
    buffer.storeBigEndian(value, at: range.lowerBound + offset)
  }
  func set(_ value: UInt32, at offset: Int) {
    guard offset >= 0, offset + 4 <= range.count else { return }
    buffer.storeBigEndian(value, at: range.lowerBound + offset)
  }
}

/// A MAC address.
package struct MACAddress: Hashable, Sendable, CustomStringConvertible {
  /// The six bytes, the first one highest.
  package let value: UInt64

  package init(_ value: UInt64) { self.value = value & 0xFFFF_FFFF_FFFF }

  package init(bytes: some Collection<UInt8>) {
    value = bytes.prefix(6).reduce(0) { $0 << 8 | UInt64($1) }
  }

  /// Six numbers of two hexadecimal digits with colons (or dashes) between.
  package init?(_ text: String) {
    let parts = text.split(omittingEmptySubsequences: false) { $0 == ":" || $0 == "-" }
    guard parts.count == 6 else { return nil }
    var value: UInt64 = 0
    for part in parts {
      guard part.utf8.count <= 2, part.first != "+", let byte = UInt8(part, radix: 16) else {
        return nil
      }
      value = value << 8 | UInt64(byte)
    }
    self.value = value
  }

  package static let broadcast = MACAddress(0xFFFF_FFFF_FFFF)
  package var bytes: [UInt8] { (0..<6).map { UInt8(truncatingIfNeeded: value >> (40 - 8 * $0)) } }
  package var isMulticast: Bool { value & 0x0100_0000_0000 != 0 }

  package var description: String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
  }
}

extension Frame {
  /// Whom the frame is for.
  package var destination: MACAddress { MACAddress(UInt64(word(0)) << 32 | UInt64(double(2))) }
  /// The VLAN of a tagged frame (IEEE 802.1Q); nil for others.
  package var vlan: UInt16? { word(12) == 0x8100 && count >= 16 ? word(14) & 0xFFF : nil }
}

/// A network cannot be made as asked; the sentence for the user, in QEMU's words where it has some.
package struct NetError: Error, Equatable, Sendable, CustomStringConvertible {
  package let message: String
  /// The device or backend does not exist.
  package let isNotFound: Bool
  /// What went wrong before that and led to it; for the log, not for clients.
  package let cause: String?

  package init(_ message: String, isNotFound: Bool = false, cause: String? = nil) {
    self.message = message
    self.isNotFound = isNotFound
    self.cause = cause
  }
  package var description: String { message }
}
