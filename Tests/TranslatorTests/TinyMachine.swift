import CPU
import DeviceModel
import Shm
import Synchronization
import Translator

/// RAM from address 0, a host that records ports, and one vCPU of the software CPU: code is put somewhere and run to its HLT.
final class TinyMachine {
  let memory = GuestMemory()
  let host: RecordingHost
  let vcpu: any VCPU
  private let vm: any VirtualMachine

  /// AMD64 with what the tests use.
  static let cpuid = CPUIDTable([
    CPUIDTable.Entry(0, eax: 0xD, ebx: 0x6874_7541, ecx: 0x444D_4163, edx: 0x6974_6E65),
    CPUIDTable.Entry(1, eax: 0x0080_0F12, ebx: 0x0800, ecx: 0xFFD8_3203 & ~8, edx: 0x0788_AB7F),
    CPUIDTable.Entry(7, subleaf: 0, ebx: 0x0018_0529),
    CPUIDTable.Entry(0xD, subleaf: 0, eax: 7, ebx: 832, ecx: 832),
    CPUIDTable.Entry(0x8000_0000, eax: 0x8000_0008),
    CPUIDTable.Entry(0x8000_0001, eax: 0x0080_0F12, ecx: 0x21, edx: 0x2C10_0800),
    CPUIDTable.Entry(0x8000_0008, eax: 0x3028),
  ])

  init(megabytes: Int = 4, tuning: TranslatorTuning = TranslatorTuning()) throws {
    let ram = try RAMBlock(name: "ram", size: megabytes << 20)
    memory.setSlots([MemorySlot(guest: GuestAddress(0), size: UInt64(megabytes) << 20, block: ram)])
    host = RecordingHost()
    vm = try TCGAccelerator(cacheBytes: 1 << 20, tuning: tuning).makeVM(
      memory: memory, cpuid: TinyMachine.cpuid)
    vcpu = try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: host)
  }

  /// Flat 64-bit mode at CPL 0, the first 4 MiB mapped onto themselves, page tables at 0x10000 to 0x12FFF.
  static func longMode(at rip: UInt64) -> CPUState {
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
    state.registers[4] = 0x9000
    return state
  }

  /// Flat 32-bit protected mode without paging.
  static func protectedMode(at rip: UInt64) -> CPUState {
    var state = longMode(at: rip)
    state.cr0 = 0x11
    state.cr4 = 0
    state.efer = 0
    state.cs.attributes = 0xC09B
    return state
  }

  /// Tables for `longMode`: 2 MiB pages.
  func makePageTables() {
    memory.store(GuestAddress(0x10000), UInt64(0x11007))
    memory.store(GuestAddress(0x11000), UInt64(0x12007))
    for n in UInt64(0)..<8 { memory.store(GuestAddress(0x12000 + n * 8), n << 21 | 0x87) }
  }

  /// Puts code at `state.rip` and runs until HLT or shutdown.
  @discardableResult
  func run(_ code: [UInt8], from state: CPUState) throws -> (exit: VMExit, state: CPUState) {
    memory.write(GuestAddress(state.cs.base + state.rip), code)
    try vcpu.writeState(state)
    let exit = vcpu.run()
    return (exit, try vcpu.readState())
  }
}

/// Answers nothing, records port writes.
final class RecordingHost: VCPUHost {
  struct PortWrite: Equatable {
    var port: UInt16
    var value: UInt32
  }
  private let state = Mutex<(writes: [PortWrite], priority: UInt8)>(([], 0))

  var writes: [PortWrite] { state.withLock { $0.writes } }
  func readPort(_ port: UInt16, width: Int) -> UInt32 { UInt32(port) }
  func writePort(_ port: UInt16, width: Int, _ value: UInt32) {
    state.withLock { $0.writes.append(PortWrite(port: port, value: value)) }
  }
  func readMemory(_ address: GuestAddress, width: Int) -> UInt64 { UInt64.max }
  func writeMemory(_ address: GuestAddress, width: Int, _ value: UInt64) {}
  func readMSR(_ index: UInt32) -> UInt64? { nil }
  func writeMSR(_ index: UInt32, _ value: UInt64) -> Bool { false }
  var taskPriority: UInt8 {
    get { state.withLock { $0.priority } }
    set { state.withLock { $0.priority = newValue } }
  }
  private let a20 = Atomic<Bool>(true)
  var isA20Enabled: Bool { a20.load(ordering: .relaxed) }
  func setA20(_ enabled: Bool) { a20.store(enabled, ordering: .relaxed) }
}
