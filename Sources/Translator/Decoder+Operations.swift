import CX86

/// From a decoded instruction to the piece of the interpreter that executes it.
extension Decoder {
  @inline(__always) private static func at(_ first: Operation, _ number: UInt8) -> Operation {
    // SAFETY: a group of at least eight (jumps: sixteen) cases without gaps begins at `first`, and `number` is below that.
    unsafe unsafeBitCast(unsafeBitCast(first, to: UInt8.self) &+ number, to: Operation.self)
  }

  @inline(__always) private static func isRegister(_ i: X86Instruction) -> Bool { i.modrm >= 0xC0 }

  private static func aluOperation(_ i: inout X86Instruction) -> Operation {
    let number = i.opcode &>> 3 & 7
    let wide = i.operandSize == 8
    guard i.operandSize >= 4, i.prefixes & UInt8(X86_PREFIX_LOCK) == 0 else { return .alu }
    switch i.opcode & 7 {
    case 1 where isRegister(i): return at(wide ? .add64RR : .add32RR, number)
    case 3 where isRegister(i):
      (i.rm, i.reg) = (i.reg, i.rm)
      return at(wide ? .add64RR : .add32RR, number)
    case 3: return at(wide ? .add64RM : .add32RM, number)
    case 5:
      i.rm = 0
      return at(wide ? .add64RI : .add32RI, number)
    default: return .alu
    }
  }

  static func oneByteOperation(_ i: inout X86Instruction) -> Operation {
    let sub = i.modrm &>> 3 & 7
    let register = isRegister(i)
    let size = i.operandSize
    switch i.opcode {
    case 0x06, 0x0E, 0x16, 0x1E: return .pushSegment
    case 0x07, 0x17, 0x1F: return .popSegment
    case 0x27: return .daa
    case 0x2F: return .das
    case 0x37: return .aaa
    case 0x3F: return .aas
    case 0x00...0x3F: return aluOperation(&i)
    case 0x40...0x47:
      i.rm = i.opcode & 7
      return size == 4 ? .inc32R : .unary
    case 0x48...0x4F:
      i.rm = i.opcode & 7
      return size == 4 ? .dec32R : .unary
    case 0x50...0x57: return size == 8 ? .push64R : .pushR
    case 0x58...0x5F: return size == 8 ? .pop64R : .popR
    case 0x60: return .pusha
    case 0x61: return .popa
    case 0x62: return register ? .undefined : .bound
    case 0x63: return i.codeSize == 8 ? .movsxd : .arpl
    case 0x68, 0x6A: return .pushImmediate
    case 0x69, 0x6B: return .imul
    case 0x6C...0x6F: return .portStrings
    case 0x70...0x7F: return at(.jo, i.opcode & 15)
    case 0x80...0x83:
      if register, size >= 4 { return at(size == 8 ? .add64RI : .add32RI, sub) }
      return .alu
    case 0x84: return register ? .test8RR : .test
    case 0x85: return register && size >= 4 ? (size == 8 ? .test64RR : .test32RR) : .test
    case 0x86, 0x87: return .exchange
    case 0x88:
      if register { return .mov }
      return .store8
    case 0x8A:
      if register { return .mov }
      return .load8
    case 0x89:
      if register { return size == 8 ? .mov64RR : size == 4 ? .mov32RR : .mov }
      return size == 8 ? .store64 : size == 4 ? .store32 : .store16
    case 0x8B:
      if register {
        (i.rm, i.reg) = (i.reg, i.rm)
        return size == 8 ? .mov64RR : size == 4 ? .mov32RR : .mov
      }
      return size == 8 ? .load64 : size == 4 ? .load32 : .load16
    case 0x8C: return sub > 5 ? .undefined : .movFromSegment
    case 0x8D:
      if register { return .undefined }
      return size == 8 ? .lea64 : size == 4 ? .lea32 : .lea16
    case 0x8E: return sub > 5 || sub == 1 ? .undefined : .movToSegment
    case 0x8F: return .popRM
    case 0x90:
      if i.rm == 0 { return i.prefixes & UInt8(X86_PREFIX_F3) != 0 ? .pause : .nop }
      return .exchangeAccumulator
    case 0x91...0x97: return .exchangeAccumulator
    case 0x98: return .convertWide
    case 0x99: return .convertDouble
    case 0x9A: return .callFar
    case 0x9B: return .vector
    case 0x9C: return .pushf
    case 0x9D: return .popf
    case 0x9E: return .sahf
    case 0x9F: return .lahf
    case 0xA0...0xA3: return .mov
    case 0xA4...0xA7, 0xAA...0xAF: return .strings
    case 0xA8, 0xA9: return .test
    case 0xB0...0xB7: return .mov
    case 0xB8...0xBF: return size >= 4 ? .movRI : .mov
    case 0xC0, 0xC1, 0xD0...0xD3:
      if register, i.opcode == 0xC1 || i.opcode == 0xD1, size >= 4 {
        if i.opcode == 0xD1 { i.immediate = 1 }
        switch sub {
        case 4, 6: return size == 8 ? .shl64RI : .shl32RI
        case 5: return size == 8 ? .shr64RI : .shr32RI
        case 7: return size == 8 ? .sar64RI : .sar32RI
        default: break
        }
      }
      return .shift
    case 0xC2: return .returnImmediate
    case 0xC3: return .return_
    case 0xC4, 0xC5: return register ? .undefined : .loadFarPointer
    case 0xC6: return .mov
    case 0xC7:
      if register, size >= 4 {
        // A 32-bit destination is zero-extended, a 64-bit one sign-extended.
        if size == 4 { i.immediate &= 0xFFFF_FFFF }
        return .movRI
      }
      return .mov
    case 0xC8: return .enter
    case 0xC9: return .leaveFrame
    case 0xCA, 0xCB: return .returnFar
    case 0xCC: return .int3
    case 0xCD: return .int
    case 0xCE: return .into
    case 0xCF: return .interruptReturn
    case 0xD4: return .aam
    case 0xD5: return .aad
    case 0xD6: return .salc
    case 0xD7: return .xlat
    case 0xD8...0xDF: return .vector
    case 0xE0, 0xE1, 0xE2: return .loop
    case 0xE3: return .jcxz
    case 0xE4, 0xE5, 0xEC, 0xED: return .portIn
    case 0xE6, 0xE7, 0xEE, 0xEF: return .portOut
    case 0xE8: return .callRelative
    case 0xE9, 0xEB: return .jumpRelative
    case 0xEA: return .jumpFar
    case 0xF1: return .icebp
    case 0xF4: return .hlt
    case 0xF5, 0xF8...0xFD: return .setFlag
    case 0xF6, 0xF7:
      if sub < 2 { return .test }
      return sub < 4 ? .unary : .multiplyDivide
    case 0xFE:
      return sub < 2 ? .unary : .undefined
    case 0xFF:
      switch sub {
      case 0: return register && size >= 4 ? (size == 8 ? .inc64R : .inc32R) : .unary
      case 1: return register && size >= 4 ? (size == 8 ? .dec64R : .dec32R) : .unary
      case 2: return .callIndirect
      case 3: return register ? .undefined : .callFarIndirect
      case 4: return .jumpIndirect
      case 5: return register ? .undefined : .jumpFarIndirect
      case 6: return .pushRM
      default: return .undefined
      }
    default: return .undefined
    }
  }

  static func twoByteOperation(_ i: inout X86Instruction) -> Operation {
    let sub = i.modrm &>> 3 & 7
    let register = isRegister(i)
    let size = i.operandSize
    switch i.opcode {
    case 0x00: return sub < 6 ? .group6 : .undefined
    case 0x01: return group7Operation(&i, sub)
    case 0x02: return .lar
    case 0x03: return .lsl
    case 0x05: return .syscall
    case 0x06: return .clts
    case 0x07: return .sysret
    case 0x08: return .invd
    case 0x09: return .wbinvd
    case 0x0D: return register ? .nop : .prefetch
    case 0x18...0x1F: return .nop
    case 0x20: return .movFromControl
    case 0x21: return .movFromDebug
    case 0x22: return .movToControl
    case 0x23: return .movToDebug
    case 0x10...0x17, 0x28...0x2F, 0x50...0x77, 0x7C...0x7F, 0xC2, 0xC4, 0xC5, 0xC6, 0xD0...0xFE:
      return .vector
    case 0x30: return .wrmsr
    case 0x31: return .rdtsc
    case 0x32: return .rdmsr
    case 0x33: return .rdpmc
    case 0x34: return .sysenter
    case 0x35: return .sysexit
    case 0x40...0x4F: return .cmov
    case 0x80...0x8F:
      return at(.jo, i.opcode & 15)
    case 0x90...0x9F: return .setcc
    case 0xA0, 0xA8: return .pushSegment
    case 0xA1, 0xA9: return .popSegment
    case 0xA2: return .cpuid
    case 0xA3, 0xAB, 0xB3, 0xBB: return .bitTest
    case 0xA4, 0xA5: return .shld
    case 0xAC, 0xAD: return .shrd
    case 0xAE: return group15Operation(&i, sub)
    case 0xAF: return .imul
    case 0xB0, 0xB1: return .compareExchange
    case 0xB2, 0xB4, 0xB5: return register ? .undefined : .loadFarPointer
    case 0xB6:
      if size >= 4 { return register ? (i.rex == 0 ? .movx : .movzx8RR) : .movzx8RM }
      return .movx
    case 0xB7: return size >= 4 ? (register ? .movzx16RR : .movzx16RM) : .movx
    case 0xBE, 0xBF: return .movx
    case 0xB8: return i.pp == 2 ? .popcnt : .undefined
    case 0xBA: return sub < 4 ? .undefined : .bitTest
    case 0xBC: return i.pp == 2 ? .tzcnt : .bitScan
    case 0xBD: return i.pp == 2 ? .lzcnt : .bitScan
    case 0xC0, 0xC1: return .exchangeAdd
    case 0xC3: return register || i.pp != 0 ? .undefined : .movnti
    case 0xC7:
      if register {
        if i.pp == 2 { return sub == 7 ? .rdpid : .undefined }
        return sub >= 6 && i.pp != 3 ? .random : .undefined
      }
      if sub == 1 { return .compareExchangeWide }
      return sub >= 3 && sub <= 5 ? .vector : .undefined
    case 0xC8...0xCF: return .byteSwap
    default: return .undefined
    }
  }

  private static func group7Operation(_ i: inout X86Instruction, _ sub: UInt8) -> Operation {
    if !isRegister(i) { return sub == 5 ? .undefined : .group7 }
    switch i.modrm {
    case 0xC8: return i.pp == 0 ? .monitor : .undefined
    case 0xC9: return i.pp == 0 ? .mwait : .undefined
    case 0xCA: return i.pp == 0 ? .clac : .undefined
    case 0xCB: return i.pp == 0 ? .stac : .undefined
    case 0xD0: return i.pp == 0 ? .xgetbv : .undefined
    case 0xD1: return i.pp == 0 ? .xsetbv : .undefined
    case 0xF8: return i.codeSize == 8 ? .swapgs : .undefined
    case 0xF9: return .rdtscp
    case 0xE0...0xE7, 0xF0...0xF7: return .group7  // SMSW, LMSW
    default: return .undefined
    }
  }

  private static func group15Operation(_ i: inout X86Instruction, _ sub: UInt8) -> Operation {
    if isRegister(i) {
      if i.pp == 2 { return sub < 4 && i.codeSize == 8 ? .fsgsbase : .undefined }
      return sub >= 5 && i.pp == 0 ? .fence : .undefined
    }
    switch sub {
    case 6 where i.pp == 1: return .cacheFlush  // CLWB
    case 7: return i.pp < 2 ? .cacheFlush : .undefined
    default: return i.pp == 0 ? .vector : .undefined
    }
  }

  static func map38Operation(_ i: inout X86Instruction) -> Operation {
    switch i.opcode {
    case 0x82: return i.pp == 1 && !isRegister(i) ? .invpcid : .undefined
    case 0xF0, 0xF1:
      if i.pp == 3 { return .crc32 }
      return i.pp < 2 && !isRegister(i) ? .movbe : .undefined
    case 0xF6:
      return i.pp == 1 ? .adcx : i.pp == 2 ? .adox : .undefined
    case 0x00...0x7F, 0xC8...0xCF, 0xDB...0xDF: return .vector
    default: return .undefined
    }
  }

  static func vexOperation(_ i: inout X86Instruction) -> Operation {
    if i.map == 2 {
      switch i.opcode {
      case 0xF2: return i.pp == 0 && i.vexL == 0 ? .andn : .undefined
      case 0xF3:
        let sub = i.modrm &>> 3 & 7
        return i.pp == 0 && i.vexL == 0 && sub >= 1 && sub <= 3 ? .bmiGroup : .undefined
      case 0xF5:
        if i.vexL != 0 { return .undefined }
        return i.pp == 0 ? .bzhi : i.pp == 2 ? .pext : i.pp == 3 ? .pdep : .undefined
      case 0xF6: return i.pp == 3 && i.vexL == 0 ? .mulx : .undefined
      case 0xF7:
        if i.vexL != 0 { return .undefined }
        return i.pp == 0 ? .bextr : .shiftX
      default: return .vector
      }
    }
    if i.map == 3 && i.opcode == 0xF0 {
      return i.pp == 3 && i.vexL == 0 && i.vexV == 0 ? .rorx : .undefined
    }
    return .vector
  }
}
