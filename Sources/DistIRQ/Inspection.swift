// What `info lapic`, `info pic` and `info irq` show and the models do not have as a register of their own.

extension VectorSet {
  /// The eight 32-bit registers, lowest vectors first.
  package var registers: [UInt32] { (0..<8).map { self[register: $0] } }
}

extension LocalAPIC {
  /// Arbitration priority register.
  package var arbitrationPriority: UInt8 { apr }
  /// Logical destination of xAPIC mode, bits 31-24 of its register.
  package var logicalDestination: UInt8 { logicalID }
  /// Model bits 31-28 of the destination format register: 0xF flat, 0 cluster.
  package var destinationFormatModel: UInt8 { destinationFormat }
  /// Version register.
  package var versionRegister: UInt32 { version }

  /// Current count of the timer at guest time `nanoseconds`.
  package func currentCount(at nanoseconds: UInt64) -> UInt32 {
    timer.currentCount(at: nanoseconds, lvt.timer.timerMode)
  }
}

extension IOAPIC {
  /// Level-triggered pins that are up and whose interrupt has not been sent.
  package var requested: PinSet {
    var pins: UInt32 = 0
    for pin in entries.indices
    where entries[pin].isLevel && lines.contains(PinSet(rawValue: 1 << UInt32(pin))) {
      pins |= 1 << UInt32(pin)
    }
    return PinSet(rawValue: pins & ~remoteIRR.rawValue)
  }
}

extension PICController {
  /// Input of highest priority: 0 unless rotated.
  package var highestPriority: UInt8 { (lowestPriority &+ 1) & 7 }
}
