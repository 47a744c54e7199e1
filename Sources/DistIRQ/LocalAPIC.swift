// Local APIC of one vCPU (Intel SDM vol. 3A, chapter 11): a value without locks, clock or callbacks.
// Registers are in LocalAPIC+Registers.swift (xAPIC page) and LocalAPIC+X2APIC.swift (MSRs), messages in
// LocalAPIC+Delivery.swift, the timer in LocalAPIC+Timer.swift.
// Left out: remote read (reserved since Pentium 4), focus processor, arbitration on a serial bus.

/// What the owner of a local APIC must do after a register write.
package enum LocalAPICOutcome: Equatable, Sendable, BitwiseCopyable {
  /// Nothing.
  case none
  /// Route an interprocessor interrupt; the shorthand is relative to this APIC.
  case ipi(InterruptMessage, DestinationShorthand)
  /// Broadcast the end of a level-triggered interrupt to the I/O APIC.
  case endOfInterrupt(UInt8)
}

/// Time as a local APIC sees it: both counters at the same moment.
package struct APICTime: Equatable, Sendable, BitwiseCopyable {
  /// Guest time in nanoseconds; the timer counts at 1 GHz before its divider.
  package var nanoseconds: UInt64
  /// The vCPU's time stamp counter.
  package var tsc: UInt64

  /// A moment.
  package init(nanoseconds: UInt64, tsc: UInt64 = 0) {
    self.nanoseconds = nanoseconds
    self.tsc = tsc
  }
}

/// Pure model of a local APIC.
package struct LocalAPIC: Equatable, Sendable {
  /// What the vCPU's CPUID and capability MSRs promise.
  package struct Features: OptionSet, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }
    /// CPUID.01H:ECX bit 21.
    package static let x2APIC = Features(rawValue: 1)
    /// CPUID.01H:ECX bit 24.
    package static let tscDeadline = Features(rawValue: 2)
    /// IA32_MCG_CAP bit 10: a seventh local vector for corrected machine checks.
    package static let cmci = Features(rawValue: 4)
    /// Version register bit 24: bit 12 of the spurious vector register keeps EOIs local.
    package static let eoiBroadcastSuppression = Features(rawValue: 8)
  }

  /// What waits for the core besides interrupt vectors.
  package struct Events: OptionSet, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }
    /// A non-maskable interrupt.
    package static let nmi = Events(rawValue: 1)
    /// A system management interrupt.
    package static let smi = Events(rawValue: 2)
    /// INIT: reset the core; a core that is not the bootstrap processor then waits for start-up.
    package static let initialize = Events(rawValue: 4)
    /// Start-up: leave the wait state at page `startUpVector`. To be handled after `initialize`.
    package static let startUp = Events(rawValue: 8)
  }

  /// The APIC ID given by the board; the x2APIC ID. Survives every reset.
  package let initialID: UInt32
  /// Fixed at construction.
  package let features: Features
  /// MAXPHYADDR of the vCPU, for the reserved bits of IA32_APIC_BASE.
  package let physicalAddressBits: UInt8

  /// IA32_APIC_BASE.
  package internal(set) var base: APICBase

  /// xAPIC ID, 8 bits, writable by the guest in xAPIC mode.
  var xAPICID: UInt8
  /// Task priority.
  package internal(set) var tpr: UInt8 = 0
  /// Logical destination, bits 31-24 of the xAPIC register.
  var logicalID: UInt8 = 0
  /// Destination format, bits 31-28 of the register: 0xF flat, 0 cluster.
  var destinationFormat: UInt8 = 0xF
  /// Spurious interrupt vector register.
  package internal(set) var svr: SpuriousVector = .reset
  /// In service.
  package internal(set) var isr = VectorSet()
  /// Trigger mode of what is in `irr` or `isr`.
  package internal(set) var tmr = VectorSet()
  /// Requested.
  package internal(set) var irr = VectorSet()

  /// Error status as the guest reads it.
  package internal(set) var errorStatus: UInt8 = 0
  /// Errors since the guest last wrote the error status register.
  var pendingErrors: UInt8 = 0
  /// False from the first error interrupt until the error status register is written.
  var errorInterruptArmed = true

  /// Interrupt command register: both halves, delivery status always idle.
  package internal(set) var icr: UInt64 = 0

  /// Local vector table.
  package internal(set) var lvt = LocalVectorTable()
  /// Count-down and TSC-deadline timer.
  package internal(set) var timer = APICTimer()

  /// Levels of the two local interrupt pins.
  package internal(set) var lint0 = false
  package internal(set) var lint1 = false
  /// An ExtINT message was accepted and its acknowledge cycle not yet run.
  var externalMessage = false

  /// NMI, SMI, INIT and start-up that the core has not taken yet.
  package internal(set) var events: Events = []
  /// Page of the start-up message in `events`.
  package internal(set) var startUpVector: UInt8 = 0
  /// The core is, or will be after its INIT, waiting for a start-up message.
  package internal(set) var isWaitingForStartUp: Bool

  /// A local APIC as it is after power-on. `physicalAddressBits` is the vCPU's MAXPHYADDR.
  package init(
    initialID: UInt32, isBootstrap: Bool, features: Features = [.x2APIC, .tscDeadline],
    physicalAddressBits: UInt8 = 40
  ) {
    self.initialID = initialID
    self.features = features
    self.physicalAddressBits = physicalAddressBits
    base = APICBase(isBootstrap: isBootstrap)
    xAPICID = UInt8(truncatingIfNeeded: initialID)
    isWaitingForStartUp = !isBootstrap
    lvt.reset(isBootstrap: isBootstrap)
  }

  // MARK: - Reset

  /// Power-on or hardware reset: everything, also mode and ID (SDM 11.12.5.1). The pins keep their level.
  package mutating func reset() {
    let pins = (lint0, lint1)
    self = LocalAPIC(
      initialID: initialID, isBootstrap: base.isBootstrap, features: features,
      physicalAddressBits: physicalAddressBits)
    (lint0, lint1) = pins
  }

  /// The register part of an INIT: mode, base and ID stay, the rest is as after reset (SDM 11.4.7.3).
  mutating func resetRegisters() {
    tpr = 0
    logicalID = 0
    destinationFormat = 0xF
    svr = .reset
    isr = VectorSet()
    tmr = VectorSet()
    irr = VectorSet()
    errorStatus = 0
    pendingErrors = 0
    errorInterruptArmed = true
    icr = 0
    lvt.reset(isBootstrap: base.isBootstrap)
    timer = APICTimer()
    externalMessage = false
  }

  // MARK: - Identity

  /// Current mode.
  package var mode: APICMode { base.mode }

  /// The APIC ID that messages are compared with in the current mode.
  package var id: UInt32 { mode == .x2APIC ? initialID : UInt32(xAPICID) }

  /// What the rest of the machine must know to route messages here.
  package var route: APICRoute {
    APICRoute(
      id: id, logicalID: logicalID, destinationFormat: destinationFormat, mode: mode,
      softwareEnabled: svr.isEnabled)
  }

  // MARK: - Priority

  /// Processor priority (SDM 11.8.3.1).
  package var ppr: UInt8 {
    let service = (isr.highest ?? 0) & 0xF0
    return tpr & 0xF0 >= service ? tpr : service
  }

  /// Arbitration priority as the P6 family computed it (SDM 11.6.2.4); nothing here depends on it.
  var apr: UInt8 {
    let requested = (irr.highest ?? 0) & 0xF0
    let service = (isr.highest ?? 0) & 0xF0
    if tpr & 0xF0 >= requested && tpr & 0xF0 > service { return tpr }
    return max(tpr & 0xF0, service, requested)
  }

  /// CR8: the class of the task priority (SDM 11.8.6).
  package var cr8: UInt8 {
    get { tpr >> 4 }
    set { tpr = newValue << 4 }
  }

  /// The vector that the core would be given now if it accepted interrupts, from the IRR.
  package var deliverableVector: UInt8? {
    guard svr.isEnabled, let vector = irr.highest, vector & 0xF0 > ppr & 0xF0 else { return nil }
    return vector
  }

  /// True when the core's INTR is asked for on behalf of the 8259 pair.
  package var externalInterruptPending: Bool {
    if externalMessage { return true }
    if mode == .disabled { return lint0 }
    return lint0 && lvt.lint0.isOpen(for: .external) || lint1 && lvt.lint1.isOpen(for: .external)
  }
}

/// The spurious interrupt vector register (SDM 11.9).
package struct SpuriousVector: Equatable, Sendable, BitwiseCopyable {
  /// The register.
  package var rawValue: UInt32

  /// A register with this content.
  package init(rawValue: UInt32) { self.rawValue = rawValue }

  /// Value after reset: disabled, vector 0xFF.
  package static let reset = SpuriousVector(rawValue: 0xFF)

  /// Bits 7-0.
  package var vector: UInt8 { UInt8(truncatingIfNeeded: rawValue) }
  /// Bit 8.
  package var isEnabled: Bool { rawValue & 1 << 8 != 0 }
  /// Bit 12: an EOI of a level-triggered interrupt is not broadcast.
  package var suppressesEOIBroadcast: Bool { rawValue & 1 << 12 != 0 }
}
