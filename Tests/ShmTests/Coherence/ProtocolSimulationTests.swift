import Cluster
import Glibc
import Host
import Shm
import Testing

/// The state machines against the executable reference of distributed.md, and against the protocol's invariants on random schedules.
@Suite struct ProtocolSimulationTests {
  /// One schedule as the reference runs it: the same numbers in the same order.
  private func reference(run: Int, seed: Int) throws -> String {
    let random = MersenneTwister(seed: UInt64(seed * 100_003 + run))
    let nodes = random.choice([2, 3, 4, 5, 8])
    let pages = random.choice([1, 2, 3])
    let forwards = random.random() < 0.7
    let world = ProtocolSimulation(nodes: nodes, pages: pages, forwards: forwards) {
      Double(random.choice([1, 1, 2, 5, 40])) * random.random()
    }
    try drive(world, random) { $0.random() < 0.4 }
    return "\(run) \(nodes) \(pages) \(world.messages) \(world.summary)"
  }

  /// Two engines on each node that access random pages, 150 times a node.
  private func drive(
    _ world: ProtocolSimulation, _ numbers: MersenneTwister,
    _ writes: @escaping (MersenneTwister) -> Bool
  ) throws {
    var left = 150 * world.nodeCount
    func go(_ node: Int, _ page: Int, _ write: Bool) throws {
      try world.access(node, page, write: write) {
        left -= 1
        guard left > 0 else { return }
        let pause = numbers.random() * numbers.choice([0.1, 3, 20])
        let next = numbers.randrange(world.pageCount)
        let isWrite = writes(numbers)
        world.at(world.time + pause) { try go(node, next, isWrite) }
      }
    }
    for node in 0..<world.nodeCount {
      for _ in 0..<2 {
        let start = numbers.random()
        let page = numbers.randrange(world.pageCount)
        let isWrite = writes(numbers)
        world.at(start) { try go(node, page, isWrite) }
      }
    }
    try world.run()
    for page in 0..<world.pageCount { try world.check(page) }
  }

  private static let models: String =
    #filePath.split(separator: "/").dropLast(2).reduce("") { $0 + "/" + $1 } + "/Models"

  private func lines(_ path: String) throws -> [Substring] {
    let file = try FileDescriptor.open(path, O_RDONLY)
    var text: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = Glibc.read(file.rawValue, &buffer, buffer.count)
      if count <= 0 { break }
      text += buffer[..<count]
    }
    return String(decoding: text, as: UTF8.self).split(separator: "\n")
  }

  @Test func numbersAreThoseOfPython() {
    // random.Random(1), .Random(2**33 + 5)
    let one = MersenneTwister(seed: 1)
    #expect(one.random() == 0.13436424411240122)
    #expect(one.randrange(1000) == 867)
    #expect(one.choice([1, 1, 2, 5, 40]) == 1)
    let two = MersenneTwister(seed: (1 << 33) + 5)
    #expect(two.random() == 0.7416304072852293)
  }

  @Test func sameSeedsGiveTheSameMessagesAndStatesAsTheRecordedReference() throws {
    let wanted = try lines(Self.models + "/reference.txt")
    #expect(wanted.count == 100)
    for (run, line) in wanted.enumerated() {
      let mine = try reference(run: run, seed: 1)
      if mine != line {
        Issue.record("run \(run): \(mine), but the reference has \(line)")
        return
      }
    }
  }

  /// With the design notes beside the source, the reference itself is run with other seeds.
  @Test func sameSeedsGiveTheSameMessagesAndStatesAsTheReferenceItself() throws {
    let model = Self.models + "/../../../../shared/design/model/sim.py"
    guard access(model, R_OK) == 0,
      let pipe = popen(
        "python3 '\(Self.models)/reference.py' '\(model)' 60 4711 2>/dev/null", "r")
    else {
      print("skipped: the design notes are not here")
      return
    }
    var text: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = fread(&buffer, 1, buffer.count, pipe)
      if count == 0 { break }
      text += buffer[..<count]
    }
    guard pclose(pipe) == 0 else {
      print("skipped: python3 is not here")
      return
    }
    let wanted = String(decoding: text, as: UTF8.self).split(separator: "\n")
    #expect(wanted.count == 60)
    for (run, line) in wanted.enumerated() {
      let mine = try reference(run: run, seed: 4711)
      if mine != line {
        Issue.record("run \(run): \(mine), but the reference has \(line)")
        return
      }
    }
  }

  @Test(arguments: 0..<20)
  func randomSchedulesKeepTheInvariants(_ block: Int) throws {
    for run in 0..<25 {
      let seed = UInt64(block * 25 + run)
      let random = MersenneTwister(seed: 900_000 + seed)
      let nodes = random.choice([2, 3, 4, 7, 16, 64])
      let share = random.choice([0.05, 0.3, 0.8])
      let delays = random.choice([[1.0], [1, 1, 2, 5, 40], [0.01, 100]])
      let world = ProtocolSimulation(
        nodes: nodes, pages: random.choice([1, 2, 5]), forwards: random.random() < 0.7,
        followsMigration: run % 2 == 1
      ) { random.choice(delays) * random.random() }
      world.isTracing = nodes < 16
      do {
        let engines = MersenneTwister(seed: seed)
        try drive(world, engines) { $0.random() < share }
        if let violation = world.trace.firstViolation(owner: {
          NodeID(rawValue: UInt8($0 % UInt64(nodes)))
        }) {
          throw violation
        }
      } catch {
        Issue.record("seed \(seed): \(error)")
        return
      }
    }
  }

  /// The spin models in this repository; a quarter of a minute when spin is there.
  @Test func modelsHoldAndBrokenOnesFail() throws {
    guard let pipe = popen("'\(Self.models)/check' 100 2>&1", "r") else {
      Issue.record("cannot be run")
      return
    }
    var text: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 4096)
    while true {
      let count = fread(&buffer, 1, buffer.count, pipe)
      if count == 0 { break }
      text += buffer[..<count]
    }
    let status = pclose(pipe)
    let output = String(decoding: text, as: UTF8.self)
    if output.hasPrefix("skipped") { print(output, terminator: "") }
    #expect(status == 0, "\(output)")
  }
}
