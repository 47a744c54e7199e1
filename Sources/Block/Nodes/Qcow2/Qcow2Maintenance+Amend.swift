import Glibc
package import Host

/// What `amend` and `rebase` change.
package struct Qcow2AmendOptions: Sendable {
  /// 2 or 3; nil: stays.
  package var version: UInt32?
  package var lazyRefcounts: Bool?
  package var refcountBits: UInt64?
  package var size: UInt64?
  package var dataFile: String?
  package var dataFileRaw: Bool?
  package var backingFile: String?
  package var backingFormat: String?
  /// Options that were given and are those of creation only.
  package var encryption: String?

  package init() {}
}

extension Qcow2Maintenance {
  /// Changes options of the image, in QEMU's order; the size is the caller's (`truncate` of the node, which may have to write). Throws `BlockError` with QEMU's
  /// sentence for what cannot be changed.
  package mutating func amend(_ options: Qcow2AmendOptions) throws(BlockError) {
    if options.encryption != nil {
      throw BlockError(EINVAL, "Can't amend encryption options - encryption not present")
    }
    let target = options.version ?? header.version
    let order = try checkedOrder(options, target: target)
    if options.dataFile != nil, !header.hasDataFile {
      throw BlockError(
        EINVAL, "data-file can only be set for images that use an external data file")
    }
    if options.dataFileRaw == true, !header.autoclear.contains(.dataFileRaw) {
      throw BlockError(EINVAL, "data-file-raw cannot be set on existing images")
    }
    if let backing = options.backingFile, backing != header.backingFile ?? "" {
      throw BlockError(
        EINVAL, "Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.")
    }
    if options.lazyRefcounts == true, target < 3 {
      throw BlockError(
        EINVAL,
        "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)"
      )
    }
    if target > header.version { try upgrade() }
    if order != header.refcountOrder { try changeRefcountOrder(order) }
    var changed = false
    if options.dataFileRaw == false, header.autoclear.contains(.dataFileRaw) {
      header.autoclear.remove(.dataFileRaw)
      changed = true
    }
    if let dataFile = options.dataFile {
      header.extensions.dataFileBytes = dataFile.isEmpty ? nil : Array(dataFile.utf8)
      changed = true
    }
    if let lazy = options.lazyRefcounts, lazy != header.compatible.contains(.lazyRefcounts) {
      if lazy {
        header.compatible.insert(.lazyRefcounts)
      } else {
        header.compatible.remove(.lazyRefcounts)
      }
      changed = true
    }
    if changed { try writeHeader() }
    if target < header.version { try downgrade() }
  }

  /// The refcount order that is asked for.
  private func checkedOrder(_ options: Qcow2AmendOptions, target: UInt32) throws(BlockError)
    -> UInt32
  {
    let bits = options.refcountBits ?? UInt64(header.refcountBits)
    guard bits > 0, bits <= 64, bits & (bits - 1) == 0 else {
      throw BlockError(
        EINVAL, "Refcount width must be a power of two and may not exceed 64 bits")
    }
    if target < 3, bits != 16 {
      if options.refcountBits != nil, options.version == nil {
        throw BlockError(
          EINVAL,
          "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)"
        )
      }
      throw BlockError(EINVAL, "compat=0.10 requires refcount_bits=16")
    }
    return UInt32(bits.trailingZeroBitCount)
  }

  /// Writes the first cluster anew, extensions and the backing file's name included; the rest of it becomes zeros.
  package mutating func writeHeader() throws(BlockError) {
    try file.flush()
    try header.write(to: file)
    try file.flush()
  }

  /// Changes what the header says of the backing file (`rebase`); nil: none. Throws `BlockError` (`ENOSPC`) when there is no room.
  package mutating func setBackingFile(_ name: String?, format: String?) throws(BlockError) {
    if header.autoclear.contains(.dataFileRaw), name != nil {
      throw BlockError(EINVAL, "Backing file and data-file-raw cannot be used at the same time")
    }
    guard (name?.utf8.count ?? 0) <= 1023 else { throw BlockError(EINVAL, "Invalid argument") }
    header.backingFileBytes = name.map { Array($0.utf8) }
    header.extensions.backingFormatBytes = name == nil ? nil : format.map { Array($0.utf8) }
    try writeHeader()
  }

  private mutating func upgrade() throws(BlockError) {
    // Entries of version 3 have 16 bytes of extra data at least.
    let table = try snapshots()
    if table.snapshots.contains(where: { $0.extraSize < 16 }) {
      try replaceSnapshots(table, oldBytes: table.byteCount)
    }
    header.version = 3
    try writeHeader()
  }

  private mutating func downgrade() throws(BlockError) {
    if header.hasDataFile {
      throw BlockError(ENOTSUP, "Cannot downgrade an image with a data file")
    }
    let table = try snapshots()
    if table.snapshots.contains(where: {
      $0.vmStateSize > UInt64(UInt32.max) || $0.diskSize != header.size
    }) {
      throw BlockError(ENOTSUP, "Internal snapshots prevent downgrade of image")
    }
    // Version 2 knows no dirty image; whoever asks has one that is clean.
    let other = header.incompatible.subtracting([.dirty, .corrupt, .compressionType])
    if !other.isEmpty {
      throw BlockError(
        ENOTSUP,
        "Cannot downgrade an image with incompatible features 0x\(String(other.rawValue, radix: 16)) set"
      )
    }
    try withoutZeroClusters(table)
    header.incompatible = []
    header.compatible = []
    header.autoclear = []
    header.compressionType = .zlib
    header.unknownFields = []
    header.version = 2
    try writeHeader()
  }

  /// Turns zero clusters, which version 2 does not know, into clusters of zeros, or into nothing where there is no backing file.
  private mutating func withoutZeroClusters(_ table: Qcow2SnapshotTable) throws(BlockError) {
    var l1s = [(header.l1TableOffset, header.l1Size)]
    for snapshot in table.snapshots { l1s.append((snapshot.l1TableOffset, snapshot.l1Size)) }
    let buffer = IOBuffer(count: header.clusterSize)
    var seen: Set<UInt64> = []
    var hasCompressed = false
    for (position, place) in l1s.enumerated() {
      for entry in try l1Table(place.0, place.1) where entry & Qcow2Entry.offsetMask != 0 {
        let l2 = entry & Qcow2Entry.offsetMask
        guard seen.insert(l2).inserted else { continue }
        let shares = try refcounts.refcount(Int(l2 >> bits))
        try file.read(l2, into: buffer.vector)
        var changed = false
        for index in 0..<header.l2Entries {
          let old = buffer.loadBigEndian(UInt64.self, at: index * 8)
          if old & Qcow2Entry.compressed != 0 { hasCompressed = true }
          guard old & Qcow2Entry.compressed == 0, old & Qcow2Entry.zero != 0 else { continue }
          let new = try withoutZero(old, l2Shares: shares, isActive: position == 0)
          buffer.storeBigEndian(new, at: index * 8)
          changed = true
        }
        if changed {
          try flushRefcounts()
          try file.flush()
          try file.write(l2, from: buffer.vector, [])
        }
      }
    }
    if hasCompressed, header.compressionType != .zlib {
      throw BlockError(
        ENOTSUP,
        "Cannot downgrade an image with zstd compression type and existing compressed clusters")
    }
    try file.flush()
  }

  private mutating func withoutZero(_ old: UInt64, l2Shares: UInt64, isActive: Bool)
    throws(BlockError) -> UInt64
  {
    var place = old & Qcow2Entry.offsetMask
    var flag = old & Qcow2Entry.copied
    if header.backingFileBytes == nil, place == 0 { return 0 }
    let isOwn = place != 0 ? try refcounts.refcount(Int(place >> bits)) == l2Shares : false
    if !isOwn || l2Shares > 1 {
      if place != 0 { try refcounts.add(-Int64(l2Shares), bytes: place, 1) }
      place = UInt64(try refcounts.allocate(1)) << bits
      if l2Shares > 1 { try refcounts.set(l2Shares, Int(place >> bits)) }
      flag = l2Shares == 1 && isActive ? Qcow2Entry.copied : 0
    }
    if !header.hasDataFile { try file.writeZeroes(place, UInt64(header.clusterSize), []) }
    return place | flag
  }

  /// Counts with another width: new blocks and a new table beside the old ones.
  mutating func changeRefcountOrder(_ order: UInt32) throws(BlockError) {
    let old = refcounts
    let newShift = Int(header.clusterBits) + 3 - Int(order)
    let maximum = order == 6 ? UInt64(Int64.max) : (UInt64(1) << UInt64(1 << order)) - 1
    // The clusters in use, everything new is behind them. Wherever the file ends: a table of zeros may be behind that, and a sparse file is long.
    var start = 0
    var needed: Set<Int> = []
    try old.forEachUsed { cluster, count throws(BlockError) in
      if count > maximum {
        throw BlockError(
          EINVAL,
          "Cannot decrease refcount entry width to \(1 << order) bits: Cluster at offset 0x\(String(UInt64(cluster) << bits, radix: 16)) has a refcount of \(count)"
        )
      }
      start = cluster + 1
      needed.insert(cluster >> newShift)
    }
    // In the old structures the new ones are not counted and the other way round: until the header says which is valid, the others leak.
    var gone: Set<Int> = []
    for cluster in 0..<old.tableClusters { gone.insert(Int(old.tableOffset >> bits) + cluster) }
    for entry in old.table where entry != 0 { gone.insert(Int(entry >> bits)) }
    var builder = Qcow2RefcountBuilder(
      file: file, clusterBits: Int(bits), order: Int(order), start: start, needed: needed)
    let built = try builder.write { cluster throws(BlockError) in
      gone.contains(cluster) ? 0 : try old.refcount(cluster)
    }
    header.refcountTableOffset = built.table
    header.refcountTableClusters = UInt32(built.clusters)
    header.refcountOrder = order
    // Order and place are in one sector.
    try writeHeader()
    self = try Qcow2Maintenance(file: file)
  }
}
