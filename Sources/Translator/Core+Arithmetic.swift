import CX86

/// Arithmetic by operation number and operand size, on zero-extended values. Flags are the host's own.
extension Core {
  /// ADD OR ADC SBB AND SUB XOR CMP by number 0 to 7 (CMP returns `a`).
  func arithmetic(_ operation: UInt8, size: UInt8, _ a: UInt64, _ b: UInt64) -> UInt64 {
    let f = unsafe flagsPointer
    switch size {
    case 1:
      let x = UInt8(truncatingIfNeeded: a)
      let y = UInt8(truncatingIfNeeded: b)
      switch operation {
      case 0: return UInt64(unsafe x86_add8(x, y, f))
      case 1: return UInt64(unsafe x86_or8(x, y, f))
      case 2: return UInt64(unsafe x86_adc8(x, y, f))
      case 3: return UInt64(unsafe x86_sbb8(x, y, f))
      case 4: return UInt64(unsafe x86_and8(x, y, f))
      case 5: return UInt64(unsafe x86_sub8(x, y, f))
      case 6: return UInt64(unsafe x86_xor8(x, y, f))
      default:
        unsafe x86_cmp8(x, y, f)
        return a
      }
    case 2:
      let x = UInt16(truncatingIfNeeded: a)
      let y = UInt16(truncatingIfNeeded: b)
      switch operation {
      case 0: return UInt64(unsafe x86_add16(x, y, f))
      case 1: return UInt64(unsafe x86_or16(x, y, f))
      case 2: return UInt64(unsafe x86_adc16(x, y, f))
      case 3: return UInt64(unsafe x86_sbb16(x, y, f))
      case 4: return UInt64(unsafe x86_and16(x, y, f))
      case 5: return UInt64(unsafe x86_sub16(x, y, f))
      case 6: return UInt64(unsafe x86_xor16(x, y, f))
      default:
        unsafe x86_cmp16(x, y, f)
        return a
      }
    case 4:
      let x = UInt32(truncatingIfNeeded: a)
      let y = UInt32(truncatingIfNeeded: b)
      switch operation {
      case 0: return UInt64(unsafe x86_add32(x, y, f))
      case 1: return UInt64(unsafe x86_or32(x, y, f))
      case 2: return UInt64(unsafe x86_adc32(x, y, f))
      case 3: return UInt64(unsafe x86_sbb32(x, y, f))
      case 4: return UInt64(unsafe x86_and32(x, y, f))
      case 5: return UInt64(unsafe x86_sub32(x, y, f))
      case 6: return UInt64(unsafe x86_xor32(x, y, f))
      default:
        unsafe x86_cmp32(x, y, f)
        return a
      }
    default:
      let x = a
      let y = b
      switch operation {
      case 0: return UInt64(unsafe x86_add64(x, y, f))
      case 1: return UInt64(unsafe x86_or64(x, y, f))
      case 2: return UInt64(unsafe x86_adc64(x, y, f))
      case 3: return UInt64(unsafe x86_sbb64(x, y, f))
      case 4: return UInt64(unsafe x86_and64(x, y, f))
      case 5: return UInt64(unsafe x86_sub64(x, y, f))
      case 6: return UInt64(unsafe x86_xor64(x, y, f))
      default:
        unsafe x86_cmp64(x, y, f)
        return a
      }
    }
  }

  /// The same at host memory with a LOCK prefix; not CMP.
  func lockedArithmetic(
    _ operation: UInt8, size: UInt8, at p: UnsafeMutableRawPointer, _ b: UInt64
  ) {
    // SAFETY: the caller has `size` writable bytes at `p`.
    let f = unsafe flagsPointer
    switch size {
    case 1:
      let y = UInt8(truncatingIfNeeded: b)
      switch operation {
      case 0: unsafe x86_lock_add8(p, y, f)
      case 1: unsafe x86_lock_or8(p, y, f)
      case 2: unsafe x86_lock_adc8(p, y, f)
      case 3: unsafe x86_lock_sbb8(p, y, f)
      case 4: unsafe x86_lock_and8(p, y, f)
      case 5: unsafe x86_lock_sub8(p, y, f)
      default: unsafe x86_lock_xor8(p, y, f)
      }
    case 2:
      let y = UInt16(truncatingIfNeeded: b)
      switch operation {
      case 0: unsafe x86_lock_add16(p, y, f)
      case 1: unsafe x86_lock_or16(p, y, f)
      case 2: unsafe x86_lock_adc16(p, y, f)
      case 3: unsafe x86_lock_sbb16(p, y, f)
      case 4: unsafe x86_lock_and16(p, y, f)
      case 5: unsafe x86_lock_sub16(p, y, f)
      default: unsafe x86_lock_xor16(p, y, f)
      }
    case 4:
      let y = UInt32(truncatingIfNeeded: b)
      switch operation {
      case 0: unsafe x86_lock_add32(p, y, f)
      case 1: unsafe x86_lock_or32(p, y, f)
      case 2: unsafe x86_lock_adc32(p, y, f)
      case 3: unsafe x86_lock_sbb32(p, y, f)
      case 4: unsafe x86_lock_and32(p, y, f)
      case 5: unsafe x86_lock_sub32(p, y, f)
      default: unsafe x86_lock_xor32(p, y, f)
      }
    default:
      let y = b
      switch operation {
      case 0: unsafe x86_lock_add64(p, y, f)
      case 1: unsafe x86_lock_or64(p, y, f)
      case 2: unsafe x86_lock_adc64(p, y, f)
      case 3: unsafe x86_lock_sbb64(p, y, f)
      case 4: unsafe x86_lock_and64(p, y, f)
      case 5: unsafe x86_lock_sub64(p, y, f)
      default: unsafe x86_lock_xor64(p, y, f)
      }
    }
  }

  /// ROL ROR RCL RCR SHL SHR SHL SAR by number 0 to 7.
  func shifted(_ operation: UInt8, size: UInt8, _ a: UInt64, _ count: UInt8) -> UInt64 {
    let f = unsafe flagsPointer
    switch size {
    case 1:
      let x = UInt8(truncatingIfNeeded: a)
      switch operation {
      case 0: return UInt64(unsafe x86_rol8(x, count, f))
      case 1: return UInt64(unsafe x86_ror8(x, count, f))
      case 2: return UInt64(unsafe x86_rcl8(x, count, f))
      case 3: return UInt64(unsafe x86_rcr8(x, count, f))
      case 4: return UInt64(unsafe x86_shl8(x, count, f))
      case 5: return UInt64(unsafe x86_shr8(x, count, f))
      case 6: return UInt64(unsafe x86_shl8(x, count, f))
      default: return UInt64(unsafe x86_sar8(x, count, f))
      }
    case 2:
      let x = UInt16(truncatingIfNeeded: a)
      switch operation {
      case 0: return UInt64(unsafe x86_rol16(x, count, f))
      case 1: return UInt64(unsafe x86_ror16(x, count, f))
      case 2: return UInt64(unsafe x86_rcl16(x, count, f))
      case 3: return UInt64(unsafe x86_rcr16(x, count, f))
      case 4: return UInt64(unsafe x86_shl16(x, count, f))
      case 5: return UInt64(unsafe x86_shr16(x, count, f))
      case 6: return UInt64(unsafe x86_shl16(x, count, f))
      default: return UInt64(unsafe x86_sar16(x, count, f))
      }
    case 4:
      let x = UInt32(truncatingIfNeeded: a)
      switch operation {
      case 0: return UInt64(unsafe x86_rol32(x, count, f))
      case 1: return UInt64(unsafe x86_ror32(x, count, f))
      case 2: return UInt64(unsafe x86_rcl32(x, count, f))
      case 3: return UInt64(unsafe x86_rcr32(x, count, f))
      case 4: return UInt64(unsafe x86_shl32(x, count, f))
      case 5: return UInt64(unsafe x86_shr32(x, count, f))
      case 6: return UInt64(unsafe x86_shl32(x, count, f))
      default: return UInt64(unsafe x86_sar32(x, count, f))
      }
    default:
      let x = a
      switch operation {
      case 0: return UInt64(unsafe x86_rol64(x, count, f))
      case 1: return UInt64(unsafe x86_ror64(x, count, f))
      case 2: return UInt64(unsafe x86_rcl64(x, count, f))
      case 3: return UInt64(unsafe x86_rcr64(x, count, f))
      case 4: return UInt64(unsafe x86_shl64(x, count, f))
      case 5: return UInt64(unsafe x86_shr64(x, count, f))
      case 6: return UInt64(unsafe x86_shl64(x, count, f))
      default: return UInt64(unsafe x86_sar64(x, count, f))
      }
    }
  }

  /// INC, DEC, NOT, NEG by number 0 to 3.
  func unary(_ operation: UInt8, size: UInt8, _ a: UInt64) -> UInt64 {
    let f = unsafe flagsPointer
    if operation == 2 { return ~a }
    switch size {
    case 1:
      let x = UInt8(truncatingIfNeeded: a)
      switch operation {
      case 0: return UInt64(unsafe x86_inc8(x, f))
      case 1: return UInt64(unsafe x86_dec8(x, f))
      default: return UInt64(unsafe x86_neg8(x, f))
      }
    case 2:
      let x = UInt16(truncatingIfNeeded: a)
      switch operation {
      case 0: return UInt64(unsafe x86_inc16(x, f))
      case 1: return UInt64(unsafe x86_dec16(x, f))
      default: return UInt64(unsafe x86_neg16(x, f))
      }
    case 4:
      let x = UInt32(truncatingIfNeeded: a)
      switch operation {
      case 0: return UInt64(unsafe x86_inc32(x, f))
      case 1: return UInt64(unsafe x86_dec32(x, f))
      default: return UInt64(unsafe x86_neg32(x, f))
      }
    default:
      let x = a
      switch operation {
      case 0: return UInt64(unsafe x86_inc64(x, f))
      case 1: return UInt64(unsafe x86_dec64(x, f))
      default: return UInt64(unsafe x86_neg64(x, f))
      }
    }
  }

  func lockedUnary(_ operation: UInt8, size: UInt8, at p: UnsafeMutableRawPointer) {
    let f = unsafe flagsPointer
    switch size {
    case 1:
      switch operation {
      case 0: unsafe x86_lock_inc8(p, f)
      case 1: unsafe x86_lock_dec8(p, f)
      case 3: unsafe x86_lock_neg8(p, f)
      default: unsafe x86_lock_not8(p)
      }
    case 2:
      switch operation {
      case 0: unsafe x86_lock_inc16(p, f)
      case 1: unsafe x86_lock_dec16(p, f)
      case 3: unsafe x86_lock_neg16(p, f)
      default: unsafe x86_lock_not16(p)
      }
    case 4:
      switch operation {
      case 0: unsafe x86_lock_inc32(p, f)
      case 1: unsafe x86_lock_dec32(p, f)
      case 3: unsafe x86_lock_neg32(p, f)
      default: unsafe x86_lock_not32(p)
      }
    default:
      switch operation {
      case 0: unsafe x86_lock_inc64(p, f)
      case 1: unsafe x86_lock_dec64(p, f)
      case 3: unsafe x86_lock_neg64(p, f)
      default: unsafe x86_lock_not64(p)
      }
    }
  }
}
