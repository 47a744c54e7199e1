import Block

/// A stretch of an image as `map` shows it.
struct MapEntry: Equatable {
  var start: UInt64
  var length: UInt64 = 0
  var depth = 0
  var isPresent = false
  var isZero = false
  var isData = false
  var offset: UInt64?

  /// Whether `next`, which follows, belongs to the same line.
  func continues(in next: MapEntry) -> Bool {
    guard
      isZero == next.isZero, isData == next.isData, isPresent == next.isPresent,
      depth == next.depth, (offset == nil) == (next.offset == nil)
    else { return false }
    guard let offset, let following = next.offset else { return true }
    return offset &+ length == following
  }
}

extension Verb {
  static let map = Verb(
    name: "map", summary: "show where each part of an image is stored", operands: "FILE",
    options: [
      Common.object, Common.imageOptions, Common.format, Common.output, Common.share,
      OptionEntry("-s --start-offset", "OFFSET", "begin there"),
      OptionEntry("-l --max-length", "LENGTH", "look at no more than that"),
    ]
  ) { arguments throws(ToolError) in
    let isJSON = try Common.wantsJSON(arguments)
    var start: UInt64 = 0
    if let text = arguments.value("s") { start = try Sizes.parse(text, "start offset") }
    var limit = UInt64.max
    if let text = arguments.value("l") { limit = try Sizes.parse(text, "max length") }
    let image = try Images.open(arguments, isWritable: false)
    defer { image.drop() }
    let length = min(
      image.node.length, start.addingReportingOverflow(limit).overflow ? .max : start + limit)
    let layers = Chain.layers(image.node)
    let names = layers.map { Images.fileName(of: $0.node, in: image.graph) }
    var printer = MapPrinter(isJSON: isJSON, names: names)
    var current = MapEntry(start: start)
    var position = start
    var answers: [Chain.Answer] = []
    var room: [BlockStatus] = []
    while position < length {
      do throws(BlockError) {
        try Chain.statuses(layers, position, length - position, into: &answers, &room)
      } catch {
        printer.output.flush()
        throw ToolError("Failed to read image metadata: \(Images.reason(error))")
      }
      for answer in answers where position < length {
        let status = answer.status
        let entry = MapEntry(
          start: position, length: max(1, min(status.length, length - position)),
          depth: answer.depth, isPresent: status.isAllocated, isZero: status.isZero,
          isData: status.isData, offset: status.hostOffset)
        if current.length > 0, current.continues(in: entry) {
          current.length += entry.length
        } else {
          if current.length > 0 { printer.entry(current, isLast: false) }
          current = entry
        }
        position += entry.length
      }
    }
    printer.entry(current, isLast: true)
    printer.output.flush()
    if printer.hasUnmappable {
      throw ToolError("File contains external, encrypted or compressed clusters.")
    }
    return 0
  }
}

/// Prints the lines of a map.
struct MapPrinter {
  var output = TextOutput()
  private let isJSON: Bool
  private let names: [String]
  private var isFirst = true
  /// Data that is nowhere as it is ended the table.
  private(set) var hasUnmappable = false

  private let start: Range<Int>
  private let length: Range<Int>
  private let next: Range<Int>
  private let end: Range<Int>
  /// What stands between length and offset, for each combination that has occurred.
  private var middles: [Range<Int>] = []

  init(isJSON: Bool, names: [String]) {
    self.isJSON = isJSON
    self.names = names
    start = output.keep("{ \"start\": ")
    length = output.keep(", \"length\": ")
    next = output.keep("},\n")
    end = output.keep("}]\n")
    if isJSON {
      output.text("[")
    } else {
      output.line(
        MapPrinter.columns("Offset", "Length", "Mapped to") + "File")
    }
  }

  mutating func entry(_ entry: MapEntry, isLast: Bool) {
    if !isJSON { return human(entry) }
    output.phrase(start)
    output.decimal(entry.start)
    output.phrase(length)
    output.decimal(entry.length)
    let kind =
      entry.depth << 4 | (entry.isPresent ? 1 : 0) | (entry.isZero ? 2 : 0)
      | (entry.isData ? 4 : 0) | (entry.offset == nil ? 0 : 8)
    while kind >= middles.count { middles.append(0..<0) }
    if middles[kind].isEmpty {
      var text = ", \"depth\": \(entry.depth), \"present\": \(entry.isPresent)"
      text += ", \"zero\": \(entry.isZero), \"data\": \(entry.isData)"
      if entry.offset != nil { text += ", \"offset\": " }
      middles[kind] = output.keep(text)
    }
    output.phrase(middles[kind])
    if let offset = entry.offset { output.decimal(offset) }
    output.phrase(isLast ? end : next)
    output.flushWhenLarge()
  }

  private mutating func human(_ entry: MapEntry) {
    if hasUnmappable { return }
    if entry.isData, entry.offset == nil {
      hasUnmappable = true
      return
    }
    guard entry.isData, !entry.isZero else { return }
    let name = entry.depth < names.count ? names[entry.depth] : ""
    output.line(
      MapPrinter.columns(
        MapPrinter.hex(entry.start), MapPrinter.hex(entry.length), MapPrinter.hex(entry.offset ?? 0)
      )
        + name)
  }

  private static func columns(_ texts: String...) -> String {
    texts.map { $0 + String(repeating: " ", count: max(0, 16 - $0.utf8.count)) }.joined()
  }

  private static func hex(_ value: UInt64) -> String {
    value == 0 ? "0" : "0x" + String(value, radix: 16)
  }
}
