package import DeviceModel
package import PCI
import Synchronization

/// Where PCI interrupt pins go on the `pc` board: four PIRQ wires, each routed to an ISA interrupt (Intel 82371SB, 2.2.7).
package struct PIRQRouting: Equatable, Sendable {
  /// Registers 0x60 to 0x63: bit 7 disables, bits 0 to 3 are the ISA interrupt.
  package private(set) var routes: [UInt8] = [0x80, 0x80, 0x80, 0x80]
  private var sources: [Set<PCIPinSource>] = [[], [], [], []]

  package init() {}

  /// The PIRQ (0 to 3) that a pin is wired to: rotated by device number, and device 1, the bridge's own, has INTA# on PIRQA.
  package static func pirq(device: UInt8, pin: UInt8) -> Int {
    Int((device &+ pin &- 1 &- 1) & 3)
  }

  package mutating func setRoute(_ pirq: Int, _ value: UInt8) { routes[pirq & 3] = value }

  package mutating func set(_ source: PCIPinSource, _ level: Bool) {
    let pirq = PIRQRouting.pirq(device: source.device, pin: source.pin)
    if level { sources[pirq].insert(source) } else { sources[pirq].remove(source) }
  }

  /// The ISA interrupts (bit by number) that PCI devices assert now.
  package var asserted: UInt16 {
    var lines: UInt16 = 0
    for pirq in 0..<4 where routes[pirq] & 0x80 == 0 && !sources[pirq].isEmpty {
      let irq = routes[pirq] & 15
      // 0 to 2, 8 and 13 belong to the board (2.2.7: reserved).
      if irq > 2, irq != 8, irq != 13 { lines |= 1 << UInt16(irq) }
    }
    return lines
  }
}

/// The PCI to ISA bridge, `PIIX3`, 8086:7000: routes PCI interrupts. Its reset control register is at `PCIHost`.
package final class PIIX3: Device, PCIFunction {
  package static let type = DeviceType(
    name: "PIIX3", parent: "pci-device", bus: "PCI", description: "ISA bridge")
  package static let address = PCIAddress(device: 1)

  private static let routeRegisters = 0x60...0x63

  private let bus: PCIBus
  private struct State {
    var configuration = PIIX3.initial()
    var routing = PIRQRouting()
    var lines: [InterruptLine] = []
  }
  private let state = Mutex(State())

  package init(bus: PCIBus) { self.bus = bus }

  private static func initial() -> PCIConfiguration {
    var configuration = PCIConfiguration(
      PCIIdentity(vendor: 0x8086, device: 0x7000, classCode: 0x06_0100), isMultifunction: true)
    configuration.set16(PCIConfiguration.Register.command, 0x0007)
    configuration.set16(PCIConfiguration.Register.status, 0x0200)
    // Power-on values of the data sheet's registers that software reads back.
    let values: [(Int, UInt8)] = [
      (0x4C, 0x4D), (0x4E, 0x03), (0x60, 0x80), (0x61, 0x80), (0x62, 0x80), (0x63, 0x80),
      (0x69, 0x02), (0x70, 0x80), (0x76, 0x0C), (0x77, 0x0C), (0x78, 0x02), (0xA0, 0x08),
      (0xA8, 0x0F),
    ]
    for (offset, value) in values { configuration.set8(offset, value) }
    configuration.allowWrites(to: 0x40, count: 0xC0)
    return configuration
  }

  package var properties: [(name: String, value: PropertyValue)] {
    [("addr", .string(PIIX3.address.description)), ("multifunction", .bool(true))]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    try bus.plug(self, at: PIIX3.address)
    let lines = (0..<16).map { context.interrupt(GSI($0)) }
    state.withLock { $0.lines = lines }
    bus.setRouter { [weak self] source, level in
      self?.update { $0.routing.set(source, level) }
    }
  }

  package func reset(_ kind: ResetKind) {
    update { state in
      state.configuration = PIIX3.initial()
      state.routing = PIRQRouting()
    }
  }

  /// PIRQA to PIRQD's registers, for the monitor and for boot without firmware.
  package var routes: [UInt8] { state.withLock { $0.routing.routes } }

  package func readConfiguration(_ offset: Int, width: Int) -> UInt32 {
    state.withLock { $0.configuration.read(offset, width: width) }
  }

  package func writeConfiguration(_ offset: Int, width: Int, _ value: UInt32) {
    update { state in
      state.configuration.write(offset, width: width, value)
      for (pirq, register) in PIIX3.routeRegisters.enumerated() {
        let route = state.configuration.bytes[register] & 0x8F
        state.configuration.set8(register, route)
        state.routing.setRoute(pirq, route)
      }
    }
  }

  private func update(_ change: (inout State) -> Void) {
    let (changed, lines) = state.withLock { state in
      let before = state.routing.asserted
      change(&state)
      return (before ^ state.routing.asserted, state.lines)
    }
    guard changed != 0 else { return }
    for (irq, line) in lines.enumerated() where changed & (1 << UInt16(irq)) != 0 {
      line.settle { state.withLock { $0.routing.asserted & (1 << UInt16(irq)) != 0 } }
    }
  }
}
