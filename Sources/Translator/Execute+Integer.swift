import CX86

/// Integer instructions in all forms and sizes.
extension Core {
  // MARK: - Read-modify-write

  /// Reads a memory operand, changes it, writes it back; faults come before any effect.
  @inline(__always) func modify(
    _ i: Insn, size: UInt8, _ change: (UInt64) -> UInt64
  ) throws(GuestFault) {
    let offset = effectiveAddress(i)
    if let p = unsafe writePointer(i.segment, offset, UInt64(size)) {
      switch size {
      case 1:
        let value = change(UInt64(unsafe p.loadUnaligned(as: UInt8.self)))
        unsafe p.storeBytes(of: UInt8(truncatingIfNeeded: value), as: UInt8.self)
      case 2:
        let value = change(UInt64(unsafe p.loadUnaligned(as: UInt16.self)))
        unsafe p.storeBytes(of: UInt16(truncatingIfNeeded: value), as: UInt16.self)
      case 4:
        let value = change(UInt64(unsafe p.loadUnaligned(as: UInt32.self)))
        unsafe p.storeBytes(of: UInt32(truncatingIfNeeded: value), as: UInt32.self)
      default:
        let value = change(unsafe p.loadUnaligned(as: UInt64.self))
        unsafe p.storeBytes(of: value, as: UInt64.self)
      }
      return
    }
    try checkWriteSlow(i.segment, offset, UInt64(size))
    let old = try loadSlow(i.segment, offset, UInt64(size))
    try storeSlow(i.segment, offset, UInt64(size), change(old))
  }

  /// A locked read-modify-write: one host instruction where the operand is one piece of RAM, else under the machine's lock.
  ///
  /// `onHost` does it at host memory, `change` on a value.
  @inline(__always) func modifyLocked(
    _ segment: UInt8, _ offset: UInt64, size: UInt8,
    onHost: (UnsafeMutableRawPointer) -> Void, _ change: (UInt64) -> UInt64
  ) throws(GuestFault) {
    if let p = unsafe writePointer(segment, offset, UInt64(size)) {
      unsafe onHost(p)
      return
    }
    let linear = try self.linear(segment, offset, UInt64(size), write: true)
    let access = accessClass
    if linear & Core.pageMask &+ UInt64(size) <= 4096 {
      let t = try resolve(linear, write: true, class: access)
      if !t.isReadOnly, let p = unsafe UnsafeMutableRawPointer(bitPattern: UInt(t.host)) {
        if environment.watchesData { noteWatch(linear, UInt64(size), write: true) }
        unsafe onHost(p)
        if t.flags != 0, unsafe x86_flags_load(t.flags) & 1 != 0 {
          environment.codeWasWritten(t.physical, flags: t.flags, length: UInt64(size))
        }
        return
      }
    }
    try checkLinear(linear, UInt64(size), write: true, class: access)
    // Whoever holds it may wait for a page.
    let environment = self.environment
    let lock = environment.splitLock
    environment.outside { lock?.take(owner: environment.index) }
    defer { lock?.release(owner: environment.index) }
    if try modifyAcross(linear, UInt64(size), class: access, change) { return }
    let old = try readLinear(linear, UInt64(size), class: access)
    try writeLinear(linear, UInt64(size), change(old), class: access)
  }

  /// Register or memory operand `rm`.
  @inline(__always) func operand(_ i: Insn, size: UInt8) throws(GuestFault) -> UInt64 {
    i.isRegister
      ? register(i.rm, size: size, rex: i.hasREX)
      : try load(i.segment, effectiveAddress(i), size: size)
  }

  // MARK: - Arithmetic and logic

  func executeALU(_ i: Insn) throws(GuestFault) {
    let size = i.size
    let rex = i.hasREX
    if i.opcode < 0x40 {
      let operation = i.opcode &>> 3
      switch i.opcode & 7 {
      case 0, 1:
        let b = register(i.reg, size: size, rex: rex)
        try arithmeticToOperand(i, operation, b)
      case 2, 3:
        let b = try operand(i, size: size)
        let a = register(i.reg, size: size, rex: rex)
        let result = arithmetic(operation, size: size, a, b)
        if operation != 7 { setRegister(i.reg, size: size, rex: rex, result) }
      default:
        let a = register(0, size: size, rex: true)
        let result = arithmetic(operation, size: size, a, i.immediate)
        if operation != 7 { setRegister(0, size: size, rex: true, result) }
      }
      return
    }
    try arithmeticToOperand(i, i.sub, i.immediate)
  }

  private func arithmeticToOperand(
    _ i: Insn, _ operation: UInt8, _ b: UInt64
  ) throws(GuestFault) {
    let size = i.size
    if i.isRegister {
      let a = register(i.rm, size: size, rex: i.hasREX)
      let result = arithmetic(operation, size: size, a, b)
      if operation != 7 { setRegister(i.rm, size: size, rex: i.hasREX, result) }
    } else if operation == 7 {
      let a = try load(i.segment, effectiveAddress(i), size: size)
      _ = arithmetic(7, size: size, a, b)
    } else if i.isLocked {
      try unsafe modifyLocked(i.segment, effectiveAddress(i), size: size) { p in
        unsafe lockedArithmetic(operation, size: size, at: p, b)
      } _: {
        arithmetic(operation, size: size, $0, b)
      }
    } else {
      try modify(i, size: size) { arithmetic(operation, size: size, $0, b) }
    }
  }

  func executeTest(_ i: Insn) throws(GuestFault) {
    let size = i.size
    var a: UInt64
    var b = i.immediate
    switch i.opcode {
    case 0x84, 0x85:
      a = try operand(i, size: size)
      b = register(i.reg, size: size, rex: i.hasREX)
    case 0xA8, 0xA9: a = register(0, size: size, rex: true)
    default: a = try operand(i, size: size)
    }
    // AND leaves the same flags as TEST.
    _ = arithmetic(4, size: size, a, b)
  }

  func executeMove(_ i: Insn) throws(GuestFault) {
    let size = i.size
    let rex = i.hasREX
    switch i.opcode {
    case 0x88, 0x89:
      let value = register(i.reg, size: size, rex: rex)
      if i.isRegister {
        setRegister(i.rm, size: size, rex: rex, value)
      } else {
        try store(i.segment, effectiveAddress(i), size: size, value)
      }
    case 0x8A:
      setRegister(i.reg, size: size, rex: rex, try operand(i, size: size))
    case 0x8B:
      // The decoder has exchanged the registers of the register form.
      if i.isRegister {
        setRegister(i.rm, size: size, rex: rex, register(i.reg, size: size, rex: rex))
      } else {
        setRegister(i.reg, size: size, rex: rex, try operand(i, size: size))
      }
    case 0xA0, 0xA1:
      let value = try load(i.segment, i.immediate & i.addressMask, size: size)
      setRegister(0, size: size, rex: true, value)
    case 0xA2, 0xA3:
      try store(
        i.segment, i.immediate & i.addressMask, size: size, register(0, size: size, rex: true))
    case 0xB0...0xB7: set8(i.rm, rex: rex, UInt8(truncatingIfNeeded: i.immediate))
    case 0xB8...0xBF: setRegister(i.rm, size: size, rex: true, i.immediate)
    default:
      if i.isRegister {
        setRegister(i.rm, size: size, rex: rex, i.immediate)
      } else {
        try store(i.segment, effectiveAddress(i), size: size, i.immediate)
      }
    }
  }

  /// MOVZX and MOVSX.
  func executeExtend(_ i: Insn) throws(GuestFault) {
    let from: UInt8 = i.opcode & 1 == 0 ? 1 : 2
    var value = try operand(i, size: from)
    if i.opcode >= 0xBE {
      value =
        from == 1
        ? UInt64(bitPattern: Int64(Int8(truncatingIfNeeded: value)))
        : UInt64(bitPattern: Int64(Int16(truncatingIfNeeded: value)))
    }
    setRegister(i.reg, size: i.size, rex: true, value)
  }

  func executeConvert(_ i: Insn) {
    switch i.size {
    case 8: set64(0, UInt64(bitPattern: Int64(Int32(truncatingIfNeeded: r64(0)))))
    case 4: set32(0, UInt32(bitPattern: Int32(Int16(truncatingIfNeeded: r64(0)))))
    default: set16(0, UInt16(bitPattern: Int16(Int8(truncatingIfNeeded: r64(0)))))
    }
  }

  /// INC DEC NOT NEG.
  func executeUnary(_ i: Insn) throws(GuestFault) {
    let size = i.size
    var operation: UInt8
    switch i.opcode {
    case 0x40...0x4F:
      operation = i.opcode &>> 3 & 1
      let a = register(i.rm, size: size, rex: true)
      setRegister(i.rm, size: size, rex: true, unary(operation, size: size, a))
      return
    case 0xF6, 0xF7: operation = i.sub  // 2 and 3
    default: operation = i.sub
    }
    if i.isRegister {
      let a = register(i.rm, size: size, rex: i.hasREX)
      setRegister(i.rm, size: size, rex: i.hasREX, unary(operation, size: size, a))
    } else if i.isLocked {
      try unsafe modifyLocked(i.segment, effectiveAddress(i), size: size) { p in
        unsafe lockedUnary(operation, size: size, at: p)
      } _: {
        unary(operation, size: size, $0)
      }
    } else {
      try modify(i, size: size) { unary(operation, size: size, $0) }
    }
  }

  func executeShift(_ i: Insn) throws(GuestFault) {
    let size = i.size
    let operation = i.sub
    var count: UInt8
    switch i.opcode {
    case 0xC0, 0xC1: count = UInt8(truncatingIfNeeded: i.immediate)
    case 0xD0, 0xD1: count = 1
    default: count = r8(1, rex: true)
    }
    if i.isRegister {
      let a = register(i.rm, size: size, rex: i.hasREX)
      setRegister(i.rm, size: size, rex: i.hasREX, shifted(operation, size: size, a, count))
    } else {
      try modify(i, size: size) { shifted(operation, size: size, $0, count) }
    }
  }

  func executeDoubleShift(_ i: Insn) throws(GuestFault) {
    let size = i.size
    let left = i.opcode < 0xA8
    let count = i.opcode & 1 == 0 ? UInt8(truncatingIfNeeded: i.immediate) : r8(1, rex: true)
    let b = register(i.reg, size: size, rex: true)
    func shift(_ a: UInt64) -> UInt64 {
      let f = unsafe flagsPointer
      switch size {
      case 2:
        let x = UInt16(truncatingIfNeeded: a)
        let y = UInt16(truncatingIfNeeded: b)
        return UInt64(unsafe left ? x86_shld16(x, y, count, f) : x86_shrd16(x, y, count, f))
      case 4:
        let x = UInt32(truncatingIfNeeded: a)
        let y = UInt32(truncatingIfNeeded: b)
        return UInt64(unsafe left ? x86_shld32(x, y, count, f) : x86_shrd32(x, y, count, f))
      default: return unsafe left ? x86_shld64(a, b, count, f) : x86_shrd64(a, b, count, f)
      }
    }
    if i.isRegister {
      let a = register(i.rm, size: size, rex: true)
      setRegister(i.rm, size: size, rex: true, shift(a))
    } else {
      try modify(i, size: size) { shift($0) }
    }
  }

  // MARK: - Multiplication and division

  func executeIMul(_ i: Insn) throws(GuestFault) {
    let b = try operand(i, size: i.size)
    let a = i.map == 1 ? register(i.reg, size: i.size, rex: true) : i.immediate
    let f = unsafe flagsPointer
    switch i.size {
    case 2:
      set16(
        i.reg,
        unsafe x86_imul16(UInt16(truncatingIfNeeded: a), UInt16(truncatingIfNeeded: b), f))
    case 4:
      set32(
        i.reg,
        unsafe x86_imul32(UInt32(truncatingIfNeeded: a), UInt32(truncatingIfNeeded: b), f))
    default: set64(i.reg, unsafe x86_imul64(a, b, f))
    }
  }

  func executeMultiplyDivide(_ i: Insn) throws(GuestFault) {
    let b = try operand(i, size: i.size)
    let f = unsafe flagsPointer
    let signed = i.sub & 1 != 0
    if i.sub < 6 {
      switch i.size {
      case 1:
        let x = r8(0, rex: true)
        let y = UInt8(truncatingIfNeeded: b)
        set16(0, unsafe signed ? x86_imulwide8(x, y, f) : x86_mulwide8(x, y, f))
      case 2:
        var high: UInt16 = 0
        let y = UInt16(truncatingIfNeeded: b)
        let low =
          unsafe signed
          ? x86_imulwide16(r16(0), y, &high, f) : x86_mulwide16(r16(0), y, &high, f)
        set16(0, low)
        set16(2, high)
      case 4:
        var high: UInt32 = 0
        let y = UInt32(truncatingIfNeeded: b)
        let low =
          unsafe signed
          ? x86_imulwide32(r32(0), y, &high, f) : x86_mulwide32(r32(0), y, &high, f)
        set32(0, low)
        set32(2, high)
      default:
        var high: UInt64 = 0
        let low =
          unsafe signed
          ? x86_imulwide64(r64(0), b, &high, f) : x86_mulwide64(r64(0), b, &high, f)
        set64(0, low)
        set64(2, high)
      }
      return
    }
    switch i.size {
    case 1:
      let y = UInt8(truncatingIfNeeded: b)
      if signed {
        let result = try divideSigned(Int8(bitPattern: r8(4, rex: false)), r8(0, rex: true), y)
        set16(0, UInt16(result.0) | UInt16(result.1) &<< 8)
      } else {
        let result = try divide(r8(4, rex: false), r8(0, rex: true), y)
        set16(0, UInt16(result.0) | UInt16(result.1) &<< 8)
      }
    case 2:
      let y = UInt16(truncatingIfNeeded: b)
      let result =
        signed
        ? try divideSigned(Int16(bitPattern: r16(2)), r16(0), y) : try divide(r16(2), r16(0), y)
      set16(0, result.0)
      set16(2, result.1)
    case 4:
      let y = UInt32(truncatingIfNeeded: b)
      let result =
        signed
        ? try divideSigned(Int32(bitPattern: r32(2)), r32(0), y) : try divide(r32(2), r32(0), y)
      set32(0, result.0)
      set32(2, result.1)
    default:
      let result =
        signed
        ? try divideSigned(Int64(bitPattern: r64(2)), r64(0), b) : try divide(r64(2), r64(0), b)
      set64(0, result.0)
      set64(2, result.1)
    }
  }

  private func divide<T: FixedWidthInteger & UnsignedInteger>(
    _ high: T, _ low: T, _ divisor: T
  ) throws(GuestFault) -> (T, T) where T.Magnitude == T {
    if divisor == 0 || high >= divisor { throw fault(ExceptionVector.divide) }
    let (q, r) = divisor.dividingFullWidth((high, low))
    return (q, r)
  }

  private func divideSigned<T: FixedWidthInteger & SignedInteger>(
    _ high: T, _ low: T.Magnitude, _ divisor: T.Magnitude
  ) throws(GuestFault) -> (T.Magnitude, T.Magnitude)
  where T.Magnitude: FixedWidthInteger & UnsignedInteger, T.Magnitude.Magnitude == T.Magnitude {
    if divisor == 0 { throw fault(ExceptionVector.divide) }
    let signedDivisor = T(truncatingIfNeeded: divisor)
    let negative = high < 0
    // Magnitude of the double-width dividend.
    var h = T.Magnitude(truncatingIfNeeded: high)
    var l = low
    if negative {
      l = 0 &- l
      h = ~h &+ (l == 0 ? 1 : 0)
    }
    let d = signedDivisor.magnitude
    if h >= d { throw fault(ExceptionVector.divide) }
    let (q, r) = d.dividingFullWidth((h, l))
    let negativeQuotient = negative != (signedDivisor < 0)
    let top: T.Magnitude = 1 &<< T.Magnitude(truncatingIfNeeded: T.bitWidth - 1)
    if negativeQuotient ? q > top : q >= top { throw fault(ExceptionVector.divide) }
    return (negativeQuotient ? 0 &- q : q, negative ? 0 &- r : r)
  }

  // MARK: - Exchanges

  func executeExchange(_ i: Insn) throws(GuestFault) {
    let size = i.size
    let rex = i.hasREX
    let value = register(i.reg, size: size, rex: rex)
    if i.isRegister {
      let other = register(i.rm, size: size, rex: rex)
      setRegister(i.rm, size: size, rex: rex, value)
      setRegister(i.reg, size: size, rex: rex, other)
      return
    }
    var old: UInt64 = 0
    try unsafe modifyLocked(i.segment, effectiveAddress(i), size: size) { p in
      switch size {
      case 1: old = UInt64(unsafe x86_xchg8(p, UInt8(truncatingIfNeeded: value)))
      case 2: old = UInt64(unsafe x86_xchg16(p, UInt16(truncatingIfNeeded: value)))
      case 4: old = UInt64(unsafe x86_xchg32(p, UInt32(truncatingIfNeeded: value)))
      default: old = unsafe x86_xchg64(p, value)
      }
    } _: { before in
      old = before
      return value
    }
    setRegister(i.reg, size: size, rex: rex, old)
  }

  func executeExchangeAdd(_ i: Insn) throws(GuestFault) {
    let size = i.size
    let rex = i.hasREX
    let value = register(i.reg, size: size, rex: rex)
    if i.isRegister {
      let other = register(i.rm, size: size, rex: rex)
      let sum = arithmetic(0, size: size, other, value)
      setRegister(i.reg, size: size, rex: rex, other)
      setRegister(i.rm, size: size, rex: rex, sum)
      return
    }
    var old: UInt64 = 0
    let f = unsafe flagsPointer
    try unsafe modifyLocked(i.segment, effectiveAddress(i), size: size) { p in
      switch size {
      case 1: old = UInt64(unsafe x86_lock_xadd8(p, UInt8(truncatingIfNeeded: value), f))
      case 2: old = UInt64(unsafe x86_lock_xadd16(p, UInt16(truncatingIfNeeded: value), f))
      case 4: old = UInt64(unsafe x86_lock_xadd32(p, UInt32(truncatingIfNeeded: value), f))
      default: old = unsafe x86_lock_xadd64(p, value, f)
      }
    } _: { before in
      old = before
      return arithmetic(0, size: size, before, value)
    }
    setRegister(i.reg, size: size, rex: rex, old)
  }

  func executeCompareExchange(_ i: Insn) throws(GuestFault) {
    let size = i.size
    let rex = i.hasREX
    let expected = register(0, size: size, rex: true)
    let desired = register(i.reg, size: size, rex: rex)
    var old: UInt64 = 0
    if i.isRegister {
      old = register(i.rm, size: size, rex: rex)
      _ = arithmetic(7, size: size, expected, old)
      if isZero {
        setRegister(i.rm, size: size, rex: rex, desired)
      } else {
        setRegister(0, size: size, rex: true, old)
      }
      return
    }
    try unsafe modifyLocked(i.segment, effectiveAddress(i), size: size) { p in
      switch size {
      case 1:
        old = UInt64(
          unsafe x86_lock_cmpxchg8(
            p, UInt8(truncatingIfNeeded: expected), UInt8(truncatingIfNeeded: desired)))
      case 2:
        old = UInt64(
          unsafe x86_lock_cmpxchg16(
            p, UInt16(truncatingIfNeeded: expected), UInt16(truncatingIfNeeded: desired)))
      case 4:
        old = UInt64(
          unsafe x86_lock_cmpxchg32(
            p, UInt32(truncatingIfNeeded: expected), UInt32(truncatingIfNeeded: desired)))
      default: old = unsafe x86_lock_cmpxchg64(p, expected, desired)
      }
    } _: { before in
      old = before
      return before == expected ? desired : before
    }
    _ = arithmetic(7, size: size, expected, old)
    if !isZero { setRegister(0, size: size, rex: true, old) }
  }

  /// CMPXCHG8B and CMPXCHG16B.
  func executeCompareExchangeWide(_ i: Insn) throws(GuestFault) {
    let offset = effectiveAddress(i)
    if i.size != 8 {
      let expected = UInt64(r32(0)) | UInt64(r32(2)) &<< 32
      let desired = UInt64(r32(3)) | UInt64(r32(1)) &<< 32
      var old: UInt64 = 0
      try unsafe modifyLocked(i.segment, offset, size: 8) { p in
        old = unsafe x86_lock_cmpxchg64(p, expected, desired)
      } _: { before in
        old = before
        return before == expected ? desired : before
      }
      setFlag(X86_RAW_ZF, old == expected)
      if old != expected {
        set32(0, UInt32(truncatingIfNeeded: old))
        set32(2, UInt32(truncatingIfNeeded: old &>> 32))
      }
      return
    }
    if coreFeatures & Feature.cx16 == 0 { throw fault(ExceptionVector.undefined) }
    let start = try linear(i.segment, offset, 16, write: true)
    if start & 15 != 0 { throw fault(ExceptionVector.generalProtection, 0) }
    var low = r64(0)
    var high = r64(2)
    let t = try resolve(start, write: true, class: accessClass)
    var done: Bool
    if !t.isReadOnly, let p = unsafe UnsafeMutableRawPointer(bitPattern: UInt(t.host)) {
      done = unsafe x86_lock_cmpxchg16b(p, &low, &high, r64(3), r64(1)) != 0
      if t.flags != 0, unsafe x86_flags_load(t.flags) & 1 != 0 {
        environment.codeWasWritten(t.physical, flags: t.flags, length: 16)
      }
    } else {
      low = try readLinear(start, 8, class: accessClass)
      high = try readLinear(start &+ 8, 8, class: accessClass)
      done = low == r64(0) && high == r64(2)
      if done {
        try writeLinear(start, 8, r64(3), class: accessClass)
        try writeLinear(start &+ 8, 8, r64(1), class: accessClass)
      }
    }
    setFlag(X86_RAW_ZF, done)
    if !done {
      set64(0, low)
      set64(2, high)
    }
  }
}
