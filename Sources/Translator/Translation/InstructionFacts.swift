package import CX86

/// What the translator must know of one decoded instruction of 64-bit mode (Intel SDM vol. 2, the instructions' pages).
///
/// Registers are named as the encoding stands in memory: the decoder may have exchanged `X86Instruction.reg` and `.rm` for the
/// interpreter. Everything that is not certain is on the safe side: read rather than not, kept rather than written.
package struct InstructionFacts: Sendable {
  /// How the instruction is to be carried out.
  package enum Kind: UInt8, Sendable {
    /// Its bytes can be executed with registers and memory operand replaced: no transfer of control, no stack, no effect on
    /// segments or modes, no memory but the ModRM operand, no faults but that operand's and native #DE #GP #MF #XM.
    case plain
    /// PUSH POP LEAVE ENTER PUSHF POPF.
    case stack
    /// Near jumps, calls and returns; LOOP and JRCXZ.
    case control
    /// MOVS CMPS STOS LODS SCAS, repeated or not.
    case string
    /// Everything else: done in its own way or by the interpreter.
    case special
  }

  /// What happens to a register that the encoding names.
  package enum Role: UInt8, Sendable {
    /// No register is named there (memory operand, opcode extension, nothing).
    case none
    case read
    /// Overwritten; in sizes 1 and 2 the other bits are kept (`keepsOldBits`), size 4 clears the upper half.
    case write
    case readWrite
    /// Not a general register: vector, MMX, x87, segment, control, debug.
    case vector
  }

  /// Whose registers it uses, and so what must hold for it to execute natively.
  package enum Unit: UInt8, Sendable {
    case none
    /// CR0.EM and TS clear, CR4.OSFXSR set.
    case sse
    /// CR4.OSXSAVE and XCR0[2:1] set, CR0.TS clear.
    case avx
    /// CR0.EM and TS clear. A pending x87 exception is #MF.
    case mmx
    /// As `sse` and `mmx`.
    case sseMMX
    /// CR0.EM and TS clear. A pending x87 exception may be #MF.
    case x87
  }

  /// Bits of `flagsRead` and `flagsWritten`.
  package static let cf: UInt8 = 1
  package static let pf: UInt8 = 2
  package static let af: UInt8 = 4
  package static let zf: UInt8 = 8
  package static let sf: UInt8 = 16
  package static let of: UInt8 = 32
  package static let allFlags: UInt8 = 63

  package var kind = Kind.plain
  package var unit = Unit.none
  /// Flags that it depends on or keeps only sometimes.
  package var flagsRead: UInt8 = 0
  /// Flags that it always overwrites, with a defined value or not.
  package var flagsWritten: UInt8 = 0
  /// X86_ACCESS_* of the ModRM memory operand; NONE also for LEA, NOP and prefetches.
  package var access: UInt8 = 0
  /// Bytes of the ModRM memory operand when `access` is not NONE.
  package var bytes: UInt16 = 0
  package var regRole = Role.none
  /// ModRM.rm as register, or the register in the opcode.
  package var rmRole = Role.none
  package var vvvvRole = Role.none
  /// Sizes in bytes of the general registers; 1 without REX: AH to BH are numbers 4 to 7.
  package var regSize: UInt8 = 0
  package var rmSize: UInt8 = 0
  package var vvvvSize: UInt8 = 0
  /// Numbers 0 to 15 of the registers that have a role.
  package var reg: UInt8 = 0
  package var rm: UInt8 = 0
  package var vvvv: UInt8 = 0
  /// General registers, by number, used without being named (CL of shifts, RAX RDX of MUL, RSP of PUSH). Written ones may be
  /// written in part or only sometimes, and are then in both.
  package var implicitRead: UInt16 = 0
  package var implicitWritten: UInt16 = 0

  /// Flags that it leaves alone, at least sometimes.
  package var flagsKept: UInt8 { ~flagsWritten & Self.allFlags }
  /// NOP, ENDBR, prefetches: nothing at all need be executed, and must not where the host knows more than the guest (RDSSP).
  package var isNothing = false

  /// Whether bits of a written register survive, so that its old value must be at hand.
  package static func keepsOldBits(_ role: Role, size: UInt8) -> Bool {
    role == .readWrite || role == .write && size < 4
  }

  /// The CPUID features of a guest (`X86State.coreFeatures`) for which the host executes its instructions as the guest expects
  /// them: those that both have.
  package static func nativeFeatures(guest: UInt64) -> UInt64 { guest & hostFeatures }

  private static let hostFeatures: UInt64 = {
    let one = x86_host_cpuid(1, 0)
    let seven = x86_host_cpuid(7, 0)
    let extended = x86_host_cpuid(0x8000_0001, 0)
    var bits: UInt64 = 0
    let table: [(UInt32, UInt32, UInt64)] = [
      (one.ecx, 13, Feature.cx16), (one.ecx, 20, Feature.sse42), (one.ecx, 22, Feature.movbe),
      (one.ecx, 23, Feature.popcnt), (one.ecx, 30, Feature.rdrand), (seven.ebx, 3, Feature.bmi1),
      (seven.ebx, 8, Feature.bmi2), (seven.ebx, 18, Feature.rdseed), (seven.ebx, 19, Feature.adx),
      (extended.ecx, 0, Feature.lm), (extended.ecx, 5, Feature.lzcnt),
    ]
    for (word, bit, feature) in table where word >> bit & 1 != 0 { bits |= feature }
    return bits
  }()

  /// The facts of a decoded instruction; when the vector engine's, after `VectorEngine.prepare`. `features`: `nativeFeatures` of
  /// the guest's; `vectorFeatures`: `X86State.features`.
  package static func of(
    _ p: UnsafePointer<X86Instruction>, features: UInt64, vectorFeatures: UInt64
  ) -> InstructionFacts {
    // SAFETY: the caller's decoded instruction, for this call.
    let i = unsafe Insn(p)
    var facts = InstructionFacts()
    let rex = i.rex
    if unsafe p.pointee.hasModRM != 0 {
      facts.reg = i.modrm &>> 3 & 7 | (rex & 4) &<< 1
      facts.rm = i.modrm & 7 | (rex & 1) &<< 3
    } else {
      facts.rm = i.opcode & 7 | (rex & 1) &<< 3
    }
    // SAFETY: the decoder writes raw values of Operation only.
    switch unsafe unsafeBitCast(i.handler, to: Operation.self) {
    case .undefined, .overlong, .leave: facts.setUnknown()
    case .vector: facts.setVector(i, entry: unsafe p.pointee.vectorEntry, vectorFeatures)
    default:
      if i.prefixes & UInt8(X86_PREFIX_VEX) != 0 {
        facts.setBMI(i, features)
      } else {
        switch i.map {
        case UInt8(X86_MAP_ONE): facts.setOneByte(i, features)
        case UInt8(X86_MAP_0F): facts.setTwoByte(i, features)
        default: facts.setMap38(i, features)
        }
      }
    }
    return facts
  }

  /// Flags that condition `code` (0 O, 1 NO, 2 B… 15 G) looks at.
  package static func flags(ofCondition code: UInt8) -> UInt8 {
    switch code &>> 1 & 7 {
    case 0: of
    case 1: cf
    case 2: zf
    case 3: cf | zf
    case 4: sf
    case 5: pf
    case 6: sf | of
    default: zf | sf | of
    }
  }

  // MARK: - Building

  static let rax: UInt16 = 1
  static let rcx: UInt16 = 2
  static let rdx: UInt16 = 4
  static let rbx: UInt16 = 8
  static let rsp: UInt16 = 16
  static let rbp: UInt16 = 32
  static let rsi: UInt16 = 64
  static let rdi: UInt16 = 128

  /// The interpreter may do anything: all state must be true before, and is new afterwards.
  @inline(__always) mutating func setUnknown() {
    kind = .special
    unit = .none
    flagsRead = Self.allFlags
    flagsWritten = 0
    implicitRead = 0xFFFF
    implicitWritten = 0xFFFF
  }

  /// The operand in ModRM.rm: a register with this role, or memory used likewise.
  @inline(__always) mutating func setRM(_ i: Insn, _ role: Role, _ size: UInt8) {
    if i.isRegister {
      rmRole = role
      rmSize = size
    } else {
      // Role and X86_ACCESS_* have the same numbers up to READWRITE.
      access = role.rawValue
      bytes = UInt16(size)
    }
  }

  @inline(__always) mutating func setReg(_ role: Role, _ size: UInt8) {
    regRole = role
    regSize = size
  }

  @inline(__always) mutating func setOpcodeRegister(_ role: Role, _ size: UInt8) {
    rmRole = role
    rmSize = size
  }

  @inline(__always) mutating func setImplicit(read: UInt16, written: UInt16) {
    implicitRead |= read
    implicitWritten |= written
  }

  @inline(__always) mutating func setStack(_ kind: Kind) {
    self.kind = kind
    setImplicit(read: Self.rsp, written: Self.rsp)
  }

  /// Special, but with no effect on flags and registers other than those set here.
  @inline(__always) mutating func setSpecial(read: UInt16 = 0, written: UInt16 = 0) {
    kind = .special
    setImplicit(read: read, written: written)
  }

  /// Not native unless the guest has the feature: its processor does something else with the encoding.
  @inline(__always) mutating func require(_ feature: UInt64, of features: UInt64) {
    if features & feature == 0 { setUnknown() }
  }

  /// ADD OR ADC SBB AND SUB XOR CMP.
  @inline(__always) mutating func setALUFlags(_ operation: UInt8) {
    flagsWritten = Self.allFlags
    if operation == 2 || operation == 3 { flagsRead = Self.cf }
  }

  /// Flags of the shift and rotate group `operation` by `count`; nil: by CL.
  mutating func setShiftFlags(_ operation: UInt8, _ count: UInt8?, size: UInt8) {
    let affected = operation < 4 ? Self.cf | Self.of : Self.allFlags
    var rotation: UInt8 = 1
    if let count {
      rotation = count & (size == 8 ? 63 : 31)
      // RCL and RCR turn through 9 or 17 bits.
      if operation & 6 == 2, size < 4, rotation % (size &* 8 &+ 1) == 0 { rotation = 0 }
    } else {
      rotation = 0
      implicitRead |= Self.rcx
    }
    if rotation == 0 {
      flagsRead = affected
    } else {
      flagsWritten = affected
      if operation & 6 == 2 { flagsRead = Self.cf }
    }
  }
}
