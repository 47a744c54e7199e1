import CPU
import Chardev
import DeviceModel
import Devices
import DistIRQ
import Host
import Options
import PCI
import Shm

/// `pc-i440fx-7.2`: i440FX and PIIX3 with the ISA devices of a PC.
@MainLoop
final class PCBoard: Board {
  private(set) var devices: [PlacedDevice] = []

  let parts: MachineParts
  let map: PCMemoryMap
  let ram: RAMBlock
  let firmware: RAMBlock?
  let fwCfg = FwCfg()
  let pci = PCIBus()
  private let pm: PIIX4PM
  let rtc: RTC
  /// Keeps the character frontends of serial ports and consoles alive.
  private var frontends: [any ChardevFrontend] = []
  /// What `-device` may refer to.
  let objects: ObjectRegistry
  let boot: BootPlan
  /// What `-global` says about the devices below.
  let settings: BoardSettings
  /// How often the machine has been prepared: the first time is power-on.
  private var startCount = 0
  private var chipset: I440FX?
  /// The shadow registers during a wake-up.
  private var shadowRegisters: [UInt8] = []

  /// Makes and realizes all devices. Throws `MachineError` naming the option at fault.
  init(
    _ parts: MachineParts, chardevs: ChardevRegistry, objects: ObjectRegistry
  ) throws(MachineError) {
    self.objects = objects
    self.parts = parts
    let configuration = parts.configuration
    map = PCMemoryMap(
      ramSize: configuration.memory.size, limit: configuration.machine.maximumRAMBelow4GiB)
    settings = try BoardSettings(
      configuration.globals, created: configuration.devices.map(\.driver))
    for warning in settings.warnings { Log.warning(warning) }
    boot = try BootPlan.make(configuration, map: map, apicIDs: parts.apicIDs, settings: settings)
    do {
      firmware = try boot.firmware.map { (image) throws(SystemError) in
        try RAMBlock(name: "pc.bios", size: image.count)
      }
    } catch {
      throw MachineError("cannot set up guest memory 'pc.bios': \(error.reason)")
    }
    guard let ram = parts.ram else { throw MachineError("a PC needs memory") }
    self.ram = ram
    pm = PIIX4PM(
      bus: pci, hasSMBus: configuration.machine.smbus, s4Type: settings.s4Value)
    rtc = RTC(
      clock: parts.clock,
      slewsLostTicks: settings.slewsLostTicks ?? configuration.rtc.slewsLostTicks)
    do throws(DeviceError) {
      try makeChipset()
      try makeISADevices()
      try makeCharacterDevices(chardevs)
      try publishConfiguration()
    } catch {
      throw MachineError(error.message)
    }
    try makeUserDevices(chardevs)
  }

  // MARK: - Devices

  private func makeChipset() throws(DeviceError) {
    let memory = parts.context.memory
    let (map, ram, firmware) = (map, ram, firmware)
    let chipset = I440FX(bus: pci) { segments in
      memory.setSlots(map.slots(ram: ram, firmware: firmware, shadow: segments))
    }
    try add(PCIHost(bus: pci), at: "/machine/i440fx")
    try add(chipset)
    self.chipset = chipset
    try add(PIIX3(bus: pci))
    if configuration.machine.usb {
      try add(UHCI(PCIPlacement(bus: pci, address: PCIAddress(device: 1, function: 2))))
    }
    if configuration.machine.acpi != .off { try add(pm) }
    parts.fabric.map(ports: parts.context.ports, deviceMemory: parts.context.deviceMemory)
  }

  private func makeISADevices() throws(DeviceError) {
    try add(rtc)
    rtc.path = devices.last?.path ?? rtc.path
    let pit = PIT()
    if configuration.machine.pit != .off {
      try add(pit)
      try add(PCSpeaker(pit: pit))
    }
    if configuration.machine.hpet {
      try add(HPET { legacy in pit.setInterruptConnected(!legacy) })
    }
    if configuration.machine.i8042 { try add(I8042(gate: parts.a20)) }
    try add(Port92(gate: parts.a20))
    try add(DMAController(second: false))
    try add(DMAController(second: true))
    try add(ScratchPorts())
    try add(fwCfg, at: "/machine/fw_cfg")
  }

  private func makeCharacterDevices(_ chardevs: ChardevRegistry) throws(DeviceError) {
    for (index, label) in configuration.serials.enumerated() {
      let serial = try SerialPort(index: UInt32(index))
      try add(serial, chardev: label)
      try connect(label, chardevs) { (chardev) throws(ChardevError) in
        try SerialFrontend(serial, chardev)
      }
    }
    for (index, label) in configuration.parallels.enumerated() {
      let parallel = try ParallelPort(index: UInt32(index))
      try add(parallel, chardev: label)
      try connect(label, chardevs) { (chardev) throws(ChardevError) in
        try OutputFrontend(chardev, attach: parallel.attach, drained: parallel.backendWritable)
      }
    }
    if let label = configuration.debugConsole {
      let console = DebugConsole()
      try add(console, chardev: label)
      try connect(label, chardevs) { (chardev) throws(ChardevError) in
        try OutputFrontend(chardev, attach: console.attach, drained: console.backendWritable)
      }
    }
  }

  /// Attaches a frontend to the character device `label`.
  private func connect(
    _ label: String, _ chardevs: ChardevRegistry,
    _ make: @MainLoop (Chardev) throws(ChardevError) -> any ChardevFrontend
  ) throws(DeviceError) {
    guard let chardev = chardevs[label] else {
      throw DeviceError(.badValue, "Property 'chardev' can't find value '\(label)'")
    }
    do throws(ChardevError) {
      frontends.append(try make(chardev))
    } catch {
      throw DeviceError(.busy, error.message)
    }
  }

  /// `-device`.
  private func makeUserDevices(_ chardevs: ChardevRegistry) throws(MachineError) {
    for wanted in configuration.devices {
      do throws(DeviceError) {
        let properties = try DeviceProperties(wanted, globals: configuration.globals)
        let device: any Device
        var label: String?
        switch properties.type.name {
        case SerialPort.type.name:
          let taken = devices.count { $0.device is SerialPort }
          let serial = try properties.makeSerialPort(next: UInt32(taken))
          device = serial
          label = properties.text("chardev")
          if let label {
            try connect(label, chardevs) { (chardev) throws(ChardevError) in
              try SerialFrontend(serial, chardev)
            }
          }
        case ParallelPort.type.name:
          let taken = devices.count { $0.device is ParallelPort }
          let parallel = try properties.makeParallelPort(next: UInt32(taken))
          device = parallel
          label = properties.text("chardev")
          if let label {
            try connect(label, chardevs) { (chardev) throws(ChardevError) in
              try OutputFrontend(
                chardev, attach: parallel.attach, drained: parallel.backendWritable)
            }
          }
        case DebugConsole.type.name:
          let console = DebugConsole(
            port: try properties.port("iobase", default: 0xE9),
            readback: UInt8(truncatingIfNeeded: try properties.number("readback", default: 0xE9)))
          device = console
          label = properties.text("chardev")
          if let label {
            try connect(label, chardevs) { (chardev) throws(ChardevError) in
              try OutputFrontend(chardev, attach: console.attach, drained: console.backendWritable)
            }
          }
        case DebugExit.type.name:
          device = DebugExit(
            port: try properties.port("iobase", default: 0x501),
            size: UInt32(truncatingIfNeeded: try properties.number("iosize", default: 2)))
        case VMCoreInfo.type.name:
          device = VMCoreInfo(fwCfg)
        case IB700.type.name:
          device = IB700()
        case PVPanic.type.name:
          device = PVPanic(
            port: try properties.port("ioport", default: 0x505),
            events: UInt8(truncatingIfNeeded: try properties.number("events", default: 3)))
        default:
          guard let function = try makeFunction(properties, id: wanted.id) else {
            throw DeviceError(
              .unknownType, "'\(wanted.driver)' is not a valid device model name")
          }
          device = function
        }
        if let id = wanted.id, devices.contains(where: { $0.id == id }) {
          throw DeviceError(.badValue, "Duplicate ID '\(id)' for device")
        }
        try device.realize(in: parts.context)
        let place =
          wanted.id.map { "/machine/peripheral/\($0)" }
          ?? "/machine/peripheral-anon/device[\(devices.count { $0.path.contains("-anon") })]"
        var placed = PlacedDevice(path: place, id: wanted.id, device: device)
        placed.settings["chardev"] = label.map { .string($0) }
        devices.append(placed)
      } catch {
        throw MachineError(error.message, origin: wanted.origin)
      }
    }
  }

  private func add(
    _ device: any Device, at path: String? = nil, chardev: String? = nil
  ) throws(DeviceError) {
    try device.realize(in: parts.context)
    // The first numbers belong to the vCPUs, as in QEMU's tree.
    let number = parts.apicIDs.count + devices.count { $0.path.hasPrefix("/machine/unattached") }
    var placed = PlacedDevice(
      path: path ?? "/machine/unattached/device[\(number)]", id: nil, device: device)
    placed.settings["chardev"] = chardev.map { .string($0) }
    devices.append(placed)
  }

  var configuration: LaunchConfiguration { parts.configuration }

  // MARK: - Start and stop

  func prepareStart(_ threads: [VCPUThread]) throws(MachineError) {
    startCount += 1
    if startCount == 2, configuration.bootOrder.once != nil {
      setBootOrder(configuration.bootOrder.order)
    }
    let memory = parts.context.memory
    if let firmware, let image = boot.firmware {
      let start = GuestAddress(PCMemoryMap.fourGiB - UInt64(firmware.size))
      memory.write(start, image, toROM: true)
    }
    if boot.substitutesFirmware { FirmwareSubstitute.configure(pci) }
    for write in boot.memory { memory.write(write.address, write.bytes) }
    guard let entry = boot.entry else { return }
    do {
      for (index, thread) in threads.enumerated() {
        let reset = try thread.vcpu.readState()
        var state = index == 0 ? entry : reset
        // Registers that the plan does not name are as reset left them; memory types are the same on all.
        state.msrs = reset.msrs.merging(entry.msrs) { _, planned in planned }
        try thread.vcpu.writeState(state)
      }
    } catch {
      throw MachineError(error.message)
    }
  }

  /// Firmware resumes from its copy in shadow RAM, so the decoding of that survives.
  func prepareWake() { shadowRegisters = chipset?.shadowRegisters ?? [] }

  func finishWake(_ threads: [VCPUThread]) throws(MachineError) {
    chipset?.shadowRegisters = shadowRegisters
    pm.wake()
    // CMOS shutdown status: resume from S3.
    rtc[byte: 0x0F] = 0xFE
    guard boot.substitutesFirmware, let first = threads.first else { return }
    FirmwareSubstitute.configure(pci)
    do {
      let reset = try first.vcpu.readState()
      if let state = boot.wakeState(from: parts.context.memory, reset: reset) {
        try first.vcpu.writeState(state)
      }
    } catch {
      throw MachineError(error.message)
    }
  }

  func pressPowerButton() -> Bool {
    pm.pressPowerButton()
    return true
  }
}
