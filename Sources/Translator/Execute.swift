import CX86

/// What an instruction does to the flow of the interpreter.
enum Flow {
  /// On to the next instruction of the block.
  case next
  /// The block is over; `rip` says where to go on, in the same mode.
  case branch
  /// The block is over, and modes, events or the TLB may have changed.
  case reconsider
  /// The core has stopped (HLT, shutdown); `stopReason` says why.
  case stop
}

/// Why the interpreter came back.
enum StopReason: UInt8 {
  case none, halt, interrupted, window, shutdown
}

/// The inner loop: hot instructions here, the rest in `executeGeneral`.
extension Core {
  /// Executes blocks from `first` as long as they can be linked within a page. `single`: one block only.
  @inline(never) func executeBlocks(
    _ first: UnsafeMutablePointer<Block>, single: Bool
  ) throws(GuestFault) -> Flow {
    var block = unsafe first
    while true {
      var next = unsafe UnsafePointer(block.pointee.instructions)
      unsafe s.pointee.instructions &+= UInt64(block.pointee.count)
      do throws(GuestFault) {
        inner: while true {
          let i = unsafe Insn(next)
          rip = rip &+ UInt64(i.length)
          unsafe next += 1
          // SAFETY: the decoder writes raw values of Operation only.
          switch unsafe unsafeBitCast(i.handler, to: Operation.self) {
          case .add32RR: set32(i.rm, unsafe x86_add32(r32(i.rm), r32(i.reg), flagsPointer))
          case .or32RR: set32(i.rm, unsafe x86_or32(r32(i.rm), r32(i.reg), flagsPointer))
          case .adc32RR: set32(i.rm, unsafe x86_adc32(r32(i.rm), r32(i.reg), flagsPointer))
          case .sbb32RR: set32(i.rm, unsafe x86_sbb32(r32(i.rm), r32(i.reg), flagsPointer))
          case .and32RR: set32(i.rm, unsafe x86_and32(r32(i.rm), r32(i.reg), flagsPointer))
          case .sub32RR: set32(i.rm, unsafe x86_sub32(r32(i.rm), r32(i.reg), flagsPointer))
          case .xor32RR: set32(i.rm, unsafe x86_xor32(r32(i.rm), r32(i.reg), flagsPointer))
          case .cmp32RR: unsafe x86_cmp32(r32(i.rm), r32(i.reg), flagsPointer)
          case .add32RI:
            set32(
              i.rm,
              unsafe x86_add32(r32(i.rm), UInt32(truncatingIfNeeded: i.immediate), flagsPointer))
          case .or32RI:
            set32(
              i.rm,
              unsafe x86_or32(r32(i.rm), UInt32(truncatingIfNeeded: i.immediate), flagsPointer))
          case .adc32RI:
            set32(
              i.rm,
              unsafe x86_adc32(r32(i.rm), UInt32(truncatingIfNeeded: i.immediate), flagsPointer))
          case .sbb32RI:
            set32(
              i.rm,
              unsafe x86_sbb32(r32(i.rm), UInt32(truncatingIfNeeded: i.immediate), flagsPointer))
          case .and32RI:
            set32(
              i.rm,
              unsafe x86_and32(r32(i.rm), UInt32(truncatingIfNeeded: i.immediate), flagsPointer))
          case .sub32RI:
            set32(
              i.rm,
              unsafe x86_sub32(r32(i.rm), UInt32(truncatingIfNeeded: i.immediate), flagsPointer))
          case .xor32RI:
            set32(
              i.rm,
              unsafe x86_xor32(r32(i.rm), UInt32(truncatingIfNeeded: i.immediate), flagsPointer))
          case .cmp32RI:
            unsafe x86_cmp32(r32(i.rm), UInt32(truncatingIfNeeded: i.immediate), flagsPointer)
          case .add32RM:
            let value = try load(i.segment, effectiveAddress(i), UInt32.self)
            set32(i.reg, unsafe x86_add32(r32(i.reg), value, flagsPointer))
          case .or32RM:
            let value = try load(i.segment, effectiveAddress(i), UInt32.self)
            set32(i.reg, unsafe x86_or32(r32(i.reg), value, flagsPointer))
          case .adc32RM:
            let value = try load(i.segment, effectiveAddress(i), UInt32.self)
            set32(i.reg, unsafe x86_adc32(r32(i.reg), value, flagsPointer))
          case .sbb32RM:
            let value = try load(i.segment, effectiveAddress(i), UInt32.self)
            set32(i.reg, unsafe x86_sbb32(r32(i.reg), value, flagsPointer))
          case .and32RM:
            let value = try load(i.segment, effectiveAddress(i), UInt32.self)
            set32(i.reg, unsafe x86_and32(r32(i.reg), value, flagsPointer))
          case .sub32RM:
            let value = try load(i.segment, effectiveAddress(i), UInt32.self)
            set32(i.reg, unsafe x86_sub32(r32(i.reg), value, flagsPointer))
          case .xor32RM:
            let value = try load(i.segment, effectiveAddress(i), UInt32.self)
            set32(i.reg, unsafe x86_xor32(r32(i.reg), value, flagsPointer))
          case .cmp32RM:
            let value = try load(i.segment, effectiveAddress(i), UInt32.self)
            unsafe x86_cmp32(r32(i.reg), value, flagsPointer)
          case .add64RR: set64(i.rm, unsafe x86_add64(r64(i.rm), r64(i.reg), flagsPointer))
          case .or64RR: set64(i.rm, unsafe x86_or64(r64(i.rm), r64(i.reg), flagsPointer))
          case .adc64RR: set64(i.rm, unsafe x86_adc64(r64(i.rm), r64(i.reg), flagsPointer))
          case .sbb64RR: set64(i.rm, unsafe x86_sbb64(r64(i.rm), r64(i.reg), flagsPointer))
          case .and64RR: set64(i.rm, unsafe x86_and64(r64(i.rm), r64(i.reg), flagsPointer))
          case .sub64RR: set64(i.rm, unsafe x86_sub64(r64(i.rm), r64(i.reg), flagsPointer))
          case .xor64RR: set64(i.rm, unsafe x86_xor64(r64(i.rm), r64(i.reg), flagsPointer))
          case .cmp64RR: unsafe x86_cmp64(r64(i.rm), r64(i.reg), flagsPointer)
          case .add64RI: set64(i.rm, unsafe x86_add64(r64(i.rm), i.immediate, flagsPointer))
          case .or64RI: set64(i.rm, unsafe x86_or64(r64(i.rm), i.immediate, flagsPointer))
          case .adc64RI: set64(i.rm, unsafe x86_adc64(r64(i.rm), i.immediate, flagsPointer))
          case .sbb64RI: set64(i.rm, unsafe x86_sbb64(r64(i.rm), i.immediate, flagsPointer))
          case .and64RI: set64(i.rm, unsafe x86_and64(r64(i.rm), i.immediate, flagsPointer))
          case .sub64RI: set64(i.rm, unsafe x86_sub64(r64(i.rm), i.immediate, flagsPointer))
          case .xor64RI: set64(i.rm, unsafe x86_xor64(r64(i.rm), i.immediate, flagsPointer))
          case .cmp64RI: unsafe x86_cmp64(r64(i.rm), i.immediate, flagsPointer)
          case .add64RM:
            let value = try load(i.segment, effectiveAddress(i), UInt64.self)
            set64(i.reg, unsafe x86_add64(r64(i.reg), value, flagsPointer))
          case .or64RM:
            let value = try load(i.segment, effectiveAddress(i), UInt64.self)
            set64(i.reg, unsafe x86_or64(r64(i.reg), value, flagsPointer))
          case .adc64RM:
            let value = try load(i.segment, effectiveAddress(i), UInt64.self)
            set64(i.reg, unsafe x86_adc64(r64(i.reg), value, flagsPointer))
          case .sbb64RM:
            let value = try load(i.segment, effectiveAddress(i), UInt64.self)
            set64(i.reg, unsafe x86_sbb64(r64(i.reg), value, flagsPointer))
          case .and64RM:
            let value = try load(i.segment, effectiveAddress(i), UInt64.self)
            set64(i.reg, unsafe x86_and64(r64(i.reg), value, flagsPointer))
          case .sub64RM:
            let value = try load(i.segment, effectiveAddress(i), UInt64.self)
            set64(i.reg, unsafe x86_sub64(r64(i.reg), value, flagsPointer))
          case .xor64RM:
            let value = try load(i.segment, effectiveAddress(i), UInt64.self)
            set64(i.reg, unsafe x86_xor64(r64(i.reg), value, flagsPointer))
          case .cmp64RM:
            let value = try load(i.segment, effectiveAddress(i), UInt64.self)
            unsafe x86_cmp64(r64(i.reg), value, flagsPointer)
          case .test32RR: unsafe x86_test32(r32(i.rm), r32(i.reg), flagsPointer)
          case .test64RR: unsafe x86_test64(r64(i.rm), r64(i.reg), flagsPointer)
          case .test8RR:
            unsafe x86_test8(r8(i.rm, rex: i.hasREX), r8(i.reg, rex: i.hasREX), flagsPointer)
          case .mov32RR: set32(i.rm, r32(i.reg))
          case .mov64RR: set64(i.rm, r64(i.reg))
          case .movRI: set64(i.rm, i.immediate)
          case .load8:
            set8(i.reg, rex: i.hasREX, try load(i.segment, effectiveAddress(i), UInt8.self))
          case .load16: set16(i.reg, try load(i.segment, effectiveAddress(i), UInt16.self))
          case .load32: set32(i.reg, try load(i.segment, effectiveAddress(i), UInt32.self))
          case .load64: set64(i.reg, try load(i.segment, effectiveAddress(i), UInt64.self))
          case .store8: try store(i.segment, effectiveAddress(i), r8(i.reg, rex: i.hasREX))
          case .store16: try store(i.segment, effectiveAddress(i), r16(i.reg))
          case .store32: try store(i.segment, effectiveAddress(i), r32(i.reg))
          case .store64: try store(i.segment, effectiveAddress(i), r64(i.reg))
          case .movzx8RR: set64(i.reg, UInt64(r8(i.rm, rex: true)))
          case .movzx16RR: set64(i.reg, UInt64(r16(i.rm)))
          case .movzx8RM: set64(i.reg, UInt64(try load(i.segment, effectiveAddress(i), UInt8.self)))
          case .movzx16RM:
            set64(i.reg, UInt64(try load(i.segment, effectiveAddress(i), UInt16.self)))
          case .lea32: set32(i.reg, UInt32(truncatingIfNeeded: effectiveAddress(i)))
          case .lea64: set64(i.reg, effectiveAddress(i))
          case .push64R:
            let value = r64(i.rm)
            let pointer = r64(4) &- 8
            try store(Core.ss, pointer, value)
            set64(4, pointer)
          case .pop64R:
            let pointer = r64(4)
            let value = try load(Core.ss, pointer, UInt64.self)
            set64(4, pointer &+ 8)
            set64(i.rm, value)
          case .inc32R: set32(i.rm, unsafe x86_inc32(r32(i.rm), flagsPointer))
          case .inc64R: set64(i.rm, unsafe x86_inc64(r64(i.rm), flagsPointer))
          case .dec32R: set32(i.rm, unsafe x86_dec32(r32(i.rm), flagsPointer))
          case .dec64R: set64(i.rm, unsafe x86_dec64(r64(i.rm), flagsPointer))
          case .shl32RI:
            set32(
              i.rm,
              unsafe x86_shl32(r32(i.rm), UInt8(truncatingIfNeeded: i.immediate), flagsPointer))
          case .shr32RI:
            set32(
              i.rm,
              unsafe x86_shr32(r32(i.rm), UInt8(truncatingIfNeeded: i.immediate), flagsPointer))
          case .sar32RI:
            set32(
              i.rm,
              unsafe x86_sar32(r32(i.rm), UInt8(truncatingIfNeeded: i.immediate), flagsPointer))
          case .shl64RI:
            set64(
              i.rm,
              unsafe x86_shl64(r64(i.rm), UInt8(truncatingIfNeeded: i.immediate), flagsPointer))
          case .shr64RI:
            set64(
              i.rm,
              unsafe x86_shr64(r64(i.rm), UInt8(truncatingIfNeeded: i.immediate), flagsPointer))
          case .sar64RI:
            set64(
              i.rm,
              unsafe x86_sar64(r64(i.rm), UInt8(truncatingIfNeeded: i.immediate), flagsPointer))
          case .jo:
            if flag(X86_RAW_OF) { try jump(i) }
            break inner
          case .jno:
            if !flag(X86_RAW_OF) { try jump(i) }
            break inner
          case .jb:
            if carry { try jump(i) }
            break inner
          case .jae:
            if !carry { try jump(i) }
            break inner
          case .je:
            if isZero { try jump(i) }
            break inner
          case .jne:
            if !isZero { try jump(i) }
            break inner
          case .jbe:
            if flag(X86_RAW_CF | X86_RAW_ZF) { try jump(i) }
            break inner
          case .ja:
            if !flag(X86_RAW_CF | X86_RAW_ZF) { try jump(i) }
            break inner
          case .js:
            if flag(X86_RAW_SF) { try jump(i) }
            break inner
          case .jns:
            if !flag(X86_RAW_SF) { try jump(i) }
            break inner
          case .jp:
            if flag(X86_RAW_PF) { try jump(i) }
            break inner
          case .jnp:
            if !flag(X86_RAW_PF) { try jump(i) }
            break inner
          case .jl:
            if isLess { try jump(i) }
            break inner
          case .jge:
            if !isLess { try jump(i) }
            break inner
          case .jle:
            if isZero || isLess { try jump(i) }
            break inner
          case .jg:
            if !(isZero || isLess) { try jump(i) }
            break inner
          case .jumpRelative:
            try jump(i)
            break inner
          case .callRelative:
            if i.size == 8 {
              let pointer = r64(4) &- 8
              let target = rip &+ i.immediate
              if !isCanonical(target) { throw fault(ExceptionVector.generalProtection, 0) }
              try store(Core.ss, pointer, rip)
              set64(4, pointer)
              rip = target
            } else {
              try callNear(i, rip &+ i.immediate)
            }
            break inner
          case .return_:
            if i.size == 8 {
              let pointer = r64(4)
              let target = try load(Core.ss, pointer, UInt64.self)
              if !isCanonical(target) { throw fault(ExceptionVector.generalProtection, 0) }
              set64(4, pointer &+ 8)
              rip = target
            } else {
              try returnNear(i, 0)
            }
            break inner
          case .setcc:
            let value: UInt8 = condition(i.opcode & 15) ? 1 : 0
            if i.isRegister {
              set8(i.rm, rex: i.hasREX, value)
            } else {
              try store(i.segment, effectiveAddress(i), value)
            }
          case .cmov:
            let value =
              i.isRegister
              ? register(i.rm, size: i.size, rex: true)
              : try load(i.segment, effectiveAddress(i), size: i.size)
            if condition(i.opcode & 15) {
              setRegister(i.reg, size: i.size, rex: true, value)
            } else if i.size == 4 {
              set32(i.reg, r32(i.reg))
            }
          case .movsxd:
            let value =
              i.isRegister
              ? r32(i.rm) : try load(i.segment, effectiveAddress(i), UInt32.self)
            let wide = UInt64(bitPattern: Int64(Int32(bitPattern: value)))
            setRegister(i.reg, size: i.size, rex: true, wide)
          case .nop: break
          case .leave:
            rip = rip &- UInt64(i.length)
            break inner
          case .vector:
            try executeVector(i)
          default:
            switch try executeGeneral(i) {
            case .next: break
            case .branch: break inner
            case .reconsider: return .reconsider
            case .stop: return .stop
            }
          }
        }
      } catch {
        // Back to the instruction that faulted, unless it had already become another task's.
        if environment.faultIsElsewhere {
          environment.faultIsElsewhere = false
        } else {
          rip = unsafe rip &- UInt64((next - 1).pointee.length)
        }
        throw error
      }
      // The block is over: on to the next one when it is in the same page and nobody asks for attention.
      if single { return .branch }
      if unsafe x86_request(s) != 0 { return .reconsider }
      let linear = (rip &+ (unsafe window(Core.cs).pointee.base)) & linearMask
      guard let following = unsafe follow(linear) else { return .reconsider }
      unsafe block = following
    }
  }

  /// The block at `linear` without leaving the loop; nil: ask the slow way.
  @inline(__always) private func follow(_ linear: UInt64) -> UnsafeMutablePointer<Block>? {
    // SAFETY: jump entries and blocks live in the cache's arena until `reset`, which empties the table.
    let table = unsafe UnsafePointer<JumpEntry>(bitPattern: UInt(s.pointee.jumpTable))
    guard let table = unsafe table else { return nil }
    let entry = unsafe table + BlockCache.jumpSlot(linear)
    if unsafe entry.pointee.linear == linear && entry.pointee.key == jumpKey,
      let found = unsafe entry.pointee.block
    {
      let isDead = unsafe found.pointee.physical == UInt64.max
      if isDead || (unsafe rip &+ UInt64(found.pointee.length) > fetchEnd) { return nil }
      return unsafe found
    }
    return nil
  }

  @inline(__always) var jumpKey: UInt64 {
    jumpGeneration &<< 8 | UInt64(codeSize) | (cpl == 3 ? 0x80 : 0)
  }

  /// A taken relative jump.
  @inline(__always) func jump(_ i: Insn) throws(GuestFault) {
    let target = rip &+ i.immediate
    if i.size == 8 {
      if !isCanonical(target) { throw fault(ExceptionVector.generalProtection, 0) }
      rip = target
    } else {
      try jumpNear(i.size == 2 ? target & 0xFFFF : target & 0xFFFF_FFFF)
    }
  }

  /// A near transfer outside 64-bit mode, checked against the limit.
  func jumpNear(_ target: UInt64) throws(GuestFault) {
    if codeSize == 8 {
      if !isCanonical(target) { throw fault(ExceptionVector.generalProtection, 0) }
    } else if target >= fetchEnd {
      throw fault(ExceptionVector.generalProtection, 0)
    }
    rip = target
  }
}
