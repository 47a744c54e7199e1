import Block
import Host
import Synchronization

/// Several threads that take turns at the pieces of one long job.
final class Workers: Sendable {
  /// Bytes that one piece has.
  let pieceSize: UInt64
  /// Where the job ends.
  let total: UInt64
  private let next: Atomic<UInt64>
  private let isStopped = Atomic<Bool>(false)
  private let failures = Mutex<[(offset: UInt64, error: ToolError)]>([])

  init(from start: UInt64 = 0, total: UInt64, pieceSize: UInt64) {
    self.total = total
    self.pieceSize = pieceSize
    next = Atomic(start)
  }

  /// The piece that nobody has; nil when there is none or somebody failed.
  func take() -> Range<UInt64>? {
    if isStopped.load(ordering: .relaxed) { return nil }
    let start = next.wrappingAdd(pieceSize, ordering: .relaxed).oldValue
    return start < total ? start..<min(total, start &+ pieceSize) : nil
  }

  /// Makes a piece that was taken longer, if nobody has taken the next one yet.
  func extend(_ piece: inout Range<UInt64>, to end: UInt64) -> Bool {
    let isMine = next.compareExchange(
      expected: piece.upperBound, desired: end, ordering: .relaxed
    ).exchanged
    if isMine { piece = piece.lowerBound..<end }
    return isMine
  }

  /// Nobody takes another piece.
  func stop() { isStopped.store(true, ordering: .relaxed) }

  var hasFailed: Bool { failures.withLock { !$0.isEmpty } }

  /// Notes a failure and ends the job.
  func fail(at offset: UInt64, _ error: ToolError) {
    failures.withLock { $0.append((offset, error)) }
    stop()
  }

  /// Runs `body` on `count` threads, the caller's among them, until all return. Throws the failure at the lowest offset.
  func run(_ count: Int, _ body: @escaping @Sendable (Workers) -> Void) throws(ToolError) {
    var threads: [HostThread] = []
    for index in 1..<max(2, count) where index < count {
      // Fewer threads do the same.
      do throws(SystemError) {
        threads.append(try HostThread(name: "copy/\(index)") { body(self) })
      } catch { break }
    }
    body(self)
    for thread in threads { thread.join() }
    let worst = failures.withLock { list in list.min { $0.offset < $1.offset } }
    if let worst { throw worst.error }
  }
}

/// Lets threads through one at a time in the order of their pieces.
final class Turnstile: Sendable {
  private let position: Atomic<UInt64>
  private let word = WaitWord()

  init(from start: UInt64 = 0) { position = Atomic(start) }

  /// Waits until everything before `offset` has passed.
  func wait(for offset: UInt64) {
    while position.load(ordering: .acquiring) != offset {
      let seen = word.value
      if position.load(ordering: .acquiring) == offset { return }
      word.wait(while: seen)
    }
  }

  /// Everything before `offset` has passed.
  func pass(_ offset: UInt64) {
    position.store(offset, ordering: .releasing)
    word.advance()
  }
}
