import CX86

/// The one-byte opcodes (Intel SDM vol. 2D, table A-2).
extension InstructionFacts {
  mutating func setOneByte(_ i: Insn, _ features: UInt64) {
    let size = i.size
    switch i.opcode {
    case 0x00...0x3F: setALU(i)
    case 0x50...0x57:
      setOpcodeRegister(.read, size)
      setStack(.stack)
    case 0x58...0x5F:
      setOpcodeRegister(.write, size)
      setStack(.stack)
    case 0x63:
      // With 16-bit operands the processors differ in how much they read.
      if size == 2 { return setUnknown() }
      setReg(.write, size)
      setRM(i, .read, 4)
    case 0x68, 0x6A: setStack(.stack)
    case 0x69, 0x6B:
      setReg(.write, size)
      setRM(i, .read, size)
      flagsWritten = Self.allFlags
    case 0x70...0x7F:
      kind = .control
      flagsRead = Self.flags(ofCondition: i.opcode)
    case 0x80...0x83:
      setRM(i, i.sub == 7 ? .read : .readWrite, size)
      setALUFlags(i.sub)
    case 0x84, 0x85:
      setReg(.read, size)
      setRM(i, .read, size)
      flagsWritten = Self.allFlags
    case 0x86, 0x87:
      setReg(.readWrite, size)
      setRM(i, .readWrite, size)
    case 0x88, 0x89:
      setReg(.read, size)
      setRM(i, .write, size)
    case 0x8A, 0x8B:
      setReg(.write, size)
      setRM(i, .read, size)
    case 0x8D: setReg(.write, size)
    case 0x8F:
      setRM(i, .write, size)
      setStack(.stack)
    case 0x90 where rm == 0:
      if i.isREP { setSpecial() } else { isNothing = true }
    case 0x90...0x97:
      setOpcodeRegister(.readWrite, size)
      setImplicit(read: Self.rax, written: Self.rax)
    case 0x98: setImplicit(read: Self.rax, written: Self.rax)
    case 0x99:
      setImplicit(read: Self.rax | (size == 2 ? Self.rdx : 0), written: Self.rdx)
    case 0x9C:
      setStack(.stack)
      flagsRead = Self.allFlags
    case 0x9D:
      setStack(.stack)
      flagsWritten = Self.allFlags
    case 0x9E:
      setImplicit(read: Self.rax, written: 0)
      flagsWritten = Self.allFlags & ~Self.of
      require(Feature.lm, of: features)
    case 0x9F:
      setImplicit(read: Self.rax, written: Self.rax)
      flagsRead = Self.allFlags & ~Self.of
      require(Feature.lm, of: features)
    case 0xA0, 0xA1: setSpecial(read: size < 4 ? Self.rax : 0, written: Self.rax)
    case 0xA2, 0xA3: setSpecial(read: Self.rax)
    case 0xA8, 0xA9:
      setImplicit(read: Self.rax, written: 0)
      flagsWritten = Self.allFlags
    case 0xA4...0xA7, 0xAA...0xAF: setString(i)
    case 0xB0...0xBF: setOpcodeRegister(.write, size)
    case 0xC0, 0xC1:
      setRM(i, .readWrite, size)
      setShiftFlags(i.sub, UInt8(truncatingIfNeeded: i.immediate), size: size)
    case 0xD0, 0xD1:
      setRM(i, .readWrite, size)
      setShiftFlags(i.sub, 1, size: size)
    case 0xD2, 0xD3:
      setRM(i, .readWrite, size)
      setShiftFlags(i.sub, nil, size: size)
    case 0xC2, 0xC3: setStack(.control)
    case 0xC6, 0xC7: setRM(i, .write, size)
    case 0xC8:
      setStack(.stack)
      setImplicit(read: Self.rbp, written: Self.rbp)
    case 0xC9:
      kind = .stack
      setImplicit(read: Self.rbp, written: Self.rsp | Self.rbp)
    case 0xD7: setSpecial(read: Self.rax | Self.rbx, written: Self.rax)
    case 0xE0, 0xE1:
      kind = .control
      flagsRead = Self.zf
      setImplicit(read: Self.rcx, written: Self.rcx)
    case 0xE2:
      kind = .control
      setImplicit(read: Self.rcx, written: Self.rcx)
    case 0xE3:
      kind = .control
      setImplicit(read: Self.rcx, written: 0)
    case 0xE8: setStack(.control)
    case 0xE9, 0xEB: kind = .control
    case 0xF5:
      flagsRead = Self.cf
      flagsWritten = Self.cf
    case 0xF8, 0xF9: flagsWritten = Self.cf
    case 0xFA...0xFD: setSpecial()
    case 0xF6, 0xF7: setGroup3(i)
    case 0xFE, 0xFF: setGroup5(i)
    default: setUnknown()
    }
  }

  /// ADD OR ADC SBB AND SUB XOR CMP.
  @inline(__always) private mutating func setALU(_ i: Insn) {
    let operation = i.opcode &>> 3
    let isCompare = operation == 7
    let size = i.size
    switch i.opcode & 7 {
    case 0, 1:
      setReg(.read, size)
      setRM(i, isCompare ? .read : .readWrite, size)
    case 2, 3:
      setReg(isCompare ? .read : .readWrite, size)
      setRM(i, .read, size)
    default: setImplicit(read: Self.rax, written: isCompare ? 0 : Self.rax)
    }
    setALUFlags(operation)
  }

  private mutating func setString(_ i: Insn) {
    kind = .string
    let isRepeated = i.isREP || i.isREPNE
    let both = Self.rsi | Self.rdi
    let isPartial = i.size < 4 || isRepeated
    switch i.opcode & 0xFE {
    case 0xA4: setImplicit(read: both, written: both)
    case 0xA6: setImplicit(read: both, written: both)
    case 0xAA: setImplicit(read: Self.rax | Self.rdi, written: Self.rdi)
    case 0xAC:
      setImplicit(read: Self.rsi | (isPartial ? Self.rax : 0), written: Self.rax | Self.rsi)
    default: setImplicit(read: Self.rax | Self.rdi, written: Self.rdi)
    }
    if i.opcode & 0xF6 == 0xA6 {
      // CMPS and SCAS; with a count of 0 they keep the flags.
      if isRepeated { flagsRead = Self.allFlags } else { flagsWritten = Self.allFlags }
    }
    if isRepeated { setImplicit(read: Self.rcx, written: Self.rcx) }
  }

  /// TEST NOT NEG MUL IMUL DIV IDIV.
  private mutating func setGroup3(_ i: Insn) {
    let size = i.size
    switch i.sub {
    case 0, 1:
      setRM(i, .read, size)
      flagsWritten = Self.allFlags
    case 2: setRM(i, .readWrite, size)
    case 3:
      setRM(i, .readWrite, size)
      flagsWritten = Self.allFlags
    default:
      setRM(i, .read, size)
      flagsWritten = Self.allFlags
      setImplicit(read: Self.rax, written: Self.rax)
      if size > 1 {
        let isDivision = i.sub >= 6
        setImplicit(read: isDivision || size == 2 ? Self.rdx : 0, written: Self.rdx)
      }
    }
  }

  /// INC DEC CALL JMP PUSH.
  private mutating func setGroup5(_ i: Insn) {
    let size = i.size
    switch i.sub {
    case 0, 1:
      setRM(i, .readWrite, size)
      flagsWritten = Self.allFlags & ~Self.cf
    case 2:
      setRM(i, .read, size)
      setStack(.control)
    case 4:
      setRM(i, .read, size)
      kind = .control
    case 6:
      setRM(i, .read, size)
      setStack(.stack)
    default: setUnknown()
    }
  }
}
