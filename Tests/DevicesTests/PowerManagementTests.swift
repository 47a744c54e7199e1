import DeviceModel
import Devices
import PCI
import Support
import Synchronization
import Testing

@Suite struct PowerManagementTests {
  private struct Machine {
    let bench = TimerBench()
    let bus = PCIBus()
    let pm: PIIX4PM

    init() throws {
      pm = PIIX4PM(bus: bus)
      try pm.realize(in: bench.context)
      pm.writeConfiguration(0x40, width: 4, 0x601)
      pm.writeConfiguration(0x80, width: 1, 1)
    }
    func read(_ port: UInt64, _ width: Int) -> UInt64 {
      bench.ports.read(port, width: width, vcpu: VCPUID(0))
    }
    func write(_ port: UInt64, _ width: Int, _ value: UInt64) {
      bench.ports.write(port, width: width, value, vcpu: VCPUID(0))
    }
  }

  @Test func timerCountsAtItsFrequencyAndWrapsAt24Bits() throws {
    let machine = try Machine()
    #expect(machine.read(0x608, 4) == 0)
    machine.bench.clock.advance(by: 1_000_000_000)
    #expect(machine.read(0x608, 4) == 3_579_545)
    machine.bench.clock.advance(by: 4_000_000_000)
    #expect(machine.read(0x608, 4) == (5 * 3_579_545) & 0xFF_FFFF)
    #expect(machine.read(0x608, 2) == (5 * 3_579_545) & 0xFFFF)
  }

  @Test func timerInterruptsWhenItsTopBitChanges() throws {
    let machine = try Machine()
    machine.write(0x602, 2, 1)
    machine.bench.clock.advance(by: 2_343_000_000)
    #expect(!machine.bench.lines[9].level)
    machine.bench.clock.advance(by: 2_000_000)
    #expect(machine.bench.lines[9].level)
    #expect(machine.read(0x600, 2) & 1 == 1)
    machine.write(0x600, 2, 1)
    #expect(!machine.bench.lines[9].level)
    machine.bench.clock.advance(by: 2_344_000_000)
    #expect(machine.bench.lines[9].level)
  }

  @Test func powerButtonInterruptsWhenEnabled() throws {
    let machine = try Machine()
    machine.pm.pressPowerButton()
    #expect(machine.read(0x600, 2) & 0x100 != 0)
    #expect(!machine.bench.lines[9].level)
    machine.write(0x602, 2, 0x100)
    #expect(machine.bench.lines[9].level)
    machine.write(0x601, 1, 0x01)
    #expect(!machine.bench.lines[9].level)
    #expect(machine.read(0x600, 2) & 0x100 == 0)
  }

  @Test func commandPortTurnsACPIOnAndOff() throws {
    let machine = try Machine()
    #expect(!machine.pm.isACPIEnabled)
    machine.write(0xB2, 1, 0xF1)
    #expect(machine.read(0x604, 2) & 1 == 1)
    machine.write(0xB3, 1, 0x55)
    #expect(machine.read(0xB3, 1) == 0x55)
    machine.write(0xB2, 1, 0xF0)
    #expect(machine.read(0x604, 2) & 1 == 0)
  }

  @Test(
    arguments: [
      (0x2000, MachineRequest.shutdown), (0x2400, MachineRequest.suspend),
      (0x2800, MachineRequest.shutdown),
    ] as [(UInt64, MachineRequest)])
  func sleepTypesAskForTheirState(value: UInt64, request: MachineRequest) throws {
    let machine = try Machine()
    machine.write(0x604, 2, value & ~0x2000)
    #expect(machine.bench.requests.withLock { $0 } == [])
    machine.write(0x604, 2, value)
    #expect(machine.bench.requests.withLock { $0 } == [request])
    // The enable bit reads as zero.
    #expect(machine.read(0x604, 2) & 0x2000 == 0)
  }

  @Test func generalPurposeEventsInterruptUntilCleared() throws {
    let machine = try Machine()
    machine.write(0xAFE2, 1, 0x04)
    machine.write(0xAFE3, 1, 0x80)
    #expect(machine.read(0xAFE0, 4) == 0x8004_0000)
    machine.pm.signalGPE(0x04)
    #expect(machine.bench.lines[9].level)
    machine.write(0xAFE0, 1, 0x04)
    #expect(!machine.bench.lines[9].level)
  }

  @Test func blockMovesWithItsBaseAndGoesAtReset() throws {
    let machine = try Machine()
    machine.pm.writeConfiguration(0x40, width: 4, 0x0000_B041)
    #expect(!machine.bench.ports.isMapped(0x600))
    #expect(machine.bench.ports.isMapped(0xB040))
    machine.pm.reset(.warm)
    #expect(!machine.bench.ports.isMapped(0xB040))
  }

  @Test func firmwareFindsSystemManagementModeSetUpAlready() throws {
    let machine = try Machine()
    #expect(machine.pm.readConfiguration(0x58, width: 4) & 0x0200_0000 != 0)
  }

  @Test func smbusTransfersFailAsOnAnEmptyBus() throws {
    let machine = try Machine()
    machine.write(0xB104, 1, 0xA1)
    machine.write(0xB102, 1, 0x48)
    #expect(machine.read(0xB100, 1) == 0x04)
    machine.write(0xB100, 1, 0xFF)
    #expect(machine.read(0xB100, 1) == 0)
  }
}
