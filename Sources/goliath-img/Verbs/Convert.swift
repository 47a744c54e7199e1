import Block
import Host

extension Verb {
  static let convert = Verb(
    name: "convert", summary: "copy images into a new one, perhaps of another format",
    operands: "FILE… TARGET",
    options: [
      Common.object, Common.imageOptions, Common.format, Common.quiet, Common.share,
      Common.progress, Common.progressForm,
      OptionEntry("--target-image-opts", nil, "TARGET is a list of options"),
      OptionEntry("--target-is-zero", nil, "TARGET reads as zeros already (with -n)"),
      OptionEntry("--bitmaps", nil, "copy persistent bitmaps (not available yet)"),
      OptionEntry("--skip-broken-bitmaps", nil, "with --bitmaps"),
      OptionEntry("-C", nil, "let the host copy where it can"),
      OptionEntry("-c --compress", nil, "compress (qcow2)"),
      OptionEntry("-n --no-create", nil, "TARGET is there already"),
      OptionEntry("-t --target-cache", "MODE", "how TARGET is written (unsafe)"),
      OptionEntry("-T --source-cache", "MODE", "how FILE is read (writeback)"),
      OptionEntry("-O --target-format", "FORMAT", "TARGET's format (raw)"),
      OptionEntry("-B --backing-file", "FILE", "TARGET holds only what differs from that image"),
      OptionEntry("-F --backing-format", "FORMAT", "that image's format"),
      OptionEntry("-o", "OPTIONS", "options of TARGET; 'help' lists them"),
      OptionEntry(
        "-l --snapshot", "SNAPSHOT", "an internal snapshot in place of the present state"),
      OptionEntry(
        "-S --sparse-size", "SIZE", "shortest run of zeros that is left out (4k); 0: none is"),
      OptionEntry("-r --rate-limit", "RATE", "bytes in a second at most"),
      OptionEntry("-m --parallel", "COUNT", "threads at most, 1 to 16 (8)"),
      OptionEntry("-W", nil, "write in any order"),
      OptionEntry("--salvage", nil, "what cannot be read becomes zeros"),
    ], run: { arguments throws(ToolError) in try Conversion(arguments).run() })
}

/// One run of `convert`.
private struct Conversion {
  private let arguments: Arguments
  private var format = "raw"
  private var sparseSize: UInt64 = 4096
  private var threadCount = 8
  private var rateLimit: UInt64 = 0
  private let progress: Progress
  private let targetCache: CacheOption
  private let sourceCache: CacheOption

  init(_ arguments: Arguments) throws(ToolError) {
    self.arguments = arguments
    // Before there is a target: whoever sees that may ask.
    progress = try Progress(arguments)
    if let name = arguments.value("O") { format = name }
    if let text = arguments.value("S") {
      let problem = """
        Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to \
        16777216. Select 0 to disable sparse detection (fully allocates output).
        """
      sparseSize = try Sizes.parse(text, "buffer size for sparse output")
      guard sparseSize % 512 == 0, sparseSize <= 16 << 20 else { throw ToolError(problem) }
    }
    if let text = arguments.value("m") {
      guard let count = Int(text), (1...16).contains(count) else {
        throw ToolError(
          "Invalid number of coroutines. Allowed number of coroutines is between 1 and 16")
      }
      threadCount = count
    }
    if let text = arguments.value("r") { rateLimit = try Sizes.parse(text, "rate limit") }
    targetCache = try CacheOption(arguments.value("t") ?? "unsafe", "cache option")
    sourceCache = try CacheOption(arguments.value("T") ?? "writeback", "source cache option")
  }

  func run() throws(ToolError) -> Int32 {
    let texts = arguments.values("o")
    if texts.contains(where: CreateOptions.asksForHelp) {
      guard let options = CreateOptions(format: format, inFile: !arguments.operands.isEmpty) else {
        throw ToolError("Unknown file format '\(format)'")
      }
      let text = options.help(amending: nil, arguments.operands.isEmpty ? format : nil)
      Standard.write(Array(text.utf8), to: 1)
      return 0
    }
    try checkSwitches()
    guard arguments.operands.count >= 2, let file = arguments.operands.last else {
      throw ToolError("Must specify image file name")
    }
    var sources: [OpenImage] = []
    defer { for source in sources { source.drop() } }
    for source in arguments.operands.dropLast() {
      var request = try OpenRequest(arguments, source)
      request.cache = sourceCache
      sources.append(try Images.open(request))
    }
    if let text = arguments.value("l") {
      guard sources.count == 1 else {
        throw ToolError("No support for concatenating multiple snapshot")
      }
      sources[0] = try Images.snapshotView(of: sources[0], text)
    }
    let total = sources.reduce(0) { $0 + $1.node.length }
    var backing = arguments.value("B")
    if !arguments.has("n") {
      var options = try targetOptions(total)
      backing = options["backing_file"]
      try checkTarget(options, backing, sources)
      if backing == "" {
        options.remove("backing_file")
        backing = nil
      }
      do throws(ToolError) {
        try Images.create(file, format: format, options)
      } catch {
        var error = error
        if let first = error.lines.first {
          error.lines[0] = "\(file): error while converting \(format): \(first)"
        }
        throw error
      }
    }
    let target = try openTarget(file)
    do throws(ToolError) {
      try copy(sources, total, to: target, hasBacking: backing != nil)
    } catch {
      target.drop()
      throw error
    }
    try target.close()
    return 0
  }

  /// Refuses switches that make no sense together.
  private func checkSwitches() throws(ToolError) {
    if arguments.has("bitmaps") {
      throw ToolError("Persistent bitmaps are not supported yet: --bitmaps cannot be used")
    }
    if arguments.has("skip-broken-bitmaps") {
      throw ToolError("Use of --skip-broken-bitmaps requires --bitmaps")
    }
    if arguments.has("target-image-opts"), arguments.has("O") {
      throw ToolError("--image-opts and --format are mutually exclusive")
    }
    if arguments.has("target-image-opts"), !arguments.has("n") {
      throw ToolError("--target-image-opts requires use of -n flag")
    }
    if arguments.has("n"), arguments.has("o") {
      throw ToolError("-o has no effect when skipping image creation")
    }
    if arguments.has("target-is-zero"), !arguments.has("n") {
      throw ToolError("--target-is-zero requires use of -n flag")
    }
    if arguments.has("C"), arguments.has("S") {
      throw ToolError("Cannot enable copy offloading when -S is used")
    }
    if arguments.has("C"), arguments.has("salvage") {
      throw ToolError("Cannot use copy offloading in salvaging mode")
    }
  }

  private func targetOptions(_ total: UInt64) throws(ToolError) -> CreateOptions {
    guard Images.isKnown(format) else { throw ToolError("Unknown file format '\(format)'") }
    guard var options = CreateOptions(format: format) else {
      throw ToolError("Format driver '\(format)' does not support image creation")
    }
    for text in arguments.values("o") { try options.parse(text) }
    if options["size"] == nil { options.set("size", String(total)) }
    try options.set(
      backing: arguments.value("B"), backingFormat: arguments.value("F"), for: format)
    return options
  }

  private func checkTarget(
    _ options: CreateOptions, _ backing: String?, _ sources: [OpenImage]
  ) throws(ToolError) {
    if let backing, !backing.isEmpty {
      guard options["backing_fmt"] != nil else {
        throw ToolError("Use of backing file requires explicit backing format")
      }
      if sources.count > 1 {
        throw ToolError(
          "Having a backing file for the target makes no sense when concatenating multiple input images"
        )
      }
    }
    guard arguments.has("c") else { return }
    guard format == "qcow2" else {
      throw ToolError("Compression not supported for this file format")
    }
    if options["encryption"] != nil || options["encrypt.format"] != nil {
      throw ToolError("Compression and encryption not supported at the same time")
    }
    if let mode = options["preallocation"], mode != "off" {
      throw ToolError("Compression and preallocation not supported at the same time")
    }
  }

  private func openTarget(_ file: String) throws(ToolError) -> OpenImage {
    var request = OpenRequest(file)
    request.isOptions = arguments.has("target-image-opts")
    request.format = request.isOptions ? nil : format
    request.isWritable = true
    request.isQuiet = true
    request.cache = targetCache
    request.unmaps = true
    return try Images.open(request)
  }

  private func copy(
    _ sources: [OpenImage], _ total: UInt64, to target: OpenImage, hasBacking: Bool
  ) throws(ToolError) {
    let node = target.node
    if arguments.has("n"), node.length < total {
      // A whole number of the host's blocks may be a bit more than the image says.
      throw ToolError("output file is smaller than input file")
    }
    var copier = Copier(CopySource(sources.map(\.node)), to: node)
    copier.length = total
    copier.clusterSize = Images.clusterSize(of: node)
    if arguments.has("c"), target.format != "qcow2" {
      throw ToolError("Compression not supported for this file format")
    }
    copier.isCompressed = arguments.has("c")
    copier.isUnordered = arguments.has("W")
    copier.threadCount = Images.usefulThreads(threadCount, sourceCache, targetCache)
    copier.targetIsZero =
      arguments.has("target-is-zero") || !arguments.has("n") && !Images.isDevice(node)
    copier.sparseSize = sparseSize
    if hasBacking {
      copier.targetBackingLength = Chain.backing(of: node)?.length ?? node.length
    }
    copier.isSalvaging = arguments.has("salvage")
    copier.rateLimit = rateLimit
    try copier.run(progress)
  }
}
