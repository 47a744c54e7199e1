import COracle
import CX86
import Oracle
import Testing
import Translator

/// The decoder and `InstructionFacts` against Zydis 4 (Debian packages libzydis4.0 and, to build, libzydis-dev): lengths, flags,
/// operands. `deliberate` names every difference that is meant.
@Suite(.enabled(if: zydis4_open() != 0)) struct InstructionFactsTests {
  enum Field: String {
    case length, undefined, flagsRead, flagsWritten, reg, rm, vvvv, memory, implicitRead,
      implicitWritten
  }

  struct Difference: Hashable, CustomStringConvertible {
    var name: String
    var field: Field
    var description: String { "\(name) \(field.rawValue)" }
  }

  /// Instructions and fields in which we say something else than Zydis, and why.
  /// " cl": with a variable count; " 0": with a count that is 0 after masking; " rep": repeated.
  private static let deliberate: [(reason: String, field: Field, names: String)] = [
    ("a source of 0 keeps the destination", .reg, "bsf,bsr"),
    ("by CL: flags are kept when the count is 0", .flagsRead, byCL),
    ("by CL: flags are kept when the count is 0", .flagsWritten, byCL),
    ("a count of 0 keeps all flags", .flagsRead, byZero),
    ("a count of 0 keeps all flags", .flagsWritten, byZero),
    ("repeated 0 times, flags are kept", .flagsRead, repeated),
    ("repeated 0 times, flags are kept", .flagsWritten, repeated),
    (
      "Zydis leaves out that RSI and RDI advance", .implicitWritten,
      "cmpsb,cmpsw,cmpsd,cmpsq,scasb,scasw,scasd,scasq," + repeated
    ),
    (
      "part of the register is kept", .implicitRead,
      "cwd,imul,mul,lahf,fnstsw,lodsb,lodsw,lodsb rep,lodsw rep"
    ),
    ("repeated 0 times, the register is kept", .implicitRead, "lodsd rep,lodsq rep"),
    ("RSP is taken from RBP, not read", .implicitRead, "leave"),
    (
      "the flags change only when no unmasked exception is raised", .flagsRead,
      "fcomi,fcomip,fucomi,fucomip"
    ),
    (
      "the flags change only when no unmasked exception is raised", .flagsWritten,
      "fcomi,fcomip,fucomi,fucomip"
    ),
    ("the result is extended to 64 bits whatever REX.W says", .rm, wideRM),
    (
      "the result is extended to 64 bits whatever REX.W says", .reg,
      "pextrw,vpextrw,pmovmskb,vpmovmskb,movmskps,movmskpd,vmovmskps,vmovmskpd"
    ),
    (
      "OF SF AF PF become 0 as with PTEST (SDM vol. 2C, VTESTPD)", .flagsWritten,
      "vptest,vtestps,vtestpd"
    ),
    ("F3 49 90 exchanges R8 and RAX: seen on a processor", .rm, "pause"),
    ("F3 49 90 exchanges R8 and RAX: seen on a processor", .implicitRead, "pause"),
    ("F3 49 90 exchanges R8 and RAX: seen on a processor", .implicitWritten, "pause"),
    (
      "registers that do not exist are found out at execution", .undefined,
      "movFromControl,movToControl,movFromDebug,movToDebug"
    ),
    (
      "VPERMQ and VPERMPD with W clear: the host decides, and AMD's execute them", .undefined,
      "vector 3 0 1,vector 3 1 1"
    ),
    ("MPX, which is not offered: a NOP", .undefined, "nop"),
  ]
  private static let byCL =
    "rol cl,ror cl,rcl cl,rcr cl,shl cl,shr cl,sar cl,shld cl,shrd cl"
  private static let byZero = "rol 0,ror 0,rcl 0,rcr 0,shl 0,shr 0,sar 0,shld 0,shrd 0"
  private static let repeated =
    "cmpsb rep,cmpsw rep,cmpsd rep,cmpsq rep,scasb rep,scasw rep,scasd rep,scasq rep"
  private static let wideRM =
    "extractps,vextractps,pextrb,vpextrb,pextrw,vpextrw,pinsrb,vpinsrb,pinsrw,vpinsrw"

  private static let isDeliberate: Set<Difference> = Set(
    deliberate.flatMap { row in
      row.names.split(separator: ",").map { Difference(name: String($0), field: row.field) }
    })

  /// RFLAGS bits as those of `InstructionFacts`.
  private static func flags(_ bits: UInt32) -> UInt8 {
    let order: [UInt32] = [0, 2, 4, 6, 7, 11]
    return order.enumerated().reduce(0) { $0 | UInt8(bits >> $1.element & 1) << $1.offset }
  }

  private static func role(_ o: Zydis4Operand) -> InstructionFacts.Role {
    switch o.kind {
    case 1:
      let read = o.actions & UInt8(ZYDIS4_READ | ZYDIS4_CONDITIONAL_READ) != 0
      let conditional = o.actions & UInt8(ZYDIS4_CONDITIONAL_WRITE) != 0
      let write = conditional || o.actions & UInt8(ZYDIS4_WRITE) != 0
      return read || conditional ? (write ? .readWrite : .read) : write ? .write : .none
    default: return .none
    }
  }

  /// What tells forms of an instruction apart whose flags differ.
  private static func suffix(_ i: X86Instruction) -> String {
    let size = i.operandSize
    switch (i.map, i.opcode) {
    case (0, 0xD2...0xD3), (1, 0xA5), (1, 0xAD): return " cl"
    case (0, 0xC0...0xC1), (1, 0xA4), (1, 0xAC):
      let count = i.immediate & (size == 8 ? 63 : 31)
      let isThroughCarry = i.map == 0 && i.modrm >> 3 & 6 == 2 && size < 4
      return count == 0 || isThroughCarry && count % (UInt64(size) * 8 + 1) == 0 ? " 0" : ""
    case (0, 0xA4...0xA7), (0, 0xAA...0xAF):
      return i.prefixes & UInt8(X86_PREFIX_F2 | X86_PREFIX_F3) != 0 ? " rep" : ""
    default: return ""
    }
  }

  /// What differs for one encoding.
  private func differences(_ bytes: [UInt8]) -> [(Difference, String)] {
    var i = X86Instruction()
    var z = Zydis4Instruction()
    let isInstruction = zydis4_decode(bytes, bytes.count, &z) == 0
    guard Decoder.decode(bytes, available: bytes.count, codeSize: 8, into: &i) == .done else {
      return []
    }
    if i.handler == Operation.vector.rawValue, !VectorEngine.prepare(&i) {
      i.handler = Operation.undefined.rawValue
    }
    let name = withUnsafeBytes(of: &z.name) { raw in
      String(decoding: raw.prefix { $0 != 0 }, as: UTF8.self)
    }
    // What we do not offer may be an instruction elsewhere.
    if i.handler == Operation.undefined.rawValue || i.handler == Operation.overlong.rawValue {
      return []
    }
    var result: [(Difference, String)] = []
    func differ(_ field: Field, _ ours: Any, _ theirs: Any) {
      result.append(
        (Difference(name: name + Self.suffix(i), field: field), "\(ours), Zydis \(theirs)"))
    }
    guard isInstruction else {
      var label = Operation(rawValue: i.handler).map { "\($0)" } ?? ""
      if label == "vector" { label += " \(i.map) \(String(i.opcode, radix: 16)) \(i.pp)" }
      return [(Difference(name: label, field: .undefined), "")]
    }
    if i.length != z.length { differ(.length, i.length, z.length) }
    let facts = InstructionFacts.of(&i, features: UInt64.max, vectorFeatures: UInt64.max)
    let read = Self.flags(z.tested)
    let written = Self.flags(z.written)
    if facts.kind == .special {
      // The safe side is enough.
      if read & ~facts.flagsRead != 0 { differ(.flagsRead, facts.flagsRead, read) }
      if facts.flagsWritten & ~written != 0 { differ(.flagsWritten, facts.flagsWritten, written) }
      if z.implicitRead & ~facts.implicitRead != 0 {
        differ(.implicitRead, facts.implicitRead, z.implicitRead)
      }
      if z.implicitWritten & ~facts.implicitWritten != 0 {
        differ(.implicitWritten, facts.implicitWritten, z.implicitWritten)
      }
      return result
    }
    if facts.flagsRead != read { differ(.flagsRead, facts.flagsRead, read) }
    if facts.flagsWritten != written { differ(.flagsWritten, facts.flagsWritten, written) }
    if facts.implicitRead != z.implicitRead {
      differ(.implicitRead, facts.implicitRead, z.implicitRead)
    }
    if facts.implicitWritten != z.implicitWritten {
      differ(.implicitWritten, facts.implicitWritten, z.implicitWritten)
    }
    if facts.isNothing { return result }
    func compare(
      _ field: Field, _ role: InstructionFacts.Role, _ size: UInt8, _ number: UInt8,
      _ operand: Zydis4Operand
    ) {
      let theirs = Self.role(operand)
      // Only general registers matter.
      if (role == .vector ? .none : role) != theirs {
        differ(field, role, theirs)
      } else if role != .none, role != .vector {
        if UInt16(size) != operand.bytes { differ(field, "size \(size)", operand.bytes) }
        // AH to BH are 4 to 7 of size 1 without REX.
        let isHigh = size == 1 && i.rex == 0 && number >= 4 && number < 8
        let whole = isHigh ? number & 3 : number
        if whole != operand.number { differ(field, "register \(whole)", operand.number) }
      }
    }
    compare(.reg, facts.regRole, facts.regSize, facts.reg, z.reg)
    compare(.rm, facts.rmRole, facts.rmSize, facts.rm, z.rm)
    compare(.vvvv, facts.vvvvRole, facts.vvvvSize, facts.vvvv, z.vvvv)
    var access: UInt8 = 0
    if z.rm.kind == 2 {
      if z.rm.actions & UInt8(ZYDIS4_READ | ZYDIS4_CONDITIONAL_READ) != 0 { access |= 1 }
      if z.rm.actions & UInt8(ZYDIS4_WRITE | ZYDIS4_CONDITIONAL_WRITE) != 0 { access |= 2 }
    }
    let size = access == 0 ? 0 : z.rm.bytes
    if facts.access != access || facts.bytes != size {
      differ(.memory, "\(facts.access) \(facts.bytes)", "\(access) \(size)")
    }
    return result
  }

  private func check(_ count: Int, _ make: (Int) -> [UInt8]) {
    var found: [Difference: (String, Int)] = [:]
    for n in 0..<count {
      let bytes = make(n)
      for (difference, text) in differences(bytes) where !Self.isDeliberate.contains(difference) {
        let shown = bytes.prefix(15).map { String($0, radix: 16) }.joined(separator: " ")
        found[difference, default: ("\(text): \(shown)", 0)].1 += 1
      }
    }
    for (difference, (text, count)) in found.sorted(by: { "\($0.key)" < "\($1.key)" }) {
      Issue.record("\(difference): \(text) (\(count) times)")
    }
  }

  @Test(arguments: OracleSet.allCases)
  func generatedInstructionsAgreeWithZydis(_ set: OracleSet) {
    var generator = OracleGenerator(seed: 0x9E37_79B9)
    check(60_000) { _ in
      var bytes = generator.instruction(set, at: ORACLE_CODE).bytes
      bytes += (0..<15).map { _ in generator.random.byte() }
      return bytes
    }
  }

  @Test func randomBytesAgreeWithZydis() {
    var random = OracleRandom(seed: 0x1234_5678)
    let prefixes: [UInt8] = [0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x2E, 0x64, 0x65, 0x40, 0x48, 0x4F]
    check(300_000) { _ in
      var bytes: [UInt8] = []
      while random.chance(40) { bytes.append(random.pick(prefixes)) }
      if random.chance(40) { bytes.append(0x0F) }
      bytes += (0..<16).map { _ in random.byte() }
      return bytes
    }
  }
}
