import CX86

/// What tests look at: the helpers of CX86Fast.h, and the state that only the core itself sees.
extension TCGVCPU {
  /// Whether the C helpers do the usual cases, which makes a difference to nothing but time.
  package var usesFastHelpers: Bool {
    get { unsafe environment.state.pointer.pointee.fastOff == 0 }
    set { unsafe environment.state.pointer.pointee.fastOff = newValue ? 0 : 1 }
  }

  /// How many instructions and deliveries the C helpers have done.
  package var fastHelperCount: UInt64 { unsafe environment.state.pointer.pointee.fastCount }

  /// What the core derives from segments, control registers, flags and CPL: sizes, masks, TLBs in use, windows.
  package var derivedState: [UInt64] {
    // SAFETY: the vCPU's own state; the TLBs lie in its allocation.
    let s = unsafe environment.state.pointer
    let start = unsafe UInt64(UInt(bitPattern: s))
    var values = unsafe [
      UInt64(s.pointee.cpl), UInt64(s.pointee.codeSize), UInt64(s.pointee.stackSize),
      UInt64(s.pointee.shadow), UInt64(s.pointee.slowMode), UInt64(s.pointee.nmiBlocked),
      UInt64(s.pointee.events), UInt64(s.pointee.activity),
      s.pointee.linearMask, s.pointee.stackMask, s.pointee.fetchEnd,
      UInt64(UInt(bitPattern: s.pointee.tlb)) &- start,
      UInt64(UInt(bitPattern: s.pointee.itlb)) &- start,
    ]
    let core = environment.core
    for n in UInt8(0)..<6 {
      let window = unsafe core.window(n).pointee
      values += [window.base, window.readEnd, window.writeEnd]
    }
    return values
  }
}
