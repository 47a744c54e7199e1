import CX86

/// Transfers of control, the stack, and instructions with code of their own.
extension BlockTranslator {
  // MARK: - Near transfers

  mutating func control(_ i: Insn, _ f: InstructionFacts) -> Bool {
    let target = next &+ i.immediate
    // SAFETY: the decoder writes raw values of Operation only.
    switch unsafe unsafeBitCast(i.handler, to: Operation.self) {
    case .jo, .jno, .jb, .jae, .je, .jne, .jbe, .ja, .js, .jns, .jp, .jnp, .jl, .jge, .jle, .jg:
      if !core.isCanonical(target) { return interpret() }
      requireFlags()
      let kind = linkKind(target)
      let site = unsafe out.jump(condition: i.opcode & 15)
      unsafe pend(.exitHost, site: site, retry: out.p, linear: target, link: kind)
      return true
    case .jumpRelative:
      if !core.isCanonical(target) { return interpret() }
      exit(to: target)
      return false
    case .callRelative:
      if !core.isCanonical(target) { return interpret() }
      pushReturnAddress()
      exit(to: target)
      return false
    case .return_, .returnImmediate:
      if i.size != 8 { return interpret() }
      let stack = HostRegister.guestStack
      let top = stackOperand(base: stack, offset: 0, write: false, wantsScratch: false)
      out.load(HostRegister.address, top.memory)
      checkTarget()
      let released: Int32 =
        8 &+ (i.handler == Operation.returnImmediate.rawValue ? Int32(i.immediate & 0xFFFF) : 0)
      out.lea(stack, HostMemory(base: stack, displacement: released))
      jumpIndirect()
      return false
    case .jumpIndirect:
      if i.size != 8 { return interpret() }
      if i.isRegister {
        flagsToMemory()
        targetRegister(f.rm)
        flagsInHost = false
      } else {
        let target = operand(i, size: 8, write: false, wantsScratch: false)
        out.load(HostRegister.address, target.memory)
      }
      checkTarget()
      jumpIndirect()
      return false
    case .callIndirect:
      if i.size != 8 || (i.isRegister && f.rm == 4) { return interpret() }
      if i.isRegister {
        flagsToMemory()
        targetRegister(f.rm)
        flagsInHost = false
        checkTarget()
      } else {
        let target = operand(i, size: 8, write: false, wantsScratch: false)
        out.load(HostRegister.address, target.memory)
        checkTarget()
        out.store(HostRegister.address, .state(Int(x86OffsetSpill)))
      }
      pushReturnAddress()
      if i.isRegister {
        targetRegister(f.rm)
      } else {
        out.load(HostRegister.address, .state(Int(x86OffsetSpill)))
      }
      jumpIndirect()
      return false
    case .loop:
      if i.opcode != 0xE2 || i.addressSize != 8 || !core.isCanonical(target) { return interpret() }
      out.lea(HostRegister.rcx, HostMemory(base: HostRegister.rcx, displacement: -1))
      out.bytes(0xE3, 5)  // jrcxz over the jump
      exit(to: target)
      return true
    case .jcxz:
      if i.addressSize != 8 || !core.isCanonical(target) { return interpret() }
      out.bytes(0xE3, 2)
      out.bytes(0xEB, 5)
      exit(to: target)
      return true
    default: return interpret()
    }
  }

  private mutating func targetRegister(_ guest: UInt8) {
    if let register = BlockTranslator.host(guest) {
      out.move(HostRegister.address, register)
    } else {
      out.load(HostRegister.address, .guest(guest))
    }
  }

  /// A branch to a non-canonical address faults itself, before it has had an effect: the interpreter does that. Uses R11.
  private mutating func checkTarget() {
    flagsToMemory()
    flagsInHost = false
    out.move(HostRegister.entry, HostRegister.address)
    out.bytes(0x49, 0xC1, 0xFB)  // sar r11, 47
    out.byte(47)
    out.bytes(0x49, 0xFF, 0xC3)  // inc r11
    out.bytes(0x49, 0x83, 0xFB)  // cmp r11, 1
    out.byte(1)
    branch(.interpret, condition: 7, linear: here)
  }

  /// Goes to the guest address in R10, by the table of targets; each block's entry looks whether it is the right one.
  private mutating func jumpIndirect() {
    flagsToMemory()
    out.bytes(0x45, 0x0F, 0xB7)  // movzx r11d, r10w
    out.byte(0xDA)
    out.bytes(0x42, 0xFF)  // jmp [rsp + r11 * 8 + table]
    out.modRM(
      4,
      HostMemory(
        base: HostRegister.rsp, index: HostRegister.entry, scale: 3,
        displacement: Int32(truncatingIfNeeded: jumps)))
  }

  /// Pushes the address of the next instruction.
  private mutating func pushReturnAddress() {
    let isShort = CodeEmitter.fits(next)
    let slot = pushSlot(wantsScratch: !isShort)
    if isShort {
      out.wide(0xC7, 0, slot.memory)
      out.word(UInt32(truncatingIfNeeded: next))
    } else {
      out.constant(HostRegister.entry, next)
      out.store(HostRegister.entry, slot.memory)
    }
    dropStack(8)
  }

  // MARK: - Stack

  /// The eight bytes below the stack pointer, writable.
  private mutating func pushSlot(wantsScratch: Bool) -> Checked {
    stackOperand(
      base: HostRegister.guestStack, offset: -8, write: true, wantsScratch: wantsScratch)
  }

  private mutating func dropStack(_ bytes: Int32) {
    out.lea(
      HostRegister.guestStack, HostMemory(base: HostRegister.guestStack, displacement: -bytes))
  }

  mutating func stack(_ i: Insn, _ f: InstructionFacts) -> Bool {
    let stack = HostRegister.guestStack
    // SAFETY: the decoder writes raw values of Operation only.
    switch unsafe unsafeBitCast(i.handler, to: Operation.self) {
    case .push64R:
      let register = BlockTranslator.host(f.rm)
      let slot = pushSlot(wantsScratch: register == nil)
      if register == nil { out.load(HostRegister.entry, .guest(f.rm)) }
      out.store(register ?? HostRegister.entry, slot.memory)
      dropStack(8)
      return true
    case .pushImmediate:
      if i.size != 8 { return interpret() }
      let slot = pushSlot(wantsScratch: false)
      out.wide(0xC7, 0, slot.memory)
      out.word(UInt32(truncatingIfNeeded: i.immediate))
      dropStack(8)
      return true
    case .pushRM:
      if i.size != 8 || i.isRegister { return interpret() }
      let value = operand(i, size: 8, write: false, wantsScratch: false)
      out.load(HostRegister.address, value.memory)
      out.store(HostRegister.address, .state(Int(x86OffsetSpill)))
      let slot = pushSlot(wantsScratch: true)
      out.load(HostRegister.entry, .state(Int(x86OffsetSpill)))
      out.store(HostRegister.entry, slot.memory)
      dropStack(8)
      return true
    case .pop64R:
      let top = stackOperand(base: stack, offset: 0, write: false, wantsScratch: false)
      if f.rm == 4 {
        out.load(stack, top.memory)
      } else if let register = BlockTranslator.host(f.rm) {
        out.load(register, top.memory)
        dropStack(-8)
      } else {
        out.load(HostRegister.entry, top.memory)
        out.store(HostRegister.entry, .guest(f.rm))
        dropStack(-8)
      }
      return true
    case .leaveFrame:
      if i.size != 8 { return interpret() }
      let saved = stackOperand(base: 5, offset: 0, write: false, wantsScratch: false)
      // The read comes first: it may still fault (X86_NO_SITE).
      out.load(HostRegister.address, saved.memory)
      out.lea(stack, HostMemory(base: 5, displacement: 8))
      out.move(5, HostRegister.address)
      return true
    default: return interpret()
    }
  }
}
