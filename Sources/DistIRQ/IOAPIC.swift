// I/O APIC: Intel 82093AA with the EOI register of its successors (version 0x20; ICH9 datasheet, 13.5).
// A value without locks: what changes an input or a register answers which pins have a message to send.
// Pin polarity is stored and otherwise ignored: lines are already logical levels here.

/// One entry of the redirection table (82093AA, 3.2.4).
package struct RedirectionEntry: Equatable, Sendable, BitwiseCopyable {
  /// The register, 64 bits.
  package var rawValue: UInt64

  /// An entry with this content.
  package init(rawValue: UInt64) { self.rawValue = rawValue }

  /// Masked, everything else zero.
  package static let reset = RedirectionEntry(rawValue: 1 << 16)

  /// What a write may change: not delivery status (12) and remote IRR (14).
  static let writable: UInt64 = 0xFF00_0000_0001_AFFF

  /// Bits 7-0.
  package var vector: UInt8 { UInt8(truncatingIfNeeded: rawValue) }
  /// Bits 10-8.
  package var deliveryMode: DeliveryMode {
    DeliveryMode(rawValue: UInt8(truncatingIfNeeded: rawValue >> 8 & 7)) ?? .reserved
  }
  /// Bit 11.
  package var destinationMode: DestinationMode { rawValue & 1 << 11 != 0 ? .logical : .physical }
  /// Bit 13: the pin is active low.
  package var isActiveLow: Bool { rawValue & 1 << 13 != 0 }
  /// Bit 14: a level-triggered message was sent and its end not yet seen.
  package var remoteIRR: Bool {
    get { rawValue & 1 << 14 != 0 }
    set { rawValue = newValue ? rawValue | 1 << 14 : rawValue & ~(1 << 14) }
  }
  /// Bit 15 as written.
  package var trigger: TriggerMode { rawValue & 1 << 15 != 0 ? .level : .edge }
  /// Bit 16.
  package var isMasked: Bool { rawValue & 1 << 16 != 0 }
  /// Bits 63-56.
  package var destination: UInt8 { UInt8(truncatingIfNeeded: rawValue >> 56) }

  /// Level handling applies: NMI, SMI, INIT and ExtINT are edges however they are programmed.
  var isLevel: Bool {
    trigger == .level && (deliveryMode == .fixed || deliveryMode == .lowestPriority)
  }

  /// The message that this entry sends.
  package var message: InterruptMessage {
    InterruptMessage(
      destination: UInt32(destination), destinationMode: destinationMode,
      deliveryMode: deliveryMode, vector: vector, trigger: isLevel ? .level : .edge)
  }
}

/// Pins of an I/O APIC, one bit each.
package struct PinSet: OptionSet, Sendable {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }

  /// Calls `body` with each pin, lowest first.
  package func forEach(_ body: (Int) -> Void) {
    var rest = rawValue
    while rest != 0 {
      body(rest.trailingZeroBitCount)
      rest &= rest &- 1
    }
  }
}

/// Pure model of an I/O APIC with 24 pins.
package struct IOAPIC: Equatable, Sendable {
  /// Number of pins.
  package static let pinCount = 24
  /// Version register: version 0x20, highest entry in bits 23-16.
  package static let version: UInt32 = 0x20 | UInt32(pinCount - 1) << 16

  /// Identification register, 4 bits.
  package private(set) var id: UInt8 = 0
  /// Register that the window shows.
  package private(set) var select: UInt8 = 0
  /// Redirection table.
  package private(set) var entries = [RedirectionEntry](repeating: .reset, count: pinCount)
  /// Present levels of the pins.
  package private(set) var lines: PinSet = []

  /// An I/O APIC after reset.
  package init() {}

  /// Back to the state after power-on; the pins keep their levels.
  package mutating func reset() {
    let lines = self.lines
    self = IOAPIC()
    self.lines = lines
  }

  /// Level-triggered pins whose message was sent and not ended.
  package var remoteIRR: PinSet {
    var pins: UInt32 = 0
    for pin in entries.indices where entries[pin].remoteIRR { pins |= 1 << UInt32(pin) }
    return PinSet(rawValue: pins)
  }

  // MARK: - Inputs

  /// Sets the level of `pin`. Returns the pins that send now: `pin` or none. Edges on a masked pin are lost
  /// (82093AA, 3.2.4, interrupt mask).
  package mutating func set(pin: Int, level: Bool) -> PinSet {
    guard pin >= 0, pin < Self.pinCount else { return [] }
    let bit = PinSet(rawValue: 1 << UInt32(pin))
    let rising = level && !lines.contains(bit)
    if level { lines.insert(bit) } else { lines.remove(bit) }
    if entries[pin].isLevel { return sample(pin) }
    return rising && !entries[pin].isMasked ? bit : []
  }

  /// The end of the level-triggered interrupt `vector`: clears remote IRR of the pins that sent it and samples
  /// them again. Returns the pins that send now.
  package mutating func endOfInterrupt(vector: UInt8) -> PinSet {
    var pins: PinSet = []
    for pin in entries.indices where entries[pin].remoteIRR && entries[pin].vector == vector {
      entries[pin].remoteIRR = false
      pins.formUnion(sample(pin))
    }
    return pins
  }

  /// The message of a pin that is to send.
  package func message(of pin: Int) -> InterruptMessage { entries[pin].message }

  // MARK: - Registers (82093AA, 3.1)

  /// A read of `width` bytes at `offset` in the register page: select at 0, window at 0x10.
  package func read(offset: UInt64, width: Int) -> UInt32 {
    switch offset & 0xFF {
    case 0x00: return UInt32(select)
    case 0x10 where width == 4: return window
    default: return 0
    }
  }

  /// A write of `width` bytes at `offset`: select, window, or EOI at 0x40. Returns the pins that send now.
  package mutating func write(offset: UInt64, width: Int, _ value: UInt32) -> PinSet {
    switch offset & 0xFF {
    case 0x00: select = UInt8(truncatingIfNeeded: value)
    case 0x10 where width == 4: return writeWindow(value)
    case 0x40 where width == 4: return endOfInterrupt(vector: UInt8(truncatingIfNeeded: value))
    default: break
    }
    return []
  }

  // MARK: - Private

  private var window: UInt32 {
    switch select {
    case 0, 2: return UInt32(id) << 24
    case 1: return Self.version
    case 0x10...0x3F:
      let pin = Int(select &- 0x10) >> 1
      guard pin < Self.pinCount else { return 0 }
      let raw = entries[pin].rawValue
      return UInt32(truncatingIfNeeded: select & 1 == 0 ? raw : raw >> 32)
    default: return 0
    }
  }

  private mutating func writeWindow(_ value: UInt32) -> PinSet {
    if select == 0 { id = UInt8(truncatingIfNeeded: value >> 24 & 0xF) }
    guard (0x10...0x3F).contains(select) else { return [] }
    let pin = Int(select &- 0x10) >> 1
    guard pin < Self.pinCount else { return [] }
    let old = entries[pin].rawValue
    let written =
      select & 1 == 0
      ? old & ~0xFFFF_FFFF | UInt64(value) : old & 0xFFFF_FFFF | UInt64(value) << 32
    entries[pin].rawValue =
      written & RedirectionEntry.writable | old & ~RedirectionEntry.writable & 0xFFFF
    // Becoming an edge-triggered pin forgets the level interrupt: the way to end it without an EOI register.
    if !entries[pin].isLevel { entries[pin].remoteIRR = false }
    return sample(pin)
  }

  /// A level-triggered pin that is high, unmasked and not in service sends.
  private mutating func sample(_ pin: Int) -> PinSet {
    let bit = PinSet(rawValue: 1 << UInt32(pin))
    let entry = entries[pin]
    guard entry.isLevel, lines.contains(bit), !entry.isMasked, !entry.remoteIRR else { return [] }
    entries[pin].remoteIRR = true
    return bit
  }
}
