import CX86
import Host

/// Control transfers between code segments (Intel SDM vol. 3A, 5.8; vol. 2, CALL, JMP, RET, IRET, SYSCALL…).
extension Core {
  /// Checks a target of near and far transfers against limit or canonical form.
  private func checkTarget(_ d: Descriptor, _ offset: UInt64) throws(GuestFault) {
    if isLongModeActive && d.isLong {
      if !isCanonical(offset) { throw fault(ExceptionVector.generalProtection, 0) }
    } else if offset & 0xFFFF_FFFF > UInt64(d.limit) {
      throw fault(ExceptionVector.generalProtection, 0)
    }
  }

  private func enterCode(_ d: inout Descriptor, _ selector: UInt16, _ offset: UInt64)
    throws(GuestFault)
  {
    try markAccessed(&d)
    var cs = d.register(selector & 0xFFFC | UInt16(cpl))
    cs.attributes |= 1
    setSegmentRaw(Core.cs, cs)
    updateMode()
    rip = codeSize == 8 ? offset : offset & 0xFFFF_FFFF
  }

  private func checkCodeSegment(
    _ d: Descriptor, _ selector: UInt16, conformingOnly: Bool
  ) throws(GuestFault) {
    let code = UInt32(selector & 0xFFFC)
    if isLongModeActive && d.isLong && d.isBig {
      throw fault(ExceptionVector.generalProtection, code)
    }
    if d.isConforming {
      if d.dpl > cpl { throw fault(ExceptionVector.generalProtection, code) }
    } else if UInt8(selector & 3) > cpl || d.dpl != cpl {
      throw fault(ExceptionVector.generalProtection, code)
    }
    if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, code) }
  }

  /// JMP far.
  func jumpFar(_ selector: UInt16, _ offset: UInt64, size: UInt8) throws(GuestFault) {
    let offset = size == 2 ? offset & 0xFFFF : offset
    if isProtected, Log.isEnabled(.protectedModeCalls) { logTransfer("jump", selector, offset) }
    if !isProtected {
      if offset > UInt64(segment(Core.cs).limit) && size != 2 {
        throw fault(ExceptionVector.generalProtection, 0)
      }
      rip = offset
      setSegment(Core.cs, realSegment(selector, segment(Core.cs)))
      return
    }
    let code = UInt32(selector & 0xFFFC)
    if selector & 0xFFFC == 0 { throw fault(ExceptionVector.generalProtection, 0) }
    var d = try readSystemDescriptor(selector)
    if d.isCode {
      try checkCodeSegment(d, selector, conformingOnly: false)
      try checkTarget(d, offset)
      try enterCode(&d, selector, offset)
      return
    }
    if d.isSegment { throw fault(ExceptionVector.generalProtection, code) }
    if d.dpl < cpl || UInt8(selector & 3) > d.dpl {
      throw fault(ExceptionVector.generalProtection, code)
    }
    switch d.type {
    case 1, 9:
      if isLongModeActive { throw fault(ExceptionVector.generalProtection, code) }
      if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, code) }
      try switchTask(selector, .jump, external: 0)
    case 5:
      if isLongModeActive { throw fault(ExceptionVector.generalProtection, code) }
      if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, code) }
      try switchTask(d.gateSelector, .jump, external: 0)
    case 4, 12:
      if isLongModeActive && d.type == 4 { throw fault(ExceptionVector.generalProtection, code) }
      if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, code) }
      let target = d.gateSelector
      let targetCode = UInt32(target & 0xFFFC)
      if targetCode == 0 { throw fault(ExceptionVector.generalProtection, 0) }
      var inner = try readDescriptor(target)
      if !inner.isCode || (inner.isConforming ? inner.dpl > cpl : inner.dpl != cpl) {
        throw fault(ExceptionVector.generalProtection, targetCode)
      }
      if isLongModeActive && (!inner.isLong || inner.isBig) {
        throw fault(ExceptionVector.generalProtection, targetCode)
      }
      if !inner.isPresent { throw fault(ExceptionVector.segmentNotPresent, targetCode) }
      let gateOffset = d.type == 4 ? d.gateOffset & 0xFFFF : d.gateOffset
      try checkTarget(inner, gateOffset)
      try enterCode(&inner, target, gateOffset)
    default: throw fault(ExceptionVector.generalProtection, code)
    }
  }

  /// CALL far.
  func callFar(_ selector: UInt16, _ offset: UInt64, size: UInt8) throws(GuestFault) {
    let offset = size == 2 ? offset & 0xFFFF : offset
    if isProtected, Log.isEnabled(.protectedModeCalls) { logTransfer("call", selector, offset) }
    let width = UInt64(size)
    let oldCS = UInt64(segment(Core.cs).selector)
    if !isProtected {
      if offset > UInt64(segment(Core.cs).limit) && size != 2 {
        throw fault(ExceptionVector.generalProtection, 0)
      }
      var stack = currentStack()
      try push(&stack, width, oldCS)
      try push(&stack, width, rip)
      commit(stack)
      rip = offset
      setSegment(Core.cs, realSegment(selector, segment(Core.cs)))
      return
    }
    let code = UInt32(selector & 0xFFFC)
    if selector & 0xFFFC == 0 { throw fault(ExceptionVector.generalProtection, 0) }
    var d = try readSystemDescriptor(selector)
    if d.isCode {
      try checkCodeSegment(d, selector, conformingOnly: false)
      try checkTarget(d, offset)
      var stack = currentStack()
      try push(&stack, width, oldCS)
      try push(&stack, width, rip)
      try enterCode(&d, selector, offset)
      commit(stack)
      return
    }
    if d.isSegment { throw fault(ExceptionVector.generalProtection, code) }
    if d.dpl < cpl || UInt8(selector & 3) > d.dpl {
      throw fault(ExceptionVector.generalProtection, code)
    }
    switch d.type {
    case 1, 9:
      if isLongModeActive { throw fault(ExceptionVector.generalProtection, code) }
      if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, code) }
      try switchTask(selector, .call, external: 0)
    case 5:
      if isLongModeActive { throw fault(ExceptionVector.generalProtection, code) }
      if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, code) }
      try switchTask(d.gateSelector, .call, external: 0)
    case 4, 12:
      if isLongModeActive && d.type == 4 { throw fault(ExceptionVector.generalProtection, code) }
      if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, code) }
      try callGate(d)
    default: throw fault(ExceptionVector.generalProtection, code)
    }
  }

  private func callGate(_ gate: Descriptor) throws(GuestFault) {
    let target = gate.gateSelector
    let code = UInt32(target & 0xFFFC)
    if code == 0 { throw fault(ExceptionVector.generalProtection, 0) }
    var d = try readDescriptor(target)
    if !d.isCode || d.dpl > cpl { throw fault(ExceptionVector.generalProtection, code) }
    let long = isLongModeActive
    if long && (!d.isLong || d.isBig) { throw fault(ExceptionVector.generalProtection, code) }
    if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, code) }
    let width: UInt64 = long ? 8 : gate.type == 12 ? 4 : 2
    let offset = width == 2 ? gate.gateOffset & 0xFFFF : gate.gateOffset
    try checkTarget(d, offset)
    let oldCS = UInt64(segment(Core.cs).selector)
    let oldRIP = rip
    if d.isConforming || d.dpl == cpl {
      var stack = currentStack()
      if long {
        stack.isLong = true
        stack.mask = UInt64.max
      }
      try push(&stack, width, oldCS)
      try push(&stack, width, oldRIP)
      try enterCode(&d, target, offset)
      commit(stack)
      return
    }
    let level = d.dpl
    var old = currentStack()
    var stack: FrameStack
    if long {
      let pointer = try longStack(4 &+ UInt64(level) &* 8, external: 0)
      stack = FrameStack(
        segment: nullStack(UInt16(level)), pointer: pointer, mask: UInt64.max, isLong: true,
        access: AccessClass.supervisor, code: 0)
    } else {
      let (ss, esp) = try stackFromTSS(level: level, external: 0)
      let segment = try stackSegment(ss, cpl: level, ExceptionVector.invalidTSS)
      stack = FrameStack(
        segment: segment, pointer: esp,
        mask: segment.attributes & 0x4000 != 0 ? 0xFFFF_FFFF : 0xFFFF, isLong: false,
        access: AccessClass.supervisor, code: UInt32(ss & 0xFFFC))
    }
    try push(&stack, width, UInt64(segment(Core.ss).selector))
    try push(&stack, width, r64(4))
    if !long {
      // Parameters in the order in which they lie.
      let count = UInt64(gate.gateCount)
      let pointer = old.pointer
      var k = count
      while k > 0 {
        k &-= 1
        old.pointer = pointer &+ k &* width
        let value = try pop(&old, width)
        try push(&stack, width, value)
      }
    }
    try push(&stack, width, oldCS)
    try push(&stack, width, oldRIP)
    setSegmentRaw(Core.ss, stack.segment)
    cpl = level
    try enterCode(&d, target, offset)
    commit(stack)
  }

  /// RET far, releasing `release` bytes of parameters.
  func returnFar(size: UInt8, release: UInt64) throws(GuestFault) {
    let width = UInt64(size)
    var stack = currentStack()
    let offset = try pop(&stack, width)
    let selector = UInt16(truncatingIfNeeded: try pop(&stack, width))
    if isProtected, Log.isEnabled(.protectedModeCalls) { logTransfer("return", selector, offset) }
    if !isProtected {
      if offset > UInt64(segment(Core.cs).limit) {
        throw fault(ExceptionVector.generalProtection, 0)
      }
      stack.pointer = stack.pointer &+ release
      commit(stack)
      rip = offset
      setSegment(Core.cs, realSegment(selector, segment(Core.cs)))
      return
    }
    try returnToLevel(
      &stack, selector, offset, width: width, release: release, isIRET: false, flags: 0)
  }

  /// The common end of RET far and IRET in protected and long mode.
  private func returnToLevel(
    _ stack: inout FrameStack, _ selector: UInt16, _ offset: UInt64, width: UInt64,
    release: UInt64, isIRET: Bool, flags image: UInt64
  ) throws(GuestFault) {
    let code = UInt32(selector & 0xFFFC)
    let rpl = UInt8(selector & 3)
    if code == 0 { throw fault(ExceptionVector.generalProtection, 0) }
    var d = try readDescriptor(selector)
    if !d.isCode || rpl < cpl || (d.isConforming ? d.dpl > rpl : d.dpl != rpl) {
      throw fault(ExceptionVector.generalProtection, code)
    }
    if isLongModeActive && d.isLong && d.isBig {
      throw fault(ExceptionVector.generalProtection, code)
    }
    if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, code) }
    try checkTarget(d, offset)
    let from64 = codeSize == 8
    let outer = rpl > cpl
    stack.pointer = stack.pointer & ~stack.mask | (stack.pointer &+ release) & stack.mask
    if !outer && !(isIRET && from64) {
      if isIRET { setFlagsOnReturn(image, width) }
      try enterCode(&d, selector, offset)
      commitReturn(stack)
      return
    }
    let newSP = try pop(&stack, width)
    let newSS = UInt16(truncatingIfNeeded: try pop(&stack, width))
    let ssCode = UInt32(newSS & 0xFFFC)
    var ss: X86Segment
    if newSS & 0xFFFC == 0 {
      // Only a return to 64-bit code below CPL 3 may leave SS null.
      if !(isLongModeActive && d.isLong && rpl != 3) {
        throw fault(ExceptionVector.generalProtection, 0)
      }
      ss = nullStack(UInt16(rpl))
      ss.selector = newSS
    } else {
      var s = try readDescriptor(newSS)
      if UInt8(newSS & 3) != rpl || !s.isWritableData || s.dpl != rpl {
        throw fault(ExceptionVector.generalProtection, ssCode)
      }
      if !s.isPresent { throw fault(ExceptionVector.stack, ssCode) }
      try markAccessed(&s)
      ss = s.register(newSS)
    }
    if isIRET { setFlagsOnReturn(image, width) }
    let oldCPL = cpl
    cpl = rpl
    setSegmentRaw(Core.ss, ss)
    try enterCode(&d, selector, offset)
    let target = newSP &+ (isIRET ? 0 : release)
    if codeSize == 8 {
      set64(4, target)
    } else if stackSize == 4 {
      set32(4, UInt32(truncatingIfNeeded: target))
    } else {
      set16(4, UInt16(truncatingIfNeeded: target))
    }
    if rpl > oldCPL { dropPrivilegedSegments() }
  }

  /// The stack pointer after a return within a level; the stack keeps the size it had.
  private func commitReturn(_ stack: FrameStack) { commit(stack) }

  /// What IRET may change of the flags (SDM vol. 2A, IRET), by the CPL before the return.
  private func setFlagsOnReturn(_ image: UInt64, _ width: UInt64) {
    var mask = EFLAGS.arithmetic | EFLAGS.tf | EFLAGS.df | EFLAGS.nt
    if width > 2 { mask |= EFLAGS.rf | EFLAGS.ac | EFLAGS.id }
    if cpl <= iopl { mask |= EFLAGS.if }
    if cpl == 0 {
      mask |= EFLAGS.iopl
      if width > 2 { mask |= EFLAGS.vif | EFLAGS.vip }
    }
    let old = UInt32(truncatingIfNeeded: rflags)
    setRFLAGS(UInt64(old & ~mask | UInt32(truncatingIfNeeded: image) & mask))
  }

  /// IRET in all modes.
  func interruptReturn(size: UInt8) throws(GuestFault) {
    if size == 8, unsafe x86_fast_iretq(s) != 0 { return }
    let width = UInt64(size)
    var stack = currentStack()
    if cr0 & CR0.pe == 0 || isVirtual8086 {
      try interruptReturnReal(&stack, width)
      return
    }
    if eflags & EFLAGS.nt != 0 {
      if isLongModeActive { throw fault(ExceptionVector.generalProtection, 0) }
      let link = try readSystem(segment(Core.tr).base, 2)
      try switchTask(UInt16(truncatingIfNeeded: link), .iret, external: 0)
      nmiBlocked = 0
      return
    }
    let offset = try pop(&stack, width)
    let selector = UInt16(truncatingIfNeeded: try pop(&stack, width))
    let image = try pop(&stack, width)
    if image & UInt64(EFLAGS.vm) != 0 && width == 4 && cpl == 0 && !isLongModeActive {
      try returnToVirtual8086(&stack, selector, offset, image)
      nmiBlocked = 0
      return
    }
    try returnToLevel(
      &stack, selector, offset, width: width, release: 0, isIRET: true, flags: image)
    nmiBlocked = 0
  }

  private func interruptReturnReal(_ stack: inout FrameStack, _ width: UInt64) throws(GuestFault) {
    let virtual = isVirtual8086
    let extended = cr4 & CR4.vme != 0
    if virtual && iopl < 3 && !(extended && width == 2) {
      throw fault(ExceptionVector.generalProtection, 0)
    }
    let offset = try pop(&stack, width)
    let selector = UInt16(truncatingIfNeeded: try pop(&stack, width))
    let image = UInt32(truncatingIfNeeded: try pop(&stack, width))
    if offset > UInt64(segment(Core.cs).limit) {
      throw fault(ExceptionVector.generalProtection, 0)
    }
    var mask = EFLAGS.arithmetic | EFLAGS.tf | EFLAGS.df | EFLAGS.nt
    if width == 4 { mask |= EFLAGS.rf | EFLAGS.ac | EFLAGS.id }
    var value = image
    if virtual && iopl < 3 {
      if image & EFLAGS.tf != 0 || (image & EFLAGS.if != 0 && eflags & EFLAGS.vip != 0) {
        throw fault(ExceptionVector.generalProtection, 0)
      }
      mask |= EFLAGS.vif
      value = value & ~EFLAGS.vif | (image & EFLAGS.if != 0 ? EFLAGS.vif : 0)
    } else {
      mask |= EFLAGS.if
      if !virtual { mask |= EFLAGS.iopl }
    }
    commit(stack)
    rip = offset
    setSegmentRaw(Core.cs, realSegment(selector, segment(Core.cs)))
    let old = UInt32(truncatingIfNeeded: rflags)
    setRFLAGS(UInt64(old & ~mask | value & mask))
    updateMode()
    nmiBlocked = 0
  }

  private func returnToVirtual8086(
    _ stack: inout FrameStack, _ selector: UInt16, _ offset: UInt64, _ image: UInt64
  ) throws(GuestFault) {
    let sp = try pop(&stack, 4)
    let ss = try pop(&stack, 4)
    let es = try pop(&stack, 4)
    let ds = try pop(&stack, 4)
    let fs = try pop(&stack, 4)
    let gs = try pop(&stack, 4)
    cpl = 3
    setRFLAGS(image)
    for (n, value) in [(Core.es, es), (Core.ss, ss), (Core.ds, ds), (Core.fs, fs), (Core.gs, gs)] {
      setSegmentRaw(n, realSegment(UInt16(truncatingIfNeeded: value), segment(n)))
    }
    setSegmentRaw(Core.cs, realSegment(selector, segment(Core.cs)))
    updateMode()
    rip = offset & 0xFFFF
    set32(4, UInt32(truncatingIfNeeded: sp))
  }

  // MARK: - Fast system calls

  private func flatCode(_ selector: UInt16, long: Bool, cpl level: UInt16) -> X86Segment {
    let size: UInt16 = long ? 0x2000 : 0x4000
    return X86Segment(
      base: 0, limit: 0xFFFF_FFFF, selector: selector,
      attributes: 0x809B | size | level &<< 5)
  }
  private func flatStack(_ selector: UInt16, cpl level: UInt16) -> X86Segment {
    X86Segment(
      base: 0, limit: 0xFFFF_FFFF, selector: selector, attributes: 0xC093 | level &<< 5)
  }

  func syscall() throws(GuestFault) {
    if unsafe x86_fast_syscall(s) != 0 { return }
    if efer & EFER.sce == 0 || !isProtected { throw fault(ExceptionVector.undefined) }
    let intel = coreFeatures & Feature.intel != 0
    if intel && codeSize != 8 { throw fault(ExceptionVector.undefined) }
    let selector = UInt16(truncatingIfNeeded: star &>> 32)
    if isLongModeActive {
      let from64 = codeSize == 8
      set64(1, rip)
      set64(11, rflags & ~UInt64(EFLAGS.rf))
      rip = from64 ? lstar : cstar
      let kept = UInt32(truncatingIfNeeded: rflags) & ~UInt32(truncatingIfNeeded: sfmask)
      cpl = 0
      setSegmentRaw(Core.cs, flatCode(selector & 0xFFFC, long: true, cpl: 0))
      setSegmentRaw(Core.ss, flatStack((selector & 0xFFFC) &+ 8, cpl: 0))
      setRFLAGS(UInt64(kept & ~EFLAGS.rf))
    } else {
      set32(1, UInt32(truncatingIfNeeded: rip))
      rip = star & 0xFFFF_FFFF
      cpl = 0
      eflags &= ~(EFLAGS.if | EFLAGS.rf | EFLAGS.vm)
      setSegmentRaw(Core.cs, flatCode(selector & 0xFFFC, long: false, cpl: 0))
      setSegmentRaw(Core.ss, flatStack((selector & 0xFFFC) &+ 8, cpl: 0))
    }
    updateMode()
  }

  func sysret(size: UInt8) throws(GuestFault) {
    if size == 8, unsafe x86_fast_sysret(s) != 0 { return }
    if efer & EFER.sce == 0 || !isProtected { throw fault(ExceptionVector.undefined) }
    if coreFeatures & Feature.intel != 0 && codeSize != 8 { throw fault(ExceptionVector.undefined) }
    if cpl != 0 { throw fault(ExceptionVector.generalProtection, 0) }
    let base = UInt16(truncatingIfNeeded: star &>> 48)
    if isLongModeActive {
      let to64 = size == 8
      let target = r64(1)
      if to64 && !isCanonical(target) { throw fault(ExceptionVector.generalProtection, 0) }
      let image = UInt32(truncatingIfNeeded: r64(11))
      rip = to64 ? target : target & 0xFFFF_FFFF
      cpl = 3
      let selector = (to64 ? base &+ 16 : base) | 3
      setSegmentRaw(Core.cs, flatCode(selector, long: to64, cpl: 3))
      setSegmentRaw(Core.ss, flatStack((base &+ 8) | 3, cpl: 3))
      let mask = EFLAGS.all & ~(EFLAGS.rf | EFLAGS.vm)
      setRFLAGS(UInt64(image & mask))
    } else {
      rip = r64(1) & 0xFFFF_FFFF
      cpl = 3
      eflags |= EFLAGS.if
      setSegmentRaw(Core.cs, flatCode(base | 3, long: false, cpl: 3))
      setSegmentRaw(Core.ss, flatStack((base &+ 8) | 3, cpl: 3))
    }
    updateMode()
  }

  func sysenter() throws(GuestFault) {
    if cr0 & CR0.pe == 0 || sysenterCS & 0xFFFC == 0 {
      throw fault(ExceptionVector.generalProtection, 0)
    }
    if isLongModeActive && coreFeatures & Feature.intel == 0 {
      throw fault(ExceptionVector.undefined)
    }
    let selector = UInt16(truncatingIfNeeded: sysenterCS) & 0xFFFC
    let long = isLongModeActive
    eflags &= ~(EFLAGS.vm | EFLAGS.if | EFLAGS.rf)
    cpl = 0
    setSegmentRaw(Core.cs, flatCode(selector, long: long, cpl: 0))
    setSegmentRaw(Core.ss, flatStack(selector &+ 8, cpl: 0))
    updateMode()
    rip = long ? sysenterEIP : sysenterEIP & 0xFFFF_FFFF
    set64(4, long ? sysenterESP : sysenterESP & 0xFFFF_FFFF)
  }

  func sysexit(size: UInt8) throws(GuestFault) {
    if !isProtected || cpl != 0 || sysenterCS & 0xFFFC == 0 {
      throw fault(ExceptionVector.generalProtection, 0)
    }
    if isLongModeActive && coreFeatures & Feature.intel == 0 {
      throw fault(ExceptionVector.undefined)
    }
    let to64 = size == 8
    let target = r64(2)
    let stack = r64(1)
    if to64 && !(isCanonical(target) && isCanonical(stack)) {
      throw fault(ExceptionVector.generalProtection, 0)
    }
    let base = UInt16(truncatingIfNeeded: sysenterCS) & 0xFFFC
    cpl = 3
    setSegmentRaw(Core.cs, flatCode((base &+ (to64 ? 32 : 16)) | 3, long: to64, cpl: 3))
    setSegmentRaw(Core.ss, flatStack((base &+ (to64 ? 40 : 24)) | 3, cpl: 3))
    updateMode()
    rip = to64 ? target : target & 0xFFFF_FFFF
    set64(4, to64 ? stack : stack & 0xFFFF_FFFF)
  }
}
