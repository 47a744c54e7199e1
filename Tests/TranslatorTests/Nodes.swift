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
  struct Stuck: Error {}
  private static let size = 4 << 20

  let network: InMemoryNetwork
  let memories: [GuestMemory]
  let coherent: [CoherentMemory]
  private let vms: [any VirtualMachine]
  let vcpus: [any VCPU]
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
    (self.memories, self.coherent, self.vms, self.vcpus) = (memories, coherent, vms, vcpus)
    let failures = failures
    for one in coherent {
      one.onProtocolError { error, lines in
        failures.texts.withLock { $0.append("\(error) \(lines)") }
      }
    }
    try network.start()
    for one in coherent { try one.start() }
    let memory = memories[0]
    memory.store(GuestAddress(0x10000), UInt64(0x11007))
    memory.store(GuestAddress(0x11000), UInt64(0x12007))
    for n in UInt64(0)..<8 { memory.store(GuestAddress(0x12000 + n * 8), n << 21 | 0x87) }
    memory.store(GuestAddress(0x5008), UInt64(0x00AF_9B00_0000_FFFF))
    memory.store(GuestAddress(0x5010), UInt64(0x00CF_9300_0000_FFFF))
    memory.store(GuestAddress(0x6000 + 3 * 16), UInt64(0x0000_8E00_0008_7000))
    memory.write(GuestAddress(0x7000), LitmusPrograms.breakpoint)
  }

  /// Runs a program on each node to its HLT. Throws when one does not come there.
  func run(_ programs: [[UInt8]], _ registers: [[Int: UInt64]]) throws {
    for (n, vcpu) in vcpus.enumerated() {
      let start = 0x2_0000 + UInt64(n) * 0x1_0000
      memories[0].write(GuestAddress(start), programs[n])
      var state = TinyMachine.longMode(at: start)
      state.gdtr = DescriptorTableRegister(base: 0x5000, limit: 0x17)
      state.idtr = DescriptorTableRegister(base: 0x6000, limit: 0xFFF)
      state.registers[4] = 0x9000 + UInt64(n) * 0x1000
      for (register, value) in registers[n] { state.registers[register] = value }
      try vcpu.writeState(state)
    }
    let count = vcpus.count
    let ended = WaitWord()
    let halts = Atomic<Int>(0)
    let left = Atomic<Int>(count)
    nonisolated(unsafe) let all = vcpus
    let threads = try (0..<count).map { n in
      try HostThread(name: "node/\(n)") {
        if all[n].run() == .halt { halts.add(1, ordering: .relaxed) }
        left.subtract(1, ordering: .sequentiallyConsistent)
        ended.advance()
      }
    }
    let deadline = HostClock.monotonic + 120_000_000_000
    while true {
      let seen = ended.value
      if left.load(ordering: .sequentiallyConsistent) == 0 { break }
      let rest = deadline - HostClock.monotonic
      if rest <= 0 {
        for one in coherent { one.freeze() }
        for vcpu in vcpus { vcpu.requestExit() }
      }
      ended.wait(while: seen, nanoseconds: max(rest, 100_000_000))
    }
    for thread in threads { thread.join() }
    if halts.load(ordering: .relaxed) != count { throw Stuck() }
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
