// How many guest instructions a second the interpreter executes: `swift run -c release InterpreterBenchmark`.
import CPU
import DeviceModel
import Glibc
import Guests
import Shm
import Translator

/// A loop in flat 64-bit mode: code before the loop's count in ECX is set, instructions a round.
struct Loop {
  let name: String
  let rounds: UInt64
  let instructions: UInt64
  let code: [UInt8]
}

let loops = [
  // l: add rax,rcx; xor rdx,rax; shr rdx,3; lea rbx,[rdx+rcx*2]; dec rcx; jnz l
  Loop(
    name: "integer", rounds: 40_000_000, instructions: 6,
    code: [
      0x48, 0x01, 0xC8, 0x48, 0x31, 0xC2, 0x48, 0xC1, 0xEA, 0x03, 0x48, 0x8D, 0x1C, 0x4A, 0x48,
      0xFF, 0xC9, 0x75, 0xED,
    ]),
  // CRC32 by table at 0x20000, data at 0x30000: l: movzx edx,byte [rsi]; xor dl,al; shr eax,8; xor eax,[0x20000+rdx*4];
  // inc rsi; and esi,0x3FFFF; dec rcx; jnz l
  Loop(
    name: "crc32", rounds: 20_000_000, instructions: 8,
    code: [
      0x0F, 0xB6, 0x16, 0x30, 0xC2, 0xC1, 0xE8, 0x08, 0x33, 0x04, 0x95, 0, 0, 2, 0, 0x48, 0xFF,
      0xC6, 0x81, 0xE6, 0xFF, 0xFF, 0x03, 0, 0x48, 0xFF, 0xC9, 0x75, 0xE3,
    ]),
  // l: push rax; mov [rsi],rcx; add rax,[rsi]; pop rbx; cmp rax,rbx; dec rcx; jnz l
  Loop(
    name: "memory", rounds: 20_000_000, instructions: 7,
    code: [
      0x50, 0x48, 0x89, 0x0E, 0x48, 0x03, 0x06, 0x5B, 0x48, 0x39, 0xD8, 0x48, 0xFF, 0xC9, 0x75,
      0xF0,
    ]),
]

func cpuSeconds() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

for loop in loops {
  let memory = GuestMemory()
  let ram = try RAMBlock(name: "ram", size: 4 << 20)
  memory.setSlots([MemorySlot(guest: GuestAddress(0), size: 4 << 20, block: ram)])
  memory.store(GuestAddress(0x10000), UInt64(0x11007))
  memory.store(GuestAddress(0x11000), UInt64(0x12007))
  for n in UInt64(0)..<2 { memory.store(GuestAddress(0x12000 + n * 8), n << 21 | 0x87) }
  memory.write(GuestAddress(0x1000), loop.code + [0xF4])
  var state = CPUState.reset(signature: 0)
  state.cr0 = 0x8005_0031
  state.cr3 = 0x10000
  state.cr4 = 0x6A0
  state.efer = 0xD01
  state.cs = SegmentRegister(selector: 8, base: 0, limit: 0xFFFF_FFFF, attributes: 0xA09B)
  let data = SegmentRegister(selector: 16, base: 0, limit: 0xFFFF_FFFF, attributes: 0xC093)
  (state.ss, state.ds, state.es, state.fs, state.gs) = (data, data, data, data, data)
  state.rip = 0x1000
  state.registers[4] = 0x9000
  state.registers[6] = 0x30000
  state.registers[1] = loop.rounds
  let vm = try TCGAccelerator().makeVM(memory: memory, cpuid: CPUIDTable([]))
  let vcpu = try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: NoDevices())
  try vcpu.writeState(state)
  let start = cpuSeconds()
  let exit = vcpu.run()
  let seconds = cpuSeconds() - start
  let millions = Double(loop.rounds * loop.instructions) / seconds / 1e6
  print("\(loop.name): \(Int(millions)) million instructions a second (\(exit))")
}
