import Cluster
import Foundation
import Host
import Monitor
import Options
import QAPI
import Shm
import Support

/// A cluster whose state a test writes.
@MainLoop
final class PaperCluster: ClusterControl {
  var status: ClusterInfo
  var memoryStatus: DsmInfo?
  var pages: [DsmHotPage] = []
  var frameCounters: FrameCounters?
  var memoryCounters: DSMStatistics?
  /// How often the guest was let go on.
  private(set) var continuations = 0

  init(node: Int, of count: Int, memory: ClusterMemoryMode = .dsm) {
    status = ClusterInfo(
      id: "paper", node: node, state: .running, epoch: 1,
      nodes: (0..<count).map { number in
        var entry = ClusterNodeInfo(
          node: number, address: "127.0.0.1:\(7710 + number)", state: .joined,
          vcpus: [2 * number, 2 * number + 1], tls: false)
        if number != node {
          entry.rttUs = 12.34
          entry.lastHeartbeatMs = 40
        }
        return entry
      }, memory: memory, home: .numa, onNodeLoss: .pause)
    if memory == .dsm {
      memoryStatus = DsmInfo(
        node: node, pageSize: 4096, pages: DsmPages(invalid: 1, shared: 2, modified: 3),
        homePages: 6, faults: DsmFaults(read: 10 + node, write: 20, upgrade: 30), faultMeanUs: 7.25,
        transfers: DsmTransfers(full: 1, zero: 2, diff: 0, grant: 4), invalidations: 5,
        heldRevocations: 1, prefetch: DsmPrefetch(used: 8, wasted: 9), pinWaitUs: 0, hotPages: 1)
      pages = [
        DsmHotPage(
          address: UInt64(0x1000 * (node + 1)), home: node, owner: node, sharers: [],
          transfers: 100 + node, transfersPerSecond: Double(300 + node), upgrades: 1, writers: 2)
      ]
    }
  }

  func hotPages(_ limit: Int) -> [DsmHotPage] { Array(pages.prefix(limit)) }

  func goOnWithLoss() async throws(QAPIError) {
    guard status.state == .frozen else { throw QAPIError("The cluster is not frozen") }
    continuations += 1
    status.state = .running
  }

  /// What this node knows of another one.
  func set(_ number: Int, _ state: ClusterNodeState, reason: String? = nil) {
    status.nodes[number].state = state
    status.nodes[number].reason = reason
  }

  func set(_ state: ClusterState, reason: String? = nil) {
    status.state = state
    status.reason = reason
  }
}

/// Monitors of several nodes in one process, with links in memory between them.
final class MonitoredCluster: Sendable {
  let network: InMemoryNetwork
  let nodes: [MonitoredMachine]
  let controls: [PaperCluster]
  @MainLoop private var monitors: [ClusterMonitors] = []

  @MainLoop
  init(_ count: Int, memory: ClusterMemoryMode, access: [String]) throws {
    network = InMemoryNetwork(nodeCount: count)
    var nodes: [MonitoredMachine] = []
    var controls: [PaperCluster] = []
    var monitors: [ClusterMonitors] = []
    for number in 0..<count {
      let machine = try MonitoredMachine(
        access: access.indices.contains(number) ? try .init(access[number]) : .full)
      let control = PaperCluster(node: number, of: count, memory: memory)
      monitors.append(
        try ClusterMonitors(control, transport: network[number], context: machine.context))
      nodes.append(machine)
      controls.append(control)
    }
    self.nodes = nodes
    self.controls = controls
    self.monitors = monitors
    try network.start()
    for node in nodes { try node.start() }
  }

  @MainLoop
  private func shutDown() {
    for node in nodes { node.shutDown() }
  }

  /// Runs a test with nodes, and clears up.
  static func run(
    _ count: Int = 2, memory: ClusterMemoryMode = .dsm, access: [String] = [],
    _ body: @Sendable (MonitoredCluster) async throws -> Void
  ) async throws {
    MainLoopThread.start()
    let cluster = try await MonitoredCluster(count, memory: memory, access: access)
    do { try await body(cluster) } catch {
      await cluster.shutDown()
      cluster.network.shutDown()
      throw error
    }
    await cluster.shutDown()
    cluster.network.shutDown()
  }
}
