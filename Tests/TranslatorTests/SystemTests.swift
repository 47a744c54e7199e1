import CPU
import DeviceModel
import Shm
import Testing
import Translator

/// Segments, gates, tasks, debug registers: the parts of the processor that operating systems use.
@Suite struct SystemTests {
  /// A protected-mode machine with a GDT at 0x5000, an IDT at 0x6000, handlers at 0x3000 + 0x40 * vector that write the vector to AL and
  /// halt. Selectors: 8 code, 0x10 data, 0x18 user code, 0x20 user data, 0x28 and 0x30 task state segments, 0x38 call gate.
  private func protectedMachine() throws -> (TinyMachine, CPUState) {
    let machine = try TinyMachine()
    let memory = machine.memory
    let descriptors: [UInt64] = [
      0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_FB00_0000_FFFF,
      0x00CF_F300_0000_FFFF, 0x0000_8B00_7000_0067, 0x0000_8900_7100_0067,
      0x0000_EC01_0008_4000,  // call gate, DPL 3, one parameter, to 8:0x4000
      0x0000_8500_0030_0000,  // task gate
    ]
    for (n, value) in descriptors.enumerated() {
      memory.store(GuestAddress(0x5000 + UInt64(n) * 8), value)
    }
    for vector in UInt64(0)..<32 {
      let handler = 0x3000 + vector * 0x40
      // Trap gate, DPL 3 for 3 and 4.
      let attributes: UInt64 = vector == 3 || vector == 4 ? 0xEF00 : 0x8F00
      memory.store(
        GuestAddress(0x6000 + vector * 8), handler & 0xFFFF | 8 << 16 | attributes << 32)
      memory.write(GuestAddress(handler), [0xB0, UInt8(vector), 0xF4])
    }
    var state = TinyMachine.protectedMode(at: 0x1000)
    state.gdtr = DescriptorTableRegister(base: 0x5000, limit: 0x47)
    state.idtr = DescriptorTableRegister(base: 0x6000, limit: 0xFF)
    state.tr = SegmentRegister(selector: 0x28, base: 0x7000, limit: 0x67, attributes: 0x8B)
    // Ring 0 stack of the first task: 0x10:0x8800.
    memory.store(GuestAddress(0x7004), UInt32(0x8800))
    memory.store(GuestAddress(0x7008), UInt32(0x10))
    return (machine, state)
  }

  private func user(_ state: CPUState) -> CPUState {
    var state = state
    state.cs = SegmentRegister(
      selector: 0x1B, base: 0, limit: 0xFFFF_FFFF, attributes: 0xC0FB)
    let data = SegmentRegister(selector: 0x23, base: 0, limit: 0xFFFF_FFFF, attributes: 0xC0F3)
    (state.ss, state.ds, state.es) = (data, data, data)
    state.registers[4] = 0x9000
    return state
  }

  private func stack(_ machine: TinyMachine, _ at: UInt64, _ count: Int) -> [UInt32] {
    (0..<count).map { machine.memory.load(GuestAddress(at + UInt64($0) * 4)) ?? 0 }
  }

  @Test func exceptionFromUserModeSwitchesStacks() throws {
    let (machine, state) = try protectedMachine()
    let (exit, after) = try machine.run([0xF4], from: user(state))  // HLT at CPL 3: #GP(0)
    #expect(exit == .halt)
    #expect(after.registers[0] & 0xFF == 13)
    #expect(after.cs.selector == 8 && after.ss.selector == 0x10)
    #expect(after.registers[4] == 0x8800 - 24)
    let frame = stack(machine, after.registers[4], 6)
    #expect(frame[0] == 0)
    #expect(frame[1] == 0x1000)
    #expect(frame[2] == 0x1B)
    #expect(frame[3] & 0x1_0000 != 0, "RF is set in a fault's image")
    #expect(frame[4] == 0x9000)
    #expect(frame[5] == 0x23)
  }

  @Test func softwareInterruptChecksTheGatesPrivilege() throws {
    let (machine, state) = try protectedMachine()
    let (_, after) = try machine.run([0xCD, 0x05], from: user(state))
    #expect(after.registers[0] & 0xFF == 13)
    #expect(stack(machine, after.registers[4], 2) == [5 * 8 + 2, 0x1000])
    let (_, breakpoint) = try machine.run([0xCC], from: user(state))
    #expect(breakpoint.registers[0] & 0xFF == 3)
    #expect(stack(machine, breakpoint.registers[4], 1) == [0x1001])
  }

  @Test func interruptReturnGoesBackToUserMode() throws {
    let (machine, state) = try protectedMachine()
    // push 0x23; push 0x9000; push 0x202; push 0x1B; push 0x2000; iret
    machine.memory.write(GuestAddress(0x2000), [0xCC])
    let (_, after) = try machine.run(
      [
        0x6A, 0x23, 0x68, 0, 0x90, 0, 0, 0x68, 2, 2, 0, 0, 0x6A, 0x1B, 0x68, 0, 0x20, 0, 0, 0xCF,
      ], from: state)
    #expect(after.registers[0] & 0xFF == 3)
    #expect(stack(machine, after.registers[4], 5) == [0x2001, 0x1B, 0x202, 0x9000, 0x23])
    #expect(after.ds.attributes == 0, "data segments of the inner level became null")
  }

  @Test func callGateCopiesParametersToTheInnerStack() throws {
    let (machine, state) = try protectedMachine()
    machine.memory.write(GuestAddress(0x4000), [0xF4])
    // push 0x1234; call 0x38:0
    let (exit, after) = try machine.run(
      [0x68, 0x34, 0x12, 0, 0, 0x9A, 0, 0, 0, 0, 0x3B, 0], from: user(state))
    #expect(exit == .halt)
    #expect(after.rip == 0x4001)
    #expect(after.cs.selector == 8)
    #expect(stack(machine, after.registers[4], 5) == [0x100C, 0x1B, 0x1234, 0x8FFC, 0x23])
  }

  @Test func farReturnReleasesParametersOnBothStacks() throws {
    let (machine, state) = try protectedMachine()
    machine.memory.write(GuestAddress(0x4000), [0xCA, 0x04, 0x00])  // retf 4
    let (_, after) = try machine.run(
      [0x68, 0x34, 0x12, 0, 0, 0x9A, 0, 0, 0, 0, 0x3B, 0, 0xCC], from: user(state))
    #expect(after.registers[0] & 0xFF == 3)
    #expect(stack(machine, after.registers[4], 5)[3...] == [0x9000, 0x23])
  }

  @Test func taskSwitchSavesAndLoads() throws {
    let (machine, state) = try protectedMachine()
    let tss: [(UInt64, UInt32)] = [
      (0x20, 0x4000), (0x24, 0x2), (0x28, 0xAAAA), (0x38, 0x8000), (0x48, 0x10), (0x4C, 8),
      (0x50, 0x10), (0x54, 0x10),
    ]
    for (offset, value) in tss { machine.memory.store(GuestAddress(0x7100 + offset), value) }
    machine.memory.write(GuestAddress(0x4000), [0xCF])  // iret to the first task
    var from = state
    from.registers[3] = 0x5555
    // call 0x40:0 (task gate); hlt
    let (exit, after) = try machine.run([0x9A, 0, 0, 0, 0, 0x40, 0, 0xF4], from: from)
    #expect(exit == .halt)
    #expect(after.tr.selector == 0x28)
    #expect(after.registers[3] == 0x5555)
    #expect(after.cr0 & 8 != 0, "CR0.TS is set")
    #expect(machine.memory.load(GuestAddress(0x7100), as: UInt16.self) == 0x28, "back link")
    #expect(machine.memory.load(GuestAddress(0x5035), as: UInt8.self) == 0x89, "no longer busy")
    #expect(machine.memory.load(GuestAddress(0x7120), as: UInt32.self) == 0x4001)
  }

  @Test func notPresentSegmentRaisesItsSelector() throws {
    let (machine, state) = try protectedMachine()
    machine.memory.store(GuestAddress(0x5020), UInt64(0x00CF_7300_0000_FFFF))
    // mov eax, 0x20; mov ds, ax
    let (_, after) = try machine.run([0xB8, 0x20, 0, 0, 0, 0x8E, 0xD8], from: state)
    #expect(after.registers[0] & 0xFF == 11)
    #expect(stack(machine, after.registers[4], 2) == [0x20, 0x1005])
  }

  @Test func faultWhileDeliveringIsADoubleFault() throws {
    let (machine, state) = try protectedMachine()
    // #GP's gate is not present: #NP while delivering #GP.
    machine.memory.store(GuestAddress(0x6000 + 13 * 8), UInt64(0))
    let (exit, after) = try machine.run([0x66, 0xB8, 0x50, 0, 0x8E, 0xD8], from: state)
    #expect(exit == .halt)
    #expect(after.registers[0] & 0xFF == 8)
    #expect(stack(machine, after.registers[4], 1) == [0])
  }

  @Test func singleStepTrapsAfterTheInstruction() throws {
    let (machine, state) = try protectedMachine()
    // pushf; or dword [esp], 0x100; popf; nop; nop: the trap comes after the first instruction behind POPF
    let (_, after) = try machine.run(
      [0x9C, 0x81, 0x0C, 0x24, 0, 1, 0, 0, 0x9D, 0x90, 0x90], from: state)
    #expect(after.registers[0] & 0xFF == 1)
    #expect(stack(machine, after.registers[4], 1) == [0x100A])
    #expect(after.dr6 & 0x4000 != 0)
  }

  @Test func dataBreakpointTrapsBehindTheStore() throws {
    let (machine, state) = try protectedMachine()
    var from = state
    from.debugAddresses[0] = 0x20000
    from.dr7 = 0x401 | 0xD << 16  // 4 bytes, writes
    from.registers[3] = 0x20002
    // mov cl,[ebx]; mov [ebx], cl; nop
    let (_, after) = try machine.run([0x8A, 0x0B, 0x88, 0x0B, 0x90], from: from)
    #expect(after.registers[0] & 0xFF == 1)
    #expect(stack(machine, after.registers[4], 1) == [0x1004])
    #expect(after.dr6 & 1 == 1)
  }

  @Test func instructionBreakpointFaultsBeforeTheInstruction() throws {
    let (machine, state) = try protectedMachine()
    var from = state
    from.debugAddresses[1] = 0x1001
    from.dr7 = 0x404
    let (_, after) = try machine.run([0x90, 0x90, 0x90], from: from)
    #expect(after.registers[0] & 0xFF == 1)
    #expect(stack(machine, after.registers[4], 1) == [0x1001])
    #expect(after.dr6 & 2 == 2)
  }

  @Test func virtual8086InterruptEntersTheMonitor() throws {
    let (machine, state) = try protectedMachine()
    var from = state
    from.rflags = 0x2_3002  // VM, IOPL 3
    from.cs = SegmentRegister(selector: 0x100, base: 0x1000, limit: 0xFFFF, attributes: 0xF3)
    let data = SegmentRegister(selector: 0x200, base: 0x2000, limit: 0xFFFF, attributes: 0xF3)
    (from.ss, from.ds, from.es, from.fs, from.gs) = (data, data, data, data, data)
    from.rip = 0
    from.registers[4] = 0x800
    let (_, after) = try machine.run([0xCC], from: from)  // int3
    #expect(after.registers[0] & 0xFF == 3)
    #expect(after.registers[4] == 0x8800 - 36)
    let frame = stack(machine, after.registers[4], 9)
    #expect(frame[0] == 1 && frame[1] == 0x100)
    #expect(frame[2] & 0x2_0000 != 0)
    #expect(Array(frame[3...]) == [0x800, 0x200, 0x200, 0x200, 0x200, 0x200])
  }

  @Test func interruptsWaitForTheInstructionAfterSTI() throws {
    let (machine, state) = try protectedMachine()
    machine.memory.store(
      GuestAddress(0x6000 + 31 * 8), UInt64(0x3000 + 31 * 0x40) | 8 << 16 | 0x8E00 << 32)
    machine.memory.write(GuestAddress(0x1000), [0xFB, 0x90, 0x90, 0xF4])  // sti; nop; nop; hlt
    try machine.vcpu.writeState(state)
    machine.vcpu.wantsInterruptWindow = true
    #expect(!machine.vcpu.canAcceptInterrupt)
    #expect(machine.vcpu.run() == .interruptWindow)
    #expect(try machine.vcpu.readState().rip == 0x1002)
    machine.vcpu.wantsInterruptWindow = false
    machine.vcpu.inject(vector: 31)
    #expect(machine.vcpu.run() == .halt)
    let after = try machine.vcpu.readState()
    #expect(after.registers[0] & 0xFF == 31)
    #expect(after.rflags & 0x200 == 0)
  }

  @Test func pagingChecksRights() throws {
    let machine = try TinyMachine()
    machine.makePageTables()
    // Page table at 0x13000 for the third 2 MiB: page 0 read-only supervisor, page 1 user, page 2 no-execute, page 3 absent.
    machine.memory.store(GuestAddress(0x12010), UInt64(0x13007))
    // Code and stack are the supervisor's, for SMAP.
    machine.memory.store(GuestAddress(0x12000), UInt64(0x83))
    let pages: [UInt64] = [0x30_0001, 0x30_1007, 0x8000_0000_0030_2003, 0]
    for (n, value) in pages.enumerated() {
      machine.memory.store(GuestAddress(0x13000 + UInt64(n) * 8), value)
    }
    machine.memory.store(GuestAddress(0x5008), UInt64(0x00AF_9B00_0000_FFFF))
    machine.memory.store(GuestAddress(0x5010), UInt64(0x00CF_9300_0000_FFFF))
    machine.memory.store(GuestAddress(0x6000 + 14 * 16), UInt64(0x0000_8E00_0008_3000))
    machine.memory.write(GuestAddress(0x3000), [0x5B, 0xF4])  // pop rbx; hlt
    var state = TinyMachine.longMode(at: 0x1000)
    state.gdtr = DescriptorTableRegister(base: 0x5000, limit: 0x17)
    state.idtr = DescriptorTableRegister(base: 0x6000, limit: 0xFFF)
    func code(_ bytes: [UInt8], at address: UInt64, smap: Bool = false) throws -> UInt64? {
      var from = state
      from.registers[6] = address
      from.registers[3] = 0x77
      if smap { from.cr4 |= 1 << 21 }
      let (_, after) = try machine.run(bytes + [0xF4], from: from)
      return after.registers[3] == 0x77 ? nil : after.registers[3]
    }
    #expect(try code([0x89, 0x06], at: 0x40_0000) == 3, "write to read-only with WP")
    #expect(try code([0x8B, 0x06], at: 0x40_0000) == nil)
    #expect(try code([0x8B, 0x06], at: 0x40_1000) == nil)
    #expect(machine.memory.load(GuestAddress(0x13008), as: UInt64.self) == 0x30_1027, "accessed")
    #expect(try code([0x89, 0x06], at: 0x40_1000) == nil)
    #expect(machine.memory.load(GuestAddress(0x13008), as: UInt64.self) == 0x30_1067, "dirty")
    #expect(try code([0xFF, 0xE6], at: 0x40_2000) == 0x11, "fetch from no-execute")
    #expect(try code([0x8B, 0x06], at: 0x40_3000) == 0)
    #expect(try code([0x8B, 0x06], at: 0x40_1000, smap: true) == 1, "SMAP")
    #expect(try code([0x0F, 0x01, 0xCB, 0x8B, 0x06], at: 0x40_1000, smap: true) == nil, "STAC")
  }

  @Test func reservedBitsInEntriesFault() throws {
    let machine = try TinyMachine()
    machine.makePageTables()
    machine.memory.store(GuestAddress(0x12010), UInt64(0x0008_0000_0040_0087))
    machine.memory.store(GuestAddress(0x5008), UInt64(0x00AF_9B00_0000_FFFF))
    machine.memory.store(GuestAddress(0x5010), UInt64(0x00CF_9300_0000_FFFF))
    machine.memory.store(GuestAddress(0x6000 + 14 * 16), UInt64(0x0000_8E00_0008_3000))
    machine.memory.write(GuestAddress(0x3000), [0x5B, 0xF4])
    var state = TinyMachine.longMode(at: 0x1000)
    state.gdtr = DescriptorTableRegister(base: 0x5000, limit: 0x17)
    state.idtr = DescriptorTableRegister(base: 0x6000, limit: 0xFFF)
    state.registers[6] = 0x40_0000
    let (_, after) = try machine.run([0x8B, 0x06, 0xF4], from: state)
    #expect(after.registers[3] == 9)
  }

  @Test func oneInstructionIsExecutedForAnotherVCPU() throws {
    let machine = try TinyMachine()
    machine.makePageTables()
    var state = TinyMachine.longMode(at: 0x1000)
    state.registers[1] = 0xFF
    // popcnt eax,ecx; ud2
    machine.memory.write(GuestAddress(0x1000), [0xF3, 0x0F, 0xB8, 0xC1, 0x0F, 0x0B])
    try machine.vcpu.writeState(state)
    let service = EmulationService(memory: machine.memory, cpuid: TinyMachine.cpuid)
    #expect(service.execute(machine.vcpu, machine.host))
    var after = try machine.vcpu.readState()
    #expect(after.registers[0] == 8)
    #expect(after.rip == 0x1004)
    #expect(service.execute(machine.vcpu, machine.host))
    after = try machine.vcpu.readState()
    #expect(after.rip == 0x1004)
  }

  @Test func stateSurvivesReadingAndWriting() throws {
    let machine = try TinyMachine()
    var state = TinyMachine.longMode(at: 0x1000)
    for n in 0..<16 { state.registers[n] = UInt64(n) << 40 | UInt64(n) }
    state.rflags = 0x246
    state.xcr0 = 7
    state.msrs[0xC000_0082] = 0xFFFF_8000_0000_1000
    state.cr2 = 0x1234
    try machine.vcpu.writeState(state)
    let after = try machine.vcpu.readState()
    #expect(after.registers == state.registers)
    #expect(after.rflags == state.rflags)
    #expect(after.cs == state.cs && after.ss == state.ss)
    #expect(after.cr0 == state.cr0 && after.cr2 == state.cr2 && after.cr4 == state.cr4)
    #expect(after.xcr0 == 7)
    #expect(after.msrs[0xC000_0082] == 0xFFFF_8000_0000_1000)
  }

  @Test func a20GateOffWrapsTheSecondMegabyte() throws {
    let machine = try TinyMachine()
    machine.memory.store(GuestAddress(0x1234), UInt32(0xCAFE))
    machine.host.setA20(false)
    var state = TinyMachine.protectedMode(at: 0x2000)
    state.registers[3] = 0x10_1234
    let (_, after) = try machine.run([0x8B, 0x03, 0xF4], from: state)
    #expect(after.registers[0] == 0xCAFE)
  }
}
