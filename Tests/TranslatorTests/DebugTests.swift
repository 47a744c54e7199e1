import CPU
import DeviceModel
import Shm
import Testing
import Translator

/// Breakpoints, watchpoints and single steps in loops that run often enough to be translated: what the guest's handler sees is the same
/// in every mode of the software CPU.
@Suite struct DebugTests {
  /// A way to run the software CPU.
  struct Mode: Sendable, CustomStringConvertible {
    let description: String
    let tuning: TranslatorTuning

    init(_ description: String, _ change: (inout TranslatorTuning) -> Void = { _ in }) {
      self.description = description
      var tuning = TranslatorTuning()
      change(&tuning)
      self.tuning = tuning
    }
  }

  static let modes = [
    Mode("interpreter") { $0.isEnabled = false },
    Mode("as usual"),
    Mode("translate at once") { $0.threshold = 1 },
    Mode("one instruction in a block") {
      $0.threshold = 1
      $0.maximumInstructions = 1
    },
    Mode("few TLB entries, flushes, interruptions") {
      $0.threshold = 1
      $0.tlbLimit = 4
      $0.flushEvery = 7
      $0.requestEvery = 3
    },
  ]

  /// At 0x3000: #DB. Notes RIP in a list at 0x20000, counts in 0x7000, gathers DR6 in 0x7008, sets RF in the image, and clears TF there
  /// after as many as 0x7010 says.
  private static let handler: [UInt8] = [
    0x50, 0x53,  // push rax; push rbx
    0x8B, 0x1C, 0x25, 0x00, 0x70, 0x00, 0x00,  // mov ebx, [0x7000]
    0x48, 0x8B, 0x44, 0x24, 0x10,  // mov rax, [rsp+16]
    0x48, 0x89, 0x04, 0xDD, 0x00, 0x00, 0x02, 0x00,  // mov [rbx*8+0x20000], rax
    0xFF, 0xC3, 0x89, 0x1C, 0x25, 0x00, 0x70, 0x00, 0x00,  // inc ebx; mov [0x7000], ebx
    // mov rax, dr6; or [0x7008], rax
    0x0F, 0x21, 0xF0, 0x48, 0x09, 0x04, 0x25, 0x08, 0x70, 0x00, 0x00,
    0x31, 0xC0, 0x0F, 0x23, 0xF0,  // xor eax, eax; mov dr6, rax
    0x81, 0x4C, 0x24, 0x20, 0x00, 0x00, 0x01, 0x00,  // or dword [rsp+32], RF
    0x3B, 0x1C, 0x25, 0x10, 0x70, 0x00, 0x00,  // cmp ebx, [0x7010]
    0x72, 0x08, 0x81, 0x64, 0x24, 0x20, 0xFF, 0xFE, 0xFF, 0xFF,  // jb +8; and dword [rsp+32], ~TF
    0x5B, 0x58, 0x48, 0xCF,  // pop rbx; pop rax; iretq
  ]

  /// What the handler and the program left.
  struct Outcome: Equatable {
    var count: UInt32
    var dr6: UInt64
    var places: [UInt64]
    var registers: [UInt64]
    var flags: UInt64
  }

  private func run(
    _ code: [UInt8], _ mode: Mode, steps: UInt32, mustTranslate: Bool
  ) throws -> Outcome {
    let memory = GuestMemory()
    let ram = try RAMBlock(name: "ram", size: 4 << 20)
    memory.setSlots([MemorySlot(guest: GuestAddress(0), size: 4 << 20, block: ram)])
    let vm = try TCGAccelerator(cacheBytes: 1 << 20, tuning: mode.tuning).makeVM(
      memory: memory, cpuid: TinyMachine.cpuid)
    let vcpu = try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: RecordingHost())
    memory.store(GuestAddress(0x10000), UInt64(0x11007))
    memory.store(GuestAddress(0x11000), UInt64(0x12007))
    for n in UInt64(0)..<2 { memory.store(GuestAddress(0x12000 + n * 8), n << 21 | 0x87) }
    memory.store(GuestAddress(0x5008), 0x00AF_9B00_0000_FFFF as UInt64)
    memory.store(GuestAddress(0x5010), 0x00CF_9300_0000_FFFF as UInt64)
    // Gate 1: an interrupt gate to 8:0x3000.
    memory.store(GuestAddress(0x6010), 0x0000_8E00_0008_3000 as UInt64)
    memory.store(GuestAddress(0x7010), steps)
    memory.write(GuestAddress(0x3000), Self.handler)
    memory.write(GuestAddress(0x1000), code)
    var state = TinyMachine.longMode(at: 0x1000)
    state.gdtr = DescriptorTableRegister(base: 0x5000, limit: 0x17)
    state.idtr = DescriptorTableRegister(base: 0x6000, limit: 0xFFF)
    try vcpu.writeState(state)
    var exit = vcpu.run()
    // Leaving for nothing is allowed.
    for _ in 0..<1000 where exit == .interrupted { exit = vcpu.run() }
    #expect(exit == .halt, "\(mode)")
    if mode.tuning.isEnabled && mustTranslate {
      #expect(vm.statistics?.contains("TB count            0\n") == false, "nothing was translated")
    }
    let after = try vcpu.readState()
    let count: UInt32 = memory.load(GuestAddress(0x7000)) ?? 0
    let places = (0..<min(count, 4096)).map {
      memory.load(GuestAddress(0x20000 + UInt64($0) * 8)) ?? 0 as UInt64
    }
    return Outcome(
      count: count, dr6: memory.load(GuestAddress(0x7008)) ?? 0, places: places,
      registers: after.registers, flags: after.rflags)
  }

  private func sameInAllModes(
    _ code: [UInt8], steps: UInt32 = .max, mustTranslate: Bool = true
  ) throws -> Outcome {
    let reference = try run(code, Self.modes[0], steps: steps, mustTranslate: false)
    for mode in Self.modes.dropFirst() {
      let outcome = try run(code, mode, steps: steps, mustTranslate: mustTranslate)
      #expect(outcome == reference, "\(mode)")
    }
    return reference
  }

  /// A loop of 3000 rounds, the same with DR0 at its second instruction for 40 rounds, and 3000 rounds without.
  @Test func instructionBreakpointsHitInHotLoops() throws {
    let outcome = try sameInAllModes([
      0xB9, 0xB8, 0x0B, 0x00, 0x00, 0xE8, 0x30, 0x00, 0x00, 0x00,  // mov ecx, 3000; call body
      0x0F, 0x21, 0xF8,  // mov rax, dr7
      0xBB, 0x3E, 0x10, 0x00, 0x00, 0x0F, 0x23, 0xC3,  // mov ebx, target; mov dr0, rbx
      0xBB, 0x01, 0x04, 0x00, 0x00, 0x0F, 0x23, 0xFB,  // mov ebx, 0x401; mov dr7, rbx
      0xB9, 0x28, 0x00, 0x00, 0x00, 0xE8, 0x13, 0x00, 0x00, 0x00,  // mov ecx, 40; call body
      0xBB, 0x00, 0x04, 0x00, 0x00, 0x0F, 0x23, 0xFB,  // mov ebx, 0x400; mov dr7, rbx
      0xB9, 0xB8, 0x0B, 0x00, 0x00, 0xE8, 0x01, 0x00, 0x00, 0x00, 0xF4,  // again; hlt
      0x48, 0x83, 0xC2, 0x03,  // body: add rdx, 3
      0x48, 0x31, 0xD6, 0x48, 0xC1, 0xC6, 0x05,  // target: xor rsi, rdx; rol rsi, 5
      0xFF, 0xC9, 0x75, 0xF1, 0xC3,  // dec ecx; jnz body; ret
    ])
    #expect(outcome.count == 40)
    #expect(outcome.places == [UInt64](repeating: 0x103E, count: 40))
    #expect(outcome.dr6 & 0xF == 1)
    #expect(outcome.registers[2] == 3 * 6040)
  }

  /// Four stores and loads a round; DR0 watches the second store's four bytes for 40 rounds in between.
  @Test func watchpointsHitInHotLoops() throws {
    let outcome = try sameInAllModes([
      0xBF, 0x00, 0x00, 0x04, 0x00,  // mov edi, 0x40000
      0xB9, 0xB8, 0x0B, 0x00, 0x00, 0xE8, 0x2C, 0x00, 0x00, 0x00,  // mov ecx, 3000; call body
      0x48, 0x8D, 0x5F, 0x08, 0x0F, 0x23, 0xC3,  // lea rbx, [rdi+8]; mov dr0, rbx
      0xBB, 0x01, 0x04, 0x0D, 0x00, 0x0F, 0x23, 0xFB,  // mov ebx, 0xD0401; mov dr7, rbx
      0xB9, 0x28, 0x00, 0x00, 0x00, 0xE8, 0x13, 0x00, 0x00, 0x00,  // mov ecx, 40; call body
      0xBB, 0x00, 0x04, 0x00, 0x00, 0x0F, 0x23, 0xFB,  // mov ebx, 0x400; mov dr7, rbx
      0xB9, 0xB8, 0x0B, 0x00, 0x00, 0xE8, 0x01, 0x00, 0x00, 0x00, 0xF4,  // again; hlt
      0x48, 0x83, 0xC2, 0x03, 0x48, 0x89, 0x17,  // body: add rdx, 3; mov [rdi], rdx
      0x89, 0x4F, 0x08,  // mov [rdi+8], ecx
      0x48, 0x8B, 0x77, 0x08, 0x48, 0x89, 0x57, 0x10,  // mov rsi, [rdi+8]; mov [rdi+16], rdx
      0xFF, 0xC9, 0x75, 0xEA, 0xC3,  // dec ecx; jnz body; ret
    ])
    #expect(outcome.count == 40)
    #expect(outcome.places == [UInt64](repeating: 0x1045, count: 40), "a trap: behind the store")
    #expect(outcome.dr6 & 0xF == 1)
  }

  /// A hot loop, then POPF sets TF before it runs again; the handler clears it after 50 steps.
  @Test func singleStepsStopAfterEachInstructionOfAHotLoop() throws {
    let outcome = try sameInAllModes(
      [
        0xB9, 0xB8, 0x0B, 0x00, 0x00, 0xE8, 0x14, 0x00, 0x00, 0x00,  // mov ecx, 3000; call body
        0x9C, 0x81, 0x0C, 0x24, 0x00, 0x01, 0x00, 0x00, 0x9D,  // pushfq; or dword [rsp], TF; popfq
        0xB9, 0xB8, 0x0B, 0x00, 0x00, 0xE8, 0x01, 0x00, 0x00, 0x00, 0xF4,  // again; hlt
        0x48, 0x83, 0xC2, 0x03, 0x48, 0x31, 0xD6,  // body: add rdx, 3; xor rsi, rdx
        0x48, 0x89, 0x74, 0x24, 0xF0,  // mov [rsp-16], rsi
        0xFF, 0xC9, 0x75, 0xF0, 0xC3,  // dec ecx; jnz body; ret
      ], steps: 50)
    #expect(outcome.count == 50)
    #expect(outcome.dr6 & 0x4000 != 0)
    let round: [UInt64] = [0x1022, 0x1025, 0x102A, 0x102C, 0x101E]
    var expected: [UInt64] = [0x1018, 0x101E]
    while expected.count < 50 { expected += round }
    #expect(outcome.places == [UInt64](expected.prefix(50)))
    #expect(outcome.registers[2] == 3 * 6000)
  }

  /// A breakpoint at the instruction that IRET returns to with RF set does not hit: it has just done so.
  @Test func theResumeFlagLetsOneInstructionPass() throws {
    // push a frame with RF and the address of `target`; iretq; ud2; target: nop; hlt
    let outcome = try sameInAllModes(
      [
        0xBB, 0x27, 0x10, 0x00, 0x00, 0x0F, 0x23, 0xC3,  // mov ebx, target; mov dr0, rbx
        0xB9, 0x01, 0x04, 0x00, 0x00, 0x0F, 0x23, 0xF9,  // mov ecx, 0x401; mov dr7, rcx
        0x6A, 0x10, 0x68, 0x00, 0x90, 0x00, 0x00,  // push 0x10; push 0x9000
        0x68, 0x02, 0x00, 0x01, 0x00,  // push RF and bit 1
        0x6A, 0x08, 0x68, 0x27, 0x10, 0x00, 0x00, 0x48, 0xCF,  // push 8; push target; iretq
        0x0F, 0x0B,  // ud2
        // target: nop; inc edx; cmp edx, 2; jl target; hlt
        0x90, 0xFF, 0xC2, 0x83, 0xFA, 0x02, 0x7C, 0xF8, 0xF4,
      ], mustTranslate: false)
    #expect(outcome.count == 1, "the second time around it does hit")
    #expect(outcome.places == [0x1027])
  }
}
