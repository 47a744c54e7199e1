import CPU
import DeviceModel
import Glibc
import Shm
import Testing
import Translator

/// The C helpers against the rules in Swift: the same guest, with and without them, ends in the same state.
///
/// `GOLIATH_FAST_CASES` sets the number of cases, `GOLIATH_FAST_SEED` the seed.
@Suite struct FastHelperTests {
  private struct Random: RandomNumberGenerator {
    var seed: UInt64
    mutating func next() -> UInt64 {
      seed &+= 0x9E37_79B9_7F4A_7C15
      var z = seed
      z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
      z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
      return z ^ z >> 31
    }
    mutating func below(_ n: UInt64) -> UInt64 { next() % n }
    mutating func oneIn(_ n: UInt64) -> Bool { below(n) == 0 }
    mutating func pick<T>(_ list: [T]) -> T { list[Int(below(UInt64(list.count)))] }
  }

  private enum Kind: Int, CaseIterable {
    case syscall, sysret, iret, swapgs, int, int3, pushf, popf, movs, stos, undefined, pageFault
    case rdtscp, flag, access, base, wrmsr, control
  }

  private static func number(_ name: String) -> UInt64? {
    getenv(name).flatMap { UInt64(String(cString: $0)) }
  }

  // Linear 0 to 2 MiB: supervisor's; 2 to 4 MiB: the same memory, the user's; 4 to 6 MiB: nothing; 6 to 8 MiB: the same memory again,
  // read-only.
  private static let user: UInt64 = 0x20_0000
  private static let regions: [(UInt64, Int)] = [(0, 0x30000), (0x1F_F000, 0x1000)]

  private struct Case {
    var kind: Kind
    var isUser: Bool
    var state: CPUState
    var memory: [(UInt64, [UInt8])]
  }

  // MARK: - Code

  private static func bytes(_ value: UInt64, _ count: Int = 8) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
  }
  private static func load(_ register: UInt8, _ value: UInt64) -> [UInt8] {
    [register < 8 ? 0x48 : 0x49, 0xB8 + register % 8] + bytes(value)
  }
  /// Touches a byte, so that the TLB knows its page: `write` too, leaving it as it is.
  private static func touch(_ address: UInt64, write: Bool) -> [UInt8] {
    load(0, address) + (write ? [0x80, 0x08, 0x00] : [0xF6, 0x00, 0x00])
  }

  // MARK: - Cases

  private static func flags(_ random: inout Random) -> UInt64 {
    var value: UInt64 = 2 | random.next() & 0x8D5
    if random.oneIn(3) { value |= 0x200 }
    if random.oneIn(5) { value |= 0x400 }
    if random.oneIn(4) { value |= 0x4_0000 }  // AC
    if random.oneIn(8) { value |= 0x3000 }  // IOPL
    if random.oneIn(16) { value |= 0x4000 }  // NT
    if random.oneIn(8) { value |= 0x1_0000 }  // RF
    if random.oneIn(24) { value |= 0x100 }  // TF
    if random.oneIn(6) { value |= 0x20_0000 }
    return value
  }

  private static func stackTop(_ random: inout Random) -> UInt64 {
    let top = random.pick([0x9000, 0xA000, 0x9800, 0x9010, 0x9028, 0x9030, 0x9FF8] as [UInt64])
    if random.oneIn(24) { return random.pick([0x40_0100, 0x8000_0000_0000, 0x8000_0000_0008, 8]) }
    return random.oneIn(3) ? top &- random.below(64) : top
  }

  private static func gdt(_ random: inout Random) -> [UInt64] {
    var table: [UInt64] = [
      0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00AF_FB00_0000_FFFF,
      0x00CF_F300_0000_FFFF, 0x00CF_FB00_0000_FFFF, 0x00AF_9F00_0000_FFFF,
      0x00AF_9A00_0000_FFFF, 0x00CF_F200_0000_FFFF, 0x00AF_1B00_0000_FFFF,
      0x00EF_9B00_0000_FFFF, 0x00CF_9100_0000_FFFF, 0x1240_F334_5678_0FFF,
    ]
    if random.oneIn(32) { table[Int(random.below(UInt64(table.count)))] = random.next() }
    return table
  }

  private static func makeCase(_ random: inout Random) -> Case {
    let kind = random.pick(Kind.allCases)
    var isUser = random.oneIn(2)
    if [.sysret, .swapgs, .flag, .access, .wrmsr, .control].contains(kind) {
      isUser = random.oneIn(16)
    }
    if kind == .syscall { isUser = !random.oneIn(8) }
    var state = TinyMachine.longMode(at: 0x1000)
    let smap = random.oneIn(3)
    if smap { state.cr4 |= 1 << 21 }
    if random.oneIn(4) { state.cr4 |= 4 }  // TSD
    if random.oneIn(2) { state.cr4 |= 1 << 16 }  // FSGSBASE
    if random.oneIn(4) { state.cr0 &= ~(1 << 18) }  // AM
    state.gdtr = DescriptorTableRegister(base: 0x5000, limit: random.oneIn(16) ? 0x17 : 0x6F)
    state.idtr = DescriptorTableRegister(base: 0x6000, limit: random.oneIn(16) ? 0x5F : 0x3FF)
    state.tr = SegmentRegister(
      selector: 0x58, base: 0x7000, limit: random.oneIn(16) ? 0x20 : 0x67, attributes: 0x8B)
    for segment in [\CPUState.es, \CPUState.ds, \CPUState.fs, \CPUState.gs] {
      switch random.below(4) {
      case 0: break
      case 1:
        state[keyPath: segment] = SegmentRegister(
          selector: 0x23, base: 0, limit: 0xFFFF_FFFF, attributes: 0xC0F3)
      default:
        state[keyPath: segment] = SegmentRegister(
          selector: UInt16(random.oneIn(4) ? 3 : 0), base: 0, limit: 0, attributes: 0)
      }
    }
    state.fs.base = random.pick([0, 0x10, user, 0x8000_0000_0000])
    state.gs.base = random.next() >> 20
    let handlers: [UInt64] = [0x3000, 0x3800, user + 0x3400]
    state.msrs[0xC000_0081] = random.oneIn(3) ? random.next() : 0x0013_0008_0000_0000
    state.msrs[0xC000_0082] = random.pick(handlers)
    state.msrs[0xC000_0084] = random.oneIn(3) ? random.next() : 0x4_7700
    state.msrs[0xC000_0102] = random.next() >> 18
    state.msrs[0xC000_0103] = random.next() >> 40
    if random.oneIn(16) { state.efer &= ~1 }

    var memory: [(UInt64, [UInt8])] = []
    memory.append((0x5000, gdt(&random).flatMap { bytes($0) }))
    var idt: [UInt8] = []
    for vector in UInt64(0)..<64 {
      let target = random.oneIn(40) ? 0x9000_0000_0000 : random.pick(handlers) + vector * 8
      let selector: UInt64 = random.oneIn(12) ? random.below(14) * 8 + random.below(4) : 8
      var type = random.pick([0x8E, 0x8F, 0xEE, 0xEF] as [UInt64])
      if random.oneIn(24) { type = random.pick([0x0E, 0x8C, 0x85, 0x9E, 0x8F]) }
      let ist = random.oneIn(6) ? random.below(8) : 0
      idt += bytes(
        target & 0xFFFF | selector << 16 | ist << 32 | type << 40 | (target >> 16 & 0xFFFF) << 48)
      idt += bytes(target >> 32 | (random.oneIn(40) ? 1 << 40 : 0))
    }
    memory.append((0x6000, idt))
    var tss = [UInt8](repeating: 0, count: 4)
    for _ in 0..<12 { tss += bytes(stackTop(&random)) }
    memory.append((0x7000, tss))
    memory.append((0x3000, [UInt8](repeating: 0xF4, count: 0x1000)))
    memory.append((0x8000, (0..<0x3000).map { _ in UInt8(truncatingIfNeeded: random.next()) }))

    // The instruction with its registers.
    var registers = (0..<16).map { _ in random.next() >> random.below(64) }
    registers[4] = stackTop(&random) | (isUser ? user : 0)
    if smap && !isUser && random.oneIn(8) { registers[4] |= user }
    let code = instruction(kind, isUser, &registers, &memory, &random) + [0xF4]

    // The way there: flags, pages that are touched, registers.
    let flags = flags(&random)
    var kernel = load(4, 0xA800)
    let kernelFlags = isUser ? 2 : flags & ~0x1_0100 | (kind == .popf ? 0 : flags & 0x100)
    kernel += [0x68] + bytes(kernelFlags, 4) + [0x9D]
    let reachesUser = !smap || kernelFlags & 0x4_0000 != 0
    var pages: [UInt64] = [0x5000, 0x6000, 0x7000, 0x8000, 0x9000, 0xA000]
    if random.oneIn(12) { pages.remove(at: Int(random.below(6))) }
    for page in pages { kernel += touch(page, write: page >= 0x8000) }
    let strings: [UInt64] = [0x20000, 0x21000, 0x22000, 0x23000, 0x24000, 0x8000, 0x9000, 0xA000]
    if !isUser {
      for page in strings where !random.oneIn(24) {
        kernel += touch(page, write: true)
        if reachesUser { kernel += touch(page + user, write: true) }
      }
      for n in UInt8(0)..<16 where n != 4 { kernel += load(n, registers[Int(n)]) }
      kernel += load(4, registers[4])
      memory.append((0x1000, kernel + code))
    } else {
      kernel += load(4, 0xA800 - 40) + [0x48, 0xCF]
      memory.append(
        (
          0xA800 - 40,
          [user + 0x2000, 0x1B, flags & ~0x1_0100, user + 0xA000, 0x23].flatMap { bytes($0) }
        ))
      memory.append((0x1000, kernel))
      var program: [UInt8] = []
      for page in strings where !random.oneIn(24) { program += touch(page + user, write: true) }
      for n in UInt8(0)..<16 { program += load(n, registers[Int(n)]) }
      memory.append((0x2000, program + code))
    }
    return Case(kind: kind, isUser: isUser, state: state, memory: memory)
  }

  private static func instruction(
    _ kind: Kind, _ isUser: Bool, _ registers: inout [UInt64],
    _ memory: inout [(UInt64, [UInt8])], _ random: inout Random
  ) -> [UInt8] {
    switch kind {
    case .syscall: return [0x0F, 0x05]
    case .sysret:
      registers[1] = random.oneIn(12) ? 0x8000_0000_0000 : user + 0x3000
      registers[11] = flags(&random)
      return [random.oneIn(8) ? 0x40 : 0x48, 0x0F, 0x07]
    case .iret:
      let at = random.pick([0x9000, 0x9400, 0x9FD8, 0x9FD9, 0x9FE0] as [UInt64])
      registers[4] = at | (isUser ? user : 0)
      let toUser = isUser || random.oneIn(2)
      var frame: [UInt64] = [
        toUser ? user + 0x3100 : 0x3100, toUser ? 0x1B : 8, flags(&random),
        stackTop(&random) | (toUser ? user : 0), toUser ? 0x23 : random.oneIn(2) ? 0x10 : 0,
      ]
      if random.oneIn(6) { frame[1] = random.below(14) * 8 + random.below(4) }
      if random.oneIn(6) { frame[4] = random.below(14) * 8 + random.below(4) }
      if random.oneIn(16) { frame[0] = 0xFF00_0000_0000_0000 }
      memory.append((at, frame.flatMap { bytes($0) }))
      return [0x48, 0xCF]
    case .swapgs: return [0x0F, 0x01, 0xF8]
    case .int: return [0xCD, UInt8(random.below(64))]
    case .int3: return [0xCC]
    case .pushf: return [0x9C]
    case .popf:
      memory.append((registers[4] & 0xFFF8, bytes(flags(&random))))
      return [0x9D]
    case .movs, .stos:
      let base = isUser || random.oneIn(3) ? user : 0
      let places: [UInt64] = [0x20000, 0x20800, 0x21000, 0x20FF3, 0x22FFC, 0x20010, 0x20001]
      registers[6] = random.pick(places) + random.below(40) + base
      registers[7] = random.pick(places) + random.below(40) + base
      if random.oneIn(3) { registers[7] = registers[6] &+ random.below(24) &- 8 }
      if random.oneIn(12) { registers[7] = 0x3F_FF80 }
      if random.oneIn(12) { registers[6] = 0x60_0000 + 0x8000 }
      registers[1] = random.pick([0, 1, 7, 31, 64, 200, 700, 1500] as [UInt64])
      memory.append((0x20000, (0..<0x400).map { _ in UInt8(truncatingIfNeeded: random.next()) }))
      let opcode: UInt8 = kind == .movs ? 0xA4 : 0xAA
      switch random.below(5) {
      case 0: return [0xF3, opcode]
      case 1: return [0xF3, 0x66, opcode + 1]
      case 2: return [0xF3, opcode + 1]
      case 3: return [0x64, 0xF2, 0x48, opcode + 1]
      default: return [0xF3, 0x48, opcode + 1]
      }
    case .undefined: return [0x0F, 0x0B]
    case .pageFault: return [0x48, 0x8B, 0x04, 0x25] + bytes(random.pick([0x40_0000, 0x3000]), 4)
    case .flag:
      let opcode = random.pick([0xFA, 0xFB, 0xFC, 0xFD] as [UInt8])
      return [0x48, 0xFF, 0xC3, opcode] + (random.oneIn(2) ? [0x9C, 0x59, 0x48, 0x01, 0xC8] : [])
    case .access:
      return [0x0F, 0x01, random.oneIn(2) ? 0xCA : 0xCB, 0x8A, 0x04, 0x25] + bytes(user, 4)
    case .base:
      let sub = UInt8(random.below(4))
      return [
        0xF3, random.pick([0x40, 0x48, 0x49]), 0x0F, 0xAE, 0xC0 | sub << 3 | UInt8(random.below(8)),
      ]
    case .wrmsr:
      registers[1] = random.pick([0xC000_0100, 0xC000_0101, 0xC000_0102, 0xC000_0103, 0x1B0])
      registers[2] = random.pick([0, 0x7FFF, 0x8000, 0xFFFF_8000, 0x1_0000_0000])
      return [0x0F, 0x30]
    case .control:
      let register = UInt8(random.below(8))
      return [
        random.oneIn(2) ? 0x41 : 0x40, 0x0F, 0x20,
        0xC0 | random.pick([0, 2, 3, 4]) << 3 | register,
      ]
    case .rdtscp: return [0x0F, 0x01, 0xF9, 0x31, 0xC0, 0x31, 0xD2]
    }
  }

  // MARK: - Runs

  private struct Result: Equatable {
    var exit: String
    var state: CPUState
    var derived: [UInt64]
    var memory: [[UInt8]]
  }

  private static func run(
    _ test: Case, on machine: TinyMachine, _ vcpu: TCGVCPU, fast: Bool
  ) throws -> Result {
    let memory = machine.memory
    for (start, length) in regions {
      memory.write(GuestAddress(start), [UInt8](repeating: 0, count: length))
    }
    memory.store(GuestAddress(0x10000), UInt64(0x11007))
    memory.store(GuestAddress(0x11000), UInt64(0x12007))
    memory.store(GuestAddress(0x12000), UInt64(0x83))
    memory.store(GuestAddress(0x12008), UInt64(0x87))
    memory.store(GuestAddress(0x12018), UInt64(0x85))
    for (address, bytes) in test.memory { memory.write(GuestAddress(address), bytes) }
    vcpu.usesFastHelpers = fast
    try vcpu.writeState(test.state)
    let exit = vcpu.run()
    var state = try vcpu.readState()
    state.msrs[0x10] = 0
    let contents = regions.map { memory.read(GuestAddress($0.0), count: $0.1) ?? [] }
    return Result(exit: "\(exit)", state: state, derived: vcpu.derivedState, memory: contents)
  }

  @Test func fastHelpersLeaveWhatTheRulesLeave() throws {
    try compare(TinyMachine(tuning: .interpreter), expectsHelpers: true)
  }

  @Test func translatedCodeLeavesWhatTheRulesLeave() throws {
    var tuning = TranslatorTuning()
    tuning.threshold = 1
    tuning.exactFlags = true
    try compare(TinyMachine(tuning: tuning), expectsHelpers: false)
  }

  private func compare(_ other: TinyMachine, expectsHelpers: Bool) throws {
    let seed = Self.number("GOLIATH_FAST_SEED") ?? UInt64(time(nil))
    let cases = Self.number("GOLIATH_FAST_CASES") ?? 1500
    let machine = try TinyMachine(tuning: .interpreter)
    let vcpu = try #require(machine.vcpu as? TCGVCPU)
    let otherVCPU = try #require(other.vcpu as? TCGVCPU)
    var done = [Int](repeating: 0, count: Kind.allCases.count)
    for number in (Self.number("GOLIATH_FAST_FROM") ?? 0)..<cases {
      var random = Random(seed: seed &+ number &* 0x1234_5678_9ABC_DEF1)
      let test = Self.makeCase(&random)
      let slow = try Self.run(test, on: machine, vcpu, fast: false)
      let before = otherVCPU.fastHelperCount
      let fast = try Self.run(test, on: other, otherVCPU, fast: true)
      // One is on the way there.
      if otherVCPU.fastHelperCount - before > 1 { done[test.kind.rawValue] += 1 }
      if slow == fast { continue }
      let place = zip(slow.memory, fast.memory).map { pair in
        zip(pair.0, pair.1).enumerated().first { $0.1.0 != $0.1.1 }.map { String($0.0, radix: 16) }
      }
      let stack = [slow, fast].map { result in
        let at = Int(truncatingIfNeeded: result.state.registers[4] & 0xFFF8)
        return result.memory[0][at..<min(at + 56, 0x30000)].map { String($0, radix: 16) }.joined(
          separator: " ")
      }
      Issue.record(
        """
        seed \(seed), case \(number), \(test.kind), user \(test.isUser): \(slow.exit) \(fast.exit)
        \(slow.derived)\n\(fast.derived)\nmemory \(place)\n\(stack)
        \(slow.state.registerText(withFloatingPoint: false))
        \(fast.state.registerText(withFloatingPoint: false))
        """)
      return
    }
    for kind in Kind.allCases where cases >= 1000 && expectsHelpers && kind != .control {
      #expect(done[kind.rawValue] > 0, "\(kind) was never done by a helper, seed \(seed)")
    }
  }
}
