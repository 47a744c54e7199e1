package import DeviceModel
import Synchronization

/// The watchdog `ib700` on the ISA bus: when the guest does not feed it in time, the machine does what `-action watchdog=` says.
package final class IB700: Device, BusDevice {
  package static let type = DeviceType(
    name: "ib700", parent: "isa-device", bus: "ISA", description: "iBASE 700",
    isUserCreatable: true)

  private struct State {
    var model = IB700Model()
    var clock: (any MachineClock)?
    var timer: (any MachineTimer)?
    var request: RequestSink?
  }
  private let state = Mutex(State())

  package init() {}

  package func realize(in context: MachineContext) throws(DeviceError) {
    let timer = context.clock.makeTimer { [weak self] in self?.expire() }
    state.withLock { state in
      state.clock = context.clock
      state.timer = timer
      state.request = RequestSink(context.request)
    }
    for port in [IB700Model.disablePort, IB700Model.enablePort] {
      context.ports.add(
        BusRegion(
          name: "ib700", start: UInt64(port), size: 1,
          device: port == IB700Model.enablePort ? self : Disable(self),
          maximumWidth: 1))
    }
  }

  package func reset(_ kind: ResetKind) { change { model, _ in model = IB700Model() } }

  package func read(_ access: BusAccess) -> UInt64 { 0xFF }

  package func write(_ access: BusAccess, _ value: UInt64) {
    change { $0.write(IB700Model.enablePort, UInt8(truncatingIfNeeded: value), at: $1) }
  }

  fileprivate func disable() { change { $0.write(IB700Model.disablePort, 0, at: $1) } }

  // MARK: -

  private func change(_ body: (inout IB700Model, Int64) -> Void) {
    let (timer, deadline) = state.withLock { state in
      body(&state.model, state.clock?.now ?? 0)
      return (state.timer, state.model.deadline)
    }
    if let deadline { timer?.arm(at: deadline) } else { timer?.cancel() }
  }

  private func expire() {
    let (expires, request) = state.withLock { state in
      (state.model.expires(at: state.clock?.now ?? 0), state.request)
    }
    if expires { request?.send(.watchdogExpired) }
  }

  /// The port that stops the timer.
  private final class Disable: BusDevice {
    private unowned let watchdog: IB700
    init(_ watchdog: IB700) { self.watchdog = watchdog }
    func read(_ access: BusAccess) -> UInt64 { 0xFF }
    func write(_ access: BusAccess, _ value: UInt64) { watchdog.disable() }
  }
}
