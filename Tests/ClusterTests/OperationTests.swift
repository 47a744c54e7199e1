import Cluster
import Testing

@Suite struct OperationTests {
  private let nodes: Set<NodeID> = [0, 1, 2].reduce(into: []) { $0.insert(NodeID(rawValue: $1)) }
  private func node(_ number: UInt8) -> NodeID { NodeID(rawValue: number) }

  @Test func allPrepareThenAllCommitThenAllAreTold() throws {
    var coordinator = OperationCoordinator(limit: 1000)
    let begun = coordinator.begin(nodes, now: 0)
    let number = try #require(begun)
    check(coordinator.begin(nodes, now: 0), nil)
    for other in nodes {
      check(coordinator.commitIfPrepared(nodes, now: 0), .wait)
      check(coordinator.prepared(other, number, isReady: true, now: 1), .wait)
    }
    check(coordinator.commitIfPrepared(nodes, now: 2), .commit)
    check(coordinator.tick(now: 100_000), .wait)
    check(coordinator.committed(node(0), number), .wait)
    check(coordinator.committed(node(2), number), .wait)
    check(coordinator.committed(node(1), number), .finish)
    #expect(!coordinator.isBusy)
    check(coordinator.begin(nodes, now: 3), number + 1)
  }

  @Test func oneThatCannotStopsIt() throws {
    var coordinator = OperationCoordinator(limit: 1000)
    let begun = coordinator.begin(nodes, now: 0)
    let number = try #require(begun)
    check(coordinator.prepared(node(2), number, isReady: false, now: 1), .abort("node 2 cannot"))
    // What comes late changes nothing.
    check(coordinator.prepared(node(1), number, isReady: true, now: 1), .wait)
    check(coordinator.commitIfPrepared(nodes, now: 1), .wait)
    check(coordinator.committed(node(1), number), .wait)
  }

  @Test func whoTakesTooLongIsNamed() throws {
    var coordinator = OperationCoordinator(limit: 2_000_000_000)
    let begun = coordinator.begin(nodes, now: 0)
    let number = try #require(begun)
    _ = coordinator.prepared(node(0), number, isReady: true, now: 1)
    check(coordinator.tick(now: 1_999_999_999), .wait)
    check(coordinator.tick(now: 2_000_000_000), .abort("node 1, node 2 did not prepare within 2 s"))
    check(coordinator.tick(now: 3_000_000_000), .wait)
  }

  @Test func lostNodeAbortsWhatIsNotCommitted() throws {
    var coordinator = OperationCoordinator(limit: 1000)
    let first = coordinator.begin(nodes, now: 0)
    var number = try #require(first)
    check(coordinator.lost(node(1)), .abort("node 1 is lost"))
    let second = coordinator.begin(nodes, now: 0)
    number = try #require(second)
    for other in nodes { _ = coordinator.prepared(other, number, isReady: true, now: 1) }
    _ = coordinator.commitIfPrepared(nodes, now: 1)
    _ = coordinator.committed(node(0), number)
    _ = coordinator.committed(node(2), number)
    check(coordinator.lost(node(1)), .finish)
    check(coordinator.lost(node(1)), .wait)
  }

  @Test func participantWaitsForMarkersOfAllOnBothStreams() {
    var participant = OperationParticipant()
    let operation = ClusterOperation(.stop)
    let others = nodes.subtracting([node(0)])
    // A fast node's markers come before node 0's PREPARE.
    participant.marker(node(1), .mem, 1)
    check(participant.begin(1, operation), true)
    check(participant.begin(2, operation), false)
    participant.marker(node(1), .ctl, 1)
    participant.marker(node(2), .ctl, 1)
    participant.marker(node(2), .mem, 1)
    check(participant.preparedHere(1), false)
    check(participant.asks(1), true)
    check(participant.isFlushed(from: others), false)
    check(participant.preparedHere(1), true)
    check(participant.isFlushed(from: others), true)
    check(participant.isFlushed(from: others), false)
    check(participant.commit(2), nil)
    check(participant.commit(1), operation)
    check(participant.abort(1), nil)
    check(participant.finish(1), operation)
    check(participant.finish(1), nil)
  }

  @Test func markersOfAnOldOperationDoNotCount() {
    var participant = OperationParticipant()
    check(participant.begin(1, ClusterOperation(.stop)), true)
    check(participant.asks(1), true)
    check(participant.preparedHere(1), true)
    for stream in StreamKind.allCases { participant.marker(node(1), stream, 1) }
    check(participant.abort(1), ClusterOperation(.stop))
    check(participant.begin(2, ClusterOperation(.reset)), true)
    check(participant.asks(2), true)
    check(participant.preparedHere(2), true)
    check(participant.isFlushed(from: [node(1)]), false)
    for stream in StreamKind.allCases { participant.marker(node(1), stream, 2) }
    check(participant.isFlushed(from: [node(1)]), true)
  }

  @Test func abortBeforeCommitGivesTheOperationBack() {
    var participant = OperationParticipant()
    check(participant.abort(1), nil)
    check(participant.begin(1, ClusterOperation(.reset, payload: [1])), true)
    check(participant.asks(1), true)
    check(participant.abort(2), nil)
    check(participant.abort(1), ClusterOperation(.reset, payload: [1]))
    check(participant.begin(1, ClusterOperation(.reset)), false)
  }

  @Test func whatIsGivenUpBeforeTheMachineIsAskedIsNotAskedOfIt() {
    var participant = OperationParticipant()
    check(participant.begin(1, ClusterOperation(.stop)), true)
    check(participant.abort(1), nil)
    check(participant.isIdle, true)
    check(participant.asks(1), false)
    check(participant.begin(2, ClusterOperation(.stop)), true)
    check(participant.asks(1), false)
    check(participant.asks(2), true)
  }
}
