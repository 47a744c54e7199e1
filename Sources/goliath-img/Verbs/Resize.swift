import Block

extension Verb {
  static let resize = Verb(
    name: "resize", summary: "make an image larger or smaller", operands: "FILE [+|-]SIZE",
    options: [
      Common.object, Common.imageOptions, Common.format, Common.quiet,
      OptionEntry(
        "--preallocation", "MODE", "how new space is allocated: off, metadata, falloc, full"),
      OptionEntry("--shrink", nil, "allow a smaller size, which loses data"),
    ], run: { arguments throws(ToolError) in try resize(arguments) })

  private static func resize(_ arguments: Arguments) throws(ToolError) -> Int32 {
    var preallocation = Preallocation.off
    if let text = arguments.value("preallocation") {
      guard let mode = Preallocation(rawValue: text) else {
        throw ToolError("Invalid preallocation mode '\(text)'")
      }
      preallocation = mode
    }
    guard arguments.operands.count == 2 else {
      throw .usage("Expecting image file name and size")
    }
    var text = arguments.operands[1]
    let sign = text.first.flatMap { $0 == "+" || $0 == "-" ? $0 : nil }
    if sign != nil { text.removeFirst() }
    let amount = try CreateOptions.size(text, of: "size")
    var request = try OpenRequest(arguments, arguments.operands[0])
    request.isWritable = true
    request.isResizing = true
    let image = try Images.open(request)
    do throws(ToolError) {
      try resize(image.node, sign, amount, preallocation, arguments)
    } catch {
      image.drop()
      throw error
    }
    try image.close()
    if !arguments.has("q") { Standard.print("Image resized.") }
    return 0
  }

  private static func resize(
    _ node: any BlockNode, _ sign: Character?, _ amount: UInt64, _ preallocation: Preallocation,
    _ arguments: Arguments
  ) throws(ToolError) {
    let present = node.length
    let wanted: UInt64
    switch sign {
    case "+":
      let (sum, overflow) = present.addingReportingOverflow(amount)
      guard !overflow, sum <= UInt64(Int64.max) else {
        throw ToolError("New image size must be positive")
      }
      wanted = sum
    case "-": wanted = present > amount ? present - amount : 0
    default: wanted = amount
    }
    guard wanted > 0, wanted <= UInt64(Int64.max) else {
      throw ToolError("New image size must be positive")
    }
    if wanted <= present, preallocation != .off {
      throw ToolError("Preallocation can only be used for growing images")
    }
    if wanted < present, !arguments.has("shrink") {
      throw ToolError(lines: [
        "Use the --shrink option to perform a shrink operation.",
        "warning: Shrinking an image will delete all data beyond the shrunken image's end. "
          + "Before performing such an operation, make sure there is no important data there.",
      ])
    }
    do throws(BlockError) {
      try node.truncate(to: wanted, preallocation)
    } catch {
      throw ToolError(error)
    }
  }
}
