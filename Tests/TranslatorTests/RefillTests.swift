import CPU
import DeviceModel
import Shm
import Testing
import Translator

/// The page walk that translated code calls, against the walk for all modes: random tables, both the same verdict, the same accessed
/// and dirty bits, the same TLB entry.
@Suite struct RefillTests {
  /// Tables lie in 6 pages from 0x100000 on, so that random entries meet each other; 4 MiB of RAM, 64 KiB of ROM behind it.
  private static let tables: UInt64 = 0x10_0000
  private static let tablePages: UInt64 = 6

  private struct Bench {
    let memory = GuestMemory()
    let ram: RAMBlock
    let vcpu: TCGVCPU
    let vm: any VirtualMachine

    init() throws {
      ram = try RAMBlock(name: "ram", size: 4 << 20)
      let rom = try RAMBlock(name: "rom", size: 64 << 10)
      memory.setSlots([
        MemorySlot(guest: GuestAddress(0), size: 4 << 20, block: ram),
        MemorySlot(guest: GuestAddress(4 << 20), size: 64 << 10, block: rom, isReadOnly: true),
      ])
      vm = try TCGAccelerator(cacheBytes: 1 << 20).makeVM(
        memory: memory, cpuid: TinyMachine.cpuid)
      let made = try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: RecordingHost())
      vcpu = try #require(made as? TCGVCPU)
    }

    var tableBytes: [UInt8] {
      memory.read(GuestAddress(tables), count: Int(tablePages) * 4096) ?? []
    }
  }

  /// An entry that often leads on: present, few reserved bits, physical pages of tables, RAM, ROM or nothing.
  private static func entry(_ random: inout SplitMix) -> UInt64 {
    var value = random.next() & 0xE7F  // without bit 7 (large) and 8 (global)
    if random.next() % 16 != 0 { value |= 1 }
    if random.next() % 4 != 0 { value |= 6 }
    if random.next() % 8 == 0 { value |= 0x80 }
    if random.next() % 2 == 0 { value |= 0x100 }
    switch random.next() % 16 {
    case 0..<10: value |= tables + random.next() % tablePages * 4096
    case 10..<13: value |= random.next() % 0x400 * 4096
    case 13: value |= (4 << 20) + random.next() % 20 * 4096
    case 14: value |= random.next() % 4 << 21
    default: value |= random.next() & 0x0000_00FF_FFFF_F000
    }
    if random.next() % 32 == 0 { value |= 1 << 63 }
    if random.next() % 64 == 0 { value |= 1 << (40 + random.next() % 12) }
    return value
  }

  private static func linear(_ random: inout SplitMix) -> UInt64 {
    // Few indices a level, so that the same entries serve as different levels.
    var address: UInt64 = 0
    for level in UInt64(0)..<4 {
      address |= (random.next() % 8 + (random.next() % 2) * 504) << (12 + 9 * level)
    }
    return (address & 1 << 47 != 0 ? address | 0xFFFF_0000_0000_0000 : address)
      | random.next() & 0xFFF
  }

  @Test(arguments: [UInt64(1), 2, 3]) func refillAgreesWithTheWalk(seed: UInt64) throws {
    let bench = try Bench()
    var random = SplitMix(seed)
    var (done, faults, declined) = (0, 0, 0)
    for round in 0..<24 {
      for page in 0..<Self.tablePages {
        for n in UInt64(0)..<512 where n < 8 || n >= 504 {
          bench.memory.store(
            GuestAddress(Self.tables + page * 4096 + n * 8), Self.entry(&random))
        }
      }
      var state = TinyMachine.longMode(at: 0x1000)
      state.cr3 = Self.tables + random.next() % Self.tablePages * 4096
      state.cr0 = random.next() % 2 == 0 ? 0x8005_0031 : 0x8004_0031  // WP
      state.cr4 = 0x620 | (random.next() % 2) << 7 | (random.next() % 2) << 21  // PGE, SMAP
      state.efer = random.next() % 4 == 0 ? 0x501 : 0xD01  // NXE
      try bench.vcpu.writeState(state)
      // Code in some pages, tables among them.
      for page in UInt64(0)..<0x400 { bench.ram.clearPageFlags(.code, at: page * 4096) }
      if round % 3 == 0 {
        for _ in 0..<100 {
          bench.ram.setPageFlags(.code, at: random.next() % 0x400 * 4096)
        }
        bench.ram.setPageFlags(.code, at: Self.tables + random.next() % Self.tablePages * 4096)
      }
      for _ in 0..<150 {
        let address = Self.linear(&random)
        let write = random.next() % 2 == 0
        let access = Int(random.next() % 3)
        let before = bench.tableBytes
        let quick = bench.vcpu.probeTLB(linear: address, write: write, class: access, by: .refill)
        let quickBytes = bench.tableBytes
        // The long way behind a refill that declined leaves what the long way alone leaves.
        if quick == nil {
          _ = bench.vcpu.probeTLB(linear: address, write: write, class: access, by: .walk)
        }
        let combined = bench.tableBytes
        bench.memory.write(GuestAddress(Self.tables), before)
        let slow = try #require(
          bench.vcpu.probeTLB(linear: address, write: write, class: access, by: .walk))
        let slowBytes = bench.tableBytes
        #expect(combined == slowBytes, "seed \(seed) round \(round) \(String(address, radix: 16))")
        if let quick {
          #expect(quick == slow, "seed \(seed) round \(round) \(String(address, radix: 16))")
          #expect(quickBytes == slowBytes)
          done += 1
        } else if slow.faultCode != nil {
          faults += 1
        } else {
          // Device memory has no entry; else a table with code, or in ROM, stood in the way.
          #expect(!slow.reads || round % 3 == 0 || slow.logged == 1)
          declined += 1
        }
      }
    }
    // The generator reaches all three.
    #expect(done > 200 && faults > 200 && declined > 5, "\(done) \(faults) \(declined)")
  }

  @Test func outsideLongModeTheRefillDeclines() throws {
    let bench = try Bench()
    try bench.vcpu.writeState(TinyMachine.protectedMode(at: 0x1000))
    #expect(bench.vcpu.probeTLB(linear: 0x2000, write: true, class: 0, by: .refill) == nil)
    #expect(bench.vcpu.probeTLB(linear: 0x2000, write: true, class: 0, by: .walk)?.writes == true)
  }

  @Test func watchedPagesAndNonCanonicalAddressesAreDeclined() throws {
    let bench = try Bench()
    for n in UInt64(0)..<2 { bench.memory.store(GuestAddress(0x12000 + n * 8), n << 21 | 0x87) }
    bench.memory.store(GuestAddress(0x10000), UInt64(0x11007))
    bench.memory.store(GuestAddress(0x11000), UInt64(0x12007))
    var state = TinyMachine.longMode(at: 0x1000)
    state.debugAddresses[2] = 0x2FFC
    state.dr7 = 0x420 | 0x3 << 24  // accesses
    try bench.vcpu.writeState(state)
    for (address, known) in [
      (UInt64(0x1000), true), (0x2000, false), (0x3000, false), (0x4000, true),
      (0x8000_0000_0000, false), (0xFFFF_7FFF_FFFF_F000, false),
    ] {
      let probe = bench.vcpu.probeTLB(linear: address, write: false, class: 0, by: .refill)
      #expect((probe != nil) == known, "\(String(address, radix: 16))")
    }
  }

  @Test func refillFollowsChangedSlots() throws {
    let bench = try Bench()
    for n in UInt64(0)..<8 { bench.memory.store(GuestAddress(0x12000 + n * 8), n << 21 | 0x87) }
    bench.memory.store(GuestAddress(0x10000), UInt64(0x11007))
    bench.memory.store(GuestAddress(0x11000), UInt64(0x12007))
    try bench.vcpu.writeState(TinyMachine.longMode(at: 0x1000))
    func probe(_ address: UInt64) -> TLBProbe? {
      bench.vcpu.probeTLB(linear: address, write: true, class: 0, by: .refill)
    }
    #expect(probe(0x80_0000) == nil)
    #expect(probe(0x20_0000)?.writes == true)
    let more = try RAMBlock(name: "more", size: 8192)
    bench.memory.setSlots([
      MemorySlot(guest: GuestAddress(0), size: 0x20_0000, block: bench.ram),
      MemorySlot(guest: GuestAddress(0x80_0000), size: 8192, block: more),
    ])
    #expect(probe(0x80_0000)?.host == more.hostAddress)
    #expect(probe(0x20_0000) == nil)
  }
}

/// SplitMix64: small, seeded, good enough to draw cases from.
struct SplitMix {
  private var state: UInt64
  init(_ seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }
}
