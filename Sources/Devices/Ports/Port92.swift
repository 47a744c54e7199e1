package import DeviceModel
import Synchronization

/// System control port A, `port92`: fast A20 in bit 1, fast reset in bit 0 (a reset on its 0 to 1 edge).
package final class Port92: Device, BusDevice {
  package static let type = DeviceType(
    name: "port92", parent: "isa-device", bus: "ISA", description: "")

  private let gate: A20Gate
  private let register = Atomic<UInt8>(0)
  private let request = Mutex<RequestSink?>(nil)

  package init(gate: A20Gate) { self.gate = gate }

  package func realize(in context: MachineContext) throws(DeviceError) {
    request.withLock { $0 = RequestSink(context.request) }
    context.ports.add(
      BusRegion(name: "port92", start: 0x92, size: 1, device: self, maximumWidth: 1))
  }

  package func reset(_ kind: ResetKind) { register.store(0, ordering: .relaxed) }

  package func read(_ access: BusAccess) -> UInt64 {
    let a20: UInt8 = gate.isOpen ? 2 : 0
    return UInt64(register.load(ordering: .relaxed) & ~2 | a20)
  }

  package func write(_ access: BusAccess, _ value: UInt64) {
    let new = UInt8(truncatingIfNeeded: value)
    let old = register.exchange(new, ordering: .relaxed)
    gate.isOpen = new & 2 != 0
    if new & ~old & 1 != 0 { request.withLock { $0 }?.send(.reset) }
  }
}
