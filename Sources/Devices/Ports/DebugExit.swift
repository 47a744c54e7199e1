package import DeviceModel
import Synchronization

/// Ends the process with a status that the guest chooses, `isa-debug-exit`: writing V ends it with V * 2 + 1.
package final class DebugExit: Device, BusDevice {
  package static let type = DeviceType(
    name: "isa-debug-exit", parent: "isa-device", bus: "ISA", description: "",
    properties: [
      PropertyDescription("iobase", "uint32", default: .unsigned(0x501)),
      PropertyDescription("iosize", "uint32", default: .unsigned(2)),
    ], isUserCreatable: true)

  package let port: UInt16
  package let size: UInt32
  private let request = Mutex<RequestSink?>(nil)

  package init(port: UInt16 = 0x501, size: UInt32 = 2) {
    self.port = port
    self.size = size
  }

  package var properties: [(name: String, value: PropertyValue)] {
    [("iobase", .address(UInt64(port))), ("iosize", .address(UInt64(size)))]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    request.withLock { $0 = RequestSink(context.request) }
    context.ports.add(
      BusRegion(name: "isa-debug-exit", start: UInt64(port), size: UInt64(size), device: self))
  }

  package func reset(_ kind: ResetKind) {}

  package func read(_ access: BusAccess) -> UInt64 { 0 }

  package func write(_ access: BusAccess, _ value: UInt64) {
    let status = Int32(truncatingIfNeeded: value) &* 2 | 1
    request.withLock { $0 }?.send(.exit(status: status & 0xFF))
  }
}
