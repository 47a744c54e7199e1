import JSON

extension Verb {
  static let info = Verb(
    name: "info", summary: "show what is known about an image", operands: "FILE",
    options: [
      Common.object, Common.imageOptions, Common.format, Common.output, Common.share,
      OptionEntry("--backing-chain", nil, "the backing files, too"),
    ]
  ) { arguments throws(ToolError) in
    let isJSON = try Common.wantsJSON(arguments)
    let file = try Common.file(arguments)
    var infos: [ImageInfo] = []
    var request = try OpenRequest(arguments, file)
    request.hasBacking = false
    request.isMetadataOnly = true
    var seen: Set<String> = []
    while true {
      guard seen.insert(request.text).inserted else {
        throw ToolError("Backing file '\(request.text)' creates an infinite loop.")
      }
      let image = try Images.open(request)
      let info = Images.info(about: image)
      image.drop()
      infos.append(info)
      guard arguments.has("backing-chain"), let next = info.fullBackingFile else { break }
      request.text = next
      request.format = info.backingFormat
      request.isOptions = false
    }
    var output = TextOutput()
    if isJSON {
      var printer = JSONPrinter(pretty: true)
      if arguments.has("backing-chain") {
        printer.beginArray()
        for info in infos {
          printer.element()
          info.print(with: &printer, to: &output)
        }
        printer.endArray()
      } else {
        infos[0].print(with: &printer, to: &output)
      }
      output.raw(printer.output)
      output.line()
    } else {
      output.text(infos.map(\.text).joined(separator: "\n"))
    }
    output.flush()
    return 0
  }
}
