import CPU
import DeviceModel
import Glibc
import Guests
import Host
import Shm
import Synchronization
import Translator

/// 8 MiB of RAM at 0, identity-mapped in 64-bit mode, and vCPUs of the software CPU that run on threads of their own.
final class TwoCPUs: Sendable {
  let memory = GuestMemory()
  let ram: RAMBlock
  let vm: TCGVirtualMachine
  let vcpus: [TCGVCPU]

  enum Failure: Error { case otherType }

  init(count: Int = 2) throws {
    ram = try RAMBlock(name: "ram", size: 8 << 20)
    memory.setSlots([MemorySlot(guest: GuestAddress(0), size: 8 << 20, block: ram)])
    let made = try TCGAccelerator(cacheBytes: 4 << 20).makeVM(
      memory: memory, cpuid: TinyMachine.cpuid)
    guard let vm = made as? TCGVirtualMachine else { throw Failure.otherType }
    self.vm = vm
    vcpus = try (0..<count).map { n in
      let vcpu = try vm.makeVCPU(
        id: VCPUID(UInt32(n)), apicID: APICID(UInt32(n)), host: RecordingHost())
      guard let vcpu = vcpu as? TCGVCPU else { throw Failure.otherType }
      return vcpu
    }
    memory.store(GuestAddress(0x10000), UInt64(0x11007))
    memory.store(GuestAddress(0x11000), UInt64(0x12007))
    for n in UInt64(0)..<4 { memory.store(GuestAddress(0x12000 + n * 8), n << 21 | 0x87) }
  }

  /// Puts code at `origin` and the vCPU there, with a stack of its own.
  func load(_ index: Int, at origin: UInt64, _ build: (inout Assembler) -> Void) throws {
    var code = Assembler(origin: origin)
    code.mode = .bits64
    build(&code)
    memory.write(GuestAddress(origin), code.assembled())
    var state = TinyMachine.longMode(at: origin)
    state.registers[4] = 0x9000 + UInt64(index) * 0x1000
    try vcpus[index].writeState(state)
  }

  /// Starts a vCPU; its thread ends with HLT.
  func start(_ index: Int) throws -> HostThread {
    let vcpu = vcpus[index]
    return try HostThread(name: "test-vcpu\(index)") { _ = vcpu.run() }
  }

  /// What is in RAM, rights or no rights.
  func raw(_ address: UInt64) -> UInt64 {
    ram.base.load(fromByteOffset: Int(address), as: UInt64.self)
  }
}

/// Waits until a condition holds that another thread brings about; false after a minute.
func waitUntil(_ condition: () -> Bool) -> Bool {
  let end = HostClock.monotonic + 60_000_000_000
  while !condition() {
    if HostClock.monotonic > end { return false }
    _ = sched_yield()
  }
  return true
}
