import Glibc

/// What follows the header in the first cluster (qcow2 specification, Header extensions).
package struct Qcow2HeaderExtensions: Equatable, Sendable {
  /// Where the persistent bitmaps are (Bitmaps extension).
  package struct Bitmaps: Equatable, Sendable {
    package var count: UInt32
    package var directorySize: UInt64
    package var directoryOffset: UInt64

    package init(count: UInt32, directorySize: UInt64, directoryOffset: UInt64) {
      self.count = count
      self.directorySize = directorySize
      self.directoryOffset = directoryOffset
    }
  }

  /// Where the LUKS header is (Full disk encryption header pointer).
  package struct Encryption: Equatable, Sendable {
    package var offset: UInt64
    package var length: UInt64

    package init(offset: UInt64, length: UInt64) {
      self.offset = offset
      self.length = length
    }
  }

  /// An extension that we do not know; preserved.
  package struct Unknown: Equatable, Sendable {
    package var type: UInt32
    package var data: [UInt8]

    package init(type: UInt32, data: [UInt8]) {
      self.type = type
      self.data = data
    }
  }

  private static let backingFormatType: UInt32 = 0xE279_2ACA
  private static let featureNamesType: UInt32 = 0x6803_F857
  private static let bitmapsType: UInt32 = 0x2385_2875
  private static let encryptionType: UInt32 = 0x0537_BE77
  private static let dataFileType: UInt32 = 0x4441_5441

  package static let maximumBitmaps: UInt32 = 65535
  private static let maximumBitmapDirectory: UInt64 = 1024 * 65535

  package var backingFormatBytes: [UInt8]?
  package var dataFileBytes: [UInt8]?
  package var encryption: Encryption?
  package var bitmaps: Bitmaps?
  package var unknown: [Unknown] = []
  /// A sentence for the user about something that is wrong but does not hinder; nil usually.
  package var warning: String?

  package init() {}

  package var backingFormat: String? {
    backingFormatBytes.map { String(decoding: $0, as: UTF8.self) }
  }
  /// The name of the data file as the image has it.
  package var dataFile: String? { dataFileBytes.map { String(decoding: $0, as: UTF8.self) } }

  // MARK: - Reading

  /// Goes through the extensions in `range`, which end at one of type 0 or with the range. Throws `BlockError` with QEMU's sentence.
  init(parsing bytes: [UInt8], in range: Range<Int>, header: Qcow2Header) throws(BlockError) {
    let fields = Fields(bytes)
    var offset = range.lowerBound
    while offset < range.upperBound {
      let type = fields.u32(offset)
      let length = Int(fields.u32(offset + 4))
      offset += 8
      guard offset <= range.upperBound, length <= range.upperBound - offset else {
        throw BlockError(EINVAL, "Header extension too large")
      }
      if type == 0 { return }
      let data = Fields(fields.bytes(offset..<offset + length))
      try take(type, data, header)
      // Rounded: the last one may end the range.
      offset += (length + 7) & ~7
    }
  }

  private mutating func take(_ type: UInt32, _ data: Fields, _ header: Qcow2Header)
    throws(BlockError)
  {
    switch type {
    case Self.backingFormatType:
      guard data.count < 16 else {
        throw BlockError(
          EINVAL, "ERROR: ext_backing_format: len=\(data.count) too large (>=16)")
      }
      backingFormatBytes = Array(data.bytes(0..<data.count).prefix { $0 != 0 })
    case Self.featureNamesType:
      break
    case Self.encryptionType:
      guard header.cryptMethod == 2 else {
        throw BlockError(
          EINVAL, "CRYPTO header extension only expected with LUKS encryption method")
      }
      guard data.count == 16 else {
        throw BlockError(
          EINVAL, "CRYPTO header extension size \(data.count), but expected size 16")
      }
      encryption = Encryption(offset: data.u64(0), length: data.u64(8))
      guard data.u64(0) & UInt64(header.clusterSize - 1) == 0 else {
        throw BlockError(
          EINVAL,
          "Encryption header offset '\(data.u64(0))' is not a multiple of cluster size '\(header.clusterSize)'"
        )
      }
    case Self.bitmapsType:
      try takeBitmaps(data, header)
    case Self.dataFileType:
      dataFileBytes = Array(data.bytes(0..<data.count).prefix { $0 != 0 })
    default:
      unknown.append(Unknown(type: type, data: data.bytes(0..<data.count)))
    }
  }

  private mutating func takeBitmaps(_ data: Fields, _ header: Qcow2Header) throws(BlockError) {
    guard data.count == 24 else {
      throw BlockError(EINVAL, "bitmaps_ext: Invalid extension length")
    }
    guard header.autoclear.contains(.bitmaps) else {
      warning =
        header.version < 3
        ? "This qcow2 v2 image contains bitmaps, but they may have been modified by a program without persistent bitmap support; so now they must all be considered inconsistent"
        : "a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent"
      return
    }
    guard data.u32(4) == 0 else {
      throw BlockError(EINVAL, "bitmaps_ext: Reserved field is not zero")
    }
    let found = Bitmaps(
      count: data.u32(0), directorySize: data.u64(8), directoryOffset: data.u64(16))
    guard found.count <= Self.maximumBitmaps else {
      throw BlockError(
        EINVAL,
        "bitmaps_ext: Image has \(found.count) bitmaps, exceeding the QEMU supported maximum of \(Self.maximumBitmaps)"
      )
    }
    guard found.count > 0 else {
      throw BlockError(EINVAL, "found bitmaps extension with zero bitmaps")
    }
    guard found.directoryOffset & UInt64(header.clusterSize - 1) == 0,
      found.directoryOffset < UInt64(Int64.max) / 2
    else { throw BlockError(EINVAL, "bitmaps_ext: invalid bitmap directory offset") }
    guard found.directorySize <= Self.maximumBitmapDirectory else {
      throw BlockError(
        EINVAL,
        "bitmaps_ext: bitmap directory size (\(found.directorySize)) exceeds the maximum supported size (\(Self.maximumBitmapDirectory))"
      )
    }
    bitmaps = found
  }

  /// Whether the extensions of the header at the start of `bytes` end in it.
  static func endWithin(_ bytes: [UInt8]) -> Bool {
    let fields = Fields(bytes)
    var offset = fields.u32(4) == 2 ? Qcow2Header.length2 : Int(fields.u32(100))
    while offset <= bytes.count - 8 {
      if fields.u32(offset) == 0 { return true }
      offset += 8 + ((Int(fields.u32(offset + 4)) + 7) & ~7)
    }
    return false
  }

  /// The names of the features in `mask` as the image's feature name table has them, in its order, and what it does not name as a number.
  static func incompatibleNames(_ mask: UInt64, _ fields: Fields, in range: Range<Int>) -> String {
    var mask = mask
    var names: [String] = []
    var offset = range.lowerBound
    while offset < range.upperBound {
      let type = fields.u32(offset)
      let length = Int(fields.u32(offset + 4))
      offset += 8
      guard type != 0, offset <= range.upperBound, length <= range.upperBound - offset else {
        break
      }
      if type == featureNamesType {
        for entry in stride(from: offset, to: offset + length / 48 * 48, by: 48) {
          let bit = fields.u8(entry + 1)
          guard fields.u8(entry) == 0, bit < 64, mask & (1 << UInt64(bit)) != 0 else { continue }
          names.append(fields.text(entry + 2..<entry + 48))
          mask &= ~(1 << UInt64(bit))
        }
      }
      offset += (length + 7) & ~7
    }
    if mask != 0 {
      names.append("Unknown incompatible feature: \(String(mask, radix: 16))")
    }
    return names.joined(separator: ", ")
  }

  // MARK: - Writing

  /// Type of feature (0 incompatible, 1 compatible, 2 autoclear), bit, name.
  private static let featureNames: [(UInt8, UInt8, String)] = [
    (0, 0, "dirty bit"), (0, 1, "corrupt bit"), (0, 2, "external data file"),
    (0, 3, "compression type"), (0, 4, "extended L2 entries"), (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"), (2, 1, "raw external data"),
  ]

  func serialize(into output: inout BigEndianBytes, version: UInt32, clusterSize: Int) {
    func put(_ type: UInt32, _ data: [UInt8]) {
      output.u32(type)
      output.u32(UInt32(data.count))
      output.bytes += data
      output.pad(to: 8)
    }
    if let backingFormatBytes { put(Self.backingFormatType, backingFormatBytes) }
    if let dataFileBytes { put(Self.dataFileType, dataFileBytes) }
    if let encryption {
      var data = BigEndianBytes()
      data.u64(encryption.offset)
      data.u64(encryption.length)
      put(Self.encryptionType, data.bytes)
    }
    // Optional, and left out where there is little room (as QEMU does).
    if version >= 3, clusterSize - output.bytes.count >= 4096 {
      var data: [UInt8] = []
      for (type, bit, name) in Self.featureNames {
        let text = Array(name.utf8)
        data += [type, bit] + text + [UInt8](repeating: 0, count: 46 - text.count)
      }
      put(Self.featureNamesType, data)
    }
    if let bitmaps {
      var data = BigEndianBytes()
      data.u32(bitmaps.count)
      data.u32(0)
      data.u64(bitmaps.directorySize)
      data.u64(bitmaps.directoryOffset)
      put(Self.bitmapsType, data.bytes)
    }
    for item in unknown { put(item.type, item.data) }
    put(0, [])
  }
}
