/// The registers by which ACPI tables learn of functions that come and go on PCI bus 0, at ports 0xAE00 on.
///
/// All are doublewords: slots that have got a device (reading forgets), slots whose device the user wants back, eject (a write takes
/// the device of the lowest bit's slot away), slots whose devices may go, the bus that the others are about (there is only 0), the
/// label of the function whose slot's bit was written there (0: it has none). Beyond those that QEMU has: the slot and the status that a driver
/// reported by `_OST`.
package struct PCIHotplugModel: Equatable, Sendable {
  /// What the machine must do after a write.
  package enum Action: Equatable, Sendable {
    /// The devices in this slot leave the machine.
    case eject(slot: UInt8)
    /// The guest could not or would not give the slot's devices up.
    case refused(slot: UInt8)
  }

  package enum Register {
    package static let inserted: UInt64 = 0x00
    package static let removing: UInt64 = 0x04
    package static let eject: UInt64 = 0x08
    package static let removable: UInt64 = 0x0C
    package static let bus: UInt64 = 0x10
    package static let label: UInt64 = 0x14
    package static let reportedSlot: UInt64 = 0x18
    package static let reportedStatus: UInt64 = 0x1C
  }

  /// Slots with new devices that the guest has not heard of.
  package private(set) var inserted: UInt32 = 0
  /// Slots whose devices are to go.
  package private(set) var removing: UInt32 = 0
  /// Slots whose devices may go.
  package private(set) var removable: UInt32 = .max
  private var bus: UInt32 = 0
  /// By slot: the number that names its function.
  private var labels = [UInt32](repeating: 0, count: 32)
  /// A bit for the slot whose label is asked for.
  private var labelled: UInt32 = 0
  private var reportedSlot: UInt32 = 0

  package init() {}

  /// Whether the guest has something to hear of.
  package var isPending: Bool { inserted | removing != 0 }

  package mutating func read(_ offset: UInt64) -> UInt32 {
    // Further buses do not exist.
    let isHere = bus == 0
    switch offset {
    case Register.inserted:
      guard isHere else { return 0 }
      let value = inserted
      inserted = 0
      return value
    case Register.removing: return isHere ? removing : 0
    case Register.removable: return isHere ? removable : 0
    case Register.bus: return bus
    case Register.label:
      return isHere && labelled != 0 ? labels[labelled.trailingZeroBitCount] : 0
    default: return 0
    }
  }

  package mutating func write(_ offset: UInt64, _ value: UInt32) -> Action? {
    switch offset {
    case Register.eject:
      guard bus == 0, value != 0 else { return nil }
      let bit = value & (~value &+ 1)
      removing &= ~bit
      inserted &= ~bit
      guard removable & bit != 0 else { return nil }
      return .eject(slot: UInt8(truncatingIfNeeded: bit.trailingZeroBitCount))
    case Register.bus: bus = value
    case Register.label: labelled = value
    case Register.reportedSlot: reportedSlot = value
    case Register.reportedStatus:
      guard value != 0, reportedSlot < 32, removing & 1 << reportedSlot != 0 else { return nil }
      // The user may ask again.
      removing &= ~(1 << reportedSlot)
      return .refused(slot: UInt8(truncatingIfNeeded: reportedSlot))
    default: break
    }
    return nil
  }

  // MARK: - Machine's side

  /// A device came into `slot`.
  package mutating func insert(_ slot: UInt8) { inserted |= 1 << UInt32(slot & 31) }

  /// The user wants the devices of `slot` back.
  package mutating func remove(_ slot: UInt8) { removing |= 1 << UInt32(slot & 31) }

  /// Says whether the devices of `slot` may go; an empty slot's may.
  package mutating func setRemovable(_ slot: UInt8, _ isRemovable: Bool) {
    let bit: UInt32 = 1 << UInt32(slot & 31)
    removable = isRemovable ? removable | bit : removable & ~bit
  }

  /// Names the function in `slot`; 0 for no name.
  package mutating func setLabel(_ slot: UInt8, _ label: UInt32) { labels[Int(slot & 31)] = label }

  /// As after power-on, but for which slots' devices may go; answers the slots whose devices were to go.
  package mutating func reset() -> [UInt8] {
    let slots = (0..<32).filter { removing & 1 << UInt32($0) != 0 }.map { UInt8($0) }
    let (removable, labels) = (removable, labels)
    self = PCIHotplugModel()
    self.removable = removable
    self.labels = labels
    return slots
  }
}
