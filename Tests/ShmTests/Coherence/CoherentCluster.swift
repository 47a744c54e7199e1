import Cluster
import Host
import Shm
import Synchronization
import Testing

/// Nodes of one process that have memory in common, over links within the process.
final class CoherentCluster: Sendable {
  let network: InMemoryNetwork
  let nodes: [Node]
  let errors = Mutex<[String]>([])

  final class Node: Sendable {
    let memory: GuestMemory
    let coherent: CoherentMemory
    init(memory: GuestMemory, coherent: CoherentMemory) {
      self.memory = memory
      self.coherent = coherent
    }
  }

  init(
    nodes count: Int, pages: Int, _ behaviour: InMemoryNetwork.Behaviour = .init(),
    homes: ClusterConfiguration.HomePolicy = .block, owner: NodeID? = nil,
    tuning: CoherentMemory.Tuning = .init(), tracer: CoherenceTracer? = nil
  ) throws {
    network = InMemoryNetwork(nodeCount: count, behaviour)
    let bytes = UInt64(pages) * 4096
    // A hole in the middle, as below 4 GiB.
    let low = UInt64(max(pages / 2, 1) + 63) / 64 * 64 * 4096
    var made: [Node] = []
    for number in 0..<count {
      let block = try RAMBlock(name: "ram", size: Int(bytes))
      let memory = GuestMemory()
      var regions = [
        CoherentMemory.Region(guest: GuestAddress(0), size: min(low, bytes), block: block)
      ]
      if bytes > low {
        regions.append(
          CoherentMemory.Region(
            guest: GuestAddress(1 << 32), size: bytes - low, block: block, offset: low))
      }
      memory.setSlots(
        regions.map {
          MemorySlot(guest: $0.guest, size: $0.size, block: $0.block, offset: $0.offset)
        })
      let coherent = try CoherentMemory(
        memory: memory, regions: regions, transport: network[number],
        homes: HomeMap(homes, nodeCount: count, bytes: bytes), tuning: tuning, tracer: tracer)
      made.append(Node(memory: memory, coherent: coherent))
    }
    nodes = made
    for node in made {
      node.coherent.onProtocolError { [weak self] error, lines in
        self?.errors.withLock { $0.append("\(error) \(lines)") }
      }
    }
    try network.start()
    for node in made { try node.coherent.start(owner: owner) }
  }

  /// Ends it; answers what went wrong.
  func end() -> [String] {
    network.shutDown()
    for node in nodes { node.coherent.stop() }
    return errors.withLock { $0 }
  }

  subscript(_ node: Int) -> GuestMemory { nodes[node].memory }
  func address(_ page: Int, _ offset: Int = 0) -> GuestAddress {
    nodes[0].coherent.address(of: UInt64(page)) + UInt64(offset)
  }
  func statistics(_ node: Int) -> DSMStatistics { nodes[node].coherent.statistics }
}

/// Waits until the condition holds; false after ten seconds.
func eventually(_ condition: () -> Bool) -> Bool {
  let end = HostClock.monotonic + 10_000_000_000
  while !condition() {
    if HostClock.monotonic > end { return false }
    HostClock.sleep(nanoseconds: 200_000)
  }
  return true
}
