import Block
import Host
import Synchronization

/// The bytes of one or several images, one behind the other, as a copy reads them.
struct CopySource: Sendable {
  struct Part: Sendable {
    let layers: [Chain.Layer]
    let start: UInt64
    let length: UInt64
  }
  let parts: [Part]
  /// Bytes in all.
  let length: UInt64

  init(_ images: [any BlockNode]) {
    var parts: [Part] = []
    var start: UInt64 = 0
    for image in images {
      parts.append(Part(layers: Chain.layers(image), start: start, length: image.length))
      start &+= image.length
    }
    self.parts = parts
    length = start
  }

  /// The part that holds an offset.
  func part(at offset: UInt64) -> Part? {
    if parts.count == 1 { return parts[0] }
    return parts.first { offset >= $0.start && offset - $0.start < $0.length }
  }
}

/// Copies images into one: the status map of the sources is divided among threads, zeros are left out, whole clusters are written.
struct Copier: Sendable {
  let source: CopySource
  let target: any BlockNode
  /// Threads at most.
  var threadCount = 1
  /// Pieces are written in whatever order they come.
  var isUnordered = false
  var isCompressed = false
  /// The target reads as zeros where nothing was written.
  var targetIsZero = false
  /// Zeros shorter than this are written; 0: everything is.
  var sparseSize: UInt64 = 4096
  /// The target's unit of allocation, a power of two; 0: none.
  var clusterSize: UInt64 = 0
  /// What the source's first layer does not hold is left to the target's backing file, which is that long.
  var targetBackingLength: UInt64?
  /// What cannot be read becomes zeros.
  var isSalvaging = false
  /// Bytes in a second at most; 0: no limit.
  var rateLimit: UInt64 = 0
  /// Where copying begins in the source (`dd skip=`), and how many bytes there are to copy.
  var sourceStart: UInt64 = 0
  var length: UInt64

  init(_ source: CopySource, to target: any BlockNode) {
    self.source = source
    self.target = target
    length = source.length
  }

  /// Copies everything. Throws the failure at the lowest offset.
  func run(_ progress: Progress) throws(ToolError) {
    progress.start(total: length)
    let workers = Workers(total: length, pieceSize: pieceSize)
    let turnstile = isUnordered || isCompressed ? nil : Turnstile()
    let pace = rateLimit > 0 ? Pace(rateLimit) : nil
    let threads = Int(min(UInt64(threadCount), max(1, (length + pieceSize - 1) / pieceSize)))
    try workers.run(threads) { workers in
      var piece = CopyPiece(self)
      while var range = workers.take() {
        do throws(ToolError) {
          try piece.read(range)
          if piece.isNothing { try skipZeros(after: &range, workers, &piece) }
          turnstile?.wait(for: range.lowerBound)
          if workers.hasFailed { throw .silent(1) }
          try piece.write()
          progress.advance(range.upperBound - range.lowerBound)
        } catch {
          if turnstile == nil || !error.lines.isEmpty {
            workers.fail(at: range.lowerBound, error)
          }
        }
        turnstile?.pass(range.upperBound)
        pace?.spend(range.upperBound - range.lowerBound)
      }
    }
    progress.finish()
  }

  /// Nothing is written of long zeros: they need no look at each piece.
  private func skipZeros(
    after range: inout Range<UInt64>, _ workers: Workers, _ piece: inout CopyPiece
  ) throws(ToolError) {
    while range.upperBound < length {
      let end = try piece.endOfZeros(range.upperBound, min(length - range.upperBound, 1 << 40))
      let whole = end == length ? end : end / pieceSize * pieceSize
      guard whole > range.upperBound, workers.extend(&range, to: whole) else { return }
    }
  }

  /// Bytes that a thread reads before it writes: enough to make requests large, few enough to stay in its cache.
  var pieceSize: UInt64 { max(1 << 20, clusterSize) }

  /// The unit in which zeros are looked for.
  var granularity: UInt64 {
    if sparseSize == 0 || targetBackingLength != nil && clusterSize == 0 {
      return max(sparseSize, 4096)
    }
    return max(sparseSize, clusterSize)
  }
}

/// Keeps to a number of bytes in a second.
private final class Pace: Sendable {
  private let rate: UInt64
  private let start = HostClock.monotonic
  private let spent = Atomic<UInt64>(0)

  init(_ rate: UInt64) { self.rate = rate }

  /// Waits until that many more bytes are due.
  func spend(_ bytes: UInt64) {
    let all = spent.wrappingAdd(bytes, ordering: .relaxed).newValue
    let due = Double(all) / Double(rate) * 1e9
    let elapsed = Double(HostClock.monotonic - start)
    guard due > elapsed, due - elapsed < 9e15 else { return }
    let word = WaitWord()
    word.wait(while: word.value, nanoseconds: Int64(due - elapsed))
  }
}
