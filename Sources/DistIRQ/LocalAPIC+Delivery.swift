// Messages in and out of a local APIC (Intel SDM vol. 3A, 11.6 and 11.8).

extension LocalAPIC {
  /// Sources of local interrupts besides timer and pins.
  package enum LocalSource: Sendable {
    case thermal, performance, cmci
  }

  /// The answer to an interrupt acknowledge cycle.
  package enum Acknowledgement: Equatable, Sendable {
    /// A vector of this APIC, now in service; or the spurious vector, which is not.
    case vector(UInt8)
    /// The 8259 pair has the vector.
    case external
    /// The APIC is disabled and no pin is active.
    case none
  }

  // MARK: - Messages in

  /// Takes a message whose destination has been found to be this APIC. Returns false when it is refused.
  @discardableResult
  package mutating func accept(_ message: InterruptMessage) -> Bool {
    guard mode != .disabled, message.asserted else { return false }
    switch message.deliveryMode {
    case .fixed, .lowestPriority: return acceptVector(message.vector, message.trigger)
    case .smi: events.insert(.smi)
    case .nmi: events.insert(.nmi)
    case .initialize: acceptInitialize()
    case .startUp:
      guard isWaitingForStartUp else { return false }
      isWaitingForStartUp = false
      startUpVector = message.vector
      events.insert(.startUp)
    case .external: externalMessage = true
    case .reserved: return false
    }
    return true
  }

  /// Sets a vector in the IRR; a second one of the same vector before it is in service is merged.
  @discardableResult
  mutating func acceptVector(_ vector: UInt8, _ trigger: TriggerMode) -> Bool {
    guard svr.isEnabled, mode != .disabled, !events.contains(.initialize) else { return false }
    guard vector >= 16 else {
      logError(APICError.receiveIllegalVector)
      return false
    }
    irr.insert(vector)
    if trigger == .level { tmr.insert(vector) } else { tmr.remove(vector) }
    return true
  }

  /// An event of a local source.
  package mutating func raise(_ source: LocalSource) {
    switch source {
    case .thermal: deliverLocal(lvt.thermal)
    case .performance:
      deliverLocal(lvt.performance)
      // A counter overflow masks the entry (SDM vol. 3B, 20.6.3.5.8).
      lvt.performance.isMasked = true
    case .cmci: if features.contains(.cmci) { deliverLocal(lvt.cmci) }
    }
  }

  /// INIT drops what the core had not yet taken; the registers follow when the core takes it.
  private mutating func acceptInitialize() {
    events = .initialize
    isWaitingForStartUp = !base.isBootstrap
  }

  private mutating func deliverLocal(_ entry: LocalVector) {
    guard !entry.isMasked else { return }
    switch entry.deliveryMode {
    case .fixed: acceptVector(entry.vector, .edge)
    case .smi: events.insert(.smi)
    case .nmi: events.insert(.nmi)
    case .initialize: acceptInitialize()
    case .external: externalMessage = true
    case .lowestPriority, .startUp, .reserved: break
    }
  }

  // MARK: - Pins

  /// Level of LINT0: on the boot processor, the output of the 8259 pair.
  package mutating func setLINT0(_ level: Bool) {
    let rising = level && !lint0
    lint0 = level
    if mode != .disabled { pinChanged(\.lint0, level: level, rising: rising) }
  }

  /// Level of LINT1: the NMI wire. Without an APIC it is the core's NMI pin.
  package mutating func setLINT1(_ level: Bool) {
    let rising = level && !lint1
    lint1 = level
    if mode != .disabled {
      pinChanged(\.lint1, level: level, rising: rising)
    } else if rising {
      events.insert(.nmi)
    }
  }

  /// A new entry for a pin keeps its status bit; a pin that is high and level-triggered delivers at once.
  mutating func setPinVector(
    _ pin: WritableKeyPath<LocalVectorTable, LocalVector>, _ entry: LocalVector, level: Bool
  ) {
    let pending = lvt[keyPath: pin].remoteIRR && entry.trigger == .level
    lvt[keyPath: pin] = entry
    lvt[keyPath: pin].remoteIRR = pending
    pinChanged(pin, level: level, rising: false)
  }

  private mutating func pinChanged(
    _ pin: WritableKeyPath<LocalVectorTable, LocalVector>, level: Bool, rising: Bool
  ) {
    let entry = lvt[keyPath: pin]
    guard !entry.isMasked else { return }
    switch entry.deliveryMode {
    case .fixed where entry.trigger == .level:
      if level && !entry.remoteIRR && acceptVector(entry.vector, .level) {
        lvt[keyPath: pin].remoteIRR = true
      }
    case .external: break  // followed by level, see externalInterruptPending
    default: if rising { deliverLocal(entry) }
    }
  }

  // MARK: - The core's side

  /// The answer to an interrupt acknowledge cycle: the 8259 pair first, since it is not subject to
  /// priorities, then the highest deliverable vector, which moves from IRR to ISR.
  package mutating func acknowledge() -> Acknowledgement {
    if externalInterruptPending {
      externalMessage = false
      return .external
    }
    guard mode != .disabled else { return .none }
    guard let vector = deliverableVector else { return .vector(svr.vector) }
    irr.remove(vector)
    isr.insert(vector)
    return .vector(vector)
  }

  /// Takes all events. With `.initialize` among them the registers are reset; a start-up message that came
  /// after the INIT is in the same set.
  package mutating func takeEvents() -> Events {
    let taken = events
    events = []
    if taken.contains(.initialize) { resetRegisters() }
    return taken
  }

  /// A write to the EOI register (SDM 11.8.5).
  mutating func endOfInterrupt() -> LocalAPICOutcome {
    guard let vector = isr.highest else { return .none }
    isr.remove(vector)
    guard tmr.contains(vector) else { return .none }
    endPin(\.lint0, vector, level: lint0)
    endPin(\.lint1, vector, level: lint1)
    return svr.suppressesEOIBroadcast ? .none : .endOfInterrupt(vector)
  }

  private mutating func endPin(
    _ pin: WritableKeyPath<LocalVectorTable, LocalVector>, _ vector: UInt8, level: Bool
  ) {
    guard lvt[keyPath: pin].remoteIRR, lvt[keyPath: pin].vector == vector else { return }
    lvt[keyPath: pin].remoteIRR = false
    pinChanged(pin, level: level, rising: false)
  }

  // MARK: - Messages out

  /// Sends what the interrupt command register says (SDM 11.6.1). Level de-assert messages are not sent:
  /// processors since Pentium 4 ignore them. IPIs are always edge-triggered.
  mutating func sendCommand() -> LocalAPICOutcome {
    let low = UInt32(truncatingIfNeeded: icr)
    let vector = UInt8(truncatingIfNeeded: low)
    let delivery = DeliveryMode(rawValue: UInt8(truncatingIfNeeded: low >> 8 & 7)) ?? .reserved
    switch delivery {
    case .fixed, .lowestPriority:
      guard vector >= 16 else {
        logError(APICError.sendIllegalVector)
        return .none
      }
    case .initialize:
      let isDeassert = low & 1 << 15 != 0 && low & 1 << 14 == 0
      if isDeassert { return .none }
    case .smi, .nmi, .startUp: break
    case .reserved, .external: return .none
    }
    let wide = mode == .x2APIC
    let message = InterruptMessage(
      destination: UInt32(truncatingIfNeeded: icr >> (wide ? 32 : 56)),
      destinationMode: low & 1 << 11 != 0 ? .logical : .physical,
      width: wide ? .x2APIC : .xAPIC, deliveryMode: delivery, vector: vector)
    let shorthand = DestinationShorthand(rawValue: UInt8(truncatingIfNeeded: low >> 18 & 3))
    return .ipi(message, shorthand ?? .none)
  }
}
