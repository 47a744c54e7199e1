import DeviceModel
import Options

extension MemoryLayout {
  /// The board's own division of RAM.
  init(_ map: PCMemoryMap) { self.init(below4G: map.lowSize, above4G: map.highSize) }
}

extension BootPlan {
  /// Reads the files that the command line names and plans the start. Throws `MachineError` with one sentence.
  static func make(
    _ configuration: LaunchConfiguration, map: PCMemoryMap, apicIDs: [APICID],
    numa: NUMATopology?, settings: BoardSettings
  ) throws(MachineError) -> BootPlan {
    do throws(BootError) {
      let sources = configuration.boot
      var wanted = BootConfiguration(memory: MemoryLayout(map))
      wanted.commandLine = sources.append ?? ""
      let lowMemory = Int(clamping: map.lowSize)
      wanted.kernel = try sources.kernel.map { (path) throws(BootError) in
        // An ELF file may carry symbols that are not loaded.
        try BootFile.read(path, as: "kernel", limit: max(lowMemory, 1 << 30))
      }
      wanted.initrd = try sources.initrd.map { (path) throws(BootError) in
        try BootFile.read(path, as: "initrd", limit: lowMemory)
      }
      if let limit = configuration.machine.maximumFirmwareSize {
        wanted.largestFirmware = Int(clamping: limit)
      }
      let needsFirmware = wanted.kernel.map { KernelFormat.detect($0.bytes) == .bzImage } ?? true
      if needsFirmware {
        wanted.firmware = try BootFile.firmware(
          sources.firmware ?? BootFile.defaultFirmware, directories: sources.dataDirectories)
      }
      var description = FirmwareConfiguration(
        configuration, memory: wanted.memory, apicIDs: apicIDs)
      description.numa = numa
      description.allowsS3 = !settings.disablesS3
      description.allowsS4 = !settings.disablesS4
      description.s4Value = settings.s4Value
      wanted.tables = FirmwareTables(description)
      return try make(wanted)
    } catch {
      throw MachineError(error.message)
    }
  }
}

extension FirmwareConfiguration {
  /// What the tables say about a machine of this command line.
  init(_ configuration: LaunchConfiguration, memory: MemoryLayout, apicIDs: [APICID]) {
    self.init(
      memory: memory,
      processors: apicIDs.enumerated().map {
        Processor(uid: UInt32($0.offset), apicID: $0.element.rawValue)
      })
    let smp = configuration.smp
    coresPerSocket = max(smp.dies * smp.cores, 1)
    threadsPerCore = max(smp.threads, 1)
    let perSocket = coresPerSocket * threadsPerCore
    sockets = max((apicIDs.count + perSocket - 1) / perSocket, 1)
    uuid = configuration.uuid?.bytes
    machineName = configuration.machine.type
    let ports =
      configuration.serials.count + configuration.devices.count { $0.driver == "isa-serial" }
    serialPorts = (0..<min(ports, 4)).map { UInt32($0) }
    let printers =
      configuration.parallels.count + configuration.devices.count { $0.driver == "isa-parallel" }
    parallelPorts = (0..<min(printers, 3)).map { UInt32($0) }
    hasHPET = configuration.machine.hpet
    hasKeyboardController = configuration.machine.i8042
    hasACPI = configuration.machine.acpi != .off
    hasSMBIOS3 = configuration.machine.smbiosEntryPoint == "64"
    oemID = configuration.machine.oemID ?? oemID
    oemTableID = configuration.machine.oemTableID ?? oemTableID
    if let device = configuration.devices.first(where: { $0.driver == "pvpanic" }) {
      let properties = try? DeviceProperties(device, globals: configuration.globals)
      pvpanicPort = (try? properties?.port("ioport", default: 0x505)) ?? 0x505
    }
  }
}
