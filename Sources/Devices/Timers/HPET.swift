package import DeviceModel
import Synchronization

/// The high precision event timer, `hpet`: 1 KiB of registers at 0xFED0_0000.
package final class HPET: Device, BusDevice {
  package static let type = DeviceType(
    name: "hpet", parent: "sys-bus-device", bus: "System", description: "",
    properties: [
      PropertyDescription("hpet-intcap", "uint32", default: .unsigned(0)),
      PropertyDescription("hpet-offset-saved", "bool", default: .bool(true)),
      PropertyDescription("msi", "bool", default: .bool(false)),
      PropertyDescription("timers", "uint8", default: .unsigned(3)),
    ])

  /// Physical address of the registers, named by the ACPI HPET table.
  package static let address: UInt64 = 0xFED0_0000
  /// General capabilities, low half: the ACPI table's event timer block ID.
  package static let blockID: UInt32 = 0x8086_A201

  private struct State {
    var model: HPETModel
    var lines: [InterruptLine] = []
    /// Inputs that are up.
    var raised: UInt32 = 0
    var clock: (any MachineClock)?
    var timer: (any MachineTimer)?
    var deadline = Int64.max
    var signalMSI: (@Sendable (UInt64, UInt32) -> Void)?
  }
  private let state: Mutex<State>
  private let inputs: UInt32
  private let hasMessages: Bool
  private let legacyChanged: @Sendable (Bool) -> Void

  /// `inputs` are the interrupt inputs that timers can be routed to (`hpet-intcap`; the board `pc` has 0x4).
  /// `legacyChanged` is called, with no lock held, when timer 0 begins or ceases to stand in for the 8254:
  /// `PIT.setInterruptConnected(!legacy)`.
  package init(
    inputs: UInt32 = 0x4, hasMessages: Bool = false,
    legacyChanged: @escaping @Sendable (Bool) -> Void = { _ in }
  ) {
    self.inputs = inputs
    self.hasMessages = hasMessages
    self.legacyChanged = legacyChanged
    state = Mutex(State(model: HPETModel(inputs: inputs, hasMessages: hasMessages)))
  }

  package var properties: [(name: String, value: PropertyValue)] {
    [
      ("timers", .unsigned(3)), ("msi", .bool(hasMessages)),
      ("hpet-intcap", .address(UInt64(inputs))),
      ("hpet-offset-saved", .bool(true)),
    ]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    let timer = context.clock.makeTimer { [weak self] in self?.update { _, _ in } }
    let lines = (0..<24).map { context.interrupt(GSI(UInt32($0))) }
    state.withLock { state in
      state.lines = lines
      state.clock = context.clock
      state.timer = timer
      state.signalMSI = context.signalMSI
    }
    context.deviceMemory.add(
      BusRegion(
        name: "hpet", start: Self.address, size: 0x400, device: self, maximumWidth: 8))
  }

  package func reset(_ kind: ResetKind) { update { model, _ in model.reset() } }

  /// A copy of the model, for inspection and saving.
  package var snapshot: HPETModel { state.withLock { $0.model } }

  package func read(_ access: BusAccess) -> UInt64 {
    let shift = access.offset & 7 &* 8
    return update { $0.read(access.offset & ~7, at: $1) >> shift } & AddressSpace.mask(access.width)
  }

  package func write(_ access: BusAccess, _ value: UInt64) {
    let shift = access.offset & 7 &* 8
    let mask = AddressSpace.mask(access.width) << shift
    update { $0.write(access.offset & ~7, value << shift, mask: mask, at: $1) }
  }

  // MARK: -

  /// What follows from a change of the model.
  private struct Step: Sendable {
    var effects: HPETEffects
    var wasLegacy: Bool
    var isLegacy: Bool
    var linesChanged: Bool
    var deadlineChanged: Bool
  }

  /// Runs `change` at the present time, then does what follows with no lock held.
  @discardableResult
  private func update<R: Sendable>(_ change: (inout HPETModel, UInt64) -> R) -> R {
    let (result, step) = state.withLock { state -> (R, Step) in
      let now = UInt64(bitPattern: state.clock?.now ?? 0)
      var effects = state.model.advance(to: now)
      let wasLegacy = state.model.isLegacy
      let result = change(&state.model, now)
      // What the change itself has made due: a comparator in the past.
      let more = state.model.advance(to: now)
      effects.pulses |= more.pulses
      effects.messages |= more.messages
      let deadline = state.model.nextDeadline(at: now).map { Int64(bitPattern: $0) } ?? Int64.max
      let step = Step(
        effects: effects, wasLegacy: wasLegacy, isLegacy: state.model.isLegacy,
        linesChanged: state.raised != state.model.levels,
        deadlineChanged: deadline != state.deadline || effects != HPETEffects())
      state.deadline = deadline
      return (result, step)
    }
    if step.wasLegacy != step.isLegacy { legacyChanged(step.isLegacy) }
    if step.effects != HPETEffects() { deliver(step.effects) }
    if step.linesChanged { driveLevels() }
    if step.deadlineChanged { armTimer() }
    return result
  }

  private func deliver(_ effects: HPETEffects) {
    let (lines, timers, signalMSI) = state.withLock { ($0.lines, $0.model.timers, $0.signalMSI) }
    for input in lines.indices where effects.pulses & 1 << UInt32(input) != 0 {
      lines[input].pulse()
    }
    for index in timers.indices where effects.messages & 1 << UInt8(index) != 0 {
      signalMSI?(timers[index].route >> 32, UInt32(truncatingIfNeeded: timers[index].route))
    }
  }

  /// Brings the lines of level-triggered timers up to date; the last of several threads leaves them right.
  private func driveLevels() {
    while true {
      let (lines, wanted, changed) = state.withLock { state in
        let wanted = state.model.levels
        defer { state.raised = wanted }
        return (state.lines, wanted, wanted ^ state.raised)
      }
      if changed == 0 { return }
      for input in lines.indices where changed & 1 << UInt32(input) != 0 {
        lines[input].settle { state.withLock { $0.model.levels & 1 << UInt32(input) != 0 } }
      }
      if state.withLock({ $0.model.levels }) == wanted { return }
    }
  }

  private func armTimer() {
    while true {
      let (timer, wanted) = state.withLock { ($0.timer, $0.deadline) }
      guard let timer else { return }
      if wanted == Int64.max { timer.cancel() } else { timer.arm(at: wanted) }
      if state.withLock({ $0.deadline }) == wanted { return }
    }
  }
}
