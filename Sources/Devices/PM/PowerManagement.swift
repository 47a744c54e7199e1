/// The ACPI fixed hardware of the PIIX4 (ACPI 6.4, 4.8.3; Intel 82371AB, 3.4 and 7.1): PM1 event and control, timer, general-purpose
/// events. No clock of its own: times come in as virtual nanoseconds.
package struct PowerManagement: Equatable, Sendable {
  /// Ticks of the PM timer in a second.
  package static let timerFrequency: Int64 = 3_579_545

  /// Bits of the PM1 status and enable registers.
  package enum Event {
    package static let timer: UInt16 = 1 << 0
    package static let globalLock: UInt16 = 1 << 5
    package static let powerButton: UInt16 = 1 << 8
    package static let sleepButton: UInt16 = 1 << 9
    package static let rtc: UInt16 = 1 << 10
    package static let wake: UInt16 = 1 << 15
  }

  /// What a write to the control register asks of the machine.
  package enum Sleep: Equatable, Sendable { case suspendToRAM, suspendToDisk, softOff }

  /// SLP_TYP values as the DSDT publishes them.
  package static let typeS5: UInt8 = 0
  package static let typeS3: UInt8 = 1
  package static let defaultTypeS4: UInt8 = 2

  package private(set) var status: UInt16 = 0
  package private(set) var enable: UInt16 = 0
  package private(set) var control: UInt16 = 0
  package private(set) var gpeStatus: UInt16 = 0
  package private(set) var gpeEnable: UInt16 = 0
  /// When the timer's top bit changes next, in virtual nanoseconds.
  private var overflowTime: Int64 = 0

  private let typeS4: UInt8

  package init(typeS4: UInt8 = defaultTypeS4) {
    self.typeS4 = typeS4
    overflowTime = PowerManagement.nextOverflow(after: 0)
  }

  /// The 24-bit timer at a virtual time.
  package static func timerValue(at now: Int64) -> UInt32 {
    UInt32(truncatingIfNeeded: ticks(at: now)) & 0x00FF_FFFF
  }

  private static func ticks(at now: Int64) -> Int64 {
    let (high, low) = max(now, 0).multipliedFullWidth(by: timerFrequency)
    guard high >= 0, high < 1_000_000_000 else { return 0 }
    return Int64(1_000_000_000).dividingFullWidth((high, low)).quotient
  }

  private static func nextOverflow(after now: Int64) -> Int64 {
    let half: Int64 = 0x0080_0000
    let target = (ticks(at: now) / half &+ 1) &* half
    let (high, low) = target.multipliedFullWidth(by: 1_000_000_000)
    guard high >= 0, high < timerFrequency else { return Int64.max }
    return timerFrequency.dividingFullWidth((high, low)).quotient &+ 1
  }

  /// When the timer must be looked at next because software waits for its interrupt; nil when it does not.
  package var timerDeadline: Int64? {
    enable & Event.timer != 0 && status & Event.timer == 0 ? overflowTime : nil
  }

  /// Sets the timer's status bit if its top bit has changed.
  package mutating func updateTimer(at now: Int64) {
    if now >= overflowTime { status |= Event.timer }
  }

  /// The level of the system control interrupt.
  package var interruptAsserted: Bool {
    let events = Event.timer | Event.globalLock | Event.powerButton | Event.rtc
    return status & enable & events != 0 || gpeStatus & gpeEnable != 0
  }

  // MARK: - Guest's side

  /// A word of the PM1 event and control block, or half of the timer, at an even offset.
  package mutating func readWord(_ offset: Int, at now: Int64) -> UInt16 {
    switch offset & ~1 {
    case 0:
      updateTimer(at: now)
      return status
    case 2: return enable
    case 4: return control
    case 8: return UInt16(truncatingIfNeeded: PowerManagement.timerValue(at: now))
    case 10: return UInt16(truncatingIfNeeded: PowerManagement.timerValue(at: now) >> 16)
    default: return 0
    }
  }

  /// Writes a word; answers a sleep request.
  package mutating func writeWord(_ offset: Int, _ value: UInt16, at now: Int64) -> Sleep? {
    switch offset & ~1 {
    case 0:
      updateTimer(at: now)
      if value & Event.timer != 0, status & Event.timer != 0 {
        overflowTime = PowerManagement.nextOverflow(after: now)
      }
      status &= ~value
    case 2:
      // A change of the top bit long ago is no event of now.
      if value & ~enable & Event.timer != 0, status & Event.timer == 0 {
        overflowTime = PowerManagement.nextOverflow(after: now)
      }
      enable = value
    case 4:
      control = value & ~0x2000
      guard value & 0x2000 != 0 else { return nil }
      switch UInt8(value >> 10 & 7) {
      case PowerManagement.typeS5: return .softOff
      case PowerManagement.typeS3: return .suspendToRAM
      case typeS4: return .suspendToDisk
      default: return nil
      }
    default: break
    }
    return nil
  }

  /// ACPI mode on or off, as the SMI command port asks.
  package mutating func setACPI(_ enabled: Bool) {
    control = control & ~1 | (enabled ? 1 : 0)
  }

  package var isACPIEnabled: Bool { control & 1 != 0 }

  /// GPE0: status at offsets 0 and 1, enable at 2 and 3.
  package func readGPE(_ offset: Int) -> UInt8 {
    let register = offset < 2 ? gpeStatus : gpeEnable
    return UInt8(truncatingIfNeeded: register >> (UInt16(offset & 1) * 8))
  }

  package mutating func writeGPE(_ offset: Int, _ value: UInt8) {
    let shift = UInt16(offset & 1) * 8
    if offset < 2 {
      gpeStatus &= ~(UInt16(value) << shift)
    } else {
      gpeEnable = gpeEnable & ~(0xFF << shift) | UInt16(value) << shift
    }
  }

  // MARK: - Machine's side

  /// Sets bits of the event status register.
  package mutating func signal(_ events: UInt16) { status |= events }

  /// Sets bits of the general-purpose event status.
  package mutating func signalGPE(_ bits: UInt16) { gpeStatus |= bits }
}
