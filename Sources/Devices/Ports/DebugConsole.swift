package import DeviceModel

/// A port whose written bytes go to a character backend, `isa-debugcon`: SeaBIOS writes its log to 0x402.
///
/// A backend that is full makes the device keep up to 64 KiB; what comes on top is lost, since the port cannot say that it is busy.
package final class DebugConsole: Device, BusDevice {
  package static let type = DeviceType(
    name: "isa-debugcon", parent: "isa-device", bus: "ISA", description: "",
    properties: [
      PropertyDescription("chardev", "str", "ID of a chardev to use as a backend"),
      PropertyDescription("iobase", "uint32", default: .unsigned(0xE9)),
      PropertyDescription("readback", "uint32", default: .unsigned(0xE9)),
    ], isUserCreatable: true)

  package let port: UInt16
  private let readback: UInt8

  private let output = CharacterOutput()

  /// `readback` is what reading the port answers: software probes for the console by it.
  package init(port: UInt16 = 0xE9, readback: UInt8 = 0xE9) {
    self.port = port
    self.readback = readback
  }

  package var properties: [(name: String, value: PropertyValue)] {
    [("iobase", .address(UInt64(port))), ("readback", .address(UInt64(readback)))]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    context.ports.add(
      BusRegion(name: "isa-debugcon", start: UInt64(port), size: 1, device: self, maximumWidth: 1))
  }

  package func reset(_ kind: ResetKind) {}

  /// Connects a backend, in place of an earlier one.
  package func attach(_ sink: CharacterSink) { output.attach(sink) }

  /// The backend can take output again. Any thread.
  package func backendWritable() { output.backendWritable() }

  package func read(_ access: BusAccess) -> UInt64 { UInt64(readback) }

  package func write(_ access: BusAccess, _ value: UInt64) {
    output.enqueue(UInt8(truncatingIfNeeded: value))
    output.transmit()
  }
}
