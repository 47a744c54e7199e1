import CPU
import DeviceModel
import Guests
import KVM
import Shm
import Synchronization
import Testing

/// A machine whose devices answer nothing.
private final class SilentHost: VCPUHost {
  private let priority = Mutex<UInt8>(0)
  func readPort(_ port: UInt16, width: Int) -> UInt32 { ~0 }
  func writePort(_ port: UInt16, width: Int, _ value: UInt32) {}
  func readMemory(_ address: GuestAddress, width: Int) -> UInt64 { ~0 }
  func writeMemory(_ address: GuestAddress, width: Int, _ value: UInt64) {}
  func readMSR(_ index: UInt32) -> UInt64? { nil }
  func writeMSR(_ index: UInt32, _ value: UInt64) -> Bool { false }
  var taskPriority: UInt8 {
    get { priority.withLock { $0 } }
    set { priority.withLock { $0 = newValue } }
  }
  var isA20Enabled: Bool { true }
}

@Suite(.enabled(if: OwnKVM.isThere, "needs /dev/kvm")) struct StateTests {
  /// A machine with 64 KiB of RAM.
  private func makeVM() throws -> (any VirtualMachine, GuestMemory) {
    let memory = GuestMemory()
    let block = try RAMBlock(name: "ram", size: 65536)
    memory.setSlots([MemorySlot(guest: GuestAddress(0), size: 65536, block: block)])
    return (
      try KVMAccelerator(probe: false).makeVM(memory: memory, cpuid: GuestRun.cpuid), memory
    )
  }

  @Test func newVCPUIsInTheStateAfterReset() throws {
    let (vm, _) = try makeVM()
    let vcpu = try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: SilentHost())
    let state = try vcpu.readState()
    let expected = CPUState.reset(signature: 0x80_0F12)
    #expect(state.rip == 0xFFF0)
    #expect(state.cs == expected.cs)
    #expect(state.registers == expected.registers)
    #expect(state.cr0 == expected.cr0)
    #expect(state.msrs[0x277] == expected.msrs[0x277])
  }

  @Test func writtenStateIsReadBack() throws {
    let (vm, _) = try makeVM()
    let vcpu = try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: SilentHost())
    var state = try vcpu.readState()
    state.registers = (0..<16).map { 0x1111_0000_0000 + UInt64($0) }
    state.rip = 0x1234
    state.rflags = 0x202
    state.ds = SegmentRegister(selector: 0x123, base: 0x1230, limit: 0xFFFF, attributes: 0x93)
    state.gdtr = DescriptorTableRegister(base: 0x4000, limit: 0x77)
    state.cr2 = 0xABCD_E000
    state.debugAddresses = [0x10, 0x20, 0x30, 0x40]
    state.msrs[0xC000_0082] = 0xFFFF_8000_1234_5678
    state.xsave[160] = 0x5A  // XMM0
    // The components in use: x87 and SSE.
    state.xsave[512] = 3
    state.pendingInterrupt = 0x55
    try vcpu.writeState(state)
    let back = try vcpu.readState()
    #expect(back.registers == state.registers)
    #expect(back.rip == 0x1234)
    #expect(back.rflags == 0x202)
    #expect(back.ds == state.ds)
    #expect(back.gdtr == state.gdtr)
    #expect(back.cr2 == state.cr2)
    #expect(back.debugAddresses == state.debugAddresses)
    #expect(back.msrs[0xC000_0082] == 0xFFFF_8000_1234_5678)
    #expect(back.xsave[160] == 0x5A)
    #expect(back.pendingInterrupt == 0x55)
  }

  @Test func registersThatAStateDoesNotNameAreReset() throws {
    let (vm, _) = try makeVM()
    let vcpu = try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: SilentHost())
    var state = try vcpu.readState()
    state.msrs[0xC000_0082] = 0x1000
    try vcpu.writeState(state)
    try vcpu.writeState(CPUState.reset(signature: 0))
    #expect(try vcpu.readState().msrs[0xC000_0082] == 0)
  }

  @Test func halfwayAccessIsFinishedBeforeTheStateIsRead() throws {
    let (vm, memory) = try makeVM()
    // in al, 0x10; hlt
    memory.write(GuestAddress(0x1000), [0xE4, 0x10, 0xF4])
    let host = KickingHost()
    let vcpu = try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: host)
    host.target.withLock { $0 = vcpu }
    var state = CPUState.reset(signature: 0)
    state.cs = SegmentRegister()
    state.rip = 0x1000
    try vcpu.writeState(state)
    #expect(vcpu.run() == .interrupted)
    let after = try vcpu.readState()
    #expect(after.rip == 0x1002)
    #expect(after.registers[0] & 0xFF == 0x77)
    #expect(vcpu.run() == .halt)
    #expect(vcpu.run() == .halt, "HLT lasts")
    host.target.withLock { $0 = nil }
  }

  @Test func requestBeforeRunIsNotLost() throws {
    let (vm, memory) = try makeVM()
    memory.write(GuestAddress(0x1000), [0xEB, 0xFE])  // jmp to itself
    let vcpu = try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: SilentHost())
    var state = CPUState.reset(signature: 0)
    state.cs = SegmentRegister()
    state.rip = 0x1000
    try vcpu.writeState(state)
    vcpu.requestExit()
    #expect(vcpu.run() == .interrupted)
  }

  @Test func countersOfAllVCPUsAgree() throws {
    let (vm, _) = try makeVM()
    let first = try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: SilentHost())
    let second = try vm.makeVCPU(id: VCPUID(1), apicID: APICID(1), host: SilentHost())
    #expect(vm.tscFrequency > 100_000_000)
    let a = first.timeStampCounter
    let b = second.timeStampCounter
    let c = first.timeStampCounter
    #expect(a <= b)
    #expect(b <= c)
  }

  @Test func dirtyLogNamesThePagesThatTheGuestWrote() throws {
    let (vm, memory) = try makeVM()
    // mov [0x3000], al; mov [0x5000], al; hlt
    memory.write(GuestAddress(0x1000), [0xA2, 0x00, 0x30, 0xA2, 0x00, 0x50, 0xF4])
    let vcpu = try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: SilentHost())
    var state = CPUState.reset(signature: 0)
    state.cs = SegmentRegister()
    state.rip = 0x1000
    try vcpu.writeState(state)
    let machine = try #require(vm as? KVMVirtualMachine)
    try machine.setDirtyLogging(true)
    #expect(vcpu.run() == .halt)
    var pages: [UInt64] = []
    try machine.takeDirtyPages { pages.append($0.rawValue) }
    #expect(pages == [0x3000, 0x5000])
    pages = []
    try machine.takeDirtyPages { pages.append($0.rawValue) }
    #expect(pages.isEmpty)
    try machine.setDirtyLogging(false)
  }
}

/// Asks the vCPU to leave in the midst of an access.
private final class KickingHost: VCPUHost {
  let target = Mutex<(any VCPU)?>(nil)
  func readPort(_ port: UInt16, width: Int) -> UInt32 {
    target.withLock { $0 }?.requestExit()
    return 0x77
  }
  func writePort(_ port: UInt16, width: Int, _ value: UInt32) {}
  func readMemory(_ address: GuestAddress, width: Int) -> UInt64 { ~0 }
  func writeMemory(_ address: GuestAddress, width: Int, _ value: UInt64) {}
  func readMSR(_ index: UInt32) -> UInt64? { nil }
  func writeMSR(_ index: UInt32, _ value: UInt64) -> Bool { false }
  var taskPriority: UInt8 {
    get { 0 }
    set { _ = newValue }
  }
  var isA20Enabled: Bool { true }
}
