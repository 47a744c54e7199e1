import Block
import Host

extension Verb {
  static let commit = Verb(
    name: "commit", summary: "write what an image holds into its backing file", operands: "FILE",
    options: [
      Common.object, Common.imageOptions, Common.format, Common.quiet, Common.cache,
      Common.progress, Common.progressForm,
      OptionEntry("-b --base", "FILE", "a deeper backing file to write into; implies -d"),
      OptionEntry("-d --drop", nil, "leave FILE as it is, in place of emptying it"),
      OptionEntry("-r --rate-limit", "RATE", "bytes in a second at most"),
    ], run: { arguments throws(ToolError) in try commit(arguments) })

  private static func commit(_ arguments: Arguments) throws(ToolError) -> Int32 {
    var rate: UInt64 = 0
    if let text = arguments.value("r") { rate = try Sizes.parse(text, "rate limit") }
    let file = try Common.file(arguments)
    let progress = try Progress(arguments)
    var request = try OpenRequest(arguments, file)
    request.cache = try CacheOption(arguments.value("t") ?? "writeback", "cache option")
    request.isWritable = true
    let deep = arguments.value("b")
    // Each layer is opened by itself: only the one that is written to needs what is below it.
    var images: [OpenImage] = []
    do throws(ToolError) {
      request.hasBacking = false
      images.append(try Images.open(request))
      while true {
        let info = Images.info(about: images[images.count - 1])
        guard let name = info.backingFile, let path = info.fullBackingFile else {
          if let deep, images.count > 1 || info.backingFile == nil && deep != "" {
            throw ToolError("Did not find '\(deep)' in the backing chain of '\(file)'")
          }
          throw ToolError("Image does not have a backing file")
        }
        var below = OpenRequest(path)
        below.format = info.backingFormat
        below.cache = request.cache
        let wanted = deep.map { Images.path(of: $0, relativeTo: file) }
        let isBase = deep == nil || deep == name || deep == path || wanted == path
        below.isWritable = isBase
        below.hasBacking = isBase
        below.isQuiet = true
        images.append(try Images.open(below))
        if isBase { break }
      }
      try commit(images.map(\.node), rate, progress)
      if deep == nil, !arguments.has("d") { try Images.empty(images[0]) }
    } catch {
      for image in images { image.drop() }
      throw error
    }
    for image in images.reversed() { try image.close() }
    if !arguments.has("q") { Standard.print("Image committed.") }
    return 0
  }

  /// Writes what the layers above the last one hold into that one.
  private static func commit(
    _ layers: [any BlockNode], _ rate: UInt64, _ progress: Progress
  ) throws(ToolError) {
    let base = layers[layers.count - 1]
    let total = layers[0].length
    do throws(BlockError) {
      if base.length < total { try base.truncate(to: total, .off) }
    } catch {
      throw ToolError("Could not resize the backing file: \(Images.reason(error))")
    }
    progress.start(total: total)
    let pieceSize = max(1 << 20, Images.clusterSize(of: base))
    let workers = Workers(total: total, pieceSize: pieceSize)
    let turnstile = Turnstile()
    let threads = rate > 0 ? 1 : HostThread.processorCount
    let start = HostClock.monotonic
    try workers.run(threads) { workers in
      let buffer = IOBuffer(count: Int(pieceSize))
      while let range = workers.take() {
        var steps: [(range: Range<UInt64>, isZero: Bool)] = []
        do throws(BlockError) {
          try read(layers, range, buffer, &steps)
          turnstile.wait(for: range.lowerBound)
          for step in steps where !workers.hasFailed {
            let first = Int(step.range.lowerBound - range.lowerBound)
            if step.isZero {
              try base.writeZeroes(step.range.lowerBound, UInt64(step.range.count), .mayUnmap)
            } else {
              let memory = buffer.vector(first..<first + step.range.count)
              try base.write(step.range.lowerBound, from: memory, [])
            }
          }
          progress.advance(UInt64(range.count))
        } catch {
          workers.fail(at: range.lowerBound, ToolError(error))
        }
        turnstile.pass(range.upperBound)
        guard rate > 0 else { continue }
        let due = Int64(clamping: range.upperBound / rate * 1_000_000_000)
        let word = WaitWord()
        let elapsed = HostClock.monotonic - start
        if due > elapsed { word.wait(while: word.value, nanoseconds: due - elapsed) }
      }
    }
    do throws(BlockError) { try base.flush() } catch { throw ToolError(error) }
    progress.finish()
  }

  private static func read(
    _ layers: [any BlockNode], _ range: Range<UInt64>, _ buffer: IOBuffer,
    _ steps: inout [(range: Range<UInt64>, isZero: Bool)]
  ) throws(BlockError) {
    var offset = range.lowerBound
    while offset < range.upperBound {
      let (depth, isZero, length) = try source(layers, offset, range.upperBound - offset)
      let end = offset + length
      if let depth {
        if !isZero {
          let first = Int(offset - range.lowerBound)
          try layers[depth].read(offset, into: buffer.vector(first..<first + Int(length)))
        }
        if let last = steps.last, last.isZero == isZero, last.range.upperBound == offset {
          steps[steps.count - 1].range = last.range.lowerBound..<end
        } else {
          steps.append((offset..<end, isZero))
        }
      }
      offset = end
    }
  }

  /// The layer above the last one that decides what is read at `offset`; nil: the last one does.
  private static func source(
    _ layers: [any BlockNode], _ offset: UInt64, _ count: UInt64
  ) throws(BlockError) -> (depth: Int?, isZero: Bool, length: UInt64) {
    var count = count
    for depth in 0..<layers.count - 1 {
      let end = layers[depth].length
      // Behind the end of what is below the top there are zeros.
      guard offset < end else { return (depth, true, count) }
      count = min(count, end - offset)
      let status = try layers[depth].status(offset, count)
      count = max(1, min(count, status.length))
      if status.isAllocated { return (depth, status.isZero, count) }
    }
    return (nil, false, count)
  }
}
