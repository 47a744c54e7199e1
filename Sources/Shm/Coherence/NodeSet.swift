package import Cluster

/// Nodes of a cluster, one bit each.
package struct NodeSet: OptionSet, Hashable, Sendable, BitwiseCopyable {
  package let rawValue: UInt64
  package init(rawValue: UInt64) { self.rawValue = rawValue }
  package init(_ node: NodeID) { rawValue = 1 << UInt64(node.rawValue & 63) }

  package var count: Int { rawValue.nonzeroBitCount }
  /// The node of the lowest number.
  package var first: NodeID? {
    rawValue == 0 ? nil : NodeID(rawValue: UInt8(rawValue.trailingZeroBitCount))
  }
  package func contains(_ node: NodeID) -> Bool { contains(NodeSet(node)) }

  /// Each, by number.
  package var nodes: Nodes { Nodes(left: rawValue) }

  package struct Nodes: Sequence, IteratorProtocol {
    var left: UInt64

    package mutating func next() -> NodeID? {
      guard left != 0 else { return nil }
      defer { left &= left &- 1 }
      return NodeID(rawValue: UInt8(left.trailingZeroBitCount))
    }
  }
}
