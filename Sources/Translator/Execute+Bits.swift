import CX86

/// Bit tests and scans, CRC32, MOVBE, ADX, BMI (Intel SDM vol. 2).
extension Core {
  /// BT BTS BTR BTC.
  func executeBitTest(_ i: Insn) throws(GuestFault) {
    let size = i.size
    let bits = UInt64(size) &* 8
    let isImmediate = i.opcode == 0xBA
    let operation = isImmediate ? i.sub & 3 : i.opcode &>> 3 & 3
    let number = isImmediate ? i.immediate : register(i.reg, size: size, rex: true)
    let bit = number & (bits &- 1)
    func change(_ a: UInt64) -> UInt64 {
      setFlag(X86_RAW_CF, a &>> bit & 1 != 0)
      switch operation {
      case 1: return a | 1 &<< bit
      case 2: return a & ~(1 &<< bit)
      case 3: return a ^ 1 &<< bit
      default: return a
      }
    }
    if i.isRegister {
      let result = change(register(i.rm, size: size, rex: true))
      if operation != 0 { setRegister(i.rm, size: size, rex: true, result) }
      return
    }
    var offset = effectiveAddress(i)
    if !isImmediate {
      // The bit string reaches beyond the operand, by a signed number.
      var signed: Int64
      switch size {
      case 2: signed = Int64(Int16(truncatingIfNeeded: number))
      case 4: signed = Int64(Int32(truncatingIfNeeded: number))
      default: signed = Int64(bitPattern: number)
      }
      let shift: Int64 = size == 2 ? 4 : size == 4 ? 5 : 6
      let delta = UInt64(bitPattern: (signed &>> shift) &* Int64(size))
      offset = (offset &+ delta) & i.addressMask
    }
    if operation == 0 {
      _ = change(try load(i.segment, offset, size: size))
    } else if i.isLocked {
      let f = unsafe flagsPointer
      try unsafe modifyLocked(i.segment, offset, size: size) { p in
        switch (size, operation) {
        case (2, 1): unsafe x86_lock_bts16(p, UInt16(truncatingIfNeeded: bit), f)
        case (2, 2): unsafe x86_lock_btr16(p, UInt16(truncatingIfNeeded: bit), f)
        case (2, _): unsafe x86_lock_btc16(p, UInt16(truncatingIfNeeded: bit), f)
        case (4, 1): unsafe x86_lock_bts32(p, UInt32(truncatingIfNeeded: bit), f)
        case (4, 2): unsafe x86_lock_btr32(p, UInt32(truncatingIfNeeded: bit), f)
        case (4, _): unsafe x86_lock_btc32(p, UInt32(truncatingIfNeeded: bit), f)
        case (_, 1): unsafe x86_lock_bts64(p, bit, f)
        case (_, 2): unsafe x86_lock_btr64(p, bit, f)
        default: unsafe x86_lock_btc64(p, bit, f)
        }
      } _: {
        change($0)
      }
    } else {
      try checkWrite(i.segment, offset, size: size)
      let old = try load(i.segment, offset, size: size)
      try store(i.segment, offset, size: size, change(old))
    }
  }

  /// BSF BSR POPCNT TZCNT LZCNT.
  func executeBitScan(_ i: Insn) throws(GuestFault) {
    let size = i.size
    let a = try operand(i, size: size)
    let bits = UInt64(size) &* 8
    let operation = unsafe unsafeBitCast(i.handler, to: Operation.self)
    switch operation {
    case .popcnt:
      if coreFeatures & Feature.popcnt == 0 { throw fault(ExceptionVector.undefined) }
      setRegister(i.reg, size: size, rex: true, UInt64(a.nonzeroBitCount))
      flags = a == 0 ? UInt16(X86_RAW_ZF) : 0
      return
    case .tzcnt where coreFeatures & Feature.bmi1 != 0:
      let count = a == 0 ? bits : UInt64(a.trailingZeroBitCount)
      setRegister(i.reg, size: size, rex: true, count)
      setResultFlags(count, size: size)
      setFlag(X86_RAW_ZF, count == 0)
      setFlag(X86_RAW_CF, count == bits)
      return
    case .lzcnt where coreFeatures & Feature.lzcnt != 0:
      let count = UInt64(a.leadingZeroBitCount) &- (64 &- bits)
      setRegister(i.reg, size: size, rex: true, count)
      setResultFlags(count, size: size)
      setFlag(X86_RAW_ZF, count == 0)
      setFlag(X86_RAW_CF, count == bits)
      return
    default: break
    }
    let f = unsafe flagsPointer
    let old = register(i.reg, size: size, rex: true)
    let forward = i.opcode == 0xBC
    if a == 0 {
      // The destination keeps its value, all of it.
      _ = unsafe forward ? x86_bsf64(0, old, f) : x86_bsr64(0, old, f)
      return
    }
    switch size {
    case 2:
      let x = UInt16(truncatingIfNeeded: a)
      set16(i.reg, unsafe forward ? x86_bsf16(x, 0, f) : x86_bsr16(x, 0, f))
    case 4:
      let x = UInt32(truncatingIfNeeded: a)
      set32(i.reg, unsafe forward ? x86_bsf32(x, 0, f) : x86_bsr32(x, 0, f))
    default: set64(i.reg, unsafe forward ? x86_bsf64(a, 0, f) : x86_bsr64(a, 0, f))
    }
  }

  func executeCRC32(_ i: Insn) throws(GuestFault) {
    if coreFeatures & Feature.sse42 == 0 { throw fault(ExceptionVector.undefined) }
    let size: UInt8 = i.opcode == 0xF0 ? 1 : i.size
    let value = try operand(i, size: size)
    set32(i.reg, x86_crc32c(r32(i.reg), value, Int32(size)))
  }

  func executeMOVBE(_ i: Insn) throws(GuestFault) {
    if coreFeatures & Feature.movbe == 0 { throw fault(ExceptionVector.undefined) }
    let size = i.size
    let shift = 64 &- UInt64(size) &* 8
    if i.opcode == 0xF0 {
      let value = try load(i.segment, effectiveAddress(i), size: size)
      setRegister(i.reg, size: size, rex: true, value.byteSwapped &>> shift)
    } else {
      let value = register(i.reg, size: size, rex: true)
      try store(i.segment, effectiveAddress(i), size: size, value.byteSwapped &>> shift)
    }
  }

  func executeADX(_ i: Insn) throws(GuestFault) {
    if coreFeatures & Feature.adx == 0 { throw fault(ExceptionVector.undefined) }
    let size: UInt8 = i.rex & 8 != 0 ? 8 : 4
    let a = register(i.reg, size: size, rex: true)
    let b = try operand(i, size: size)
    let isCarry = i.pp == 1
    let input: UInt64 = flag(isCarry ? X86_RAW_CF : X86_RAW_OF) ? 1 : 0
    var sum: UInt64
    var out: Bool
    if size == 8 {
      let (s1, c1) = a.addingReportingOverflow(b)
      let (s2, c2) = s1.addingReportingOverflow(input)
      sum = s2
      out = c1 || c2
    } else {
      sum = a &+ b &+ input
      out = sum &>> 32 != 0
    }
    setRegister(i.reg, size: size, rex: true, sum)
    setFlag(isCarry ? X86_RAW_CF : X86_RAW_OF, out)
  }

  // MARK: - BMI

  func executeBMI(_ i: Insn) throws(GuestFault) {
    if !isProtected { throw fault(ExceptionVector.undefined) }
    let operation = unsafe unsafeBitCast(i.handler, to: Operation.self)
    let needs1 = operation == .andn || operation == .bmiGroup || operation == .bextr
    if coreFeatures & (needs1 ? Feature.bmi1 : Feature.bmi2) == 0 {
      throw fault(ExceptionVector.undefined)
    }
    let size: UInt8 = i.rex & 8 != 0 ? 8 : 4
    let bits = UInt64(size) &* 8
    let mask: UInt64 = size == 8 ? UInt64.max : 0xFFFF_FFFF
    let a = try operand(i, size: size)
    let v = register(i.vexV, size: size, rex: true)
    var result: UInt64 = 0
    switch operation {
    case .andn:
      result = ~v & a
      setResultFlags(result, size: size)
    case .bmiGroup:
      var isCarry: Bool
      switch i.sub {
      case 1:
        result = a & (a &- 1)
        isCarry = a == 0
      case 2:
        result = a ^ (a &- 1)
        isCarry = a == 0
      default:
        result = a & (0 &- a)
        isCarry = a != 0
      }
      setResultFlags(result & mask, size: size)
      setFlag(X86_RAW_CF, isCarry)
      setRegister(i.vexV, size: size, rex: true, result)
      return
    case .bzhi:
      let n = v & 0xFF
      result = n < bits ? a & ((1 &<< n) &- 1) : a
      setResultFlags(result, size: size)
      setFlag(X86_RAW_CF, n >= bits)
    case .bextr:
      let start = v & 0xFF
      let length = v &>> 8 & 0xFF
      let moved = start < bits ? a &>> start : 0
      result = length < 64 ? moved & ((1 &<< length) &- 1) : moved
      setResultFlags(result, size: size)
    case .pdep:
      var m = a
      var k: UInt64 = 0
      while m != 0 {
        let lowest = m & (0 &- m)
        if v &>> k & 1 != 0 { result |= lowest }
        m &= m &- 1
        k &+= 1
      }
    case .pext:
      var m = a
      var k: UInt64 = 0
      while m != 0 {
        let lowest = m & (0 &- m)
        if v & lowest != 0 { result |= 1 &<< k }
        m &= m &- 1
        k &+= 1
      }
    case .mulx:
      let d = register(2, size: size, rex: true)
      let product = d.multipliedFullWidth(by: a)
      let low = size == 8 ? product.low : product.low & mask
      let high = size == 8 ? product.high : product.low &>> 32
      setRegister(i.vexV, size: size, rex: true, low)
      setRegister(i.reg, size: size, rex: true, high)
      return
    case .shiftX:
      let count = v & (bits &- 1)
      switch i.pp {
      case 1: result = a &<< count
      case 2:
        let signed = size == 8 ? Int64(bitPattern: a) : Int64(Int32(truncatingIfNeeded: a))
        result = UInt64(bitPattern: signed &>> Int64(bitPattern: count))
      default: result = a &>> count
      }
    default:  // RORX
      let count = i.immediate & (bits &- 1)
      result = count == 0 ? a : a &>> count | a &<< (bits &- count)
    }
    setRegister(i.reg, size: size, rex: true, result)
  }
}
