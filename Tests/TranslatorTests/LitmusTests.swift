import CPU
import DeviceModel
import Host
import Shm
import Synchronization
import Testing
import Translator

/// What two vCPUs may see of each other's stores (Intel SDM vol. 3A, 9.2), in the interpreter and in translated code.
@Suite(.serialized) struct LitmusTests {
  struct Mode: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let tuning: TranslatorTuning
    static let all: [Mode] = {
      var once = TranslatorTuning()
      once.threshold = 0
      var tiny = once
      tiny.exactFlags = true
      tiny.tlbLimit = 2
      tiny.flushEvery = 50
      tiny.requestEvery = 7
      tiny.maximumInstructions = 2
      return [
        Mode(testDescription: "interpreter", tuning: .interpreter),
        Mode(testDescription: "translator", tuning: TranslatorTuning()),
        Mode(testDescription: "translated at once", tuning: once),
        Mode(testDescription: "tiny", tuning: tiny),
      ]
    }()
  }

  private static let x: UInt64 = 0x10_0000
  private static let y: UInt64 = 0x18_0000
  private static let results: [UInt64] = [0x20_0000, 0x28_0000]
  private static let barrier: UInt64 = 0x30_0000
  private static let rounds = 1500

  /// Two vCPUs with the same memory. Throws when one does not come to its HLT.
  private final class Pair {
    let memory = GuestMemory()
    private let vms: [any VirtualMachine]
    private let guest: LitmusGuest

    /// `apart`: each is the only vCPU of its machine, and knows nothing of the other.
    init(_ mode: Mode, apart: Bool = false) throws {
      let ram = try RAMBlock(name: "ram", size: 4 << 20)
      memory.setSlots([MemorySlot(guest: GuestAddress(0), size: 4 << 20, block: ram)])
      let vms = try (0..<(apart ? 2 : 1)).map { [memory] _ in
        try TCGAccelerator(tuning: mode.tuning).makeVM(memory: memory, cpuid: TinyMachine.cpuid)
      }
      self.vms = vms
      let vcpus = try (0..<2).map {
        let id = apart ? 0 : UInt32($0)
        return try vms[apart ? $0 : 0].makeVCPU(
          id: VCPUID(id), apicID: APICID(id), host: RecordingHost())
      }
      guest = LitmusGuest(memory, vcpus)
    }

    func run(_ programs: [[UInt8]], _ registers: [[Int: UInt64]]) throws {
      try guest.run(programs, registers)
    }

    func word(_ address: UInt64) -> UInt32 { memory.load(GuestAddress(address)) ?? 0 }
    func long(_ address: UInt64) -> UInt64 { memory.load(GuestAddress(address)) ?? 0 }
  }

  /// How often each pair of values was seen.
  private func outcomes(
    _ mode: Mode, _ first: [UInt8], _ second: [UInt8], crossed: Bool, apart: Bool = false
  ) throws -> [[UInt32]: Int] {
    let pair = try Pair(mode, apart: apart)
    var own: [Int: UInt64] = [
      7: Self.x, 6: Self.y, 3: Self.results[0], 8: Self.barrier, 9: 0, 1: UInt64(Self.rounds),
    ]
    var other = own
    own[3] = Self.results[0]
    other[3] = Self.results[1]
    if crossed { (other[7], other[6]) = (Self.y, Self.x) }
    try pair.run([first, second], [own, other])
    var seen: [[UInt32]: Int] = [:]
    for n in 0..<UInt64(Self.rounds) {
      let values =
        crossed
        ? [pair.word(Self.results[0] + n * 8), pair.word(Self.results[1] + n * 8)]
        : [pair.word(Self.results[1] + n * 8), pair.word(Self.results[1] + n * 8 + 4)]
      seen[values, default: 0] += 1
    }
    return seen
  }

  /// Store buffering: with a fence, or a locked exchange as the store, one of both sees the other's store.
  @Test(arguments: Mode.all)
  func fencedStoresAreSeenByOneOfBoth(_ mode: Mode) throws {
    let code = LitmusPrograms.storeFenceLoad
    let fenced = try outcomes(mode, code, code, crossed: true)
    #expect(fenced[[0, 0]] == nil, "\(fenced)")
    let exchange = LitmusPrograms.exchangeLoad
    let locked = try outcomes(mode, exchange, exchange, crossed: true)
    #expect(locked[[0, 0]] == nil, "\(locked)")
    #expect(fenced.values.reduce(0, +) == Self.rounds)
  }

  /// A driver's barrier holds against the threads of its device, which are no vCPUs: a locked instruction orders with one vCPU as well, or
  /// a driver and its device wait for each other for ever.
  @Test(arguments: Mode.all)
  func lockedInstructionsOrderWhereOneVCPUIsAlone(_ mode: Mode) throws {
    let code = LitmusPrograms.storeLockLoad
    let seen = try outcomes(mode, code, code, crossed: true, apart: true)
    #expect(seen[[0, 0]] == nil, "\(seen)")
    let pair = try Pair(mode, apart: true)
    let registers: [Int: UInt64] = [7: Self.x, 1: 20_000]
    try pair.run([LitmusPrograms.increment, LitmusPrograms.increment], [registers, registers])
    #expect(pair.long(Self.x) == 40_000)
  }

  /// Without a fence every outcome is allowed; values that nobody stored are not.
  @Test(arguments: Mode.all)
  func plainStoresGiveOnlyStoredValues(_ mode: Mode) throws {
    let code = LitmusPrograms.storeLoad
    let seen = try outcomes(mode, code, code, crossed: true)
    for (values, _) in seen { #expect(values.allSatisfy { $0 <= 1 }, "\(seen)") }
  }

  /// Message passing: who sees the second store sees the first.
  @Test(arguments: Mode.all)
  func storesAreSeenInTheirOrder(_ mode: Mode) throws {
    let seen = try outcomes(
      mode, LitmusPrograms.writeTwo, LitmusPrograms.readTwo, crossed: false)
    #expect(seen[[1, 0]] == nil, "\(seen)")
    #expect(seen.values.reduce(0, +) == Self.rounds)
  }

  /// Aligned, across a cache line, across a page.
  @Test(arguments: Mode.all, [0x10_0100, 0x10_013C, 0x10_0FFC] as [UInt64])
  func lockedAdditionsAreNotLost(_ mode: Mode, _ address: UInt64) throws {
    for (code, step) in [(LitmusPrograms.increment, 1), (LitmusPrograms.exchangeAdd, 3)] {
      let pair = try Pair(mode)
      let rounds = 20_000
      let registers: [Int: UInt64] = [7: address, 1: UInt64(rounds)]
      try pair.run([code, code], [registers, registers])
      #expect(pair.long(address) == UInt64(2 * rounds * step))
    }
  }

  @Test(arguments: Mode.all)
  func exchangesOf16BytesAreWhole(_ mode: Mode) throws {
    let pair = try Pair(mode)
    let registers: [Int: UInt64] = [7: Self.x, 1: 10_000]
    let code = LitmusPrograms.compareExchange16
    try pair.run([code, code], [registers, registers])
    #expect(pair.long(Self.x) == 20_000)
    #expect(pair.long(Self.x + 8) == 40_000)
  }

  @Test(arguments: Mode.all)
  func aSpinLockProtectsPlainStores(_ mode: Mode) throws {
    let pair = try Pair(mode)
    let registers: [Int: UInt64] = [7: Self.x, 6: Self.y, 1: 5000]
    let code = LitmusPrograms.spinLock
    try pair.run([code, code], [registers, registers])
    #expect(pair.long(Self.x) == 10_000)
    #expect(pair.word(Self.x + 64) == 50_000)
  }

  /// As Linux patches its text: INT3 over the first byte, then the rest, then the first byte, each time until the other vCPU went on.
  @Test(arguments: Mode.all)
  func codeIsPatchedUnderARunningVCPU(_ mode: Mode) throws {
    let pair = try Pair(mode)
    let function: UInt64 = 0x4_0000
    pair.memory.write(GuestAddress(function), [0xB8, 0, 0, 0, 0, 0xC3])
    let registers: [Int: UInt64] = [
      7: function, 8: Self.x, 9: Self.x + 64, 10: Self.x + 128, 11: Self.x + 192, 1: 60,
    ]
    try pair.run([LitmusPrograms.runner, LitmusPrograms.patcher], [registers, registers])
    // 0x77: the new code was not executed; odd otherwise: a torn instruction.
    #expect(pair.word(Self.x + 64) == 0)
    #expect(pair.word(Self.x + 192) == 60 &* 0x0101_0101)
  }
}
