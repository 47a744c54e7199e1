package import DeviceModel
import Synchronization

/// Ports that a PC answers but that do nothing here: 0x80 (the diagnostic display, also the classic I/O delay) and 0xF0 (clears the
/// coprocessor's error line, which is never raised: errors are exceptions, CR0.NE).
///
/// Reads answer all ones, as on the `pc` board of QEMU.
package final class ScratchPorts: Device, BusDevice {
  package static let type = DeviceType(
    name: "ioport80", parent: "isa-device", bus: "ISA", description: "")

  private let last = Atomic<UInt8>(0)

  package init() {}

  /// The last power-on self test code written to port 0x80.
  package var code: UInt8 { last.load(ordering: .relaxed) }

  package func realize(in context: MachineContext) throws(DeviceError) {
    context.ports.add(
      BusRegion(name: "ioport80", start: 0x80, size: 1, device: self, maximumWidth: 1))
    context.ports.add(
      BusRegion(name: "ioportF0", start: 0xF0, size: 1, device: FloatingPort(), maximumWidth: 1))
  }

  package func reset(_ kind: ResetKind) {}

  package func read(_ access: BusAccess) -> UInt64 { 0xFF }

  package func write(_ access: BusAccess, _ value: UInt64) {
    last.store(UInt8(truncatingIfNeeded: value), ordering: .relaxed)
  }
}

/// Takes writes, answers all ones.
private final class FloatingPort: BusDevice {
  func read(_ access: BusAccess) -> UInt64 { UInt64.max }
  func write(_ access: BusAccess, _ value: UInt64) {}
}
