import CPU
import Cluster
import DeviceModel
import Guests
import Host
import Shm
import Synchronization
import Testing
import Translator

/// Nodes of one process with a vCPU each, whose memory is coherent over links within the process. 4 MiB at 0, identity-mapped in 64-bit mode.
final class Nodes {
  private static let size = 4 << 20

  let network: InMemoryNetwork
  let memories: [GuestMemory]
  let coherent: [CoherentMemory]
  private let vms: [any VirtualMachine]
  private let guest: LitmusGuest
  private let failures = Failures()

  private final class Failures: Sendable {
    let texts = Mutex<[String]>([])
  }

  init(
    _ count: Int, _ tuning: TranslatorTuning, _ behaviour: InMemoryNetwork.Behaviour = .init()
  ) throws {
    network = InMemoryNetwork(nodeCount: count, behaviour)
    var memories: [GuestMemory] = []
    var coherent: [CoherentMemory] = []
    var vms: [any VirtualMachine] = []
    var vcpus: [any VCPU] = []
    for n in 0..<count {
      let ram = try RAMBlock(name: "ram", size: Self.size)
      let memory = GuestMemory()
      memory.setSlots([
        MemorySlot(guest: GuestAddress(0), size: UInt64(Self.size), block: ram)
      ])
      coherent.append(
        try CoherentMemory(
          memory: memory,
          regions: [.init(guest: GuestAddress(0), size: UInt64(Self.size), block: ram)],
          transport: network[n],
          homes: HomeMap(.block, nodeCount: count, bytes: UInt64(Self.size))))
      let vm = try TCGAccelerator(cacheBytes: 4 << 20, tuning: tuning).makeVM(
        memory: memory, cpuid: TinyMachine.cpuid)
      vms.append(vm)
      vcpus.append(
        try vm.makeVCPU(
          id: VCPUID(UInt32(n)), apicID: APICID(UInt32(n)), host: RecordingHost()))
      memories.append(memory)
    }
    (self.memories, self.coherent, self.vms) = (memories, coherent, vms)
    let failures = failures
    for one in coherent {
      one.onProtocolError { error, lines in
        failures.texts.withLock { $0.append("\(error) \(lines)") }
      }
    }
    try network.start()
    for one in coherent { try one.start() }
    guest = LitmusGuest(memories[0], vcpus)
  }

  /// Runs a program on each node to its HLT. Throws when one does not come there.
  func run(_ programs: [[UInt8]], _ registers: [[Int: UInt64]]) throws {
    try guest.run(programs, registers) { for one in coherent { one.freeze() } }
  }

  func word(_ address: UInt64) -> UInt32 { memories[0].load(GuestAddress(address)) ?? 0xDEAD }
  func long(_ address: UInt64) -> UInt64 { memories[0].load(GuestAddress(address)) ?? 0xDEAD }

  /// Ends it; answers what the protocol did not allow.
  func end() -> [String] {
    network.shutDown()
    for one in coherent { one.stop() }
    return failures.texts.withLock { $0 }
  }
}
