import CX86

/// Instructions of operating systems and string instructions: a few moves in place, or a call of the C helpers of CX86Fast.h.
extension BlockTranslator {
  /// Whether a block goes on behind an instruction that is neither plain nor control.
  static func staysInside(_ i: Insn) -> Bool {
    // SAFETY: the decoder writes raw values of Operation only.
    switch unsafe unsafeBitCast(i.handler, to: Operation.self) {
    case .strings, .setFlag, .pushf, .rdtsc, .rdtscp, .swapgs, .movFromControl, .fsgsbase, .wrmsr:
      true
    default: false
    }
  }

  /// Whether an instruction that is neither plain nor control has nothing to do with the arithmetic flags, here and in the interpreter.
  func keepsFlags(_ i: Insn) -> Bool {
    // SAFETY: the decoder writes raw values of Operation only.
    switch unsafe unsafeBitCast(i.handler, to: Operation.self) {
    case .setFlag: i.opcode >= 0xFA && (isSupervisor || i.opcode >= 0xFC)
    case .swapgs, .movFromControl: isSupervisor
    default: false
    }
  }

  /// Code of this access class is the kernel's, so that privileges need no check.
  private var isSupervisor: Bool { access != UInt8(Core.AccessClass.user) }

  mutating func special(_ i: Insn, _ f: InstructionFacts) -> Bool {
    // SAFETY: the decoder writes raw values of Operation only.
    switch unsafe unsafeBitCast(i.handler, to: Operation.self) {
    case .syscall: return away(i, x86FastSyscall)
    case .sysret: return i.size == 8 ? away(i, x86FastSysret) : interpret()
    case .interruptReturn: return i.size == 8 ? away(i, x86FastIretq) : interpret()
    case .popf: return i.size == 8 ? away(i, x86FastPopf) : interpret()
    case .stac, .clac:
      if !isSupervisor { return interpret() }
      return away(i, i.modrm == 0xCB ? x86FastStac : x86FastClac)
    case .pushf: return i.size == 8 ? inside(i, x86FastPushf) : interpret()
    case .rdtsc: return inside(i, x86FastRdtsc)
    case .rdtscp: return inside(i, x86FastRdtscp)
    case .wrmsr: return isSupervisor ? inside(i, x86FastWrmsr) : interpret()
    case .fsgsbase:
      let wide: UInt32 = i.rex & 8 != 0 ? 16 : 0
      return inside(i, x86FastBase, UInt32(i.rm), UInt32(i.sub & 3) | wide)
    case .strings: return string(i)
    case .setFlag: return setFlag(i)
    case .swapgs: return isSupervisor ? swapBases() : interpret()
    case .movFromControl: return readControl(i)
    default: return interpret()
    }
  }

  // MARK: - Calls

  private mutating func prepareCall(
    _ i: Insn, _ operation: Int, _ first: UInt32, _ second: UInt32
  ) {
    flagsToMemory()
    flagsInHost = false
    let code = UInt32(truncatingIfNeeded: operation) | first &<< 8 | second &<< 16
    out.constant(HostRegister.address, next)
    out.constant(HostRegister.entry, UInt64(code | UInt32(i.length) &<< 24))
  }

  /// The helper does the instruction and comes back, or leaves.
  private mutating func inside(
    _ i: Insn, _ operation: Int, _ first: UInt32 = 0, _ second: UInt32 = 0
  ) -> Bool {
    prepareCall(i, operation, first, second)
    out.call(through: .state(Int(x86OffsetFastInside)))
    return true
  }

  /// The helper does the instruction and goes on elsewhere.
  private mutating func away(_ i: Insn, _ operation: Int) -> Bool {
    prepareCall(i, operation, 0, 0)
    out.call(through: .state(Int(x86OffsetFastAway)))
    return false
  }

  private mutating func string(_ i: Insn) -> Bool {
    if i.addressSize != 8 || !(i.isREP || i.isREPNE) { return interpret() }
    switch i.opcode {
    case 0xA4, 0xA5: return inside(i, x86FastRepMovs, UInt32(i.size), UInt32(i.segment))
    case 0xAA, 0xAB: return inside(i, x86FastRepStos, UInt32(i.size))
    default: return interpret()
    }
  }

  // MARK: - In place

  /// CLI, STI, CLD, STD.
  private mutating func setFlag(_ i: Insn) -> Bool {
    let place = HostMemory.state(Int(x86OffsetEFLAGS))
    switch i.opcode {
    case 0xFA:
      if !isSupervisor { return interpret() }
      change(place, 4, ~EFLAGS.if)
    case 0xFB:
      // The next instruction must come right behind it, and must be looked at by nobody: see below.
      if !isSupervisor || current &+ 1 >= count
        || stubCount &+ 32 >= TranslationCache.maximumStubs
      {
        return interpret()
      }
      releaseFlags()
      // What waits for interrupts to be enabled is the outer loop's; what comes from now on makes itself known by the request word,
      // at which nothing looks before the next instruction is done.
      out.narrow(0x81, 7, .state(Int(x86OffsetEvents)))
      out.word(UInt32(0))
      let over = unsafe out.jump(condition: 4)
      leaveToInterpreter()
      unsafe CodeEmitter.patch(over, out.p)
      out.narrow(0x81, 1, place)
      out.word(EFLAGS.if)
      followsSTI = true
    case 0xFC: change(place, 4, ~EFLAGS.df)
    case 0xFD: change(place, 1, EFLAGS.df)
    default: return interpret()
    }
    return true
  }

  /// AND (4) or OR (1) of a word in the state.
  private mutating func change(_ place: HostMemory, _ operation: UInt8, _ mask: UInt32) {
    releaseFlags()
    out.narrow(0x81, operation, place)
    out.word(mask)
  }

  private mutating func swapBases() -> Bool {
    let kernel = HostMemory.state(Int(x86OffsetKernelGS))
    let base = HostMemory.state(Int(x86OffsetGSBase))
    out.load(HostRegister.address, kernel)
    out.load(HostRegister.entry, base)
    out.store(HostRegister.entry, kernel)
    out.store(HostRegister.address, base)
    out.store(HostRegister.address, .state(Int(x86OffsetGSWindow)))
    return true
  }

  /// MOV from CR0, CR2, CR3, CR4.
  private mutating func readControl(_ i: Insn) -> Bool {
    var offset: Int
    switch i.reg {
    case 0: offset = Int(x86OffsetCR0)
    case 2: offset = Int(x86OffsetCR2)
    case 3: offset = Int(x86OffsetCR3)
    case 4: offset = Int(x86OffsetCR4)
    default: return interpret()
    }
    if !isSupervisor { return interpret() }
    if let register = BlockTranslator.host(i.rm) {
      out.load(register, .state(offset))
    } else {
      out.load(HostRegister.entry, .state(offset))
      out.store(HostRegister.entry, .guest(i.rm))
    }
    return true
  }
}
