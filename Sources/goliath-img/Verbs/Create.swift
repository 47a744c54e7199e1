import Block

extension Verb {
  static let create = Verb(
    name: "create", summary: "make a new image", operands: "FILE [SIZE]",
    options: [
      Common.object, Common.quiet,
      OptionEntry("-f --format", "FORMAT", "the new image's format (raw)"),
      OptionEntry("-b --backing-file", "FILE", "the image that holds what the new one does not"),
      OptionEntry("-F --backing-format", "FORMAT", "that image's format"),
      OptionEntry("-u", nil, "the backing file need not be there"),
      OptionEntry("-o", "OPTIONS", "options of the format, NAME=VALUE,…; 'help' lists them"),
    ], run: { arguments throws(ToolError) in try create(arguments) })

  private static func create(_ arguments: Arguments) throws(ToolError) -> Int32 {
    let format = arguments.value("f") ?? "raw"
    let texts = arguments.values("o")
    if texts.contains(where: CreateOptions.asksForHelp) {
      return try help(format, hasFile: !arguments.operands.isEmpty)
    }
    guard let file = arguments.operands.first else {
      throw .usage("Expecting image file name")
    }
    var size: UInt64?
    if arguments.operands.count > 1 {
      size = try Sizes.parse(arguments.operands[1], "image size")
    }
    if arguments.operands.count > 2 {
      throw .usage("Unexpected argument: \(arguments.operands[2])")
    }
    do throws(ToolError) {
      guard Images.isKnown(format) else { throw ToolError("Unknown file format '\(format)'") }
      guard var options = CreateOptions(format: format) else {
        throw ToolError("Format driver '\(format)' does not support image creation")
      }
      for text in texts { try options.parse(text) }
      if let size {
        guard options["size"] == nil else {
          throw ToolError("The image size must be specified only once")
        }
        options.set("size", String(size))
      }
      try options.set(
        backing: arguments.value("b"), backingFormat: arguments.value("F"), for: format)
      try resolveBacking(&options, file, isUnsafe: arguments.has("u"))
      guard options["size"] != nil else {
        throw ToolError("Image creation needs a size parameter")
      }
      if !arguments.has("q") {
        Standard.print("Formatting '\(file)', fmt=\(format) \(options.summary)")
      }
      try Images.create(file, format: format, options)
    } catch {
      var error = error
      if let first = error.lines.first { error.lines[0] = "\(file): \(first)" }
      throw error
    }
    return 0
  }

  /// Looks at the backing file: it must be there, and gives the size when none was asked for.
  private static func resolveBacking(
    _ options: inout CreateOptions, _ file: String, isUnsafe: Bool
  ) throws(ToolError) {
    if options["backing_file"] == "" { options.remove("backing_file") }
    guard let backing = options["backing_file"] else { return }
    if backing == file {
      throw ToolError("Error: Trying to create an image with the same filename as the backing file")
    }
    if isUnsafe {
      guard options["backing_fmt"] != nil else {
        throw ToolError("Backing file specified without backing format")
      }
      return
    }
    var request = OpenRequest(Images.path(of: backing, relativeTo: file))
    request.format = options["backing_fmt"]
    // Only its format and size are looked at, so that another program may be writing to it.
    request.sharesByForce = true
    let image: OpenImage
    do throws(BlockError) {
      image = try Images.openPlain(request)
    } catch {
      throw ToolError(lines: [error.message], hint: "Could not open backing image.\n")
    }
    defer { image.drop() }
    guard options["backing_fmt"] != nil else {
      throw ToolError(
        "Backing file specified without backing format",
        hint: "Detected format of \(image.format).")
    }
    if options["size"] == nil { options.set("size", String(image.node.length)) }
  }

  private static func help(_ format: String, hasFile: Bool) throws(ToolError) -> Int32 {
    guard Images.isKnown(format) else { throw ToolError("Unknown file format '\(format)'") }
    guard let options = CreateOptions(format: format, inFile: hasFile) else {
      throw ToolError("Format driver '\(format)' does not support image creation")
    }
    Standard.write(Array(options.help(amending: nil, hasFile ? nil : format).utf8), to: 1)
    return 0
  }
}
