import CX86

/// The opcodes behind 0F, 0F 38 and VEX, and those of the vector engine (Intel SDM vol. 2D, tables ).
extension InstructionFacts {
  mutating func setTwoByte(_ i: Insn, _ features: UInt64) {
    let size = i.size
    switch i.opcode {
    case 0x0D, 0x18...0x1F: isNothing = true
    case 0x01:
      switch i.modrm {
      case 0xF8, 0xCA, 0xCB: setSpecial()  // SWAPGS CLAC STAC
      case 0xF9: setSpecial(written: Self.rax | Self.rcx | Self.rdx)
      default: setUnknown()
      }
    case 0x31: setSpecial(written: Self.rax | Self.rdx)
    case 0x40...0x4F:
      setReg(.readWrite, size)
      setRM(i, .read, size)
      flagsRead = Self.flags(ofCondition: i.opcode)
    case 0x80...0x8F:
      kind = .control
      flagsRead = Self.flags(ofCondition: i.opcode)
    case 0x90...0x9F:
      setRM(i, .write, 1)
      flagsRead = Self.flags(ofCondition: i.opcode)
    case 0xA2:
      setSpecial(
        read: Self.rax | Self.rcx, written: Self.rax | Self.rbx | Self.rcx | Self.rdx)
    case 0xA3, 0xAB, 0xB3, 0xBB:
      // The bit number reaches beyond the operand in memory.
      if !i.isRegister { return setUnknown() }
      setReg(.read, size)
      setRM(i, i.opcode == 0xA3 ? .read : .readWrite, size)
      flagsWritten = Self.allFlags & ~Self.zf
    case 0xBA:
      setRM(i, i.sub == 4 ? .read : .readWrite, size)
      flagsWritten = Self.allFlags & ~Self.zf
    case 0xA4, 0xA5, 0xAC, 0xAD:
      setReg(.read, size)
      setRM(i, .readWrite, size)
      let isImmediate = i.opcode & 1 == 0
      setShiftFlags(4, isImmediate ? UInt8(truncatingIfNeeded: i.immediate) : nil, size: size)
    case 0xAE:
      // LFENCE MFENCE SFENCE are plain.
      if !i.isRegister || i.pp != 0 { setUnknown() }
    case 0xAF:
      setReg(.readWrite, size)
      setRM(i, .read, size)
      flagsWritten = Self.allFlags
    case 0xB0, 0xB1:
      setReg(.read, size)
      setRM(i, .readWrite, size)
      setImplicit(read: Self.rax, written: Self.rax)
      flagsWritten = Self.allFlags
    case 0xB6, 0xBE:
      setReg(.write, size)
      setRM(i, .read, 1)
    case 0xB7, 0xBF:
      setReg(.write, size)
      setRM(i, .read, 2)
    case 0xB8, 0xBC, 0xBD: setBitScan(i, features)
    case 0xC0, 0xC1:
      setReg(.readWrite, size)
      setRM(i, .readWrite, size)
      flagsWritten = Self.allFlags
    case 0xC3:
      setReg(.read, size)
      setRM(i, .write, size)
    case 0xC7: setGroup9(i, features)
    case 0xC8...0xCF: setOpcodeRegister(.readWrite, size)
    default: setUnknown()
    }
  }

  /// POPCNT TZCNT LZCNT BSF BSR.
  private mutating func setBitScan(_ i: Insn, _ features: UInt64) {
    let isScan = i.opcode != 0xB8 && !i.isREP
    // A source of 0 leaves the destination of BSF and BSR as it is.
    setReg(isScan ? .readWrite : .write, i.size)
    setRM(i, .read, i.size)
    flagsWritten = Self.allFlags
    if isScan { return }
    switch i.opcode {
    case 0xB8: require(Feature.popcnt, of: features)
    case 0xBC: require(Feature.bmi1, of: features)
    default: require(Feature.lzcnt, of: features)
    }
  }

  /// CMPXCHG8B CMPXCHG16B RDRAND RDSEED.
  private mutating func setGroup9(_ i: Insn, _ features: UInt64) {
    if i.isRegister {
      // RDPID is the guest's own.
      if i.pp == 2 { return setUnknown() }
      setRM(i, .write, i.size)
      flagsWritten = Self.allFlags
      require(i.sub == 6 ? Feature.rdrand : Feature.rdseed, of: features)
      return
    }
    setRM(i, .readWrite, i.size == 8 ? 16 : 8)
    setImplicit(
      read: Self.rax | Self.rbx | Self.rcx | Self.rdx, written: Self.rax | Self.rdx)
    flagsWritten = Self.zf
    if i.size == 8 { require(Feature.cx16, of: features) }
  }

  /// CRC32 MOVBE ADCX ADOX.
  mutating func setMap38(_ i: Insn, _ features: UInt64) {
    let wide: UInt8 = i.rex & 8 != 0 ? 8 : 4
    switch (i.opcode, i.pp) {
    case (0xF0, 3), (0xF1, 3):
      setReg(.readWrite, wide)
      setRM(i, .read, i.opcode == 0xF0 ? 1 : i.size)
      require(Feature.sse42, of: features)
    case (0xF0, 0...1):
      setReg(.write, i.size)
      setRM(i, .read, i.size)
      require(Feature.movbe, of: features)
    case (0xF1, 0...1):
      setReg(.read, i.size)
      setRM(i, .write, i.size)
      require(Feature.movbe, of: features)
    case (0xF6, 1...2):
      setReg(.readWrite, wide)
      setRM(i, .read, wide)
      flagsRead = i.pp == 1 ? Self.cf : Self.of
      flagsWritten = flagsRead
      require(Feature.adx, of: features)
    default: setUnknown()
    }
  }

  /// BMI1 and BMI2, VEX-encoded, on general registers.
  mutating func setBMI(_ i: Insn, _ features: UInt64) {
    let size: UInt8 = i.rex & 8 != 0 ? 8 : 4
    setRM(i, .read, size)
    vvvv = i.vexV & 15
    // RORX has no second source.
    if i.map != 3 {
      vvvvRole = .read
      vvvvSize = size
    }
    if i.opcode == 0xF3 {
      vvvvRole = .write
      flagsWritten = Self.allFlags
      return require(Feature.bmi1, of: features)
    }
    setReg(.write, size)
    if i.map == 3 { return require(Feature.bmi2, of: features) }
    switch (i.opcode, i.pp) {
    case (0xF2, _), (0xF7, 0):
      flagsWritten = Self.allFlags
      require(Feature.bmi1, of: features)
    case (0xF5, 0):
      flagsWritten = Self.allFlags
      require(Feature.bmi2, of: features)
    case (0xF6, _):
      vvvvRole = .write
      setImplicit(read: Self.rdx, written: 0)
      require(Feature.bmi2, of: features)
    default: require(Feature.bmi2, of: features)
    }
  }

  // MARK: - x87, MMX, SSE, AVX

  mutating func setVector(_ i: Insn, entry bits: UInt32, _ features: UInt64) {
    let entry = VectorEngine.Entry(bits: bits)
    if features >> UInt64(entry.feature) & 1 == 0 { return setUnknown() }
    switch entry.kind {
    case .sse: unit = entry.has(VectorEngine.Entry.usesMMX) ? .sseMMX : .sse
    case .vex:
      unit = .avx
      if entry.has(VectorEngine.Entry.needsAVX2), features >> UInt64(GuestFeature.avx2) & 1 == 0 {
        return setUnknown()
      }
    case .mmx: unit = .mmx
    case .zeroUpper, .zeroAll:
      unit = .avx
      return
    case .fwait:
      unit = .x87
      return
    case .x87: return setX87(i)
    default: return setUnknown()
    }
    access = i.memoryAccess
    bytes = i.memorySize
    // The general registers are 4 or 8 bytes wide; results are extended with zeros.
    let size: UInt8 = i.rex & 8 != 0 ? 8 : 4
    if entry.has(VectorEngine.Entry.generalReg) {
      setReg(.write, size)
    } else if !entry.has(VectorEngine.Entry.extendsOpcode) {
      regRole = .vector
    }
    if i.isRegister {
      if entry.has(VectorEngine.Entry.generalRM) {
        setOpcodeRegister(entry.has(VectorEngine.Entry.storesRM) ? .write : .read, size)
      } else {
        rmRole = .vector
      }
    }
    if unit == .avx {
      vvvvRole = .vector
      vvvv = i.vexV & 15
    }
    if entry.has(VectorEngine.Entry.writesFlags) { flagsWritten = Self.allFlags }
    if entry.has(VectorEngine.Entry.explicitLengths) { implicitRead = Self.rax | Self.rdx }
    if entry.has(VectorEngine.Entry.resultECX) { implicitWritten = Self.rcx }
    // EMMS names nothing.
    if i.map == UInt8(X86_MAP_0F), i.opcode == 0x77 {
      regRole = .none
      rmRole = .none
    }
  }

  private mutating func setX87(_ i: Insn) {
    if !i.isRegister {
      // FLDENV FLDCW FNSTENV; FRSTOR FNSAVE.
      switch (i.opcode, i.sub) {
      case (0xD9, 4...6), (0xDD, 4), (0xDD, 6): return setUnknown()
      default: break
      }
      unit = .x87
      bytes = i.memorySize
      access =
        i.memoryAccess == UInt8(X86_ACCESS_READWRITE) ? UInt8(X86_ACCESS_WRITE) : i.memoryAccess
      return
    }
    unit = .x87
    rmRole = .vector
    switch (i.opcode, i.modrm) {
    case (0xDA...0xDB, 0xC0...0xDF):
      // FCMOVcc: B, E, BE, U.
      switch i.modrm &>> 3 & 3 {
      case 0: flagsRead = Self.cf
      case 1: flagsRead = Self.zf
      case 2: flagsRead = Self.cf | Self.zf
      default: flagsRead = Self.pf
      }
    case (0xDB, 0xE8...0xF7), (0xDF, 0xE8...0xF7):
      // FCOMI and its kin keep the flags when an invalid operand raises an unmasked exception.
      flagsRead = Self.allFlags
    case (0xDF, 0xE0): setImplicit(read: Self.rax, written: Self.rax)
    default: break
    }
  }
}
