import DeviceModel
import Devices
import Support
import Synchronization
import Testing

@Suite struct I8042Tests {
  private struct Machine {
    let bench = TimerBench()
    let gate = A20Gate()
    let device: I8042

    init() throws {
      device = I8042(gate: gate)
      try device.realize(in: bench.context)
    }
    func command(_ value: UInt8) { bench.out(0x64, value) }
    func data(_ value: UInt8) { bench.out(0x60, value) }
    /// All bytes that wait.
    func drain() -> [UInt8] {
      var bytes: [UInt8] = []
      while bench.in(0x64) & 1 != 0, bytes.count < 64 { bytes.append(bench.in(0x60)) }
      return bytes
    }
  }

  @Test func selfTestsPass() throws {
    let machine = try Machine()
    machine.command(0xAA)
    #expect(machine.drain() == [0x55])
    #expect(machine.bench.in(0x64) & 4 != 0)
    machine.command(0xAB)
    machine.command(0xA9)
    #expect(machine.drain() == [0, 0])
  }

  @Test func keyboardAnswersResetIdentifyAndEnable() throws {
    let machine = try Machine()
    machine.command(0x60)
    machine.data(0x01)  // no translation
    machine.data(0xFF)
    #expect(machine.drain() == [0xFA, 0xAA])
    machine.data(0xF2)
    #expect(machine.drain() == [0xFA, 0xAB, 0x83])
    for command in [0xF5, 0xF4, 0xF6] as [UInt8] {
      machine.data(command)
      #expect(machine.drain() == [0xFA])
    }
    machine.data(0xED)
    machine.data(0x07)
    #expect(machine.drain() == [0xFA, 0xFA])
    machine.data(0xF0)
    machine.data(0x00)
    #expect(machine.drain() == [0xFA, 0xFA, 0x02])
    machine.data(0x11)
    #expect(machine.drain() == [0xFE])
  }

  @Test func mouseAnswersThroughTheAuxiliaryPort() throws {
    let machine = try Machine()
    machine.command(0xA8)
    for (command, answer) in [
      (0xFF, [0xFA, 0xAA, 0x00]), (0xF2, [0xFA, 0x00]), (0xF4, [0xFA]),
      (0xE9, [0xFA, 0x20, 0x02, 0x64]),
    ] as [(UInt8, [UInt8])] {
      machine.command(0xD4)
      machine.data(command)
      #expect(machine.bench.in(0x64) & 0x20 != 0)
      #expect(machine.drain() == answer)
    }
    for rate in [200, 100, 80] as [UInt8] {
      machine.command(0xD4)
      machine.data(0xF3)
      machine.command(0xD4)
      machine.data(rate)
    }
    _ = machine.drain()
    machine.command(0xD4)
    machine.data(0xF2)
    #expect(machine.drain() == [0xFA, 0x03])
  }

  @Test func keysAreTranslatedAndEachByteMakesAnEdge() throws {
    let machine = try Machine()
    machine.command(0x60)
    machine.data(0x45)
    // "a" pressed and released in set 2.
    machine.device.press([0x1C, 0xF0, 0x1C])
    let line = machine.bench.lines[1]
    #expect(line.level)
    let edges = line.rises
    #expect(machine.bench.in(0x60) == 0x1E)
    #expect(line.level)
    #expect(line.rises == edges + 1)
    #expect(machine.bench.in(0x60) == 0x9E)
    #expect(!line.level)
  }

  @Test func resetPulseAndA20() throws {
    let machine = try Machine()
    machine.command(0xDD)
    #expect(!machine.gate.isOpen)
    machine.command(0xD1)
    machine.data(0xDF)
    #expect(machine.gate.isOpen)
    machine.command(0xD0)
    #expect(machine.drain() == [0x03])
    machine.command(0xFE)
    #expect(machine.bench.requests.withLock { $0 } == [.reset])
  }

  @Test func anySequenceOfWritesEndsWithAnEmptyBuffer() throws {
    let machine = try Machine()
    for _ in 0..<50_000 {
      let value = UInt8.random(in: 0...255)
      switch Int.random(in: 0...3) {
      case 0: machine.command(value)
      case 1: machine.data(value)
      case 2: _ = machine.bench.in(0x60)
      default: machine.device.press([value])
      }
    }
    for _ in 0..<2000 { _ = machine.bench.in(0x60) }
    #expect(machine.bench.in(0x64) & 1 == 0)
  }
}
