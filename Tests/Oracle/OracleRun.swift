import COracle
import Glibc

/// One run of one set.
package final class OracleRun {
  struct Case {
    var instructions: [OracleInstruction]
    var registers: [UInt64]
    var flags: UInt64
    var xsave: [UInt8]

    var code: [UInt8] {
      var code = instructions.flatMap(\.bytes) + [0xCC]
      while code.count < 96 { code.append(0xCC) }
      return code
    }
    var undefinedFlags: UInt64 { instructions.last?.undefinedFlags ?? 0 }
  }

  static let batch = 64
  let set: OracleSet
  let seed: UInt64
  var generator: OracleGenerator
  let guest: OracleGuest
  private let host: OracleHostCPU
  private var data: [UInt8] { host.data }
  package private(set) var count = 0

  package init(set: OracleSet, seed: UInt64) throws {
    self.set = set
    self.seed = seed
    generator = OracleGenerator(seed: seed ^ UInt64(set.rawValue.utf8.count) << 32)
    guest = try OracleGuest()
    host = try OracleHostCPU(capacity: Self.batch, writableCode: false)
  }

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
  package func run(cases: Int, seconds: Int, limit: Int) throws -> [String] {
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

  private func native(_ list: [Case]) throws -> [OracleOutcome?] {
    try host.run(
      list.map {
        OracleHostCPU.Piece(
          code: $0.code, offset: 0, registers: $0.registers, flags: $0.flags, xsave: $0.xsave)
      })
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
    if expected.xsave != got.xsave {
      text += OracleHostCPU.compareXSAVE(
        expected.xsave, got.xsave, names: ("host", "interpreter"))
    }
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
