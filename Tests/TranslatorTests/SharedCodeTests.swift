import CPU
import DeviceModel
import Guests
import Host
import Shm
import Testing
import Translator

/// Code that one processor executes and another, or a device, writes: both in one process, or each in its own with shared memory.
@Suite(.serialized) struct SharedCodeTests {
  private static let pages: UInt64 = 64
  private static let first: UInt64 = 0x20_0000
  private static let end = first + pages * 4096

  /// One vCPU counts in the immediate of a function and then publishes the count; the other serialises itself and calls the function,
  /// whose result may never be older than the count that it has read. Every page starts with the writer having stored there before the
  /// other decodes it.
  @Test(arguments: [1, 2])
  func storesToCodeReachTheProcessorThatExecutesIt(processes: Int) throws {
    let machine = try TwoCPUs.pair(processes)
    for page in stride(from: Self.first, to: Self.end, by: 4096) {
      machine.memory.write(GuestAddress(page + 3), [0xB8, 0, 0, 0, 0, 0xC3])  // mov eax, 0; ret
    }
    try machine.load(0, at: 0x1000) { code in
      code.load(.di, UInt32(Self.first))
      code.load(.bx, 1)
      code.load(.si, 0x8000)
      code.label("page")
      code.load(.cx, 20)
      code.label("again")
      code.emit(0x89, 0x5F, 0x04)  // mov [rdi+4], ebx
      code.emit(0x48, 0x89, 0xF8)  // mov rax, rdi
      code.emit(0x48, 0xC1, 0xE0, 0x20)  // shl rax, 32
      code.emit(0x48, 0x09, 0xD8)  // or rax, rbx
      code.emit(0x48, 0x89, 0x06)  // mov [rsi], rax
      code.emit(0xFF, 0xC3)  // inc ebx
      code.emit(0x83, 0xE9, 0x01)  // sub ecx, 1
      code.jump(if: .notBelow, "again")
      code.load(.cx, 0)
      // Until the other has called this page's function.
      code.emit(0x48, 0x8B, 0x46, 0x10)  // mov rax, [rsi+16]
      code.emit(0x48, 0x8D, 0x57, 0x03)  // lea rdx, [rdi+3]
      code.emit(0x48, 0x39, 0xD0)  // cmp rax, rdx
      code.jump(if: .notEqual, "again")
      code.emit(0x81, 0xC7)  // add edi, 4096
      code.emit32(4096)
      code.emit(0x81, 0xFF)  // cmp edi, end
      code.emit32(UInt32(Self.end))
      code.jump(if: .notEqual, "page")
      code.emit(0x48, 0xC7, 0xC0, 0xFF, 0xFF, 0xFF, 0xFF)  // mov rax, -1
      code.emit(0x48, 0x89, 0x06)  // mov [rsi], rax
      code.hlt()
    }
    try machine.load(1, at: 0x3000) { code in
      code.load(.si, 0x8000)
      code.label("loop")
      code.emit(0x48, 0x8B, 0x06)  // mov rax, [rsi]
      code.emit(0x48, 0x83, 0xF8, 0xFF)  // cmp rax, -1
      code.jump(if: .equal, "done")
      code.emit(0x41, 0x89, 0xC4)  // mov r12d, eax
      code.emit(0x48, 0xC1, 0xE8, 0x20)  // shr rax, 32
      code.jump(if: .equal, "loop")
      code.emit(0x48, 0x8D, 0x78, 0x03)  // lea rdi, [rax+3]
      code.emit(0x31, 0xC0, 0x0F, 0xA2)  // xor eax, eax; cpuid
      code.emit(0xFF, 0xD7)  // call rdi
      code.emit(0x49, 0xFF, 0xC6)  // inc r14
      code.emit(0x48, 0x89, 0x7E, 0x10)  // mov [rsi+16], rdi
      code.emit(0x44, 0x39, 0xE0)  // cmp eax, r12d
      code.jump(if: .notBelow, "loop")
      // Stale: leave the evidence, and let the other come to its end.
      code.emit(0x41, 0x89, 0xC5)  // mov r13d, eax
      code.emit(0x49, 0x0F, 0xBA, 0xED, 0x3F)  // bts r13, 63
      code.jump("loop")
      code.label("done")
      code.hlt()
    }
    let threads = try [machine.start(0), machine.start(1)]
    for thread in threads { thread.join() }
    let after = try machine.vcpus[1].readState()
    #expect(after.registers[13] == 0, "\(String(after.registers[13], radix: 16)) is stale")
    #expect(after.registers[14] >= Self.pages)
    #expect(machine.raw(0x8000) == UInt64.max)
  }

  /// Both make every page code for the first time, at the same time, and wait for each other each time.
  @Test(arguments: [1, 2])
  func twoThatWaitForEachOtherGoOn(processes: Int) throws {
    let machine = try TwoCPUs.pair(processes)
    for index in 0..<2 {
      try machine.load(index, at: 0x1000 + UInt64(index) * 0x2000) { code in
        let first = UInt32(0x20_0000 + index * 0x10_0000)
        code.load(.di, first)
        code.load(.ax, 0)
        code.label("loop")
        code.emit(0xC7, 0x07)  // mov dword [rdi], inc eax; ret; nop
        code.emit32(0x90C3_C0FF)
        code.emit(0xFF, 0xD7)  // call rdi
        code.emit(0x81, 0xC7)  // add edi, 4096
        code.emit32(4096)
        code.emit(0x81, 0xFF)  // cmp edi, end
        code.emit32(first + 200 * 4096)
        code.jump(if: .notEqual, "loop")
        code.hlt()
      }
    }
    let threads = try [machine.start(0), machine.start(1)]
    for thread in threads { thread.join() }
    for vcpu in machine.vcpus { #expect(try vcpu.readState().registers[0] == 200) }
  }

  /// A device overwrites a function that a vCPU calls all the time, and the vCPU tells what it got.
  @Test(arguments: [1, 2])
  func deviceWritesToCodeAreSeen(processes: Int) throws {
    let machine = try TwoCPUs.pair(processes)
    let executing = processes - 1
    machine.memory.write(GuestAddress(Self.first + 3), [0xB8, 0, 0, 0, 0, 0xC3])
    try machine.load(executing, at: 0x1000) { code in
      code.load(.di, UInt32(Self.first) + 3)
      code.load(.si, 0x8000)
      code.label("loop")
      code.emit(0xFF, 0xD7)  // call rdi
      code.emit(0x89, 0x06)  // mov [rsi], eax
      code.emit(0x83, 0xF8, 0xFF)  // cmp eax, -1
      code.jump(if: .notEqual, "loop")
      code.hlt()
    }
    let thread = try machine.start(executing)
    for n in UInt32(1)...500 {
      machine.memory.store(GuestAddress(Self.first + 4), n)
      #expect(waitUntil { machine.raw(0x8000) == UInt64(n) }, "write \(n) was not seen")
    }
    machine.memory.store(GuestAddress(Self.first + 4), UInt32.max)
    thread.join()
  }
}
