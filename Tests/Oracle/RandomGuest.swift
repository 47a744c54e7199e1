import COracle
import CPU
import DeviceModel
import Shm
import Translator

/// A guest that runs random sequences in user mode, one after the other and each many times, without the host: its exception handler folds
/// registers, vector, error code, RIP and CR2 into a hash, changes a page table now and then, and starts the next sequence. In
/// whatever way it is run, memory, registers and hash must be the same at the end.
struct RandomGuest {
  let seed: UInt64
  let rounds: Int
  private let sequences: [Sequence]
  private let image: [(address: UInt64, bytes: [UInt8])]
  private let schedule: [(sequence: Int, action: Int)]

  static let codePages = 96
  private static let code: UInt64 = 0x8_0000
  private static let otherData: UInt64 = 0x3_0000
  private static let common: UInt64 = 0xD000
  private static let counters: UInt64 = 0x4_A000
  private static let scheduleStart: UInt64 = 0x10_0000
  private static let states: UInt64 = 0x18_0000
  private static let count = 96

  // 0x4A000: hash, number of exceptions (32 bits), where to stop (32 bits). An entry of the schedule has 32 bytes: sequence, action
  // (1: load CR3, 2: set CR0.TS), address of a page table entry or 0, its new value, linear address to invalidate. A state has
  // 192 bytes: the registers by number, then what IRETQ takes.
  //
  //     push rax
  //     push rcx
  //     push rdx
  //     push rbx
  //     push rbp
  //     push rsi
  //     push rdi
  //     push r8
  //     push r9
  //     push r10
  //     push r11
  //     push r12
  //     push r13
  //     push r14
  //     push r15
  //     cld
  //     clts
  //     mov rbx, ds:[0x4A000]
  //     xor ecx, ecx
  //   1: xor rbx, [rsp+rcx*8]
  //     imul rbx, rbx, 0x1E3779B1
  //     rol rbx, 23
  //     inc ecx
  //     cmp ecx, 18
  //     jne 1b
  //     xor rbx, [rsp+160]
  //     imul rbx, rbx, 0x1E3779B1
  //     cmp byte ptr [rsp+120], 14
  //     jne 2f
  //     mov rax, cr2
  //     xor rbx, rax
  //     rol rbx, 9
  //   2: mov ds:[0x4A000], rbx
  //     mov eax, ds:[0x4A008]
  //     inc eax
  //     mov ds:[0x4A008], eax
  //     cmp eax, ds:[0x4A00C]
  //     jae 9f
  //     shl eax, 5
  //     lea rsi, [rax+0x100000]
  //     mov rdi, [rsi+8]
  //     test rdi, rdi
  //     jz 3f
  //     mov rax, [rsi+16]
  //     mov [rdi], rax
  //     mov rdi, [rsi+24]
  //     invlpg [rdi]
  //   3: cmp dword ptr [rsi+4], 1
  //     jne 4f
  //     mov rax, cr3
  //     mov cr3, rax
  //   4: cmp dword ptr [rsi+4], 2
  //     jne 5f
  //     mov rax, cr0
  //     or rax, 8
  //     mov cr0, rax
  //   5: mov eax, [rsi]
  //     imul eax, eax, 192
  //     lea r15, [rax+0x180000]
  //     lea rsp, [r15+128]
  //     mov rax, [r15]
  //     mov rcx, [r15+8]
  //     mov rdx, [r15+16]
  //     mov rbx, [r15+24]
  //     mov rbp, [r15+40]
  //     mov rsi, [r15+48]
  //     mov rdi, [r15+56]
  //     mov r8, [r15+64]
  //     mov r9, [r15+72]
  //     mov r10, [r15+80]
  //     mov r11, [r15+88]
  //     mov r12, [r15+96]
  //     mov r13, [r15+104]
  //     mov r14, [r15+112]
  //     mov r15, [r15+120]
  //     iretq
  //   9: cli
  //     hlt
  //     jmp 9b
  private static let handler: [UInt8] = [
    0x50, 0x51, 0x52, 0x53, 0x55, 0x56, 0x57, 0x41, 0x50, 0x41, 0x51, 0x41, 0x52, 0x41,
    0x53, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, 0xFC, 0x0F, 0x06, 0x48, 0x8B,
    0x1C, 0x25, 0x00, 0xA0, 0x04, 0x00, 0x31, 0xC9, 0x48, 0x33, 0x1C, 0xCC, 0x48, 0x69,
    0xDB, 0xB1, 0x79, 0x37, 0x1E, 0x48, 0xC1, 0xC3, 0x17, 0xFF, 0xC1, 0x83, 0xF9, 0x12,
    0x75, 0xEA, 0x48, 0x33, 0x9C, 0x24, 0xA0, 0x00, 0x00, 0x00, 0x48, 0x69, 0xDB, 0xB1,
    0x79, 0x37, 0x1E, 0x80, 0x7C, 0x24, 0x78, 0x0E, 0x75, 0x0A, 0x0F, 0x20, 0xD0, 0x48,
    0x31, 0xC3, 0x48, 0xC1, 0xC3, 0x09, 0x48, 0x89, 0x1C, 0x25, 0x00, 0xA0, 0x04, 0x00,
    0x8B, 0x04, 0x25, 0x08, 0xA0, 0x04, 0x00, 0xFF, 0xC0, 0x89, 0x04, 0x25, 0x08, 0xA0,
    0x04, 0x00, 0x3B, 0x04, 0x25, 0x0C, 0xA0, 0x04, 0x00, 0x0F, 0x83, 0x90, 0x00, 0x00,
    0x00, 0xC1, 0xE0, 0x05, 0x48, 0x8D, 0xB0, 0x00, 0x00, 0x10, 0x00, 0x48, 0x8B, 0x7E,
    0x08, 0x48, 0x85, 0xFF, 0x74, 0x0E, 0x48, 0x8B, 0x46, 0x10, 0x48, 0x89, 0x07, 0x48,
    0x8B, 0x7E, 0x18, 0x0F, 0x01, 0x3F, 0x83, 0x7E, 0x04, 0x01, 0x75, 0x06, 0x0F, 0x20,
    0xD8, 0x0F, 0x22, 0xD8, 0x83, 0x7E, 0x04, 0x02, 0x75, 0x0A, 0x0F, 0x20, 0xC0, 0x48,
    0x83, 0xC8, 0x08, 0x0F, 0x22, 0xC0, 0x8B, 0x06, 0x69, 0xC0, 0xC0, 0x00, 0x00, 0x00,
    0x4C, 0x8D, 0xB8, 0x00, 0x00, 0x18, 0x00, 0x49, 0x8D, 0xA7, 0x80, 0x00, 0x00, 0x00,
    0x49, 0x8B, 0x07, 0x49, 0x8B, 0x4F, 0x08, 0x49, 0x8B, 0x57, 0x10, 0x49, 0x8B, 0x5F,
    0x18, 0x49, 0x8B, 0x6F, 0x28, 0x49, 0x8B, 0x77, 0x30, 0x49, 0x8B, 0x7F, 0x38, 0x4D,
    0x8B, 0x47, 0x40, 0x4D, 0x8B, 0x4F, 0x48, 0x4D, 0x8B, 0x57, 0x50, 0x4D, 0x8B, 0x5F,
    0x58, 0x4D, 0x8B, 0x67, 0x60, 0x4D, 0x8B, 0x6F, 0x68, 0x4D, 0x8B, 0x77, 0x70, 0x4D,
    0x8B, 0x7F, 0x78, 0x48, 0xCF, 0xFA, 0xF4, 0xEB, 0xFC,
  ]

  struct Result: Equatable {
    var registers: [UInt64]
    var xsave: [UInt8]
    /// Of all memory but the handler's stack, which has images of RFLAGS with undefined bits.
    var memory: [UInt8]
    var exceptions: UInt32
    var hash: UInt64
  }

  init(seed: UInt64, rounds: Int, runner: SequenceRunner) throws {
    self.seed = seed
    self.rounds = min(rounds, 4000)
    var random = OracleRandom(seed: seed &* 0x9E37_79B9_7F4A_7C15 ^ 0x5555)
    let hasAVX = oracle_components() & 4 != 0
    var list = (0..<Self.count).map { number in
      SequenceGenerator.sequence(
        seed: seed, number: number, kind: .host, set: nil, hasAVX: hasAVX)
    }
    let outcomes = try runner.judge(&list)
    var chosen: [Sequence] = []
    for (one, outcome) in zip(list, outcomes) where outcome != nil {
      // All modes run the same guest, exact or not.
      if one.items.contains(where: { $0.changesFlagUse }) { continue }
      var sequence = one
      sequence.number = chosen.count
      // One for each page, some of them across two.
      sequence.offset = chosen.count * 4096 + (random.chance(25) ? 4000 : random.below(3000))
      chosen.append(sequence)
    }
    sequences = chosen
    var pieces: [(address: UInt64, bytes: [UInt8])] = []
    var space = [UInt8](repeating: 0xCC, count: Self.codePages * 4096)
    for sequence in chosen {
      let code = sequence.layout().code
      if sequence.offset + code.count > space.count { continue }
      space.replaceSubrange(sequence.offset..<sequence.offset + code.count, with: code)
      var state: [UInt8] = []
      let start = UInt64(ORACLE_CODE) + UInt64(sequence.offset)
      let frame = [start, 0x33, sequence.flags, sequence.registers[4], 0x2B]
      for value in sequence.registers + frame { state += Self.little(value) }
      pieces.append((Self.states + UInt64(sequence.number) * 192, state))
    }
    pieces.append((Self.code, space))
    pieces.append((Self.common, Self.handler))
    for vector in UInt64(0)..<256 { pieces.append(Self.stub(vector)) }
    var order: [(sequence: Int, action: Int)] = []
    var entries: [UInt8] = []
    var recent: [Int] = []
    for _ in 0..<4001 {
      // Mostly one of a few, so that they become hot.
      if recent.isEmpty || random.chance(10) { recent.append(random.below(chosen.count)) }
      if recent.count > 4 { recent.removeFirst() }
      let sequence = random.pick(recent)
      let action = random.chance(6) ? 1 + random.below(2) : 0
      order.append((sequence, action))
      var change: [UInt64] = [0, 0, 0]
      if random.chance(20) { change = Self.pageChange(&random, sequence) }
      entries += Self.little(UInt64(sequence) | UInt64(action) << 32)
      for value in change { entries += Self.little(value) }
    }
    schedule = order
    pieces.append((Self.scheduleStart, entries))
    image = pieces
  }

  private static func little(_ value: UInt64) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
  }

  private static func stub(_ vector: UInt64) -> (address: UInt64, bytes: [UInt8]) {
    let address = OracleGuest.handlers + vector * 16
    var code: [UInt8] = [8, 10, 11, 12, 13, 14, 17].contains(vector) ? [] : [0x6A, 0]
    code += [0x6A, UInt8(vector), 0xE9]
    let distance = common &- (address + UInt64(code.count) + 4)
    code += little(distance).prefix(4)
    return (address, code)
  }

  /// Address of an entry, its new value, and the linear address.
  private static func pageChange(_ random: inout OracleRandom, _ sequence: Int) -> [UInt64] {
    let noExecute: UInt64 = 1 << 63
    if random.chance(30) {
      // A page of code: not there, not executable, read-only, or another one's content. Mostly as it was.
      let page = UInt64(min(sequence, codePages - 1))
      var value = (code + page * 4096) | 7
      switch random.below(10) {
      case 0: value &= ~1
      case 1: value |= noExecute
      case 2: value &= ~2
      case 3: value = (code + UInt64(random.below(codePages)) * 4096) | 7
      default: break
      }
      return [0x4000 + page * 8, value, UInt64(ORACLE_CODE) + page * 4096]
    }
    let page = UInt64(random.below(Int(ORACLE_DATA_PAGES)))
    var value = (OracleGuest.dataPage + page * 4096) | 7 | noExecute
    switch random.below(10) {
    case 0: value &= ~1
    case 1, 2: value &= ~2
    case 3: value &= ~4
    case 4, 5: value = (otherData + page * 4096) | 7 | noExecute
    case 6: value = (code + UInt64(sequence) * 4096) | 7 | noExecute
    default: break
    }
    return [0x4000 + (0x100 + page) * 8, value, UInt64(ORACLE_DATA) + page * 4096]
  }

  // MARK: - Runs

  /// Nil: it does not end, or stops in another way.
  func run(_ mode: SequenceMode, data: [UInt8], rounds: Int, patience: Int) throws -> Result? {
    let guest = try OracleGuest(tuning: mode.tuning, writableCode: true)
    for page in UInt64(0)..<UInt64(Self.codePages) {
      guest.store((Self.code + page * 4096) | 7, at: 0x4000 + page * 8)
    }
    for (address, bytes) in image { _ = guest.memory.write(GuestAddress(address), bytes) }
    _ = guest.memory.write(GuestAddress(OracleGuest.dataPage), data)
    guest.useOneStack()
    guest.store(UInt64(rounds) << 32, at: Self.counters + 8)
    var state = guest.base
    let first = sequences[schedule[0].sequence]
    state.registers = first.registers
    state.rip = UInt64(ORACLE_CODE) + UInt64(first.offset)
    state.rflags = first.flags
    for n in first.xsave.indices { state.xsave[n] = first.xsave[n] }
    try guest.vcpu.writeState(state)
    guard OracleWatch.shared.drive(guest.vcpu, patience: patience) == .halt else { return nil }
    let after = try guest.vcpu.readState()
    var memory = guest.memory.read(GuestAddress(0), count: 2 << 20) ?? []
    if memory.count == 2 << 20 {
      for n in 0xB000..<0xC000 { memory[n] = 0 }
      // Accessed and dirty.
      for n in stride(from: 0x1000, to: 0x6000, by: 8) { memory[n] &= 0x9F }
    }
    // What x87 remembers of its last instruction is not kept by translated code.
    var xsave = Array(after.xsave.prefix(Int(ORACLE_XSAVE_BYTES)))
    xsave.replaceSubrange(6..<24, with: [UInt8](repeating: 0, count: 18))
    return Result(
      registers: after.registers, xsave: xsave,
      memory: memory,
      exceptions: guest.memory.load(GuestAddress(Self.counters + 8)) ?? 0,
      hash: guest.memory.load(GuestAddress(Self.counters)) ?? 0)
  }

  /// Empty when the mode gives the interpreter's result; else where they part. `isVerbose` is for the number of exceptions.
  func compare(
    _ mode: SequenceMode, data: [UInt8], expected: Result
  ) throws -> String {
    let got = try run(mode, data: data, rounds: rounds, patience: 30)
    if got == expected { return "" }
    // The first round after which they differ.
    var low = 0
    var high = rounds
    while high - low > 1 {
      let middle = (low + high) / 2
      let a = try run(.interpreter, data: data, rounds: middle, patience: 30)
      let b = try run(mode, data: data, rounds: middle, patience: 10)
      if a == b { low = middle } else { high = middle }
    }
    let a = try run(.interpreter, data: data, rounds: high, patience: 30)
    let b = try run(mode, data: data, rounds: high, patience: 10)
    let (number, action) = schedule[min(high - 1, schedule.count - 1)]
    var text = "parts in round \(high) of \(rounds), sequence \(number), action \(action)"
    if let a, let b {
      for n in 0..<16 where a.registers[n] != b.registers[n] {
        text += "\n  register \(n): interpreter \(String(a.registers[n], radix: 16)), "
        text += "\(mode.name) \(String(b.registers[n], radix: 16))"
      }
      if a.exceptions != b.exceptions {
        text += "\n  exceptions: interpreter \(a.exceptions), \(mode.name) \(b.exceptions)"
      }
      if a.hash != b.hash { text += "\n  hash of the exceptions' states" }
      text += OracleHostCPU.compareXSAVE(a.xsave, b.xsave, names: ("interpreter", mode.name))
      let differing = a.memory.indices.filter { a.memory[$0] != b.memory[$0] }
      for n in differing.prefix(12) {
        text += "\n  memory \(String(n, radix: 16)): interpreter \(SequenceReport.hex(a.memory[n]))"
        text += ", \(mode.name) \(SequenceReport.hex(b.memory[n]))"
      }
    } else {
      text += a == nil ? "\n  the interpreter stops" : "\n  \(mode.name) stops or hangs"
    }
    return text + "\n" + SequenceReport.state(sequences[number])
      + SequenceReport.listing(sequences[number])
  }
}
