import Block
import Host
import Shm

/// What a driver asks of a disk (virtio 1.1, 5.2.6): one element of a queue, taken apart. Its room is used again for the next.
struct DiskRequest: Sendable {
  enum Kind {
    static let read: UInt32 = 0
    static let write: UInt32 = 1
    static let flush: UInt32 = 4
    static let identify: UInt32 = 8
    static let discard: UInt32 = 11
    static let writeZeroes: UInt32 = 13
  }
  /// The last byte that the driver reads.
  enum Status {
    static let ok: UInt8 = 0
    static let failed: UInt8 = 1
    static let unsupported: UInt8 = 2
  }
  static let headerSize: UInt64 = 16
  static let segmentSize: UInt64 = 16
  static let sectorShift: UInt64 = 9
  /// Bytes of a serial number.
  static let identitySize = 20

  var element = VirtQueueElement()
  /// Memory of the data.
  var vector = IOVector()
  /// Keeps it this node's while the request is under way.
  var pins = MemoryPins()
  var kind: UInt32 = 0
  /// Byte of the disk where it begins.
  var offset: UInt64 = 0
  /// Where the status goes.
  var statusAddress = GuestAddress(0)
  /// The next of those that are one request to the block layer; -1 for none.
  var next = -1
  /// Memory of the first one's data and of all that follow.
  var joined = IOVector()

  /// Bytes for the guest without the status.
  var inCount: UInt64 { element.writableLength - 1 }
  /// Bytes from the guest behind the header.
  var outCount: UInt64 { element.readableLength - DiskRequest.headerSize }

  /// A read's or a write's request to the block layer.
  var transfer: BlockRequest {
    kind == Kind.read ? .read(offset, into: vector) : .write(offset, from: vector)
  }

  /// Reads the header and finds the status byte. Answers why the driver is broken, or nil.
  mutating func parse(_ memory: GuestMemory) -> String? {
    guard element.readableLength >= DiskRequest.headerSize else {
      return "virtio-blk request outhdr too short"
    }
    guard let last = element.writable.last(where: { $0.length > 0 }) else {
      return "virtio-blk request inhdr too short"
    }
    statusAddress = last.address + UInt64(last.length - 1)
    guard let header = DiskRequest.header(element.readable, memory) else {
      return "virtio-blk request header is not in memory"
    }
    kind = header.kind
    let (bytes, overflow) = header.sector.multipliedReportingOverflow(by: 512)
    // Beyond every disk.
    offset = overflow ? UInt64.max & ~511 : bytes
    return nil
  }

  private static func header(
    _ ranges: [GuestRange], _ memory: GuestMemory
  ) -> (kind: UInt32, sector: UInt64)? {
    guard let first = ranges.first else { return nil }
    if first.length >= UInt32(headerSize) {
      guard let kind = memory.load(first.address, as: UInt32.self),
        let sector = memory.load(first.address + 8, as: UInt64.self)
      else { return nil }
      return (kind, sector)
    }
    guard let bytes = memory.gather(ranges, limit: Int(headerSize)),
      bytes.count == Int(headerSize)
    else { return nil }
    return (
      UInt32(truncatingIfNeeded: little(bytes[0..<4])), little(bytes[8..<16])
    )
  }

  static func little(_ bytes: ArraySlice<UInt8>) -> UInt64 {
    bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
  }

  /// The one segment of a discard or write zeroes (5.2.6.2): sector, sectors, flags; nil when there is not exactly one.
  func segment(_ memory: GuestMemory) -> (sector: UInt64, count: UInt32, flags: UInt32)? {
    let all = DiskRequest.headerSize + DiskRequest.segmentSize
    guard outCount == DiskRequest.segmentSize,
      let bytes = memory.gather(element.readable, limit: Int(all)), bytes.count == Int(all)
    else { return nil }
    return (
      DiskRequest.little(bytes[16..<24]),
      UInt32(truncatingIfNeeded: DiskRequest.little(bytes[24..<28])),
      UInt32(truncatingIfNeeded: DiskRequest.little(bytes[28..<32]))
    )
  }
}
