package import DeviceModel
import Synchronization

/// The real-time clock and CMOS RAM of a PC, `mc146818rtc`: ports 0x70 and 0x71, interrupt 8.
package final class RTC: Device, BusDevice {
  package static let type = DeviceType(
    name: "mc146818rtc", parent: "isa-device", bus: "ISA", description: "",
    properties: [
      PropertyDescription("base_year", "int32", default: .unsigned(1980)),
      PropertyDescription("iobase", "uint16", default: .unsigned(0x70)),
      PropertyDescription("irq", "uint8", default: .unsigned(8)),
      PropertyDescription("lost_tick_policy", "LostTickPolicy", default: .string("discard")),
    ])

  private struct State {
    var model: RTCModel
    var line = InterruptLine.unconnected
    var clock: (any MachineClock)?
    var timer: (any MachineTimer)?
    var deadline = Int64.max
    var request: (@Sendable (MachineRequest) -> Void)?
    var path: String
  }
  private let state: Mutex<State>
  private let slews: Bool

  /// A clock that shows `clock.wallClock` plus `baseOffset` nanoseconds: 0 for `-rtc base=utc`, the zone's offset for `localtime`,
  /// for a given date its distance from the wall clock at start. `slewsLostTicks` is `driftfix=slew`. `path` is its QOM path, for the
  /// event RTC_CHANGE.
  package init(
    clock: any MachineClock, baseOffset: Int64 = 0, slewsLostTicks: Bool = false,
    path: String = "/machine/unattached/rtc"
  ) {
    let time = RTCTime(virtual: clock.now, wall: clock.wallClock)
    state = Mutex(
      State(
        model: RTCModel(baseOffset: baseOffset, deliversMissedTicks: slewsLostTicks, at: time),
        clock: clock, path: path))
    slews = slewsLostTicks
  }

  package var properties: [(name: String, value: PropertyValue)] {
    [
      ("base_year", .unsigned(2000)), ("iobase", .address(0x70)), ("irq", .unsigned(8)),
      ("lost_tick_policy", .string(slews ? "slew" : "discard")),
    ]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    let timer = context.clock.makeTimer { [weak self] in self?.update { _, _ in } }
    state.withLock { state in
      state.line = context.interrupt(GSI(8))
      state.clock = context.clock
      state.timer = timer
      state.request = context.request
    }
    context.ports.add(
      BusRegion(name: "rtc", start: 0x70, size: 2, device: self, maximumWidth: 1))
  }

  package func reset(_ kind: ResetKind) { update { model, _ in model.reset() } }

  // MARK: - Board

  /// The device's object path, which RTC_CHANGE names.
  package var path: String {
    get { state.withLock { $0.path } }
    set { state.withLock { $0.path = newValue } }
  }

  /// A byte of CMOS RAM (0x0E to 0x7F): memory size, boot order and the like. Any thread.
  package subscript(byte index: UInt8) -> UInt8 {
    get { state.withLock { $0.model[byte: index] } }
    set { state.withLock { $0.model[byte: index] = newValue } }
  }

  /// The bytes by which firmware learns the size of memory: base memory in KiB (0x15), extended in KiB from 1 MiB (0x17, 0x30),
  /// in 64 KiB from 16 MiB (0x34), and in 64 KiB above 4 GiB (0x5B). Sizes in bytes.
  package func setMemorySize(below4GiB: UInt64, above4GiB: UInt64) {
    func word(_ index: UInt8, _ value: UInt64) {
      self[byte: index] = UInt8(truncatingIfNeeded: value)
      self[byte: index + 1] = UInt8(truncatingIfNeeded: value >> 8)
    }
    let kilobytes = below4GiB / 1024
    word(0x15, min(kilobytes, 640))
    let extended = kilobytes > 1024 ? min(kilobytes - 1024, 65_535) : 0
    word(0x17, extended)
    word(0x30, extended)
    let above16MiB = below4GiB > 16 << 20 ? min((below4GiB - 16 << 20) >> 16, 65_535) : 0
    word(0x34, above16MiB)
    let high = above4GiB >> 16
    word(0x5B, high & 0xFFFF)
    self[byte: 0x5D] = UInt8(truncatingIfNeeded: high >> 16)
  }

  /// `-boot order=`: `a` floppy, `c` disk, `d` CD-ROM, `n` network, at most three (0x3D, 0x38). `checksFloppySignature` is
  /// `fd-bootchk`. Other letters count as nothing.
  package func setBootOrder(_ order: String, checksFloppySignature: Bool = true) {
    let codes = order.prefix(3).map { letter -> UInt8 in
      switch letter {
      case "a", "b": 1
      case "c": 2
      case "d": 3
      case "n": 4
      default: 0
      }
    }
    let padded = codes + [0, 0, 0]
    self[byte: 0x3D] = padded[1] << 4 | padded[0]
    self[byte: 0x38] = padded[2] << 4 | (checksFloppySignature ? 0 : 1)
  }

  /// The guest's calendar in seconds since 1970-01-01 of its own zone.
  package var seconds: Int64 {
    state.withLock { state in Self.time(state).map { state.model.seconds(at: $0) } ?? 0 }
  }

  /// Forgets the periodic interrupts that the guest has missed (`rtc-reset-reinjection`). Any thread.
  package func dropMissedTicks() { update { model, _ in model.dropMissedTicks() } }

  /// A copy of the model, for inspection and saving.
  package var snapshot: RTCModel { state.withLock { $0.model } }

  // MARK: - Ports

  package func read(_ access: BusAccess) -> UInt64 {
    guard access.offset == 1 else { return 0xFF }
    return UInt64(update { $0.read(at: $1) })
  }

  package func write(_ access: BusAccess, _ value: UInt64) {
    let byte = UInt8(truncatingIfNeeded: value)
    guard access.offset == 1 else {
      state.withLock { $0.model.select(byte) }
      return
    }
    guard update({ $0.write(byte, at: $1) }) else { return }
    let (request, change, path) = state.withLock {
      ($0.request, $0.model.changeInSeconds, $0.path)
    }
    request?(.rtcChanged(offsetInSeconds: change, path: path))
  }

  // MARK: -

  private static func time(_ state: borrowing State) -> RTCTime? {
    guard let clock = state.clock else { return nil }
    return RTCTime(virtual: clock.now, wall: clock.wallClock)
  }

  /// Runs `change` at the present time, then brings line and timer up to date with no lock held.
  @discardableResult
  private func update<R: Sendable>(_ change: (inout RTCModel, RTCTime) -> R) -> R {
    let (result, needsEdge, line) = state.withLock { state in
      let time = Self.time(state) ?? RTCTime(virtual: 0, wall: 0)
      state.model.advance(to: time)
      let was = (state.model.interruptAsserted, state.model.acknowledgements)
      let result = change(&state.model, time)
      state.deadline = state.model.nextDeadline(at: time) ?? Int64.max
      // Acknowledged and asserted again in one step: the line is edge-triggered.
      let isAgain = was.0 && state.model.interruptAsserted
      return (result, isAgain && was.1 != state.model.acknowledgements, state.line)
    }
    if needsEdge { line.lower() }
    line.settle { state.withLock { $0.model.interruptAsserted } }
    armTimer()
    return result
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
