package import DeviceModel
package import PCI
import Shm
import Synchronization

/// The USB controller of the PIIX3, `piix3-usb-uhci`, 8086:7020: two ports with nothing in them.
///
/// Frames pass by the machine's clock. The schedule is looked at every `idlePeriod` while it holds no transfer, and every
/// millisecond while it does, so that a controller that is merely switched on does not keep the host awake.
package final class UHCI: Device, PCIPlaced, BusDevice {
  package static let type = DeviceType(
    name: "piix3-usb-uhci", parent: "pci-uhci-usb", bus: "PCI", description: "",
    properties: PCIPlacement.properties + [
      PropertyDescription("bandwidth", "uint32", default: .unsigned(1280)),
      PropertyDescription("maxframes", "uint32", default: .unsigned(128)),
    ], isUserCreatable: true)

  private static let frame: Int64 = 1_000_000
  private static let idlePeriod: Int64 = 32_000_000
  private static let size: UInt64 = 32

  private struct State {
    var model = UHCIModel()
    /// Virtual time up to which frames have passed.
    var seen: Int64 = 0
    var isBusy = false
    /// Virtual time of the next look at the schedule; nil while stopped.
    var deadline: Int64?
    var clock: (any MachineClock)?
    var timer: (any MachineTimer)?
    var memory: GuestMemory?
    var endpoint: PCIEndpoint?
  }
  private let state = Mutex(State())
  package let placement: PCIPlacement

  package init(_ placement: PCIPlacement) { self.placement = placement }

  package var properties: [(name: String, value: PropertyValue)] {
    placement.values + [("bandwidth", .unsigned(1280)), ("maxframes", .unsigned(128))]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    let layout = PCIBarLayout(index: 4, kind: .io, size: UHCI.size)
    var bars = [layout]
    var windows = [PCIEndpoint.Window(layout, name: "uhci", device: self)]
    let identity = PCIIdentity(
      vendor: 0x8086, device: 0x7020, revision: 1, classCode: 0x0C_0300)
    placement.add(to: &bars, &windows, identity)
    var configuration = PCIConfiguration(
      identity, interruptPin: 4, isMultifunction: placement.isMultifunction, bars: bars)
    // Serial bus release 1.0; legacy support as after reset, which software clears.
    configuration.set8(0x60, 0x10)
    configuration.set16(0xC0, 0x2000)
    configuration.allowWrites(to: 0xC0, count: 2)
    let endpoint = PCIEndpoint(
      configuration: configuration, windows: windows, context: context)
    try endpoint.connect(to: placement.bus, at: placement.address)
    let timer = context.clock.makeTimer { [weak self] in self?.tick() }
    state.withLock { state in
      state.clock = context.clock
      state.timer = timer
      state.memory = context.memory
      state.endpoint = endpoint
    }
  }

  package func unrealize(finished: @escaping @Sendable () -> Void) {
    let (endpoint, timer) = state.withLock { state in
      state.deadline = nil
      state.model = UHCIModel()
      return (state.endpoint, state.timer)
    }
    endpoint?.disconnect()
    timer?.cancel()
    finished()
  }

  package func reset(_ kind: ResetKind) {
    let endpoint = state.withLock { state in
      state.model = UHCIModel()
      state.isBusy = false
      return state.endpoint
    }
    endpoint?.reset()
    update { _ in }
  }

  package func read(_ access: BusAccess) -> UInt64 {
    update { model in
      var value: UInt64 = 0
      for index in 0..<min(access.width, 4) {
        let at = Int(truncatingIfNeeded: access.offset) &+ index
        value |= UInt64(model.read(at)) << UInt64(index * 8)
      }
      return value
    }
  }

  package func write(_ access: BusAccess, _ value: UInt64) {
    update {
      $0.write(
        Int(truncatingIfNeeded: access.offset), width: access.width,
        UInt32(truncatingIfNeeded: value))
    }
  }

  // MARK: -

  /// Executes the schedule of the present frame.
  private func tick() {
    let (memory, isBusMaster) = state.withLock {
      ($0.memory, $0.endpoint?.configuration.isBusMaster ?? false)
    }
    guard let memory else { return }
    // Guest memory is touched under the lock: it is plain memory, and a descriptor is read, changed and written back as one.
    state.withLock { state in
      state.deadline = nil
      guard isBusMaster else { return }
      let frame = state.model.executeFrame(
        load: { memory.load(GuestAddress(UInt64($0)), as: UInt32.self) },
        store: { memory.store(GuestAddress(UInt64($0)), $1) })
      state.isBusy = frame.activeTransfers > 0
      state.seen &+= UHCI.frame
    }
    update { _ in }
  }

  /// Runs `change` with all frames that have passed counted, then brings pin and timer up to date with no lock held.
  @discardableResult
  private func update<R: Sendable>(_ change: (inout UHCIModel) -> R) -> R {
    let (result, level, endpoint, timer, deadline, isNew) = state.withLock { state in
      let now = state.clock?.now ?? 0
      let frames = max(0, now &- state.seen) / UHCI.frame
      state.model.skipFrames(UInt64(frames))
      state.seen &+= frames &* UHCI.frame
      let result = change(&state.model)
      let before = state.deadline
      if !state.model.isRunning {
        state.deadline = nil
        state.seen = now
      } else if before == nil {
        state.deadline = now &+ (state.isBusy ? UHCI.frame : UHCI.idlePeriod)
      }
      return (
        result, state.model.isInterruptAsserted, state.endpoint, state.timer, state.deadline,
        state.deadline != before
      )
    }
    endpoint?.setInterrupt(level)
    if isNew { if let deadline { timer?.arm(at: deadline) } else { timer?.cancel() } }
    return result
  }
}
