package import DeviceModel
import Synchronization

/// The paravirtual panic notifier, `pvpanic`: the guest's kernel writes an event's bit when it panics (QEMU docs, specs/pvpanic).
package final class PVPanic: Device, BusDevice {
  package static let type = DeviceType(
    name: "pvpanic", parent: "isa-device", bus: "ISA", description: "",
    properties: [
      PropertyDescription("events", "uint8", default: .unsigned(3)),
      PropertyDescription("ioport", "uint16", default: .unsigned(0x505)),
    ], isUserCreatable: true)

  /// Bit 0: the guest panicked.
  package static let panicked: UInt8 = 1
  /// Bit 1: it panicked and goes on into a crash kernel.
  package static let crashLoaded: UInt8 = 2

  package let port: UInt16
  /// Which events the guest may report; it reads this.
  package let events: UInt8
  private let request = Mutex<RequestSink?>(nil)

  package init(port: UInt16 = 0x505, events: UInt8 = 3) {
    self.port = port
    self.events = events
  }

  package var properties: [(name: String, value: PropertyValue)] {
    [("ioport", .address(UInt64(port))), ("events", .address(UInt64(events)))]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    request.withLock { $0 = RequestSink(context.request) }
    context.ports.add(
      BusRegion(name: "pvpanic", start: UInt64(port), size: 1, device: self, maximumWidth: 1))
  }

  package func reset(_ kind: ResetKind) {}

  package func read(_ access: BusAccess) -> UInt64 { UInt64(events) }

  package func write(_ access: BusAccess, _ value: UInt64) {
    let event = UInt8(truncatingIfNeeded: value)
    let request = request.withLock { $0 }
    if event & PVPanic.panicked != 0 {
      request?.send(.panicked(crashLoaded: false))
    } else if event & PVPanic.crashLoaded != 0 {
      request?.send(.panicked(crashLoaded: true))
    }
  }
}
