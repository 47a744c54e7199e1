// One interrupt on its way to local APICs: what an I/O APIC, an MSI or an interrupt command register sends.
// Intel SDM vol. 3A, 11.6 (IPIs), 11.11 (MSI); 82093AA, 3.2.4. The same value is used within a node and between nodes.

/// How an accepted interrupt is handled by the destination (Intel SDM vol. 3A, 11.6.1, delivery mode).
package enum DeliveryMode: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// The vector is set in the IRR of every destination.
  case fixed = 0
  /// The vector is set in the IRR of one of the destinations.
  case lowestPriority = 1
  /// System management interrupt; the vector is ignored.
  case smi = 2
  /// Remote read or reserved: never delivered.
  case reserved = 3
  /// Non-maskable interrupt; the vector is ignored.
  case nmi = 4
  /// INIT: resets the destination and leaves it waiting for a start-up message.
  case initialize = 5
  /// Start-up message: the vector is the 4 KiB page number of the first instruction.
  case startUp = 6
  /// The vector is asked of the 8259 pair in an interrupt acknowledge cycle.
  case external = 7
}

/// How the destination field is read (Intel SDM vol. 3A, 11.6.2).
package enum DestinationMode: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// An APIC ID.
  case physical = 0
  /// A mask that is compared with the logical destination registers.
  case logical = 1
}

/// Edge or level, as recorded in the trigger mode register of the destination.
package enum TriggerMode: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// Delivered once per message.
  case edge = 0
  /// Pending until the source is quiet and an end of interrupt was broadcast.
  case level = 1
}

/// Width of the destination field, which decides what "everybody" looks like.
package enum DestinationWidth: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// Eight bits: xAPIC interrupt command, I/O APIC, MSI. 0xFF is broadcast.
  case xAPIC = 0
  /// Thirty-two bits: x2APIC interrupt command. 0xFFFF_FFFF is broadcast.
  case x2APIC = 1
}

/// An interrupt message: a plain value, equal on every node.
package struct InterruptMessage: Equatable, Hashable, Sendable, BitwiseCopyable {
  /// APIC ID or logical mask, as `destinationMode` says; upper 24 bits are 0 for `DestinationWidth.xAPIC`.
  package var destination: UInt32
  /// Meaning of `destination`.
  package var destinationMode: DestinationMode
  /// Width of `destination`.
  package var width: DestinationWidth
  /// What the destination does with it.
  package var deliveryMode: DeliveryMode
  /// Interrupt vector, or page number of a start-up message.
  package var vector: UInt8
  /// Edge or level.
  package var trigger: TriggerMode
  /// False only in a level de-assert, which no local APIC acts on.
  package var asserted: Bool

  /// A message; the defaults are those of an edge-triggered, physical, fixed interrupt.
  package init(
    destination: UInt32, destinationMode: DestinationMode = .physical,
    width: DestinationWidth = .xAPIC, deliveryMode: DeliveryMode = .fixed, vector: UInt8,
    trigger: TriggerMode = .edge, asserted: Bool = true
  ) {
    self.destination = destination
    self.destinationMode = destinationMode
    self.width = width
    self.deliveryMode = deliveryMode
    self.vector = vector
    self.trigger = trigger
    self.asserted = asserted
  }

  /// True when the destination field addresses every local APIC.
  package var isBroadcast: Bool {
    switch width {
    case .xAPIC: destination == 0xFF
    case .x2APIC: destination == 0xFFFF_FFFF
    }
  }
}

/// Which APICs an interrupt command addresses besides its destination field (Intel SDM vol. 3A, 11.6.1).
package enum DestinationShorthand: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// The destination field counts.
  case none = 0
  /// Only the sender.
  case itself = 1
  /// Everybody.
  case allIncludingSelf = 2
  /// Everybody but the sender.
  case allExcludingSelf = 3
}

// MARK: - Wire form

extension InterruptMessage {
  /// Size of the wire form in bytes.
  package static let wireSize = 8

  /// The wire form: eight bytes, as they appear in a frame between nodes.
  ///
  /// | byte | content |
  /// | --- | --- |
  /// | 0 to 3 | destination, little endian |
  /// | 4 | vector |
  /// | 5 | bits 0-2 delivery mode, 3 logical, 4 level, 5 asserted, 6 32-bit destination, 7 zero |
  /// | 6, 7 | zero |
  package var wireBytes: [8 of UInt8] {
    let d = destination
    let flags: UInt8 =
      deliveryMode.rawValue | destinationMode.rawValue << 3 | trigger.rawValue << 4
      | (asserted ? 1 << 5 : 0) | width.rawValue << 6
    return [
      UInt8(truncatingIfNeeded: d), UInt8(truncatingIfNeeded: d >> 8),
      UInt8(truncatingIfNeeded: d >> 16), UInt8(truncatingIfNeeded: d >> 24), vector, flags, 0, 0,
    ]
  }

  /// Reads the wire form; nil when a reserved bit is set or a narrow destination has more than 8 bits.
  package init?(wireBytes b: [8 of UInt8]) {
    let flags = b[5]
    guard flags & 0x80 == 0, b[6] == 0, b[7] == 0,
      let deliveryMode = DeliveryMode(rawValue: flags & 7),
      let destinationMode = DestinationMode(rawValue: flags >> 3 & 1),
      let trigger = TriggerMode(rawValue: flags >> 4 & 1),
      let width = DestinationWidth(rawValue: flags >> 6 & 1)
    else { return nil }
    let destination =
      UInt32(b[0]) | UInt32(b[1]) << 8 | UInt32(b[2]) << 16 | UInt32(b[3]) << 24
    if width == .xAPIC && destination > 0xFF { return nil }
    self.init(
      destination: destination, destinationMode: destinationMode, width: width,
      deliveryMode: deliveryMode, vector: b[4], trigger: trigger, asserted: flags & 0x20 != 0)
  }
}
