import Glibc

/// The header of a qcow2 image (qcow2 specification, Header; versions 2 and 3), checked, and its extensions.
///
/// Offsets and sizes are bytes. A value made by `parse` or `read` is safe to compute with: every table lies below 2^63, is aligned to a cluster and
/// no larger than QEMU allows; nothing is known of what the tables hold.
package struct Qcow2Header: Equatable, Sendable {
  /// Features without which the image must not be opened (`incompatible_features`).
  package struct Incompatible: OptionSet, Sendable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }

    /// Refcounts may be behind the tables.
    package static let dirty = Incompatible(rawValue: 1)
    /// Not to be written but for repairs.
    package static let corrupt = Incompatible(rawValue: 2)
    /// Guest clusters are in another file.
    package static let dataFile = Incompatible(rawValue: 4)
    /// `compressionType` is not zlib.
    package static let compressionType = Incompatible(rawValue: 8)
    /// Entries of L2 tables are 16 bytes, with 32 subclusters each.
    package static let extendedL2 = Incompatible(rawValue: 16)
    package static let known = Incompatible(rawValue: 31)
  }

  /// Features that a program may ignore (`compatible_features`).
  package struct Compatible: OptionSet, Sendable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }

    package static let lazyRefcounts = Compatible(rawValue: 1)
  }

  /// Features that a program which does not know them clears when it writes (`autoclear_features`).
  package struct Autoclear: OptionSet, Sendable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }

    /// What the bitmaps extension describes is consistent.
    package static let bitmaps = Autoclear(rawValue: 1)
    /// The data file is the image's content as it is.
    package static let dataFileRaw = Autoclear(rawValue: 2)
    package static let known = Autoclear(rawValue: 3)
  }

  /// How compressed clusters are compressed.
  package enum CompressionType: UInt8, Sendable, CaseIterable {
    case zlib = 0
    case zstd = 1

    /// As in options and `info`.
    package var name: String { self == .zlib ? "zlib" : "zstd" }
  }

  package static let magic: UInt32 = 0x5146_49FB
  package static let clusterBitsRange: ClosedRange<UInt32> = 9...21
  package static let maximumL1Size = 32 << 20
  package static let maximumRefcountTableSize = 8 << 20
  package static let maximumSnapshots = 65536
  /// Bytes of the header that we know of (version 3).
  package static let length3 = 112
  package static let length2 = 72

  /// 2 or 3.
  package var version: UInt32 = 3
  /// Where the backing file's name is in the first cluster; 0 when there is none. `serialize` sets it.
  package private(set) var backingFileOffset: UInt64 = 0
  /// The backing file's name as it is stored; nil when there is none.
  package var backingFileBytes: [UInt8]?
  package var clusterBits: UInt32 = 16
  /// The virtual size.
  package var size: UInt64 = 0
  /// 0 none, 1 AES, 2 LUKS.
  package var cryptMethod: UInt32 = 0
  /// Entries of the active L1 table.
  package var l1Size: UInt32 = 0
  package var l1TableOffset: UInt64 = 0
  package var refcountTableOffset: UInt64 = 0
  package var refcountTableClusters: UInt32 = 0
  package var snapshotCount: UInt32 = 0
  package var snapshotsOffset: UInt64 = 0
  package var incompatible: Incompatible = []
  package var compatible: Compatible = []
  package var autoclear: Autoclear = []
  package var refcountOrder: UInt32 = 4
  package var compressionType = CompressionType.zlib
  /// What a version 3 header longer than ours has behind our fields; preserved.
  package var unknownFields: [UInt8] = []
  package var extensions = Qcow2HeaderExtensions()

  package init() {}

  // MARK: - What follows from the fields

  package var clusterSize: Int { 1 << Int(clusterBits) }
  package var hasExtendedL2: Bool { incompatible.contains(.extendedL2) }
  package var hasDataFile: Bool { incompatible.contains(.dataFile) }
  package var l2EntrySize: Int { hasExtendedL2 ? 16 : 8 }
  /// Entries of an L2 table.
  package var l2Entries: Int { clusterSize / l2EntrySize }
  /// Guest bytes that an L2 table maps.
  package var l2Coverage: UInt64 { UInt64(l2Entries) << UInt64(clusterBits) }
  package var refcountBits: Int { 1 << Int(refcountOrder) }
  /// Entries of a refcount block.
  package var refcountBlockEntries: Int { clusterSize * 8 / refcountBits }
  /// Entries of the refcount table.
  package var refcountTableEntries: Int { Int(refcountTableClusters) * clusterSize / 8 }
  /// The highest refcount that can be stored.
  package var maximumRefcount: UInt64 {
    refcountOrder == 6 ? UInt64(Int64.max) : (UInt64(1) << UInt64(refcountBits)) - 1
  }
  /// L1 entries that `bytes` of guest space need.
  package func l1Entries(for bytes: UInt64) -> UInt64 {
    bytes / l2Coverage + (bytes % l2Coverage == 0 ? 0 : 1)
  }
  /// The name of the backing file.
  package var backingFile: String? {
    backingFileBytes.map { String(decoding: $0, as: UTF8.self) }
  }

  // MARK: - Reading

  /// Reads and checks the header of an image. Throws `BlockError` as `parse` does, and what reading throws.
  package static func read(from file: any BlockNode, options: ParseOptions = [])
    throws(BlockError) -> Qcow2Header
  {
    var bytes = try file.bytes(0, 65536)
    let bits = Fields(bytes).u32(20)
    if bits > 16, clusterBitsRange.contains(bits) {
      // All that is in use of a large cluster is nearly always at its beginning.
      let header = Fields(bytes)
      let end = header.u64(8) &+ UInt64(header.u32(16))
      if end > 65536 || !Qcow2HeaderExtensions.endWithin(bytes) {
        bytes = try file.bytes(0, 1 << Int(bits))
      }
    }
    return try parse(bytes, options: options)
  }

  package struct ParseOptions: OptionSet, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }

    /// For a check: damage of what a check can repair (refcount table, snapshot table) does not matter.
    package static let check = ParseOptions(rawValue: 1)
    /// The image is to be written: corrupt ones are refused unless it is for a check.
    package static let writable = ParseOptions(rawValue: 2)
  }

  /// Checks the header in `bytes`, the first cluster of an image or as much of it as there is (what is missing counts as zeros).
  /// Throws `BlockError` with QEMU's sentence for the first thing that is wrong.
  package static func parse(_ bytes: [UInt8], options: ParseOptions = []) throws(BlockError)
    -> Qcow2Header
  {
    let fields = Fields(bytes)
    guard fields.u32(0) == magic else { throw BlockError(EINVAL, "Image is not in qcow2 format") }
    var header = Qcow2Header()
    header.version = fields.u32(4)
    guard header.version == 2 || header.version == 3 else {
      throw BlockError(ENOTSUP, "Unsupported qcow2 version \(header.version)")
    }
    header.clusterBits = fields.u32(20)
    guard clusterBitsRange.contains(header.clusterBits) else {
      throw BlockError(EINVAL, "Unsupported cluster size: 2^\(header.clusterBits)")
    }
    header.size = fields.u64(24)
    header.cryptMethod = fields.u32(32)
    header.l1Size = fields.u32(36)
    header.l1TableOffset = fields.u64(40)
    header.refcountTableOffset = fields.u64(48)
    header.refcountTableClusters = fields.u32(56)
    header.snapshotCount = fields.u32(60)
    header.snapshotsOffset = fields.u64(64)
    header.backingFileOffset = fields.u64(8)
    let length = try header.parseVersion3(fields)
    guard header.backingFileOffset <= UInt64(header.clusterSize) else {
      throw BlockError(EINVAL, "Invalid backing file offset")
    }
    let extensionsEnd =
      header.backingFileOffset != 0 ? Int(header.backingFileOffset) : header.clusterSize
    try header.checkFeatures(fields, extensions: length..<max(length, extensionsEnd), options)
    try header.checkTables(options)
    header.extensions = try Qcow2HeaderExtensions(
      parsing: bytes, in: length..<max(length, extensionsEnd), header: header)
    try header.parseBackingFile(fields)
    return header
  }

  /// The fields of version 3; returns the header's length.
  private mutating func parseVersion3(_ fields: Fields) throws(BlockError) -> Int {
    guard version == 3 else {
      return Self.length2
    }
    incompatible = Incompatible(rawValue: fields.u64(72))
    compatible = Compatible(rawValue: fields.u64(80))
    autoclear = Autoclear(rawValue: fields.u64(88))
    refcountOrder = fields.u32(96)
    let length = fields.u32(100)
    guard length >= 104 else { throw BlockError(EINVAL, "qcow2 header too short") }
    guard length <= clusterSize else {
      throw BlockError(EINVAL, "qcow2 header exceeds cluster size")
    }
    if length > Self.length3 {
      unknownFields = fields.bytes(Self.length3..<Int(length))
    }
    let type = length > 104 ? fields.u8(104) : 0
    guard let known = CompressionType(rawValue: type) else {
      throw BlockError(ENOTSUP, "qcow2: unknown compression type: \(type)")
    }
    compressionType = known
    if known == .zlib, incompatible.contains(.compressionType) {
      throw BlockError(
        EINVAL, "qcow2: Compression type incompatible feature bit must not be set")
    }
    if known != .zlib, !incompatible.contains(.compressionType) {
      throw BlockError(EINVAL, "qcow2: Compression type incompatible feature bit must be set")
    }
    return Int(length)
  }

  private func checkFeatures(
    _ fields: Fields, extensions: Range<Int>, _ options: ParseOptions
  ) throws(BlockError) {
    let unknown = incompatible.subtracting(.known)
    if !unknown.isEmpty {
      let names = Qcow2HeaderExtensions.incompatibleNames(
        unknown.rawValue, fields, in: extensions)
      throw BlockError(ENOTSUP, "Unsupported qcow2 feature(s): \(names)")
    }
    if incompatible.contains(.corrupt), options.contains(.writable), !options.contains(.check) {
      throw BlockError(EACCES, "qcow2: Image is corrupt; cannot be opened read/write")
    }
    if hasExtendedL2, clusterBits < 14 {
      throw BlockError(EINVAL, "Unsupported subcluster size: \(clusterSize / 32)")
    }
    guard refcountOrder <= 6 else {
      throw BlockError(
        EINVAL, "Reference count entry width too large; may not exceed 64 bits")
    }
    guard cryptMethod <= 2 else {
      throw BlockError(EINVAL, "Unsupported encryption method \(cryptMethod)")
    }
  }

  private func checkTables(_ options: ParseOptions) throws(BlockError) {
    let check = options.contains(.check)
    if refcountTableClusters == 0, !check {
      throw BlockError(EINVAL, "Image does not contain a reference count table")
    }
    try checkTable(
      "Reference count table", at: refcountTableOffset,
      UInt64(refcountTableClusters) * UInt64(clusterSize / 8), entrySize: 8,
      atMost: UInt64(Self.maximumRefcountTableSize))
    if !check {
      try checkTable(
        "Snapshot table", at: snapshotsOffset, UInt64(snapshotCount), entrySize: 40,
        atMost: UInt64(40 * Self.maximumSnapshots))
    }
    try checkTable(
      "Active L1 table", at: l1TableOffset, UInt64(l1Size), entrySize: 8,
      atMost: UInt64(Self.maximumL1Size))
    let needed = l1Entries(for: size)
    guard needed <= UInt64(Int32.max), size <= UInt64(Int64.max) else {
      throw BlockError(EFBIG, "Image is too big")
    }
    guard UInt64(l1Size) >= needed else { throw BlockError(EINVAL, "L1 table is too small") }
  }

  /// Refuses a table that is too large, unaligned or beyond 2^63.
  package func checkTable(
    _ name: String, at offset: UInt64, _ entries: UInt64, entrySize: UInt64, atMost: UInt64
  ) throws(BlockError) {
    guard entries <= atMost / entrySize else { throw BlockError(EFBIG, "\(name) too large") }
    guard offset <= UInt64(Int64.max) - entries * entrySize,
      offset & UInt64(clusterSize - 1) == 0
    else { throw BlockError(EINVAL, "\(name) offset invalid") }
  }

  private mutating func parseBackingFile(_ fields: Fields) throws(BlockError) {
    guard backingFileOffset != 0 else { return }
    let length = fields.u32(16)
    guard length <= 1023, Int(length) <= clusterSize - Int(backingFileOffset) else {
      throw BlockError(EINVAL, "Backing file name too long")
    }
    let start = Int(backingFileOffset)
    var name = fields.bytes(start..<start + Int(length))
    // As a C string, as QEMU takes it.
    if let end = name.firstIndex(of: 0) { name.removeSubrange(end...) }
    backingFileBytes = name.isEmpty ? nil : name
  }

  // MARK: - Writing

  /// The header with its extensions and the backing file's name, as QEMU lays them out, at most a cluster. Throws `BlockError` (`ENOSPC`) when
  /// they do not fit.
  package mutating func serialize() throws(BlockError) -> [UInt8] {
    var output = BigEndianBytes()
    backingFileOffset = 0
    output.u32(Self.magic)
    output.u32(version)
    output.u64(0)
    output.u32(UInt32(backingFileBytes?.count ?? 0))
    output.u32(clusterBits)
    output.u64(size)
    output.u32(cryptMethod)
    output.u32(l1Size)
    output.u64(l1TableOffset)
    output.u64(refcountTableOffset)
    output.u32(refcountTableClusters)
    output.u32(snapshotCount)
    output.u64(snapshotsOffset)
    if version >= 3 {
      output.u64(incompatible.rawValue)
      output.u64(compatible.rawValue)
      output.u64(autoclear.rawValue)
      output.u32(refcountOrder)
      output.u32(UInt32(Self.length3 + unknownFields.count))
      output.u64(UInt64(compressionType.rawValue) << 56)
      output.bytes += unknownFields
    }
    extensions.serialize(into: &output, version: version, clusterSize: clusterSize)
    if let name = backingFileBytes {
      backingFileOffset = UInt64(output.bytes.count)
      output.bytes += name
      output.replace(u64: backingFileOffset, at: 8)
    }
    guard output.bytes.count <= clusterSize, (backingFileBytes?.count ?? 0) <= 1023 else {
      throw BlockError(ENOSPC, "No space left in the file header")
    }
    return output.bytes
  }

  /// Writes the whole first cluster.
  package mutating func write(to file: any BlockNode) throws(BlockError) {
    var bytes = try serialize()
    bytes += [UInt8](repeating: 0, count: clusterSize - bytes.count)
    try file.write(0, bytes)
  }
}

/// Big-endian fields of some bytes; what lies outside is zero.
package struct Fields: Sendable {
  private let all: [UInt8]

  package init(_ bytes: [UInt8]) { all = bytes }

  package var count: Int { all.count }

  package func u8(_ offset: Int) -> UInt8 {
    offset >= 0 && offset < all.count ? all[offset] : 0
  }

  package func u16(_ offset: Int) -> UInt16 {
    UInt16(u8(offset)) << 8 | UInt16(u8(offset + 1))
  }

  package func u32(_ offset: Int) -> UInt32 {
    UInt32(u16(offset)) << 16 | UInt32(u16(offset + 2))
  }

  package func u64(_ offset: Int) -> UInt64 {
    UInt64(u32(offset)) << 32 | UInt64(u32(offset + 4))
  }

  package func bytes(_ range: Range<Int>) -> [UInt8] {
    if range.lowerBound >= 0, range.upperBound <= all.count { return Array(all[range]) }
    return range.map { u8($0) }
  }

  package func text(_ range: Range<Int>) -> String {
    String(decoding: bytes(range).prefix { $0 != 0 }, as: UTF8.self)
  }
}

/// Bytes being made, integers in big-endian order.
package struct BigEndianBytes: Sendable {
  package var bytes: [UInt8] = []

  package init() {}

  package mutating func u16(_ value: UInt16) {
    bytes.append(UInt8(value >> 8))
    bytes.append(UInt8(truncatingIfNeeded: value))
  }

  package mutating func u32(_ value: UInt32) {
    u16(UInt16(value >> 16))
    u16(UInt16(truncatingIfNeeded: value))
  }

  package mutating func u64(_ value: UInt64) {
    u32(UInt32(value >> 32))
    u32(UInt32(truncatingIfNeeded: value))
  }

  /// Zeros up to the next multiple.
  package mutating func pad(to multiple: Int) {
    while bytes.count % multiple != 0 { bytes.append(0) }
  }

  package mutating func replace(u64 value: UInt64, at offset: Int) {
    for index in 0..<8 where offset + index < bytes.count {
      bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(56 - 8 * index))
    }
  }
}
