import CPU
import CX86

/// Between the core's memory and the accelerator-neutral `CPUState`.
extension Core {
  private static func segment(_ s: SegmentRegister) -> X86Segment {
    X86Segment(base: s.base, limit: s.limit, selector: s.selector, attributes: s.attributes)
  }
  private static func segment(_ s: X86Segment) -> SegmentRegister {
    SegmentRegister(
      selector: s.selector, base: s.base, limit: s.limit, attributes: s.attributes)
  }

  func readState() -> CPUState {
    var state = CPUState()
    for n in UInt8(0)..<16 { state.registers[Int(n)] = r64(n) }
    state.rip = rip
    state.rflags = rflags
    state.es = Core.segment(segment(Core.es))
    state.cs = Core.segment(segment(Core.cs))
    state.ss = Core.segment(segment(Core.ss))
    state.ds = Core.segment(segment(Core.ds))
    state.fs = Core.segment(segment(Core.fs))
    state.gs = Core.segment(segment(Core.gs))
    state.ldtr = Core.segment(segment(Core.ldtr))
    state.tr = Core.segment(segment(Core.tr))
    // SS.DPL is CPL in the accelerator-neutral form.
    state.ss.attributes = state.ss.attributes & ~0x60 | UInt16(cpl) << 5
    state.gdtr = DescriptorTableRegister(
      base: gdtrBase, limit: UInt16(truncatingIfNeeded: gdtrLimit))
    state.idtr = DescriptorTableRegister(
      base: idtrBase, limit: UInt16(truncatingIfNeeded: idtrLimit))
    state.cr0 = cr0
    state.cr2 = cr2
    state.cr3 = cr3
    state.cr4 = cr4
    state.cr8 = UInt64(environment.host.taskPriority &>> 4)
    state.efer = efer
    state.xcr0 = xcr0
    state.debugAddresses = (0..<4).map { debugAddress($0) }
    state.dr6 = dr6
    state.dr7 = dr7
    // SAFETY: the XSAVE area has 4096 bytes.
    let area = unsafe UnsafeRawBufferPointer(start: x86_xsave(s), count: 4096)
    state.xsave = unsafe [UInt8](area)
    var msrs = environment.msrs.values
    msrs[0x10] = timeStampCounter
    msrs[0x3B] = tscAdjust
    msrs[0x174] = sysenterCS
    msrs[0x175] = sysenterESP
    msrs[0x176] = sysenterEIP
    msrs[0x277] = environment.msrs.pat
    msrs[0xC000_0081] = star
    msrs[0xC000_0082] = lstar
    msrs[0xC000_0083] = cstar
    msrs[0xC000_0084] = sfmask
    msrs[0xC000_0102] = kernelGSBase
    msrs[0xC000_0103] = tscAux
    environment.exportedTSC = msrs[0x10]
    state.msrs = msrs
    state.activity = activity == 0 ? .running : .halted
    state.hasInterruptShadow = shadow != 0
    state.isNMIBlocked = nmiBlocked != 0
    state.pendingInterrupt = environment.pendingVector
    state.isNMIPending = environment.pendingNMI
    if environment.hasPendingTrap {
      state.pendingException = PendingException(
        vector: ExceptionVector.debug, payload: pendingDebug)
    }
    return state
  }

  func writeState(_ state: CPUState) {
    for n in UInt8(0)..<16 where Int(n) < state.registers.count {
      set64(n, state.registers[Int(n)])
    }
    rip = state.rip
    let low = UInt32(truncatingIfNeeded: state.rflags)
    setArithmeticFlags(low)
    eflags = low & EFLAGS.all & ~EFLAGS.arithmetic
    setSegmentRaw(Core.es, Core.segment(state.es))
    setSegmentRaw(Core.cs, Core.segment(state.cs))
    setSegmentRaw(Core.ss, Core.segment(state.ss))
    setSegmentRaw(Core.ds, Core.segment(state.ds))
    setSegmentRaw(Core.fs, Core.segment(state.fs))
    setSegmentRaw(Core.gs, Core.segment(state.gs))
    setSegmentRaw(Core.ldtr, Core.segment(state.ldtr))
    setSegmentRaw(Core.tr, Core.segment(state.tr))
    gdtrBase = state.gdtr.base
    gdtrLimit = UInt32(state.gdtr.limit)
    idtrBase = state.idtr.base
    idtrLimit = UInt32(state.idtr.limit)
    cr0 = state.cr0 | CR0.et
    cr2 = state.cr2
    cr3 = state.cr3
    cr4 = state.cr4
    efer = state.efer
    xcr0 = state.xcr0 | 1
    for (n, value) in state.debugAddresses.prefix(4).enumerated() { setDebugAddress(n, value) }
    dr6 = state.dr6
    dr7 = state.dr7
    if cr0 & CR0.pe == 0 {
      cpl = 0
    } else if isVirtual8086 {
      cpl = 3
    } else {
      cpl = state.ss.dpl
    }
    writeXSAVE(state.xsave)

    var rest = state.msrs
    func take(_ index: UInt32) -> UInt64? { rest.removeValue(forKey: index) }
    if let tsc = take(0x10), tsc != environment.exportedTSC { tscOffset = tsc &- x86_tsc() }
    tscAdjust = take(0x3B) ?? 0
    sysenterCS = take(0x174) ?? 0
    sysenterESP = take(0x175) ?? 0
    sysenterEIP = take(0x176) ?? 0
    environment.msrs.pat = take(0x277) ?? 0x0007_0406_0007_0406
    star = take(0xC000_0081) ?? 0
    lstar = take(0xC000_0082) ?? 0
    cstar = take(0xC000_0083) ?? 0
    sfmask = take(0xC000_0084) ?? 0
    kernelGSBase = take(0xC000_0102) ?? 0
    tscAux = take(0xC000_0103) ?? 0
    environment.msrs.values = rest.filter { MSRFile.initial[$0.key] != nil }

    activity = state.activity == .running ? 0 : 1
    shadow = state.hasInterruptShadow ? 1 : 0
    nmiBlocked = state.isNMIBlocked ? 1 : 0
    pendingDebug = 0
    environment.pendingVector = state.pendingInterrupt
    environment.pendingNMI = state.isNMIPending
    environment.hasPendingTrap = false
    environment.isInsideREP = false
    environment.isShutdown = false
    if let exception = state.pendingException {
      if exception.vector == ExceptionVector.debug {
        pendingDebug = exception.payload ?? 0
        environment.hasPendingTrap = true
      } else {
        environment.pendingException = exception
      }
    }
    if cr0 & CR0.pg != 0 && cr4 & CR4.pae != 0 && !isLongModeActive {
      do throws(GuestFault) { try loadPageDirectoryPointers(cr3) } catch {
        _ = environment.takeRestart()
      }
    }
    updateA20Mask()
    updateBreakpoints()
  }

  /// Copies an XSAVE image, making absent components what they are after initialisation.
  private func writeXSAVE(_ image: [UInt8]) {
    // SAFETY: the area has 4096 bytes, `image` is copied up to that.
    let area = unsafe UnsafeMutableRawBufferPointer(start: x86_xsave(s), count: 4096)
    unsafe area.initializeMemory(as: UInt8.self, repeating: 0)
    unsafe image.withUnsafeBytes { bytes in
      unsafe area.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes.prefix(4096)))
    }
    // Selectors of the x87 pointers are not part of a saved state; MXCSR has no other bits.
    unsafe s.pointee.vectorScratch.0 = 0
    unsafe area[26] = 0
    unsafe area[27] = 0
    if image.count < 576 { return }
    let present = image[512]
    if present & 1 == 0 {
      let initial = CPUState.initialXSAVE
      for k in 0..<24 { unsafe area[k] = initial[k] }
      for k in 32..<160 { unsafe area[k] = 0 }
    }
    if present & 2 == 0 { for k in 160..<416 { unsafe area[k] = 0 } }
    if present & 4 == 0 { for k in 576..<832 { unsafe area[k] = 0 } }
    unsafe area[512] = 7
  }

  private func updateA20Mask() {
    a20Mask = environment.host.isA20Enabled ? UInt64.max : ~(1 << 20)
  }

  /// The state right after power-up of the memory itself: everything that `writeState` does not set.
  func prepare(_ table: CPUIDTable) {
    let set = FeatureSet(table: table)
    let names: [(String, UInt64)] = [
      ("pdpe1gb", Feature.pdpe1gb), ("smep", Feature.smep), ("smap", Feature.smap),
      ("fsgsbase", Feature.fsgsbase), ("nx", Feature.nx), ("pcid", Feature.pcid),
      ("umip", Feature.umip), ("xsave", Feature.xsave), ("lm", Feature.lm),
      ("rdtscp", Feature.rdtscp), ("popcnt", Feature.popcnt), ("abm", Feature.lzcnt),
      ("bmi1", Feature.bmi1), ("bmi2", Feature.bmi2), ("adx", Feature.adx),
      ("movbe", Feature.movbe), ("sse4.2", Feature.sse42), ("rdrand", Feature.rdrand),
      ("rdseed", Feature.rdseed), ("cx16", Feature.cx16), ("invpcid", Feature.invpcid),
      ("monitor", Feature.monitor), ("rdpid", Feature.rdpid), ("sep", Feature.sysenter),
      ("pge", Feature.pge), ("vme", Feature.vme),
    ]
    var bits: UInt64 = 0
    for (name, bit) in names where set[name] { bits |= bit }
    let vendor = table.lookup(leaf: 0, subleaf: 0, apicID: 0)
    // "Genu": Intel's rules for SYSCALL and SYSENTER.
    if vendor.ebx == 0x756E_6547 { bits |= Feature.intel }
    coreFeatures = bits
    unsafe s.pointee.features = VectorEngine.features(of: table)
    let sizes = table.lookup(leaf: 0x8000_0008, subleaf: 0, apicID: 0)
    let width = UInt64(sizes.eax & 0xFF)
    let known = sizes.leaf == 0x8000_0008 && width >= 32 && width <= 52
    physicalMask = (1 &<< (known ? width : 36)) &- 1
    a20Mask = UInt64.max
    resetTLB()
  }
}
