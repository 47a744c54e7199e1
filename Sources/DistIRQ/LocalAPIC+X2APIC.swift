// MSRs of the local APIC: IA32_APIC_BASE, IA32_TSC_DEADLINE, and the x2APIC registers 0x800 to 0x8FF
// (Intel SDM vol. 3A, 11.12, table 11-6).

extension LocalAPIC {
  /// IA32_APIC_BASE.
  package static let baseMSR: UInt32 = 0x1B
  /// IA32_TSC_DEADLINE.
  package static let tscDeadlineMSR: UInt32 = 0x6E0
  /// First MSR of the x2APIC range, which is 256 long.
  package static let x2APICMSRs: ClosedRange<UInt32> = 0x800...0x8FF

  /// True when MSR `index` is the local APIC's business.
  package static func claims(msr index: UInt32) -> Bool {
    x2APICMSRs.contains(index) || index == tscDeadlineMSR || index == baseMSR
  }

  /// True when an access to MSR `index` depends on the time given.
  package static func needsTime(msr index: UInt32) -> Bool {
    index == tscDeadlineMSR || x2APICMSRs.contains(index) && registerNeedsTime(index & 0xFF)
  }

  /// RDMSR. Nil is a general protection fault.
  package func readMSR(_ index: UInt32, at time: APICTime) -> UInt64? {
    switch index {
    case Self.baseMSR: return base.rawValue
    case Self.tscDeadlineMSR:
      guard features.contains(.tscDeadline) else { return nil }
      return timer.tscDeadline
    default: break
    }
    guard mode == .x2APIC, Self.x2APICMSRs.contains(index) else { return nil }
    let register = index & 0xFF
    switch register {
    case APICRegister.commandLow: return icr
    case APICRegister.arbitrationPriority, APICRegister.endOfInterrupt, APICRegister.remoteRead,
      APICRegister.destinationFormat, APICRegister.commandHigh, APICRegister.selfIPI:
      return nil
    default: return self.register(register, at: time).map(UInt64.init)
    }
  }

  /// WRMSR. Nil is a general protection fault, and then nothing has changed.
  package mutating func writeMSR(
    _ index: UInt32, _ value: UInt64, at time: APICTime
  ) -> LocalAPICOutcome? {
    switch index {
    case Self.baseMSR: return setBase(value) ? LocalAPICOutcome.none : nil
    case Self.tscDeadlineMSR:
      guard features.contains(.tscDeadline) else { return nil }
      setTSCDeadline(value, at: time)
      return LocalAPICOutcome.none
    default: break
    }
    guard mode == .x2APIC, Self.x2APICMSRs.contains(index) else { return nil }
    let register = index & 0xFF
    if register == APICRegister.commandLow { return writeExtendedCommand(value) }
    guard let low = UInt32(exactly: value) else { return nil }
    switch register {
    case APICRegister.endOfInterrupt:
      return low == 0 ? endOfInterrupt() : nil
    case APICRegister.errorStatus:
      guard low == 0 else { return nil }
      latchErrors()
    case APICRegister.selfIPI:
      guard low & ~0xFF == 0 else { return nil }
      let vector = UInt8(truncatingIfNeeded: low)
      guard vector >= 16 else {
        logError(APICError.sendIllegalVector)
        return LocalAPICOutcome.none
      }
      return .ipi(
        InterruptMessage(destination: initialID, width: .x2APIC, vector: vector), .itself)
    default:
      guard let mask = writableMask(register), low & ~(mask | readOnlyBits(register)) == 0 else {
        return nil
      }
      setRegister(register, low, at: time)
    }
    return LocalAPICOutcome.none
  }

  // MARK: - Private

  /// Status bits of local vectors: writing them is no fault.
  private func readOnlyBits(_ register: UInt32) -> UInt32 {
    switch register {
    case APICRegister.lvtLINT0, APICRegister.lvtLINT1: 1 << 12 | 1 << 14
    case APICRegister.lvtCMCI...APICRegister.lvtCMCI,
      APICRegister.lvtTimer...APICRegister.lvtPerformance, APICRegister.lvtError:
      1 << 12
    default: 0
    }
  }

  /// The 64-bit interrupt command register. Reserved bits fault; bit 12, the former delivery status, is ignored.
  private mutating func writeExtendedCommand(_ value: UInt64) -> LocalAPICOutcome? {
    let reserved: UInt64 = 0xFFF3_2000
    guard value & reserved == 0 else { return nil }
    icr = value & ~(1 << 12)
    return sendCommand()
  }

  /// IA32_APIC_BASE. False is a general protection fault.
  private mutating func setBase(_ value: UInt64) -> Bool {
    guard
      let new = base.written(
        value, supportsX2APIC: features.contains(.x2APIC), physicalAddressBits: physicalAddressBits)
    else { return false }
    let old = base.mode
    base = new
    switch (old, new.mode) {
    case (.xAPIC, .disabled), (.x2APIC, .disabled):
      // Enabling it again finds the state of a reset (SDM 11.4.3).
      resetRegisters()
      xAPICID = UInt8(truncatingIfNeeded: initialID)
    case (.xAPIC, .x2APIC):
      // The upper half of the command register has another format now (SDM 11.12.5.2).
      icr &= 0xFFFF_FFFF
      xAPICID = UInt8(truncatingIfNeeded: initialID)
    default: break
    }
    return true
  }
}
