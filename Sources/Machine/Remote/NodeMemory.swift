package import Cluster
import Host
package import Shm

/// RAM of a machine on several nodes, as one of them has it.
package struct NodeMemory: Sendable {
  /// All of it, at this node's addresses.
  package let block: RAMBlock
  /// What the software CPUs of nodes on one host tell each other; nil where RAM is not one object for all.
  package let engines: SharedEngines?
  /// For RAM that goes from node to node by the page: which node orders a page's transactions. Nil where RAM is one object for all.
  package let homes: ClusterConfiguration.HomePolicy?

  /// RAM in the object that all nodes of one host have open. Throws `SystemError` for `mmap`.
  package init(_ object: SharedObject) throws {
    block = try RAMBlock(
      name: "pc.ram", size: Int(clamping: object.layout.blocks[0]),
      backing: .object(object, block: 0))
    engines = try SharedEngines(object)
    homes = nil
  }

  /// RAM that goes from node to node, of `size` bytes in all. Throws `SystemError` for `mmap`.
  package init(size: UInt64, homes: ClusterConfiguration.HomePolicy) throws {
    block = try RAMBlock(name: "pc.ram", size: Int(clamping: size), backing: .memfd)
    engines = nil
    self.homes = homes
  }

  /// RAM is divided between homes in units of so many bytes.
  private static let unit: UInt64 = 64 * GuestAddress.pageSize

  /// The pages' service, begun: before anything is written to RAM. Nil where nothing has to go. `opensEarlyPages`: for an engine whose first use of
  /// a page is dear. Throws `MachineError`.
  func makeCoherent(
    _ memory: GuestMemory, _ map: PCMemoryMap, _ seat: ClusterSeat, _ slices: [UInt64]?,
    opensEarlyPages: Bool
  ) throws(MachineError) -> CoherentMemory? {
    guard let homes else { return nil }
    guard map.lowSize % NodeMemory.unit == 0, map.highSize % NodeMemory.unit == 0 else {
      throw MachineError(
        "RAM of a machine on several nodes comes in multiples of 256 KiB; give another -m")
    }
    var regions = [
      CoherentMemory.Region(guest: GuestAddress(0), size: map.lowSize, block: block)
    ]
    if map.highSize > 0 {
      regions.append(
        CoherentMemory.Region(
          guest: GuestAddress(PCMemoryMap.fourGiB), size: map.highSize, block: block,
          offset: map.lowSize))
    }
    var tuning = CoherentMemory.Tuning()
    tuning.opensEarlyPages = opensEarlyPages
    do {
      let coherent = try CoherentMemory(
        memory: memory, regions: regions, transport: seat.transport,
        homes: HomeMap(
          homes, nodeCount: seat.transport.nodeCount, bytes: map.ramSize, sliceBytes: slices),
        tuning: tuning)
      coherent.followClock { [weak seat] in seat?.clockOffset ?? 0 }
      try coherent.start()
      return coherent
    } catch {
      throw MachineError("cannot set up memory for several nodes: \(error.reason)")
    }
  }
}
