import COracle
import Translator

/// Runs sequences on the host and in the software CPU, and compares.
final class SequenceRunner {
  struct Failure {
    var mode: String
    var text: String
  }

  let hosts: OracleHostCPU
  private var guests: [String: OracleGuest] = [:]
  static let batch = 64

  init(capacity: Int = SequenceRunner.batch) throws {
    hosts = try OracleHostCPU(capacity: capacity, writableCode: true)
  }

  /// The guest of a mode; made at its first use, and used for all sequences, so that one finds what another left.
  private func guest(_ mode: SequenceMode, _ kind: Sequence.Kind) throws -> OracleGuest {
    let key = "\(mode.name) \(kind.rawValue)"
    if let guest = guests[key] { return guest }
    let guest = try OracleGuest(
      tuning: mode.tuning, writableCode: true, extraPages: kind == .machine)
    guests[key] = guest
    return guest
  }

  // MARK: - The judges

  private func piece(_ sequence: Sequence) -> OracleHostCPU.Piece {
    OracleHostCPU.Piece(
      code: sequence.layout().code, offset: sequence.offset, registers: sequence.registers,
      flags: sequence.flags, xsave: sequence.xsave)
  }

  /// Runs on the host and takes away most instructions that end a sequence early, so that long runs remain. The choice depends on
  /// the sequence's number only. Nil: endless, or deadly.
  func judge(_ list: inout [Sequence], lengthen: Bool = true) throws -> [OracleOutcome?] {
    var outcomes = [OracleOutcome?](repeating: nil, count: list.count)
    var pending = list.indices.filter { list[$0].kind == .host }
    for round in 0..<24 where !pending.isEmpty {
      var again: [Int] = []
      var start = 0
      while start < pending.count {
        let part = pending[start..<min(start + Self.batch, pending.count)]
        let results = try hosts.run(part.map { piece(list[$0]) })
        for (index, result) in zip(part, results) {
          // Where an endless one was when it was stopped is a matter of time, not of its number.
          let isEndless = result?.vector == UInt64(ORACLE_ENDLESS)
          outcomes[index] = isEndless ? nil : result
          guard lengthen, round < 23, let result, !isEndless else { continue }
          if shorten(&list[index], result, round) { again.append(index) }
        }
        start += Self.batch
      }
      pending = again
    }
    return outcomes
  }

  /// Takes away the instruction that raised an exception, mostly. Whether it did.
  private func shorten(_ sequence: inout Sequence, _ outcome: OracleOutcome, _ round: Int) -> Bool {
    let starts = sequence.layout().starts
    let found = sequence.item(at: outcome.rip, vector: outcome.vector, starts: starts)
    guard let index = found.index, !sequence.items[index].isPinned else { return false }
    // Every fourth keeps its fault.
    if sequence.number / 2 & 3 == 0 { return false }
    if sequence.items[index].cleansFlags {
      // cmp eax, ecx
      if sequence.items[index].bytes == [0x39, 0xC8] { return false }
      sequence.items[index].bytes = [0x39, 0xC8]
      sequence.items[index].fixups = []
    } else {
      sequence.items.remove(at: index)
    }
    return true
  }

  // MARK: - Runs

  /// Runs in a mode; nil: endless.
  func run(
    _ sequence: Sequence, _ mode: SequenceMode, patience: Int = 20
  ) throws -> (outcome: OracleOutcome?, problem: String) {
    try guest(mode, sequence.kind).run(
      code: sequence.layout().code, offset: sequence.offset, registers: sequence.registers,
      flags: sequence.flags, xsave: sequence.xsave, data: hosts.data, patience: patience)
  }

  /// Checks a judged sequence in the interpreter and these modes. `expected`: of the host, for its kind.
  func check(
    _ sequence: Sequence, _ expected: OracleOutcome?, _ modes: [SequenceMode],
    entering: (String) -> Void = { _ in }
  ) throws -> Failure? {
    var judge = expected
    var judgeName = "host"
    if sequence.kind == .host, judge == nil { return nil }
    entering(SequenceMode.interpreter.name)
    let isHost = sequence.kind == .host
    let (own, problem) = try run(sequence, .interpreter, patience: isHost ? 20 : 1)
    guard let own else {
      return judge == nil ? nil : Failure(mode: "interpreter", text: problem)
    }
    if let given = judge, !SequenceRunner.tookNarrowBranch(given, own) {
      let licensed = SequenceRunner.withLicence(sequence, given, own)
      judge = licensed
      let text = compare(
        sequence, licensed, own, exactFlags: true, names: (judgeName, "interpreter"))
      if !text.isEmpty { return Failure(mode: "interpreter", text: text) }
    } else {
      judge = own
      judgeName = "interpreter"
    }
    guard let judge else { return nil }
    let changesFlagUse = sequence.items.contains { $0.changesFlagUse }
    for mode in modes where mode.tuning.exactFlags || !changesFlagUse {
      // A REP that overwrites itself through another mapping goes on until it is interrupted: there both are right.
      let hasString = sequence.items.contains { $0.name == "string" }
      if mode.tuning.requestEvery != 0, sequence.kind == .machine, hasString { continue }
      entering(mode.name)
      let isSlow = mode.tuning.flushEvery != 0
      let (outcome, problem) = try run(sequence, mode, patience: isSlow ? 4 : 20)
      // Emptying everything at every other step makes a long loop too slow to wait for.
      if isSlow, outcome == nil, problem == OracleGuest.endless { continue }
      guard let outcome else { return Failure(mode: mode.name, text: problem) }
      var judge = judge
      // Translated code has the host's x87 addresses of its own code, or none: they are not compared.
      judge.xsave.replaceSubrange(6..<24, with: outcome.xsave[6..<24])
      let text = compare(
        sequence, judge, outcome, exactFlags: mode.tuning.exactFlags,
        names: (judgeName, mode.name))
      if !text.isEmpty { return Failure(mode: mode.name, text: text) }
    }
    return nil
  }

  // MARK: - Comparison

  /// Whether the host got lost by a near branch with an operand-size prefix, which ends below 64 KiB on AMD's processors and which Intel's (and ours)
  /// take as one without the prefix. Such are not generated, but code that changes itself, or is entered in the middle, may have one.
  private static func tookNarrowBranch(_ host: OracleOutcome, _ own: OracleOutcome) -> Bool {
    host.vector == 14 && host.rip <= 0xFFFF && host.faultAddress == host.rip && own.rip != host.rip
      && host.code.indices.contains { isNarrowBranch(host.code[$0...]) }
  }

  /// Whether an instruction that begins so is a near branch behind an operand-size prefix.
  private static func isNarrowBranch(_ code: ArraySlice<UInt8>) -> Bool {
    guard code.first == 0x66 else { return false }
    let prefixes: Set<UInt8> = [0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF2, 0xF3]
    var rest = code.dropFirst().drop { prefixes.contains($0) }
    if let rex = rest.first, rex & 0xF0 == 0x40 { rest = rest.dropFirst() }
    guard let opcode = rest.first, let next = rest.dropFirst().first else { return false }
    switch opcode {
    case 0x70...0x7F, 0xC2, 0xC3, 0xE0...0xE3, 0xE8, 0xE9, 0xEB: return true
    case 0x0F: return next & 0xF0 == 0x80
    case 0xFF: return [2, 4].contains(next >> 3 & 7)
    default: return false
    }
  }

  /// The host's outcome, with the interpreter's in what processors do in ways of their own: which operand of a CMPS they read first, when neither can be
  /// read (AMD's the one at RDI); whether the trap of INT1 shows the instruction (AMD's, as a guest) or the next one.
  private static func withLicence(
    _ sequence: Sequence, _ host: OracleOutcome, _ own: OracleOutcome
  ) -> OracleOutcome {
    var outcome = host
    let (index, _) = sequence.item(
      at: own.rip, vector: own.vector, starts: sequence.layout().starts)
    let isFault = [13, 14].contains(host.vector) && [13, 14].contains(own.vector)
    if isFault, host.rip == own.rip, let index, sequence.items[index].name == "string",
      let opcode = sequence.items[index].bytes.last, opcode & 0xFE == 0xA6
    {
      outcome.vector = own.vector
      outcome.error = own.error
      outcome.faultAddress = own.faultAddress
    }
    if host.vector == 1, own.vector == 1, (1...15).contains(own.rip &- host.rip),
      sequence.items.contains(where: { $0.bytes.contains(0xF1) })
    {
      outcome.rip = own.rip
    }
    return outcome
  }

  private static let names = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
    "r13", "r14", "r15",
  ]

  /// Empty when both agree in all that is defined.
  func compare(
    _ sequence: Sequence, _ expected: OracleOutcome, _ got: OracleOutcome, exactFlags: Bool,
    names: (String, String)
  ) -> String {
    var text = ""
    func differ(_ name: String, _ a: UInt64, _ b: UInt64) {
      if a == b { return }
      text += "\n  \(name): \(names.0) \(String(a, radix: 16)), \(names.1) \(String(b, radix: 16))"
    }
    let starts = sequence.layout().starts
    let (index, undefined) = sequence.item(
      at: expected.rip, vector: expected.vector, starts: starts)
    let culprit = index.map { sequence.items[$0].name } ?? ""
    // With a locked CMPXCHG8B at a non-canonical stack address hosts differ between #SS and #GP.
    func seen(_ vector: UInt64) -> UInt64 { culprit == "cmpxchg8b" && vector == 12 ? 13 : vector }
    differ("vector", seen(expected.vector), seen(got.vector))
    differ("rip", expected.rip, got.rip)
    if expected.vector == got.vector {
      switch expected.vector {
      case 14:
        // The host tells less of bit 0: whether something is mapped differs outside the data pages.
        let bits: UInt64 = sequence.kind == .host ? 0x1E : 0x1F
        differ("error", expected.error & bits, got.error & bits)
        // Processors touch the parts of large operands in orders of their own.
        let isCoarse = culprit == "x87" || culprit == "maskmov"
        let mask: UInt64 = isCoarse ? ~0xFFF : UInt64.max
        differ("cr2", expected.faultAddress & mask, got.faultAddress & mask)
      case 10, 11, 12, 13, 17: differ("error", expected.error, got.error)
      default: break
      }
    }
    var mask: UInt64 = 0xCD5 & ~undefined
    // A fault may show flags that nothing would have read.
    if !exactFlags, expected.vector != 1, expected.vector != 3 { mask &= 0x400 }
    // Code that changed itself ended at an instruction nobody generated: what came before may leave any flags undefined.
    let code = sequence.layout().code
    let changed =
      !expected.code.isEmpty && !expected.code.dropFirst(sequence.offset).starts(with: code)
    if index == nil, changed { mask &= 0x400 }
    differ("flags", expected.flags & mask, got.flags & mask)
    for n in 0..<16 { differ(Self.names[n], expected.registers[n], got.registers[n]) }
    if expected.xsave != got.xsave {
      let difference = OracleHostCPU.compareXSAVE(expected.xsave, got.xsave, names: names)
      if !difference.isEmpty { text += "\n " + difference }
    }
    func compareMemory(_ name: String, _ base: UInt64, _ a: [UInt8], _ b: [UInt8]) {
      if a == b { return }
      guard let first = a.indices.first(where: { $0 >= b.count || a[$0] != b[$0] }) else { return }
      let last = a.indices.last { $0 >= b.count || a[$0] != b[$0] } ?? first
      let part = first...min(last, first + 15)
      func hex(_ bytes: [UInt8]) -> String {
        part.map { $0 < bytes.count ? SequenceReport.hex(bytes[$0]) : "--" }.joined(separator: " ")
      }
      text += "\n  \(name) \(String(base + UInt64(first), radix: 16))"
      text += " (to \(String(base + UInt64(last), radix: 16))):"
      text += " \(names.0) \(hex(a)), \(names.1) \(hex(b))"
    }
    compareMemory("data", UInt64(ORACLE_DATA), expected.data, got.data)
    compareMemory("code", UInt64(ORACLE_CODE), expected.code, got.code)
    if sequence.kind == .machine { differ("device accesses", expected.device, got.device) }
    return text
  }
}
