import CPU
import DeviceModel
import Host
import Shm
import Synchronization

/// A guest of several vCPUs that each run a program to its HLT: 4 MiB at 0 and more, identity-mapped in 64-bit mode, with a handler of #BP.
struct LitmusGuest {
  /// A vCPU did not come to its HLT in two minutes.
  struct Stuck: Error {}

  /// Where programs and tables go; what is written there must be seen by every vCPU.
  let memory: GuestMemory
  let vcpus: [any VCPU]

  init(_ memory: GuestMemory, _ vcpus: [any VCPU]) {
    (self.memory, self.vcpus) = (memory, vcpus)
    memory.store(GuestAddress(0x10000), UInt64(0x11007))
    memory.store(GuestAddress(0x11000), UInt64(0x12007))
    for n in UInt64(0)..<8 { memory.store(GuestAddress(0x12000 + n * 8), n << 21 | 0x87) }
    memory.store(GuestAddress(0x5008), UInt64(0x00AF_9B00_0000_FFFF))
    memory.store(GuestAddress(0x5010), UInt64(0x00CF_9300_0000_FFFF))
    memory.store(GuestAddress(0x6000 + 3 * 16), UInt64(0x0000_8E00_0008_7000))
    memory.write(GuestAddress(0x7000), LitmusPrograms.breakpoint)
  }

  /// Runs a program on each vCPU, at the same time, from these registers on. `late` is called when they take too long, before they are asked to leave.
  func run(
    _ programs: [[UInt8]], _ registers: [[Int: UInt64]], late: () -> Void = {}
  ) throws {
    for (n, vcpu) in vcpus.enumerated() {
      let start = 0x2_0000 + UInt64(n) * 0x1_0000
      memory.write(GuestAddress(start), programs[n])
      var state = TinyMachine.longMode(at: start)
      state.gdtr = DescriptorTableRegister(base: 0x5000, limit: 0x17)
      state.idtr = DescriptorTableRegister(base: 0x6000, limit: 0xFFF)
      state.registers[4] = 0x9000 + UInt64(n) * 0x1000
      for (register, value) in registers[n] { state.registers[register] = value }
      try vcpu.writeState(state)
    }
    let ended = WaitWord()
    let halts = Atomic<Int>(0)
    let left = Atomic<Int>(vcpus.count)
    nonisolated(unsafe) let all = vcpus
    let threads = try all.indices.map { n in
      try HostThread(name: "litmus/\(n)") {
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
        late()
        for vcpu in vcpus { vcpu.requestExit() }
      }
      ended.wait(while: seen, nanoseconds: max(rest, 100_000_000))
    }
    for thread in threads { thread.join() }
    if halts.load(ordering: .relaxed) != vcpus.count { throw Stuck() }
  }
}
