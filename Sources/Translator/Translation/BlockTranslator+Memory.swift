import CX86

/// Guest memory from translated code: one comparison decides whether the TLB has the page and the operand lies inside it.
///
/// A host address is only ever made of `X86TLBEntry.host` plus an offset that was found to be at most 4096 minus the operand's size: whatever
/// the guest computes, it reaches guest memory or the slow path.
extension BlockTranslator {
  /// Where a guest register is while translated code runs; nil: in X86State.
  @inline(__always) static func host(_ guest: UInt8) -> UInt8? {
    if guest == 4 { return HostRegister.guestStack }
    return guest >= 9 && guest <= 11 ? nil : guest
  }

  /// A checked operand.
  struct Checked {
    var memory: HostMemory
    /// A scratch register that it leaves free; nil when it uses both.
    var free: UInt8?
  }

  /// The memory operand of the current instruction, of `size` bytes, as host memory. Destroys the flags, which are saved
  /// first if they are needed. `wantsScratch`: leave a scratch register free.
  mutating func operand(
    _ i: Insn, size: UInt16, write: Bool, wantsScratch: Bool
  ) -> Checked {
    if i.segment < 4 && i.addressSize == 8 && i.index == UInt8(X86_REGISTER_NONE) {
      if i.base == UInt8(X86_REGISTER_RIP) {
        let address = next &+ i.displacement
        if let checked = constantOperand(address, size: size, write: write) { return checked }
      } else if i.base == UInt8(X86_REGISTER_NONE),
        let checked = constantOperand(i.displacement, size: size, write: write)
      {
        return checked
      }
    }
    let plan = unsafe cache.plans[current]
    if let checked = established(plan.operand, plan.operandPlace) { return checked }
    releaseFlags()
    let retry = unsafe out.p
    if let before = reach(plan.operand, plan.operandPlace),
      let adjusted = unsafe Int32(exactly: Int64(i.p.pointee.displacement) &- before)
    {
      address(i, displacement: adjusted)
      return unsafe establish(plan.operand, plan.operandPlace, isWrite: write, retry: retry)
    }
    address(i, displacement: unsafe i.p.pointee.displacement)
    return unsafe check(
      size: size, write: write, wantsScratch: wantsScratch, retry: retry,
      kind: write ? .slowWrite : .slowRead)
  }

  /// Eight bytes at `offset` from the stack pointer or, for LEAVE, from the frame pointer.
  mutating func stackOperand(
    base: UInt8, offset: Int32, write: Bool, wantsScratch: Bool
  ) -> Checked {
    let plan = unsafe cache.plans[current]
    if let checked = established(plan.stack, plan.stackPlace) { return checked }
    releaseFlags()
    let retry = unsafe out.p
    if let before = reach(plan.stack, plan.stackPlace) {
      out.lea(
        HostRegister.address,
        HostMemory(base: base, displacement: offset &- Int32(truncatingIfNeeded: before)))
      return unsafe establish(plan.stack, plan.stackPlace, isWrite: write, retry: retry)
    }
    if offset == 0 {
      out.move(HostRegister.address, base)
    } else {
      out.lea(HostRegister.address, HostMemory(base: base, displacement: offset))
    }
    return unsafe check(
      size: 8, write: write, wantsScratch: wantsScratch, retry: retry,
      kind: write ? .slowWrite : .slowRead)
  }

  /// The offset in its segment, plus the segment's base, in R10. Destroys the flags when there is a base.
  private mutating func address(_ i: Insn, displacement: Int32) {
    effectiveAddress(i, to: HostRegister.address, displacement: displacement)
    if i.segment >= 4 {
      let base = Int(x86OffsetWindow) &+ Int(i.segment) &* MemoryLayout<X86Window>.stride
      out.wide(0x03, HostRegister.address, .state(base))
    }
  }

  /// The offset of the memory operand, as LEA computes it. `to` is R10, or any register that is not R11.
  mutating func effectiveAddress(_ i: Insn, to: UInt8, displacement: Int32) {
    let scratch = HostRegister.address
    if i.base == UInt8(X86_REGISTER_RIP) {
      let value = next &+ i.displacement
      out.constant(to, i.addressSize == 4 ? value & 0xFFFF_FFFF : value)
      return
    }
    let hasBase = i.base != UInt8(X86_REGISTER_NONE)
    let hasIndex = i.index != UInt8(X86_REGISTER_NONE)
    if !hasBase && !hasIndex {
      let value = i.displacement
      out.constant(to, i.addressSize == 4 ? value & 0xFFFF_FFFF : value)
      return
    }
    var base: UInt8 = scratch
    if hasBase {
      if let register = BlockTranslator.host(i.base) {
        base = register
      } else {
        out.load(scratch, .guest(i.base))
      }
    }
    guard hasIndex else {
      if i.addressSize == 8 && displacement == 0 {
        if to != base { out.move(to, base) }
      } else {
        lea(to, HostMemory(base: base, displacement: displacement), i.addressSize)
      }
      return
    }
    var index: UInt8 = HostRegister.entry
    if let register = BlockTranslator.host(i.index) {
      index = register
    } else {
      out.load(index, .guest(i.index))
    }
    if hasBase {
      let m = HostMemory(
        base: base, index: index, scale: i.scale, displacement: displacement)
      lea(to, m, i.addressSize)
    } else {
      // No base: a SIB byte with base 5 and mode 0 has a 32-bit displacement.
      let rex: UInt8 = (to >= 8 ? 4 : 0) | (index >= 8 ? 2 : 0)
      out.bytes((i.addressSize == 8 ? 0x48 : 0x40) | rex, 0x8D)
      out.bytes((to & 7) &<< 3 | 4, i.scale &<< 6 | (index & 7) &<< 3 | 5)
      out.word(displacement)
    }
  }

  private mutating func lea(_ to: UInt8, _ m: HostMemory, _ addressSize: UInt8) {
    if addressSize == 8 { out.lea(to, m) } else { out.narrow(0x8D, to, m) }
  }

  /// Whether the current instruction's accesses remember their last page. The kernel's do not: its pages survive most flushes in the TLB.
  /// An access through an empty site faults in the host, so nothing may have changed before it: not so in instructions with code of
  /// their own.
  private var usesSites: Bool {
    if access != UInt8(Core.AccessClass.user) || avoidsSites { return false }
    let kind = unsafe cache.facts[current].kind
    if kind == .string || kind == .special { return false }
    return !cache.isPlainSite(physical &+ UInt64(offset))
  }

  /// Turns the linear address in R10 into host memory. `retry`: code that computes R10 anew.
  mutating func check(
    size: UInt16, write: Bool, wantsScratch: Bool, retry: UnsafeMutablePointer<UInt8>,
    kind: PendingStub.Kind
  ) -> Checked {
    let address = HostRegister.address
    let entry = HostRegister.entry
    if usesSites {
      let site = cache.nextSite(write: write)
      out.wide(0x2B, address, .state(site))
      out.bytes(0x49, 0x81, 0xFA)  // cmp r10, 4096 - size
      out.word(UInt32(4096) &- UInt32(size))
      let siteKind: PendingStub.Kind =
        kind == .slowRead ? .siteRead : kind == .slowWrite ? .siteWrite : .siteGroup
      noteFlagsOfFaults()
      unsafe pend(
        siteKind, site: out.jump(condition: 7), retry: retry,
        linear: UInt64(truncatingIfNeeded: site))
      if wantsScratch {
        out.wide(0x03, address, .state(site &+ 8))
        return Checked(memory: HostMemory(base: address), free: entry)
      }
      out.load(entry, .state(site &+ 8))
      return Checked(memory: HostMemory(base: address, index: entry), free: nil)
    }
    if hasBMI2 {
      out.bytes(0xC4, 0x43, 0xFB)  // rorx r11, r10, 7
      out.bytes(0xF0, 0xDA, 7)
    } else {
      out.move(entry, address)
      out.bytes(0x49, 0xC1, 0xEB)  // shr r11, 7
      out.byte(7)
    }
    out.bytes(0x41, 0x81, 0xE3)  // and r11d, mask
    out.word(UInt32(X86_TLB_ENTRIES - 1) &<< 5)
    out.wide(
      0x2B, address,
      HostMemory(base: HostRegister.rsp, index: entry, displacement: Int32(tlb + (write ? 8 : 0))))
    out.bytes(0x49, 0x81, 0xFA)  // cmp r10, 4096 - size
    out.word(UInt32(4096) &- UInt32(size))
    unsafe pend(kind, site: out.jump(condition: 7), retry: retry)
    let page = HostMemory(base: HostRegister.rsp, index: entry, displacement: Int32(tlb + 16))
    if wantsScratch {
      out.wide(0x03, address, page)
      return Checked(memory: HostMemory(base: address), free: entry)
    }
    out.load(entry, page)
    return Checked(memory: HostMemory(base: address, index: entry), free: nil)
  }

  /// An operand at a constant address: its entry and tag are constants too. Nil when it has to be found the general way.
  private mutating func constantOperand(
    _ address: UInt64, size: UInt16, write: Bool
  ) -> Checked? {
    let page = address & ~Core.pageMask
    let inPage = address & Core.pageMask
    if !CodeEmitter.fits(page) || inPage &+ UInt64(size) > 4096 { return nil }
    releaseFlags()
    let slot = Int(address &>> 12 & UInt64(X86_TLB_ENTRIES - 1)) &* 32
    let retry = unsafe out.p
    out.immediate(7, .state(tlb &+ slot &+ (write ? 8 : 0)), page)
    unsafe pend(
      write ? .slowLinearWrite : .slowLinearRead, site: out.jump(condition: 5), retry: retry,
      linear: address)
    out.load(HostRegister.entry, .state(tlb &+ slot &+ 16))
    return Checked(
      memory: HostMemory(
        base: HostRegister.entry, displacement: Int32(truncatingIfNeeded: inPage)),
      free: HostRegister.address)
  }
}
