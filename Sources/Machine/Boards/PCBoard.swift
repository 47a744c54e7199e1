import CPU
import Chardev
import DeviceModel
import Devices
import DistIRQ
import Host
import Net
import Options
import PCI
import Shm

/// `pc-i440fx-7.2`: i440FX and PIIX3 with the ISA devices of a PC.
@MainLoop
final class PCBoard: Board {
  private(set) var devices: [PlacedDevice] = [] {
    didSet { generation &+= 1 }
  }
  private(set) var generation = 0

  let parts: MachineParts
  let map: PCMemoryMap
  let ram: RAMBlock
  let firmware: RAMBlock?
  let fwCfg = FwCfg()
  let pci = PCIBus()
  let pm: PIIX4PM
  let rtc: RTC
  /// Keeps the character frontends of serial ports and consoles alive.
  private var frontends: [any ChardevFrontend] = []
  /// What `-device` may refer to.
  let objects: ObjectRegistry
  let chardevs: ChardevRegistry
  let network: Network
  /// How many devices without `id=` there have been; their names count up and do not come again.
  private var anonymousCount = 0
  private var busNumbers: [String: Int] = [:]
  /// Hears when a program in the guest opens or closes the port of that id.
  var portChanged: @MainLoop (_ id: String, _ isOpen: Bool) -> Void = { _, _ in }
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
    _ parts: MachineParts, chardevs: ChardevRegistry, objects: ObjectRegistry, network: Network
  ) throws(MachineError) {
    self.objects = objects
    self.chardevs = chardevs
    self.network = network
    self.parts = parts
    let configuration = parts.configuration
    map = PCMemoryMap(
      ramSize: configuration.memory.size, limit: configuration.machine.maximumRAMBelow4GiB)
    settings = try BoardSettings(
      configuration.globals, created: configuration.devices.map(\.driver))
    for warning in settings.warnings { Log.warning(warning) }
    boot = try BootPlan.make(
      configuration, map: map, apicIDs: parts.apicIDs, numa: parts.numa, settings: settings)
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
    try makeNetworkCards()
    try makeIDEDrives()
    try makeUserDevices()
    describeDisks()
    for placed in devices where placed.isUserMade { slotChanged(placed, announces: false) }
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
    try add(PIIX3IDE(PCIPlacement(bus: pci, address: PIIX3IDE.address)))
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
  private func makeUserDevices() throws(MachineError) {
    for wanted in configuration.devices {
      do throws(DeviceError) {
        try plug(wanted, isHotplugged: false)
      } catch {
        throw MachineError(error.message, origin: wanted.origin)
      }
    }
  }

  /// Makes a user's device and puts it where it belongs. Throws with QEMU's sentences; nothing is left then.
  @discardableResult
  func plug(
    _ wanted: DeviceConfiguration, isHotplugged: Bool, isBoards: Bool = false
  ) throws(DeviceError) -> PlacedDevice {
    let properties = try DeviceProperties(wanted, globals: configuration.globals)
    let type = properties.type
    if isHotplugged, !type.isHotpluggable {
      throw DeviceError(.unknownType, "Parameter 'driver' expects a pluggable device type")
    }
    let bus = try bus(for: properties)
    if isHotplugged, let bus, !bus.isHotpluggable {
      throw DeviceError(.busy, "Bus '\(bus.name)' does not support hotplugging")
    }
    if let id = wanted.id, devices.contains(where: { $0.id == id }) {
      throw DeviceError(
        .badValue,
        isHotplugged ? "Duplicate device ID '\(id)'" : "Duplicate ID '\(id)' for device")
    }
    guard let recipe = DeviceTable.recipe(type.name) else {
      throw DeviceError(.unknownType, "'\(type.name)' is not a valid device model name")
    }
    let assembly = DeviceAssembly(
      self, properties, id: wanted.id, bus: bus, isHotplugged: isHotplugged)
    do throws(DeviceError) {
      let place: String
      if isBoards {
        place = unattachedPath
      } else if let id = wanted.id {
        place = "/machine/peripheral/\(id)"
      } else {
        // Also one that fails has had its number.
        place = "/machine/peripheral-anon/device[\(anonymousCount)]"
        anonymousCount += 1
      }
      let device = try recipe.make(assembly)
      try device.realize(in: parts.context)
      var placed = PlacedDevice(path: place, id: wanted.id, device: device)
      placed.settings = assembly.settings
      placed.attachments = assembly.attachments
      placed.bus = bus
      placed.isHotplugged = isHotplugged
      devices.append(placed)
      nameDrive(of: placed)
      return placed
    } catch {
      for attachment in assembly.attachments { attachment.abandon() }
      throw error
    }
  }

  /// Takes a device out of the list.
  func forget(_ placed: PlacedDevice) { devices.removeAll { $0.device === placed.device } }

  // MARK: - Buses

  /// How many buses of that type have been named by number; no number comes twice.
  func nextBusNumber(_ type: String) -> Int {
    let number = busNumbers[type] ?? 0
    busNumbers[type] = number + 1
    return number
  }

  /// All buses, with the devices that have them.
  var buses: [DeviceBus] {
    var list: [DeviceBus] = []
    for placed in devices {
      switch placed.device {
      case is PCIHost:
        // What announces and ejects functions is part of power management.
        let isHotpluggable = configuration.machine.acpi != .off
        list.append(
          DeviceBus(
            name: "pci.0", type: "PCI", owner: placed.path, isHotpluggable: isHotpluggable))
      case is PIIX3:
        list.append(
          DeviceBus(name: "isa.0", type: "ISA", owner: placed.path, isHotpluggable: false))
      case let owner as any DeviceBusOwner:
        list += owner.buses(id: placed.id, path: placed.path)
      default: break
      }
    }
    return list
  }

  /// Where a device goes: the bus that the user names, or the first of the right type with room; nil for a type without a bus.
  private func bus(for properties: DeviceProperties) throws(DeviceError) -> DeviceBus? {
    let type = properties.type
    if let name = properties.bus {
      // A path through the tree of buses ends with the bus's own name.
      let last = name.split(separator: "/").last.map(String.init) ?? name
      guard let bus = buses.first(where: { $0.name == last }) else {
        throw DeviceError(.badValue, "Bus '\(name)' not found")
      }
      guard bus.type == type.bus else {
        throw DeviceError(.badValue, "Device '\(type.name)' can't go on \(bus.type) bus")
      }
      if isFull(bus) { throw DeviceError(.busy, "Bus '\(name)' is full") }
      return bus
    }
    guard let wanted = type.bus, wanted != "System" else { return nil }
    guard let bus = buses.first(where: { $0.type == wanted && !isFull($0) }) else {
      throw DeviceError(.badValue, "No '\(wanted)' bus found for device '\(type.name)'")
    }
    return bus
  }

  private func isFull(_ bus: DeviceBus) -> Bool {
    guard let capacity = bus.capacity else { return false }
    return devices.count { $0.bus == bus } >= capacity
  }

  private func add(
    _ device: any Device, at path: String? = nil, chardev: String? = nil
  ) throws(DeviceError) {
    try device.realize(in: parts.context)
    var placed = PlacedDevice(path: path ?? unattachedPath, id: nil, device: device)
    placed.settings["chardev"] = chardev.map { .string($0) }
    devices.append(placed)
  }

  /// Where the next of the board's own devices goes. The first numbers belong to the vCPUs, as in QEMU's tree.
  private var unattachedPath: String {
    let number = parts.apicIDs.count + devices.count { $0.path.hasPrefix("/machine/unattached") }
    return "/machine/unattached/device[\(number)]"
  }

  var configuration: LaunchConfiguration { parts.configuration }

  // MARK: - Start and stop

  var start: ResetState {
    get { ResetState(registers: boot.entry?.msrs ?? [:], bootProcessor: bootProcessor) }
    set {}
  }
  /// Where the boot processor began last, unless at the reset vector.
  private var bootProcessor: BootProcessorState?

  func prepareStart(_ threads: [VCPUThread]) throws(MachineError) {
    startCount += 1
    if startCount == 2, configuration.bootOrder.once != nil {
      setBootOrder(configuration.bootOrder.order)
    }
    do throws(DeviceError) {
      try publishBootOrder()
    } catch {
      throw MachineError(error.message)
    }
    let memory = parts.context.memory
    if let firmware, let image = boot.firmware {
      let start = GuestAddress(PCMemoryMap.fourGiB - UInt64(firmware.size))
      memory.write(start, image, toROM: true)
    }
    if boot.substitutesFirmware { FirmwareSubstitute.configure(pci) }
    for write in boot.memory { memory.write(write.address, write.bytes) }
    guard let entry = boot.entry else { return }
    bootProcessor = BootProcessorState(entry)
    do {
      for thread in threads {
        let reset = try thread.vcpu.readState()
        var state = thread.vcpu.id.rawValue == 0 ? entry : reset
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
    guard boot.substitutesFirmware else { return }
    FirmwareSubstitute.configure(pci)
    do {
      // It may be on another node, which has the rest of the state.
      let first = threads.first { $0.vcpu.id.rawValue == 0 }
      let reset = try first?.vcpu.readState() ?? .reset(signature: 0)
      let state = boot.wakeState(from: parts.context.memory, reset: reset)
      bootProcessor = state.map { BootProcessorState($0) }
      if let state { try first?.vcpu.writeState(state) }
    } catch {
      throw MachineError(error.message)
    }
  }

  func pressPowerButton() -> Bool {
    pm.pressPowerButton()
    return true
  }
}
