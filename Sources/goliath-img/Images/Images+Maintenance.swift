import Block
import Glibc
import Host

/// What is done with whole qcow2 images.
extension Images {
  private static func qcow2(_ image: OpenImage) -> Qcow2Node? {
    Chain.skippingFilters(image.node) as? Qcow2Node
  }

  private static func file(of node: Qcow2Node) throws(BlockError) -> any BlockNode {
    guard let file = node.child("file") else { throw BlockError(EINVAL, "The image has no file") }
    return file
  }

  /// Changes the tables of an open image behind its back, and lets it read them again.
  private static func maintain<R: Sendable>(
    _ node: Qcow2Node, _ body: (inout Qcow2Maintenance) throws(BlockError) -> R
  ) throws(BlockError) -> R {
    let file = try file(of: node)
    return try node.exclusively { () throws(BlockError) -> R in
      try node.commit(isFlush: true)
      var maintenance = try Qcow2Maintenance(file: file)
      let result = try body(&maintenance)
      try node.reload()
      return result
    }
  }

  // MARK: Checking

  static func canCheck(_ image: OpenImage) -> Bool { qcow2(image) != nil }

  /// Checks an image and repairs it; findings go to standard error.
  static func check(_ image: OpenImage, _ repair: CheckRepair) throws(BlockError) -> CheckResult {
    guard let node = qcow2(image) else { throw BlockError(ENOTSUP, "") }
    var result = CheckResult()
    var notes = ""
    let report: ImageCheckReport
    do throws(BlockError) {
      report = try Qcow2Check.run(
        on: try file(of: node),
        repair: repair == .all ? .all : repair == .leaks ? .leaks : .nothing
      ) {
        notes += $0 + "\n"
        if notes.utf8.count > 1 << 16 {
          Standard.note(notes)
          notes = ""
        }
      }
    } catch {
      Standard.note(notes)
      throw error
    }
    Standard.note(notes)
    result.checkErrors = report.checkErrors
    result.corruptions = report.corruptions
    result.leaks = report.leaks
    result.corruptionsFixed = report.corruptionsFixed
    result.leaksFixed = report.leaksFixed
    result.imageEndOffset = report.imageEndOffset
    result.totalClusters = report.totalClusters
    result.allocatedClusters = report.allocatedClusters
    result.fragmentedClusters = report.fragmentedClusters
    result.compressedClusters = report.compressedClusters
    return result
  }

  // MARK: Snapshots

  private static func table(of node: Qcow2Node) throws(BlockError) -> Qcow2SnapshotTable {
    try Qcow2SnapshotTable(reading: try file(of: node), header: node.header)
  }

  static func snapshots(of node: any BlockNode) -> [SnapshotInfo] {
    guard let node = Chain.skippingFilters(node) as? Qcow2Node, node.header.snapshotCount > 0,
      let table = try? table(of: node)
    else { return [] }
    return table.snapshots.map { snapshot in
      var info = SnapshotInfo()
      info.id = snapshot.id
      info.name = snapshot.name
      info.stateSize = snapshot.vmStateSize
      info.seconds = snapshot.seconds
      info.nanoseconds = snapshot.nanoseconds
      info.clockNanoseconds = snapshot.vmClockNanoseconds
      if snapshot.instructionCount != .max { info.instructionCount = snapshot.instructionCount }
      return info
    }
  }

  /// The image as an internal snapshot has it, for reading. `text`: an id, a name, or `snapshot.id=…,snapshot.name=…`.
  static func snapshotView(of image: OpenImage, _ text: String) throws(ToolError) -> OpenImage {
    do throws(BlockError) {
      guard let node = qcow2(image) else {
        throw BlockError(ENOTSUP, "Device '' does not support loading internal snapshots")
      }
      let table = try table(of: node)
      let index: Int?
      if text.hasPrefix("snapshot.") {
        let pairs = CreateOptions.split(text)
        index = table.index(
          id: pairs.first { $0.name == "snapshot.id" }?.value,
          name: pairs.first { $0.name == "snapshot.name" }?.value)
      } else {
        index = table.index(idOrName: text)
      }
      guard let index else { throw BlockError(ENOENT, "Can't find snapshot") }
      let file = try SnapshotFile(try file(of: node), table.snapshots[index])
      var options = Qcow2Options()
      options.readOnly = true
      let view = try Qcow2Node.open(
        name: "snapshot-view", file: file, backing: node.child("backing"),
        dataFile: node.child("data-file"), options: options)
      return OpenImage(
        node: view, filename: image.filename, format: image.format, graph: image.graph)
    } catch {
      throw ToolError("Failed to load snapshot: \(error.message)")
    }
  }

  static func createSnapshot(_ image: OpenImage, _ name: String) throws(ToolError) {
    do throws(BlockError) {
      guard let node = qcow2(image) else { throw BlockError(ENOTSUP, "") }
      let now = HostClock.realtime
      // Microseconds, as the tool that this one follows takes them.
      var new = Qcow2Maintenance.NewSnapshot(
        name: name, seconds: UInt32(truncatingIfNeeded: now / 1_000_000_000),
        nanoseconds: UInt32(now % 1_000_000_000 / 1000 * 1000))
      new.instructionCount = 0
      _ = try maintain(node) { (image) throws(BlockError) in try image.createSnapshot(new) }
    } catch {
      throw ToolError("Could not create snapshot '\(name)': -\(error.code) (\(reason(error)))")
    }
  }

  static func applySnapshot(_ image: OpenImage, _ name: String) throws(ToolError) {
    do throws(BlockError) {
      guard let node = qcow2(image) else {
        throw BlockError(ENOTSUP, "Block driver does not support snapshots")
      }
      guard let index = try table(of: node).index(idOrName: name) else {
        throw BlockError(ENOENT, "Failed to load snapshot: No such file or directory")
      }
      try maintain(node) { (image) throws(BlockError) in try image.applySnapshot(index) }
    } catch {
      throw ToolError("Could not apply snapshot '\(name)': \(error.message)")
    }
  }

  static func deleteSnapshot(_ image: OpenImage, _ name: String) throws(ToolError) {
    do throws(BlockError) {
      // Only by name.
      guard let node = qcow2(image), let index = try table(of: node).index(id: nil, name: name)
      else { throw BlockError(ENOENT, "snapshot not found") }
      try maintain(node) { (image) throws(BlockError) in try image.deleteSnapshot(index) }
    } catch {
      throw ToolError("Could not delete snapshot '\(name)': \(error.message)")
    }
  }

  // MARK: Options, backing files

  static func amend(_ image: OpenImage, _ options: CreateOptions) throws(ToolError) {
    do throws(BlockError) {
      guard let node = qcow2(image) else { throw BlockError(ENOTSUP, "") }
      var amended = Qcow2AmendOptions()
      if let compat = options["compat"] {
        switch compat {
        case "", "0.10", "v2": amended.version = compat.isEmpty ? nil : 2
        case "1.1", "v3": amended.version = 3
        default: throw BlockError(EINVAL, "Unknown compatibility level \(compat)")
        }
      }
      amended.lazyRefcounts = options.flag("lazy_refcounts")
      amended.refcountBits = options.number("refcount_bits")
      amended.dataFile = options["data_file"]
      amended.dataFileRaw = options.flag("data_file_raw")
      amended.backingFile = options["backing_file"]
      amended.backingFormat = options["backing_fmt"]
      let wanted = amended
      try maintain(node) { (image) throws(BlockError) in try image.amend(wanted) }
      if let size = options.number("size") { try image.node.truncate(to: size, .off) }
    } catch {
      throw ToolError(error)
    }
  }

  /// Forgets all that the image holds, so that its backing file shows.
  static func empty(_ image: OpenImage) throws(ToolError) {
    do throws(BlockError) { try qcow2(image)?.makeEmpty() } catch {
      throw ToolError("Could not empty \(image.filename): \(error.message)")
    }
  }

  /// Writes another backing file's name into an image.
  static func changeBacking(
    _ image: OpenImage, _ backing: String?, _ format: String?
  ) throws(BlockError) {
    guard let node = qcow2(image) else {
      throw BlockError(ENOTSUP, "Operation not supported")
    }
    if backing != nil, format == nil {
      throw BlockError(EINVAL, "backing format must be specified")
    }
    do throws(BlockError) {
      try maintain(node) { (image) throws(BlockError) in
        try image.setBackingFile(backing, format: backing == nil ? nil : format)
      }
    } catch {
      guard error.code == ENOSPC else { throw error }
      throw BlockError(ENOSPC, "No space left in the file header")
    }
  }
}
