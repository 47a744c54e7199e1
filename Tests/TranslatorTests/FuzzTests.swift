import CPU
import DeviceModel
import Glibc
import Shm
import Testing
import Translator

/// Random code in random states: whatever a guest does, the process lives on.
///
/// `GOLIATH_FUZZ_ROUNDS` and `GOLIATH_FUZZ_SEED` set rounds and seed.
@Suite struct FuzzTests {
  private struct Random {
    var seed: UInt64
    mutating func next() -> UInt64 {
      seed ^= seed << 13
      seed ^= seed >> 7
      seed ^= seed << 17
      return seed
    }
    /// Small, huge and negative values alike.
    mutating func value() -> UInt64 {
      let raw = next()
      let shift = next() & 63
      return next() & 1 == 0 ? raw >> shift : ~(raw >> shift)
    }
  }

  private static func number(_ name: String) -> UInt64? {
    getenv(name).flatMap { UInt64(String(cString: $0)) }
  }

  @Test func randomCodeInRandomStatesNeverTraps() throws {
    let seed = FuzzTests.number("GOLIATH_FUZZ_SEED") ?? UInt64(time(nil)) | 1
    let rounds = FuzzTests.number("GOLIATH_FUZZ_ROUNDS") ?? 400
    print("fuzz: seed \(seed), \(rounds) rounds")
    var random = Random(seed: seed)
    let machine = try TinyMachine()
    let vcpu = try #require(machine.vcpu as? TCGVCPU)
    for round in 0..<rounds {
      var state: CPUState
      switch round % 4 {
      case 0: state = TinyMachine.longMode(at: 0x1000)
      case 1, 2: state = TinyMachine.protectedMode(at: 0x1000)
      default:
        state = CPUState.reset(signature: 0)
        state.cs = SegmentRegister(selector: 0, base: 0, limit: 0xFFFF, attributes: 0x9B)
        state.rip = 0x1000
      }
      for n in 0..<16 { state.registers[n] = random.value() }
      if random.next() & 1 == 0 { state.registers[4] = 0x9000 }
      machine.makePageTables()
      // Descriptor tables full of random gates and segments, valid ones among them.
      var table: [UInt8] = []
      for _ in 0..<512 { table.append(UInt8(truncatingIfNeeded: random.next() >> 9)) }
      for n in 0..<64 where random.next() & 1 == 0 {
        table[n * 8 + 5] = UInt8(truncatingIfNeeded: 0x80 | random.next() >> 20 & 0x7F)
      }
      machine.memory.write(GuestAddress(0x5000), table)
      machine.memory.write(GuestAddress(0x6000), table)
      state.gdtr = DescriptorTableRegister(base: 0x5000, limit: 0x1FF)
      state.idtr = DescriptorTableRegister(
        base: 0x6000, limit: UInt16(truncatingIfNeeded: random.next() & 0xFFF))
      state.tr = SegmentRegister(
        selector: 0x28, base: 0x5000, limit: UInt32(random.next() & 0xFF), attributes: 0x8B)
      state.ldtr = SegmentRegister(selector: 0x30, base: 0x6000, limit: 0x1FF, attributes: 0x82)
      if round % 4 == 2 {
        state.ds.limit = UInt32(truncatingIfNeeded: random.value())
        state.ds.attributes = UInt16(truncatingIfNeeded: random.next() & 0xF0FF)
        state.es.base = random.value() & 0xFFFF_FFFF
        state.ss.attributes = 0x8093 | UInt16(random.next() & 0x4004)
        state.rflags = random.next() & 0x3F_7FD7 | 2
        if random.next() & 3 != 0 { state.rflags &= ~0x2_0000 }
      }
      if random.next() & 3 == 0 {
        state.dr7 = random.next() & 0xFFFF_23FF | 0x400
        for n in 0..<4 { state.debugAddresses[n] = 0x1000 + (random.next() & 0xFFF) }
      }
      state.cr4 |= random.next() & 0x0034_06BF & (round % 4 == 0 ? UInt64.max : ~0x20)
      state.xcr0 = 7
      var code: [UInt8] = []
      for _ in 0..<32 { code.append(UInt8(truncatingIfNeeded: random.next() >> 11)) }
      machine.memory.write(GuestAddress(0x1000), code + [0xF4])
      try machine.vcpu.writeState(state)
      for _ in 0..<24 {
        // With a request waiting, string instructions stop after a few iterations and `run` after an event.
        machine.vcpu.requestExit()
        if !vcpu.stepOnce(), vcpu.run() != .interrupted { break }
        if vcpu.canAcceptInterrupt, random.next() & 7 == 0 {
          vcpu.inject(vector: UInt8(truncatingIfNeeded: random.next()))
          vcpu.requestExit()
          if vcpu.run() != .interrupted { break }
        }
      }
      _ = try machine.vcpu.readState()
      _ = machine.vcpu.translate(linear: random.value())
      let emulator = EmulationService(memory: machine.memory, cpuid: TinyMachine.cpuid)
      if round % 16 == 0 {
        try machine.vcpu.writeState(state)
        _ = emulator.execute(machine.vcpu, machine.host)
      }
    }
  }
}
