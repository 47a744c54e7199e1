import Glibc
import Host
package import JSON

extension BlockGraph {
  /// Opens what `-blockdev` and `blockdev-add` describe: options of `BlockdevOptions`, as objects or with dotted keys. Throws in QEMU's words.
  ///
  /// The node stays until `delete`.
  @discardableResult
  package func add(_ options: JSONObject) throws(BlockError) -> any BlockNode {
    var reader = try OptionReader(options)
    guard reader["driver"] != nil else { throw BlockError(EINVAL, "Parameter 'driver' is missing") }
    guard let name = reader["node-name"]?.stringValue else {
      throw BlockError(EINVAL, "'node-name' must be specified for the root node")
    }
    _ = name
    // Only the command line's other forms have defaults of their own.
    reader.setDefault("read-only", .bool(false))
    let node = try openNode(
      Request(filename: nil, options: reader, settings: NodeSettings(), isProtocol: false))
    setOwnedByMonitor(node.name, true)
    return node
  }

  /// Opens an image for a tool or `-drive`: by name, by options, or both. Without `format` (and `driver` among the options) the format is guessed.
  ///
  /// The node is nobody's yet: attach it to a `BlockBackend`, whose end closes it, or call `releaseIfUnused`. Throws in QEMU's words.
  package func open(
    _ filename: String?, format: String? = nil, options: JSONObject = [:],
    settings: NodeSettings = NodeSettings()
  ) throws(BlockError) -> any BlockNode {
    var reader = try OptionReader(options)
    if let format { reader.setDefault("driver", .string(format)) }
    return try openNode(
      Request(filename: filename, options: reader, settings: settings, isProtocol: false))
  }

  /// Opens the file, device or other source of bytes of that name without looking at its format: what an image is created on.
  package func openFile(
    _ filename: String, options: JSONObject = [:], settings: NodeSettings = NodeSettings()
  ) throws(BlockError) -> any BlockNode {
    try openNode(
      Request(
        filename: filename, options: try OptionReader(options), settings: settings,
        isProtocol: true))
  }

  /// The format that a file is in, by its first bytes; `raw` when it is none that is known.
  package func probeFormat(_ file: any BlockNode, filename: String) throws(BlockError) -> String {
    let length = min(file.length, UInt64(ImageFormat.probeLength))
    let head = try file.bytes(0, Int(length))
    return ImageFormat.probe(head, filename: filename)
  }

  // MARK: -

  /// What one node is to be opened from.
  struct Request {
    var filename: String?
    var options: OptionReader
    var settings: NodeSettings
    /// A file, device or network: no format.
    var isProtocol: Bool
    /// The files of the images above, by what they are: a chain that comes back to one of them is refused.
    var chain: [BlockFile.Identity] = []
  }

  static let protocolDrivers: Set<String> = [
    "file", "host_device", "host_cdrom", "null-co", "null-aio", "blkdebug",
  ]
  static let formatDrivers: Set<String> = ["raw", "qcow2", "throttle"]

  func openNode(_ request: Request) throws(BlockError) -> any BlockNode {
    var request = request
    try expandJSON(&request)
    let name: String
    if let chosen = try request.options.string("node-name") {
      try reserve(chosen)
      name = chosen
    } else {
      name = makeName()
    }
    do throws(BlockError) {
      return try openNamed(name, request)
    } catch {
      unreserve(name)
      throw error
    }
  }

  private func openNamed(_ name: String, _ request: Request) throws(BlockError) -> any BlockNode {
    var request = request
    var settings = try takeSettings(&request.options, request.settings)
    var driver = try request.options.string("driver")
    if let driver, !BlockGraph.protocolDrivers.contains(driver),
      !BlockGraph.formatDrivers.contains(driver)
    {
      throw BlockError(EINVAL, "Unknown driver '\(driver)'")
    }
    if request.isProtocol || driver.map(BlockGraph.protocolDrivers.contains) == true {
      try chooseProtocol(&driver, &request)
      return try openProtocol(name, driver ?? "file", &request, settings)
    }
    guard driver == nil else { return try openFormat(name, driver ?? "raw", &request, settings) }
    // The format is guessed from the first bytes of what is below.
    guard request.filename != nil || request.options.contains("file") else {
      throw BlockError(EINVAL, "Must specify either driver or file")
    }
    let file = try openFileChild(&request, settings)
    do throws(BlockError) {
      let shown = request.filename ?? filename(of: file)
      let found = try probeFormat(file, filename: shown)
      guard BlockGraph.formatDrivers.contains(found) else {
        throw BlockError(
          ENOTSUP, "The image is in format '\(found)', which is not supported")
      }
      if found == "raw" {
        settings.isProbed = true
        if !settings.isReadOnly, !file.isReadOnly {
          showWarning(
            """
            WARNING: Image format was not specified for '\(filename(of: file))' and probing guessed raw.
                     Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.
                     Specify the 'raw' format explicitly to remove the restrictions.
            """)
        }
      }
      return try openFormat(name, found, over: file, &request, settings)
    } catch {
      try? releaseIfUnused(file.name)
      throw error
    }
  }

  /// The name that a node was opened by.
  func filename(of node: any BlockNode) -> String { entry(of: node)?.filename ?? "" }

  /// `json:{…}` in place of a name is options.
  private func expandJSON(_ request: inout Request) throws(BlockError) {
    guard let filename = request.filename, filename.hasPrefix("json:") else { return }
    let value: JSONValue
    do throws(JSONError) { value = try JSONValue(parsing: filename.utf8.dropFirst(5)) } catch {
      throw BlockError(EINVAL, "Could not parse the JSON options: \(error.text)")
    }
    guard case .object(let object) = value else {
      throw BlockError(EINVAL, "Invalid JSON object given")
    }
    let below = try OptionReader(object)
    for (key, member) in below.rest { request.options.setDefault(key, member) }
    request.filename = nil
  }

  /// The options that every driver has.
  private func takeSettings(
    _ options: inout OptionReader, _ inherited: NodeSettings
  ) throws(BlockError) -> NodeSettings {
    var settings = inherited
    if let value = try options.bool("read-only") { settings.isReadOnly = value }
    if let value = try options.bool("auto-read-only") { settings.isAutoReadOnly = value }
    if let value = try options.bool("force-share") { settings.forceShare = value }
    if let cache = try options.object("cache") {
      var cache = try OptionReader(cache)
      if let value = try cache.bool("direct") { settings.cache.isDirect = value }
      if let value = try cache.bool("no-flush") { settings.cache.ignoresFlushes = value }
      // The writeback mode belongs to the device.
      _ = try cache.bool("writeback")
      if let key = cache.firstLeftover {
        throw BlockError(EINVAL, "Parameter 'cache.\(key)' is unexpected")
      }
    }
    if let discard = try options.string("discard") {
      switch discard {
      case "unmap", "on": settings.unmaps = true
      case "ignore", "off": settings.unmaps = false
      default: throw BlockError(EINVAL, "Invalid discard option")
      }
    }
    if let detect = try options.string("detect-zeroes") {
      guard let value = ZeroDetection(rawValue: detect) else {
        throw BlockError(EINVAL, "Invalid parameter '\(detect)'")
      }
      settings.detectZeroes = value
      if value == .unmap, !settings.unmaps {
        throw BlockError(
          EINVAL,
          "setting detect-zeroes to unmap is not allowed without setting discard operation "
            + "to unmap")
      }
    }
    if settings.forceShare, !settings.isReadOnly {
      throw BlockError(EINVAL, "force-share=on can only be used with read-only images")
    }
    return settings
  }

  // MARK: Files and devices

  /// Which driver a name means.
  private func chooseProtocol(
    _ driver: inout String?, _ request: inout Request
  ) throws(BlockError) {
    guard driver == nil else { return }
    guard let name = request.filename ?? request.options["filename"]?.stringValue else {
      throw BlockError(EINVAL, "Must specify either driver or file")
    }
    guard let scheme = FileName.scheme(of: name), request.filename != nil else {
      driver = FileNode.suitableDriver(for: name)
      return
    }
    switch scheme {
    case "file":
      let path = String(name.dropFirst(5))
      request.filename = path
      driver = "file"
    case "host_device", "host_cdrom":
      request.filename = String(name.dropFirst(scheme.utf8.count + 1))
      driver = scheme
    case "null-co", "null-aio":
      guard name == "\(scheme)://" else {
        throw BlockError(
          EINVAL, "The only allowed filename for this driver is '\(scheme)://'")
      }
      request.filename = nil
      driver = scheme
    case "blkdebug":
      // blkdebug:CONFIG:IMAGE
      let rest = name.dropFirst(9)
      guard let colon = rest.firstIndex(of: ":") else {
        throw BlockError(EINVAL, "blkdebug requires both config file and image path")
      }
      if colon != rest.startIndex {
        request.options.setDefault("config", .string(String(rest[..<colon])))
      }
      request.options.setDefault("x-image", .string(String(rest[rest.index(after: colon)...])))
      request.filename = nil
      driver = scheme
    default:
      throw BlockError(EINVAL, "Unknown protocol '\(scheme)'")
    }
  }

  private func openProtocol(
    _ name: String, _ driver: String, _ request: inout Request, _ settings: NodeSettings
  ) throws(BlockError) -> any BlockNode {
    var shown = request.filename ?? ""
    let given = request.options.rest
    let node: any BlockNode
    switch driver {
    case "file", "host_device", "host_cdrom":
      let option = try request.options.string("filename")
      let path = request.filename ?? option
      guard let path, !path.isEmpty else {
        throw BlockError(EINVAL, "The '\(driver)' block driver requires a file name")
      }
      shown = path
      let locking = try request.options.string("locking") ?? "auto"
      guard ["on", "off", "auto"].contains(locking) else {
        throw BlockError(EINVAL, "Invalid parameter '\(locking)'")
      }
      let aio = try request.options.string("aio") ?? "threads"
      guard ["threads", "native", "io_uring"].contains(aio) else {
        throw BlockError(EINVAL, "Invalid parameter '\(aio)'")
      }
      if aio == "native", !settings.cache.isDirect {
        throw BlockError(
          EINVAL,
          "aio=native was specified, but it requires cache.direct=on, which was not specified.")
      }
      _ = try request.options.integer("aio-max-batch")
      _ = try request.options.bool("drop-cache")
      _ = try request.options.bool("x-check-cache-dropped")
      try checkLeftovers(driver, request.options, isProtocol: true)
      node = try FileNode(
        name: name, driver: driver, path: path, settings: settings, locking: locking != "off")
    case "null-co", "null-aio":
      let size = try request.options.size("size") ?? 1 << 30
      let readsZeroes = try request.options.bool("read-zeroes") ?? false
      let latency = try request.options.size("latency-ns") ?? 0
      shown = "\(driver)://"
      try checkLeftovers(driver, request.options, isProtocol: true)
      node = NullNode(
        name: name, driver: driver, length: size, readsZeroes: readsZeroes, latency: latency,
        isReadOnly: settings.isReadOnly)
    case "blkdebug":
      return try openBlkdebug(name, &request, settings)
    default:
      throw BlockError(EINVAL, "Unknown driver '\(driver)'")
    }
    return try finish(node, settings, filename: shown, options: given)
  }

  /// Adds a node that was just made; closes it when its permissions conflict.
  func finish(
    _ node: any BlockNode, _ settings: NodeSettings, filename: String, options: JSONObject,
    backingFile: String? = nil, backingFormat: String? = nil
  ) throws(BlockError) -> any BlockNode {
    var entry = Entry(node: node, settings: settings, filename: filename, options: options)
    entry.backingFile = backingFile
    entry.backingFormat = backingFormat
    do throws(BlockError) { try insert(entry) } catch {
      try? node.close()
      throw error
    }
    return node
  }

  func checkLeftovers(
    _ driver: String, _ options: OptionReader, isProtocol: Bool
  ) throws(BlockError) {
    guard let key = options.firstLeftover else { return }
    throw BlockError(
      EINVAL,
      isProtocol
        ? "Block protocol '\(driver)' doesn't support the option '\(key)'"
        : "Block format '\(driver)' does not support the option '\(key)'")
  }

  // MARK: Formats

  /// Opens or finds the node that the option `role` (`file`, `backing`…) names; nil when there is no such option.
  func openChild(
    _ role: String, _ request: inout Request, _ settings: NodeSettings, isProtocol: Bool,
    chain: [BlockFile.Identity] = []
  ) throws(BlockError) -> (any BlockNode)? {
    switch request.options.take(role) {
    case nil: return nil
    case .string(let reference): return try lookUp(reference)
    case .object(let object):
      return try openNode(
        Request(
          filename: nil, options: try OptionReader(object), settings: settings,
          isProtocol: isProtocol, chain: chain))
    default:
      throw BlockError(EINVAL, "Invalid parameter type for '\(role)', expected: BlockdevRef")
    }
  }

  /// The file below a format: from the option `file`, the name, or both.
  func openFileChild(
    _ request: inout Request, _ settings: NodeSettings
  ) throws(BlockError) -> any BlockNode {
    var below = settings.forFile
    below.metadataOnly = false
    if case .string? = request.options["file"] {
      if let node = try openChild("file", &request, below, isProtocol: true) { return node }
    }
    var options = try OptionReader(try request.options.object("file") ?? [:])
    // The names of files come from images, too: those keep their meaning, options stay options.
    if request.filename == nil, options.rest.isEmpty {
      throw BlockError(EINVAL, "A block device must be specified for \"file\"")
    }
    if options.contains("filename"), request.filename == nil, options["driver"] == nil,
      let name = try options.string("filename")
    {
      request.filename = name
    }
    return try openNode(
      Request(
        filename: request.filename, options: options, settings: below, isProtocol: true))
  }

  private func openFormat(
    _ name: String, _ driver: String, _ request: inout Request, _ settings: NodeSettings
  ) throws(BlockError) -> any BlockNode {
    let file = try openFileChild(&request, settings)
    do throws(BlockError) {
      return try openFormat(name, driver, over: file, &request, settings)
    } catch {
      try? releaseIfUnused(file.name)
      throw error
    }
  }

  private func openFormat(
    _ name: String, _ driver: String, over file: any BlockNode, _ request: inout Request,
    _ settings: NodeSettings
  ) throws(BlockError) -> any BlockNode {
    let shown = filename(of: file)
    switch driver {
    case "raw":
      let given = request.options.rest
      let offset = try request.options.size("offset") ?? 0
      let size = try request.options.size("size")
      try checkLeftovers(driver, request.options, isProtocol: false)
      let node = try RawNode(
        name: name, file: file, settings: settings, offset: offset, size: size)
      return try finish(node, settings, filename: shown, options: given)
    case "throttle":
      return try openThrottle(name, over: file, &request, settings)
    case "qcow2":
      return try openQcow2(name, over: file, &request, settings)
    default:
      throw BlockError(EINVAL, "Unknown driver '\(driver)'")
    }
  }
}

extension FileNode {
  /// The driver for a path: devices have their own.
  static func suitableDriver(for path: String) -> String {
    switch PathKind.of(path) {
    case .device:
      path.hasPrefix("/dev/cdrom") || path.hasPrefix("/dev/sr") ? "host_cdrom" : "host_device"
    default: "file"
    }
  }
}
