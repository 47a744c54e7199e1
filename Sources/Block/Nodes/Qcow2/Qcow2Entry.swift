/// The bits of entries of L1 and L2 tables (qcow2 specification, Cluster mapping).
package enum Qcow2Entry {
  /// L1 entries and L2 entries of standard clusters: the cluster's refcount is exactly one, it may be written in place.
  package static let copied: UInt64 = 1 << 63
  /// L2 entries: a compressed cluster.
  package static let compressed: UInt64 = 1 << 62
  /// L2 entries of version 3 without subclusters: reads as zeros, whatever the offset.
  package static let zero: UInt64 = 1
  /// Offset in the image (bits 9 to 55).
  package static let offsetMask: UInt64 = 0x00FF_FFFF_FFFF_FE00
  /// Entries of the refcount table: offset of a refcount block (bits 9 to 63).
  package static let refcountOffsetMask: UInt64 = 0xFFFF_FFFF_FFFF_FE00
  /// Bits that must be zero.
  package static let l1Reserved: UInt64 = 0x7F00_0000_0000_01FF
  package static let l2Reserved: UInt64 = 0x3F00_0000_0000_01FE

  /// The second word of an extended entry: subclusters that hold data (bit n is subcluster n), and that read as zeros (bit 32 + n).
  package static let subclusters = 32
  package static let allAllocated: UInt64 = 0x0000_0000_FFFF_FFFF
  package static let allZero: UInt64 = 0xFFFF_FFFF_0000_0000

  /// Where a compressed cluster is stored, from its L2 entry: the first byte, and an upper bound of the bytes from there on (whole sectors).
  package static func compressedRange(_ entry: UInt64, clusterBits: UInt32)
    -> (offset: UInt64, length: UInt64)
  {
    let shift = UInt64(62 - (clusterBits - 8))
    let offset = entry & ((1 << shift) - 1)
    let sectors = (entry & (compressed - 1)) >> shift
    return (offset, (sectors + 1) * 512 - offset % 512)
  }

  /// The L2 entry of `length` compressed bytes (at least 1) at `offset`; nil when the offset has too many bits.
  package static func compressedEntry(offset: UInt64, length: UInt64, clusterBits: UInt32)
    -> UInt64?
  {
    let shift = UInt64(62 - (clusterBits - 8))
    guard offset < 1 << shift, length > 0 else { return nil }
    let sectors = (offset + length - 1) / 512 - offset / 512
    return compressed | sectors << shift | offset
  }
}

/// The sizes that follow from an image's header; all a table's reader needs to know.
package struct Qcow2Layout: Equatable, Sendable {
  package let clusterBits: UInt32
  /// Subclusters of a cluster: 1, or 32 with extended L2 entries.
  package let subclusters: Int
  package let refcountOrder: UInt32
  package let version: UInt32
  package let hasDataFile: Bool
  /// The data file is the image's content as it is.
  package let isDataFileRaw: Bool

  package init(_ header: Qcow2Header) {
    clusterBits = header.clusterBits
    subclusters = header.hasExtendedL2 ? Qcow2Entry.subclusters : 1
    refcountOrder = header.refcountOrder
    version = header.version
    hasDataFile = header.hasDataFile
    isDataFileRaw = header.hasDataFile && header.autoclear.contains(.dataFileRaw)
  }

  package var clusterSize: UInt64 { 1 << UInt64(clusterBits) }
  package var hasSubclusters: Bool { subclusters > 1 }
  package var subclusterBits: UInt32 { hasSubclusters ? clusterBits - 5 : clusterBits }
  package var subclusterSize: UInt64 { 1 << UInt64(subclusterBits) }
  /// Words of an L2 entry.
  package var entryWords: Int { hasSubclusters ? 2 : 1 }
  package var l2Bits: UInt32 { clusterBits - (hasSubclusters ? 4 : 3) }
  package var l2Entries: UInt64 { 1 << UInt64(l2Bits) }
  /// log2 of the guest bytes that an L2 table maps.
  package var l2CoverageBits: UInt32 { clusterBits + l2Bits }
  package var refcountBits: UInt32 { 1 << refcountOrder }
  /// log2 of the entries of a refcount block.
  package var refcountBlockBits: UInt32 { clusterBits + 3 - refcountOrder }
  package var maximumRefcount: UInt64 {
    refcountOrder == 6 ? UInt64(Int64.max) : (1 << UInt64(refcountBits)) - 1
  }

  /// Where the cluster of an offset begins.
  package func clusterStart(_ offset: UInt64) -> UInt64 { offset & ~(clusterSize - 1) }
  package func inCluster(_ offset: UInt64) -> UInt64 { offset & (clusterSize - 1) }
  /// The end of the last cluster that a range of `length` bytes touches, without overflow.
  package func clusterEnd(_ offset: UInt64) -> UInt64 {
    let (sum, overflow) = offset.addingReportingOverflow(clusterSize - 1)
    return overflow ? UInt64.max & ~(clusterSize - 1) : sum & ~(clusterSize - 1)
  }
  package func clusters(_ length: UInt64) -> UInt64 { clusterEnd(length) >> UInt64(clusterBits) }
}
