import DeviceModel
import Devices
import PCI
import Support
import Synchronization
import Testing

/// The registers of PCI hot plug at 0xAE00, and the event that goes with them.
@Suite struct PCIHotplugTests {
  private struct Machine {
    let bench = TimerBench()
    let pm: PIIX4PM
    let actions: Actions

    final class Actions: Sendable { let list = Mutex<[PCIHotplugModel.Action]>([]) }

    init() throws {
      let actions = Actions()
      self.actions = actions
      pm = PIIX4PM(bus: PCIBus())
      try pm.realize(in: bench.context)
      pm.setHotplugAction { action in actions.list.withLock { $0.append(action) } }
    }

    func read(_ offset: UInt64) -> UInt64 {
      bench.ports.read(0xAE00 + offset, width: 4, vcpu: VCPUID(0))
    }
    func write(_ offset: UInt64, _ value: UInt64) {
      bench.ports.write(0xAE00 + offset, width: 4, value, vcpu: VCPUID(0))
    }
    /// GPE0: status at 0, enable at 2.
    var event: UInt8 {
      get { bench.in(0xAFE0) }
      nonmutating set { bench.out(0xAFE0, newValue) }
    }
    func listen(_ bits: UInt8) { bench.out(0xAFE2, bits) }
    var interrupt: Bool { bench.lines[9].level }
  }

  @Test func aNewDeviceIsToldOnceWithAnInterrupt() throws {
    let machine = try Machine()
    machine.listen(2)
    machine.pm.announceInserted(5)
    #expect(machine.interrupt && machine.event == 2)
    #expect(machine.read(0) == 1 << 5)
    #expect(machine.read(0) == 0)
    machine.event = 2
    #expect(!machine.interrupt)
  }

  @Test func aSlotIsWantedBackUntilTheGuestEjectsIt() throws {
    let machine = try Machine()
    machine.listen(2)
    machine.pm.requestRemoval(3)
    machine.pm.requestRemoval(31)
    #expect(machine.read(4) == 1 << 3 | 1 << 31)
    #expect(machine.read(4) == 1 << 3 | 1 << 31)
    // One slot at a time: the lowest.
    machine.write(8, 1 << 3 | 1 << 31)
    #expect(machine.read(4) == 1 << 31)
    machine.write(8, 1 << 31)
    machine.write(8, 0)
    #expect(machine.actions.list.withLock { $0 } == [.eject(slot: 3), .eject(slot: 31)])
    #expect(machine.pm.takePendingRemovals().isEmpty)
  }

  @Test func aGuestThatBeginsToListenHearsWhatItMissed() throws {
    let machine = try Machine()
    machine.pm.requestRemoval(4)
    // Systems clear all events when they start.
    machine.event = 0xFF
    #expect(!machine.interrupt)
    machine.listen(2)
    #expect(machine.interrupt && machine.read(4) == 1 << 4)
    machine.event = 0xFF
    // Asking again is heard again.
    machine.pm.requestRemoval(4)
    #expect(machine.interrupt)
  }

  @Test func whatMayNotGoIsNotEjected() throws {
    let machine = try Machine()
    machine.pm.setRemovable(1, false)
    #expect(machine.read(12) == 0xFFFF_FFFD)
    machine.write(8, 2)
    #expect(machine.actions.list.withLock { $0 }.isEmpty)
  }

  @Test func otherBusesAreEmpty() throws {
    let machine = try Machine()
    machine.pm.requestRemoval(4)
    machine.write(16, 7)
    #expect(machine.read(16) == 7)
    #expect(machine.read(4) == 0 && machine.read(12) == 0)
    machine.write(8, 1 << 4)
    #expect(machine.actions.list.withLock { $0 }.isEmpty)
    machine.write(16, 0)
    #expect(machine.read(4) == 1 << 4)
  }

  @Test func aRefusalEndsTheRequestAndIsReported() throws {
    let machine = try Machine()
    machine.pm.requestRemoval(6)
    machine.write(0x18, 6)
    machine.write(0x1C, 0)
    #expect(machine.actions.list.withLock { $0 }.isEmpty)
    machine.write(0x1C, 0x80)
    machine.write(0x1C, 0x80)
    machine.write(0x18, 0xFFFF_FFFF)
    machine.write(0x1C, 1)
    #expect(machine.actions.list.withLock { $0 } == [.refused(slot: 6)])
    #expect(machine.read(4) == 0)
  }

  @Test func aResetGivesBackWhatWasWanted() throws {
    let machine = try Machine()
    machine.pm.requestRemoval(6)
    machine.pm.announceInserted(9)
    machine.pm.setRemovable(2, false)
    #expect(machine.pm.takePendingRemovals() == [6])
    #expect(machine.read(0) == 0 && machine.read(4) == 0)
    #expect(machine.read(12) == 0xFFFF_FFFB)
  }

  @Test func onlyAlignedDoublewordsAreRegisters() throws {
    let machine = try Machine()
    machine.pm.requestRemoval(6)
    #expect(machine.bench.ports.read(0xAE04, width: 1, vcpu: VCPUID(0)) == 0xFF)
    machine.bench.ports.write(0xAE08, width: 1, 0x40, vcpu: VCPUID(0))
    #expect(machine.actions.list.withLock { $0 }.isEmpty)
  }
}
