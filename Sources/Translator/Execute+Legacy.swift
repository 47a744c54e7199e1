import CX86

/// Stack frames, checks and decimal arithmetic of the older modes.
extension Core {
  func executeLegacy(_ i: Insn) throws(GuestFault) {
    switch unsafe unsafeBitCast(i.handler, to: Operation.self) {
    case .pusha:
      let size = UInt64(i.size)
      // All eight places are checked before the first is written.
      var k: UInt64 = 8
      while k > 0 {
        try checkWrite(Core.ss, stackOffset(0 &- k &* size), size: i.size)
        k &-= 1
      }
      for n in UInt8(0)..<8 {
        let offset = stackOffset(0 &- (UInt64(n) &+ 1) &* size)
        try store(Core.ss, offset, size: i.size, register(n, size: i.size, rex: true))
      }
      setStackPointer(stackOffset(0 &- 8 &* size))
    case .popa:
      let size = UInt64(i.size)
      for n in UInt8(0)..<8 {
        _ = try load(Core.ss, stackOffset(UInt64(n) &* size), size: i.size)
      }
      let after = stackOffset(8 &* size)
      let pointer = r64(4)
      for n in UInt8(0)..<8 where n != 3 {
        let offset = (pointer &+ UInt64(n) &* size) & stackMask
        let value = try load(Core.ss, offset, size: i.size)
        setRegister(7 &- n, size: i.size, rex: true, value)
      }
      setStackPointer(after)
    case .bound:
      let offset = effectiveAddress(i)
      let size = i.size
      let low = try load(i.segment, offset, size: size)
      let high = try load(i.segment, (offset &+ UInt64(size)) & i.addressMask, size: size)
      let value = register(i.reg, size: size, rex: true)
      let shift = 64 &- Int64(size) &* 8
      func signed(_ x: UInt64) -> Int64 { Int64(bitPattern: x &<< UInt64(shift)) &>> shift }
      if signed(value) < signed(low) || signed(value) > signed(high) {
        throw fault(ExceptionVector.bound)
      }
    case .arpl:
      if !isProtected { throw fault(ExceptionVector.undefined) }
      let source = r16(i.reg) & 3
      func adjust(_ a: UInt64) -> UInt64 {
        let less = UInt16(a & 3) < source
        setFlag(X86_RAW_ZF, less)
        return less ? a & ~3 | UInt64(source) : a
      }
      if i.isRegister {
        let result = adjust(UInt64(r16(i.rm)))
        set16(i.rm, UInt16(truncatingIfNeeded: result))
      } else {
        try modify(i, size: 2) { adjust($0) }
      }
    case .enter: try executeEnter(i)
    case .leaveFrame:
      let frame = stackSize == 8 ? r64(5) : stackSize == 4 ? r64(5) & 0xFFFF_FFFF : r64(5) & 0xFFFF
      let value = try load(Core.ss, frame, size: i.size)
      setStackPointer((frame &+ UInt64(i.size)) & stackMask)
      setRegister(5, size: i.size, rex: true, value)
    default:  // XLAT
      let offset = (r64(3) &+ UInt64(r8(0, rex: true))) & i.addressMask
      set8(0, rex: true, try load(i.segment, offset, UInt8.self))
    }
  }

  private func executeEnter(_ i: Insn) throws(GuestFault) {
    let size = UInt64(i.size)
    let level = UInt64(i.immediate2 & 31)
    let frameRegister = r64(5)
    var offset = stackOffset(0 &- size)
    try checkWrite(Core.ss, offset, size: i.size)
    let frame = offset
    try store(Core.ss, offset, size: i.size, register(5, size: i.size, rex: true))
    if level > 0 {
      var k: UInt64 = 1
      while k < level {
        let from = (frameRegister &- k &* size) & stackMask
        let value = try load(Core.ss, from, size: i.size)
        offset = (offset &- size) & stackMask
        try store(Core.ss, offset, size: i.size, value)
        k &+= 1
      }
      offset = (offset &- size) & stackMask
      try store(Core.ss, offset, size: i.size, frame)
    }
    let pointer = (offset &- i.immediate) & stackMask
    // The new top of the stack must be writable.
    try checkWrite(Core.ss, pointer, size: i.size)
    setRegister(5, size: i.size, rex: true, frame)
    setStackPointer(pointer)
  }

  /// Decimal adjustment (SDM vol. 2, DAA, DAS, AAA, AAS, AAM, AAD) and SALC.
  func executeDecimal(_ i: Insn) throws(GuestFault) {
    let al = r8(0, rex: true)
    let adjust = flag(X86_RAW_AF) || al & 15 > 9
    switch unsafe unsafeBitCast(i.handler, to: Operation.self) {
    case .daa, .das:
      let isAdd = i.opcode == 0x27
      var value = al
      var isCarry = carry
      let high = isCarry || al > 0x99
      if adjust {
        value = isAdd ? value &+ 6 : value &- 6
        if !isAdd && al < 6 { isCarry = true }
      }
      if high {
        value = isAdd ? value &+ 0x60 : value &- 0x60
        isCarry = true
      }
      if isAdd && !high { isCarry = false }
      if !isAdd && !high { isCarry = carry || (adjust && al < 6) }
      set8(0, rex: true, value)
      setResultFlags(UInt64(value), size: 1)
      setFlag(X86_RAW_CF, isCarry)
      setFlag(X86_RAW_AF, adjust)
    case .aaa, .aas:
      var ax = r16(0)
      if adjust { ax = i.opcode == 0x37 ? ax &+ 0x106 : ax &- 0x106 }
      set16(0, ax & 0xFF0F)
      setResultFlags(UInt64(ax & 0x0F), size: 1)
      setFlag(X86_RAW_AF, adjust)
      setFlag(X86_RAW_CF, adjust)
    case .aam:
      let base = UInt8(truncatingIfNeeded: i.immediate)
      if base == 0 { throw fault(ExceptionVector.divide) }
      set16(0, UInt16(al / base) &<< 8 | UInt16(al % base))
      setResultFlags(UInt64(al % base), size: 1)
    case .aad:
      let base = UInt8(truncatingIfNeeded: i.immediate)
      let value = al &+ r8(4, rex: false) &* base
      set16(0, UInt16(value))
      setResultFlags(UInt64(value), size: 1)
    default: set8(0, rex: true, carry ? 0xFF : 0)
    }
  }
}
