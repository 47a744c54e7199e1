package import DeviceModel
package import PCI
import Shm
import Synchronization

/// The IDE function of the PIIX3, `piix3-ide`, 8086:7010 (Intel 82371SB, 2.3 and 2.7): two channels at the ports and interrupts of old, and
/// their bus masters.
package final class PIIX3IDE: Device, PCIPlaced {
  package static let type = DeviceType(
    name: "piix3-ide", parent: "pci-ide", bus: "PCI", description: "",
    properties: PCIPlacement.properties, isHotpluggable: false)
  /// Where a PC has it.
  package static let address = PCIAddress(device: 1, function: 1)

  /// Command block, control register, interrupt of each channel.
  private static let places: [(command: UInt64, control: UInt64, irq: UInt32)] = [
    (0x1F0, 0x3F6, 14), (0x170, 0x376, 15),
  ]

  package let placement: PCIPlacement
  private struct Parts {
    var channels: [IDEPort] = []
    var endpoint: PCIEndpoint?
  }
  private let parts = Mutex(Parts())

  package init(_ placement: PCIPlacement) { self.placement = placement }

  package var properties: [(name: String, value: PropertyValue)] { placement.values }

  /// The channels, once realized.
  package var channels: [IDEPort] { parts.withLock { $0.channels } }

  package func realize(in context: MachineContext) throws(DeviceError) {
    let layout = PCIBarLayout(index: 4, kind: .io, size: 16)
    var configuration = PCIConfiguration(
      PCIIdentity(vendor: 0x8086, device: 0x7010, classCode: 0x01_0180), bars: [layout])
    configuration.set16(PCIConfiguration.Register.status, 0x0280)
    // Timing and decoding of the channels (2.3.9): kept, the ports always answer.
    configuration.allowWrites(to: 0x40, count: 5)
    let channels = PIIX3IDE.places.map {
      IDEPort(context.memory, context.interrupt(GSI($0.irq)))
    }
    for (index, (channel, place)) in zip(channels, PIIX3IDE.places).enumerated() {
      context.ports.add(
        BusRegion(
          name: "ide\(index)", start: place.command, size: 8, device: channel, maximumWidth: 4))
      context.ports.add(
        BusRegion(
          name: "ide\(index)-control", start: place.control, size: 1,
          device: ControlWindow(channel), maximumWidth: 1))
    }
    let endpoint = PCIEndpoint(
      configuration: configuration,
      windows: [
        .init(layout, name: "piix-bmdma", device: MasterWindow(channels), maximumWidth: 4)
      ], context: context)
    try endpoint.connect(to: placement.bus, at: placement.address)
    parts.withLock { parts in
      parts.channels = channels
      parts.endpoint = endpoint
    }
  }

  package func reset(_ kind: ResetKind) {
    let (channels, endpoint) = parts.withLock { ($0.channels, $0.endpoint) }
    for channel in channels { channel.reset() }
    endpoint?.reset()
  }

  /// The control register, which reads as the status without its effects.
  private final class ControlWindow: BusDevice {
    private let channel: IDEPort
    init(_ channel: IDEPort) { self.channel = channel }
    func read(_ access: BusAccess) -> UInt64 { UInt64(channel.alternateStatus) }
    func write(_ access: BusAccess, _ value: UInt64) {
      channel.writeControl(UInt8(truncatingIfNeeded: value))
    }
  }

  /// Eight ports of each channel: command, status, table.
  private final class MasterWindow: BusDevice {
    private let channels: [IDEPort]
    init(_ channels: [IDEPort]) { self.channels = channels }

    func read(_ access: BusAccess) -> UInt64 {
      let master = channels[Int(access.offset >> 3 & 1)].master
      let registers =
        UInt64(master.command) | UInt64(master.status) << 16 | UInt64(master.table) << 32
      return registers >> ((access.offset & 7) * 8)
    }

    func write(_ access: BusAccess, _ value: UInt64) {
      let channel = channels[Int(access.offset >> 3 & 1)]
      for index in 0..<access.width {
        let byte = UInt8(truncatingIfNeeded: value >> UInt64(index * 8))
        let at = (access.offset &+ UInt64(index)) & 7
        switch at {
        case 0: channel.writeMasterCommand(byte)
        case 2: channel.changeMaster { $0.writeStatus(byte) }
        case 4...7:
          channel.changeMaster { master in
            let shift = UInt32(at - 4) * 8
            master.table = (master.table & ~(0xFF << shift) | UInt32(byte) << shift) & ~3
          }
        default: break
        }
      }
    }
  }
}
