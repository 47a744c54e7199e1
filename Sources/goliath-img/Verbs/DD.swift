import Block

extension Verb {
  static let dd = Verb(
    name: "dd", summary: "copy a part of an image, block by block",
    operands: "[bs=SIZE] [count=BLOCKS] [skip=BLOCKS] if=FILE of=TARGET",
    options: [
      Common.object, Common.imageOptions, Common.format, Common.share,
      OptionEntry("-O --target-format", "FORMAT", "the target's format (raw)"),
    ], run: { arguments throws(ToolError) in try dd(arguments) })

  private static func dd(_ arguments: Arguments) throws(ToolError) -> Int32 {
    let format = arguments.value("O") ?? "raw"
    var blockSize: UInt64 = 512
    var count: UInt64?
    var skip: UInt64 = 0
    var files: [String: String] = [:]
    for operand in arguments.operands {
      guard let equals = operand.firstIndex(of: "=") else {
        throw ToolError("unrecognized operand \(operand)")
      }
      let name = String(operand[..<equals])
      let value = String(operand[operand.index(after: equals)...])
      switch name {
      case "bs": blockSize = try Sizes.parse(value, "bs", 1...UInt64(Int32.max))
      case "count": count = try Sizes.parse(value, "count")
      case "skip": skip = try Sizes.parse(value, "skip")
      case "if", "of": files[name] = value
      default: throw ToolError("unrecognized operand \(name)")
      }
    }
    guard let input = files["if"], let output = files["of"] else {
      throw ToolError("Must specify both input and output files")
    }
    let image = try Images.open(try OpenRequest(arguments, input))
    defer { image.drop() }
    guard var options = CreateOptions(format: format) else {
      throw ToolError(
        Images.isKnown(format)
          ? "Format driver '\(format)' does not support image creation" : "Unknown file format")
    }
    var length = image.node.length
    if let count {
      let (limit, overflow) = count.multipliedReportingOverflow(by: blockSize)
      // What is skipped counts, as in the tool that this one follows.
      if !overflow, limit < length { length = limit }
    }
    let (start, overflow) = skip.multipliedReportingOverflow(by: blockSize)
    let isBeyond = overflow || start > length
    length = isBeyond ? 0 : length - start
    options.set("size", String(length))
    do throws(ToolError) {
      try Images.create(output, format: format, options)
    } catch {
      var error = error
      if let first = error.lines.first {
        error.lines[0] = "\(output): error while creating output image: \(first)"
      }
      throw error
    }
    if isBeyond { Standard.complain("\(input): cannot skip to specified offset") }
    var request = OpenRequest(output)
    request.format = format
    request.isWritable = true
    request.isQuiet = true
    let target = try Images.open(request)
    do throws(ToolError) {
      var copier = Copier(CopySource([image.node]), to: target.node)
      copier.sourceStart = isBeyond ? 0 : start
      copier.length = length
      copier.targetIsZero = !Images.isDevice(target.node)
      copier.clusterSize = Images.clusterSize(of: target.node)
      copier.threadCount = Images.usefulThreads(8, request.cache, request.cache)
      try copier.run(try Progress(Arguments([], [])))
    } catch {
      target.drop()
      throw error
    }
    try target.close()
    return 0
  }
}
