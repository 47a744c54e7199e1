import Block
import Glibc
import Host
import JSON
import Jobs
import QAPI

/// `blockdev-create`: an image is made on a thread of its own.
@MainLoop
final class ImageCreation: JobWork {
  private let graph: BlockGraph
  private let gate: AsyncGate
  private let options: BlockdevCreateOptions

  init(_ options: BlockdevCreateOptions, graph: BlockGraph, gate: AsyncGate) {
    self.options = options
    self.graph = graph
    self.gate = gate
  }

  func start(_ job: Job) {
    let (graph, options) = (graph, options)
    Task { @MainLoop [gate] in
      await gate.enter()
      defer { gate.leave() }
      do {
        let result = try await HostThread.value(name: "create") {
          Result { () throws(BlockError) in try ImageCreation.create(options, graph) }
        }
        try result.get()
        job.progress.set(current: 1)
        job.finish()
      } catch let error as BlockError {
        job.finish(error: error.message)
      } catch {
        job.finish(error: "\(error)")
      }
    }
  }

  // It is over in a moment.
  func pause() {}
  func resume() {}
  func cancel(isForced: Bool) {}

  /// Blocks.
  private nonisolated static func create(
    _ options: BlockdevCreateOptions, _ graph: BlockGraph
  ) throws(BlockError) {
    switch options {
    case .file(let file):
      guard file.preallocation != .metadata else {
        throw BlockError(ENOTSUP, "Unsupported preallocation mode 'metadata'")
      }
      try graph.createFile(
        file.filename, size: file.size, Preallocation(file.preallocation))
    case .qcow2(let image): try create(image, graph)
    default: throw BlockError(ENOTSUP, "Driver does not support blockdev-create")
    }
  }

  private nonisolated static func create(
    _ image: BlockdevCreateOptionsQcow2, _ graph: BlockGraph
  ) throws(BlockError) {
    if image.encrypt != nil {
      throw BlockError(ENOTSUP, "encrypted images are not made yet")
    }
    if image.dataFile != nil {
      throw BlockError(ENOTSUP, "images with data files are not made here yet; goliath-img does")
    }
    var new = Qcow2CreateOptions(size: image.size)
    if image.version == .v2 { new.version = 2 }
    if let size = image.clusterSize { new.clusterSize = size }
    new.backingFile = image.backingFile
    new.backingFormat = image.backingFmt?.rawValue
    new.preallocation = Preallocation(image.preallocation)
    new.lazyRefcounts = image.lazyRefcounts ?? false
    if let bits = image.refcountBits { new.refcountBits = UInt64(clamping: bits) }
    new.compressionType = image.compressionType == .zstd ? .zstd : .zlib
    new.extendedL2 = image.extendedL2 ?? false
    new.dataFileRaw = image.dataFileRaw ?? false
    let file: any BlockNode
    switch image.file {
    case .string(let name): file = try graph.lookUp(name)
    case .definition(let options):
      guard case .object(let tree) = options.encoded else { return }
      file = try graph.open(nil, options: tree)
    }
    let user = BlockBackend(
      graph, used: [.consistentRead, .write, .resize], shared: [.consistentRead, .writeUnchanged])
    do throws(BlockError) { try user.insert(file) } catch {
      try? graph.releaseIfUnused(file.name)
      throw error
    }
    do throws(BlockError) { try Qcow2Image.create(on: file, new) } catch {
      try? user.remove()
      throw error
    }
    try user.remove()
  }
}

extension Preallocation {
  fileprivate init(_ mode: PreallocMode?) {
    self = mode.flatMap { Preallocation(rawValue: $0.rawValue) } ?? .off
  }
}
