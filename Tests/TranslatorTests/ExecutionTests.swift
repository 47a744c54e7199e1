import CPU
import DeviceModel
import Shm
import Testing
import Translator

/// Small programs in 64-bit and 32-bit mode.
@Suite struct ExecutionTests {
  private func long(_ code: [UInt8], change: (inout CPUState) -> Void = { _ in }) throws -> (
    exit: VMExit, state: CPUState
  ) {
    let machine = try TinyMachine()
    machine.makePageTables()
    var state = TinyMachine.longMode(at: 0x1000)
    change(&state)
    return try machine.run(code + [0xF4], from: state)
  }

  @Test func addsAndSetsFlags() throws {
    // mov eax, 0xFFFFFFFF; add eax, 1
    let (exit, state) = try long([0xB8, 0xFF, 0xFF, 0xFF, 0xFF, 0x83, 0xC0, 0x01])
    #expect(exit == .halt)
    #expect(state.registers[0] == 0)
    #expect(state.rflags & 0x8D5 == 0x55)
  }

  @Test func loopsToItsEnd() throws {
    // mov ecx, 1000; xor eax, eax; l: add rax, rcx; dec ecx; jnz l
    let (_, state) = try long([
      0xB9, 0xE8, 0x03, 0, 0, 0x31, 0xC0, 0x48, 0x01, 0xC8, 0xFF, 0xC9, 0x75, 0xF9,
    ])
    #expect(state.registers[0] == 500_500)
  }

  @Test func dividesSignedAndUnsigned() throws {
    // mov rax,-7; cqo; mov ecx,2; idiv rcx
    let (_, state) = try long([
      0x48, 0xC7, 0xC0, 0xF9, 0xFF, 0xFF, 0xFF, 0x48, 0x99, 0xB9, 2, 0, 0, 0, 0x48, 0xF7, 0xF9,
    ])
    #expect(Int64(bitPattern: state.registers[0]) == -3)
    #expect(Int64(bitPattern: state.registers[2]) == -1)
  }

  @Test func divisionErrorWithoutHandlersShutsDown() throws {
    let (exit, _) = try long([0x31, 0xC9, 0xF7, 0xF1])  // xor ecx,ecx; div ecx
    #expect(exit == .shutdown)
  }

  @Test func selfModifyingCodeIsSeenInTheSameBlock() throws {
    // mov byte [rip+1], 0x42 changes the immediate of the next instruction: mov al, 0
    let (_, state) = try long([0xC6, 0x05, 0x01, 0, 0, 0, 0x42, 0xB0, 0x00])
    #expect(state.registers[0] & 0xFF == 0x42)
  }

  @Test func overwrittenCodeIsDecodedAgain() throws {
    // mov ebx,2; l: mov al,1; mov byte [rip-7+0], ... : the immediate of `mov al` becomes 5; dec ebx; jnz l
    let (_, state) = try long([
      0xBB, 2, 0, 0, 0, 0xB0, 1, 0xC6, 0x05, 0xF8, 0xFF, 0xFF, 0xFF, 5, 0xFF, 0xCB, 0x75, 0xF3,
    ])
    #expect(state.registers[0] & 0xFF == 5)
  }

  @Test func repeatedMoveCopiesAcrossPages() throws {
    let machine = try TinyMachine()
    machine.makePageTables()
    let bytes = (0..<10000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    machine.memory.write(GuestAddress(0x20F00), bytes)
    var state = TinyMachine.longMode(at: 0x1000)
    state.registers[6] = 0x20F00
    state.registers[7] = 0x30123
    state.registers[1] = 10000
    let (_, after) = try machine.run([0xF3, 0xA4, 0xF4], from: state)
    #expect(machine.memory.read(GuestAddress(0x30123), count: 10000) == bytes)
    #expect(after.registers[1] == 0)
    #expect(after.registers[6] == 0x20F00 + 10000)
  }

  @Test func overlappingMovePropagates() throws {
    let machine = try TinyMachine()
    machine.makePageTables()
    machine.memory.write(GuestAddress(0x20000), [1, 2, 3, 4])
    var state = TinyMachine.longMode(at: 0x1000)
    state.registers[6] = 0x20000
    state.registers[7] = 0x20001
    state.registers[1] = 100
    try machine.run([0xF3, 0xA4, 0xF4], from: state)
    #expect(
      machine.memory.read(GuestAddress(0x20000), count: 101)
        == [UInt8](repeating: 1, count: 101))
  }

  @Test func lockedOperationsWorkAcrossPages() throws {
    let machine = try TinyMachine()
    machine.makePageTables()
    machine.memory.store(GuestAddress(0x20FFE), UInt32(41))
    var state = TinyMachine.longMode(at: 0x1000)
    state.registers[3] = 0x20FFE
    try machine.run([0xF0, 0xFF, 0x03, 0xF4], from: state)  // lock inc dword [rbx]
    #expect(machine.memory.load(GuestAddress(0x20FFE), as: UInt32.self) == 42)
  }

  @Test func compareExchange16B() throws {
    let machine = try TinyMachine()
    machine.makePageTables()
    machine.memory.store(GuestAddress(0x20000), UInt64(1))
    machine.memory.store(GuestAddress(0x20008), UInt64(2))
    var state = TinyMachine.longMode(at: 0x1000)
    (state.registers[0], state.registers[2]) = (1, 2)
    (state.registers[3], state.registers[1]) = (3, 4)
    state.registers[6] = 0x20000
    let (_, after) = try machine.run([0xF0, 0x48, 0x0F, 0xC7, 0x0E, 0xF4], from: state)
    #expect(after.rflags & 0x40 != 0)
    #expect(machine.memory.load(GuestAddress(0x20008), as: UInt64.self) == 4)
  }

  @Test func lockOnARegisterIsUndefined() throws {
    let (exit, state) = try long([0xF0, 0x01, 0xC0])
    #expect(exit == .shutdown)
    #expect(state.rip == 0x1000)
  }

  @Test func pageFaultDeliversErrorCodeAndAddress() throws {
    let machine = try TinyMachine()
    machine.makePageTables()
    // Gate 14 to 0x3000, code segment 8 in a GDT at 0x5000.
    machine.memory.store(GuestAddress(0x5008), UInt64(0x00AF_9B00_0000_FFFF))
    machine.memory.store(GuestAddress(0x5010), UInt64(0x00CF_9300_0000_FFFF))
    machine.memory.store(GuestAddress(0x6000 + 14 * 16), UInt64(0x0000_8E00_0008_3000))
    // mov rax,cr2; pop rbx; hlt
    machine.memory.write(GuestAddress(0x3000), [0x0F, 0x20, 0xD0, 0x5B, 0xF4])
    var state = TinyMachine.longMode(at: 0x1000)
    state.gdtr = DescriptorTableRegister(base: 0x5000, limit: 0x17)
    state.idtr = DescriptorTableRegister(base: 0x6000, limit: 0xFFF)
    state.registers[6] = 0x4000_1234
    let (exit, after) = try machine.run([0x89, 0x06, 0xF4], from: state)  // mov [rsi], eax
    #expect(exit == .halt)
    #expect(after.registers[0] == 0x4000_1234)
    #expect(after.registers[3] == 2)
  }

  @Test func nonCanonicalAccessIsAGeneralProtectionFault() throws {
    let (exit, state) = try long([0x8B, 0x06]) { $0.registers[6] = 0x8000_0000_0000_0000 }
    #expect(exit == .shutdown)
    #expect(state.rip == 0x1000)
  }

  @Test func segmentLimitIsChecked() throws {
    let machine = try TinyMachine()
    var state = TinyMachine.protectedMode(at: 0x1000)
    state.ds.limit = 0xFFF
    state.registers[3] = 0xFFD
    // mov eax,[ebx]: 4 bytes at 0xFFD
    let (exit, after) = try machine.run([0x8B, 0x03, 0xF4], from: state)
    #expect(exit == .shutdown)
    #expect(after.rip == 0x1000)
    state.registers[3] = 0xFFC
    #expect(try machine.run([0x8B, 0x03, 0xF4], from: state).exit == .halt)
  }
}
