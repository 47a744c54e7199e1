import DistIRQ
import Testing

@Suite struct InterruptMessageTests {
  @Test func wireFormRoundTripsEveryCombination() {
    for delivery in DeliveryMode.allCases {
      for destinationMode in DestinationMode.allCases {
        for trigger in TriggerMode.allCases {
          for (width, destination) in [
            (DestinationWidth.xAPIC, UInt32(0xA5)), (.x2APIC, 0xDEAD_BEEF), (.x2APIC, 0x12),
          ] {
            for asserted in [false, true] {
              let message = InterruptMessage(
                destination: destination, destinationMode: destinationMode, width: width,
                deliveryMode: delivery, vector: 0xC3, trigger: trigger, asserted: asserted)
              #expect(InterruptMessage(wireBytes: message.wireBytes) == message)
            }
          }
        }
      }
    }
  }

  @Test func wireFormIsTheDocumentedBytes() {
    let message = InterruptMessage(
      destination: 0x0403_0201, destinationMode: .logical, width: .x2APIC, deliveryMode: .startUp,
      vector: 0x99, trigger: .level)
    let bytes = message.wireBytes
    #expect((0..<8).map { bytes[$0] } == [1, 2, 3, 4, 0x99, 0b0111_1110, 0, 0])
  }

  @Test func wireFormWithReservedBitsIsRefused() {
    let good = InterruptMessage(destination: 1, vector: 0x30).wireBytes
    #expect(InterruptMessage(wireBytes: good) != nil)
    for (index, bit) in [(5, UInt8(0x80)), (6, 1), (7, 0x80), (1, 1)] {
      var bytes = good
      bytes[index] |= bit
      #expect(InterruptMessage(wireBytes: bytes) == nil, "byte \(index)")
    }
  }

  @Test func everyWireValueDecodesToItselfOrIsRefused() {
    var generator = SeededWords(seed: 7)
    for _ in 0..<20_000 {
      var bytes: [8 of UInt8] = .init(repeating: 0)
      let word = generator.next()
      for index in 0..<6 { bytes[index] = UInt8(truncatingIfNeeded: word >> UInt64(index * 8)) }
      guard let message = InterruptMessage(wireBytes: bytes) else { continue }
      let again = message.wireBytes
      #expect((0..<8).allSatisfy { again[$0] == bytes[$0] })
    }
  }

  @Test(arguments: [
    (
      UInt64(0xFEE0_3000), UInt32(0x0041),
      InterruptMessage(destination: 3, vector: 0x41)
    ),
    (
      0xFEEF_F004, 0x0131,
      InterruptMessage(
        destination: 0xFF, destinationMode: .logical, deliveryMode: .lowestPriority, vector: 0x31)
    ),
    // Redirection hint with a logical destination: one of them.
    (
      0xFEE0_300C, 0x0055,
      InterruptMessage(
        destination: 3, destinationMode: .logical, deliveryMode: .lowestPriority, vector: 0x55)
    ),
    // Redirection hint with a physical destination changes nothing.
    (0xFEE0_3008, 0x0055, InterruptMessage(destination: 3, vector: 0x55)),
    (
      0xFEE0_1000, 0xC060,
      InterruptMessage(destination: 1, vector: 0x60, trigger: .level)
    ),
    (
      0xFEE0_1000, 0x8060,
      InterruptMessage(destination: 1, vector: 0x60, trigger: .level, asserted: false)
    ),
    (0xFEE0_1000, 0x0400, InterruptMessage(destination: 1, deliveryMode: .nmi, vector: 0)),
  ])
  func messageSignalledInterruptIsDecoded(
    address: UInt64, data: UInt32, expected: InterruptMessage
  ) {
    #expect(MSI.message(address: address, data: data) == expected)
  }

  @Test(arguments: [UInt64(0xFED0_0000), 0xFEF0_0000, 0x1_FEE0_0000, 0])
  func otherAddressesAreNoMessages(address: UInt64) {
    #expect(MSI.message(address: address, data: 0x41) == nil)
  }
}
