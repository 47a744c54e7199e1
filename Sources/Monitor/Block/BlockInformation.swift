import Block
import Host
import QAPI

/// What queries tell of drives, nodes and images. Looking may read from images, so it is done off the main loop.
struct BlockInformation: Sendable {
  let graph: BlockGraph

  /// `query-block`.
  func drives() throws(BlockError) -> [BlockInfo] {
    var list: [BlockInfo] = []
    for backend in graph.backends where !backend.name.isEmpty || backend.device != nil {
      let device = backend.device
      var info = BlockInfo(
        device: backend.name, type: "unknown",
        removable: device?.hasRemovableMedium ?? true, locked: device?.isMediumLocked ?? false)
      info.qdev = backend.shownDevice
      if let node = backend.node { info.inserted = try self.node(node, backend, flat: false) }
      if let device, device.hasRemovableMedium { info.trayOpen = device.isTrayOpen }
      switch backend.ioStatus {
      case nil: break
      case .ok: info.ioStatus = .ok
      case .failed: info.ioStatus = .failed
      case .noSpace: info.ioStatus = .nospace
      }
      list.append(info)
    }
    return list
  }

  /// `query-named-block-nodes`.
  func nodes(flat: Bool) throws(BlockError) -> [BlockDeviceInfo] {
    var list: [BlockDeviceInfo] = []
    for entry in graph.entries { list.append(try node(entry.node, nil, flat: flat)) }
    return list
  }

  /// One node, as a drive has it.
  private func node(
    _ node: any BlockNode, _ backend: BlockBackend?, flat: Bool
  ) throws(BlockError) -> BlockDeviceInfo {
    let entry = graph.entry(of: node)
    let settings = entry?.settings ?? NodeSettings()
    let backing = BlockGraph.backing(of: node)
    let limits = backend?.throttleGroup?.limits ?? Block.ThrottleLimits()
    func rate(_ bucket: ThrottleBucket) -> Int { Int(clamping: bucket.average) }
    var info = BlockDeviceInfo(
      file: entry?.filename ?? "", nodeName: node.name, ro: node.isReadOnly, drv: node.driver,
      backingFileDepth: flat ? 0 : graph.backingChain(of: node).count - 1,
      encrypted: (node as? Qcow2Node)?.isEncrypted ?? false,
      detectZeroes: BlockdevDetectZeroesOptions(rawValue: settings.detectZeroes.rawValue) ?? .off,
      bps: rate(limits.bytesTotal), bpsRd: rate(limits.bytesRead), bpsWr: rate(limits.bytesWrite),
      iops: rate(limits.operationsTotal), iopsRd: rate(limits.operationsRead),
      iopsWr: rate(limits.operationsWrite),
      image: try image(node, flat: flat),
      cache: BlockdevCacheInfo(
        writeback: backend?.hasWriteCache ?? true, direct: settings.cache.isDirect,
        noFlush: settings.cache.ignoresFlushes),
      writeThreshold: 0)
    if backing != nil { info.backingFile = entry?.backingFile ?? info.backingFile }
    if backing != nil, info.backingFile == nil, let backing {
      info.backingFile = graph.entry(of: backing)?.filename
    }
    if let group = backend?.throttleGroup { describe(group.limits, group.name, in: &info) }
    return info
  }

  /// Bursts, shown where they are set.
  private func describe(
    _ limits: Block.ThrottleLimits, _ group: String, in info: inout BlockDeviceInfo
  ) {
    func maximum(_ bucket: ThrottleBucket) -> Int? {
      bucket.maximum > 0 ? Int(clamping: bucket.maximum) : nil
    }
    func length(_ bucket: ThrottleBucket) -> Int? {
      bucket.maximum > 0 ? Int(clamping: bucket.burstLength) : nil
    }
    info.bpsMax = maximum(limits.bytesTotal)
    info.bpsRdMax = maximum(limits.bytesRead)
    info.bpsWrMax = maximum(limits.bytesWrite)
    info.iopsMax = maximum(limits.operationsTotal)
    info.iopsRdMax = maximum(limits.operationsRead)
    info.iopsWrMax = maximum(limits.operationsWrite)
    info.bpsMaxLength = length(limits.bytesTotal)
    info.bpsRdMaxLength = length(limits.bytesRead)
    info.bpsWrMaxLength = length(limits.bytesWrite)
    info.iopsMaxLength = length(limits.operationsTotal)
    info.iopsRdMaxLength = length(limits.operationsRead)
    info.iopsWrMaxLength = length(limits.operationsWrite)
    if limits.operationSize > 0 { info.iopsSize = Int(clamping: limits.operationSize) }
    info.group = group
  }

  // MARK: Images

  private func image(_ node: any BlockNode, flat: Bool) throws(BlockError) -> ImageInfo {
    // Filters show the image that they are before.
    let entry = graph.entry(of: node)
    var info = ImageInfo(
      filename: entry?.filename ?? "", format: node.driver,
      // QEMU says so of what knows its image; a null node has none.
      dirtyFlag: storage(of: node) is NullNode ? nil : false,
      // Whole sectors, whatever a file's length is.
      virtualSize: Int(clamping: node.length &+ 511) & ~511)
    info.actualSize = node.allocatedSize.map { Int(clamping: $0) }
    if let image = node as? Qcow2Node { try describe(image, in: &info) }
    if let backing = BlockGraph.backing(of: node) {
      let full = graph.entry(of: backing)?.filename
      info.backingFilename = entry?.backingFile ?? full
      info.fullBackingFilename =
        entry?.backingFile.map { FileName.resolve($0, against: entry?.filename ?? "") } ?? full
      info.backingFilenameFormat = entry?.backingFormat
      if !flat { info.backingImage = .value(try image(backing, flat: false)) }
    }
    return info
  }

  /// The node at the bottom.
  private func storage(of node: any BlockNode) -> any BlockNode {
    node.child("file").map(storage) ?? node
  }

  private func describe(_ image: Qcow2Node, in info: inout ImageInfo) throws(BlockError) {
    let header = image.header
    info.clusterSize = header.clusterSize
    info.dirtyFlag = header.incompatible.contains(.dirty)
    if image.isEncrypted { info.encrypted = true }
    if header.snapshotCount > 0, let file = image.child("file") {
      info.snapshots = try Qcow2SnapshotTable(reading: file, header: header).snapshots.map(
        SnapshotInfo.init)
    }
    var specific = ImageInfoSpecificQCow2(
      compat: header.version < 3 ? "0.10" : "1.1", refcountBits: header.refcountBits,
      compressionType: header.compressionType == .zlib ? .zlib : .zstd)
    if header.version >= 3 {
      specific.lazyRefcounts = header.compatible.contains(.lazyRefcounts)
      specific.corrupt = image.isCorrupt
      specific.extendedL2 = header.hasExtendedL2
      if header.hasDataFile {
        specific.dataFile = header.extensions.dataFile
        specific.dataFileRaw = header.autoclear.contains(.dataFileRaw)
      }
    }
    info.formatSpecific = .qcow2(specific)
  }

  // MARK: Statistics

  /// `query-blockstats`.
  func statistics(ofNodes: Bool) -> [BlockStats] {
    if ofNodes {
      return graph.entries.reversed().map { statistics(of: $0.node, asDrive: false) }
    }
    return graph.backends.filter { !$0.name.isEmpty || $0.device != nil }.map { backend in
      var stats =
        backend.node.map { statistics(of: $0, asDrive: true) }
        ?? BlockStats(stats: BlockDeviceStats(BlockStatistics(now: 0), isDrive: true))
      stats.device = backend.name
      stats.qdev = backend.shownDevice
      let highest = stats.stats.wrHighestOffset
      stats.stats = BlockDeviceStats(backend.statistics, isDrive: true)
      stats.stats.wrHighestOffset = highest
      return stats
    }
  }

  private func statistics(of node: any BlockNode, asDrive: Bool) -> BlockStats {
    var stats = BlockStats(stats: BlockDeviceStats(BlockStatistics(now: 0), isDrive: false))
    stats.nodeName = node.name
    let none = BlockStatsSpecificFile(discardNbOk: 0, discardNbFailed: 0, discardBytesOk: 0)
    switch node.driver {
    case "file": stats.driverSpecific = .file(none)
    case "host_device": stats.driverSpecific = .hostDevice(none)
    default: break
    }
    let parent = node.child("data-file") ?? node.child("file") ?? node.child("image")
    if let parent { stats.parent = .value(statistics(of: parent, asDrive: asDrive)) }
    guard asDrive else { return stats }
    let isFilter = ["throttle", "blkdebug"].contains(node.driver)
    if let below = isFilter ? parent : node.child("backing") {
      stats.backing = .value(statistics(of: below, asDrive: asDrive))
    }
    return stats
  }
}

extension BlockBackend {
  /// What queries call the device: its id, or its path where it is the part of a virtio device that has none.
  var shownDevice: String? {
    if let path = devicePath, path.hasSuffix("/virtio-backend") { return path }
    return deviceID ?? devicePath
  }
}

extension SnapshotInfo {
  /// An internal snapshot of an image.
  init(_ snapshot: Qcow2Snapshot) {
    self.init(
      id: snapshot.id, name: snapshot.name, vmStateSize: Int(clamping: snapshot.vmStateSize),
      dateSec: Int(snapshot.seconds), dateNsec: Int(snapshot.nanoseconds),
      vmClockSec: Int(clamping: snapshot.vmClockNanoseconds / 1_000_000_000),
      vmClockNsec: Int(clamping: snapshot.vmClockNanoseconds % 1_000_000_000))
    if snapshot.instructionCount != .max { icount = Int(clamping: snapshot.instructionCount) }
  }
}

extension BlockDeviceStats {
  /// What a drive counted; nodes count nothing.
  init(_ counts: BlockStatistics, isDrive: Bool) {
    func number(_ value: UInt64) -> Int { Int(clamping: value) }
    let (reads, writes, flushes, unmaps) = (
      counts.reads, counts.writes, counts.flushes, counts.unmaps
    )
    let now = HostClock.monotonic
    self.init(
      rdBytes: number(reads.bytes), wrBytes: number(writes.bytes),
      unmapBytes: number(unmaps.bytes), rdOperations: number(reads.operations),
      wrOperations: number(writes.operations), flushOperations: number(flushes.operations),
      unmapOperations: number(unmaps.operations), rdTotalTimeNs: number(reads.time),
      wrTotalTimeNs: number(writes.time), flushTotalTimeNs: number(flushes.time),
      unmapTotalTimeNs: number(unmaps.time), wrHighestOffset: 0, rdMerged: number(reads.merged),
      wrMerged: number(writes.merged), unmapMerged: number(unmaps.merged),
      failedRdOperations: number(reads.failed), failedWrOperations: number(writes.failed),
      failedFlushOperations: number(flushes.failed), failedUnmapOperations: number(unmaps.failed),
      invalidRdOperations: number(reads.invalid), invalidWrOperations: number(writes.invalid),
      invalidFlushOperations: number(flushes.invalid),
      invalidUnmapOperations: number(unmaps.invalid),
      accountInvalid: isDrive && counts.countsInvalid,
      accountFailed: isDrive && counts.countsFailed,
      timedStats: counts.intervals.map { interval in
        let (read, write, flush) = (
          interval.reads.summary(now: now), interval.writes.summary(now: now),
          interval.flushes.summary(now: now)
        )
        func depth(_ summary: (sum: UInt64, elapsed: Int64)) -> Double {
          summary.elapsed > 0 ? Double(summary.sum) / Double(summary.elapsed) : 0
        }
        return BlockDeviceTimedStats(
          intervalLength: number(interval.seconds), minRdLatencyNs: number(read.minimum),
          maxRdLatencyNs: number(read.maximum), avgRdLatencyNs: number(read.average),
          minWrLatencyNs: number(write.minimum), maxWrLatencyNs: number(write.maximum),
          avgWrLatencyNs: number(write.average), minFlushLatencyNs: number(flush.minimum),
          maxFlushLatencyNs: number(flush.maximum), avgFlushLatencyNs: number(flush.average),
          avgRdQueueDepth: depth((read.sum, read.elapsed)),
          avgWrQueueDepth: depth((write.sum, write.elapsed)))
      })
    let total = reads.operations &+ writes.operations &+ flushes.operations
    if isDrive, total > 0 { idleTimeNs = Int(clamping: max(0, now &- counts.lastAccess)) }
    rdLatencyHistogram = reads.histogram.map(BlockLatencyHistogramInfo.init)
    wrLatencyHistogram = writes.histogram.map(BlockLatencyHistogramInfo.init)
    flushLatencyHistogram = flushes.histogram.map(BlockLatencyHistogramInfo.init)
  }
}

extension BlockLatencyHistogramInfo {
  init(_ histogram: LatencyHistogram) {
    self.init(boundaries: histogram.boundaries, bins: histogram.bins)
  }
}
