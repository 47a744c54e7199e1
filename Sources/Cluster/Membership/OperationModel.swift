/// Operations of all nodes in two steps: rules only, no threads, no clock of their own (distributed.md, section 9).

/// Node 0's part: who has prepared, who has committed.
package struct OperationCoordinator: Equatable, Sendable {
  /// What is to be done next.
  package enum Step: Equatable, Sendable {
    case wait
    /// All are prepared: COMMIT to all.
    case commit
    /// All have committed: tell all.
    case finish
    /// It is given up, and why: ABORT to all.
    case abort(String)
  }
  private enum Phase: Equatable, Sendable {
    case idle
    case preparing
    case committing
  }

  private var phase = Phase.idle
  private var awaited: Set<NodeID> = []
  private var deadline: Int64 = 0
  /// Nanoseconds that a node may take to prepare.
  package let limit: Int64
  package private(set) var number: UInt32 = 0

  /// - Parameter limit: nanoseconds that each step may take.
  package init(limit: Int64) { self.limit = limit }

  package var isBusy: Bool { phase != .idle }

  /// Begins one with these nodes; nil while another is under way.
  package mutating func begin(_ nodes: Set<NodeID>, now: Int64) -> UInt32? {
    guard phase == .idle, !nodes.isEmpty else { return nil }
    number &+= 1
    phase = .preparing
    awaited = nodes
    deadline = now &+ limit
    return number
  }

  package mutating func prepared(
    _ node: NodeID, _ number: UInt32, isReady: Bool, now: Int64
  ) -> Step {
    guard phase == .preparing, number == self.number, awaited.contains(node) else { return .wait }
    guard isReady else {
      phase = .idle
      return .abort("\(node) cannot")
    }
    awaited.remove(node)
    return .wait
  }

  /// Whether all are prepared: then the nodes that take part commit.
  package mutating func commitIfPrepared(_ nodes: Set<NodeID>, now: Int64) -> Step {
    guard phase == .preparing, awaited.isEmpty else { return .wait }
    phase = .committing
    awaited = nodes
    deadline = now &+ limit
    return .commit
  }

  package mutating func committed(_ node: NodeID, _ number: UInt32) -> Step {
    guard phase == .committing, number == self.number else { return .wait }
    awaited.remove(node)
    guard awaited.isEmpty else { return .wait }
    phase = .idle
    return .finish
  }

  /// A node is lost. What is not committed is given up; what is goes on without it.
  package mutating func lost(_ node: NodeID) -> Step {
    switch phase {
    case .idle: return .wait
    case .preparing:
      phase = .idle
      return .abort("\(node) is lost")
    case .committing:
      awaited.remove(node)
      guard awaited.isEmpty else { return .wait }
      phase = .idle
      return .finish
    }
  }

  package mutating func tick(now: Int64) -> Step {
    guard phase == .preparing, now >= deadline else { return .wait }
    phase = .idle
    let who = awaited.sorted().map(\.description).joined(separator: ", ")
    return .abort("\(who) did not prepare within \(limit / 1_000_000_000) s")
  }
}

/// A node's part, node 0's too: its own preparation, and the markers that say that nothing of the others is under way to it.
package struct OperationParticipant: Equatable, Sendable {
  private enum Phase: Equatable, Sendable {
    case idle
    /// Begun; the machine has not been asked.
    case begun
    case preparing
    /// Prepared here; markers are awaited.
    case flushing
    case prepared
    case committed
  }
  private var phase = Phase.idle
  private var markers: [UInt32: Set<Int>] = [:]
  package private(set) var number: UInt32 = 0
  package private(set) var operation: ClusterOperation?

  package init() {}

  package var isIdle: Bool { phase == .idle }

  /// PREPARE has come. False when it cannot be: another is under way.
  package mutating func begin(_ number: UInt32, _ operation: ClusterOperation) -> Bool {
    guard phase == .idle, number > self.number else { return false }
    phase = .begun
    self.number = number
    self.operation = operation
    markers = markers.filter { $0.key >= number }
    return true
  }

  /// A marker of a node on a stream; those of a coming operation may come before its PREPARE.
  package mutating func marker(_ node: NodeID, _ stream: StreamKind, _ number: UInt32) {
    // A few operations ahead are all that can be.
    guard number >= self.number, number <= self.number &+ 16 else { return }
    markers[number, default: []].insert(node.index * 2 + Int(stream.rawValue))
  }

  /// The machine is about to be asked. False when it need not be any more: another node could not, and the operation was given up.
  package mutating func asks(_ number: UInt32) -> Bool {
    guard phase == .begun, number == self.number else { return false }
    phase = .preparing
    return true
  }

  /// The machine has prepared itself; markers go out now.
  package mutating func preparedHere(_ number: UInt32) -> Bool {
    guard phase == .preparing, number == self.number else { return false }
    phase = .flushing
    return true
  }

  /// Whether the markers of all these nodes have come, on both streams: once.
  package mutating func isFlushed(from nodes: Set<NodeID>) -> Bool {
    guard phase == .flushing else { return false }
    let come = markers[number] ?? []
    for node in nodes {
      for stream in StreamKind.allCases
      where !come.contains(node.index * 2 + Int(stream.rawValue)) { return false }
    }
    phase = .prepared
    return true
  }

  /// COMMIT has come. The operation, if it is the one that is prepared.
  package mutating func commit(_ number: UInt32) -> ClusterOperation? {
    guard phase == .prepared, number == self.number else { return nil }
    phase = .committed
    return operation
  }

  /// All have committed.
  package mutating func finish(_ number: UInt32) -> ClusterOperation? {
    guard phase == .committed, number == self.number else { return nil }
    phase = .idle
    defer { operation = nil }
    return operation
  }

  /// ABORT has come, or the coordinator is lost. The operation, if the machine was asked to prepare for it.
  package mutating func abort(_ number: UInt32) -> ClusterOperation? {
    guard phase != .idle, phase != .committed, number == self.number else { return nil }
    defer {
      phase = .idle
      operation = nil
    }
    return phase == .begun ? nil : operation
  }
}
