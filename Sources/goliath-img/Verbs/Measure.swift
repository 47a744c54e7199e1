import Block
import JSON

extension Verb {
  static let measure = Verb(
    name: "measure", summary: "tell how large a new image would become",
    operands: "[--size SIZE | FILE]",
    options: [
      Common.object, Common.imageOptions, Common.format, Common.output, Common.share,
      OptionEntry("-O --target-format", "FORMAT", "the format of the new image (raw)"),
      OptionEntry("-o", "OPTIONS", "options of the new image"),
      OptionEntry("-l", "SNAPSHOT", "an internal snapshot of FILE in place of its present state"),
      OptionEntry("--size", "SIZE", "an empty image of that size"),
    ]
  ) { arguments throws(ToolError) in
    let isJSON = try Common.wantsJSON(arguments)
    let format = arguments.value("O") ?? "raw"
    var size: UInt64?
    if let text = arguments.value("size") { size = try Sizes.parse(text, "image size") }
    if arguments.operands.count > 1 {
      throw ToolError("At most one filename argument is allowed.")
    }
    if let file = arguments.operands.first, size != nil {
      _ = file
      throw ToolError("--size N cannot be used together with a filename.")
    }
    if arguments.operands.isEmpty, size == nil {
      throw ToolError("Either --size N or one filename must be specified.")
    }
    for key in ["image-opts", "f", "l"] where size != nil && arguments.has(key) {
      throw ToolError("--image-opts, -f, and -l can only be used with a filename argument.")
    }
    var source: OpenImage?
    if size == nil {
      let image = try Images.open(arguments, isWritable: false)
      source = image
      if let text = arguments.value("l") { source = try Images.snapshotView(of: image, text) }
    }
    defer { source?.drop() }
    guard Images.isKnown(format) else { throw ToolError("Unknown file format '\(format)'") }
    guard var options = CreateOptions(format: format) else {
      throw ToolError("Format driver '\(format)' does not support image creation")
    }
    for text in arguments.values("o") { try options.parse(text) }
    if let size { options.set("size", String(size)) }
    if let source { options.set("size", String(source.node.length)) }
    let result = try Images.measure(format, options, source?.node)
    var output = TextOutput()
    if isJSON {
      var object = JSONObject()
      object["required"] = JSONValue(result.required)
      object["fully-allocated"] = JSONValue(result.fullyAllocated)
      if let bitmaps = result.bitmaps { object["bitmaps"] = JSONValue(bitmaps) }
      output.raw(JSONValue.object(object).printed(pretty: true))
      output.line()
    } else {
      output.line("required size: \(result.required)")
      output.line("fully allocated size: \(result.fullyAllocated)")
      if let bitmaps = result.bitmaps { output.line("bitmaps size: \(bitmaps)") }
    }
    output.flush()
    return 0
  }
}
