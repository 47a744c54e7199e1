package import DeviceModel
package import PCI
import Synchronization

/// Power management and SMBus function of the PIIX4, `PIIX4_PM`, 8086:7113 at 01.3: ACPI's fixed hardware, the SMI command port, GPE0.
///
/// There is no system management mode: the register that says "SMM is set up" reads set, so that firmware does not try, and the SMI
/// command port itself does what the SMI handler would (ACPI on and off).
package final class PIIX4PM: Device, PCIFunction {
  package static let type = DeviceType(
    name: "PIIX4_PM", parent: "pci-device", bus: "PCI", description: "PM",
    properties: [
      PropertyDescription("smb_io_base", "uint32", default: .unsigned(0)),
      PropertyDescription("disable_s3", "uint8", default: .unsigned(0)),
      PropertyDescription("disable_s4", "uint8", default: .unsigned(0)),
      PropertyDescription("s4_val", "uint8", default: .unsigned(2)),
    ])
  package static let address = PCIAddress(device: 1, function: 3)

  /// The system control interrupt.
  package static let irq: UInt32 = 9
  /// Where GPE0 is.
  package static let gpeBase: UInt64 = 0xAFE0
  /// SMI command port, and the values that FADT publishes for it.
  package static let smiCommandPort: UInt64 = 0xB2
  package static let acpiEnable: UInt8 = 0xF1
  package static let acpiDisable: UInt8 = 0xF0

  private let bus: PCIBus
  private let hasSMBus: Bool
  /// Where the registers of PCI hot plug are, and how many bytes.
  package static let hotplugBase: UInt64 = 0xAE00
  package static let hotplugSize: UInt64 = 0x20
  /// The general-purpose event of PCI hot plug.
  package static let hotplugEvent: UInt16 = 1 << 1

  private struct State {
    var hotplug = PCIHotplugModel()
    var hotplugAction: (@Sendable (PCIHotplugModel.Action) -> Void)?
    var configuration = PIIX4PM.initial()
    var model = PowerManagement()
    var smbus = SMBusHost()
    var apm: [UInt8] = [0, 0]
    var mappedPM: UInt64?
    var mappedSMBus: UInt64?
    var line = InterruptLine.unconnected
    var clock: (any MachineClock)?
    var timer: (any MachineTimer)?
    var request: (@Sendable (MachineRequest) -> Void)?
    var ports: AddressSpace?
  }
  private let state = Mutex(State())
  private let mapping = Mutex(())

  private let s4Type: UInt8

  /// Without `hasSMBus` no SMBus host controller answers, wherever the guest maps it. `s4Type` is the SLP_TYP of S4, as the DSDT
  /// publishes it.
  package init(
    bus: PCIBus, hasSMBus: Bool = true, s4Type: UInt8 = PowerManagement.defaultTypeS4
  ) {
    self.bus = bus
    self.hasSMBus = hasSMBus
    self.s4Type = s4Type
    state.withLock { $0.model = PowerManagement(typeS4: s4Type) }
  }

  /// Offsets in configuration space (82371AB, 7.1).
  private enum Register {
    static let pmBase = 0x40
    static let deviceActivityB = 0x58
    static let pmMisc = 0x80
    static let smbusBase = 0x90
    static let smbusConfiguration = 0xD2
  }

  private static func initial() -> PCIConfiguration {
    var configuration = PCIConfiguration(
      PCIIdentity(vendor: 0x8086, device: 0x7113, revision: 3, classCode: 0x06_8000),
      interruptPin: 1)
    configuration.set16(PCIConfiguration.Register.status, 0x0280)
    configuration.set32(Register.pmBase, 1)
    // APMC_EN reads set: system management mode counts as set up.
    configuration.set8(Register.deviceActivityB + 3, 0x02)
    // Device resources that BIOSes report: a serial and a parallel port may be there.
    configuration.set8(0x5F, 0x90)
    configuration.set8(0x63, 0x60)
    configuration.set8(0x67, 0x98)
    configuration.set32(Register.smbusBase, 0xB101)
    configuration.set8(Register.smbusConfiguration, 0x09)
    configuration.allowWrites(to: 0x40, count: 0xC0)
    return configuration
  }

  package var properties: [(name: String, value: PropertyValue)] {
    [("smb_io_base", .address(0xB100)), ("addr", .string(PIIX4PM.address.description))]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    try bus.plug(self, at: PIIX4PM.address)
    let timer = context.clock.makeTimer { [weak self] in
      self?.update { state, now in state.model.updateTimer(at: now) }
    }
    let line = context.interrupt(GSI(PIIX4PM.irq))
    state.withLock { state in
      state.line = line
      state.clock = context.clock
      state.timer = timer
      state.request = context.request
      state.ports = context.ports
    }
    context.ports.add(
      BusRegion(
        name: "apm-io", start: PIIX4PM.smiCommandPort, size: 2, device: Window(self, .apm),
        maximumWidth: 1))
    context.ports.add(
      BusRegion(
        name: "acpi-gpe0", start: PIIX4PM.gpeBase, size: 4, device: Window(self, .gpe),
        maximumWidth: 1))
    context.ports.add(
      BusRegion(
        name: "acpi-pci-hotplug", start: PIIX4PM.hotplugBase, size: PIIX4PM.hotplugSize,
        device: Window(self, .hotplug)))
    remap()
  }

  package func reset(_ kind: ResetKind) {
    update { state, _ in
      state.configuration = PIIX4PM.initial()
      state.model = PowerManagement(typeS4: self.s4Type)
      state.smbus = SMBusHost()
      state.apm = [0, 0]
    }
    remap()
  }

  // MARK: - Machine's side

  /// The user pressed the power button.
  package func pressPowerButton() {
    update { state, _ in state.model.signal(PowerManagement.Event.powerButton) }
  }

  /// The machine wakes from S3; firmware and system read why from the status register. `event` is one of `PowerManagement.Event`.
  package func wake(by event: UInt16 = PowerManagement.Event.powerButton) {
    update { state, _ in state.model.signal(PowerManagement.Event.wake | event) }
  }

  /// Raises general-purpose events (hot plug).
  package func signalGPE(_ bits: UInt16) { update { state, _ in state.model.signalGPE(bits) } }

  // MARK: - PCI hot plug

  /// What is to be done when the guest ejects a slot or refuses to; called on its vCPU's thread.
  package func setHotplugAction(_ action: @escaping @Sendable (PCIHotplugModel.Action) -> Void) {
    state.withLock { $0.hotplugAction = action }
  }

  /// Tells the guest of a new device in `slot`.
  package func announceInserted(_ slot: UInt8) {
    update { state, _ in
      state.hotplug.insert(slot)
      state.model.signalGPE(PIIX4PM.hotplugEvent)
    }
  }

  /// Asks the guest to give the devices in `slot` up; asking again is harmless, and heard when it was not before.
  package func requestRemoval(_ slot: UInt8) {
    update { state, _ in
      state.hotplug.remove(slot)
      state.model.signalGPE(PIIX4PM.hotplugEvent)
    }
  }

  /// Says whether the guest may eject what is in `slot`.
  package func setRemovable(_ slot: UInt8, _ isRemovable: Bool) {
    state.withLock { $0.hotplug.setRemovable(slot, isRemovable) }
  }

  /// Names the function in `slot` for the guest's system; 0 for no name.
  package func setLabel(_ slot: UInt8, _ label: UInt32) {
    state.withLock { $0.hotplug.setLabel(slot, label) }
  }

  /// Slots whose devices were asked for and not given up yet; nothing is asked for any more.
  package func takePendingRemovals() -> [UInt8] { state.withLock { $0.hotplug.reset() } }

  /// Whether the guest has taken over power management: only then does the power button reach it.
  package var isACPIEnabled: Bool { state.withLock { $0.model.isACPIEnabled } }

  // MARK: - Configuration space

  package func readConfiguration(_ offset: Int, width: Int) -> UInt32 {
    state.withLock { $0.configuration.read(offset, width: width) }
  }

  package func writeConfiguration(_ offset: Int, width: Int, _ value: UInt32) {
    update { state, _ in
      state.configuration.write(offset, width: width, value)
      // Bases are ports aligned to their block's size, marked as I/O by bit 0.
      let pm = state.configuration.read(Register.pmBase, width: 4) & 0xFFC0
      state.configuration.set32(Register.pmBase, pm | 1)
      let smbus = state.configuration.read(Register.smbusBase, width: 4) & 0xFFC0
      state.configuration.set32(Register.smbusBase, smbus | 1)
    }
    remap()
  }

  private func remap() {
    mapping.withLock { _ in
      let ports = state.withLock { $0.ports }
      guard let ports else { return }
      let (pm, smbus, oldPM, oldSMBus) = state.withLock { state in
        let bytes = state.configuration.bytes
        let pm = UInt64(state.configuration.read(Register.pmBase, width: 4) & 0xFFC0)
        let smbus = UInt64(state.configuration.read(Register.smbusBase, width: 4) & 0xFFC0)
        let old = (state.mappedPM, state.mappedSMBus)
        state.mappedPM = bytes[Register.pmMisc] & 1 != 0 && pm != 0 ? pm : nil
        let enabled = bytes[Register.smbusConfiguration] & 1 != 0 && self.hasSMBus
        state.mappedSMBus = enabled && smbus != 0 ? smbus : nil
        return (state.mappedPM, state.mappedSMBus, old.0, old.1)
      }
      if pm != oldPM { map(ports, pmWindow, "piix4-pm", pm) }
      if smbus != oldSMBus { map(ports, smbusWindow, "pm-smbus", smbus) }
    }
  }

  private func map(_ ports: AddressSpace, _ window: Window, _ name: String, _ base: UInt64?) {
    window.owner.withLock { [weak self] in $0.device = self }
    let regions = base.map {
      [BusRegion(name: name, start: $0, size: 64, device: window, maximumWidth: 4)]
    }
    ports.replace(window, with: regions ?? [])
  }

  private let pmWindow = Window(nil, .pm)
  private let smbusWindow = Window(nil, .smbus)

  // MARK: - Ports

  private final class Window: BusDevice {
    enum Block: Sendable { case pm, gpe, apm, smbus, hotplug }
    struct Owner: Sendable { weak var device: PIIX4PM? }
    let owner: Mutex<Owner>
    let block: Block

    init(_ device: PIIX4PM?, _ block: Block) {
      owner = Mutex(Owner(device: device))
      self.block = block
    }

    func read(_ access: BusAccess) -> UInt64 {
      owner.withLock { $0.device }?.read(block, access) ?? UInt64.max
    }

    func write(_ access: BusAccess, _ value: UInt64) {
      owner.withLock { $0.device }?.write(block, access, value)
    }
  }

  private func read(_ block: Window.Block, _ access: BusAccess) -> UInt64 {
    let offset = Int(truncatingIfNeeded: access.offset)
    var value: UInt64 = 0
    switch block {
    case .pm:
      let now = state.withLock { $0.clock }?.now ?? 0
      // Read as one moment: all bytes of the timer come from the same tick.
      state.withLock { state in
        for index in 0..<access.width {
          let word = state.model.readWord(offset + index, at: now)
          let byte = (offset + index) & 1 == 0 ? word & 0xFF : word >> 8
          value |= UInt64(byte) << UInt64(index * 8)
        }
      }
    case .gpe: value = state.withLock { UInt64($0.model.readGPE(offset & 3)) }
    case .apm: value = state.withLock { UInt64($0.apm[offset & 1]) }
    case .hotplug:
      // Doublewords only.
      guard access.width == 4, offset & 3 == 0 else { return UInt64.max }
      value = state.withLock { UInt64($0.hotplug.read(access.offset)) }
    case .smbus:
      state.withLock { state in
        for index in 0..<access.width {
          value |= UInt64(state.smbus.read(offset + index)) << UInt64(index * 8)
        }
      }
    }
    return value
  }

  private func write(_ block: Window.Block, _ access: BusAccess, _ value: UInt64) {
    let offset = Int(truncatingIfNeeded: access.offset)
    if block == .hotplug { return writeHotplug(access, UInt32(truncatingIfNeeded: value)) }
    var sleep: PowerManagement.Sleep?
    update { state, now in
      switch block {
      case .hotplug: break
      case .pm: sleep = PIIX4PM.writePM(&state.model, offset, access.width, value, now)
      case .gpe:
        let before = state.model.gpeEnable
        state.model.writeGPE(offset & 3, UInt8(truncatingIfNeeded: value))
        // A system that starts clears events that came before it listened; what is still to be done it hears of now.
        if state.model.gpeEnable & ~before & PIIX4PM.hotplugEvent != 0, state.hotplug.isPending {
          state.model.signalGPE(PIIX4PM.hotplugEvent)
        }
      case .apm:
        state.apm[offset & 1] = UInt8(truncatingIfNeeded: value)
        guard offset & 1 == 0 else { break }
        if state.apm[0] == PIIX4PM.acpiEnable { state.model.setACPI(true) }
        if state.apm[0] == PIIX4PM.acpiDisable { state.model.setACPI(false) }
      case .smbus:
        for index in 0..<access.width {
          state.smbus.write(offset + index, UInt8(truncatingIfNeeded: value >> UInt64(index * 8)))
        }
      }
    }
    guard let sleep else { return }
    let request = state.withLock { $0.request }
    request?(sleep == .suspendToRAM ? .suspend : .shutdown)
  }

  private func writeHotplug(_ access: BusAccess, _ value: UInt32) {
    guard access.width == 4, access.offset & 3 == 0 else { return }
    let (action, perform) = state.withLock { state in
      (state.hotplug.write(access.offset, value), state.hotplugAction)
    }
    if let action { perform?(action) }
  }

  /// Registers are words; a byte write leaves the other half as it is (status: unwritten bits are zero, so they stay).
  private static func writePM(
    _ model: inout PowerManagement, _ offset: Int, _ width: Int, _ value: UInt64, _ now: Int64
  ) -> PowerManagement.Sleep? {
    if width == 1 {
      let shift = UInt16(offset & 1) * 8
      let byte = UInt16(truncatingIfNeeded: value & 0xFF) << shift
      let keep =
        offset & ~1 == 0 ? 0 : model.readWord(offset, at: now) & ~(0xFF << shift)
      return model.writeWord(offset, keep | byte, at: now)
    }
    var sleep: PowerManagement.Sleep?
    for index in stride(from: 0, to: width, by: 2) {
      let word = UInt16(truncatingIfNeeded: value >> UInt64(index * 8))
      sleep = model.writeWord(offset + index, word, at: now) ?? sleep
    }
    return sleep
  }

  private func update(_ change: (inout State, _ now: Int64) -> Void) {
    let clock = state.withLock { $0.clock }
    let now = clock?.now ?? 0
    let (line, timer, deadline) = state.withLock { state in
      let before = state.model.interruptAsserted
      let oldDeadline = state.model.timerDeadline
      change(&state, now)
      let changed = state.model.interruptAsserted != before
      let deadline = state.model.timerDeadline
      return (
        changed ? state.line : nil, deadline != oldDeadline ? state.timer : nil, deadline
      )
    }
    if let timer {
      if let deadline { timer.arm(at: deadline) } else { timer.cancel() }
    }
    line?.settle { state.withLock { $0.model.interruptAsserted } }
  }
}
