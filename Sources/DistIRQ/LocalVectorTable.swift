// Local vector table (Intel SDM vol. 3A, 11.5.1, figure 11-8).

/// Timer modes of bits 18-17 of the timer's local vector (SDM 11.5.4).
package enum APICTimerMode: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// Counts down once.
  case oneShot = 0
  /// Reloads at zero.
  case periodic = 1
  /// Fires when the time stamp counter passes IA32_TSC_DEADLINE.
  case tscDeadline = 2
  /// Never fires.
  case reserved = 3
}

/// One entry of the local vector table.
package struct LocalVector: Equatable, Sendable, BitwiseCopyable {
  /// The register.
  package var rawValue: UInt32

  /// An entry with this content.
  package init(rawValue: UInt32) { self.rawValue = rawValue }

  /// Masked, everything else zero.
  package static let masked = LocalVector(rawValue: 1 << 16)

  /// Bits 7-0.
  package var vector: UInt8 { UInt8(truncatingIfNeeded: rawValue) }
  /// Bits 10-8.
  package var deliveryMode: DeliveryMode {
    DeliveryMode(rawValue: UInt8(truncatingIfNeeded: rawValue >> 8 & 7)) ?? .reserved
  }
  /// Bit 14, LINT pins only: a level-triggered interrupt was accepted and not yet ended.
  package var remoteIRR: Bool {
    get { rawValue & 1 << 14 != 0 }
    set { rawValue = newValue ? rawValue | 1 << 14 : rawValue & ~(1 << 14) }
  }
  /// Bit 15, LINT pins only.
  package var trigger: TriggerMode { rawValue & 1 << 15 != 0 ? .level : .edge }
  /// Bit 16.
  package var isMasked: Bool {
    get { rawValue & 1 << 16 != 0 }
    set { rawValue = newValue ? rawValue | 1 << 16 : rawValue & ~(1 << 16) }
  }
  /// Bits 18-17, timer only.
  package var timerMode: APICTimerMode {
    APICTimerMode(rawValue: UInt8(truncatingIfNeeded: rawValue >> 17 & 3)) ?? .reserved
  }

  /// Unmasked and of this delivery mode.
  func isOpen(for mode: DeliveryMode) -> Bool { !isMasked && deliveryMode == mode }
}

/// The seven entries.
package struct LocalVectorTable: Equatable, Sendable, BitwiseCopyable {
  package var cmci = LocalVector.masked
  package var timer = LocalVector.masked
  package var thermal = LocalVector.masked
  package var performance = LocalVector.masked
  package var lint0 = LocalVector.masked
  package var lint1 = LocalVector.masked
  package var error = LocalVector.masked

  /// All masked, except that the boot processor's LINT0 is open to the 8259 pair: without firmware that
  /// programs it, a PC expects this virtual wire to exist (MultiProcessor Specification 1.4, 3.6.2.2).
  mutating func reset(isBootstrap: Bool) {
    self = LocalVectorTable()
    if isBootstrap {
      lint0 = LocalVector(rawValue: UInt32(DeliveryMode.external.rawValue) << 8)
    }
  }

  /// Sets every mask bit: the effect of disabling the APIC by software (SDM 11.4.7.2).
  mutating func maskAll() {
    cmci.isMasked = true
    timer.isMasked = true
    thermal.isMasked = true
    performance.isMasked = true
    lint0.isMasked = true
    lint1.isMasked = true
    error.isMasked = true
  }
}
