import Block
import Host

extension Verb {
  static let compare = Verb(
    name: "compare", summary: "tell whether two images read the same", operands: "FILE1 FILE2",
    options: [
      Common.object, Common.imageOptions, Common.quiet, Common.share, Common.progress,
      Common.progressForm,
      OptionEntry("-f --format", "FORMAT", "the first image's format"),
      OptionEntry("-F --second-format", "FORMAT", "the second image's format"),
      OptionEntry("-T --source-cache", "MODE", "how the images are read"),
      OptionEntry("-s --strict", nil, "sizes and allocation must be the same, too"),
    ], run: { arguments throws(ToolError) in try compare(arguments) })

  private static func compare(_ arguments: Arguments) throws(ToolError) -> Int32 {
    guard arguments.operands.count == 2 else {
      throw .usage("Expecting two image file names")
    }
    var images: [OpenImage] = []
    let progress: Progress
    do throws(ToolError) {
      progress = try Progress(arguments)
      for (index, file) in arguments.operands.enumerated() {
        var request = try OpenRequest(arguments, file)
        request.format = arguments.value(index == 0 ? "f" : "F")
        if let text = arguments.value("T") {
          request.cache = try CacheOption(text, "source cache option")
        }
        images.append(try Images.open(request))
      }
    } catch {
      var error = error
      error.status = 2
      throw error
    }
    defer { for image in images { image.drop() } }
    let comparison = Comparison(
      images[0].node, images[1].node, isStrict: arguments.has("s"))
    let isQuiet = arguments.has("q")
    let sizes = images.map(\.node.length)
    if arguments.has("s"), sizes[0] != sizes[1] {
      if !isQuiet { Standard.print("Strict mode: Image size mismatch!") }
      return 1
    }
    do throws(ToolError) {
      let difference = try comparison.run(progress)
      if sizes[0] != sizes[1], difference == nil || (difference?.offset ?? 0) >= sizes.min() ?? 0,
        !isQuiet
      {
        Standard.print("Warning: Image size mismatch!")
      }
      if let difference {
        if !isQuiet { Standard.print(difference.text) }
        progress.stop()
        return 1
      }
    } catch {
      var error = error
      error.status = error.status == 1 ? 4 : error.status
      progress.stop()
      throw error
    }
    if !isQuiet { Standard.print("Images are identical.") }
    progress.finish()
    return 0
  }
}

/// Compares two images piece by piece on several threads.
struct Comparison: Sendable {
  struct Difference: Error {
    let offset: UInt64
    let isStatus: Bool
    var text: String {
      isStatus
        ? "Strict mode: Offset \(offset) block status mismatch!"
        : "Content mismatch at offset \(offset)!"
    }
  }

  private let first: [Chain.Layer]
  private let second: [Chain.Layer]
  private let isStrict: Bool
  private static let pieceSize: UInt64 = 2 << 20
  /// Read at a time: both sides stay in the processor's cache.
  private static let stepSize: UInt64 = 256 << 10

  init(_ first: any BlockNode, _ second: any BlockNode, isStrict: Bool) {
    self.first = Chain.layers(first)
    self.second = Chain.layers(second)
    self.isStrict = isStrict
  }

  /// The first difference; nil when there is none.
  func run(_ progress: Progress) throws(ToolError) -> Difference? {
    let total = max(first[0].length, second[0].length)
    progress.start(total: total)
    let workers = Workers(total: total, pieceSize: Comparison.pieceSize)
    let found = FirstDifference()
    try workers.run(HostThread.processorCount) { workers in
      let buffers = (
        IOBuffer(count: Int(Comparison.stepSize)), IOBuffer(count: Int(Comparison.stepSize))
      )
      while let range = workers.take() {
        do throws(BlockError) {
          if let difference = try compare(range, buffers) {
            found.note(difference)
            workers.stop()
          }
        } catch {
          workers.fail(
            at: range.lowerBound,
            ToolError("Error while reading offset \(range.lowerBound): \(Images.reason(error))"))
        }
        progress.advance(range.upperBound - range.lowerBound)
      }
    }
    return found.value
  }

  private func compare(
    _ range: Range<UInt64>, _ buffers: (IOBuffer, IOBuffer)
  ) throws(BlockError) -> Difference? {
    var offset = range.lowerBound
    let (firstEnd, secondEnd) = (first[0].length, second[0].length)
    while offset < range.upperBound {
      var count = range.upperBound - offset
      for end in [firstEnd, secondEnd] where offset < end { count = min(count, end - offset) }
      let one = try Comparison.status(first, offset, count)
      let two = try Comparison.status(second, offset, count)
      count = min(count, one.length, two.length)
      if isStrict,
        one.isAllocated != two.isAllocated || one.isZero != two.isZero || one.isData != two.isData
          || one.isCompressed != two.isCompressed
          || (one.hostOffset == nil) != (two.hostOffset == nil)
      {
        return Difference(offset: offset, isStatus: true)
      }
      if !one.isZero || !two.isZero {
        if let difference = try content(offset, count, one.isZero, two.isZero, buffers) {
          return difference
        }
      }
      offset += count
    }
    return nil
  }

  private static func status(
    _ layers: [Chain.Layer], _ offset: UInt64, _ count: UInt64
  ) throws(BlockError) -> BlockStatus {
    if offset >= layers[0].length {
      return BlockStatus(length: count, isAllocated: false, isZero: true, isData: false)
    }
    return try Chain.status(layers, offset, count).status
  }

  /// Compares bytes; a difference is told by the sector that has it.
  private func content(
    _ start: UInt64, _ count: UInt64, _ firstIsZero: Bool, _ secondIsZero: Bool,
    _ buffers: (IOBuffer, IOBuffer)
  ) throws(BlockError) -> Difference? {
    var offset = start
    while offset < start + count {
      let length = min(Comparison.stepSize, start + count - offset)
      let one = buffers.0.vector(0..<Int(length))
      let two = buffers.1.vector(0..<Int(length))
      if !firstIsZero { try first[0].node.read(offset, into: one) }
      if !secondIsZero { try second[0].node.read(offset, into: two) }
      let isSame =
        firstIsZero ? two.isZero : secondIsZero ? one.isZero : one.hasSameBytes(as: two)
      if !isSame {
        if firstIsZero { one.fill(0) }
        if secondIsZero { two.fill(0) }
        var sector = 0
        while sector < Int(length), one.slice(sector, 512).hasSameBytes(as: two.slice(sector, 512))
        {
          sector += 512
        }
        return Difference(offset: offset + UInt64(sector), isStatus: false)
      }
      offset += length
    }
    return nil
  }
}
