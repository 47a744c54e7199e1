package import DeviceModel
package import Host
package import PCI
import Synchronization

/// `virtio-serial-pci`.
package final class VirtioSerialPCI: VirtioFunction {
  package static let type = DeviceType(
    name: "virtio-serial-pci", parent: "virtio-serial-pci-base", bus: "PCI", description: "",
    properties: PCIPlacement.properties + VirtioProperties.common + [
      PropertyDescription("class", "uint32", default: .unsigned(0)),
      PropertyDescription("emergency-write", "bool", default: .bool(true), "on/off"),
      PropertyDescription("max_ports", "uint32", default: .unsigned(31)),
      PropertyDescription("vectors", "uint32", default: .unsigned(2)),
    ], isUserCreatable: true)

  /// Where ports are plugged in.
  package static let busType = "virtio-serial-bus"

  package let serial: VirtioSerial
  package let placement: PCIPlacement
  /// The name of its bus.
  package let busName: String
  package let settings: VirtioPCI.Settings
  private let takesEmergencyWrites: Bool
  private let transport = Mutex<VirtioPCI?>(nil)

  /// `settings.classCode` is the function's.
  package init(
    _ placement: PCIPlacement, _ settings: VirtioPCI.Settings, maximumPorts: Int,
    takesEmergencyWrites: Bool, busName: String
  ) {
    self.placement = placement
    self.settings = settings
    self.busName = busName
    self.takesEmergencyWrites = takesEmergencyWrites
    serial = VirtioSerial(
      maximumPorts: maximumPorts, takesEmergencyWrites: takesEmergencyWrites)
  }

  package var properties: [(name: String, value: PropertyValue)] {
    placement.values + settings.values + [
      ("class", .unsigned(UInt64(settings.classCode >> 8))),
      ("vectors", .unsigned(UInt64(settings.vectors))),
      ("max_ports", .unsigned(UInt64(serial.maximumPorts))),
      ("emergency-write", .bool(takesEmergencyWrites)),
    ]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    let transport = VirtioPCI(serial, settings, in: context)
    serial.attach(to: transport)
    try transport.connect(at: placement, in: context)
    self.transport.withLock { $0 = transport }
  }

  package func reset(_ kind: ResetKind) { transport.withLock { $0 }?.resetAll() }

  package func unrealize(finished: @escaping @Sendable () -> Void) {
    transport.withLock { $0 }?.disconnect()
    finished()
  }
}

/// Properties of a port.
private let portProperties = [
  PropertyDescription("chardev", "str", "ID of a chardev to use as a backend"),
  PropertyDescription("name", "str"),
  PropertyDescription("nr", "uint32", default: .unsigned(0xFFFF_FFFF)),
]

/// `virtserialport`: a stream of bytes between a program in the guest and a character device; `virtconsole`: one that the guest takes for
/// a terminal, such as `/dev/hvc0`.
package final class VirtSerialPort: Device {
  package static let type = DeviceType(
    name: "virtserialport", parent: "virtio-serial-port", bus: VirtioSerialPCI.busType,
    description: "", properties: portProperties, isUserCreatable: true)
  package static let consoleType = DeviceType(
    name: "virtconsole", parent: "virtserialport", bus: VirtioSerialPCI.busType, description: "",
    properties: portProperties, isUserCreatable: true)

  package let port: VirtioSerialPort
  private let serial: VirtioSerial
  private let number: UInt32?

  /// `number` nil is the next free one; a console's is 0 when that is free.
  package init(_ port: VirtioSerialPort, on serial: VirtioSerial, number: UInt32?) {
    self.port = port
    self.serial = serial
    self.number = number
  }

  package var typeInfo: DeviceType {
    port.isConsole ? VirtSerialPort.consoleType : VirtSerialPort.type
  }

  package var properties: [(name: String, value: PropertyValue)] {
    MainLoop.assumeIsolated {
      [
        ("nr", .unsigned(UInt64(port.number ?? 0))), ("name", .string(port.name)),
      ]
    }
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    var failure: DeviceError?
    MainLoop.assumeIsolated {
      do throws(DeviceError) { try serial.add(port, number: number) } catch { failure = error }
    }
    if let failure { throw failure }
  }

  package func reset(_ kind: ResetKind) {}

  package func unrealize(finished: @escaping @Sendable () -> Void) {
    MainLoop.assumeIsolated { serial.remove(port) }
    finished()
  }
}
