import CX86
import Host

/// Delivery of interrupts and exceptions (Intel SDM vol. 3A, chapter 6).
extension Core {
  enum EventKind {
    /// External interrupt or NMI.
    case external
    case exception
    /// INT n: gates are checked against CPL, and RIP is already behind the instruction.
    case software
    /// INT3 and INTO: as INT n, but they stay in virtual-8086 mode's IOPL-free way.
    case softwareException
    /// ICEBP.
    case privilegedSoftware
  }

  /// A stack being written on the way to another privilege level; its owner commits `pointer` at the end.
  struct FrameStack {
    var segment: X86Segment
    var pointer: UInt64
    var mask: UInt64
    /// No limit and no base.
    var isLong: Bool
    var access: Int
    /// Error code of #SS.
    var code: UInt32
  }

  func push(_ stack: inout FrameStack, _ size: UInt64, _ value: UInt64) throws(GuestFault) {
    let pointer = (stack.pointer &- size) & stack.mask
    let linear = try stackLinear(stack, pointer, size)
    try writeLinear(linear, size, value, class: stack.access)
    stack.pointer = stack.pointer & ~stack.mask | pointer
  }

  func pop(_ stack: inout FrameStack, _ size: UInt64) throws(GuestFault) -> UInt64 {
    let pointer = stack.pointer & stack.mask
    let linear = try stackLinear(stack, pointer, size)
    let value = try readLinear(linear, size, class: stack.access)
    stack.pointer = stack.pointer & ~stack.mask | (pointer &+ size) & stack.mask
    return value
  }

  private func stackLinear(
    _ stack: FrameStack, _ pointer: UInt64, _ size: UInt64
  ) throws(GuestFault) -> UInt64 {
    if stack.isLong {
      if !isCanonical(pointer) || !isCanonical(pointer &+ size &- 1) {
        throw fault(ExceptionVector.stack, stack.code)
      }
      return pointer
    }
    let limit = UInt64(stack.segment.limit)
    let last = pointer &+ size &- 1
    if stack.segment.attributes & 0x0C == 4 {
      let top: UInt64 = stack.segment.attributes & 0x4000 != 0 ? 0xFFFF_FFFF : 0xFFFF
      if pointer <= limit || last > top { throw fault(ExceptionVector.stack, stack.code) }
    } else if last > limit {
      throw fault(ExceptionVector.stack, stack.code)
    }
    return (stack.segment.base &+ pointer) & 0xFFFF_FFFF
  }

  /// The stack in use.
  func currentStack() -> FrameStack {
    FrameStack(
      segment: segment(Core.ss), pointer: r64(4), mask: stackMask, isLong: codeSize == 8,
      access: accessClass, code: 0)
  }

  func commit(_ stack: FrameStack) {
    if stack.isLong {
      set64(4, stack.pointer)
    } else if stack.mask == 0xFFFF {
      set16(4, UInt16(truncatingIfNeeded: stack.pointer))
    } else {
      set32(4, UInt32(truncatingIfNeeded: stack.pointer))
    }
  }

  /// Classes of exceptions for the double fault rule (SDM vol. 3A, table 6-5).
  private func isContributory(_ vector: UInt8) -> Bool {
    vector == 0 || (vector >= 10 && vector <= 13)
  }

  /// Delivers the exception that a GuestFault announced. False: triple fault.
  func deliverFault() -> Bool {
    if environment.takeRestart() { return true }
    if environment.isFatalCheck {
      environment.isFatalCheck = false
      return false
    }
    return deliver(
      faultVector, hasCode: faultHasCode != 0, code: faultCode, .exception)
  }

  /// Delivers an event, and what goes wrong on the way. False: triple fault.
  func deliver(_ vector: UInt8, hasCode: Bool, code: UInt32, _ kind: EventKind) -> Bool {
    // A part of it may already be on the stack when a page has to come from elsewhere.
    environment.uninterruptible += 1
    defer { environment.uninterruptible -= 1 }
    var vector = vector
    var hasCode = hasCode
    var code = code
    var kind = kind
    while true {
      if kind == .exception {
        if vector == ExceptionVector.pageFault { cr2 = environment.faultAddress }
        if vector == ExceptionVector.debug {
          dr6 = dr6 & ~0xF | pendingDebug | 0xFFFF_0FF0
          pendingDebug = 0
          dr7 &= ~(1 << 13)
        }
      }
      if Log.isEnabled(.interrupts) { logEvent(vector, code: hasCode ? code : nil, kind) }
      do throws(GuestFault) {
        try deliverOnce(vector, hasCode: hasCode, code: code, kind)
        return true
      } catch {
        if environment.isFatalCheck {
          environment.isFatalCheck = false
          return false
        }
        let second = faultVector
        if kind == .exception {
          if vector == ExceptionVector.doubleFault { return false }
          let first = vector
          let isDouble =
            (isContributory(first) && isContributory(second))
            || (first == ExceptionVector.pageFault
              && (isContributory(second) || second == ExceptionVector.pageFault))
          if isDouble {
            if second == ExceptionVector.pageFault { cr2 = environment.faultAddress }
            vector = ExceptionVector.doubleFault
            hasCode = true
            code = 0
            continue
          }
        }
        // INT n that faults is an ordinary exception at the instruction itself.
        if kind == .software || kind == .softwareException || kind == .privilegedSoftware {
          rip = environment.instructionStart
        }
        vector = second
        hasCode = faultHasCode != 0
        code = faultCode
        kind = .exception
      }
    }
  }

  private func deliverOnce(
    _ vector: UInt8, hasCode: Bool, code: UInt32, _ kind: EventKind
  ) throws(GuestFault) {
    let wasSoftware = kind == .software || kind == .softwareException
    // The usual case as a whole; whatever is special about an event is told below.
    var how: UInt32 = wasSoftware ? UInt32(X86_DELIVER_SOFTWARE) : 0
    if hasCode { how |= UInt32(X86_DELIVER_CODE) }
    if pushesRF(kind, vector) { how |= UInt32(X86_DELIVER_RF) }
    if unsafe x86_fast_interrupt(s, UInt32(vector), how, code) != 0 { return }
    if cr0 & CR0.pe == 0 {
      try deliverReal(vector)
    } else {
      if isVirtual8086 && kind == .software {
        // VME: INT n through the interrupt redirection bitmap (SDM vol. 3B, 21.3).
        if cr4 & CR4.vme != 0, try !isRedirected(vector) {
          try deliverVirtual8086(vector)
          return
        }
        if iopl < 3 { throw fault(ExceptionVector.generalProtection, 0) }
      }
      if isLongModeActive {
        try deliverLong(vector, hasCode: hasCode, code: code, kind, software: wasSoftware)
      } else {
        try deliverProtected(vector, hasCode: hasCode, code: code, kind, software: wasSoftware)
      }
    }
    shadow = 0
  }

  /// RFLAGS as pushed: faults set RF so that the instruction breakpoint does not fire again.
  private func pushedFlags(_ kind: EventKind, _ vector: UInt8) -> UInt64 {
    pushesRF(kind, vector) ? rflags | UInt64(EFLAGS.rf) : rflags
  }

  private func pushesRF(_ kind: EventKind, _ vector: UInt8) -> Bool {
    switch kind {
    case .exception:
      vector != ExceptionVector.debug && vector != ExceptionVector.breakpoint
        && vector != ExceptionVector.overflow && vector != ExceptionVector.doubleFault
    case .external: unsafe s.pointee.events & UInt32(X86_EVENT_REP) != 0
    default: false
    }
  }

  private func deliverReal(_ vector: UInt8) throws(GuestFault) {
    let entry = UInt64(vector) &* 4
    if entry &+ 3 > UInt64(idtrLimit) { throw fault(ExceptionVector.generalProtection, 0) }
    let target = try readLinear(
      (idtrBase &+ entry) & 0xFFFF_FFFF, 4, class: AccessClass.supervisor)
    var stack = currentStack()
    try push(&stack, 2, rflags & 0xFFFF)
    try push(&stack, 2, UInt64(segment(Core.cs).selector))
    try push(&stack, 2, rip & 0xFFFF)
    commit(stack)
    rip = target & 0xFFFF
    eflags &= ~(EFLAGS.if | EFLAGS.tf | EFLAGS.ac | EFLAGS.rf)
    let selector = UInt16(truncatingIfNeeded: target &>> 16)
    setSegment(Core.cs, realSegment(selector, segment(Core.cs)))
  }

  /// Whether INT `vector` of virtual-8086 mode goes through the IDT, by the TSS's redirection bitmap.
  private func isRedirected(_ vector: UInt8) throws(GuestFault) -> Bool {
    let tss = segment(Core.tr)
    let map = try readSystem(tss.base &+ 0x66, 2)
    if map < 32 { return true }
    let offset = map &- 32 &+ UInt64(vector &>> 3)
    if offset > UInt64(tss.limit) { return true }
    let byte = try readSystem(tss.base &+ offset, 1)
    return byte &>> UInt64(vector & 7) & 1 != 0
  }

  private func deliverVirtual8086(_ vector: UInt8) throws(GuestFault) {
    let target = try readLinear(UInt64(vector) &* 4, 4, class: accessClass)
    var image = rflags & 0xFFFF
    if iopl < 3 {
      image |= UInt64(EFLAGS.iopl)
      image &= ~UInt64(EFLAGS.if)
      if eflags & EFLAGS.vif != 0 { image |= UInt64(EFLAGS.if) }
    }
    var stack = currentStack()
    try push(&stack, 2, image)
    try push(&stack, 2, UInt64(segment(Core.cs).selector))
    try push(&stack, 2, rip & 0xFFFF)
    commit(stack)
    rip = target & 0xFFFF
    eflags &= ~(EFLAGS.tf | EFLAGS.nt)
    eflags &= iopl == 3 ? ~EFLAGS.if : ~EFLAGS.vif
    setSegment(
      Core.cs, realSegment(UInt16(truncatingIfNeeded: target &>> 16), segment(Core.cs)))
  }

  // MARK: - Protected mode

  private func deliverProtected(
    _ vector: UInt8, hasCode: Bool, code: UInt32, _ kind: EventKind, software: Bool
  ) throws(GuestFault) {
    let external: UInt32 = software ? 0 : 1
    let idtCode = UInt32(vector) &<< 3 | 2 | external
    let offset = UInt64(vector) &* 8
    if offset &+ 7 > UInt64(idtrLimit) { throw fault(ExceptionVector.generalProtection, idtCode) }
    let raw = try readSystem(idtrBase &+ offset, 8)
    let gate = Descriptor(
      low: UInt32(truncatingIfNeeded: raw), high: UInt32(truncatingIfNeeded: raw &>> 32),
      address: 0)
    let type = gate.type
    let known = type == 5 || type == 6 || type == 7 || type == 14 || type == 15
    if gate.isSegment || !known { throw fault(ExceptionVector.generalProtection, idtCode) }
    if software && gate.dpl < cpl { throw fault(ExceptionVector.generalProtection, idtCode) }
    if !gate.isPresent { throw fault(ExceptionVector.segmentNotPresent, idtCode) }
    if type == 5 {
      try switchTask(
        gate.gateSelector, .interrupt, external: external)
      if hasCode {
        var stack = currentStack()
        let wide = segment(Core.tr).attributes & 8 != 0
        try push(&stack, wide ? 4 : 2, UInt64(code))
        commit(stack)
      }
      return
    }
    let selector = gate.gateSelector
    let selectorCode = UInt32(selector & 0xFFFC) | external
    if selector & 0xFFFC == 0 { throw fault(ExceptionVector.generalProtection, external) }
    var d = try readDescriptor(selector, external: external)
    if !d.isCode || d.dpl > cpl { throw fault(ExceptionVector.generalProtection, selectorCode) }
    if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, selectorCode) }
    let size: UInt64 = type & 8 != 0 ? 4 : 2
    let image = pushedFlags(kind, vector)
    let oldCS = segment(Core.cs)
    let fromVirtual = isVirtual8086
    var newCPL = cpl
    var stack: FrameStack
    if !d.isConforming && d.dpl < cpl {
      if fromVirtual && d.dpl != 0 { throw fault(ExceptionVector.generalProtection, selectorCode) }
      newCPL = d.dpl
      let (ss, esp) = try stackFromTSS(level: newCPL, external: external)
      let segment = try stackSegment(
        ss, cpl: newCPL, ExceptionVector.invalidTSS, external: external)
      stack = FrameStack(
        segment: segment, pointer: esp,
        mask: segment.attributes & 0x4000 != 0 ? 0xFFFF_FFFF : 0xFFFF, isLong: false,
        access: newCPL == 3 ? AccessClass.user : AccessClass.supervisor,
        code: UInt32(ss & 0xFFFC) | external)
      if fromVirtual {
        for n in [Core.gs, Core.fs, Core.ds, Core.es] {
          try push(&stack, size, UInt64(self.segment(n).selector))
        }
      }
      try push(&stack, size, UInt64(self.segment(Core.ss).selector))
      try push(&stack, size, r64(4) & 0xFFFF_FFFF)
    } else {
      if fromVirtual { throw fault(ExceptionVector.generalProtection, selectorCode) }
      stack = currentStack()
      stack.code = external
    }
    try push(&stack, size, image)
    try push(&stack, size, UInt64(oldCS.selector))
    try push(&stack, size, rip & 0xFFFF_FFFF)
    if hasCode { try push(&stack, size, UInt64(code)) }
    let target = size == 4 ? gate.gateOffset : gate.gateOffset & 0xFFFF
    if target > UInt64(d.limit) { throw fault(ExceptionVector.generalProtection, external) }
    try markAccessed(&d)

    if fromVirtual {
      for n in [Core.gs, Core.fs, Core.ds, Core.es] {
        setSegmentRaw(n, X86Segment(base: 0, limit: 0, selector: 0, attributes: 0))
      }
    }
    if newCPL != cpl || fromVirtual { setSegmentRaw(Core.ss, stack.segment) }
    cpl = newCPL
    var cs = d.register(selector & 0xFFFC | UInt16(newCPL))
    cs.attributes |= 1
    setSegmentRaw(Core.cs, cs)
    rip = target
    eflags &= ~(EFLAGS.tf | EFLAGS.nt | EFLAGS.rf | EFLAGS.vm)
    if type & 1 == 0 { eflags &= ~EFLAGS.if }
    updateMode()
    commit(stack)
  }

  /// SS and ESP of an inner level from the task state segment.
  func stackFromTSS(
    level: UInt8, external: UInt32
  ) throws(GuestFault) -> (UInt16, UInt64) {
    let tss = segment(Core.tr)
    let code = UInt32(tss.selector & 0xFFFC) | external
    if tss.attributes & 8 != 0 {
      let offset = UInt64(level) &* 8 &+ 4
      if offset &+ 5 > UInt64(tss.limit) { throw fault(ExceptionVector.invalidTSS, code) }
      let esp = try readSystem(tss.base &+ offset, 4)
      let ss = try readSystem(tss.base &+ offset &+ 4, 2)
      return (UInt16(truncatingIfNeeded: ss), esp)
    }
    let offset = UInt64(level) &* 4 &+ 2
    if offset &+ 3 > UInt64(tss.limit) { throw fault(ExceptionVector.invalidTSS, code) }
    let sp = try readSystem(tss.base &+ offset, 2)
    let ss = try readSystem(tss.base &+ offset &+ 2, 2)
    return (UInt16(truncatingIfNeeded: ss), sp)
  }

  // MARK: - Long mode

  private func deliverLong(
    _ vector: UInt8, hasCode: Bool, code: UInt32, _ kind: EventKind, software: Bool
  ) throws(GuestFault) {
    let external: UInt32 = software ? 0 : 1
    let idtCode = UInt32(vector) &<< 3 | 2 | external
    let offset = UInt64(vector) &* 16
    if offset &+ 15 > UInt64(idtrLimit) {
      throw fault(ExceptionVector.generalProtection, idtCode)
    }
    let raw = try readSystem(idtrBase &+ offset, 8)
    let upper = try readSystem(idtrBase &+ offset &+ 8, 8)
    let gate = Descriptor(
      low: UInt32(truncatingIfNeeded: raw), high: UInt32(truncatingIfNeeded: raw &>> 32),
      upper: UInt32(truncatingIfNeeded: upper), address: 0)
    if gate.isSegment || (gate.type != 14 && gate.type != 15) || upper &>> 40 & 0x1F != 0 {
      throw fault(ExceptionVector.generalProtection, idtCode)
    }
    if software && gate.dpl < cpl { throw fault(ExceptionVector.generalProtection, idtCode) }
    if !gate.isPresent { throw fault(ExceptionVector.segmentNotPresent, idtCode) }
    let selector = gate.gateSelector
    let selectorCode = UInt32(selector & 0xFFFC) | external
    if selector & 0xFFFC == 0 { throw fault(ExceptionVector.generalProtection, external) }
    var d = try readDescriptor(selector, external: external)
    if !d.isCode || d.dpl > cpl || !d.isLong || d.isBig {
      throw fault(ExceptionVector.generalProtection, selectorCode)
    }
    if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, selectorCode) }
    let target = gate.gateOffset
    if !isCanonical(target) { throw fault(ExceptionVector.generalProtection, external) }
    let newCPL = d.isConforming ? cpl : d.dpl
    let ist = gate.low == 0 && gate.high == 0 ? 0 : UInt8(truncatingIfNeeded: gate.high & 7)
    let inner = newCPL < cpl
    var pointer = r64(4)
    if ist != 0 {
      pointer = try longStack(0x24 &+ UInt64(ist &- 1) &* 8, external: external)
    } else if inner {
      pointer = try longStack(4 &+ UInt64(newCPL) &* 8, external: external)
    } else if codeSize != 8 {
      pointer = stackSize == 4 ? pointer & 0xFFFF_FFFF : pointer & 0xFFFF
    }
    pointer &= ~15
    let oldSS = segment(Core.ss)
    var stack = FrameStack(
      segment: oldSS, pointer: pointer, mask: UInt64.max, isLong: true,
      access: newCPL == 3
        ? AccessClass.user
        : AccessClass.supervisor, code: external)
    if newCPL < 3, cpl < 3, accessClass == AccessClass.supervisorWithAC {
      stack.access = AccessClass.supervisorWithAC
    }
    try push(&stack, 8, UInt64(oldSS.selector))
    try push(&stack, 8, r64(4))
    try push(&stack, 8, pushedFlags(kind, vector))
    try push(&stack, 8, UInt64(segment(Core.cs).selector))
    try push(&stack, 8, rip)
    if hasCode { try push(&stack, 8, UInt64(code)) }
    try markAccessed(&d)
    if inner { setSegmentRaw(Core.ss, nullStack(UInt16(newCPL))) }
    cpl = newCPL
    var cs = d.register(selector & 0xFFFC | UInt16(newCPL))
    cs.attributes |= 1
    setSegmentRaw(Core.cs, cs)
    rip = target
    eflags &= ~(EFLAGS.tf | EFLAGS.nt | EFLAGS.rf | EFLAGS.vm)
    if gate.type & 1 == 0 { eflags &= ~EFLAGS.if }
    updateMode()
    set64(4, stack.pointer)
  }

  /// A stack pointer of the 64-bit task state segment.
  func longStack(_ offset: UInt64, external: UInt32) throws(GuestFault) -> UInt64 {
    let tss = segment(Core.tr)
    if offset &+ 7 > UInt64(tss.limit) {
      throw fault(ExceptionVector.invalidTSS, UInt32(tss.selector & 0xFFFC) | external)
    }
    let pointer = try readSystem(tss.base &+ offset, 8)
    if !isCanonical(pointer) { throw fault(ExceptionVector.stack, external) }
    return pointer
  }
}
