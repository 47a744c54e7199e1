import DeviceModel
import Devices
import Shm
import Support
import Synchronization
import Testing

@Suite struct IB700Tests {
  private static let second: Int64 = 1_000_000_000

  @Test func theValueWrittenChoosesTheTime() {
    for value in 0..<16 as Range<UInt8> {
      var model = IB700Model()
      model.write(IB700Model.enablePort, value | 0xF0, at: 5)
      let due = 5 + Int64(30 - 2 * Int(value)) * Self.second
      #expect(model.deadline == due)
      let isEarly = model.expires(at: due - 1)
      let isDue = model.expires(at: due)
      #expect(!isEarly && isDue)
      let isLate = model.expires(at: .max)
      #expect(model.deadline == nil && !isLate)
    }
  }

  @Test func feedingPutsItOffAndDisablingStopsIt() {
    var model = IB700Model()
    model.write(IB700Model.enablePort, 14, at: 0)
    model.write(IB700Model.enablePort, 14, at: Self.second)
    let hasExpired = model.expires(at: 2 * Self.second)
    #expect(!hasExpired)
    model.write(IB700Model.disablePort, 0, at: 2 * Self.second)
    #expect(model.deadline == nil)
    model.write(0x442, 1, at: 0)
    #expect(model.deadline == nil)
  }

  @Test func theMachineHearsOfItOnce() throws {
    let clock = FakeClock()
    let ports = AddressSpace(name: "I/O")
    let requests = Requests()
    let watchdog = IB700()
    try watchdog.realize(
      in: MachineContext(
        ports: ports, deviceMemory: AddressSpace(name: "memory"), memory: GuestMemory(),
        clock: clock, interrupt: { _ in .unconnected }, signalMSI: { _, _ in },
        request: { requests.add($0) }))
    watchdog.reset(.cold)
    let vcpu = VCPUID(0)
    ports.write(0x443, width: 1, 15 - 1, vcpu: vcpu)
    clock.advance(by: Self.second)
    ports.write(0x443, width: 1, 14, vcpu: vcpu)
    clock.advance(by: Self.second)
    #expect(requests.list == [])
    clock.advance(by: Self.second)
    #expect(requests.list == [.watchdogExpired])
    clock.advance(by: 100 * Self.second)
    ports.write(0x443, width: 1, 0, vcpu: vcpu)
    ports.write(0x441, width: 1, 0, vcpu: vcpu)
    clock.advance(by: 100 * Self.second)
    ports.write(0x443, width: 1, 0, vcpu: vcpu)
    watchdog.reset(.warm)
    clock.advance(by: 100 * Self.second)
    #expect(requests.list == [.watchdogExpired])
    #expect(ports.read(0x443, width: 1, vcpu: vcpu) == 0xFF)
  }

  private final class Requests: Sendable {
    private let kept = Mutex<[MachineRequest]>([])
    func add(_ request: MachineRequest) { kept.withLock { $0.append(request) } }
    var list: [MachineRequest] { kept.withLock { $0 } }
  }
}
