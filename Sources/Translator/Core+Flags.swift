import CX86

/// EFLAGS: the arithmetic flags lie in `flags` as LAHF and SETO leave them, all others in `eflags`.
extension Core {
  /// The complete register, with bit 1 set.
  var rflags: UInt64 {
    let raw = UInt32(flags)
    let low = raw &>> 8 & 0xD5
    return UInt64(low | (raw & 1) &<< 11 | eflags & ~EFLAGS.arithmetic | 2)
  }

  /// Sets the arithmetic flags from an EFLAGS image.
  @inline(__always) func setArithmeticFlags(_ value: UInt32) {
    flags = UInt16(truncatingIfNeeded: (value & 0xD5) &<< 8 | (value &>> 11) & 1)
  }

  /// Replaces everything (callers have checked what may change) and recomputes what depends on it.
  func setRFLAGS(_ value: UInt64) {
    let low = UInt32(truncatingIfNeeded: value)
    setArithmeticFlags(low)
    let old = eflags
    eflags = low & EFLAGS.all & ~EFLAGS.arithmetic
    if (old ^ eflags) & (EFLAGS.tf | EFLAGS.vm | EFLAGS.ac | EFLAGS.rf) != 0 { updateMode() }
  }

  @inline(__always) func flag(_ raw: Int32) -> Bool {
    flags & UInt16(truncatingIfNeeded: raw) != 0
  }
  @inline(__always) var carry: Bool { flag(X86_RAW_CF) }
  @inline(__always) var isZero: Bool { flag(X86_RAW_ZF) }
  /// SF differs from OF.
  @inline(__always) var isLess: Bool { (flags &>> 15 ^ flags) & 1 != 0 }

  @inline(__always) func setFlag(_ raw: Int32, _ value: Bool) {
    let bit = UInt16(truncatingIfNeeded: raw)
    flags = value ? flags | bit : flags & ~bit
  }

  /// The condition of Jcc, SETcc, CMOVcc by its number (SDM vol. 1, appendix B).
  @inline(__always) func condition(_ number: UInt8) -> Bool {
    var result: Bool
    switch number &>> 1 & 7 {
    case 0: result = flag(X86_RAW_OF)
    case 1: result = carry
    case 2: result = isZero
    case 3: result = flag(X86_RAW_CF | X86_RAW_ZF)
    case 4: result = flag(X86_RAW_SF)
    case 5: result = flag(X86_RAW_PF)
    case 6: result = isLess
    default: result = isZero || isLess
    }
    return result != (number & 1 != 0)
  }

  /// SF, ZF and PF by a result, the others clear.
  func setResultFlags(_ value: UInt64, size: UInt8) {
    switch size {
    case 1:
      let v = UInt8(truncatingIfNeeded: value)
      unsafe x86_test8(v, v, flagsPointer)
    case 2:
      let v = UInt16(truncatingIfNeeded: value)
      unsafe x86_test16(v, v, flagsPointer)
    case 4:
      let v = UInt32(truncatingIfNeeded: value)
      unsafe x86_test32(v, v, flagsPointer)
    default: unsafe x86_test64(value, value, flagsPointer)
    }
  }

  var iopl: UInt8 { UInt8(truncatingIfNeeded: eflags &>> 12 & 3) }
  var isVirtual8086: Bool { eflags & EFLAGS.vm != 0 }
  var isProtected: Bool { cr0 & CR0.pe != 0 && eflags & EFLAGS.vm == 0 }
  var isLongModeActive: Bool { efer & EFER.lma != 0 }
  @inline(__always) var is64Bit: Bool { codeSize == 8 }
}
