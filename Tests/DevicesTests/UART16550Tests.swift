import Devices
import Support
import Testing

@Suite struct UART16550Tests {
  private func sent(_ uart: inout UART16550) -> [UInt8] {
    let bytes = uart.transmitQueue
    uart.transmitted(bytes.count)
    return bytes
  }

  @Test func resetStateIsIdleAndConnected() {
    var uart = UART16550()
    #expect(uart.read(2) == 0x01)
    #expect(uart.read(5) == 0x60)
    #expect(uart.read(6) == 0xB0)
    #expect(!uart.interruptAsserted)
  }

  @Test func divisorLatchHidesDataAndEnableRegisters() {
    var uart = UART16550()
    uart.write(3, 0x83)
    uart.write(0, 0x34)
    uart.write(1, 0x12)
    #expect(uart.read(0) == 0x34)
    #expect(uart.read(1) == 0x12)
    uart.write(3, 0x03)
    #expect(uart.read(1) == 0)
    #expect(uart.transmitQueue.isEmpty)
  }

  @Test func holdingRegisterIsFullUntilTheBackendTookTheCharacter() {
    var uart = UART16550()
    uart.write(0, 0x41)
    #expect(uart.read(5) & 0x60 == 0)
    #expect(sent(&uart) == [0x41])
    #expect(uart.read(5) & 0x60 == 0x60)
  }

  @Test func transmitInterruptComesWhenEnabledAndGoesByReadingIdentification() {
    var uart = UART16550()
    uart.write(1, 0x02)
    #expect(uart.interruptAsserted)
    #expect(uart.read(2) == 0x02)
    #expect(!uart.interruptAsserted)
    // Drivers test for UARTs that do not raise it a second time.
    uart.write(1, 0x00)
    uart.write(1, 0x02)
    #expect(uart.read(2) == 0x02)
    uart.write(0, 0x41)
    #expect(!uart.interruptAsserted)
    #expect(sent(&uart) == [0x41])
    #expect(uart.interruptAsserted)
  }

  @Test func outputThatTheBackendRefusedStaysInOrder() {
    var uart = UART16550()
    uart.write(2, 0x01)
    for byte in 0..<16 { uart.write(0, UInt8(byte)) }
    uart.transmitted(5)
    #expect(uart.transmitQueue == Array(5..<16))
    #expect(uart.read(5) & 0x20 == 0)
    // Resetting the transmit FIFO takes nothing back.
    uart.write(2, 0x05)
    #expect(uart.transmitQueue == Array(5..<16))
  }

  @Test(arguments: [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)] as [(UInt8, Int)])
  func receiveInterruptComesAtTheTriggerLevel(control: UInt8, level: Int) {
    var uart = UART16550()
    uart.write(2, control)
    uart.write(1, 0x01)
    for count in 1...level {
      #expect(!uart.interruptAsserted)
      #expect(uart.receive([UInt8(count)]) == 1)
    }
    #expect(uart.read(2) == 0xC4)
    #expect(uart.read(0) == 1)
    #expect(uart.interruptAsserted == false)
  }

  @Test func charactersBelowTheTriggerLevelAreReportedByTimeout() {
    var uart = UART16550()
    uart.write(2, 0xC1)
    uart.write(1, 0x01)
    #expect(uart.receive([0x61, 0x62]) == 2)
    #expect(uart.wantsTimeout)
    uart.timeOut()
    #expect(uart.read(2) == 0xCC)
    #expect(uart.read(0) == 0x61)
    #expect(!uart.interruptAsserted)
    #expect(uart.wantsTimeout)
    #expect(uart.read(0) == 0x62)
    #expect(!uart.wantsTimeout)
  }

  @Test func fifoTakesSixteenCharactersAndNoFIFOOne() {
    var uart = UART16550()
    #expect(uart.receive([1, 2, 3]) == 1)
    #expect(uart.receiveSpace == 0)
    uart.write(2, 0x01)
    #expect(uart.read(5) & 1 == 0)
    #expect(uart.receive(ArraySlice(repeating: 7, count: 20)) == 16)
    #expect(uart.read(0) == 7)
    #expect(uart.receiveSpace == 1)
  }

  @Test func lineStatusHasPriorityAndReadingClearsTheErrors() {
    var uart = UART16550()
    uart.write(1, 0x07)
    uart.receiveBreak()
    #expect(uart.read(2) == 0x06)
    #expect(uart.read(5) == 0x71)
    #expect(uart.read(5) == 0x61)
    #expect(uart.read(2) == 0x04)
    #expect(uart.read(0) == 0)
    #expect(uart.read(2) == 0x02)
  }

  @Test func loopbackConnectsOutputsToInputsAndSendsNothing() {
    var uart = UART16550()
    uart.write(4, 0x1A)
    #expect(uart.read(6) & 0xF0 == 0x90)
    uart.write(0, 0x55)
    #expect(uart.transmitQueue.isEmpty)
    #expect(uart.read(5) == 0x61)
    #expect(uart.read(0) == 0x55)
    #expect(uart.receive([1]) == 0)
    uart.write(0, 1)
    uart.write(0, 2)
    #expect(uart.read(5) & 0x02 == 0x02)
    #expect(uart.read(0) == 2)
  }

  @Test func modemChangesInterruptUntilTheStatusIsRead() {
    var uart = UART16550()
    uart.write(1, 0x08)
    uart.setModemLines([])
    #expect(uart.read(2) == 0x00)
    #expect(uart.read(6) == 0x0B)
    #expect(!uart.interruptAsserted)
    #expect(uart.read(6) == 0x00)
  }

  @Test func anySequenceOfAccessesLeavesIdentificationAndOutputConsistent() {
    var generator = SeededGenerator(seed: 16_550)
    var uart = UART16550()
    for _ in 0..<40_000 {
      let register = UInt8.random(in: 0...7, using: &generator)
      let value = UInt8.random(in: 0...255, using: &generator)
      switch UInt8.random(in: 0...4, using: &generator) {
      case 0: uart.write(register, value)
      case 1: _ = uart.read(register)
      case 2: _ = uart.receive([value, value])
      case 3: uart.transmitted(Int(value & 3))
      default: uart.timeOut()
      }
      var copy = uart
      #expect((copy.read(2) & 1 == 0) == uart.interruptAsserted)
      #expect(uart.transmitQueue.count <= 16)
    }
  }
}
