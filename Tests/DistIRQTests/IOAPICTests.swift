import DistIRQ
import Testing

@Suite struct IOAPICTests {
  static func write(_ io: inout IOAPIC, _ register: UInt32, _ value: UInt32) -> PinSet {
    _ = io.write(offset: 0, width: 4, register)
    return io.write(offset: 0x10, width: 4, value)
  }
  static func read(_ io: inout IOAPIC, _ register: UInt32) -> UInt32 {
    _ = io.write(offset: 0, width: 4, register)
    return io.read(offset: 0x10, width: 4)
  }
  /// Programs the low word of a pin.
  @discardableResult
  static func program(_ io: inout IOAPIC, _ pin: Int, _ low: UInt32, destination: UInt32 = 0)
    -> PinSet
  {
    _ = write(&io, UInt32(0x11 + 2 * pin), destination << 24)
    return write(&io, UInt32(0x10 + 2 * pin), low)
  }
  static func pin(_ pin: Int) -> PinSet { PinSet(rawValue: 1 << UInt32(pin)) }

  @Test func registersHaveTheirResetValuesAndWritableBits() {
    var io = IOAPIC()
    #expect(Self.read(&io, 0) == 0)
    #expect(Self.read(&io, 1) == 0x0017_0020)
    _ = Self.write(&io, 0, 0xFFFF_FFFF)
    #expect(Self.read(&io, 0) == 0x0F00_0000)
    #expect(Self.read(&io, 2) == 0x0F00_0000)
    _ = Self.write(&io, 1, 0)
    #expect(Self.read(&io, 1) == 0x0017_0020)
    for pin in 0..<24 {
      #expect(Self.read(&io, UInt32(0x10 + 2 * pin)) == 0x1_0000)
      #expect(Self.read(&io, UInt32(0x11 + 2 * pin)) == 0)
      _ = Self.write(&io, UInt32(0x10 + 2 * pin), 0xFFFF_FFFF)
      _ = Self.write(&io, UInt32(0x11 + 2 * pin), 0xFFFF_FFFF)
      #expect(Self.read(&io, UInt32(0x10 + 2 * pin)) == 0x1_AFFF)
      #expect(Self.read(&io, UInt32(0x11 + 2 * pin)) == 0xFF00_0000)
    }
    #expect(Self.read(&io, 0x40) == 0)
    #expect(Self.write(&io, 0xFF, 1) == [])
  }

  @Test func windowAndEndRegisterTakeWordsOnly() {
    var io = IOAPIC()
    _ = io.write(offset: 0, width: 1, 0x10)
    _ = io.write(offset: 0x10, width: 1, 0x55)
    #expect(Self.read(&io, 0x10) == 0x1_0000)
    #expect(io.read(offset: 0x10, width: 2) == 0)
    #expect(io.read(offset: 0, width: 4) == 0x10)
  }

  @Test func messageCarriesTheEntry() {
    var io = IOAPIC()
    Self.program(&io, 5, 0x0000_8931, destination: 0x42)
    #expect(
      io.message(of: 5)
        == InterruptMessage(
          destination: 0x42, destinationMode: .logical, deliveryMode: .lowestPriority,
          vector: 0x31, trigger: .level))
  }

  @Test func edgeSendsOncePerRise() {
    var io = IOAPIC()
    Self.program(&io, 3, 0x40)
    #expect(io.set(pin: 3, level: true) == Self.pin(3))
    #expect(io.set(pin: 3, level: true) == [])
    #expect(io.set(pin: 3, level: false) == [])
    #expect(io.set(pin: 3, level: true) == Self.pin(3))
    #expect(io.remoteIRR == [])
  }

  @Test func edgeOnAMaskedPinIsLost() {
    var io = IOAPIC()
    Self.program(&io, 3, 0x1_0040)
    #expect(io.set(pin: 3, level: true) == [])
    #expect(Self.program(&io, 3, 0x40) == [])
  }

  @Test func levelInterruptStaysPendingUntilEOI() {
    var io = IOAPIC()
    Self.program(&io, 10, 0x8050)
    #expect(io.set(pin: 10, level: true) == Self.pin(10))
    #expect(Self.read(&io, 0x10 + 20) == 0xC050)
    #expect(io.set(pin: 10, level: false) == [])
    #expect(io.set(pin: 10, level: true) == [])
    #expect(io.endOfInterrupt(vector: 0x51) == [])
    #expect(io.endOfInterrupt(vector: 0x50) == Self.pin(10))
    _ = io.set(pin: 10, level: false)
    #expect(io.endOfInterrupt(vector: 0x50) == [])
    #expect(io.remoteIRR == [])
    #expect(io.set(pin: 10, level: true) == Self.pin(10))
  }

  @Test func endRegisterIsAnEndOfInterrupt() {
    var io = IOAPIC()
    Self.program(&io, 10, 0x8050)
    _ = io.set(pin: 10, level: true)
    #expect(io.write(offset: 0x40, width: 4, 0x50) == Self.pin(10))
  }

  @Test func endReachesEveryPinWithTheVector() {
    var io = IOAPIC()
    Self.program(&io, 10, 0x8050)
    Self.program(&io, 11, 0x8050)
    _ = io.set(pin: 10, level: true)
    _ = io.set(pin: 11, level: true)
    #expect(io.endOfInterrupt(vector: 0x50) == [Self.pin(10), Self.pin(11)])
  }

  @Test func unmaskingSamplesALevelPin() {
    var io = IOAPIC()
    Self.program(&io, 10, 0x1_8050)
    #expect(io.set(pin: 10, level: true) == [])
    #expect(Self.program(&io, 10, 0x8050) == Self.pin(10))
    // Masking does not forget that the interrupt is in service.
    #expect(Self.program(&io, 10, 0x1_8050) == [])
    #expect(Self.program(&io, 10, 0x8050) == [])
    #expect(io.endOfInterrupt(vector: 0x50) == Self.pin(10))
  }

  @Test func becomingEdgeTriggeredEndsTheInterrupt() {
    var io = IOAPIC()
    Self.program(&io, 10, 0x8050)
    _ = io.set(pin: 10, level: true)
    #expect(Self.program(&io, 10, 0x1_0050) == [])
    #expect(io.remoteIRR == [])
    #expect(Self.program(&io, 10, 0x8050) == Self.pin(10))
  }

  @Test(arguments: [UInt32(2), 4, 5, 7])
  func otherDeliveryModesAreEdges(mode: UInt32) {
    var io = IOAPIC()
    Self.program(&io, 1, 0x8000 | mode << 8)
    #expect(io.set(pin: 1, level: true) == Self.pin(1))
    #expect(io.remoteIRR == [])
    #expect(io.message(of: 1).trigger == .edge)
  }

  @Test func pinsOutsideAreIgnored() {
    var io = IOAPIC()
    #expect(io.set(pin: 24, level: true) == [])
    #expect(io.set(pin: -1, level: true) == [])
  }

  @Test func resetKeepsTheLevels() {
    var io = IOAPIC()
    _ = io.set(pin: 10, level: true)
    Self.program(&io, 10, 0x8050)
    io.reset()
    #expect(io.entries[10] == .reset)
    #expect(Self.program(&io, 10, 0x8050) == Self.pin(10))
  }

  @Test func anyAccessByTheGuestIsSurvived() {
    var generator = SeededWords(seed: 5)
    var io = IOAPIC()
    for _ in 0..<50_000 {
      let word = generator.next()
      _ = io.write(
        offset: word & 0xFFF, width: [1, 2, 4, 8][Int(word >> 20 & 3)],
        UInt32(truncatingIfNeeded: word >> 32))
      _ = io.read(offset: word >> 12 & 0xFF, width: 4)
      _ = io.set(pin: Int(word >> 40 & 31), level: word & 1 << 50 != 0)
    }
  }
}
