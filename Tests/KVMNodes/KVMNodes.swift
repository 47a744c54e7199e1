package import CPU
import Cluster
import DeviceModel
import Guests
package import Host
package import KVM
package import Shm
import Synchronization

/// Nodes of one process with a vCPU of KVM each, whose memory is coherent over links within the process and opened to the guest by
/// userfaultfd. 4 MiB at 0, identity-mapped in 64-bit mode, no devices.
package final class KVMNodes {
  /// A vCPU did not come to its HLT.
  package struct Stuck: Error {
    package var ends: [String]
  }
  private static let size = 4 << 20

  private let network: InMemoryNetwork
  package let memories: [GuestMemory]
  package let coherent: [CoherentMemory]
  package let mappings: [CoherentMapping]
  private let vms: [any VirtualMachine]
  private let vcpus: [any VCPU]
  private let failures = Mutex<[String]>([])

  package init(_ count: Int) throws {
    network = InMemoryNetwork(nodeCount: count)
    var memories: [GuestMemory] = []
    var coherent: [CoherentMemory] = []
    var mappings: [CoherentMapping] = []
    var vms: [any VirtualMachine] = []
    var vcpus: [any VCPU] = []
    for n in 0..<count {
      let ram = try RAMBlock(name: "ram", size: Self.size, backing: .memfd)
      let memory = GuestMemory()
      memory.setSlots([MemorySlot(guest: GuestAddress(0), size: UInt64(Self.size), block: ram)])
      let regions = [
        CoherentMemory.Region(guest: GuestAddress(0), size: UInt64(Self.size), block: ram)
      ]
      mappings.append(try CoherentMapping(memory, regions: regions, vcpus: 1))
      coherent.append(
        try CoherentMemory(
          memory: memory, regions: regions, transport: network[n],
          homes: HomeMap(.block, nodeCount: count, bytes: UInt64(Self.size))))
      let vm = try KVMAccelerator(probe: false).makeVM(memory: memory, cpuid: GuestRun.cpuid)
      (vm as? KVMVirtualMachine)?.attach(mappings[n])
      vms.append(vm)
      // Each machine has one vCPU of its own.
      vcpus.append(try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: NoDevices()))
      memories.append(memory)
    }
    (self.memories, self.coherent, self.mappings) = (memories, coherent, mappings)
    (self.vms, self.vcpus) = (vms, vcpus)
    try network.start()
    for one in coherent { try one.start() }
    for one in mappings { try one.start() }
    let memory = memories[0]
    memory.store(GuestAddress(0x10000), UInt64(0x11027))
    memory.store(GuestAddress(0x11000), UInt64(0x12027))
    for n in UInt64(0)..<8 { memory.store(GuestAddress(0x12000 + n * 8), n << 21 | 0xE7) }
  }

  /// Runs a program on each node to its HLT, none where it is empty; nanoseconds. `registers`: by number.
  @discardableResult
  package func run(
    _ programs: [[UInt8]], _ registers: [[Int: UInt64]], seconds: Int64 = 60
  ) throws -> Int64 {
    for (n, vcpu) in vcpus.enumerated() where !programs[n].isEmpty {
      let start = 0x2_0000 + UInt64(n) * 0x1_0000
      memories[0].write(GuestAddress(start), programs[n])
      var state = Self.longMode(at: start)
      state.registers[4] = 0x9000 + UInt64(n) * 0x1000
      for (register, value) in registers[n] { state.registers[register] = value }
      try vcpu.writeState(state)
    }
    let running = vcpus.indices.filter { !programs[$0].isEmpty }
    let count = running.count
    let ended = WaitWord()
    let ends = Mutex<[String]>([])
    nonisolated(unsafe) let all = vcpus
    let start = HostClock.monotonic
    let deadline = start + seconds * 1_000_000_000
    let threads = try running.map { n in
      try HostThread(name: "kvm/\(n)") {
        var end = "late"
        while HostClock.monotonic < deadline {
          let exit = all[n].run()
          if case .interrupted = exit { continue }
          end = "\(exit)"
          break
        }
        ends.withLock { $0.append(end) }
        ended.advance()
      }
    }
    var finish = start
    while true {
      let seen = ended.value
      finish = HostClock.monotonic
      if ends.withLock({ $0.count }) == count { break }
      if finish > deadline {
        for vcpu in vcpus { vcpu.requestExit() }
      }
      ended.wait(while: seen, nanoseconds: max(deadline - finish, 10_000_000))
    }
    for thread in threads { thread.join() }
    let all2 = ends.withLock { $0 }
    if all2.contains(where: { $0 != "halt" }) { throw Stuck(ends: all2) }
    return finish - start
  }

  package func word(_ address: UInt64) -> UInt32 {
    memories[0].load(GuestAddress(address)) ?? 0xDEAD
  }
  package func long(_ address: UInt64) -> UInt64 {
    memories[0].load(GuestAddress(address)) ?? 0xDEAD
  }

  /// Puts the time-stamp counters of all nodes where node 0's is, less as many ticks as it says for each.
  package func setCounters(behind ticks: [UInt64]) {
    guard let offset = vms[0].counterOffset else { return }
    for (n, vm) in vms.enumerated() { vm.counterOffset = offset &- ticks[n] }
  }

  package func end() {
    for one in mappings { one.stop() }
    network.shutDown()
    for one in coherent { one.stop() }
  }

  private static func longMode(at rip: UInt64) -> CPUState {
    var state = CPUState.reset(signature: 0)
    state.cr0 = 0x8005_0031
    state.cr3 = 0x10000
    state.cr4 = 0x6A0
    state.efer = 0xD01
    state.cs = SegmentRegister(selector: 8, base: 0, limit: 0xFFFF_FFFF, attributes: 0xA09B)
    let data = SegmentRegister(selector: 16, base: 0, limit: 0xFFFF_FFFF, attributes: 0xC093)
    (state.ss, state.ds, state.es, state.fs, state.gs) = (data, data, data, data, data)
    state.idtr = DescriptorTableRegister(base: 0, limit: 0)
    state.rip = rip
    return state
  }
}
