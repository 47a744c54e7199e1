import Cluster
import Host
import Shm
import Synchronization
import Testing

/// Threads on several nodes access few pages at random; every read is compared with a sequential model (distributed.md, section 15, "random").
@Suite(.serialized) struct RandomAccessTests {
  struct Shape: Sendable, CustomStringConvertible {
    var nodes: Int
    var threads: Int
    var pages: Int
    var delay: Int
    var stall: Int
    var forwards = true
    var hotSlice: Int64 = 0
    var policy = ClusterConfiguration.HomePolicy.block
    var description: String { "\(nodes) nodes, \(threads) threads, \(pages) pages, \(delay) us" }
  }

  /// What the words of a page must hold: each word has a lock of its own, under which it is accessed, so that the model and the memory
  /// change in the same order; the pages are shared by all words' locks, so that pages are wanted by several at a time.
  private final class Model: Sendable {
    final class Word: Sendable {
      let value = Mutex<UInt64>(0)
    }
    let words: [Word]
    init(_ count: Int) { words = (0..<count).map { _ in Word() } }
  }

  private static let wordsOfPage = 16

  private func run(
    _ shape: Shape, seed: UInt64, accesses: Int, isTraced: Bool
  ) throws {
    var behaviour = InMemoryNetwork.Behaviour(seed: seed, longestDelayMicroseconds: shape.delay)
    behaviour.stallEvery = shape.stall
    behaviour.stallNanoseconds = 1_000_000
    var tuning = CoherentMemory.Tuning()
    tuning.forwards = shape.forwards
    tuning.hotSliceNanoseconds = shape.hotSlice
    let tracer = isTraced ? CoherenceTracer() : nil
    let cluster = try CoherentCluster(
      nodes: shape.nodes, pages: shape.pages, behaviour, homes: shape.policy, tuning: tuning,
      tracer: tracer)
    let model = Model(shape.pages * Self.wordsOfPage)
    let made = Atomic<Int>(0)
    var threads: [HostThread] = []
    // Rounded up: all blocks together are a million and a little more.
    let count = shape.nodes * shape.threads
    let each = (accesses + count - 1) / count
    for number in 0..<count {
      let node = number % shape.nodes
      let numbers = MersenneTwisterBox(seed: seed &* 1000 &+ UInt64(number))
      threads.append(
        try HostThread(name: "engine/\(number)") {
          let random = numbers.value
          let memory = cluster[node]
          var page = 0
          for _ in 0..<each {
            if random.randrange(12) == 0 { page = random.randrange(shape.pages) }
            let word = random.randrange(Self.wordsOfPage)
            let address = cluster.address(page, word * 256 + 8)
            let isWrite = random.randrange(10) < 4
            let isRight = model.words[page * Self.wordsOfPage + word].value.withLock { value in
              guard memory.load(address, as: UInt64.self) == value else { return false }
              if isWrite {
                value = value &* 6_364_136_223_846_793_005 &+ UInt64(number) &+ 1
                return memory.store(address, value)
              }
              return true
            }
            if !isRight {
              cluster.errors.withLock { $0.append("node \(node), page \(page), word \(word)") }
              return
            }
            made.add(1, ordering: .relaxed)
          }
        })
    }
    for thread in threads { thread.join() }
    let total = made.load(ordering: .relaxed)
    #expect(total >= accesses, "seed \(seed), \(shape): only \(total) accesses")
    // The end: every node agrees with the model.
    for page in 0..<shape.pages {
      for word in 0..<Self.wordsOfPage {
        for node in 0..<shape.nodes {
          let seen = cluster[node].load(cluster.address(page, word * 256 + 8), as: UInt64.self)
          if seen != model.words[page * Self.wordsOfPage + word].value.withLock({ $0 }) {
            cluster.errors.withLock { $0.append("at the end: node \(node), page \(page)") }
          }
        }
      }
    }
    let wrong = cluster.end()
    #expect(wrong.isEmpty, "seed \(seed), \(shape): \(wrong.prefix(3))")
    let homes = HomeMap(shape.policy, nodeCount: shape.nodes, bytes: UInt64(shape.pages) * 4096)
    let violation = tracer?.trace.firstViolation { homes.home(of: $0) }
    #expect(violation == nil, "seed \(seed), \(shape)")
  }

  @Test(arguments: 0..<20) func everyReadIsTheLastWrite(_ block: Int) throws {
    let shapes = [
      Shape(nodes: 2, threads: 2, pages: 4, delay: 0, stall: 0),
      Shape(nodes: 3, threads: 2, pages: 600, delay: 20, stall: 0),
      Shape(nodes: 4, threads: 1, pages: 3, delay: 50, stall: 200, policy: .node0),
      Shape(nodes: 2, threads: 3, pages: 1, delay: 0, stall: 0, hotSlice: 100_000),
      Shape(nodes: 5, threads: 1, pages: 8, delay: 100, stall: 100, forwards: false, policy: .numa),
    ]
    try run(
      shapes[block % shapes.count], seed: UInt64(4000 + block), accesses: 50_000,
      isTraced: block < 5)
  }
}

/// A generator for one thread.
private final class MersenneTwisterBox: @unchecked Sendable {
  let value: MersenneTwister
  init(seed: UInt64) { value = MersenneTwister(seed: seed) }
}
