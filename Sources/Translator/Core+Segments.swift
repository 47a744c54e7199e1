import CX86

/// A segment or system descriptor as it stands in a table (Intel SDM vol. 3A, 3.4.5).
struct Descriptor {
  var low: UInt32
  var high: UInt32
  /// Third word of 16-byte system descriptors.
  var upper: UInt32 = 0
  /// Where it stands, for the accessed and busy bits.
  var address: UInt64

  var base: UInt64 {
    UInt64(low &>> 16 | (high & 0xFF) &<< 16 | high & 0xFF00_0000)
  }
  /// With the upper half of 16-byte descriptors.
  var wideBase: UInt64 { base | UInt64(upper) &<< 32 }
  var limit: UInt32 {
    let raw = low & 0xFFFF | high & 0xF_0000
    return high & 0x80_0000 != 0 ? raw &<< 12 | 0xFFF : raw
  }
  var attributes: UInt16 { UInt16(truncatingIfNeeded: high &>> 8) & 0xF0FF }
  var type: UInt8 { UInt8(truncatingIfNeeded: high &>> 8 & 15) }
  /// Code or data, not system.
  var isSegment: Bool { high & 0x1000 != 0 }
  var dpl: UInt8 { UInt8(truncatingIfNeeded: high &>> 13 & 3) }
  var isPresent: Bool { high & 0x8000 != 0 }
  var isCode: Bool { isSegment && type & 8 != 0 }
  var isConforming: Bool { type & 4 != 0 }
  var isReadable: Bool { type & 2 != 0 }
  var isWritableData: Bool { isSegment && type & 0xA == 2 }
  var isLong: Bool { high & 0x20_0000 != 0 }
  var isBig: Bool { high & 0x40_0000 != 0 }

  func register(_ selector: UInt16) -> X86Segment {
    X86Segment(base: base, limit: limit, selector: selector, attributes: attributes)
  }

  // As a gate.
  var gateSelector: UInt16 { UInt16(truncatingIfNeeded: low &>> 16) }
  var gateOffset: UInt64 { UInt64(low & 0xFFFF | high & 0xFFFF_0000) | UInt64(upper) &<< 32 }
  var gateCount: UInt32 { high & 31 }
}

/// Segment registers.
extension Core {
  static var es: UInt8 { 0 }
  static var cs: UInt8 { 1 }
  static var ss: UInt8 { 2 }
  static var ds: UInt8 { 3 }
  static var fs: UInt8 { 4 }
  static var gs: UInt8 { 5 }
  static var ldtr: UInt8 { 6 }
  static var tr: UInt8 { 7 }

  /// Recomputes all that follows from segments, CR0, CR4, EFER, EFLAGS and CPL.
  func updateMode() {
    let codeSegment = segment(Core.cs)
    let stackSegment = segment(Core.ss)
    let real = cr0 & CR0.pe == 0 || isVirtual8086
    if isLongModeActive && codeSegment.attributes & 0x2000 != 0 {
      codeSize = 8
      stackSize = 8
      stackMask = UInt64.max
      linearMask = UInt64.max
      fetchEnd = UInt64.max
    } else {
      codeSize = codeSegment.attributes & 0x4000 != 0 ? 4 : 2
      stackSize = stackSegment.attributes & 0x4000 != 0 ? 4 : 2
      stackMask = stackSize == 4 ? 0xFFFF_FFFF : 0xFFFF
      linearMask = 0xFFFF_FFFF
      fetchEnd = UInt64(codeSegment.limit) &+ 1
    }
    let checksAlignment = cpl == 3 && cr0 & CR0.am != 0 && eflags & EFLAGS.ac != 0
    for n in UInt8(0)..<6 {
      let seg = segment(n)
      var readEnd: UInt64
      var writeEnd: UInt64
      let end = UInt64(seg.limit) &+ 1
      if codeSize == 8 {
        readEnd = UInt64.max
        writeEnd = UInt64.max
      } else if seg.attributes & 0x0C == 0x04 {
        readEnd = 0
        writeEnd = 0
      } else if real {
        readEnd = end
        writeEnd = end
      } else if seg.attributes & 0x90 != 0x90 {
        readEnd = 0
        writeEnd = 0
      } else if seg.attributes & 8 != 0 {
        readEnd = seg.attributes & 2 != 0 ? end : 0
        writeEnd = 0
      } else {
        readEnd = end
        writeEnd = seg.attributes & 2 != 0 ? end : 0
      }
      if checksAlignment {
        readEnd = 0
        writeEnd = 0
      }
      let base = codeSize == 8 && n < 4 ? 0 : seg.base
      // SAFETY: n < 6.
      unsafe window(n).pointee = X86Window(base: base, readEnd: readEnd, writeEnd: writeEnd)
    }
    updateAccessClass()
    let breakpoints = dr7 & 0xFF != 0 && environment.watchesCode
    slowMode = eflags & EFLAGS.tf != 0 || breakpoints ? 1 : 0
  }

  /// Chooses the TLB by CPL, SMAP and AC.
  func updateAccessClass() {
    let access = accessClass
    unsafe s.pointee.tlb = tlbEntry(0, class: access)
    let code = access == AccessClass.user ? AccessClass.user : AccessClass.supervisor
    // SAFETY: inside the state's allocation.
    unsafe s.pointee.itlb = UnsafeMutableRawPointer(s).advanced(
      by: Int(X86_ITLB_OFFSET) + code * Int(X86_ITLB_ENTRIES) * 32
    ).assumingMemoryBound(to: X86ITLBEntry.self)
  }

  /// Sets a segment register's base, as wrmsr, wrfsbase and swapgs do.
  func setBase(_ n: UInt8, _ base: UInt64) {
    var seg = segment(n)
    seg.base = base
    setSegmentRaw(n, seg)
    if codeSize != 8 || n >= 4 { unsafe window(n).pointee.base = base }
  }

  func setSegment(_ n: UInt8, _ value: X86Segment) {
    setSegmentRaw(n, value)
    updateMode()
  }

  /// A segment of real and virtual-8086 mode.
  func realSegment(_ selector: UInt16, _ old: X86Segment) -> X86Segment {
    if isVirtual8086 {
      return X86Segment(
        base: UInt64(selector) &<< 4, limit: 0xFFFF, selector: selector, attributes: 0xF3)
    }
    var seg = old
    seg.selector = selector
    seg.base = UInt64(selector) &<< 4
    return seg
  }

  // MARK: - Descriptor tables

  /// Reads a descriptor; raises `vector` with the selector when it lies outside its table.
  func readDescriptor(
    _ selector: UInt16, _ vector: UInt8 = ExceptionVector.generalProtection, external: UInt32 = 0
  ) throws(GuestFault) -> Descriptor {
    let code = UInt32(selector & 0xFFFC) | external
    var base = gdtrBase
    var limit = UInt64(gdtrLimit)
    if selector & 4 != 0 {
      let table = segment(Core.ldtr)
      if table.attributes & 0x80 == 0 { throw fault(vector, code) }
      base = table.base
      limit = UInt64(table.limit)
    }
    let offset = UInt64(selector & 0xFFF8)
    if offset &+ 7 > limit { throw fault(vector, code) }
    let raw = try readSystem(base &+ offset, 8)
    return Descriptor(
      low: UInt32(truncatingIfNeeded: raw), high: UInt32(truncatingIfNeeded: raw &>> 32),
      address: base &+ offset)
  }

  /// A system descriptor: 16 bytes in long mode.
  func readSystemDescriptor(
    _ selector: UInt16, _ vector: UInt8 = ExceptionVector.generalProtection
  ) throws(GuestFault) -> Descriptor {
    var d = try readDescriptor(selector, vector)
    if isLongModeActive && !d.isSegment {
      let table = UInt64(selector & 4 != 0 ? segment(Core.ldtr).limit : gdtrLimit)
      if UInt64(selector & 0xFFF8) &+ 15 > table {
        throw fault(vector, UInt32(selector & 0xFFFC))
      }
      let raw = try readSystem(d.address &+ 8, 8)
      d.upper = UInt32(truncatingIfNeeded: raw)
      if raw &>> 40 & 0x1F != 0 { throw fault(vector, UInt32(selector & 0xFFFC)) }
    }
    return d
  }

  /// Sets the accessed bit in the table.
  func markAccessed(_ d: inout Descriptor) throws(GuestFault) {
    if d.high & 0x100 != 0 { return }
    d.high |= 0x100
    let byte = UInt64(d.high &>> 8 & 0xFF)
    try writeSystem(d.address &+ 5, 1, byte)
  }

  func setTSSBusy(_ selector: UInt16, _ busy: Bool) throws(GuestFault) {
    let address = gdtrBase &+ UInt64(selector & 0xFFF8) &+ 5
    let old = try readSystem(address, 1)
    try writeSystem(address, 1, busy ? old | 2 : old & ~2)
  }

  // MARK: - Loading

  /// MOV, POP and LxS to ES, SS, DS, FS, GS (SDM vol. 2B, MOV).
  func loadSegment(_ n: UInt8, _ selector: UInt16) throws(GuestFault) {
    if !isProtected {
      setSegment(n, realSegment(selector, segment(n)))
      return
    }
    let code = UInt32(selector & 0xFFFC)
    let rpl = UInt8(selector & 3)
    if n == Core.ss {
      setSegment(n, try stackSegment(selector, cpl: cpl, ExceptionVector.generalProtection))
      return
    }
    if selector & 0xFFFC == 0 {
      setSegment(n, X86Segment(base: 0, limit: 0, selector: selector, attributes: 0))
      return
    }
    var d = try readDescriptor(selector)
    if !d.isSegment || (d.isCode && !d.isReadable) {
      throw fault(ExceptionVector.generalProtection, code)
    }
    if !(d.isCode && d.isConforming) && (rpl > d.dpl || cpl > d.dpl) {
      throw fault(ExceptionVector.generalProtection, code)
    }
    if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, code) }
    try markAccessed(&d)
    setSegment(n, d.register(selector))
  }

  /// Checks a stack selector for privilege `level`. `vector` is #GP or #TS.
  func stackSegment(
    _ selector: UInt16, cpl level: UInt8, _ vector: UInt8, external: UInt32 = 0
  ) throws(GuestFault) -> X86Segment {
    let code = UInt32(selector & 0xFFFC) | external
    if selector & 0xFFFC == 0 {
      if codeSize == 8 && level != 3 && UInt8(selector & 3) == level {
        return nullStack(selector)
      }
      throw fault(vector, external)
    }
    var d = try readDescriptor(selector, vector, external: external)
    if UInt8(selector & 3) != level || !d.isWritableData || d.dpl != level {
      throw fault(vector, code)
    }
    if !d.isPresent { throw fault(ExceptionVector.stack, code) }
    try markAccessed(&d)
    return d.register(selector)
  }

  /// SS with a null selector, as 64-bit mode allows and interrupts load.
  func nullStack(_ selector: UInt16) -> X86Segment {
    let dpl = (selector & 3) &<< 5
    return X86Segment(
      base: 0, limit: 0xFFFF_FFFF, selector: selector, attributes: 0xC093 & ~0x60 | dpl)
  }

  /// After a return to an outer level: data segments that the new CPL may not use become null.
  func dropPrivilegedSegments() {
    for n in [Core.es, Core.ds, Core.fs, Core.gs] {
      let seg = segment(n)
      let dpl = UInt8(seg.attributes &>> 5 & 3)
      let isCode = seg.attributes & 0x18 == 0x18
      let conforming = isCode && seg.attributes & 4 != 0
      if seg.attributes & 0x80 == 0 || (dpl < cpl && !conforming) {
        if seg.attributes != 0 || seg.selector & 0xFFFC != 0 {
          setSegmentRaw(n, X86Segment(base: 0, limit: 0, selector: 0, attributes: 0))
        }
      }
    }
    updateMode()
  }

  /// LLDT (SDM vol. 2A).
  func loadLDT(_ selector: UInt16) throws(GuestFault) {
    if selector & 0xFFFC == 0 {
      setSegmentRaw(
        Core.ldtr, X86Segment(base: 0, limit: 0, selector: selector, attributes: 0))
      return
    }
    let code = UInt32(selector & 0xFFFC)
    if selector & 4 != 0 { throw fault(ExceptionVector.generalProtection, code) }
    let d = try readSystemDescriptor(selector)
    if d.isSegment || d.type != 2 { throw fault(ExceptionVector.generalProtection, code) }
    if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, code) }
    var seg = d.register(selector)
    seg.base = d.wideBase
    setSegmentRaw(Core.ldtr, seg)
  }

  /// LTR (SDM vol. 2A).
  func loadTask(_ selector: UInt16) throws(GuestFault) {
    let code = UInt32(selector & 0xFFFC)
    if selector & 0xFFFC == 0 { throw fault(ExceptionVector.generalProtection, 0) }
    if selector & 4 != 0 { throw fault(ExceptionVector.generalProtection, code) }
    let d = try readSystemDescriptor(selector)
    let isAvailable = d.type == 9 || (d.type == 1 && !isLongModeActive)
    if d.isSegment || !isAvailable { throw fault(ExceptionVector.generalProtection, code) }
    if !d.isPresent { throw fault(ExceptionVector.segmentNotPresent, code) }
    try setTSSBusy(selector, true)
    var seg = d.register(selector)
    seg.base = d.wideBase
    seg.attributes |= 2
    setSegmentRaw(Core.tr, seg)
  }
}
