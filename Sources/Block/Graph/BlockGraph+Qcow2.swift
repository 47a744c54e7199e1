import Glibc
import Host
import JSON
import Synchronization

extension BlockGraph {
  /// How long a chain of backing files may be.
  static let maximumDepth = 1000

  /// Opens a qcow2 image with its backing and data files.
  func openQcow2(
    _ name: String, over file: any BlockNode, _ request: inout Request, _ settings: NodeSettings
  ) throws(BlockError) -> any BlockNode {
    let given = request.options.rest
    var settings = settings
    if settings.isAutoReadOnly, file.isReadOnly { settings.isReadOnly = true }
    if !settings.isReadOnly, file.isReadOnly { throw BlockError(EPERM, "Block node is read-only") }
    let image = FileNode.beneath(file)
    if let image {
      if request.chain.contains(image.blockFile.identity) {
        throw BlockError(EINVAL, "Backing file '\(image.path)' creates an infinite loop.")
      }
      guard request.chain.count < BlockGraph.maximumDepth else {
        throw BlockError(EINVAL, "The chain of backing files is too long")
      }
      request.chain.append(image.blockFile.identity)
    }
    try claim(file, for: name, settings)
    var below: [any BlockNode] = []
    do throws(BlockError) {
      var options = try takeQcow2Options(&request, settings)
      options.onCorrupt = { [weak self] damage in
        self?.corruptionHandler.withLock { $0 }?(name, damage)
      }
      var parsing: Qcow2Header.ParseOptions = []
      if !settings.isReadOnly { parsing.insert(.writable) }
      if settings.isForChecking { parsing.insert(.check) }
      let header = try Qcow2Header.read(from: file, options: parsing)
      let dataFile = try openDataFile(header, over: file, &request, settings)
      if let dataFile { below.append(dataFile) }
      let backing = try openBacking(
        header.backingFile, format: header.extensions.backingFormat, over: file, &request,
        settings)
      if let backing { below.append(backing) }
      try checkLeftovers("qcow2", request.options, isProtocol: false)
      if let warning = header.extensions.warning { showWarning("warning: \(warning)") }
      let node = try Qcow2Node.open(
        name: name, file: file, backing: backing, dataFile: dataFile, options: options)
      return try finish(
        node, settings, filename: filename(of: file), options: given,
        backingFile: header.backingFile, backingFormat: header.extensions.backingFormat)
    } catch {
      unclaim(file, for: name)
      for node in below { try? releaseIfUnused(node.name) }
      throw error
    }
  }

  private func openDataFile(
    _ header: Qcow2Header, over file: any BlockNode, _ request: inout Request,
    _ settings: NodeSettings
  ) throws(BlockError) -> (any BlockNode)? {
    let below = settings.forFile
    if let node = try openChild("data-file", &request, below, isProtocol: true) { return node }
    guard header.hasDataFile else { return nil }
    guard let name = header.extensions.dataFile else {
      throw BlockError(EINVAL, "'data-file' is required for this image")
    }
    return try openNode(
      Request(
        filename: FileName.resolve(name, against: filename(of: file)),
        options: try OptionReader([:]), settings: below, isProtocol: true))
  }

  /// The backing file: as options say, else as the image says.
  private func openBacking(
    _ backingFile: String?, format: String?, over file: any BlockNode, _ request: inout Request,
    _ settings: NodeSettings
  ) throws(BlockError) -> (any BlockNode)? {
    let option = request.options["backing"]
    if case .null? = option {
      _ = request.options.take("backing")
      return nil
    }
    if case .string(let reference)? = option {
      _ = request.options.take("backing")
      if reference.isEmpty {
        showWarning(
          "warning: Use of \"backing\": \"\" is deprecated; use \"backing\": null instead")
        return nil
      }
      return try lookUp(reference)
    }
    guard settings.opensBacking else {
      _ = request.options.take("backing")
      return nil
    }
    var options = try OptionReader(try request.options.object("backing") ?? [:])
    let isGiven =
      options.contains("file") || options.contains("filename")
      || options["driver"].map { $0 != "qcow2" && $0 != "raw" } == true
    var name: String?
    if !isGiven {
      guard let backingFile, !backingFile.isEmpty else { return nil }
      // `json:` names stand for themselves.
      name = FileName.resolve(backingFile, against: filename(of: file))
      if let format { options.setDefault("driver", .string(format)) }
    }
    var below = settings.forBacking
    below.metadataOnly = settings.metadataOnly
    do throws(BlockError) {
      return try openNode(
        Request(
          filename: name, options: options, settings: below, isProtocol: false,
          chain: request.chain))
    } catch {
      throw BlockError(
        error.code, "Could not open backing file: \(error.message)", hint: error.hint)
    }
  }

  private func takeQcow2Options(
    _ request: inout Request, _ settings: NodeSettings
  ) throws(BlockError) -> Qcow2Options {
    var options = Qcow2Options()
    options.readOnly = settings.isReadOnly
    options.isForChecking = settings.isForChecking
    options.discard = settings.unmaps
    options.lazyRefcounts = try request.options.bool("lazy-refcounts")
    options.passDiscardRequest = try request.options.bool("pass-discard-request")
    options.passDiscardSnapshot = try request.options.bool("pass-discard-snapshot") ?? true
    options.passDiscardOther = try request.options.bool("pass-discard-other") ?? false
    let total = try request.options.size("cache-size")
    let tables = try request.options.size("l2-cache-size")
    let refcounts = try request.options.size("refcount-cache-size")
    if let total {
      if tables != nil, refcounts != nil {
        throw BlockError(
          EINVAL,
          "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time")
      }
      if let tables, tables > total {
        throw BlockError(EINVAL, "l2-cache-size may not exceed cache-size")
      }
      if let refcounts, refcounts > total {
        throw BlockError(EINVAL, "refcount-cache-size may not exceed cache-size")
      }
    }
    options.l2CacheSize = (tables ?? total.map { $0 - (refcounts ?? 0) }).map { Int(clamping: $0) }
    options.refcountCacheSize =
      (refcounts ?? total.flatMap { total in tables.map { total - $0 } }).map { Int(clamping: $0) }
    if let entry = try request.options.size("l2-cache-entry-size"),
      entry < 512 || entry & (entry - 1) != 0
    {
      throw BlockError(
        EINVAL,
        "L2 cache entry size must be a power of two between 512 and the cluster size")
    }
    _ = try request.options.size("cache-clean-interval")
    if request.options.contains("encrypt") {
      throw BlockError(ENOTSUP, "Encrypted images are not supported yet")
    }
    try takeOverlapCheck(&request.options, &options)
    return options
  }

  private func takeOverlapCheck(
    _ reader: inout OptionReader, _ options: inout Qcow2Options
  ) throws(BlockError) {
    var template: String?
    switch reader["overlap-check"] {
    case .object?:
      var flags = try OptionReader(try reader.object("overlap-check") ?? [:])
      template = try flags.string("template")
      options.overlapCheck = try BlockGraph.overlapCheck(template ?? "cached")
      let names: [(String, Qcow2OverlapCheck)] = [
        ("main-header", .mainHeader), ("active-l1", .activeL1), ("active-l2", .activeL2),
        ("refcount-table", .refcountTable), ("refcount-block", .refcountBlock),
        ("snapshot-table", .snapshotTable), ("inactive-l1", .inactiveL1),
        ("inactive-l2", .inactiveL2), ("bitmap-directory", .bitmapDirectory),
      ]
      for (name, flag) in names {
        guard let value = try flags.bool(name) else { continue }
        if value { options.overlapCheck.insert(flag) } else { options.overlapCheck.remove(flag) }
      }
      if let key = flags.firstLeftover {
        throw BlockError(
          EINVAL, "Block format 'qcow2' does not support the option 'overlap-check.\(key)'")
      }
    case nil: break
    default:
      template = try reader.string("overlap-check")
      options.overlapCheck = try BlockGraph.overlapCheck(template ?? "cached")
    }
  }

  private static func overlapCheck(_ name: String) throws(BlockError) -> Qcow2OverlapCheck {
    switch name {
    case "none": return .none
    case "constant": return .constant
    case "cached": return .cached
    case "all": return .all
    default:
      throw BlockError(
        EINVAL,
        "Unsupported value '\(name)' for qcow2 option 'overlap-check'. Allowed are any of the "
          + "following: none, constant, cached, all")
    }
  }
}

extension FileNode {
  /// The file at the bottom of filters; nil when there is none.
  static func beneath(_ node: any BlockNode) -> FileNode? {
    var current = node
    while true {
      if let file = current as? FileNode { return file }
      guard BlockGraph.filterDrivers.contains(current.driver),
        let next = current.children.first?.node
      else { return nil }
      current = next
    }
  }
}
