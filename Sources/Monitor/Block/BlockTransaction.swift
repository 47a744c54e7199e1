import Block
import Glibc
import Host
import JSON
import QAPI

/// Actions on disks at one moment: all or none.
///
/// No request of a device is in flight from before the first action until after the last, so all snapshots show the same moment. What failed
/// is undone in the opposite order.
struct BlockTransaction {
  private let graph: BlockGraph
  /// How long the guest has run, in nanoseconds.
  private let vmClock: UInt64
  private var undo: [() -> Void] = []

  /// Runs the actions. Blocks. Throws QEMU's sentence of the first that failed.
  static func run(
    _ actions: [TransactionAction], in graph: BlockGraph, vmClock: UInt64
  ) throws(BlockError) {
    // Everything that is named, as far as it exists: what does not is said in its turn.
    let nodes = actions.compactMap { action -> (any BlockNode)? in
      switch action {
      case .abort: nil
      case .blockdevSnapshot(let action):
        try? graph.find(device: action.node, nodeName: action.node)
      case .blockdevSnapshotSync(let action):
        try? graph.find(device: action.device, nodeName: action.nodeName)
      case .blockdevSnapshotInternalSync(let action):
        try? graph.find(device: action.device, nodeName: action.device)
      }
    }
    try graph.whileDrained(nodes) { () throws(BlockError) in
      var transaction = BlockTransaction(graph: graph, vmClock: vmClock)
      do throws(BlockError) {
        for action in actions { try transaction.perform(action) }
      } catch {
        for step in transaction.undo.reversed() { step() }
        throw error
      }
    }
  }

  private init(graph: BlockGraph, vmClock: UInt64) {
    self.graph = graph
    self.vmClock = vmClock
  }

  private mutating func perform(_ action: TransactionAction) throws(BlockError) {
    switch action {
    case .abort: throw BlockError(ECANCELED, "Transaction aborted using Abort action")
    case .blockdevSnapshot(let action): try snapshot(action)
    case .blockdevSnapshotSync(let action): try snapshot(action)
    case .blockdevSnapshotInternalSync(let action): try snapshot(action)
    }
  }

  // MARK: External snapshots

  private mutating func snapshot(_ action: BlockdevSnapshot) throws(BlockError) {
    let base = try prepared(try graph.find(device: action.node, nodeName: action.node))
    let overlay = try graph.find(device: action.overlay, nodeName: action.overlay)
    try check(overlay: overlay)
    try put(overlay, over: base)
  }

  private mutating func snapshot(_ action: BlockdevSnapshotSync) throws(BlockError) {
    let base = try prepared(
      try graph.find(device: action.device, nodeName: action.nodeName))
    let format = action.format ?? "qcow2"
    let name = action.snapshotNodeName
    if action.nodeName != nil, name == nil {
      throw BlockError(EINVAL, "New overlay node-name missing")
    }
    if let name, graph.node(named: name) != nil || graph.backend(named: name) != nil {
      throw BlockError(EEXIST, "New overlay node-name already in use")
    }
    if action.mode ?? .absolutePaths == .absolutePaths {
      try create(action.snapshotFile, format, over: base)
    }
    var settings = graph.entry(of: base)?.settings ?? NodeSettings()
    settings.isReadOnly = base.isReadOnly
    settings.isProbed = false
    var options: JSONObject = ["backing": .null]
    if let name { options["node-name"] = .string(name) }
    let overlay = try graph.open(
      action.snapshotFile, format: format, options: options, settings: settings)
    let graph = graph
    undo.append { try? graph.releaseIfUnused(overlay.name) }
    try check(overlay: overlay)
    try put(overlay, over: base)
  }

  /// What is to stay as it is from now on: everything written to it is in its file.
  private func prepared(_ base: any BlockNode) throws(BlockError) -> any BlockNode {
    try graph.checkNotBlocked(base)
    if !base.isReadOnly {
      do throws(BlockError) { try base.flush() } catch {
        throw BlockError(error.code, "An IO error has occurred")
      }
    }
    return base
  }

  private func check(overlay: any BlockNode) throws(BlockError) {
    guard let entry = graph.entry(of: overlay) else { return }
    if !entry.used.intersection([.consistentRead, .write]).isEmpty {
      throw BlockError(EBUSY, "The overlay is already in use")
    }
    try graph.checkNotBlocked(overlay)
    if BlockGraph.backing(of: overlay) != nil {
      throw BlockError(EINVAL, "The overlay already has a backing image")
    }
  }

  private mutating func put(
    _ overlay: any BlockNode, over base: any BlockNode
  ) throws(BlockError) {
    try graph.insertOverlay(overlay, over: base)
    let graph = graph
    let name = overlay.name
    // The users were there before, so they fit.
    undo.append { try? graph.removeOverlay(name, over: base) }
  }

  /// Makes the file of an overlay.
  private func create(
    _ filename: String, _ format: String, over base: any BlockNode
  ) throws(BlockError) {
    let below = graph.entry(of: base)?.filename ?? ""
    switch format {
    case "qcow2":
      var options = Qcow2CreateOptions(size: base.length)
      options.backingFile = below
      options.backingFormat = base.driver
      try graph.createFile(filename, size: 0)
      let file = try graph.openFile(filename)
      defer { try? graph.releaseIfUnused(file.name) }
      try Qcow2Image.create(on: file, options)
    case "raw", "file", "host_device":
      throw BlockError(
        ENOTSUP, "Backing file not supported for file format '\(format)'")
    default: throw BlockError(EINVAL, "Unknown file format '\(format)'")
    }
  }

  // MARK: Internal snapshots

  private mutating func snapshot(_ action: BlockdevSnapshotInternal) throws(BlockError) {
    let node = try graph.findRoot(action.device)
    try graph.checkNotBlocked(node)
    guard !node.isReadOnly else {
      throw BlockError(EPERM, "Device '\(action.device)' is read only")
    }
    let snapshots = try InternalSnapshots(node, device: action.device)
    guard !action.name.isEmpty else { throw BlockError(EINVAL, "Name is empty") }
    if try snapshots.find(id: nil, name: action.name) != nil {
      throw BlockError(
        EEXIST,
        "Snapshot with name '\(action.name)' already exists on device '\(action.device)'")
    }
    do throws(BlockError) {
      let made = try snapshots.create(action.name, vmClock: vmClock)
      undo.append { try? snapshots.delete(id: made.id, name: made.name) }
    } catch {
      throw BlockError(
        error.code,
        "Failed to create snapshot '\(action.name)' on device '\(action.device)': "
          + error.message)
    }
  }
}
