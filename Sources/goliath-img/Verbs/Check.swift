import Block
import JSON

extension Verb {
  static let check = Verb(
    name: "check", summary: "look for errors in an image, and repair them", operands: "FILE",
    options: [
      Common.object, Common.imageOptions, Common.format, Common.output, Common.quiet, Common.share,
      OptionEntry("-r --repair", "WHAT", "repair: leaks, or all errors"),
      OptionEntry("-T --source-cache", "MODE", "how FILE is read and written"),
    ], run: { arguments throws(ToolError) in try check(arguments) })

  private static func check(_ arguments: Arguments) throws(ToolError) -> Int32 {
    var repair = CheckRepair.none
    if let text = arguments.value("r") {
      switch text {
      case "leaks": repair = .leaks
      case "all": repair = .all
      default:
        throw .usage("Unknown option value for -r (expecting 'leaks' or 'all'): \(text)")
      }
    }
    let isJSON = try Common.wantsJSON(arguments)
    let isQuiet = arguments.has("q")
    let file = try Common.file(arguments)
    var request = try OpenRequest(arguments, file)
    request.isForChecking = true
    request.isWritable = repair != .none
    if let text = arguments.value("T") {
      request.cache = try CacheOption(text, "source cache option")
    }
    let image = try Images.open(request)
    guard Images.canCheck(image) else {
      image.drop()
      throw ToolError("This image format does not support checks", status: 63)
    }
    var result = CheckResult()
    do throws(BlockError) {
      result = try Images.check(image, repair)
      if result.corruptionsFixed > 0 || result.leaksFixed > 0 {
        let fixed = (result.leaksFixed, result.corruptionsFixed)
        if !isQuiet, !isJSON {
          Standard.print(
            """
            The following inconsistencies were found and repaired:

                \(fixed.0) leaked clusters
                \(fixed.1) corruptions

            Double checking the fixed image now...
            """)
        }
        result = try Images.check(image, .none)
        (result.leaksFixed, result.corruptionsFixed) = fixed
      }
    } catch {
      image.drop()
      throw ToolError("Check failed: \(Images.reason(error))")
    }
    if repair == .none { image.drop() } else { try image.close() }
    result.filename = image.filename
    result.format = image.format
    if isJSON {
      var output = TextOutput()
      output.raw(result.json.printed(pretty: true))
      output.line()
      output.flush()
    } else if !isQuiet {
      Standard.write(Array(result.text.utf8), to: 1)
    }
    if result.checkErrors > 0 { throw ToolError("Check failed") }
    return result.corruptions > 0 ? 2 : result.leaks > 0 ? 3 : 0
  }
}

/// What a check puts right.
enum CheckRepair: Sendable { case none, leaks, all }
