import Host
import Jobs
import Shm
import Synchronization

/// Compresses the pages of a kdump file with several threads and writes them in order.
///
/// Each thread takes a chunk of pages, compresses it, waits for its turn, gives the pages their places in the file and writes them.
final class KdumpPages: Sendable {
  private struct Chunk: Sendable {
    let firstPage: UInt64
    let count: Int
    /// Pages before it in the file.
    let before: UInt64
  }
  private static let chunkPages = 512

  private let dump: GuestDump
  private let file: KdumpFile
  private let kind: PageCompressor.Kind
  private let chunks: [Chunk]
  /// The descriptors of a chunk of zero pages.
  private let zeroDescriptors: [UInt8]

  private let next = Atomic<Int>(0)
  private let turn = Atomic<Int>(0)
  private let turnChanged = WaitWord()
  private struct Output: Sendable {
    var pagesOffset: UInt64
    var failure: DumpFailure?
  }
  private let state: Mutex<Output>
  private let hasFailed = Atomic<Bool>(false)

  init(_ dump: GuestDump, _ file: KdumpFile, _ kind: PageCompressor.Kind) {
    self.dump = dump
    self.file = file
    self.kind = kind
    var chunks: [Chunk] = []
    var before: UInt64 = 0
    dump.ranges.forEachPage { page in
      if let last = chunks.last, last.count < KdumpPages.chunkPages,
        last.firstPage + UInt64(last.count) == page
      {
        chunks[chunks.count - 1] = Chunk(
          firstPage: last.firstPage, count: last.count + 1, before: last.before)
      } else {
        chunks.append(Chunk(firstPage: page, count: 1, before: before))
      }
      before += 1
    }
    self.chunks = chunks
    var writer = ByteWriter()
    for _ in 0..<KdumpPages.chunkPages { KdumpPages.zero(file, into: &writer) }
    zeroDescriptors = writer.bytes
    state = Mutex(
      Output(pagesOffset: file.pagesOffset + UInt64(KdumpFile.blockSize), failure: nil))
  }

  /// Writes all pages. Throws the first failure.
  func run() throws(DumpFailure) {
    var helpers: [HostThread] = []
    for number in 1..<max(1, min(HostThread.processorCount, 4)) where number < chunks.count {
      // Without a helper it only takes longer.
      if let helper = try? HostThread(name: "dump/\(number)", { [self] in work() }) {
        helpers.append(helper)
      }
    }
    work()
    for helper in helpers { helper.join() }
    if let failure = state.withLock({ $0.failure }) { throw failure }
  }

  private func work() {
    guard let compressor = PageCompressor(kind) else {
      return fail(DumpFailure("dump: the library for this compression is missing"))
    }
    let presence = PagePresence()
    var data: [UInt8] = []
    while !hasFailed.load(ordering: .acquiring) {
      let index = next.wrappingAdd(1, ordering: .relaxed).oldValue
      guard index < chunks.count else { return }
      let chunk = chunks[index]
      do throws(DumpFailure) {
        try dump.checkPoint()
        let contents = compress(chunk, into: &data, compressor, presence)
        guard waitForTurn(index) else { return }
        try write(chunk, contents, data)
      } catch { return fail(error) }
      dump.progress.advance(by: Int64(chunk.count * KdumpFile.blockSize))
      turn.store(index + 1, ordering: .releasing)
      turnChanged.advance()
    }
  }

  /// What the pages of a chunk hold, nil when all are zero.
  private func compress(
    _ chunk: Chunk, into data: inout [UInt8], _ compressor: PageCompressor,
    _ presence: PagePresence
  ) -> [PageContent]? {
    data.removeAll(keepingCapacity: true)
    let start = GuestAddress(chunk.firstPage * GuestAddress.pageSize)
    let touched = dump.memory.touchedPages(from: start, count: chunk.count, presence: presence)
    guard touched.contains(true) else { return nil }
    return touched.enumerated().map { index, isTouched in
      guard isTouched else { return .zero }
      let page = start + UInt64(index) * GuestAddress.pageSize
      return dump.memory.append(page: page, to: &data, with: compressor)
    }
  }

  private func write(_ chunk: Chunk, _ contents: [PageContent]?, _ data: [UInt8])
    throws(DumpFailure)
  {
    let place = file.descriptorOffset + chunk.before * UInt64(KdumpFile.descriptorSize)
    let size = chunk.count * KdumpFile.descriptorSize
    let head = KdumpFile.flattened(offset: place, size: size)
    guard let contents else {
      return try dump.write(head + zeroDescriptors[..<size], "page desc")
    }
    let start = state.withLock { state in
      defer { state.pagesOffset += UInt64(data.count) }
      return state.pagesOffset
    }
    var writer = ByteWriter()
    writer.append(head)
    var at = start
    for content in contents {
      switch content {
      case .zero:
        KdumpPages.zero(file, into: &writer)
        continue
      case .plain:
        KdumpFile.descriptor(
          offset: at, size: KdumpFile.blockSize, compression: 0, into: &writer)
        at += UInt64(KdumpFile.blockSize)
      case .compressed(let length):
        KdumpFile.descriptor(
          offset: at, size: length, compression: UInt32(kind.rawValue), into: &writer)
        at += UInt64(length)
      }
    }
    if !data.isEmpty { writer.append(KdumpFile.flattened(offset: start, size: data.count)) }
    try dump.write(writer.bytes, "page desc")
    if !data.isEmpty { try dump.write(data, "page data") }
  }

  private static func zero(_ file: KdumpFile, into writer: inout ByteWriter) {
    KdumpFile.descriptor(
      offset: file.pagesOffset, size: KdumpFile.blockSize, compression: 0, into: &writer)
  }

  /// False when another thread has failed.
  private func waitForTurn(_ index: Int) -> Bool {
    while true {
      let seen = turnChanged.value
      if hasFailed.load(ordering: .acquiring) { return false }
      if turn.load(ordering: .acquiring) == index { return true }
      turnChanged.wait(while: seen)
    }
  }

  private func fail(_ failure: DumpFailure) {
    state.withLock { if $0.failure == nil { $0.failure = failure } }
    hasFailed.store(true, ordering: .releasing)
    turnChanged.advance()
  }
}
