// The register page of xAPIC mode (Intel SDM vol. 3A, 11.4.1, table 11-1), and the registers that both modes share.

/// Registers by number: offset in the page divided by 16, and MSR minus 0x800.
enum APICRegister {
  static let id: UInt32 = 0x02
  static let version: UInt32 = 0x03
  static let taskPriority: UInt32 = 0x08
  static let arbitrationPriority: UInt32 = 0x09
  static let processorPriority: UInt32 = 0x0A
  static let endOfInterrupt: UInt32 = 0x0B
  static let remoteRead: UInt32 = 0x0C
  static let logicalDestination: UInt32 = 0x0D
  static let destinationFormat: UInt32 = 0x0E
  static let spuriousVector: UInt32 = 0x0F
  static let inService: UInt32 = 0x10
  static let triggerMode: UInt32 = 0x18
  static let requested: UInt32 = 0x20
  static let errorStatus: UInt32 = 0x28
  static let lvtCMCI: UInt32 = 0x2F
  static let commandLow: UInt32 = 0x30
  static let commandHigh: UInt32 = 0x31
  static let lvtTimer: UInt32 = 0x32
  static let lvtThermal: UInt32 = 0x33
  static let lvtPerformance: UInt32 = 0x34
  static let lvtLINT0: UInt32 = 0x35
  static let lvtLINT1: UInt32 = 0x36
  static let lvtError: UInt32 = 0x37
  static let initialCount: UInt32 = 0x38
  static let currentCount: UInt32 = 0x39
  static let divide: UInt32 = 0x3E
  static let selfIPI: UInt32 = 0x3F
}

/// Bits of the error status register (SDM 11.5.3).
package enum APICError {
  /// A message with a vector below 16 was to be sent.
  package static let sendIllegalVector: UInt8 = 1 << 5
  /// A message with a vector below 16 arrived, or a local vector is below 16.
  package static let receiveIllegalVector: UInt8 = 1 << 6
  /// A register that does not exist was accessed in xAPIC mode.
  package static let illegalRegister: UInt8 = 1 << 7
}

extension LocalAPIC {
  /// True when an access to the register at `offset` of the page depends on the time given.
  package static func needsTime(offset: UInt32) -> Bool {
    registerNeedsTime(offset >> 4 & 0xFF)
  }

  static func registerNeedsTime(_ register: UInt32) -> Bool {
    register == APICRegister.lvtTimer || register == APICRegister.initialCount
      || register == APICRegister.currentCount || register == APICRegister.divide
  }

  /// A read of `width` bytes at `offset` in the register page. Registers are the low four bytes of each
  /// sixteen; the rest reads zero, as everything does when the page is not there.
  package mutating func read(offset: UInt32, width: Int, at time: APICTime) -> UInt64 {
    let byte = offset & 0xF
    guard mode == .xAPIC, byte < 4 else { return 0 }
    guard let value = register(offset >> 4 & 0xFF, at: time) else {
      logError(APICError.illegalRegister)
      return 0
    }
    let shifted = UInt64(value >> (byte &* 8))
    return width >= 4 ? shifted : shifted & (1 << UInt64(max(width, 0) &* 8) &- 1)
  }

  /// A write of `width` bytes at `offset` in the register page. Only aligned writes of at least 32 bits
  /// have an effect (SDM 11.4.1.1).
  package mutating func write(
    offset: UInt32, width: Int, _ value: UInt64, at time: APICTime
  ) -> LocalAPICOutcome {
    guard mode == .xAPIC, offset & 0xF == 0, width >= 4 else { return .none }
    let value = UInt32(truncatingIfNeeded: value)
    switch offset >> 4 & 0xFF {
    case APICRegister.id: xAPICID = UInt8(truncatingIfNeeded: value >> 24)
    case APICRegister.endOfInterrupt: return endOfInterrupt()
    case APICRegister.logicalDestination: logicalID = UInt8(truncatingIfNeeded: value >> 24)
    case APICRegister.destinationFormat: destinationFormat = UInt8(truncatingIfNeeded: value >> 28)
    case APICRegister.errorStatus: latchErrors()
    case APICRegister.commandLow:
      icr = icr & ~0xFFFF_FFFF | UInt64(value & Self.commandMask)
      return sendCommand()
    case APICRegister.commandHigh:
      icr = icr & 0xFFFF_FFFF | UInt64(value & 0xFF00_0000) << 32
    case let register:
      if writableMask(register) != nil {
        setRegister(register, value, at: time)
      } else if self.register(register, at: time) == nil {
        logError(APICError.illegalRegister)
      }
    }
    return .none
  }

  // MARK: - Shared by both modes

  /// Bits of the low command word that can be written: vector, mode, logical, level, trigger, shorthand.
  static let commandMask: UInt32 = 0x000C_CFFF

  /// Version register: version 0x14, highest local vector, EOI broadcast suppression (SDM 11.4.8).
  var version: UInt32 {
    0x14 | (features.contains(.cmci) ? 6 : 5) << 16
      | (features.contains(.eoiBroadcastSuppression) ? 1 << 24 : 0)
  }

  /// x2APIC logical ID: cluster in the upper, one bit in the lower half (SDM 11.12.10.2).
  var extendedLogicalID: UInt32 { (initialID >> 4) << 16 | 1 << (initialID & 0xF) }

  /// Value of a register, or nil when there is none of that number (in xAPIC mode).
  func register(_ register: UInt32, at time: APICTime) -> UInt32? {
    switch register {
    case APICRegister.id: mode == .x2APIC ? initialID : UInt32(xAPICID) << 24
    case APICRegister.version: version
    case APICRegister.taskPriority: UInt32(tpr)
    case APICRegister.arbitrationPriority: UInt32(apr)
    case APICRegister.processorPriority: UInt32(ppr)
    case APICRegister.endOfInterrupt, APICRegister.remoteRead: 0
    case APICRegister.logicalDestination:
      mode == .x2APIC ? extendedLogicalID : UInt32(logicalID) << 24
    case APICRegister.destinationFormat: UInt32(destinationFormat) << 28 | 0x0FFF_FFFF
    case APICRegister.spuriousVector: svr.rawValue
    case APICRegister.inService..<APICRegister.triggerMode: isr[register: Int(register & 7)]
    case APICRegister.triggerMode..<APICRegister.requested: tmr[register: Int(register & 7)]
    case APICRegister.requested..<APICRegister.errorStatus: irr[register: Int(register & 7)]
    case APICRegister.errorStatus: UInt32(errorStatus)
    case APICRegister.lvtCMCI: features.contains(.cmci) ? lvt.cmci.rawValue : nil
    case APICRegister.commandLow: UInt32(truncatingIfNeeded: icr)
    case APICRegister.commandHigh: UInt32(truncatingIfNeeded: icr >> 32)
    case APICRegister.lvtTimer: lvt.timer.rawValue
    case APICRegister.lvtThermal: lvt.thermal.rawValue
    case APICRegister.lvtPerformance: lvt.performance.rawValue
    case APICRegister.lvtLINT0: lvt.lint0.rawValue
    case APICRegister.lvtLINT1: lvt.lint1.rawValue
    case APICRegister.lvtError: lvt.error.rawValue
    case APICRegister.initialCount: timer.initialCount
    case APICRegister.currentCount: timer.currentCount(at: time.nanoseconds, lvt.timer.timerMode)
    case APICRegister.divide: timer.divideConfiguration
    default: nil
    }
  }

  /// Writable bits of the registers whose writes have the same meaning in both modes; nil for the others.
  func writableMask(_ register: UInt32) -> UInt32? {
    switch register {
    case APICRegister.taskPriority: 0xFF
    case APICRegister.spuriousVector:
      features.contains(.eoiBroadcastSuppression) ? 0x13FF : 0x03FF
    case APICRegister.lvtTimer: features.contains(.tscDeadline) ? 0x0007_00FF : 0x0003_00FF
    case APICRegister.lvtCMCI: features.contains(.cmci) ? 0x0001_07FF : nil
    case APICRegister.lvtThermal, APICRegister.lvtPerformance: 0x0001_07FF
    case APICRegister.lvtLINT0, APICRegister.lvtLINT1: 0x0001_A7FF
    case APICRegister.lvtError: 0x0001_00FF
    case APICRegister.initialCount: 0xFFFF_FFFF
    case APICRegister.divide: 0xB
    default: nil
    }
  }

  /// Writes one of the registers that `writableMask` knows; other bits are dropped.
  mutating func setRegister(_ register: UInt32, _ value: UInt32, at time: APICTime) {
    guard let mask = writableMask(register) else { return }
    let value = value & mask
    // While the APIC is disabled by software, mask bits cannot be cleared (SDM 11.4.7.2).
    let entry = LocalVector(rawValue: svr.isEnabled ? value : value | 1 << 16)
    switch register {
    case APICRegister.taskPriority: tpr = UInt8(truncatingIfNeeded: value)
    case APICRegister.spuriousVector:
      svr = SpuriousVector(rawValue: value)
      if !svr.isEnabled { lvt.maskAll() }
    case APICRegister.lvtTimer: setTimerVector(entry, at: time)
    case APICRegister.lvtCMCI: lvt.cmci = entry
    case APICRegister.lvtThermal: lvt.thermal = entry
    case APICRegister.lvtPerformance: lvt.performance = entry
    case APICRegister.lvtLINT0: setPinVector(\.lint0, entry, level: lint0)
    case APICRegister.lvtLINT1: setPinVector(\.lint1, entry, level: lint1)
    case APICRegister.lvtError: lvt.error = entry
    case APICRegister.initialCount: setInitialCount(value, at: time)
    case APICRegister.divide: setDivide(value, at: time)
    default: break
    }
  }

  // MARK: - Errors (SDM 11.5.3)

  /// Records errors and raises the error interrupt, once until the status register is written.
  mutating func logError(_ bits: UInt8) {
    pendingErrors |= bits
    guard errorInterruptArmed, !lvt.error.isMasked else { return }
    errorInterruptArmed = false
    acceptVector(lvt.error.vector, .edge)
  }

  /// A write to the error status register: what happened since the last one becomes readable.
  mutating func latchErrors() {
    errorStatus = pendingErrors
    pendingErrors = 0
    errorInterruptArmed = true
  }
}
