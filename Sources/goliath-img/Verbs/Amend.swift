import Block

extension Verb {
  static let amend = Verb(
    name: "amend", summary: "change an image's options", operands: "FILE",
    options: [
      Common.object, Common.imageOptions, Common.format, Common.quiet, Common.cache,
      Common.progress, Common.progressForm,
      OptionEntry("-o", "OPTIONS", "the options to change, NAME=VALUE,…; 'help' lists them"),
      OptionEntry("--force", nil, "allow what may lose data (keys of an encrypted image)"),
    ], run: { arguments throws(ToolError) in try amend(arguments) })

  private static func amend(_ arguments: Arguments) throws(ToolError) -> Int32 {
    let texts = arguments.values("o")
    guard !texts.isEmpty else { throw .usage("Must specify options (-o)") }
    if texts.contains(where: CreateOptions.asksForHelp), let format = arguments.value("f") {
      guard let options = CreateOptions(format: format, inFile: false), format == "qcow2" else {
        throw ToolError("Format driver '\(format)' does not support option amendment")
      }
      Standard.write(Array(options.help(amending: format, nil).utf8), to: 1)
      return 0
    }
    guard arguments.operands.count == 1 else {
      throw ToolError("Expecting one image file name")
    }
    let progress = try Progress(arguments)
    var request = try OpenRequest(arguments, arguments.operands[0])
    request.isWritable = true
    if let text = arguments.value("t") { request.cache = try CacheOption(text, "cache option") }
    let image = try Images.open(request)
    do throws(ToolError) {
      guard image.format == "qcow2", var options = CreateOptions(format: "qcow2", inFile: false)
      else {
        throw ToolError("Format driver '\(image.format)' does not support option amendment")
      }
      if texts.contains(where: CreateOptions.asksForHelp) {
        image.drop()
        Standard.write(Array(options.help(amending: image.format, nil).utf8), to: 1)
        return 0
      }
      for text in texts { try options.parse(text, forAmending: true) }
      progress.start(total: 100)
      try Images.amend(image, options)
    } catch {
      image.drop()
      throw error
    }
    try image.close()
    progress.finish()
    return 0
  }
}
