import CX86
import Glibc
import Shm

/// All instructions that are not in the inner loop's switch.
extension Core {
  @inline(never) func executeGeneral(_ i: Insn) throws(GuestFault) -> Flow {
    // SAFETY: the decoder writes raw values of Operation only.
    switch unsafe unsafeBitCast(i.handler, to: Operation.self) {
    case .undefined: throw fault(ExceptionVector.undefined)
    case .overlong: throw fault(ExceptionVector.generalProtection, 0)
    case .alu: try executeALU(i)
    case .test: try executeTest(i)
    case .mov, .mov8RR: try executeMove(i)
    case .movx: try executeExtend(i)
    case .lea16: set16(i.reg, UInt16(truncatingIfNeeded: effectiveAddress(i)))
    case .pushR: try push(register(i.rm, size: i.size, rex: true), size: i.size)
    case .popR:
      let value = try popValue(size: i.size)
      setRegister(i.rm, size: i.size, rex: true, value)
    case .pushImmediate: try push(i.immediate, size: i.size)
    case .pushRM:
      let value =
        i.isRegister
        ? register(i.rm, size: i.size, rex: true)
        : try load(i.segment, effectiveAddress(i), size: i.size)
      try push(value, size: i.size)
    case .popRM: try executePopMemory(i)
    case .pushSegment: try executePushSegment(i)
    case .popSegment: return try executePopSegment(i)
    case .pause:
      // A spinning vCPU lets the one that it waits for have the host's processor.
      if environment.endsTurnsAtPause {
        // Between this instruction and the next may be the only moment in which the other gets the lock.
        unsafe x86_request_set(s, UInt32(X86_REQUEST_EXIT))
        return .reconsider
      }
      if environment.isShared {
        // Here others get the page if they want it: a lock that is free only between here and the next instruction would, between
        // blocks, always be seen held.
        environment.pauseOutside()
      } else if environment.notePause() {
        sched_yield()
      }
    case .unary: try executeUnary(i)
    case .shift: try executeShift(i)
    case .returnImmediate:
      try returnNear(i, i.immediate & 0xFFFF)
      return .branch
    case .jumpIndirect:
      let target =
        i.isRegister
        ? register(i.rm, size: i.size, rex: true)
        : try load(i.segment, effectiveAddress(i), size: i.size)
      try jumpNear(target)
      return .branch
    case .callIndirect:
      let target =
        i.isRegister
        ? register(i.rm, size: i.size, rex: true)
        : try load(i.segment, effectiveAddress(i), size: i.size)
      try callNear(i, target)
      return .branch
    case .loop, .jcxz:
      try executeLoop(i)
      return .branch
    case .imul: try executeIMul(i)
    case .multiplyDivide: try executeMultiplyDivide(i)
    case .exchange: try executeExchange(i)
    case .exchangeAccumulator:
      let a = register(0, size: i.size, rex: true)
      let b = register(i.rm, size: i.size, rex: true)
      setRegister(0, size: i.size, rex: true, b)
      setRegister(i.rm, size: i.size, rex: true, a)
    case .convertWide: executeConvert(i)
    case .convertDouble:
      let a = register(0, size: i.size, rex: true)
      let top = a &>> (UInt64(i.size) &* 8 &- 1) & 1
      setRegister(2, size: i.size, rex: true, top != 0 ? UInt64.max : 0)
    case .shld, .shrd: try executeDoubleShift(i)
    case .bitTest: try executeBitTest(i)
    case .bitScan, .popcnt, .tzcnt, .lzcnt: try executeBitScan(i)
    case .byteSwap:
      if i.size == 8 {
        set64(i.rm, r64(i.rm).byteSwapped)
      } else if i.size == 4 {
        set32(i.rm, r32(i.rm).byteSwapped)
      } else {
        set16(i.rm, 0)
      }
    case .compareExchange: try executeCompareExchange(i)
    case .exchangeAdd: try executeExchangeAdd(i)
    case .compareExchangeWide: try executeCompareExchangeWide(i)
    case .crc32: try executeCRC32(i)
    case .movbe: try executeMOVBE(i)
    case .adcx, .adox: try executeADX(i)
    case .andn, .bmiGroup, .bzhi, .pdep, .pext, .mulx, .bextr, .shiftX, .rorx: try executeBMI(i)
    case .movnti:
      try store(
        i.segment, effectiveAddress(i), size: i.size, register(i.reg, size: i.size, rex: true))
    case .strings: return try executeString(i)
    case .portStrings: return try executePortString(i)
    case .portIn, .portOut: return try executePort(i)
    case .setFlag: return try executeSetFlag(i)
    case .lahf:
      if is64Bit && coreFeatures & Feature.lm == 0 { throw fault(ExceptionVector.undefined) }
      set8(4, rex: false, UInt8(truncatingIfNeeded: rflags))
    case .sahf:
      let value = UInt32(r8(4, rex: false)) & 0xD5
      setArithmeticFlags(value | UInt32(truncatingIfNeeded: rflags) & EFLAGS.of)
    case .pushf: try executePushFlags(i)
    case .popf: return try executePopFlags(i)
    case .pusha, .popa, .bound, .arpl, .enter, .leaveFrame, .xlat: try executeLegacy(i)
    case .daa, .das, .aaa, .aas, .aam, .aad, .salc: try executeDecimal(i)
    default: return try executeSystem(i)
    }
    return .next
  }

  // MARK: - Stack

  /// Offset in SS `delta` bytes from the stack pointer, wrapped by the stack's size.
  @inline(__always) func stackOffset(_ delta: UInt64) -> UInt64 { (r64(4) &+ delta) & stackMask }

  func setStackPointer(_ value: UInt64) {
    switch stackSize {
    case 8: set64(4, value)
    case 4: set32(4, UInt32(truncatingIfNeeded: value))
    default: set16(4, UInt16(truncatingIfNeeded: value))
    }
  }

  func push(_ value: UInt64, size: UInt8) throws(GuestFault) {
    let pointer = stackOffset(0 &- UInt64(size))
    try store(Core.ss, pointer, size: size, value)
    setStackPointer(pointer)
  }

  func popValue(size: UInt8) throws(GuestFault) -> UInt64 {
    let value = try load(Core.ss, stackOffset(0), size: size)
    setStackPointer(stackOffset(UInt64(size)))
    return value
  }

  func callNear(_ i: Insn, _ target: UInt64) throws(GuestFault) {
    let masked =
      i.size == 2 ? target & 0xFFFF : i.size == 4 ? target & 0xFFFF_FFFF : target
    if codeSize == 8 ? !isCanonical(masked) : masked >= fetchEnd {
      throw fault(ExceptionVector.generalProtection, 0)
    }
    try push(rip, size: i.size)
    rip = masked
  }

  func returnNear(_ i: Insn, _ release: UInt64) throws(GuestFault) {
    let target = try load(Core.ss, stackOffset(0), size: i.size)
    if codeSize == 8 ? !isCanonical(target) : target >= fetchEnd {
      throw fault(ExceptionVector.generalProtection, 0)
    }
    setStackPointer(stackOffset(UInt64(i.size) &+ release))
    rip = target
  }

  private func executePopMemory(_ i: Insn) throws(GuestFault) {
    let value = try load(Core.ss, stackOffset(0), size: i.size)
    if i.isRegister {
      setStackPointer(stackOffset(UInt64(i.size)))
      setRegister(i.rm, size: i.size, rex: true, value)
      return
    }
    // The address is computed with the stack pointer after the pop.
    let old = r64(4)
    setStackPointer(stackOffset(UInt64(i.size)))
    let after = r64(4)
    let address = effectiveAddress(i)
    set64(4, old)
    try store(i.segment, address, size: i.size, value)
    set64(4, after)
  }

  private func segmentNumber(_ i: Insn) -> UInt8 {
    if i.map == 1 { return i.opcode & 8 == 0 ? Core.fs : Core.gs }
    return i.opcode &>> 3 & 3
  }

  private func executePushSegment(_ i: Insn) throws(GuestFault) {
    let n = segmentNumber(i)
    if is64Bit && i.map == 0 { throw fault(ExceptionVector.undefined) }
    let selector = UInt64(segment(n).selector)
    if i.size == 4 {
      // Only the low word is written (SDM vol. 2B, PUSH).
      let pointer = stackOffset(0 &- 4)
      try store(Core.ss, pointer, size: 2, selector)
      setStackPointer(pointer)
    } else {
      try push(selector, size: i.size)
    }
  }

  private func executePopSegment(_ i: Insn) throws(GuestFault) -> Flow {
    let n = segmentNumber(i)
    let value = try load(Core.ss, stackOffset(0), size: i.size == 4 ? 2 : i.size)
    let after = stackOffset(UInt64(i.size))
    let oldSize = stackSize
    try loadSegment(n, UInt16(truncatingIfNeeded: value))
    switch oldSize {
    case 8: set64(4, after)
    case 4: set32(4, UInt32(truncatingIfNeeded: after))
    default: set16(4, UInt16(truncatingIfNeeded: after))
    }
    if n == Core.ss { shadow = 3 }
    return .reconsider
  }

  private func executeLoop(_ i: Insn) throws(GuestFault) {
    let mask = i.addressMask
    var count = r64(1) & mask
    var taken: Bool
    if i.opcode == 0xE3 {
      taken = count == 0
    } else {
      count = (count &- 1) & mask
      taken = count != 0
      if i.opcode == 0xE0 { taken = taken && !isZero }
      if i.opcode == 0xE1 { taken = taken && isZero }
    }
    if taken { try jump(i) }
    if i.opcode != 0xE3 { setRegister(1, size: i.addressSize, rex: true, count) }
  }

  private func executeSetFlag(_ i: Insn) throws(GuestFault) -> Flow {
    switch i.opcode {
    case 0xF5: setFlag(X86_RAW_CF, !carry)
    case 0xF8: setFlag(X86_RAW_CF, false)
    case 0xF9: setFlag(X86_RAW_CF, true)
    case 0xFC: eflags &= ~EFLAGS.df
    case 0xFD: eflags |= EFLAGS.df
    case 0xFA:
      if cr0 & CR0.pe == 0 || (!isVirtual8086 && cpl <= iopl) || (isVirtual8086 && iopl == 3) {
        eflags &= ~EFLAGS.if
      } else if (isVirtual8086 && cr4 & CR4.vme != 0)
        || (!isVirtual8086 && cpl == 3 && cr4 & CR4.pvi != 0)
      {
        eflags &= ~EFLAGS.vif
      } else {
        throw fault(ExceptionVector.generalProtection, 0)
      }
    default:
      if cr0 & CR0.pe == 0 || (!isVirtual8086 && cpl <= iopl) || (isVirtual8086 && iopl == 3) {
        if eflags & EFLAGS.if == 0 {
          eflags |= EFLAGS.if
          shadow = 1
        }
        return .reconsider
      } else if (isVirtual8086 && cr4 & CR4.vme != 0)
        || (!isVirtual8086 && cpl == 3 && cr4 & CR4.pvi != 0)
      {
        if eflags & EFLAGS.vip != 0 { throw fault(ExceptionVector.generalProtection, 0) }
        eflags |= EFLAGS.vif
      } else {
        throw fault(ExceptionVector.generalProtection, 0)
      }
    }
    return .next
  }

  private func executePushFlags(_ i: Insn) throws(GuestFault) {
    if i.size == 8, unsafe x86_fast_pushf(s) != 0 { return }
    var value = rflags & ~UInt64(EFLAGS.rf | EFLAGS.vm)
    if isVirtual8086 && iopl < 3 {
      if cr4 & CR4.vme == 0 || i.size != 2 { throw fault(ExceptionVector.generalProtection, 0) }
      value |= UInt64(EFLAGS.iopl)
      value &= ~UInt64(EFLAGS.if)
      if eflags & EFLAGS.vif != 0 { value |= UInt64(EFLAGS.if) }
    }
    try push(value, size: i.size)
  }

  private func executePopFlags(_ i: Insn) throws(GuestFault) -> Flow {
    if i.size == 8, unsafe x86_fast_popf(s) != 0 { return .reconsider }
    let extended = isVirtual8086 && iopl < 3
    if extended && (cr4 & CR4.vme == 0 || i.size != 2) {
      throw fault(ExceptionVector.generalProtection, 0)
    }
    let image = UInt32(truncatingIfNeeded: try load(Core.ss, stackOffset(0), size: i.size))
    var mask = EFLAGS.arithmetic | EFLAGS.tf | EFLAGS.df | EFLAGS.nt
    if i.size > 2 { mask |= EFLAGS.ac | EFLAGS.id }
    var value = image
    if extended {
      if image & EFLAGS.tf != 0 || (image & EFLAGS.if != 0 && eflags & EFLAGS.vip != 0) {
        throw fault(ExceptionVector.generalProtection, 0)
      }
      mask |= EFLAGS.vif
      value = value & ~EFLAGS.vif | (image & EFLAGS.if != 0 ? EFLAGS.vif : 0)
    } else {
      if cr0 & CR0.pe == 0 || cpl == 0 {
        mask |= EFLAGS.iopl | EFLAGS.if
      } else if cpl <= iopl {
        mask |= EFLAGS.if
      }
    }
    setStackPointer(stackOffset(UInt64(i.size)))
    let old = UInt32(truncatingIfNeeded: rflags)
    setRFLAGS(UInt64(old & ~(mask | EFLAGS.rf) | value & mask))
    return .reconsider
  }

  // MARK: - Vector

  func executeVector(_ i: Insn) throws(GuestFault) {
    // SAFETY: the engine gets its own instruction, the state, and memory of `memorySize` bytes.
    let early = unsafe VectorEngine.check(s, i.p)
    if early != 0 { throw vectorFault(early) }
    let access = i.memoryAccess
    if access == UInt8(X86_ACCESS_NONE) {
      let result = unsafe VectorEngine.execute(s, i.p, nil)
      if result != 0 { throw vectorFault(result) }
      return
    }
    if access == UInt8(X86_ACCESS_OWN) {
      try unsafe VectorEngine.executeOwn(self, i.p)
      return
    }
    let offset = effectiveAddress(i)
    let size = UInt64(i.memorySize)
    let alignment = UInt64(i.memoryAlignment)
    if alignment > 1 {
      let linear = unsafe offset &+ window(i.segment).pointee.base
      if linear & (alignment &- 1) != 0 { throw fault(ExceptionVector.generalProtection, 0) }
    }
    let reads = access & UInt8(X86_ACCESS_READ) != 0
    let writes = access & UInt8(X86_ACCESS_WRITE) != 0
    let direct =
      unsafe writes
      ? writePointer(i.segment, offset, size) : readPointer(i.segment, offset, size)
    if let direct = unsafe direct {
      let result = unsafe VectorEngine.execute(s, i.p, direct)
      if result != 0 { throw vectorFault(result) }
      return
    }
    let bounce = unsafe x86_bounce(s)
    if writes { try checkWrite(i.segment, offset, count: Int(size)) }
    if reads { try unsafe read(i.segment, offset, into: bounce, count: Int(size)) }
    let result = unsafe VectorEngine.execute(s, i.p, bounce)
    if result != 0 { throw vectorFault(result) }
    if writes { try unsafe write(i.segment, offset, from: bounce, count: Int(size)) }
  }

  private func vectorFault(_ vector: UInt8) -> GuestFault {
    vector == ExceptionVector.generalProtection || vector == ExceptionVector.stack
      ? fault(vector, 0) : fault(vector)
  }
}
