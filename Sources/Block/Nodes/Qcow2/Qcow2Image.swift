import Glibc
package import Host

/// What a new qcow2 image is to be (`-o` of `create`, `BlockdevCreateOptionsQcow2`).
package struct Qcow2CreateOptions: Sendable {
  /// The virtual size in bytes; a multiple of 512.
  package var size: UInt64
  /// 2 or 3 (`compat`).
  package var version: UInt32 = 3
  package var clusterSize: UInt64 = 65536
  package var backingFile: String?
  package var backingFormat: String?
  package var preallocation = Preallocation.off
  package var lazyRefcounts = false
  package var refcountBits: UInt64 = 16
  package var compressionType = Qcow2Header.CompressionType.zlib
  package var extendedL2 = false
  /// The data file's name, as it is to be in the image.
  package var dataFile: String?
  package var dataFileRaw = false
  /// The encryption format that was asked for; refused.
  package var encryption: String?

  package init(size: UInt64) { self.size = size }

  /// Refuses combinations, in QEMU's order and words.
  package func check() throws(BlockError) {
    func refuse(_ condition: Bool, _ sentence: String) throws(BlockError) {
      if condition { throw BlockError(EINVAL, sentence) }
    }
    if let encryption {
      throw BlockError(ENOTSUP, "Encryption format '\(encryption)' is not supported for writing")
    }
    try refuse(size % 512 != 0, "Image size must be a multiple of 512 bytes")
    try refuse(
      clusterSize < 512 || clusterSize > 2 << 20 || clusterSize & (clusterSize - 1) != 0,
      "Cluster size must be a power of two between 512 and 2048k")
    try refuse(
      extendedL2 && clusterSize < 16384,
      "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes")
    try refuse(
      extendedL2 && version < 3,
      "Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)"
    )
    try refuse(
      backingFile != nil && preallocation != .off && !extendedL2,
      "Backing file and preallocation can only be used at the same time if extended_l2 is on")
    try refuse(
      backingFormat != nil && backingFile == nil,
      "Backing format cannot be used without backing file")
    try refuse(
      lazyRefcounts && version < 3,
      "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)"
    )
    try refuse(
      refcountBits == 0 || refcountBits > 64 || refcountBits & (refcountBits - 1) != 0,
      "Refcount width must be a power of two and may not exceed 64 bits")
    try refuse(
      refcountBits != 16 && version < 3,
      "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)"
    )
    try refuse(dataFileRaw && dataFile == nil, "data-file-raw requires data-file")
    try refuse(
      dataFileRaw && backingFile != nil,
      "Backing file and data-file-raw cannot be used at the same time")
    try refuse(
      dataFile != nil && version < 3,
      "External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)"
    )
    try refuse(
      compressionType != .zlib && version < 3,
      "Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)"
    )
    try refuse((backingFile?.utf8.count ?? 0) > 1023, "Backing file name too long")
  }

  /// What is preallocated in the end: a raw data file needs the tables.
  var effectivePreallocation: Preallocation {
    dataFileRaw && preallocation == .off ? .metadata : preallocation
  }

  /// The header that such an image has, without tables.
  func header() -> Qcow2Header {
    var header = Qcow2Header()
    header.version = version
    header.clusterBits = UInt32(clusterSize.trailingZeroBitCount)
    header.refcountOrder = UInt32(refcountBits.trailingZeroBitCount)
    header.refcountTableOffset = clusterSize
    header.refcountTableClusters = 1
    header.size = size
    if lazyRefcounts { header.compatible.insert(.lazyRefcounts) }
    if extendedL2 { header.incompatible.insert(.extendedL2) }
    if compressionType != .zlib { header.incompatible.insert(.compressionType) }
    header.compressionType = compressionType
    if let dataFile {
      header.incompatible.insert(.dataFile)
      header.extensions.dataFileBytes = Array(dataFile.utf8)
      if dataFileRaw { header.autoclear.insert(.dataFileRaw) }
    }
    header.backingFileBytes = backingFile.map { Array($0.utf8) }
    header.extensions.backingFormatBytes = backingFormat.map { Array($0.utf8) }
    return header
  }
}

/// Making qcow2 images.
package enum Qcow2Image {
  static let tooLarge =
    "The image size is too large for file format 'qcow2' (try using a larger cluster size)"

  /// Makes an image in `file`, which is empty or whose content may go, with `dataFile` for its data when the options name one. Throws `BlockError`
  /// for options that do not go together, in QEMU's words, and for what writing throws.
  package static func create(
    on file: any BlockNode, dataFile: (any BlockNode)? = nil, _ options: Qcow2CreateOptions
  ) throws(BlockError) {
    try options.check()
    var header = options.header()
    guard header.l1Entries(for: options.size) <= UInt64(Qcow2Header.maximumL1Size / 8),
      options.size <= UInt64(Int64.max)
    else { throw BlockError(EFBIG, tooLarge) }
    // Whoever reads a half-made image must not take it for one.
    _ = try header.serialize()
    let refcounts = Qcow2Refcounts(newImage: file, header: header)
    let l1Count = Int(header.l1Entries(for: options.size))
    var l1 = [UInt64](repeating: 0, count: l1Count)
    if l1Count > 0 {
      header.l1Size = UInt32(l1Count)
      let clusters = (l1Count * 8 + header.clusterSize - 1) >> Int(header.clusterBits)
      header.l1TableOffset = UInt64(try refcounts.allocate(clusters)) << UInt64(header.clusterBits)
    }
    var end: UInt64 = 0
    let mode = options.effectivePreallocation
    if mode != .off, l1Count > 0 {
      end = try preallocate(header, refcounts, file: file, options, &l1)
    }
    if let dataFile {
      try dataFile.truncate(to: options.size, mode == .metadata ? .off : mode)
    }
    if end > file.length {
      try file.truncate(to: end, mode == .metadata || dataFile != nil ? .off : mode)
    }
    let moved = try refcounts.flush()
    if !moved { try Qcow2Tables.store(refcounts.table, file, refcounts.tableOffset) }
    if l1Count > 0 { try Qcow2Tables.store(l1, file, header.l1TableOffset) }
    if moved { try refcounts.freeOldTable() }
    header.refcountTableOffset = refcounts.tableOffset
    header.refcountTableClusters = UInt32(refcounts.tableClusters)
    try header.write(to: file)
  }

  /// Allocates every cluster, with its L2 tables, in the order in which QEMU does; returns where the file has to end.
  private static func preallocate(
    _ header: Qcow2Header, _ refcounts: Qcow2Refcounts, file: any BlockNode,
    _ options: Qcow2CreateOptions, _ l1: inout [UInt64]
  ) throws(BlockError) -> UInt64 {
    let bits = UInt64(header.clusterBits)
    var left = (options.size + options.clusterSize - 1) >> bits
    var guest: UInt64 = 0
    var end: UInt64 = 0
    let table = IOBuffer(count: header.clusterSize)
    // QEMU allocates a slice of an L2 table at a time.
    let slice = min(header.l2Entries, 4096 / header.l2EntrySize)
    let filling = options.effectivePreallocation != .metadata && !header.hasDataFile
    if filling {
      // The data's place in one request: a file system gives it in one piece.
      let tables = UInt64(l1.count)
      let clusters = left + tables + 3
      let blocks = clusters / UInt64(header.refcountBlockEntries) + 1
      try file.truncate(to: (clusters + blocks) << bits, options.effectivePreallocation)
    }
    for index in l1.indices {
      let place = UInt64(try refcounts.allocate(1)) << bits
      l1[index] = place | Qcow2Entry.copied
      table.fill(0, 0..<table.count)
      var entry = 0
      while entry < header.l2Entries, left > 0 {
        let count = min(slice - entry % slice, Int(min(left, UInt64(slice))))
        let data =
          header.hasDataFile ? guest : UInt64(try refcounts.allocate(count)) << bits
        if header.l2EntrySize == 8 {
          table.storeRisingWords(
            at: entry * 8, count: count, from: data | Qcow2Entry.copied, step: options.clusterSize)
        } else {
          for position in 0..<count {
            let offset = data + UInt64(position) << bits
            table.storeBigEndian(
              offset | Qcow2Entry.copied, at: (entry + position) * header.l2EntrySize)
          }
        }
        if !header.hasDataFile { end = max(end, data + UInt64(count) << bits) }
        entry += count
        guest += UInt64(count) << bits
        left -= UInt64(count)
      }
      end = max(end, place + options.clusterSize)
      try file.write(place, from: table.vector, [])
      try refcounts.trim()
    }
    return end
  }
}
