import Block
import Host

extension Verb {
  static let rebase = Verb(
    name: "rebase", summary: "give an image another backing file, or none", operands: "FILE",
    options: [
      Common.object, Common.imageOptions, Common.format, Common.quiet, Common.share, Common.cache,
      Common.progress, Common.progressForm,
      OptionEntry("-b --backing-file", "FILE", "the new backing file; '' for none"),
      OptionEntry("-F --backing-format", "FORMAT", "its format"),
      OptionEntry("-u --unsafe", nil, "only the name changes: the content is the same, you say"),
      OptionEntry("-T --source-cache", "MODE", "how backing files are read"),
    ], run: { arguments throws(ToolError) in try rebase(arguments) })

  private static func rebase(_ arguments: Arguments) throws(ToolError) -> Int32 {
    let file = try Common.file(arguments)
    let isUnsafe = arguments.has("u")
    guard isUnsafe || arguments.has("b") else {
      throw .usage("Must specify backing file (-b) or use unsafe mode (-u)")
    }
    let backing = arguments.value("b").flatMap { $0.isEmpty ? nil : $0 }
    let format = arguments.value("F")
    let progress = try Progress(arguments)
    var request = try OpenRequest(arguments, file)
    request.cache = try CacheOption(arguments.value("t") ?? "writeback", "cache option")
    let sourceCache = try CacheOption(arguments.value("T") ?? "writeback", "source cache option")
    request.isWritable = true
    request.hasBacking = !isUnsafe
    let image = try Images.open(request)
    do throws(ToolError) {
      if let format, !Images.isKnown(format) { throw ToolError("Invalid format name: '\(format)'") }
      if !isUnsafe, Images.hasBackingFiles(image) {
        var base: OpenImage?
        if let backing {
          var below = OpenRequest(Images.path(of: backing, relativeTo: file))
          below.format = format
          below.cache = sourceCache
          do throws(BlockError) { base = try Images.openPlain(below) } catch {
            throw ToolError("Could not open new backing file '\(backing)': \(error.message)")
          }
        }
        defer { base?.drop() }
        try Rebase(image.node, onto: base?.node).run(progress)
        do throws(BlockError) { try image.node.flush() } catch { throw ToolError(error) }
      } else {
        progress.start(total: 1)
      }
      do throws(BlockError) {
        try Images.changeBacking(image, backing, format)
      } catch {
        throw ToolError(
          "Could not change the backing file to '\(arguments.value("b") ?? "")': \(error.message)")
      }
    } catch {
      image.drop()
      throw error
    }
    try image.close()
    progress.finish()
    return 0
  }
}

/// Copies into an image what would read otherwise over another backing file.
private struct Rebase: Sendable {
  private let node: any BlockNode
  private let layers: [any BlockNode]
  private let old: (any BlockNode)?
  private let new: (any BlockNode)?
  private let cluster: UInt64

  init(_ node: any BlockNode, onto new: (any BlockNode)?) {
    self.node = node
    self.new = new
    layers = [Chain.skippingFilters(node)]
    old = Chain.backing(of: node)
    cluster = max(Images.clusterSize(of: node), 512)
  }

  func run(_ progress: Progress) throws(ToolError) {
    let total = node.length
    progress.start(total: total)
    let pieceSize = max(1 << 20, cluster)
    let workers = Workers(total: total, pieceSize: pieceSize)
    try workers.run(HostThread.processorCount) { workers in
      let buffers = (IOBuffer(count: Int(pieceSize)), IOBuffer(count: Int(pieceSize)))
      while let range = workers.take() {
        do throws(BlockError) {
          try rebase(range, buffers)
          progress.advance(UInt64(range.count))
        } catch {
          workers.fail(
            at: range.lowerBound,
            ToolError("error while rebasing at byte \(range.lowerBound): \(Images.reason(error))"))
        }
      }
    }
  }

  private func rebase(
    _ range: Range<UInt64>, _ buffers: (IOBuffer, IOBuffer)
  ) throws(BlockError) {
    var offset = range.lowerBound
    while offset < range.upperBound {
      let status = try layers[0].status(offset, range.upperBound - offset)
      let end = min(range.upperBound, offset + max(1, status.length))
      if !status.isAllocated { try copy(offset..<end, buffers) }
      offset = end
    }
  }

  /// Compares old and new, and writes each cluster that differs.
  private func copy(
    _ part: Range<UInt64>, _ buffers: (IOBuffer, IOBuffer)
  ) throws(BlockError) {
    let before = try Rebase.content(of: old, part, buffers.0)
    let after = try Rebase.content(of: new, part, buffers.1)
    guard before != nil || after != nil else { return }
    if before == nil { buffers.0.fill(0, 0..<part.count) }
    if after == nil { buffers.1.fill(0, 0..<part.count) }
    let one = buffers.0.vector(0..<part.count)
    let two = buffers.1.vector(0..<part.count)
    var offset = part.lowerBound
    while offset < part.upperBound {
      let end = min(part.upperBound, (offset / cluster + 1) * cluster)
      let start = Int(offset - part.lowerBound)
      let mine = one.slice(start, Int(end - offset))
      if !mine.hasSameBytes(as: two.slice(start, Int(end - offset))) {
        if mine.isZero {
          try node.writeZeroes(offset, end - offset, [])
        } else {
          try node.write(offset, from: mine, [])
        }
      }
      offset = end
    }
  }

  /// Reads a part; nil when it is zeros all over.
  private static func content(
    of node: (any BlockNode)?, _ part: Range<UInt64>, _ buffer: IOBuffer
  ) throws(BlockError) -> Bool? {
    guard let node, part.lowerBound < node.length else { return nil }
    let layers = Chain.layers(node)
    var hasData = false
    var offset = part.lowerBound
    while offset < part.upperBound {
      let start = Int(offset - part.lowerBound)
      var count = part.upperBound - offset
      if offset >= node.length {
        buffer.fill(0, start..<part.count)
        break
      }
      count = min(count, node.length - offset)
      let status = try Chain.status(layers, offset, count).status
      count = min(count, max(1, status.length))
      if status.isZero {
        buffer.fill(0, start..<start + Int(count))
      } else {
        hasData = true
        try node.read(offset, into: buffer.vector(start..<start + Int(count)))
      }
      offset += count
    }
    return hasData ? true : nil
  }
}
