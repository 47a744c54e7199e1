import CX86

/// Hardware task switching (Intel SDM vol. 3A, chapter 7).
extension Core {
  enum TaskSwitchCause { case jump, call, interrupt, iret }

  /// Switches to the task of a TSS selector.
  func switchTask(
    _ selector: UInt16, _ cause: TaskSwitchCause, external: UInt32
  ) throws(GuestFault) {
    // Parts of both tasks' states may be written when a page has to come from elsewhere.
    environment.uninterruptible += 1
    defer { environment.uninterruptible -= 1 }
    let code = UInt32(selector & 0xFFFC) | external
    let vector =
      cause == .iret ? ExceptionVector.invalidTSS : ExceptionVector.generalProtection
    if selector & 4 != 0 || selector & 0xFFFC == 0 { throw fault(vector, code) }
    let d = try readDescriptor(selector, vector, external: external)
    let busy = d.type & 2 != 0
    let isTSS = !d.isSegment && (d.type & 0xD == 1 || d.type & 0xD == 9)
    if !isTSS || busy != (cause == .iret) { throw fault(vector, code) }
    if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, code) }
    let wide = d.type & 8 != 0
    if UInt64(d.limit) < (wide ? 0x67 : 0x2B) { throw fault(ExceptionVector.invalidTSS, code) }

    // Everything of the new state is read before anything is changed.
    let old = segment(Core.tr)
    let oldWide = old.attributes & 8 != 0
    let base = d.base
    var general: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64)
    var newCR3: UInt64 = 0
    let word: UInt64 = wide ? 4 : 2
    let first: UInt64 = wide ? 0x20 : 0x0E
    let newRIP = try readSystem(base &+ first, word)
    let newFlags = try readSystem(base &+ first &+ word, word)
    general.0 = try readSystem(base &+ first &+ word &* 2, word)
    general.1 = try readSystem(base &+ first &+ word &* 3, word)
    general.2 = try readSystem(base &+ first &+ word &* 4, word)
    general.3 = try readSystem(base &+ first &+ word &* 5, word)
    general.4 = try readSystem(base &+ first &+ word &* 6, word)
    general.5 = try readSystem(base &+ first &+ word &* 7, word)
    general.6 = try readSystem(base &+ first &+ word &* 8, word)
    general.7 = try readSystem(base &+ first &+ word &* 9, word)
    let segments = base &+ first &+ word &* 10
    var selectors: (UInt16, UInt16, UInt16, UInt16, UInt16, UInt16) = (0, 0, 0, 0, 0, 0)
    selectors.0 = UInt16(truncatingIfNeeded: try readSystem(segments, 2))
    selectors.1 = UInt16(truncatingIfNeeded: try readSystem(segments &+ word, 2))
    selectors.2 = UInt16(truncatingIfNeeded: try readSystem(segments &+ word &* 2, 2))
    selectors.3 = UInt16(truncatingIfNeeded: try readSystem(segments &+ word &* 3, 2))
    if wide {
      selectors.4 = UInt16(truncatingIfNeeded: try readSystem(segments &+ 16, 2))
      selectors.5 = UInt16(truncatingIfNeeded: try readSystem(segments &+ 20, 2))
      newCR3 = try readSystem(base &+ 0x1C, 4)
    }
    let newLDT = UInt16(
      truncatingIfNeeded: try readSystem(segments &+ (wide ? 24 : word &* 4), 2))
    let trap = wide ? try readSystem(base &+ 0x64, 2) & 1 : 0

    // Save the old task.
    var image = rflags
    if cause == .iret { image &= ~UInt64(EFLAGS.nt) }
    let oldWord: UInt64 = oldWide ? 4 : 2
    let oldFirst = old.base &+ (oldWide ? 0x20 : 0x0E)
    try writeSystem(oldFirst, oldWord, rip)
    try writeSystem(oldFirst &+ oldWord, oldWord, image)
    for n in UInt8(0)..<8 {
      try writeSystem(oldFirst &+ oldWord &* UInt64(n &+ 2), oldWord, r64(n))
    }
    let oldSegments = oldFirst &+ oldWord &* 10
    for n in UInt8(0)..<(oldWide ? 6 : 4) {
      try writeSystem(oldSegments &+ oldWord &* UInt64(n), 2, UInt64(segment(n).selector))
    }
    if cause == .jump || cause == .iret { try setTSSBusy(old.selector, false) }
    if cause == .call || cause == .interrupt {
      try writeSystem(base, 2, UInt64(old.selector))
    }
    if cause != .iret { try setTSSBusy(selector, true) }

    // Commit: from here on faults belong to the new task.
    environment.faultIsElsewhere = true
    var tr = d.register(selector)
    tr.attributes |= 2
    setSegmentRaw(Core.tr, tr)
    cr0 |= CR0.ts
    if wide && cr0 & CR0.pg != 0 {
      cr3 = newCR3
      flushTLB(includingGlobal: false)
      if cr4 & CR4.pae != 0 { try loadPageDirectoryPointers(newCR3) }
    }
    var newImage = wide ? newFlags : newFlags & 0xFFFF
    if cause == .call || cause == .interrupt { newImage |= UInt64(EFLAGS.nt) }
    rip = newRIP
    for (n, value) in [
      general.0, general.1, general.2, general.3, general.4, general.5, general.6, general.7,
    ].enumerated() {
      let register = UInt8(truncatingIfNeeded: n)
      if wide {
        set32(register, UInt32(truncatingIfNeeded: value))
      } else {
        set16(register, UInt16(truncatingIfNeeded: value))
      }
    }
    let list = [selectors.0, selectors.1, selectors.2, selectors.3, selectors.4, selectors.5]
    for (n, selector) in list.enumerated() {
      setSegmentRaw(
        UInt8(truncatingIfNeeded: n),
        X86Segment(base: 0, limit: 0, selector: selector, attributes: 0))
    }
    dr7 &= ~0x55
    updateBreakpoints()
    setRFLAGS(newImage)
    setSegmentRaw(Core.ldtr, X86Segment(base: 0, limit: 0, selector: newLDT, attributes: 0))
    let wasVirtual = isVirtual8086
    cpl = wasVirtual ? 3 : UInt8(selectors.1 & 3)
    updateMode()

    // LDT and segments of the new task raise #TS, #NP, #SS there.
    let ldtCode = UInt32(newLDT & 0xFFFC)
    if newLDT & 0xFFFC != 0 {
      if newLDT & 4 != 0 { throw fault(ExceptionVector.invalidTSS, ldtCode) }
      let l = try readDescriptor(newLDT, ExceptionVector.invalidTSS)
      if l.isSegment || l.type != 2 || !l.isPresent {
        throw fault(ExceptionVector.invalidTSS, ldtCode)
      }
      setSegmentRaw(Core.ldtr, l.register(newLDT))
    }
    if wasVirtual {
      for (n, selector) in list.enumerated() {
        let register = UInt8(truncatingIfNeeded: n)
        setSegmentRaw(register, realSegment(selector, segment(register)))
      }
      updateMode()
    } else {
      try loadTaskSegments(list)
    }
    if rip > UInt64(segment(Core.cs).limit) { throw fault(ExceptionVector.generalProtection, 0) }
    environment.faultIsElsewhere = false
    if trap != 0 {
      pendingDebug |= 1 << 15
      environment.hasPendingTrap = true
    }
  }

  private func loadTaskSegments(_ list: [UInt16]) throws(GuestFault) {
    guard list.count == 6 else { return }
    let ts = ExceptionVector.invalidTSS
    let csSelector = list[1]
    let csCode = UInt32(csSelector & 0xFFFC)
    if csSelector & 0xFFFC == 0 { throw fault(ts, 0) }
    var code = try readDescriptor(csSelector, ts)
    let rpl = UInt8(csSelector & 3)
    if !code.isCode || (code.isConforming ? code.dpl > rpl : code.dpl != rpl) {
      throw fault(ts, csCode)
    }
    if !code.isPresent { throw fault(ExceptionVector.segmentNotPresent, csCode) }
    try markAccessed(&code)
    let ss = try stackSegment(list[2], cpl: rpl, ts)
    setSegmentRaw(Core.ss, ss)
    setSegmentRaw(Core.cs, code.register(csSelector))
    updateMode()
    for n in [Core.es, Core.ds, Core.fs, Core.gs] {
      let selector = list[Int(n)]
      let segmentCode = UInt32(selector & 0xFFFC)
      if selector & 0xFFFC == 0 { continue }
      var d = try readDescriptor(selector, ts)
      if !d.isSegment || (d.isCode && !d.isReadable) { throw fault(ts, segmentCode) }
      if !(d.isCode && d.isConforming), UInt8(selector & 3) > d.dpl || cpl > d.dpl {
        throw fault(ts, segmentCode)
      }
      if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, segmentCode) }
      try markAccessed(&d)
      setSegmentRaw(n, d.register(selector))
    }
    updateMode()
  }
}
