import CX86

/// Instructions that are executed by their own bytes, with registers and memory operand replaced.
extension BlockTranslator {
  /// A scratch register for a guest register that lives in X86State.
  private struct Substitutes {
    var first: UInt8?
    var second: UInt8?
    var firstGuest: UInt8 = 0xFF
    var firstHost: UInt8 = 0
    var secondGuest: UInt8 = 0xFF
    var secondHost: UInt8 = 0

    /// The host register for a guest register; nil when scratch registers run out.
    mutating func host(_ guest: UInt8) -> UInt8? {
      if let register = BlockTranslator.host(guest) { return register }
      if guest == firstGuest { return firstHost }
      if guest == secondGuest { return secondHost }
      if let free = first {
        first = nil
        firstGuest = guest
        firstHost = free
        return free
      }
      if let free = second {
        second = nil
        secondGuest = guest
        secondHost = free
        return free
      }
      return nil
    }
  }

  mutating func plain(_ i: Insn, _ f: InstructionFacts) -> Bool {
    if f.isNothing { return true }
    if i.map == 0 && i.opcode == 0x8D { return lea(i, f) }
    if f.unit != .none && !prepareUnit(f) { return false }
    let hasMemory = f.access != UInt8(X86_ACCESS_NONE)
    let changesFlags = f.flagsWritten != 0 || (f.flagsRead != 0 && !onlyReadsFlags(i))
    let needsFlags =
      f.flagsRead != 0 || (f.flagsWritten != 0 && liveAfter & ~f.flagsWritten != 0)

    let regIsGeneral = f.regRole == .read || f.regRole == .write || f.regRole == .readWrite
    let rmIsGeneral = f.rmRole == .read || f.rmRole == .write || f.rmRole == .readWrite
    let vIsGeneral = f.vvvvRole == .read || f.vvvvRole == .write || f.vvvvRole == .readWrite
    let highReg = regIsGeneral && isHigh(f.reg, f.regSize, i)
    let highRM = rmIsGeneral && isHigh(f.rm, f.rmSize, i)

    // Most instructions name only registers that are where the guest has them.
    if !hasMemory {
      let same =
        (!regIsGeneral || highReg || isAtHome(f.reg)) && (!rmIsGeneral || highRM || isAtHome(f.rm))
        && (!vIsGeneral || isAtHome(f.vvvv))
      if same {
        if needsFlags { requireFlags() }
        noteFlagsOfFaults()
        out.verbatim(i)
        if changesFlags { flagsChanged() }
        return true
      }
    }

    var substitutes = Substitutes()
    var rm: HostOperand
    var exchanged = false
    if hasMemory {
      // AH to BH cannot be named together with the address's registers: exchange halves around the instruction.
      exchanged = highReg
      let scratch = (regIsGeneral && !highReg && !isHere(f.reg)) || (vIsGeneral && !isHere(f.vvvv))
      if exchanged && f.implicitRead & 1 != 0 { return interpret() }
      let write = f.access != UInt8(X86_ACCESS_READ)
      avoidsSites = exchanged
      let checked = operand(i, size: f.bytes, write: write, wantsScratch: scratch)
      avoidsSites = false
      substitutes.first = checked.free
      rm = .memory(checked.memory)
    } else {
      if highReg || highRM { return interpret() }
      substitutes.first = HostRegister.address
      substitutes.second = HostRegister.entry
      if rmIsGeneral {
        if isHere(f.rm) {
          rm = .register(substitutes.host(f.rm) ?? 0)
        } else if mayUseSlot(i, f) {
          rm = .memory(.guest(f.rm))
        } else {
          guard let register = substitutes.host(f.rm) else { return interpret() }
          rm = .register(register)
        }
      } else {
        rm = .register(f.rm)
      }
    }
    var reg = f.reg
    if regIsGeneral && !highReg {
      guard let register = substitutes.host(f.reg) else { return interpret() }
      reg = register
    }
    var vvvv = f.vvvv
    if f.vvvvRole == .none { vvvv = i.vexV }
    if vIsGeneral {
      guard let register = substitutes.host(f.vvvv) else { return interpret() }
      vvvv = register
    }
    if needsFlags { requireFlags() }
    noteFlagsOfFaults()

    // What lives in X86State is brought, and taken back if it changed.
    var written: UInt16 = 0
    var read: UInt16 = 0
    func note(_ role: InstructionFacts.Role, _ guest: UInt8, _ size: UInt8) {
      if role == .write || role == .readWrite { written |= 1 &<< UInt16(guest) }
      if role == .read || InstructionFacts.keepsOldBits(role, size: size) {
        read |= 1 &<< UInt16(guest)
      }
    }
    if regIsGeneral && !highReg { note(f.regRole, f.reg, f.regSize) }
    if rmIsGeneral, case .register = rm { note(f.rmRole, f.rm, f.rmSize) }
    if vIsGeneral { note(f.vvvvRole, f.vvvv, f.vvvvSize) }
    if substitutes.firstGuest < 16, read &>> UInt16(substitutes.firstGuest) & 1 != 0 {
      out.load(substitutes.firstHost, .guest(substitutes.firstGuest))
    }
    if substitutes.secondGuest < 16, read &>> UInt16(substitutes.secondGuest) & 1 != 0 {
      out.load(substitutes.secondHost, .guest(substitutes.secondGuest))
    }
    if unsafe i.p.pointee.hasModRM != 0 {
      if exchanged {
        let low = f.reg &- 4
        out.bytes(0x86, 0xC0 | f.reg &<< 3 | low)
        out.instruction(i, reg: low, rm, vvvv: vvvv)
        out.bytes(0x86, 0xC0 | f.reg &<< 3 | low)
      } else {
        out.instruction(i, reg: reg, rm, vvvv: vvvv)
      }
    } else {
      guard case .register(let register) = rm else { return interpret() }
      opcodeRegister(i, register)
    }
    if substitutes.firstGuest < 16, written &>> UInt16(substitutes.firstGuest) & 1 != 0 {
      out.store(substitutes.firstHost, .guest(substitutes.firstGuest))
    }
    if substitutes.secondGuest < 16, written &>> UInt16(substitutes.secondGuest) & 1 != 0 {
      out.store(substitutes.secondHost, .guest(substitutes.secondGuest))
    }
    if changesFlags { flagsChanged() }
    return true
  }

  /// Ends the block with the interpreter executing this instruction.
  mutating func interpret() -> Bool {
    leaveToInterpreter()
    return false
  }

  mutating func flagsChanged() {
    flagsInHost = true
    flagsInMemory = false
  }

  /// When the host raises an exception in the instruction, the side table tells where the flags are.
  mutating func noteFlagsOfFaults() {
    let known = unsafe sides[sideCount &- 1].flags & SideEntry.flagsInHost != 0
    if known != flagsInHost { noteSide() }
  }

  /// Whether the instruction leaves all flags as they are.
  private func onlyReadsFlags(_ i: Insn) -> Bool {
    i.handler == Operation.setcc.rawValue || i.handler == Operation.cmov.rawValue
  }

  /// AH CH DH BH.
  private func isHigh(_ register: UInt8, _ size: UInt8, _ i: Insn) -> Bool {
    size == 1 && !i.hasREX && register >= 4 && register < 8
  }
  /// Whether the host has the guest's register under the same number.
  @inline(__always) private func isAtHome(_ register: UInt8) -> Bool {
    register != 4 && (register < 9 || register > 11)
  }
  /// Whether some host register holds it.
  @inline(__always) private func isHere(_ register: UInt8) -> Bool {
    register < 9 || register > 11
  }

  /// Whether ModRM.rm may name the register's place in X86State instead of a register.
  private func mayUseSlot(_ i: Insn, _ f: InstructionFacts) -> Bool {
    if unsafe i.p.pointee.hasModRM == 0 || f.unit != .none { return false }
    // A 32-bit result would leave the upper half.
    if f.rmRole != .read && f.rmSize == 4 { return false }
    if i.prefixes & UInt8(X86_PREFIX_VEX) != 0 { return false }
    switch i.map {
    case 0:
      switch i.opcode {
      case 0x00...0x3B, 0x63, 0x69, 0x6B, 0x80...0x85, 0x88...0x8B, 0xC0, 0xC1, 0xC6, 0xC7,
        0xD0...0xD3, 0xF6, 0xF7, 0xFE, 0xFF:
        return true
      default: return false
      }
    case 1:
      switch i.opcode {
      case 0x40...0x4F, 0x90...0x9F, 0xAF, 0xB6, 0xB7, 0xBE, 0xBF: return true
      default: return false
      }
    default: return false
    }
  }

  /// An instruction whose register is part of the opcode: MOV imm, XCHG, BSWAP.
  private mutating func opcodeRegister(_ i: Insn, _ register: UInt8) {
    if i.prefixes & UInt8(X86_PREFIX_66) != 0 { out.byte(0x66) }
    let rex = i.rex & 8 | (register >= 8 ? 1 : 0)
    if i.rex != 0 || rex != 0 { out.byte(0x40 | rex) }
    if i.map == 1 { out.byte(0x0F) }
    out.byte(i.opcode & 0xF8 | register & 7)
    out.immediate(of: i)
  }

  /// LEA touches neither memory nor flags.
  private mutating func lea(_ i: Insn, _ f: InstructionFacts) -> Bool {
    if i.size == 2 { return interpret() }
    let home = BlockTranslator.host(f.reg)
    let to = home ?? HostRegister.address
    if i.size == 4 && i.base != UInt8(X86_REGISTER_RIP)
      && !(i.base == UInt8(X86_REGISTER_NONE) && i.index == UInt8(X86_REGISTER_NONE))
    {
      unsafe effectiveAddress(i, to: HostRegister.address, displacement: i.p.pointee.displacement)
      // mov to, r10d clears the upper half.
      let rex: UInt8 = 0x41 | (to >= 8 ? 4 : 0)
      out.bytes(rex, 0x8B, 0xC0 | (to & 7) &<< 3 | HostRegister.address & 7)
    } else if i.size == 4 {
      let base = i.base == UInt8(X86_REGISTER_RIP) ? next : 0
      out.constant(to, (base &+ i.displacement) & 0xFFFF_FFFF)
    } else {
      unsafe effectiveAddress(i, to: to, displacement: i.p.pointee.displacement)
    }
    if home == nil { out.store(to, .guest(f.reg)) }
    return true
  }

  // MARK: - Vector and x87 instructions

  /// Makes sure that the registers of the unit are loaded. False: the interpreter does the instruction.
  private mutating func prepareUnit(_ f: InstructionFacts) -> Bool {
    guard unsafe unitIsUsable(f), HostFeatures.hasXSAVE else { return interpret() }
    let isX87 = f.unit == .x87 || f.unit == .mmx || f.unit == .sseMMX
    if isX87 ? x87Checked : vectorsChecked { return true }
    releaseFlags()
    let retry = unsafe out.p
    // cmp byte [rsp + vectorsLoaded], 0 or 3
    out.byte(0x80)
    out.modRM(7, .state(Int(x86OffsetVectorsLoaded)))
    out.byte(isX87 ? 3 : 0)
    let site = unsafe out.jump(condition: isX87 ? 5 : 4)
    unsafe pend(isX87 ? .loadX87 : .loadVectors, site: site, retry: retry)
    vectorsChecked = true
    x87Checked = x87Checked || isX87
    return true
  }

  /// Whether the modes of now let the instruction execute. When they change, all translations go (X86Translated.vectorMode).
  private func unitIsUsable(_ f: InstructionFacts) -> Bool {
    let i = unsafe UnsafePointer(cache.decoded + current)
    // SAFETY: the vCPU's state.
    if unsafe core.s.pointee.translated.vectorMode != x86_vector_mode(core.s) { return false }
    // A pending x87 exception is looked at when the registers are loaded.
    let result = unsafe VectorEngine.check(core.s, i)
    return result == 0 || result == 16
  }
}
