import CPU
import DeviceModel
import Glibc
import Guests
import Host
import Shm
import Synchronization
import Testing
import Translator

/// 8 MiB of RAM at 0, identity-mapped in 64-bit mode, and vCPUs of the software CPU that run on threads of their own: all of one machine, or
/// each of a process of its own that shares nothing with the others but an object with the RAM.
final class TwoCPUs: Sendable {
  let memory: GuestMemory
  let ram: RAMBlock
  let vm: TCGVirtualMachine
  let vcpus: [TCGVCPU]
  /// One for each process.
  let vms: [TCGVirtualMachine]

  enum Failure: Error { case otherType }

  private static let size = 8 << 20

  /// One process for each vCPU.
  init(processes: Int) throws {
    let layout = try #require(SharedLayout(blocks: [UInt64(Self.size)], vcpuCount: processes))
    let first = try SharedObject.create(name: nil, layout: layout)
    var parts: [(GuestMemory, RAMBlock, TCGVirtualMachine, TCGVCPU)] = []
    for n in 0..<processes {
      let object = n == 0 ? first : try SharedObject.adopt(dup(first.descriptor), layout: layout)
      let ram = try RAMBlock(name: "ram", size: Self.size, backing: .object(object, block: 0))
      let memory = GuestMemory()
      memory.engines = try SharedEngines(object)
      let (vm, vcpus) = try Self.machine(memory, ram, [UInt32(n)])
      parts.append((memory, ram, vm, vcpus[0]))
    }
    memory = parts[0].0
    ram = parts[0].1
    vm = parts[0].2
    vms = parts.map(\.2)
    vcpus = parts.map(\.3)
    Self.makePageTables(memory)
  }

  private static func machine(
    _ memory: GuestMemory, _ ram: RAMBlock, _ ids: [UInt32]
  ) throws -> (TCGVirtualMachine, [TCGVCPU]) {
    memory.setSlots([MemorySlot(guest: GuestAddress(0), size: UInt64(ram.size), block: ram)])
    let made = try TCGAccelerator(cacheBytes: 4 << 20).makeVM(
      memory: memory, cpuid: TinyMachine.cpuid)
    guard let vm = made as? TCGVirtualMachine else { throw Failure.otherType }
    let vcpus = try ids.map { id in
      let vcpu = try vm.makeVCPU(id: VCPUID(id), apicID: APICID(id), host: RecordingHost())
      guard let vcpu = vcpu as? TCGVCPU else { throw Failure.otherType }
      return vcpu
    }
    return (vm, vcpus)
  }

  private static func makePageTables(_ memory: GuestMemory) {
    memory.store(GuestAddress(0x10000), UInt64(0x11007))
    memory.store(GuestAddress(0x11000), UInt64(0x12007))
    for n in UInt64(0)..<4 { memory.store(GuestAddress(0x12000 + n * 8), n << 21 | 0x87) }
  }

  init(count: Int = 2) throws {
    memory = GuestMemory()
    ram = try RAMBlock(name: "ram", size: Self.size)
    (vm, vcpus) = try Self.machine(memory, ram, (0..<UInt32(count)).map { $0 })
    vms = [vm]
    Self.makePageTables(memory)
  }

  /// Two vCPUs in one process or in two.
  static func pair(_ processes: Int) throws -> TwoCPUs {
    processes == 1 ? try TwoCPUs() : try TwoCPUs(processes: processes)
  }

  /// Puts code at `origin` and the vCPU there, with a stack of its own. `isUser`: at privilege level 3, where HLT ends in a shutdown.
  func load(
    _ index: Int, at origin: UInt64, isUser: Bool = false, _ build: (inout Assembler) -> Void
  ) throws {
    var code = Assembler(origin: origin)
    code.mode = .bits64
    build(&code)
    memory.write(GuestAddress(origin), code.assembled())
    var state = TinyMachine.longMode(at: origin)
    state.registers[4] = 0x9000 + UInt64(index) * 0x1000
    if isUser {
      state.cs = SegmentRegister(selector: 0x1B, base: 0, limit: 0xFFFF_FFFF, attributes: 0xA0FB)
      state.ss = SegmentRegister(selector: 0x23, base: 0, limit: 0xFFFF_FFFF, attributes: 0xC0F3)
    }
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
