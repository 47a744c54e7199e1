import CX86

/// Debug registers (Intel SDM vol. 3B, chapter 18).
extension Core {
  func executeDebug(_ i: Insn) throws(GuestFault) -> Flow {
    var number = Int(i.reg)
    if number > 7 { throw fault(ExceptionVector.undefined) }
    if number == 4 || number == 5 {
      if cr4 & CR4.de != 0 { throw fault(ExceptionVector.undefined) }
      number += 2
    }
    try requirePrivilege()
    if dr7 & (1 << 13) != 0 {
      pendingDebug |= 1 << 13
      throw fault(ExceptionVector.debug)
    }
    let wide = is64Bit
    if i.opcode == 0x21 {
      let value = number < 4 ? debugAddress(number) : number == 6 ? dr6 : dr7
      setRegister(i.rm, size: wide ? 8 : 4, rex: true, value)
      return .next
    }
    let value = wide ? r64(i.rm) : UInt64(r32(i.rm))
    switch number {
    case 0...3: setDebugAddress(number, value)
    case 6:
      if value &>> 32 != 0 { throw fault(ExceptionVector.generalProtection, 0) }
      dr6 = value & 0xE00F | 0xFFFF_0FF0
    default:
      if value &>> 32 != 0 { throw fault(ExceptionVector.generalProtection, 0) }
      dr7 = value & 0xFFFF_2FFF | 0x400
    }
    updateBreakpoints()
    return .reconsider
  }

  /// Recomputes what depends on DR0 to DR3 and DR7.
  func updateBreakpoints() {
    var data = false
    var code = false
    for n in 0..<4 where dr7 &>> UInt64(n &* 2) & 3 != 0 {
      if breakpointType(n) == 0 { code = true } else { data = true }
    }
    environment.watchesData = data
    environment.watchesCode = code || data
    flushTLB(includingGlobal: true)
    updateMode()
  }

  private func breakpointType(_ n: Int) -> UInt64 { dr7 &>> UInt64(16 &+ n &* 4) & 3 }

  private func breakpointLength(_ n: Int) -> UInt64 {
    switch dr7 &>> UInt64(18 &+ n &* 4) & 3 {
    case 0: 1
    case 1: 2
    case 2: 8
    default: 4
    }
  }

  /// Whether an instruction breakpoint is set for the instruction at `linear`; the bits for DR6.
  func instructionBreakpoints(_ linear: UInt64) -> UInt64 {
    var hits: UInt64 = 0
    for n in 0..<4 where dr7 &>> UInt64(n &* 2) & 3 != 0 && breakpointType(n) == 0 {
      if debugAddress(n) == linear { hits |= 1 &<< UInt64(n) }
    }
    return hits
  }

  /// Remembers data breakpoints that an access hits; the trap comes after the instruction.
  func noteWatch(_ linear: UInt64, _ size: UInt64, write: Bool) {
    for n in 0..<4 where dr7 &>> UInt64(n &* 2) & 3 != 0 {
      let type = breakpointType(n)
      if type == 0 || type == 2 || (type == 1 && !write) { continue }
      let length = breakpointLength(n)
      let start = debugAddress(n) & ~(length &- 1)
      if linear < start &+ length && start < linear &+ size {
        pendingDebug |= 1 &<< UInt64(n)
        environment.hasPendingTrap = true
      }
    }
  }

  func notePortBreakpoint(_ port: UInt16, _ size: UInt64) {
    if !environment.watchesData || cr4 & CR4.de == 0 { return }
    for n in 0..<4 where dr7 &>> UInt64(n &* 2) & 3 != 0 && breakpointType(n) == 2 {
      let length = breakpointLength(n)
      let start = debugAddress(n) & ~(length &- 1)
      if UInt64(port) < start &+ length && start < UInt64(port) &+ size {
        pendingDebug |= 1 &<< UInt64(n)
        environment.hasPendingTrap = true
      }
    }
  }
}
