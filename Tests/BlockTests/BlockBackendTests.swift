import Block
import Glibc
import Host
import JSON
import Synchronization
import Testing

@Suite struct BlockBackendTests {
  let folder = TemporaryFolder()
  let graph = BlockGraph()

  /// Completions that came, in order.
  final class Inbox: Sendable {
    private let list = Mutex<[BlockCompletion]>([])
    private let word = WaitWord()

    func queue(on thread: IOThread? = nil) -> BlockCompletionQueue {
      BlockCompletionQueue(on: thread) { [self] batch in
        list.withLock { $0 += batch }
        word.advance()
      }
    }

    func wait(for count: Int) -> [BlockCompletion] {
      while true {
        let seen = word.value
        let now = list.withLock { $0 }
        if now.count >= count { return now }
        word.wait(while: seen, nanoseconds: 10_000_000_000)
      }
    }

    var count: Int { list.withLock { $0.count } }
  }

  private func disk(_ length: UInt64 = 1 << 20) throws -> (BlockBackend, any BlockNode) {
    let node = try graph.open(folder.make("disk", length: length), format: "raw")
    let backend = BlockBackend(graph, name: "drive", used: [.consistentRead, .write, .resize])
    try backend.insert(node)
    return (backend, node)
  }

  private func faulty(_ injection: BlkdebugNode.Injection) throws -> BlockBackend {
    let file = try graph.openFile(folder.make("disk", length: 1 << 20))
    let node = BlkdebugNode(name: "faulty", image: file, injections: [injection])
    try graph.add(node)
    let backend = BlockBackend(graph, name: "drive", used: [.consistentRead, .write])
    try backend.insert(node)
    return backend
  }

  @Test func writesAreDoneElsewhereAndReadsOfWhatIsCachedAtOnce() throws {
    let (backend, _) = try disk()
    let inbox = Inbox()
    let thread = try IOThread(name: "test")
    let queue = inbox.queue(on: thread)
    let data = IOBuffer([UInt8](repeating: 7, count: 8192))
    for number in 0..<64 {
      let outcome = backend.submit(
        .write(UInt64(number) * 8192, from: data.vector), tag: UInt64(number), to: queue)
      #expect(outcome == .pending)
    }
    let done = inbox.wait(for: 64)
    #expect(Set(done.map(\.tag)) == Set(0..<64))
    #expect(done.allSatisfy { $0.code == 0 })
    let target = IOBuffer(count: 8192)
    var expected = 64
    let outcome = backend.submit(.read(8192, into: target.vector), tag: 99, to: queue)
    if outcome == .pending { expected += 1 } else { #expect(outcome == .done) }
    _ = inbox.wait(for: expected)
    #expect(target.bytes == data.bytes)
    let statistics = backend.statistics
    #expect(statistics.writes.operations == 64)
    #expect(statistics.writes.bytes == 64 * 8192)
    #expect(statistics.reads.operations == 1)
    #expect(statistics.reads.time > 0)
    thread.stop()
  }

  @Test func requestsOutsideTheDiskAreRefusedAndCounted() throws {
    let (backend, _) = try disk()
    let queue = Inbox().queue()
    let target = IOBuffer(count: 4096)
    #expect(
      backend.submit(.read(1 << 20, into: target.vector), tag: 1, to: queue) == .failed(EIO))
    #expect(
      backend.submit(.read(UInt64.max, into: target.vector), tag: 1, to: queue) == .failed(EIO))
    #expect(backend.statistics.reads.invalid == 2)
    try backend.remove()
    #expect(
      backend.submit(.read(0, into: target.vector), tag: 1, to: queue) == .failed(ENOMEDIUM))
  }

  @Test func aDrainHoldsRequestsUntilItEnds() throws {
    let (backend, _) = try disk()
    let inbox = Inbox()
    let queue = inbox.queue()
    backend.beginDrain()
    let data = IOBuffer([1, 2, 3, 4])
    #expect(backend.submit(.write(0, from: data.vector), tag: 5, to: queue) == .pending)
    #expect(backend.inFlight == 0)
    #expect(inbox.count == 0)
    backend.endDrain()
    #expect(inbox.wait(for: 1) == [BlockCompletion(tag: 5, code: 0)])
    let target = IOBuffer(count: 4)
    try backend.read(0, into: target.vector)
    #expect(target.bytes == [1, 2, 3, 4])
  }

  @Test func errorsAreReportedIgnoredOrStopTheMachine() throws {
    var injection = BlkdebugNode.Injection()
    injection.operations = [.write]
    injection.code = ENOSPC
    injection.once = true
    let backend = try faulty(injection)
    let seen = Mutex<[BlockIOError]>([])
    backend.onError { error in seen.withLock { $0.append(error) } }
    backend.trackIOStatus()
    let inbox = Inbox()
    let queue = inbox.queue()
    let data = IOBuffer([1, 2, 3, 4])
    // The default for writes: stop when the disk is full.
    #expect(
      backend.submit(.write(0, from: data.vector), tag: 5, to: queue, mayBlock: true) == .pending)
    #expect(backend.parkedCount == 1)
    #expect(backend.ioStatus == .noSpace)
    let told = seen.withLock { $0 }
    #expect(told.count == 1)
    #expect(told[0].action == .stop && !told[0].isRead && told[0].isNoSpace)
    #expect(inbox.count == 0)
    backend.resume()
    #expect(inbox.wait(for: 1) == [BlockCompletion(tag: 5, code: 0)])
    #expect(backend.ioStatus == .ok)
    let target = IOBuffer(count: 4)
    try backend.read(0, into: target.vector)
    #expect(target.bytes == [1, 2, 3, 4])
    #expect(backend.statistics.writes.failed == 1)
  }

  @Test func readErrorsFollowTheirOwnPolicy() throws {
    var injection = BlkdebugNode.Injection()
    injection.operations = [.read]
    let backend = try faulty(injection)
    let queue = Inbox().queue()
    let target = IOBuffer(count: 4)
    #expect(
      backend.submit(.read(0, into: target.vector), tag: 1, to: queue, mayBlock: true)
        == .failed(EIO))
    backend.setErrorPolicy(read: .ignore, write: .report)
    #expect(
      backend.submit(.read(0, into: target.vector), tag: 1, to: queue, mayBlock: true) == .done)
    backend.setErrorPolicy(read: .stop, write: .report)
    #expect(
      backend.submit(.read(0, into: target.vector), tag: 1, to: queue, mayBlock: true) == .pending)
    backend.cancelParked(for: queue)
    #expect(backend.parkedCount == 0)
  }

  @Test func zerosAreDetected() throws {
    let path = folder.file("zeros")
    try folder.make("zeros", [UInt8](repeating: 1, count: 1 << 20))
    let node = try graph.open(
      path, format: "raw", options: ["detect-zeroes": "unmap", "discard": "unmap"])
    let backend = try BlockBackend(graph, tool: node)
    let before = try #require(node.allocatedSize)
    try backend.write(0, from: IOBuffer(count: 1 << 19).vector)
    #expect(try node.bytes(0, 4) == [0, 0, 0, 0])
    #expect(try #require(node.allocatedSize) <= before - (1 << 19))
    try backend.remove()
    let plain = try BlockBackend(graph, tool: graph.open(path, format: "raw"))
    let held = try #require(plain.node?.allocatedSize)
    try plain.write(1 << 19, from: IOBuffer(count: 1 << 18).vector)
    #expect(plain.node?.allocatedSize == held)
    // Discards are nobody's business there.
    try plain.discard(1 << 19, 1 << 19)
    #expect(plain.node?.allocatedSize == held)
    try plain.remove()
  }

  @Test func histogramsAndIntervalsCountRequests() throws {
    let (backend, _) = try disk()
    backend.changeStatistics { statistics in
      statistics.addInterval(seconds: 10, now: HostClock.monotonic)
      statistics[.read].histogram = LatencyHistogram(boundaries: [1, 1_000_000_000_000])
    }
    let target = IOBuffer(count: 512)
    for _ in 0..<10 { try backend.read(0, into: target.vector) }
    let statistics = backend.statistics
    #expect(statistics.reads.histogram?.bins == [0, 10, 0])
    let summary = statistics.intervals[0].reads.summary(now: HostClock.monotonic)
    #expect(summary.minimum > 0 && summary.minimum <= summary.average)
    #expect(summary.average <= summary.maximum)
    #expect(LatencyHistogram(boundaries: [5, 5]) == nil)
  }

  @Test func mediaComeAndGo() throws {
    let (backend, node) = try disk()
    #expect(backend.length == 1 << 20)
    try backend.remove()
    #expect(!backend.isInserted)
    #expect(graph.node(named: node.name) == nil)
    #expect(throws: BlockError.self) { try backend.flush() }
    try backend.insert(graph.open(folder.file("disk"), format: "raw"))
    #expect(backend.isInserted)
    try backend.flush()
  }

  /// Requests of several threads, drains, failures that stop the machine, and its going on, all at once: every request ends once.
  @Test func everyRequestEndsOnceWhateverHappens() throws {
    let file = try graph.openFile(folder.make("disk", length: 1 << 20))
    let rules: [BlkdebugNode.Injection] = (0..<40).map { number in
      var rule = BlkdebugNode.Injection()
      rule.operations = number % 2 == 0 ? [.write] : [.read]
      rule.offset = UInt64(number) * 16384
      rule.once = true
      return rule
    }
    let node = BlkdebugNode(name: "faulty", image: file, injections: rules)
    try graph.add(node)
    let backend = BlockBackend(graph, name: "drive", used: [.consistentRead, .write])
    try backend.insert(node)
    backend.setErrorPolicy(read: .stop, write: .stop)
    let thread = try IOThread(name: "test")
    let ended = Mutex<[UInt64: Int]>([:])
    let failures = Mutex(0)
    let word = WaitWord()
    let note: @Sendable (UInt64, Int32) -> Void = { tag, code in
      ended.withLock { $0[tag, default: 0] += 1 }
      if code != 0 { failures.withLock { $0 += 1 } }
      word.advance()
    }
    let queue = BlockCompletionQueue(on: thread) { batch in
      for completion in batch { note(completion.tag, completion.code) }
    }
    let (threads, each) = (3, 400)
    let workers = try (0..<threads).map { index in
      try HostThread(name: "submit") {
        for number in 0..<each {
          let tag = UInt64(index * each + number)
          let buffer = IOBuffer([UInt8](repeating: UInt8(index), count: 4096))
          let place = tag * 4096 % (1 << 20)
          let request =
            number % 3 == 0
            ? BlockRequest.read(place, into: buffer.vector)
            : BlockRequest.write(place, from: buffer.vector)
          switch backend.submit(request, tag: tag, to: queue, mayBlock: number % 5 == 0) {
          case .pending: break
          case .done: note(tag, 0)
          case .failed(let code): note(tag, code)
          }
        }
      }
    }
    let limit = HostClock.monotonic + 30_000_000_000
    while ended.withLock({ $0.count }) < threads * each, HostClock.monotonic < limit {
      backend.beginDrain()
      #expect(backend.inFlight == 0)
      backend.endDrain()
      backend.resume()
      word.wait(while: word.value, nanoseconds: 1_000_000)
    }
    for worker in workers { worker.join() }
    #expect(ended.withLock { $0.count } == threads * each)
    #expect(ended.withLock { $0.values.allSatisfy { $0 == 1 } })
    #expect(failures.withLock { $0 } == 0)
    #expect(backend.inFlight == 0)
    #expect(backend.parkedCount == 0)
    thread.stop()
  }
}
