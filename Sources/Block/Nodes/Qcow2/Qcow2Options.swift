/// Metadata that a write must not hit; `overlap-check.*` of `-blockdev`.
package struct Qcow2OverlapCheck: OptionSet, Sendable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }

  package static let mainHeader = Qcow2OverlapCheck(rawValue: 1)
  package static let activeL1 = Qcow2OverlapCheck(rawValue: 2)
  package static let activeL2 = Qcow2OverlapCheck(rawValue: 4)
  package static let refcountTable = Qcow2OverlapCheck(rawValue: 8)
  package static let refcountBlock = Qcow2OverlapCheck(rawValue: 16)
  package static let snapshotTable = Qcow2OverlapCheck(rawValue: 32)
  package static let inactiveL1 = Qcow2OverlapCheck(rawValue: 64)
  package static let inactiveL2 = Qcow2OverlapCheck(rawValue: 128)
  package static let bitmapDirectory = Qcow2OverlapCheck(rawValue: 256)

  package static let none: Qcow2OverlapCheck = []
  package static let constant: Qcow2OverlapCheck = [
    .mainHeader, .activeL1, .refcountTable, .snapshotTable, .bitmapDirectory,
  ]
  /// The default: all that is known without reading tables.
  package static let cached: Qcow2OverlapCheck = [
    .constant, .activeL2, .refcountBlock, .inactiveL1,
  ]
  package static let all: Qcow2OverlapCheck = [.cached, .inactiveL2]

  /// What is hit, in QEMU's words (`Preventing invalid write on … (overlaps with active L1 table)`), by its lowest bit.
  package var words: String {
    switch rawValue & (~rawValue &+ 1) {
    case 1: "qcow2_header"
    case 2: "active L1 table"
    case 4: "active L2 table"
    case 8: "refcount table"
    case 16: "refcount block"
    case 32: "snapshot table"
    case 64: "inactive L1 table"
    case 128: "inactive L2 table"
    default: "bitmap directory"
    }
  }
}

/// Damage that was met while the image was in use: what the event BLOCK_IMAGE_CORRUPTED tells.
package struct Qcow2Corruption: Equatable, Sendable {
  package let message: String
  /// Where in the image file, in bytes.
  package let offset: UInt64?
  package let size: UInt64?
  /// The image has been marked corrupt and takes no more writes.
  package let isFatal: Bool

  package init(_ message: String, offset: UInt64? = nil, size: UInt64? = nil, isFatal: Bool) {
    self.message = message
    self.offset = offset
    self.size = size
    self.isFatal = isFatal
  }
}

/// How an image is opened (`-blockdev driver=qcow2`).
package struct Qcow2Options: Sendable {
  package var readOnly = false
  /// For checks and repairs (`Qcow2Check`) alone: opens dirty and corrupt images, does not repair them by itself, and reads no tables, so that its disk
  /// has no bytes.
  package var isForChecking = false
  /// `discard=unmap`: freed clusters are discarded in the file below.
  package var discard = false
  /// `pass-discard-request` (nil: as `discard` says), `pass-discard-snapshot`, `pass-discard-other`.
  package var passDiscardRequest: Bool?
  package var passDiscardSnapshot = true
  package var passDiscardOther = false
  /// `lazy-refcounts`; nil: as the image says.
  package var lazyRefcounts: Bool?
  package var overlapCheck = Qcow2OverlapCheck.cached
  /// Bytes of L2 tables (`l2-cache-size`) and refcount blocks (`refcount-cache-size`) that are kept; nil: the whole image's, within limits.
  package var l2CacheSize: Int?
  package var refcountCacheSize: Int?
  /// Called once for the first damage that is met, from any thread, with no lock held.
  package var onCorrupt: (@Sendable (Qcow2Corruption) -> Void)?

  package init() {}
}
