import Cluster
import Shm
import Testing

/// The checker of traces finds what cannot have happened, and nothing else.
@Suite struct CoherenceTraceTests {
  private typealias Step = (node: UInt8, event: CoherenceTrace.Event, gen: UInt64, hash: UInt64)

  private func violation(_ steps: [Step]) -> CoherenceTrace.Violation? {
    CoherenceTrace(
      steps.enumerated().map { time, step in
        CoherenceTrace.Entry(
          time: UInt64(time), node: NodeID(rawValue: step.node), page: 5, event: step.event,
          gen: step.gen, hash: step.hash)
      }
    ).firstViolation { _ in NodeID(rawValue: 0) }
  }

  /// Node 0 writes, node 1 reads it, then writes it.
  private let lawful: [Step] = [
    (0, .wrote, 0, 10), (0, .downgraded, 1, 10), (1, .gotS, 1, 10), (1, .read, 1, 10),
    (0, .read, 0, 10), (0, .dropped, 2, 10), (1, .gotM, 2, 10), (1, .wrote, 2, 11),
    (1, .read, 2, 11),
  ]

  @Test func lawfulTracePasses() {
    #expect(violation(lawful) == nil)
    // Logs of nodes come apart; time orders them.
    var mine = CoherenceTrace()
    var theirs = CoherenceTrace()
    for (time, step) in lawful.enumerated() {
      let entry = CoherenceTrace.Entry(
        time: UInt64(time), node: NodeID(rawValue: step.node), page: 5, event: step.event,
        gen: step.gen, hash: step.hash)
      if step.node == 0 { mine.append(entry) } else { theirs.append(entry) }
    }
    theirs.merge(mine)
    #expect(theirs.firstViolation { _ in NodeID(rawValue: 0) } == nil)
  }

  private func without(_ index: Int) -> [Step] {
    var steps = lawful
    steps.remove(at: index)
    return steps
  }

  @Test func secondWriterIsFound() {
    // The reader was not told to drop its copy.
    let found = violation(without(5))
    #expect(found?.rule == .singleWriter && found?.entry.time == 5)
    // The writer was not told to stop.
    #expect(violation(without(1))?.rule == .singleWriter)
  }

  @Test func oldBytesAreFound() {
    var steps = lawful
    steps[3].hash = 9
    #expect(violation(steps)?.rule == .lastWrite)
    steps = lawful
    steps[6].hash = 9
    #expect(violation(steps)?.rule == .lastWrite)
    // Another write between the sending of the bytes and the downgrade.
    steps = lawful
    steps.insert((0, .wrote, 0, 12), at: 1)
    #expect(violation(steps)?.rule == .lastWrite)
  }

  @Test func accessesWithoutTheRightAreFound() {
    #expect(violation(lawful + [(0, .read, 2, 11)])?.rule == .noRight)
    #expect(violation(lawful + [(0, .wrote, 2, 12)])?.rule == .noRight)
    #expect(violation([(1, .read, 0, 0)])?.rule == .noRight)
    #expect(violation([(0, .downgraded, 1, 0), (0, .wrote, 1, 3)])?.rule == .noRight)
  }

  @Test func generationsThatGoBackAreFound() {
    #expect(violation(lawful + [(1, .dropped, 1, 11)])?.rule == .generation)
    #expect(violation(lawful + [(1, .read, 1, 11)])?.rule == .generation)
    #expect(
      violation([(0, .dropped, 4, 1), (1, .gotM, 4, 1), (1, .dropped, 5, 1), (2, .gotS, 3, 1)])?
        .rule == .generation)
  }
}
