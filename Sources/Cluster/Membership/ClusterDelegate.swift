/// What happens to the cluster, for the machine and the monitors of this node.
package enum ClusterEvent: Equatable, Sendable {
  /// All nodes have started together.
  case joined
  /// A node has not been heard of for three heartbeats.
  case suspect(NodeID)
  /// It has, after all.
  case recovered(NodeID)
  /// A node is lost: the epoch is a new one, and nothing of the node will be heard again. The vCPUs of all nodes are to stand.
  case lost(NodeID, epoch: UInt32, reason: String)
  /// This node's vCPUs are to stand at once, and why: it has no lease any more, or the cluster lost a node.
  case frozen(reason: String)
  /// They may go on: node 0 has renewed the lease.
  case resumed
  /// A node has left in good order.
  case left(NodeID)
  /// A node broke the protocol; it is lost.
  case protocolError(NodeID, String)
}

/// Something that all nodes do together in two steps (distributed.md, section 9).
package struct ClusterOperation: Equatable, Sendable {
  package enum Kind: UInt8, Sendable, CaseIterable {
    case stop = 1
    case cont = 2
    case reset = 3
    case shutdown = 4
    case quit = 5
    case saveSnapshot = 6
    case loadSnapshot = 7
    case drain = 8
    case continueAfterLoss = 9
  }
  package var kind: Kind
  /// What the operation needs to know; at most 60 KiB.
  package var payload: [UInt8]

  package init(_ kind: Kind, payload: [UInt8] = []) {
    self.kind = kind
    self.payload = payload
  }
}

/// The machine's side of the membership. `clusterEvent` comes on the thread `cluster`, the operations on the thread `cluster-op`; neither is the
/// main loop, nor receives, so both may wait for it.
package protocol ClusterDelegate: AnyObject, Sendable {
  func clusterEvent(_ event: ClusterEvent)
  /// Brings the vCPUs to an edge and ends this node's page transactions. What was sent before it returns has arrived everywhere before
  /// any node commits. False, and all nodes go on as before, when it cannot.
  func prepare(_ operation: ClusterOperation) -> Bool
  /// Does it: all nodes are prepared. No node runs on yet.
  func commit(_ operation: ClusterOperation)
  /// All nodes have done it: go on as the operation asks.
  func finish(_ operation: ClusterOperation)
  /// It does not happen: go on as before. Only after a `prepare`.
  func abort(_ operation: ClusterOperation)
}
