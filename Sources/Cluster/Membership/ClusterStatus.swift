/// What `query-cluster` shows (distributed.md, section 13).
package struct ClusterStatus: Equatable, Sendable {
  package enum State: String, Sendable, CaseIterable {
    /// Not all nodes are linked.
    case joining
    /// All are linked; not all machines are made.
    case joined
    /// All have started.
    case running
    /// vCPUs stand: this node has no lease, or a node was lost.
    case frozen
    /// This node has left.
    case left
  }
  package enum NodeState: String, Sendable, CaseIterable {
    case alive, suspect, lost, left
  }

  package struct Node: Equatable, Sendable {
    package var node: NodeID
    /// Where it listens.
    package var address: String
    package var state: NodeState
    package var vcpus: [UInt32]
    /// The last round trip of a small frame; nil for this node, and before the first.
    package var roundTripNanoseconds: Int64?
    /// What its reading of cluster time may be wrong by, as it says; nil before it has said so.
    package var clockErrorNanoseconds: Int64?
    package var isProtected: Bool
    /// Since its last heartbeat; nil for this node, and before the first.
    package var lastHeartbeatMilliseconds: Int64?
    /// Whether its vCPUs stand for want of a lease.
    package var isFrozen: Bool
  }

  package var id: String
  package var node: NodeID
  package var state: State
  package var epoch: UInt32
  /// Node 0's random number for this start.
  package var instance: UInt64
  package var memory: ClusterConfiguration.Memory
  package var policy: ClusterConfiguration.LossPolicy
  package var nodes: [Node]
}
