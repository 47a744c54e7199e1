import DeviceModel
import Devices
import Shm
import Support
import Synchronization

/// A board for timer devices: ports, device memory, recorded lines, a clock that the test moves.
final class TimerBench: Sendable {
  let clock: FakeClock
  let ports = AddressSpace(name: "io")
  let memory = AddressSpace(name: "memory")
  let lines = (0..<24).map { _ in RecordedLine() }
  let requests = Mutex<[MachineRequest]>([])
  let messages = Mutex<[[UInt64]]>([])

  init(clock: FakeClock = FakeClock()) { self.clock = clock }

  var context: MachineContext {
    MachineContext(
      ports: ports, deviceMemory: memory, memory: GuestMemory(), clock: clock,
      interrupt: { [lines] in lines[Int($0.rawValue)].line },
      signalMSI: { [self] address, data in
        messages.withLock { $0.append([address, UInt64(data)]) }
      },
      request: { [self] request in requests.withLock { $0.append(request) } })
  }

  func out(_ port: UInt64, _ value: UInt8) {
    ports.write(port, width: 1, UInt64(value), vcpu: VCPUID(0))
  }
  func `in`(_ port: UInt64) -> UInt8 {
    UInt8(truncatingIfNeeded: ports.read(port, width: 1, vcpu: VCPUID(0)))
  }
}
