import CPU
import DeviceModel
import CX86
import Glibc

/// Instructions of operating systems, transfers between segments, and what is asked of the machine.
extension Core {
  func executeSystem(_ i: Insn) throws(GuestFault) -> Flow {
    switch unsafe unsafeBitCast(i.handler, to: Operation.self) {
    case .jumpFar:
      try jumpFar(i.immediate2, i.immediate, size: i.size)
      return .reconsider
    case .callFar:
      try callFar(i.immediate2, i.immediate, size: i.size)
      return .reconsider
    case .jumpFarIndirect, .callFarIndirect:
      let offset = effectiveAddress(i)
      let target = try load(i.segment, offset, size: i.size)
      let next = (offset &+ UInt64(i.size)) & i.addressMask
      let selector = try load(i.segment, next, UInt16.self)
      if i.sub == 5 {
        try jumpFar(selector, target, size: i.size)
      } else {
        try callFar(selector, target, size: i.size)
      }
      return .reconsider
    case .returnFar:
      try returnFar(size: i.size, release: i.opcode == 0xCA ? i.immediate & 0xFFFF : 0)
      return .reconsider
    case .interruptReturn:
      try interruptReturn(size: i.size)
      return .reconsider
    case .int3: return softwareInterrupt(i, ExceptionVector.breakpoint, .softwareException)
    case .int: return softwareInterrupt(i, UInt8(truncatingIfNeeded: i.immediate), .software)
    case .into:
      if !flag(X86_RAW_OF) { return .next }
      return softwareInterrupt(i, ExceptionVector.overflow, .softwareException)
    case .icebp: return softwareInterrupt(i, ExceptionVector.debug, .privilegedSoftware)
    case .loadFarPointer: try executeLoadFarPointer(i)
    case .movFromSegment:
      let selector = UInt64(segment(i.sub).selector)
      if i.isRegister {
        setRegister(i.rm, size: i.size, rex: true, selector)
      } else {
        try store(i.segment, effectiveAddress(i), size: 2, selector)
      }
    case .movToSegment:
      let selector = UInt16(truncatingIfNeeded: try operand(i, size: 2))
      try loadSegment(i.sub, selector)
      if i.sub == Core.ss { shadow = 3 }
      return .reconsider
    case .hlt:
      try requirePrivilege()
      activity = 1
      return .reconsider
    case .cpuid:
      let entry = environment.cpuid.lookup(
        leaf: r32(0), subleaf: r32(1), apicID: environment.apicID.rawValue, cr4: cr4, xcr0: xcr0,
        xss: xss)
      set32(0, entry.eax)
      set32(3, entry.ebx)
      set32(1, entry.ecx)
      set32(2, entry.edx)
    case .rdtsc, .rdtscp:
      if unsafe unsafeBitCast(i.handler, to: Operation.self) == .rdtscp,
        coreFeatures & Feature.rdtscp == 0
      {
        throw fault(ExceptionVector.undefined)
      }
      if cr4 & CR4.tsd != 0 && cpl != 0 { throw fault(ExceptionVector.generalProtection, 0) }
      let value = (i.opcode == 0x01 ? x86_tsc_ordered() : x86_tsc()) &+ tscOffset
      set32(0, UInt32(truncatingIfNeeded: value))
      set32(2, UInt32(truncatingIfNeeded: value &>> 32))
      if i.opcode == 0x01 { set32(1, UInt32(truncatingIfNeeded: tscAux)) }
    case .rdpid:
      if coreFeatures & Feature.rdpid == 0 { throw fault(ExceptionVector.undefined) }
      setRegister(i.rm, size: is64Bit ? 8 : 4, rex: true, tscAux)
    case .rdpmc: throw fault(ExceptionVector.generalProtection, 0)
    case .rdmsr:
      try requirePrivilege()
      let value = try readMSR(r32(1))
      set32(0, UInt32(truncatingIfNeeded: value))
      set32(2, UInt32(truncatingIfNeeded: value &>> 32))
    case .wrmsr:
      try requirePrivilege()
      try writeMSR(r32(1), UInt64(r32(0)) | UInt64(r32(2)) &<< 32)
      return .reconsider
    case .syscall:
      try syscall()
      return .reconsider
    case .sysret:
      try sysret(size: i.size)
      return .reconsider
    case .sysenter:
      try sysenter()
      return .reconsider
    case .sysexit:
      try sysexit(size: i.size)
      return .reconsider
    case .clts:
      try requirePrivilege()
      cr0 &= ~CR0.ts
    case .invd, .wbinvd: try requirePrivilege()
    case .cacheFlush: _ = try load(i.segment, effectiveAddress(i), UInt8.self)
    case .fence: x86_fence()
    case .prefetch: break
    case .movFromControl, .movToControl: return try executeControl(i)
    case .movFromDebug, .movToDebug: return try executeDebug(i)
    case .group6: return try executeGroup6(i)
    case .group7: return try executeGroup7(i)
    case .lar, .lsl: try executeLoadAccess(i)
    case .invpcid:
      if coreFeatures & Feature.invpcid == 0 { throw fault(ExceptionVector.undefined) }
      try requirePrivilege()
      let type = is64Bit ? r64(i.reg) : UInt64(r32(i.reg))
      let offset = effectiveAddress(i)
      let low = try load(i.segment, offset, UInt64.self)
      let address = try load(i.segment, (offset &+ 8) & i.addressMask, UInt64.self)
      if type > 3 || low &>> 12 != 0 || (type == 0 && !isCanonical(address)) {
        throw fault(ExceptionVector.generalProtection, 0)
      }
      if type == 0 { flushPage(address) } else { flushTLB(includingGlobal: type == 2) }
      return .reconsider
    case .fsgsbase:
      if cr4 & CR4.fsgsbase == 0 { throw fault(ExceptionVector.undefined) }
      let n = i.sub & 1 == 0 ? Core.fs : Core.gs
      if i.sub < 2 {
        setRegister(i.rm, size: i.rex & 8 != 0 ? 8 : 4, rex: true, segment(n).base)
      } else {
        let base = i.rex & 8 != 0 ? r64(i.rm) : UInt64(r32(i.rm))
        if !isCanonical(base) { throw fault(ExceptionVector.generalProtection, 0) }
        setBase(n, base)
      }
    case .random:
      let needed = i.sub == 6 ? Feature.rdrand : Feature.rdseed
      if coreFeatures & needed == 0 { throw fault(ExceptionVector.undefined) }
      var generator = SystemRandomNumberGenerator()
      setRegister(i.rm, size: i.size, rex: true, generator.next())
      flags = UInt16(X86_RAW_CF)
    case .xgetbv:
      if cr4 & CR4.osxsave == 0 { throw fault(ExceptionVector.undefined) }
      if r32(1) > 1 { throw fault(ExceptionVector.generalProtection, 0) }
      set32(0, UInt32(truncatingIfNeeded: xcr0))
      set32(2, UInt32(truncatingIfNeeded: xcr0 &>> 32))
    case .xsetbv:
      if cr4 & CR4.osxsave == 0 { throw fault(ExceptionVector.undefined) }
      try requirePrivilege()
      let value = UInt64(r32(0)) | UInt64(r32(2)) &<< 32
      if r32(1) != 0 || value & 1 == 0 || value & ~environment.supportedXCR0 != 0
        || (value & 4 != 0 && value & 2 == 0)
      {
        throw fault(ExceptionVector.generalProtection, 0)
      }
      xcr0 = value
    case .swapgs:
      if unsafe x86_fast_swapgs(s) != 0 { break }
      try requirePrivilege()
      let base = segment(Core.gs).base
      setBase(Core.gs, kernelGSBase)
      kernelGSBase = base
    case .monitor:
      if coreFeatures & Feature.monitor == 0 { throw fault(ExceptionVector.undefined) }
      try requirePrivilege()
      _ = try load(i.segment, r64(0) & i.addressMask, UInt8.self)
    case .mwait:
      // A wake-up by a store is not noticed, so it never sleeps: it gives the host's processor away.
      if coreFeatures & Feature.monitor == 0 { throw fault(ExceptionVector.undefined) }
      try requirePrivilege()
      sched_yield()
      return .reconsider
    case .clac, .stac:
      if coreFeatures & Feature.smap == 0 { throw fault(ExceptionVector.undefined) }
      if cpl != 0 { throw fault(ExceptionVector.undefined) }
      if i.modrm == 0xCB { eflags |= EFLAGS.ac } else { eflags &= ~EFLAGS.ac }
      updateAccessClass()
    default: throw fault(ExceptionVector.undefined)
    }
    return .next
  }

  func requirePrivilege() throws(GuestFault) {
    if cpl != 0 { throw fault(ExceptionVector.generalProtection, 0) }
  }

  /// What RDTSC returns.
  var timeStampCounter: UInt64 { x86_tsc() &+ tscOffset }

  private func softwareInterrupt(_ i: Insn, _ vector: UInt8, _ kind: EventKind) -> Flow {
    environment.instructionStart = rip &- UInt64(i.length)
    if !deliver(vector, hasCode: false, code: 0, kind) {
      environment.isShutdown = true
      return .stop
    }
    return .reconsider
  }

  private func executeLoadFarPointer(_ i: Insn) throws(GuestFault) {
    let offset = effectiveAddress(i)
    let value = try load(i.segment, offset, size: i.size)
    let next = (offset &+ UInt64(i.size)) & i.addressMask
    let selector = try load(i.segment, next, UInt16.self)
    var n: UInt8
    switch i.opcode {
    case 0xC4: n = Core.es
    case 0xC5: n = Core.ds
    case 0xB2: n = Core.ss
    case 0xB4: n = Core.fs
    default: n = Core.gs
    }
    try loadSegment(n, selector)
    setRegister(i.reg, size: i.size, rex: true, value)
  }

  // MARK: - Control registers (SDM vol. 3A, 2.5)

  private func executeControl(_ i: Insn) throws(GuestFault) -> Flow {
    let wide = is64Bit
    let number = i.reg
    if number != 0 && number != 2 && number != 3 && number != 4 && !(number == 8 && wide) {
      throw fault(ExceptionVector.undefined)
    }
    try requirePrivilege()
    if i.opcode == 0x20 {
      var value: UInt64
      switch number {
      case 0: value = cr0
      case 2: value = cr2
      case 3: value = cr3
      case 4: value = cr4
      default: value = UInt64(environment.host.taskPriority &>> 4)
      }
      setRegister(i.rm, size: wide ? 8 : 4, rex: true, value)
      return .next
    }
    let value = wide ? r64(i.rm) : UInt64(r32(i.rm))
    switch number {
    case 0: try writeCR0(value)
    case 2: cr2 = value
    case 3: try writeCR3(value)
    case 4: try writeCR4(value)
    default:
      if value &>> 4 != 0 { throw fault(ExceptionVector.generalProtection, 0) }
      environment.host.taskPriority = UInt8(truncatingIfNeeded: value) &<< 4
    }
    return .reconsider
  }

  func writeCR0(_ value: UInt64) throws(GuestFault) {
    let gp = ExceptionVector.generalProtection
    if value &>> 32 != 0 { throw fault(gp, 0) }
    let new = value & 0xE005_003F | CR0.et
    if new & CR0.pg != 0 && new & CR0.pe == 0 { throw fault(gp, 0) }
    if new & CR0.nw != 0 && new & CR0.cd == 0 { throw fault(gp, 0) }
    let old = cr0
    if new & CR0.pg != 0 && old & CR0.pg == 0 {
      if efer & EFER.lme != 0 {
        if cr4 & CR4.pae == 0 || segment(Core.cs).attributes & 0x2000 != 0 { throw fault(gp, 0) }
        efer |= EFER.lma
      } else if cr4 & CR4.pae != 0 {
        try loadPageDirectoryPointers(cr3)
      }
    } else if new & CR0.pg == 0 && old & CR0.pg != 0 {
      if codeSize == 8 || cr4 & CR4.pcide != 0 { throw fault(gp, 0) }
      efer &= ~EFER.lma
    }
    cr0 = new
    if (old ^ new) & (CR0.pg | CR0.wp | CR0.pe) != 0 { flushTLB(includingGlobal: true) }
    if (old ^ new) & CR0.pe != 0 {
      if new & CR0.pe != 0 { cpl = 0 }
    }
    updateMode()
  }

  func writeCR3(_ value: UInt64) throws(GuestFault) {
    var new = value
    if isLongModeActive {
      if cr4 & CR4.pcide != 0 { new &= ~(1 << 63) }
      if new & ~physicalMask != 0 { throw fault(ExceptionVector.generalProtection, 0) }
    } else if cr0 & CR0.pg != 0 && cr4 & CR4.pae != 0 {
      try loadPageDirectoryPointers(new)
    }
    cr3 = new
    flushTLB(includingGlobal: false)
  }

  func writeCR4(_ value: UInt64) throws(GuestFault) {
    let gp = ExceptionVector.generalProtection
    if value & ~supportedCR4 != 0 { throw fault(gp, 0) }
    if isLongModeActive && value & CR4.pae == 0 { throw fault(gp, 0) }
    if value & CR4.pcide != 0 && cr4 & CR4.pcide == 0 {
      if !isLongModeActive || cr3 & 0xFFF != 0 { throw fault(gp, 0) }
    }
    let old = cr4
    let paging =
      CR4.pse | CR4.pae | CR4.pge | CR4.pcide | CR4.smep | CR4.smap
    if cr0 & CR0.pg != 0 && !isLongModeActive && value & CR4.pae != 0,
      (old ^ value) & (CR4.pae | CR4.pse | CR4.pge | CR4.smep) != 0
    {
      try loadPageDirectoryPointers(cr3)
    }
    cr4 = value
    if (old ^ value) & paging != 0 { flushTLB(includingGlobal: true) }
    updateMode()
  }

  private var supportedCR4: UInt64 {
    var mask =
      CR4.tsd | CR4.de | CR4.pse | CR4.pae | CR4.mce | CR4.pce | CR4.osfxsr | CR4.osxmmexcpt
    let list: [(UInt64, UInt64)] = [
      (Feature.pge, CR4.pge), (Feature.vme, CR4.vme | CR4.pvi), (Feature.umip, CR4.umip),
      (Feature.fsgsbase, CR4.fsgsbase), (Feature.pcid, CR4.pcide), (Feature.xsave, CR4.osxsave),
      (Feature.smep, CR4.smep), (Feature.smap, CR4.smap),
    ]
    for (feature, bit) in list where coreFeatures & feature != 0 { mask |= bit }
    return mask
  }

  // MARK: - Descriptor table registers, task register (groups 6 and 7)

  private func requireNoUMIP() throws(GuestFault) {
    if cr4 & CR4.umip != 0 && cpl != 0 { throw fault(ExceptionVector.generalProtection, 0) }
  }

  private func executeGroup6(_ i: Insn) throws(GuestFault) -> Flow {
    if !isProtected { throw fault(ExceptionVector.undefined) }
    switch i.sub {
    case 0, 1:
      try requireNoUMIP()
      let selector = UInt64(segment(i.sub == 0 ? Core.ldtr : Core.tr).selector)
      if i.isRegister {
        setRegister(i.rm, size: i.size, rex: true, selector)
      } else {
        try store(i.segment, effectiveAddress(i), size: 2, selector)
      }
    case 2, 3:
      try requirePrivilege()
      let selector = UInt16(truncatingIfNeeded: try operand(i, size: 2))
      if i.sub == 2 { try loadLDT(selector) } else { try loadTask(selector) }
    default:
      let selector = UInt16(truncatingIfNeeded: try operand(i, size: 2))
      setFlag(X86_RAW_ZF, try mayAccess(selector, write: i.sub == 5))
    }
    return .next
  }

  /// VERR and VERW.
  private func mayAccess(_ selector: UInt16, write: Bool) throws(GuestFault) -> Bool {
    guard let d = try descriptorIfAny(selector), d.isSegment else { return false }
    if !(d.isCode && d.isConforming), cpl > d.dpl || UInt8(selector & 3) > d.dpl { return false }
    if write { return d.isWritableData }
    return !d.isCode || d.isReadable
  }

  /// The descriptor, or nil when the selector is null or outside its table.
  private func descriptorIfAny(_ selector: UInt16) throws(GuestFault) -> Descriptor? {
    if selector & 0xFFFC == 0 { return nil }
    var limit = UInt64(gdtrLimit)
    if selector & 4 != 0 {
      let table = segment(Core.ldtr)
      if table.attributes & 0x80 == 0 { return nil }
      limit = UInt64(table.limit)
    }
    if UInt64(selector & 0xFFF8) &+ 7 > limit { return nil }
    return try readDescriptor(selector)
  }

  private func executeLoadAccess(_ i: Insn) throws(GuestFault) {
    if !isProtected { throw fault(ExceptionVector.undefined) }
    let isLAR = i.opcode == 0x02
    let selector = UInt16(truncatingIfNeeded: try operand(i, size: 2))
    setFlag(X86_RAW_ZF, false)
    guard let d = try descriptorIfAny(selector) else { return }
    var isValid: Bool
    if d.isSegment {
      isValid = true
    } else {
      switch d.type {
      case 2, 9, 11: isValid = true
      case 1, 3: isValid = !isLongModeActive
      case 12: isValid = isLAR
      case 4, 5: isValid = isLAR && !isLongModeActive
      default: isValid = false
      }
    }
    if !(d.isCode && d.isConforming), cpl > d.dpl || UInt8(selector & 3) > d.dpl {
      isValid = false
    }
    if !isValid { return }
    let value = isLAR ? UInt64(d.high & 0x00F0_FF00) : UInt64(d.limit)
    setRegister(i.reg, size: i.size, rex: true, value)
    setFlag(X86_RAW_ZF, true)
  }

  private func executeGroup7(_ i: Insn) throws(GuestFault) -> Flow {
    if i.sub == 4 {
      try requireNoUMIP()
      if i.isRegister {
        setRegister(i.rm, size: i.size, rex: true, cr0)
      } else {
        try store(i.segment, effectiveAddress(i), size: 2, cr0)
      }
      return .next
    }
    if i.sub == 6 {
      try requirePrivilege()
      let value = try operand(i, size: 2)
      // LMSW sets PE but does not clear it.
      try writeCR0(cr0 & ~0xE | value & 0xF)
      return .reconsider
    }
    let offset = effectiveAddress(i)
    let second = (offset &+ 2) & i.addressMask
    switch i.sub {
    case 0, 1:
      try requireNoUMIP()
      let base = i.sub == 0 ? gdtrBase : idtrBase
      let limit = UInt64(i.sub == 0 ? gdtrLimit : idtrLimit)
      let width: UInt8 = is64Bit ? 8 : 4
      try checkWrite(i.segment, second, size: width)
      try store(i.segment, offset, size: 2, limit)
      try store(i.segment, second, size: width, base)
    case 2, 3:
      try requirePrivilege()
      let limit = UInt32(truncatingIfNeeded: try load(i.segment, offset, size: 2))
      var base = try load(i.segment, second, size: is64Bit ? 8 : 4)
      if is64Bit {
        if !isCanonical(base) { throw fault(ExceptionVector.generalProtection, 0) }
      } else if i.size == 2 {
        base &= 0xFF_FFFF
      }
      if i.sub == 2 {
        gdtrBase = base
        gdtrLimit = limit
      } else {
        idtrBase = base
        idtrLimit = limit
      }
    default:  // INVLPG
      try requirePrivilege()
      let base = unsafe window(i.segment).pointee.base
      flushPage((offset &+ base) & linearMask)
      return .reconsider
    }
    return .next
  }
}
