// Message signalled interrupts: a memory write to 0xFEEx_xxxx (Intel SDM vol. 3A, 11.11).
// The extended destination bits that some hypervisors put into address bits 5 to 11 are not offered.

/// Decoding of an MSI address and data pair.
package enum MSI {
  /// True when a write to `address` is an interrupt message and not a memory access.
  package static func claims(address: UInt64) -> Bool { address >> 20 == 0xFEE }

  /// The message of a write of `data` to `address`, or nil when the address is not in the MSI window.
  ///
  /// Address: bits 19-12 destination ID, 3 redirection hint, 2 logical. Data: bits 7-0 vector,
  /// 10-8 delivery mode, 14 asserted, 15 level. A redirected logical message goes to one of its
  /// destinations, as lowest priority does. Edge messages are always asserted.
  package static func message(address: UInt64, data: UInt32) -> InterruptMessage? {
    guard claims(address: address) else { return nil }
    let logical = address & 1 << 2 != 0
    let redirected = address & 1 << 3 != 0
    let level = data & 1 << 15 != 0
    var mode = DeliveryMode(rawValue: UInt8(truncatingIfNeeded: data >> 8 & 7)) ?? .reserved
    if redirected && logical && mode == .fixed { mode = .lowestPriority }
    return InterruptMessage(
      destination: UInt32(truncatingIfNeeded: address >> 12 & 0xFF),
      destinationMode: logical ? .logical : .physical, deliveryMode: mode,
      vector: UInt8(truncatingIfNeeded: data), trigger: level ? .level : .edge,
      asserted: !level || data & 1 << 14 != 0)
  }
}
