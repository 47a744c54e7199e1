package import DeviceModel
import Host
package import PCI
import Synchronization

/// The host bridge's CPU side, `i440FX-pcihost`: ports 0xCF8 to 0xCFF in front of bus 0.
///
/// One region for all eight ports, since a doubleword at 0xCF8 and a byte at 0xCF9 are different registers.
package final class PCIHost: Device, BusDevice {
  package static let type = DeviceType(
    name: "i440FX-pcihost", parent: "pci-host-bridge", bus: "System", description: "",
    properties: [
      PropertyDescription("pci-hole64-size", "size", default: .unsigned(2 << 30)),
      PropertyDescription("short_root_bus", "uint32", default: .unsigned(0)),
    ])

  package let bus: PCIBus
  private let access = Mutex(PCIConfigurationAccess())
  /// Bit 1 of the reset control register (system reset type); bit 2 is an action.
  private let resetType = Atomic<UInt8>(0)
  private let request = Mutex<RequestSink?>(nil)

  package init(bus: PCIBus) { self.bus = bus }

  package func realize(in context: MachineContext) throws(DeviceError) {
    request.withLock { $0 = RequestSink(context.request) }
    context.ports.add(
      BusRegion(name: "pci-conf", start: 0xCF8, size: 8, device: self, maximumWidth: 4))
  }

  package func reset(_ kind: ResetKind) {
    access.withLock { $0 = PCIConfigurationAccess() }
    resetType.store(0, ordering: .relaxed)
  }

  package func read(_ access: BusAccess) -> UInt64 {
    let (target, latch) = self.access.withLock {
      ($0.target(offset: access.offset, width: access.width), $0.address)
    }
    switch target {
    case .addressLatch: return UInt64(latch)
    case .resetControl: return UInt64(resetType.load(ordering: .relaxed))
    case .configuration(let address, let offset):
      guard let function = bus.function(at: address) else { return UInt64.max }
      let value = function.readConfiguration(offset, width: access.width)
      trace(.pciCfgRead, address, offset, "->", value)
      return UInt64(value)
    case .nothing: return UInt64.max
    }
  }

  package func write(_ access: BusAccess, _ value: UInt64) {
    let target = self.access.withLock { $0.target(offset: access.offset, width: access.width) }
    let value32 = UInt32(truncatingIfNeeded: value)
    switch target {
    case .addressLatch: self.access.withLock { $0.latch(value32) }
    case .resetControl:
      resetType.store(UInt8(truncatingIfNeeded: value) & 2, ordering: .relaxed)
      if value & 4 != 0 { request.withLock { $0 }?.send(.reset) }
    case .configuration(let address, let offset):
      trace(.pciCfgWrite, address, offset, "<-", value32)
      bus.function(at: address)?.writeConfiguration(offset, width: access.width, value32)
    case .nothing: break
    }
  }

  private func trace(
    _ event: TraceEvent, _ address: PCIAddress, _ offset: Int, _ arrow: String, _ value: UInt32
  ) {
    Trace.write(
      event,
      "\(String(address.device, radix: 16)).\(address.function) @\(Trace.hex(UInt64(offset)))"
        + " \(arrow) \(Trace.hex(UInt64(value)))")
  }
}
