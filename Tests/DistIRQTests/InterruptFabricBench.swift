import CPU
import DeviceModel
import DistIRQ
import Support
import Synchronization
import Testing

/// A machine's interrupts without vCPUs: kicks are counted.
final class Bench: Sendable {
  let clock = FakeClock()
  let fabric: InterruptFabric
  let kicks: [Counter]
  let ports = AddressSpace(name: "io")
  let memory = AddressSpace(name: "memory")

  final class Counter: Sendable {
    let count = Atomic<Int>(0)
    var value: Int { count.load(ordering: .relaxed) }
  }

  init(
    _ count: Int, ids: (Int) -> UInt32 = { UInt32($0) }, enabled: Bool = true,
    configure: (inout InterruptFabric.Configuration) -> Void = { _ in }
  ) {
    var configuration = InterruptFabric.Configuration(
      processors: (0..<count).map { .init(apicID: APICID(ids($0))) })
    configure(&configuration)
    fabric = InterruptFabric(configuration, clock: clock)
    kicks = (0..<count).map { _ in Counter() }
    fabric.map(ports: ports, deviceMemory: memory)
    for index in 0..<count {
      guard let unit = fabric.localAPIC(VCPUID(UInt32(index))) else { continue }
      let counter = kicks[index]
      unit.connect(VCPUHooks(kick: { counter.count.add(1, ordering: .relaxed) }))
      if enabled { unit.write(offset: 0xF0, width: 4, 0x1FF) }
    }
  }

  func apic(_ index: Int) -> LocalAPICUnit {
    guard let unit = fabric.localAPIC(VCPUID(UInt32(index))) else {
      preconditionFailure("vCPU \(index) is not local")
    }
    return unit
  }

  /// Programs an IOAPIC pin through its register page.
  func route(pin: Int, _ low: UInt32, destination: UInt32 = 0) {
    for (register, value) in [(0x11 + 2 * pin, destination << 24), (0x10 + 2 * pin, low)] {
      memory.write(0xFEC0_0000, width: 4, UInt64(register), vcpu: VCPUID(0))
      memory.write(0xFEC0_0010, width: 4, UInt64(value), vcpu: VCPUID(0))
    }
  }

  func initialisePIC() {
    for (port, value) in [
      (0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0xA0, 0x11), (0xA1, 0x28), (0xA1, 2),
      (0xA1, 1),
    ] as [(UInt64, UInt64)] {
      ports.write(port, width: 1, value, vcpu: VCPUID(0))
    }
  }

  /// The vCPUs that have a vector pending.
  func pending(_ vector: UInt8) -> [Int] {
    kicks.indices.filter { apic($0).snapshot.irr.contains(vector) }
  }
}
