import Block
import CPU
import Chardev
import Cluster
import DeviceModel
import Foundation
import Host
import Machine
import Net
import Options
import QAPI
import Shm
import Support
import Testing
import Translator

/// One machine on several nodes, all in this process: RAM is one memory file or goes from node to node, frames go through memory.
@MainLoop
final class MachinesOfACluster {
  enum Memory: Sendable, CaseIterable { case shared, coherent }

  let network: InMemoryNetwork
  private(set) var machines: [Machine] = []
  private(set) var seats: [ClusterSeat] = []
  nonisolated let folder: String
  private var registries: [ChardevRegistry] = []
  /// Events, and what the process would have ended with, for each node.
  private(set) var events: [[Event]]
  private(set) var statuses: [Int32?]

  /// A machine of `arguments`, whose vCPU n runs on node `placement[n]`.
  init(
    _ arguments: [String], placement: [Int], nodes: Int? = nil,
    lossPolicy: ClusterConfiguration.LossPolicy = .pause, memory: Memory = .shared,
    links: InMemoryNetwork.Behaviour = .init(), firmware: [UInt8]? = nil
  ) throws {
    let count = nodes ?? (placement.max() ?? 0) + 1
    folder = Goliath.temporaryFolder()
    network = InMemoryNetwork(nodeCount: count, links)
    if let firmware {
      let data = Data(firmware)
      try data.write(to: URL(fileURLWithPath: "\(folder)/firmware"))
    }
    events = Array(repeating: [], count: count)
    statuses = Array(repeating: nil, count: count)
    let nodeIDs = placement.map { NodeID(rawValue: UInt8($0)) }
    seats = (0..<count).map {
      ClusterSeat(network[$0], placement: nodeIDs, lossPolicy: lossPolicy)
    }
    try network.start()
    var first: SharedObject?
    for (index, seat) in seats.enumerated() {
      let plan = try CommandLineParser().parse(
        [
          "-nodefaults", "-nographic", "-accel", "tcg", "-cpu", "max", "-smp",
          "\(placement.count),sockets=\(placement.count)",
        ]
          + (firmware == nil
            ? []
            : ["-bios", "FOLDER/firmware"]
              .map { $0.replacingOccurrences(of: "FOLDER", with: folder) })
          + arguments.map { $0.replacingOccurrences(of: "FOLDER", with: folder) },
        programName: "test")
      guard case .run(let configuration) = plan.action else {
        throw SystemError(call: "parse", code: 0)
      }
      let chardevs = ChardevRegistry()
      registries.append(chardevs)
      for chardev in configuration.chardevs {
        var backend = chardev.backend
        if index > 0 { backend = .null(ChardevCommon()) }
        _ = try chardevs.create(chardev.label, backend)
      }
      let ram: NodeMemory
      switch memory {
      case .shared:
        let layout = try #require(
          SharedLayout(blocks: [configuration.memory.size], vcpuCount: placement.count))
        let object: SharedObject
        if let first {
          let copy = try MemoryFile.open(
            "/proc/self/fd/\(first.descriptor)", readOnly: false, name: "ram")
          object = try SharedObject.adopt(copy.descriptor, layout: layout)
        } else {
          object = try SharedObject.create(name: nil, layout: layout)
          first = object
        }
        ram = try NodeMemory(object)
      case .coherent:
        ram = try NodeMemory(size: configuration.memory.size, homes: .block)
      }
      let topology = CPUTopology(
        sockets: configuration.smp.sockets, dies: configuration.smp.dies,
        cores: configuration.smp.cores, threads: configuration.smp.threads)
      let capabilities = CPUCapabilities(tcgOn: .ofThisHost)
      let (table, _) = try CPUModel.parse(configuration.cpuText).cpuidTable(
        capabilities, topology: topology)
      let machine = try Machine(
        configuration, accelerator: TCGAccelerator(cacheBytes: 8 << 20), cpuid: table,
        apicIDs: placement.indices.map { APICID(topology.apicID(ofVCPU: $0)) },
        chardevs: chardevs, seat: seat, sharedMemory: ram,
        onEvent: { [weak self] in self?.events[index].append($0) },
        onExit: { [weak self] in self?.statuses[index] = $0 })
      machines.append(machine)
    }
    for machine in machines { try machine.takePart() }
  }

  /// What the guest has written to `-debugcon file:FOLDER/out`, or to another file there.
  nonisolated func output(_ file: String = "out") -> String {
    (try? String(contentsOfFile: "\(folder)/\(file)", encoding: .utf8)) ?? ""
  }

  /// Waits until it contains `text`.
  nonisolated func expect(_ text: String, in file: String = "out", seconds: Double = 30) async
    -> Bool
  {
    await until(seconds: seconds) { output(file).contains(text) }
  }

  /// Waits until `condition` holds; false when it does not for so long.
  nonisolated func until(
    seconds: Double = 30, _ condition: () async -> Bool
  ) async -> Bool {
    let deadline = HostClock.monotonic + Int64(seconds * 1e9)
    while HostClock.monotonic < deadline {
      if await condition() { return true }
      try? await Task.sleep(nanoseconds: 2_000_000)
    }
    return await condition()
  }

  func shutDown() {
    // One after the other would wait for each other's accesses.
    network.shutDown()
    for machine in machines { machine.tearDown() }
    // Here, where nothing of theirs runs meanwhile.
    machines = []
    seats = []
    for chardevs in registries { chardevs.shutDown() }
    try? FileManager.default.removeItem(atPath: folder)
  }

  /// Runs a test with a cluster, and clears up.
  nonisolated static func run(
    _ arguments: [String], placement: [Int], nodes: Int? = nil,
    lossPolicy: ClusterConfiguration.LossPolicy = .pause, memory: Memory = .shared,
    links: InMemoryNetwork.Behaviour = .init(), firmware: [UInt8]? = nil,
    _ body: @Sendable (MachinesOfACluster) async throws -> Void
  ) async throws {
    MainLoopThread.start()
    let cluster = try await MachinesOfACluster(
      arguments, placement: placement, nodes: nodes, lossPolicy: lossPolicy, memory: memory,
      links: links, firmware: firmware)
    do { try await body(cluster) } catch {
      await cluster.shutDown()
      throw error
    }
    await cluster.shutDown()
  }
}
