import Block
import Host

extension Verb {
  static let bench = Verb(
    name: "bench", summary: "measure how fast an image is read or written", operands: "FILE",
    options: [
      Common.object, Common.imageOptions, Common.format, Common.quiet, Common.share, Common.cache,
      OptionEntry("-c --count", "COUNT", "requests (75000)"),
      OptionEntry("-d --depth", "DEPTH", "requests at a time (64)"),
      OptionEntry("-o --offset", "OFFSET", "where the first one begins"),
      OptionEntry("-s --buffer-size", "SIZE", "bytes of each (4096)"),
      OptionEntry("-S --step-size", "SIZE", "from one to the next (as large as each)"),
      OptionEntry("-w --write", nil, "write in place of reading; FILE's content is lost"),
      OptionEntry("-n --native", nil, "the same as -i native"),
      OptionEntry("-i --aio", "HOW", "threads, native or io_uring; accepted for compatibility"),
      OptionEntry("--pattern", "BYTE", "what to write (0)"),
      OptionEntry("--flush-interval", "COUNT", "flush after so many writes"),
      OptionEntry("--no-drain", nil, "do not wait for requests under way before a flush"),
    ], run: { arguments throws(ToolError) in try bench(arguments) })

  private static func bench(_ arguments: Arguments) throws(ToolError) -> Int32 {
    func number(_ key: String, _ usual: Int, _ what: String, _ range: ClosedRange<Int>)
      throws(ToolError) -> Int
    {
      guard let text = arguments.value(key) else { return usual }
      guard let value = Int(text), range.contains(value) else {
        throw ToolError("Invalid \(what) specified")
      }
      return value
    }
    let most = Int(Int32.max)
    var run = BenchRun()
    run.count = try number("c", 75_000, "request count", 0...most)
    let depth = try number("d", 64, "queue depth", 1...most)
    let pattern = try number("pattern", 0, "pattern byte", 0...255)
    run.flushInterval = try number("flush-interval", 0, "flush interval", 0...most)
    if let text = arguments.value("i"), !["threads", "native", "io_uring"].contains(text) {
      throw ToolError("Invalid aio option: \(text)")
    }
    if let text = arguments.value("o") { run.offset = try Sizes.parse(text, "offset") }
    let limit = UInt64(Int32.max)
    if let text = arguments.value("s") {
      run.size = Int(try Sizes.parse(text, "buffer size", 1...limit))
    }
    run.step = UInt64(run.size)
    if let text = arguments.value("S") {
      let step = try Sizes.parse(text, "step_size", 0...limit)
      if step > 0 { run.step = step }
    }
    let cache = try CacheOption(arguments.value("t") ?? "writeback", "cache option")
    let file = try Common.file(arguments)
    run.isWriting = arguments.has("w")
    if !run.isWriting, run.flushInterval > 0 {
      throw ToolError("--flush-interval is only available in write tests")
    }
    if run.flushInterval > 0, run.flushInterval < depth {
      throw ToolError("Flush interval can't be smaller than depth")
    }
    var request = try OpenRequest(arguments, file)
    request.isWritable = run.isWriting
    request.cache = cache
    let image = try Images.open(request)
    run.length = image.node.length
    guard run.length > 0, UInt64(run.size) <= run.length else {
      image.drop()
      throw ToolError("Image size too small for the requested buffer size")
    }
    run.drains = !arguments.has("no-drain")
    do {
      let kind = run.isWriting ? "write" : "read"
      Standard.print(
        "Sending \(run.count) \(kind) requests, \(run.size) bytes each, \(depth) in parallel "
          + "(starting at offset \(run.offset), step size \(run.step))")
      if run.flushInterval > 0 {
        Standard.print("Sending flush every \(run.flushInterval) requests")
      }
    }
    let threads = min(depth, cache.bypassesHostCache ? 32 : HostThread.processorCount)
    do throws(ToolError) {
      let nanoseconds = try run.perform(on: image.node, threads: threads, UInt8(pattern))
      Standard.print("Run completed in \(Sizes.fixed(Double(nanoseconds) / 1e9, 3)) seconds.")
    } catch {
      image.drop()
      throw error
    }
    try image.close()
    return 0
  }
}

/// The requests of a measurement.
struct BenchRun: Sendable {
  var count = 75_000
  var size = 4096
  var offset: UInt64 = 0
  var step: UInt64 = 4096
  var isWriting = false
  var flushInterval = 0
  var drains = true
  /// Of the image, in bytes.
  var length: UInt64 = 0

  /// Requests that one thread takes at a time.
  private static let batch: UInt64 = 16

  /// Sends them from several threads; the nanoseconds that it took.
  func perform(on node: any BlockNode, threads: Int, _ pattern: UInt8) throws(ToolError) -> Int64 {
    let start = HostClock.monotonic
    var first: UInt64 = 0
    let all = UInt64(count)
    // With drained flushes, each interval is a job of its own.
    let interval = flushInterval > 0 && drains ? UInt64(flushInterval) : all
    while first < all {
      let end = min(all, first + interval)
      let workers = Workers(from: first, total: end, pieceSize: BenchRun.batch)
      try workers.run(
        Int(min(UInt64(threads), (end - first + BenchRun.batch - 1) / BenchRun.batch))
      ) {
        workers in
        let buffer = IOBuffer(count: size)
        buffer.fill(isWriting ? pattern : 0, 0..<size)
        let memory = buffer.vector
        while let range = workers.take() {
          do throws(BlockError) {
            for index in range { try send(index, node, memory) }
          } catch {
            workers.fail(
              at: range.lowerBound, ToolError("Failed request: \(Images.reason(error))"))
          }
        }
      }
      if flushInterval > 0, drains, end - first == interval {
        do throws(BlockError) { try node.flush() } catch {
          throw ToolError("Failed flush: \(Images.reason(error))")
        }
      }
      first = end
    }
    return HostClock.monotonic - start
  }

  private func send(
    _ index: UInt64, _ node: any BlockNode, _ memory: IOVector
  ) throws(BlockError) {
    let position = (offset &+ index &* step) % length
    let part = UInt64(size) <= length - position ? memory : memory.slice(0, Int(length - position))
    if isWriting {
      try node.write(position, from: part, [])
      if flushInterval > 0, !drains, (index + 1) % UInt64(flushInterval) == 0 { try node.flush() }
    } else if try !node.readNow(position, into: part) {
      try node.read(position, into: part)
    }
  }
}
