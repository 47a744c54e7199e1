package import Cluster
package import Host
package import QAPI
package import Shm

/// What the monitors ask of the nodes of a machine beside frames: who is there, and what memory does.
@MainLoop
package protocol ClusterControl: AnyObject {
  /// The cluster as this node sees it, at once.
  var status: ClusterInfo { get }

  /// What this node's distributed memory has done; nil when nodes share RAM through their host.
  var memoryStatus: DsmInfo? { get }

  /// Up to `limit` pages whose home is this node and that move often, those that move most first.
  func hotPages(_ limit: Int) -> [DsmHotPage]

  /// What passed through the links; nil when nobody counts.
  var frameCounters: FrameCounters? { get }

  /// The same as `memoryStatus` in numbers, for metrics.
  var memoryCounters: DSMStatistics? { get }

  /// Adds what else this node counts, with names of its own.
  func writeMetrics(into text: inout MetricsText)

  /// Lets a frozen cluster go on without the nodes that are lost. Throws when it is not frozen, or cannot go on.
  func goOnWithLoss() async throws(QAPIError)
}

extension ClusterControl {
  package var frameCounters: FrameCounters? { nil }
  package var memoryCounters: DSMStatistics? { nil }
  package func writeMetrics(into text: inout MetricsText) {}
}

extension DsmInfo {
  /// A node's counters as commands tell them. `homePages`: pages whose accesses it orders.
  package init(_ node: Int, _ memory: DSMStatistics, homePages: UInt64) {
    let faults = memory.readFaults &+ memory.writeFaults &+ memory.upgradeFaults
    let nanoseconds =
      memory.readNanoseconds &+ memory.writeNanoseconds &+ memory.upgradeNanoseconds
    self.init(
      node: node, pageSize: 4096,
      pages: DsmPages(
        invalid: Int(clamping: memory.invalidPages), shared: Int(clamping: memory.sharedPages),
        modified: Int(clamping: memory.modifiedPages)),
      homePages: Int(clamping: homePages),
      faults: DsmFaults(
        read: Int(clamping: memory.readFaults), write: Int(clamping: memory.writeFaults),
        upgrade: Int(clamping: memory.upgradeFaults)),
      faultMeanUs: faults == 0 ? nil : Double(nanoseconds) / Double(faults) / 1000,
      transfers: DsmTransfers(
        full: Int(clamping: memory.fullTransfers), zero: Int(clamping: memory.zeroTransfers),
        diff: 0, grant: Int(clamping: memory.grants)),
      invalidations: Int(clamping: memory.invalidations),
      heldRevocations: Int(clamping: memory.heldRevocations),
      prefetch: DsmPrefetch(
        used: Int(clamping: memory.prefetchesUsed), wasted: Int(clamping: memory.prefetchesWasted)),
      pinWaitUs: Int(clamping: memory.pinWaitNanoseconds / 1000),
      hotPages: Int(clamping: memory.hotPages))
  }
}

extension DsmHotPage {
  /// A page as the node that answers sees it.
  package init(_ page: HotPage, node: NodeID) {
    self.init(
      address: page.address.rawValue, home: Int(page.home.rawValue),
      owner: page.state == .modified ? Int(node.rawValue) : nil,
      sharers: page.state == .shared ? [Int(node.rawValue)] : [],
      transfers: Int(clamping: page.transfers),
      transfersPerSecond: Double(page.transfersPerSecond), upgrades: Int(clamping: page.upgrades))
  }
}

extension ClusterInfo {
  /// The entry of a node; nil when there is none of that number.
  package func node(_ number: Int) -> ClusterNodeInfo? { nodes.first { $0.node == number } }

  /// Whether a node answers, as far as is known.
  func reaches(_ number: Int) -> Bool {
    number == node || node(number).map { $0.state == .joined || $0.state == .suspect } ?? false
  }
}
