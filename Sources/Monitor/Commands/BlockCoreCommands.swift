import Block
import Glibc
import Host
import Jobs
import JSON
import Machine
package import QAPI

// schemas/block-core.json

extension MonitorCommands: @MainLoop BlockCoreCommands {
  // MARK: Looking

  @MainLoop
  package func queryBlock() async throws(QAPIError) -> [BlockInfo] {
    let information = BlockInformation(graph: context.blocks)
    return try await inBackground { () throws(BlockError) in try information.drives() }
  }

  @MainLoop
  package func queryBlockstats(queryNodes: Bool?) async throws(QAPIError) -> [BlockStats] {
    BlockInformation(graph: context.blocks).statistics(ofNodes: queryNodes ?? false)
  }

  @MainLoop
  package func queryNamedBlockNodes(flat: Bool?) async throws(QAPIError) -> [BlockDeviceInfo] {
    let information = BlockInformation(graph: context.blocks)
    return try await inBackground { () throws(BlockError) in
      try information.nodes(flat: flat ?? false)
    }
  }

  // MARK: Nodes

  @MainLoop
  package func blockdevAdd(_ arguments: BlockdevOptions) async throws(QAPIError) {
    guard arguments.nodeName != nil else {
      throw QAPIError("'node-name' must be specified for the root node")
    }
    guard case .object(let options) = arguments.encoded else { return }
    _ = try await changingBlocks { (graph) throws(BlockError) in _ = try graph.add(options) }
  }

  @MainLoop
  package func blockdevDel(nodeName: String) async throws(QAPIError) {
    _ = try await changingBlocks { (graph) throws(BlockError) in try graph.delete(nodeName) }
  }

  package func blockdevCreate(
    jobId: String, options: BlockdevCreateOptions
  ) throws(QAPIError) {
    switch options {
    case .file, .qcow2: break
    default: throw QAPIError("Driver does not support blockdev-create")
    }
    let work = ImageCreation(options, graph: context.blocks, gate: context.blockGate)
    let job = try context.machine.jobs.create(
      id: jobId, type: .create, model: JobModel(dismissesItself: false),
      progress: JobProgress(total: 1), work: work)
    job.start()
  }

  @MainLoop
  package func blockResize(
    device: String?, nodeName: String?, size: Int
  ) async throws(QAPIError) {
    _ = try await changingBlocks { (graph) throws(BlockError) in
      let node = try graph.find(device: device, nodeName: nodeName)
      guard let length = UInt64(exactly: size) else {
        throw BlockError(EINVAL, "Parameter 'size' expects a >0 size")
      }
      try graph.checkNotBlocked(node)
      guard !node.isReadOnly else { throw BlockError(EACCES, "Image is read-only") }
      try graph.whileDrained([node]) { () throws(BlockError) in
        // Sizes are whole sectors.
        let rounded = length.addingReportingOverflow(511)
        try node.truncate(to: rounded.overflow ? length : rounded.partialValue & ~511, .off)
      }
      for backend in graph.drained(for: node) where backend.node?.name == node.name {
        backend.device?.resized()
      }
    }
  }

  // MARK: Snapshots

  @MainLoop
  package func blockdevSnapshot(_ arguments: BlockdevSnapshot) async throws(QAPIError) {
    try await perform(.blockdevSnapshot(arguments))
  }

  @MainLoop
  package func blockdevSnapshotSync(_ arguments: BlockdevSnapshotSync) async throws(QAPIError) {
    try await perform(.blockdevSnapshotSync(arguments))
  }

  @MainLoop
  package func blockdevSnapshotInternalSync(
    _ arguments: BlockdevSnapshotInternal
  ) async throws(QAPIError) {
    try await perform(.blockdevSnapshotInternalSync(arguments))
  }

  @MainLoop
  package func blockdevSnapshotDeleteInternalSync(
    device: String, id: String?, name: String?
  ) async throws(QAPIError) -> SnapshotInfo {
    try await changingBlocks { (graph) throws(BlockError) in
      let node = try graph.findRoot(device)
      guard id != nil || name != nil else {
        throw BlockError(EINVAL, "Name or id must be provided")
      }
      try graph.checkNotBlocked(node)
      guard let snapshots = try? InternalSnapshots(node, device: device) else {
        throw BlockError(ENOTSUP, "Failed to get a snapshot list: Operation not supported")
      }
      guard let found = try snapshots.find(id: id, name: name) else {
        throw BlockError(
          ENOENT,
          "Snapshot with id '\(id ?? "null")' and name '\(name ?? "null")' does not exist on"
            + " device '\(device)'")
      }
      try graph.whileDrained([node]) { () throws(BlockError) in
        try snapshots.delete(id: found.id, name: found.name)
      }
      return found
    }
  }

  /// A transaction of one action.
  func perform(_ action: TransactionAction) async throws(QAPIError) {
    let clock = guestClock
    _ = try await changingBlocks { (graph) throws(BlockError) in
      try BlockTransaction.run([action], in: graph, vmClock: clock)
    }
  }

  /// How long the guest has run, in nanoseconds.
  var guestClock: UInt64 { UInt64(max(0, (try? context.machine)?.clock.now ?? 0)) }

  // MARK: Limits and statistics

  @MainLoop
  package func blockSetIoThrottle(
    device: String?, id: String?, bps: Int, bpsRd: Int, bpsWr: Int, iops: Int, iopsRd: Int,
    iopsWr: Int, bpsMax: Int?, bpsRdMax: Int?, bpsWrMax: Int?, iopsMax: Int?, iopsRdMax: Int?,
    iopsWrMax: Int?, bpsMaxLength: Int?, bpsRdMaxLength: Int?, bpsWrMaxLength: Int?,
    iopsMaxLength: Int?, iopsRdMaxLength: Int?, iopsWrMaxLength: Int?, iopsSize: Int?,
    group: String?
  ) async throws(QAPIError) {
    let backend = try backend(device: device, id: id)
    guard backend.isInserted else { throw QAPIError("Device has no medium") }
    func bucket(_ average: Int, _ maximum: Int?, _ length: Int?) -> ThrottleBucket {
      // Negative numbers are too large ones.
      ThrottleBucket(
        average: UInt64(bitPattern: Int64(average)),
        maximum: UInt64(bitPattern: Int64(maximum ?? 0)),
        burstLength: UInt64(bitPattern: Int64(length ?? 1)))
    }
    var limits = Block.ThrottleLimits()
    limits.bytesTotal = bucket(bps, bpsMax, bpsMaxLength)
    limits.bytesRead = bucket(bpsRd, bpsRdMax, bpsRdMaxLength)
    limits.bytesWrite = bucket(bpsWr, bpsWrMax, bpsWrMaxLength)
    limits.operationsTotal = bucket(iops, iopsMax, iopsMaxLength)
    limits.operationsRead = bucket(iopsRd, iopsRdMax, iopsRdMaxLength)
    limits.operationsWrite = bucket(iopsWr, iopsWrMax, iopsWrMaxLength)
    limits.operationSize = UInt64(bitPattern: Int64(iopsSize ?? 0))
    do throws(BlockError) {
      try limits.check()
      guard limits.isEnabled else { return backend.setThrottleGroup(nil) }
      if backend.throttleGroup == nil || group != nil {
        backend.setThrottleGroup(group ?? device ?? id ?? "")
      }
      try backend.throttleGroup?.configure(limits)
    } catch {
      throw QAPIError(error)
    }
  }

  package func blockLatencyHistogramSet(
    id: String, boundaries: [UInt64]?, boundariesRead: [UInt64]?, boundariesWrite: [UInt64]?,
    boundariesFlush: [UInt64]?
  ) throws(QAPIError) {
    let backend = try backend(device: nil, id: id)
    if boundaries == nil, boundariesRead == nil, boundariesWrite == nil, boundariesFlush == nil {
      return backend.changeStatistics { statistics in
        statistics.reads.histogram = nil
        statistics.writes.histogram = nil
        statistics.flushes.histogram = nil
      }
    }
    func histogram(_ own: [UInt64]?, _ what: String) throws(QAPIError) -> LatencyHistogram? {
      guard let bounds = own ?? boundaries else { return nil }
      guard let histogram = LatencyHistogram(boundaries: bounds) else {
        throw QAPIError("Device '\(id)' set \(what) boundaries fail")
      }
      return histogram
    }
    let read = try histogram(boundariesRead, "read")
    let write = try histogram(boundariesWrite, "write")
    let flush = try histogram(boundariesFlush, "flush")
    backend.changeStatistics { statistics in
      if let read { statistics.reads.histogram = read }
      if let write { statistics.writes.histogram = write }
      if let flush { statistics.flushes.histogram = flush }
    }
  }
}
