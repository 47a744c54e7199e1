/// What a user says about a virtio disk.
package struct DiskSettings: Sendable, Equatable {
  package var queueCount: UInt16 = 1
  package var queueSize: UInt16 = 256
  package var serial = ""
  /// Bytes.
  package var logicalBlockSize: UInt32 = 512
  package var physicalBlockSize: UInt32 = 512
  package var minimumIOSize: UInt32 = 0
  package var optimalIOSize: UInt32 = 0
  package var discardGranularity: UInt32 = 512
  package var canDiscard = true
  package var canWriteZeroes = true
  /// Sectors.
  package var maximumDiscard: UInt32 = 4_194_303
  package var maximumWriteZeroes: UInt32 = 4_194_303
  /// The driver may change the cache's mode.
  package var canChangeCache = true
  package var adjustsSegments = true
  package var reportsGranularity = true
  package var mergesRequests = true
  package var cylinders: UInt16 = 2
  package var heads: UInt8 = 16
  package var sectors: UInt8 = 63

  package init() {}

  /// Feature bits (virtio 1.1, 5.2.3).
  enum Feature {
    static let segments: UInt64 = 1 << 2
    static let geometry: UInt64 = 1 << 4
    static let readOnly: UInt64 = 1 << 5
    static let blockSize: UInt64 = 1 << 6
    static let flush: UInt64 = 1 << 9
    static let topology: UInt64 = 1 << 10
    static let configurableCache: UInt64 = 1 << 11
    static let queues: UInt64 = 1 << 12
    static let discard: UInt64 = 1 << 13
    static let writeZeroes: UInt64 = 1 << 14
  }

  func features(isReadOnly: Bool, hasWriteCache: Bool) -> UInt64 {
    var features = Feature.segments | Feature.geometry | Feature.blockSize | Feature.topology
    if isReadOnly { features |= Feature.readOnly }
    if canChangeCache { features |= Feature.configurableCache }
    if hasWriteCache || canChangeCache { features |= Feature.flush }
    if queueCount > 1 { features |= Feature.queues }
    if canDiscard { features |= Feature.discard }
    if canWriteZeroes { features |= Feature.writeZeroes }
    return features
  }

  /// Where the cache's mode is in the configuration space.
  static let cacheOffset = 32

  /// The configuration space (5.2.4) of a disk of `size` bytes.
  func configuration(size: UInt64, hasWriteCache: Bool) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(60)
    func add<T: FixedWidthInteger>(_ value: T) {
      for index in 0..<T.bitWidth / 8 {
        bytes.append(UInt8(truncatingIfNeeded: value >> T(index * 8)))
      }
    }
    add(size / 512)
    add(UInt32(0))
    add(UInt32(adjustsSegments ? max(queueSize, 3) - 2 : 126))
    add(cylinders)
    add(heads)
    add(sectors)
    add(logicalBlockSize)
    let ratio = max(physicalBlockSize / max(logicalBlockSize, 1), 1)
    add(UInt8(ratio.trailingZeroBitCount))
    add(UInt8(0))
    add(UInt16(clamping: minimumIOSize / max(logicalBlockSize, 1)))
    add(optimalIOSize / max(logicalBlockSize, 1))
    add(UInt8(hasWriteCache ? 1 : 0))
    add(UInt8(0))
    add(queueCount)
    add(canDiscard ? maximumDiscard : 0)
    add(UInt32(canDiscard ? 1 : 0))
    add(canDiscard ? (reportsGranularity ? discardGranularity : logicalBlockSize) / 512 : 0)
    add(canWriteZeroes ? maximumWriteZeroes : 0)
    add(UInt32(canWriteZeroes ? 1 : 0))
    add(UInt8(canWriteZeroes ? 1 : 0))
    add(UInt8(0))
    add(UInt16(0))
    return bytes
  }
}
