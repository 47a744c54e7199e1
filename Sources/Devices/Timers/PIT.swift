package import DeviceModel
import Synchronization

/// The 8254 on the ISA bus, `isa-pit`: ports 0x40 to 0x43, interrupt 0 from counter 0.
package final class PIT: Device, BusDevice {
  package static let type = DeviceType(
    name: "isa-pit", parent: "pit-common", bus: "ISA", description: "",
    properties: [PropertyDescription("iobase", "uint32", default: .unsigned(0xFFFF_FFFF))])

  /// Shortest distance of two interrupts, in clocks: a guest that asks for more gets fewer, not a busy host.
  private static let minimumPeriod: UInt64 = 60

  private struct State {
    var model = PITModel()
    /// Clock up to which rises of OUT 0 have become interrupts.
    var seen: UInt64 = 0
    /// False while the HPET stands in for counter 0.
    var isConnected = true
    var line = InterruptLine.unconnected
    var clock: (any MachineClock)?
    var timer: (any MachineTimer)?
    /// Virtual time for which the timer is to be armed.
    var deadline = Int64.max
  }
  private let state = Mutex(State())

  /// A timer, not yet in a machine.
  package init() {}

  package var properties: [(name: String, value: PropertyValue)] { [("iobase", .address(0x40))] }

  package func realize(in context: MachineContext) throws(DeviceError) {
    let timer = context.clock.makeTimer { [weak self] in self?.update { _, _ in } }
    state.withLock { state in
      state.line = context.interrupt(GSI(0))
      state.clock = context.clock
      state.timer = timer
    }
    context.ports.add(
      BusRegion(name: "pit", start: 0x40, size: 4, device: self, maximumWidth: 1))
  }

  package func reset(_ kind: ResetKind) { update { model, _ in model = PITModel() } }

  package func read(_ access: BusAccess) -> UInt64 {
    update { UInt64($0.read(UInt8(truncatingIfNeeded: access.offset), at: $1)) }
  }

  package func write(_ access: BusAccess, _ value: UInt64) {
    update {
      $0.write(
        UInt8(truncatingIfNeeded: access.offset), UInt8(truncatingIfNeeded: value), at: $1)
    }
  }

  /// Connects or cuts counter 0 from interrupt 0: the HPET's legacy replacement (IA-PC HPET 1.0a, 2.3.5).
  package func setInterruptConnected(_ connected: Bool) {
    state.withLock { $0.isConnected = connected }
    update { _, _ in }
  }

  /// A copy of the model, for inspection and saving.
  package var snapshot: PITModel { state.withLock { $0.model } }

  func readPort61() -> UInt8 { update { $0.readPort61(at: $1) } }

  func writePort61(_ value: UInt8) { update { $0.writePort61(value, at: $1) } }

  // MARK: -

  /// Runs `change` at the present clock, then brings line and timer up to date with no lock held.
  @discardableResult
  private func update<R: Sendable>(_ change: (inout PITModel, UInt64) -> R) -> R {
    let (result, hasRisen, isNewDeadline, line) = state.withLock { state in
      let now = Self.clocks(state.clock?.now ?? 0)
      let rise = state.model.counter0.nextRise(after: state.seen)
      state.model.advance(to: now)
      let hasRisen = rise.map { $0 <= now } ?? false
      state.seen = now
      let result = change(&state.model, now)
      let deadline = Self.deadline(state, now)
      let isNew = deadline != state.deadline || hasRisen
      state.deadline = deadline
      return (result, hasRisen && state.isConnected, isNew, state.line)
    }
    if hasRisen { line.lower() }
    if hasRisen { line.raise() }
    line.settle {
      state.withLock { state in
        state.isConnected && state.model.counter0.level(at: Self.clocks(state.clock?.now ?? 0))
      }
    }
    if isNewDeadline { armTimer() }
    return result
  }

  private static func deadline(_ state: State, _ now: UInt64) -> Int64 {
    guard state.isConnected else { return Int64.max }
    var from = now
    if let period = state.model.counter0.period, period < minimumPeriod {
      from = now &+ minimumPeriod
    }
    guard let rise = state.model.counter0.nextRise(after: from) else { return Int64.max }
    return nanoseconds(rise)
  }

  private func armTimer() {
    while true {
      let (timer, wanted) = state.withLock { ($0.timer, $0.deadline) }
      guard let timer else { return }
      if wanted == Int64.max { timer.cancel() } else { timer.arm(at: wanted) }
      // Another thread may have computed a newer deadline and armed it before us.
      if state.withLock({ $0.deadline }) == wanted { return }
    }
  }

  /// Clocks at a virtual time, rounded down.
  private static func clocks(_ nanoseconds: Int64) -> UInt64 {
    let product = UInt64(max(nanoseconds, 0)).multipliedFullWidth(by: PITModel.frequency)
    return UInt64(1_000_000_000).dividingFullWidth(product).quotient
  }

  /// The virtual time at which a clock begins.
  private static func nanoseconds(_ clocks: UInt64) -> Int64 {
    let product = clocks.multipliedFullWidth(by: 1_000_000_000)
    guard product.high < PITModel.frequency / 2 else { return Int64.max }
    let (quotient, remainder) = PITModel.frequency.dividingFullWidth(product)
    return Int64(quotient) &+ (remainder == 0 ? 0 : 1)
  }
}

/// Port 0x61 of a PC, `isa-pcspk`: gate and output of the timer's counter 2, refresh toggle. No sound yet.
package final class PCSpeaker: Device, BusDevice {
  package static let type = DeviceType(
    name: "isa-pcspk", parent: "isa-device", bus: "ISA", description: "",
    properties: [
      PropertyDescription("audiodev", "str", "ID of an audiodev to use as a backend"),
      PropertyDescription("iobase", "uint32", default: .unsigned(0x61)),
      PropertyDescription("migrate", "bool", default: .bool(true)),
    ])

  private let pit: PIT

  /// The port of this timer.
  package init(pit: PIT) { self.pit = pit }

  package var properties: [(name: String, value: PropertyValue)] { [("iobase", .address(0x61))] }

  package func realize(in context: MachineContext) throws(DeviceError) {
    context.ports.add(
      BusRegion(name: "pcspk", start: 0x61, size: 1, device: self, maximumWidth: 1))
  }

  package func reset(_ kind: ResetKind) { pit.writePort61(0) }

  package func read(_ access: BusAccess) -> UInt64 { UInt64(pit.readPort61()) }

  package func write(_ access: BusAccess, _ value: UInt64) {
    pit.writePort61(UInt8(truncatingIfNeeded: value))
  }
}
