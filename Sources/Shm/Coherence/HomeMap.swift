package import Cluster

/// Which node orders the transactions of which page (distributed.md, section 5, "Homes"). Pages are counted through RAM, without its holes.
package struct HomeMap: Equatable, Sendable {
  /// The first page of each slice after the first, for slices; empty otherwise.
  private var bounds: [UInt64]
  /// Nodes by slice or by turn. A node that has left is replaced in it.
  private var nodes: [NodeID]
  private let kind: Kind
  package let pageCount: UInt64

  private enum Kind: Sendable {
    /// `nodes[slice]`, slices divided by `bounds`.
    case slices
    /// Blocks of 2 MiB in turn.
    case blocks
  }

  private static let blockPages: UInt64 = 512

  /// The homes by a policy. `sliceBytes`: the size of each node's slice for `numa` (what the guest is told as its NUMA nodes); nil: equal
  /// ones of whole 2 MiB, the last takes the rest.
  package init(
    _ policy: ClusterConfiguration.HomePolicy, nodeCount: Int, bytes: UInt64,
    sliceBytes: [UInt64]? = nil
  ) {
    let count = min(max(nodeCount, 1), NodeID.limit)
    pageCount = (bytes + GuestAddress.pageSize - 1) / GuestAddress.pageSize
    let all = (0..<count).map { NodeID(rawValue: UInt8(truncatingIfNeeded: $0)) }
    bounds = []
    switch policy {
    case .node0:
      kind = .slices
      nodes = [.devices]
    case .block:
      kind = .blocks
      nodes = all
    case .numa:
      kind = .slices
      nodes = all
      var end: UInt64 = 0
      let share = pageCount / UInt64(count) / HomeMap.blockPages * HomeMap.blockPages
      for index in 0..<(count - 1) {
        let pages: UInt64
        if let sliceBytes {
          pages = index < sliceBytes.count ? sliceBytes[index] / GuestAddress.pageSize : 0
        } else {
          pages = share > 0 ? share : pageCount / UInt64(count)
        }
        end = min(end + pages, pageCount)
        bounds.append(end)
      }
    }
  }

  /// The home of a page below `pageCount`.
  package func home(of page: UInt64) -> NodeID {
    switch kind {
    case .blocks: return nodes[Int(page / HomeMap.blockPages % UInt64(nodes.count))]
    case .slices:
      for index in bounds.indices where page < bounds[index] { return nodes[index] }
      return nodes[nodes.count - 1]
    }
  }

  /// Gives the pages of one node to another.
  package mutating func replace(_ node: NodeID, by other: NodeID) {
    for index in nodes.indices where nodes[index] == node { nodes[index] = other }
  }
}
