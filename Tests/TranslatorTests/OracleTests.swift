import COracle
import Glibc
import Testing

/// The host CPU is the judge: random instructions run natively in a child process and in the interpreter's user mode, and must
/// leave the same registers, defined flags, vector and x87 state, memory, and the same exception at the same place.
///
/// `GOLIATH_ORACLE_CASES` sets the number of cases of each set (otherwise a few seconds' worth), `GOLIATH_ORACLE_SEED` the seed.
@Suite(.serialized) struct OracleTests {
  @Test(arguments: OracleSet.allCases)
  func interpreterAgreesWithTheHost(_ set: OracleSet) throws {
    let seed = environment("GOLIATH_ORACLE_SEED") ?? UInt64(time(nil)) &* 0x9E37_79B9
    let cases = environment("GOLIATH_ORACLE_CASES").map { Int($0) }
    let limit = environment("GOLIATH_ORACLE_FAILURES").map { Int($0) } ?? 8
    if set == .avx, oracle_components() & 4 == 0 { return }
    let oracle = try OracleRun(set: set, seed: seed)
    let failures = try oracle.run(
      cases: cases ?? Int.max, seconds: cases == nil ? 4 : 3600, limit: limit)
    print("oracle \(set.rawValue): seed \(seed), \(oracle.count) cases, \(failures.count) failures")
    for failure in failures { Issue.record("\(failure)") }
    #expect(oracle.count > 100)
  }

  private func environment(_ name: String) -> UInt64? {
    guard let text = unsafe getenv(name) else { return nil }
    return UInt64(unsafe String(cString: text))
  }
}

/// One run of one set.
final class OracleRun {
  struct Case {
    var instructions: [OracleInstruction]
    var registers: [UInt64]
    var flags: UInt64
    var xsave: [UInt8]

    var code: [UInt8] {
      var code = instructions.flatMap(\.bytes) + [0xCC]
      while code.count < Int(ORACLE_CODE_BYTES) { code.append(0xCC) }
      return code
    }
    var undefinedFlags: UInt64 { instructions.last?.undefinedFlags ?? 0 }
  }

  static let batch = 64
  let set: OracleSet
  let seed: UInt64
  var generator: OracleGenerator
  let guest: OracleGuest
  var process: OpaquePointer
  let data: [UInt8]
  private(set) var count = 0

  init(set: OracleSet, seed: UInt64) throws {
    self.set = set
    self.seed = seed
    generator = OracleGenerator(seed: seed ^ UInt64(set.rawValue.utf8.count) << 32)
    guest = try OracleGuest()
    process = try #require(unsafe oracle_start(Self.batch))
    data = unsafe Array(
      UnsafeBufferPointer(start: oracle_data(process), count: Int(ORACLE_DATA_BYTES)))
  }

  deinit { unsafe oracle_stop(process) }

  private func makeCase() -> Case {
    var instructions: [OracleInstruction] = []
    var address = UInt64(ORACLE_CODE)
    let wanted = 1 + generator.random.below(4)
    while instructions.count < wanted {
      let next = generator.instruction(set, at: address)
      if next.bytes.count > 15 { continue }
      instructions.append(next)
      address += UInt64(next.bytes.count)
      // What follows must not depend on undefined flags.
      if next.undefinedFlags != 0 || address > UInt64(ORACLE_CODE) + 70 { break }
    }
    return Case(
      instructions: instructions, registers: generator.registers(set), flags: generator.flags(),
      xsave: generator.xsave(set))
  }

  /// Runs until `cases` or `seconds` are over or `limit` failures were found; returns what to report about each.
  func run(cases: Int, seconds: Int, limit: Int) throws -> [String] {
    var failures: [String] = []
    let end = time(nil) + seconds
    while count < cases, failures.count < limit, time(nil) < end {
      let list = (0..<min(Self.batch, cases - count)).map { _ in makeCase() }
      let outcomes = try native(list)
      for (one, expected) in zip(list, outcomes) {
        count += 1
        guard let expected else { continue }
        let difference = try compare(one, expected)
        if difference.isEmpty { continue }
        if let text = try report(one, difference) { failures.append(text) }
        if failures.count >= limit { break }
      }
    }
    return failures
  }

  // MARK: - The host

  /// Nil for cases that killed the child.
  private func native(_ list: [Case]) throws -> [OracleOutcome?] {
    let slots = unsafe oracle_cases(process)
    for (n, one) in list.enumerated() {
      unsafe fill(&slots[n], one)
    }
    let result = unsafe oracle_run(process, list.count)
    if result != 0 {
      // The child died: leave that case out and run the others one after the other.
      unsafe oracle_stop(process)
      process = try #require(unsafe oracle_start(Self.batch))
      if list.count == 1 { return [nil] }
      return try list.flatMap { try native([$0]) }
    }
    return list.indices.map { unsafe outcome(slots[$0], oracle_result_data(process, $0)) }
  }

  private func fill(_ slot: inout OracleCase, _ one: Case) {
    unsafe withUnsafeMutableBytes(of: &slot.before.gpr) { bytes in
      for n in 0..<16 {
        unsafe bytes.storeBytes(of: one.registers[n], toByteOffset: n * 8, as: UInt64.self)
      }
    }
    slot.before.rflags = one.flags
    unsafe withUnsafeMutableBytes(of: &slot.before.xsave) { unsafe $0.copyBytes(from: one.xsave) }
    unsafe withUnsafeMutableBytes(of: &slot.code) { unsafe $0.copyBytes(from: one.code) }
  }

  private func outcome(_ slot: OracleCase, _ data: UnsafePointer<UInt8>) -> OracleOutcome {
    let after = slot.after
    let registers = unsafe withUnsafeBytes(of: after.gpr) { bytes in
      (0..<16).map { unsafe bytes.load(fromByteOffset: $0 * 8, as: UInt64.self) }
    }
    let writable = Int(ORACLE_DATA_BYTES) - 4096
    return OracleOutcome(
      registers: registers, rip: after.rip, flags: after.rflags, vector: after.vector,
      error: after.error, faultAddress: after.cr2,
      xsave: unsafe withUnsafeBytes(of: after.xsave) { unsafe Array($0) },
      data: unsafe Array(UnsafeBufferPointer(start: data, count: writable)))
  }

  // MARK: - Comparison

  /// Empty when interpreter and host agree.
  private func compare(_ one: Case, _ expected: OracleOutcome) throws -> String {
    let (outcome, problem) = try guest.run(
      code: one.code, registers: one.registers, flags: one.flags, xsave: one.xsave, data: data)
    guard let got = outcome else { return problem }
    var text = ""
    func differ(_ name: String, _ a: UInt64, _ b: UInt64) {
      if a != b {
        text += " \(name): host \(String(a, radix: 16)), interpreter \(String(b, radix: 16));"
      }
    }
    // With a locked CMPXCHG8B at a non-canonical stack address hosts differ between #SS and #GP.
    let isWideExchange = one.instructions.contains { $0.name == "cmpxchg8b" }
    func seen(_ vector: UInt64) -> UInt64 { isWideExchange && vector == 12 ? 13 : vector }
    differ("vector", seen(expected.vector), seen(got.vector))
    differ("rip", expected.rip, got.rip)
    if expected.vector == got.vector {
      switch expected.vector {
      case 14:
        // Bit 0 tells whether something is mapped, which differs outside the data pages.
        let bits: UInt64 = one.instructions.contains { $0.name == "fxsave" } ? 0x1C : 0x1E
        differ("error", expected.error & bits, got.error & bits)
        // Processors touch the parts of large operands in orders of their own.
        let isLarge = one.instructions.contains { $0.name == "fxsave" }
        let isByteWise = one.instructions.contains { $0.name == "maskmov" }
        let mask: UInt64 = isLarge ? 0 : set == .x87 || isByteWise ? ~0xFFF : UInt64.max
        differ("cr2", expected.faultAddress & mask, got.faultAddress & mask)
      case 10, 11, 12, 13, 17: differ("error", expected.error, got.error)
      default: break
      }
    }
    // After a fault the flags are those before the instruction: all are defined.
    let isEnd = expected.vector == 3
    let mask = 0xCD5 & ~(isEnd ? one.undefinedFlags : 0)
    differ("flags", expected.flags & mask, got.flags & mask)
    let names = [
      "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
      "r13",
      "r14", "r15",
    ]
    for n in 0..<16 { differ(names[n], expected.registers[n], got.registers[n]) }
    if expected.xsave != got.xsave { text += compareXSAVE(expected.xsave, got.xsave) }
    if expected.data != got.data {
      let ignored = one.instructions.compactMap(\.ignoredMemory)
      for n in expected.data.indices
      where expected.data[n] != got.data[n] && !ignored.contains(where: { $0.contains(n) }) {
        differ("memory+\(String(n, radix: 16))", UInt64(expected.data[n]), UInt64(got.data[n]))
        break
      }
    }
    return text
  }

  private func compareXSAVE(_ a: [UInt8], _ b: [UInt8]) -> String {
    var text = ""
    func field(_ name: String, _ range: Range<Int>) {
      if a[range] == b[range] { return }
      func hex(_ bytes: ArraySlice<UInt8>) -> String {
        bytes.reversed().map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
      }
      text += " \(name): host \(hex(a[range])), interpreter \(hex(b[range]));"
    }
    field("fcw", 0..<2)
    field("fsw", 2..<4)
    field("ftw", 4..<5)
    // Some processors save the pointers only while an exception is pending.
    if a[2] & 0x80 != 0 {
      field("fop", 6..<8)
      field("fip", 8..<16)
      field("fdp", 16..<24)
    }
    field("mxcsr", 24..<28)
    for n in 0..<8 { field("st\(n)", (32 + n * 16)..<(42 + n * 16)) }
    for n in 0..<16 { field("xmm\(n)", (160 + n * 16)..<(176 + n * 16)) }
    for n in 0..<16 { field("ymmh\(n)", (576 + n * 16)..<(592 + n * 16)) }
    return text
  }

  // MARK: - Reports

  /// The shortest part of the case that still fails, as bytes to disassemble with `objdump -D -b binary -mi386:x86-64`.
  private func report(_ one: Case, _ difference: String) throws -> String? {
    var smallest = one
    var text = difference
    var isReproduced = false
    var candidates = one.instructions.map { [$0] }
    for length in 1...one.instructions.count {
      candidates.append(Array(one.instructions.prefix(length)))
    }
    for candidate in candidates {
      var part = one
      part.instructions = candidate
      guard let expected = try native([part]).first ?? nil else { continue }
      let found = try compare(part, expected)
      if !found.isEmpty {
        smallest = part
        text = found
        isReproduced = true
        break
      }
    }
    // The kernel may have switched tasks in the midst of the first run, and lost x87 pointers.
    if !isReproduced { return nil }
    let code = smallest.instructions.flatMap(\.bytes).map {
      ($0 < 16 ? "0" : "") + String($0, radix: 16)
    }
    let names = smallest.instructions.map(\.name).joined(separator: ", ")
    return "\(set.rawValue) case \(count) [\(names)] \(code.joined(separator: " ")):\(text)"
  }
}
