// IA32_APIC_BASE, MSR 0x1B: where the local APIC is and in which mode (Intel SDM vol. 3A, 11.4.4 and 11.12.5).

/// Mode of a local APIC.
package enum APICMode: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// Globally disabled: the core behaves as one without a local APIC.
  case disabled = 0
  /// Registers are a page of memory.
  case xAPIC = 2
  /// Registers are MSRs.
  case x2APIC = 3
}

/// The value of IA32_APIC_BASE.
package struct APICBase: Equatable, Sendable, BitwiseCopyable {
  /// The register as RDMSR returns it.
  package private(set) var rawValue: UInt64

  /// Address of the register page after reset.
  package static let defaultAddress: UInt64 = 0xFEE0_0000

  /// The value after reset: enabled at the default address, xAPIC mode.
  package init(isBootstrap: Bool) {
    rawValue = Self.defaultAddress | 1 << 11 | (isBootstrap ? 1 << 8 : 0)
  }

  /// A value that is known to be valid: of a saved machine.
  package init(rawValue: UInt64) { self.rawValue = rawValue }

  /// Bit 8: this processor was chosen to boot.
  package var isBootstrap: Bool { rawValue & 1 << 8 != 0 }

  /// Guest-physical address of the register page.
  package var pageAddress: UInt64 { rawValue & ~0xFFF }

  /// Bits 10 and 11 (EXTD and EN).
  package var mode: APICMode {
    switch rawValue >> 10 & 3 {
    case 2: .xAPIC
    case 3: .x2APIC
    default: .disabled
    }
  }

  /// The value after WRMSR of `value`, or nil when that is a general protection fault: a reserved bit, EXTD
  /// without EN, from x2APIC to xAPIC mode, or from disabled to x2APIC mode (SDM table 11-5, figure 11-27).
  package func written(
    _ value: UInt64, supportsX2APIC: Bool, physicalAddressBits: UInt8
  ) -> APICBase? {
    let addressBits = UInt64(physicalAddressBits > 52 ? 52 : physicalAddressBits)
    var writable = (UInt64(1) << addressBits &- 1) & ~0xFFF | 1 << 8 | 1 << 11
    if supportsX2APIC { writable |= 1 << 10 }
    guard value & ~writable == 0 else { return nil }
    let enabled = value & 1 << 11 != 0
    let extended = value & 1 << 10 != 0
    if extended && !enabled { return nil }
    switch mode {
    case .x2APIC where enabled && !extended: return nil
    case .disabled where extended: return nil
    default: return APICBase(rawValue: value)
    }
  }
}
