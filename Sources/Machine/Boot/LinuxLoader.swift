import CPU
import Devices
import Shm

/// The setup header of a bzImage (Linux, Documentation/arch/x86/boot.rst). Offsets are those in the file.
struct LinuxHeader {
  /// Setup sectors behind the boot sector; 0 means 4.
  let setupSectors: Int
  let version: UInt16
  let loadFlags: UInt8
  let initrdMaximum: UInt32
  let commandLineSize: UInt32
  let extendedLoadFlags: UInt16
  /// Bytes of real-mode code from the file's start.
  var setupSize: Int { (setupSectors + 1) * 512 }
  /// The protected-mode part goes to 1 MiB, else to 64 KiB (zImage).
  var isLoadedHigh: Bool { version >= 0x200 && loadFlags & 1 != 0 }

  /// Parses and checks the header against the file's size.
  init(_ file: BootFile) throws(BootError) {
    let reader = LittleEndian(file.bytes)
    let sectors = Int(reader.u8(0x1F1))
    setupSectors = sectors == 0 ? 4 : sectors
    version = reader.u16(0x206)
    loadFlags = reader.u8(0x211)
    initrdMaximum = version >= 0x203 ? reader.u32(0x22C) : 0x37FF_FFFF
    commandLineSize = version >= 0x206 ? reader.u32(0x238) : 255
    extendedLoadFlags = version >= 0x20C ? reader.u16(0x236) : 0
    guard version >= 0x200 else {
      throw BootError(
        .malformed,
        "could not load kernel '\(file.name)': boot protocol 0x\(String(version, radix: 16)) is "
          + "older than 2.00")
    }
    guard file.bytes.count > setupSize else {
      throw BootError(
        .malformed,
        "could not load kernel '\(file.name)': the file has \(file.bytes.count) bytes, its header "
          + "says that the real-mode part alone has \(setupSize)")
    }
    // The protected-mode part's size in 16-byte units: a shorter file was cut off.
    let declared = version >= 0x204 ? UInt64(reader.u32(0x1F4)) * 16 : 0
    guard UInt64(file.bytes.count - setupSize) &+ 15 >= declared else {
      throw BootError(
        .malformed,
        "could not load kernel '\(file.name)': the file is truncated "
          + "(\(file.bytes.count) bytes, its header says \(UInt64(setupSize) + declared))")
    }
  }
}

/// Boots a bzImage: through firmware and an option ROM of ours, or directly through its 32-bit entry.
enum LinuxLoader {
  /// Loader type "QEMU, version 0" in the header: kernels know it.
  private static let loaderType: UInt8 = 0xB0

  /// Where the parts go.
  private struct Placement {
    var setup: UInt32 = 0x1_0000
    var commandLine: UInt32 = 0x2_0000
    var protectedMode: UInt32 = 0x10_0000
    var initrd: UInt32 = 0
  }

  private static func place(
    _ header: LinuxHeader, _ kernel: BootFile, _ commandLine: [UInt8],
    _ configuration: BootConfiguration
  ) throws(BootError) -> Placement {
    var placement = Placement()
    if !header.isLoadedHigh || header.version < 0x202 {
      placement.setup = 0x9_0000
      placement.commandLine = 0x9_A000 &- UInt32((commandLine.count + 15) & ~15)
      if !header.isLoadedHigh { placement.protectedMode = 0x1_0000 }
    }
    let room = min(UInt64(placement.commandLine) - UInt64(placement.setup), 0x1_0000)
    guard UInt64(header.setupSize) + 0x200 <= room else {
      throw BootError(
        .malformed,
        "could not load kernel '\(kernel.name)': its real-mode part of \(header.setupSize) bytes "
          + "does not fit below 64 KiB")
    }
    let size = UInt64(kernel.bytes.count - header.setupSize)
    let top = header.isLoadedHigh ? configuration.memory.below4G : 0x9_0000
    let end = UInt64(placement.protectedMode) + size
    guard end <= top else {
      throw BootError(
        .tooLarge,
        "could not load kernel '\(kernel.name)': \(size) bytes do not fit into "
          + "\(configuration.memory.below4G >> 20) MiB of RAM")
    }
    if let initrd = configuration.initrd {
      placement.initrd = try BootMemory.placeInitrd(
        initrd, above: end, limit: initrdLimit(header), configuration.memory)
    }
    return placement
  }

  /// The highest address the kernel lets an initrd's last byte have.
  private static func initrdLimit(_ header: LinuxHeader) -> UInt64 {
    // "Can be loaded above 4 GiB" (bit 1): everything below 4 GiB does too.
    header.extendedLoadFlags & 2 != 0 ? 0xFFFF_FFFF : UInt64(header.initrdMaximum)
  }

  /// The command line with its terminator; checked against what the kernel takes.
  private static func commandLine(
    _ header: LinuxHeader, _ kernel: BootFile, _ configuration: BootConfiguration
  ) throws(BootError) -> [UInt8] {
    let text = Array(configuration.commandLine.utf8)
    guard text.count <= Int(header.commandLineSize), text.count < 0x1_0000 else {
      throw BootError(
        .tooLarge,
        "the kernel command line has \(text.count) bytes, '\(kernel.name)' takes at most "
          + "\(header.commandLineSize)")
    }
    return text + [0]
  }

  /// The real-mode part with the loader's fields filled in.
  private static func setup(
    _ header: LinuxHeader, _ kernel: BootFile, _ placement: Placement,
    _ configuration: BootConfiguration
  ) throws(BootError) -> [UInt8] {
    var setup = Array(kernel.bytes[..<header.setupSize])
    setup.put(loaderType, at: 0x210)
    if header.version >= 0x201 {
      // The heap ends below the command line; CAN_USE_HEAP.
      let end = min(placement.commandLine &- placement.setup, 0x1_0000) &- 0x200
      setup.put(header.loadFlags | 0x80, at: 0x211)
      setup.put(UInt16(truncatingIfNeeded: end), at: 0x224)
    }
    if header.version >= 0x202 {
      setup.put(placement.commandLine, at: 0x228)
    } else {
      setup.put(UInt16(0xA33F), at: 0x20)
      setup.put(UInt16(truncatingIfNeeded: placement.commandLine &- placement.setup), at: 0x22)
    }
    if let initrd = configuration.initrd {
      setup.put(placement.initrd, at: 0x218)
      setup.put(UInt32(truncatingIfNeeded: initrd.bytes.count), at: 0x21C)
    }
    if let mode = try videoMode(configuration.commandLine) { setup.put(mode, at: 0x1FA) }
    return setup
  }

  /// The `vga=` option, which the loader has to pass in the header.
  private static func videoMode(_ commandLine: String) throws(BootError) -> UInt16? {
    guard
      let option = commandLine.split(separator: " ").last(where: { $0.hasPrefix("vga=") })
    else { return nil }
    let value = option.dropFirst(4)
    switch value {
    case "normal": return 0xFFFF
    case "ext": return 0xFFFE
    case "ask": return 0xFFFD
    default:
      let number =
        value.hasPrefix("0x") ? UInt16(value.dropFirst(2), radix: 16) : UInt16(value)
      guard let number else {
        throw BootError(.unsupported, "can't parse 'vga' parameter: \(value)")
      }
      return number
    }
  }

  // MARK: - Through firmware

  /// As QEMU does: parts in fw_cfg, an option ROM that fetches them by DMA and jumps into the real-mode code.
  static func throughFirmware(
    _ kernel: BootFile, _ configuration: BootConfiguration
  ) throws(BootError) -> BootPlan {
    let header = try LinuxHeader(kernel)
    let commandLine = try commandLine(header, kernel, configuration)
    let placement = try place(header, kernel, commandLine, configuration)
    let setup = try setup(header, kernel, placement, configuration)
    let image = Array(kernel.bytes[header.setupSize...])

    var plan = BootPlan()
    func number(_ value: UInt32) -> [UInt8] {
      var bytes: [UInt8] = []
      bytes.append32(value)
      return bytes
    }
    plan.items = [
      (FwCfgKey.kernelAddress, number(placement.protectedMode)),
      (FwCfgKey.kernelSize, number(UInt32(image.count))), (FwCfgKey.kernelData, image),
      (FwCfgKey.setupAddress, number(placement.setup)),
      (FwCfgKey.setupSize, number(UInt32(setup.count))), (FwCfgKey.setupData, setup),
      (FwCfgKey.commandLineAddress, number(placement.commandLine)),
      (FwCfgKey.commandLineSize, number(UInt32(commandLine.count))),
      (FwCfgKey.commandLineData, commandLine),
    ]
    var rom = LinuxBootROM(
      setupAddress: placement.setup,
      stackOffset: min(placement.commandLine &- placement.setup, 0x1_0000) &- 16)
    rom.load(FwCfgKey.setupData, placement.setup, setup.count)
    rom.load(FwCfgKey.commandLineData, placement.commandLine, commandLine.count)
    rom.load(FwCfgKey.kernelData, placement.protectedMode, image.count)
    if let initrd = configuration.initrd {
      plan.items += [
        (FwCfgKey.initrdAddress, number(placement.initrd)),
        (FwCfgKey.initrdSize, number(UInt32(initrd.bytes.count))),
        (FwCfgKey.initrdData, initrd.bytes),
      ]
      rom.load(FwCfgKey.initrdData, placement.initrd, initrd.bytes.count)
    }
    plan.files = [BootPlan.ConfigurationFile(LinuxBootROM.fileName, rom.image())]
    plan.bootOrder = ["/rom@" + LinuxBootROM.fileName]
    return plan
  }

  // MARK: - Directly

  /// The 32-bit boot protocol (boot.rst, "32-bit Boot Protocol"): we do what real-mode code and firmware would.
  static func direct(
    _ kernel: BootFile, _ configuration: BootConfiguration
  ) throws(BootError) -> BootPlan {
    let header = try LinuxHeader(kernel)
    guard header.isLoadedHigh, header.version >= 0x206 else {
      throw BootError(
        .unsupported,
        "could not load kernel '\(kernel.name)': direct entry needs boot protocol 2.06 or newer")
    }
    let commandLine = try commandLine(header, kernel, configuration)
    var placement = try place(header, kernel, commandLine, configuration)
    placement.commandLine = UInt32(BootMemory.commandLine)
    let setup = try setup(header, kernel, placement, configuration)
    let firmware = DirectFirmware(configuration)

    // "Zero page": the setup header at its own offset, memory map, ACPI root pointer.
    var parameters = [UInt8](repeating: 0, count: 4096)
    let headerEnd = min(0x202 + Int(setup[0x201]), 0x290)
    parameters.replaceSubrange(0x1F1..<headerEnd, with: setup[0x1F1..<headerEnd])
    parameters.put(firmware.rsdp, at: 0x70)
    parameters.put(UInt8(firmware.map.count), at: 0x1E8)
    for (index, entry) in firmware.map.enumerated() {
      let at = 0x2D0 + index * 20
      parameters.put(entry.address, at: at)
      parameters.put(entry.size, at: at + 8)
      parameters.put(entry.kind.rawValue, at: at + 16)
    }

    var plan = BootPlan()
    plan.memory = firmware.memory
    plan.memory += [
      .init(GuestAddress(BootMemory.startInfo), parameters),
      .init(GuestAddress(BootMemory.commandLine), commandLine),
      .init(
        GuestAddress(UInt64(placement.protectedMode)), Array(kernel.bytes[header.setupSize...])),
    ]
    if let initrd = configuration.initrd {
      plan.memory.append(.init(GuestAddress(UInt64(placement.initrd)), initrd.bytes))
    }
    var state = FlatEntry.state(
      rip: UInt64(placement.protectedMode), signature: configuration.cpuSignature)
    state.registers[6] = BootMemory.startInfo
    plan.entry = state
    plan.facs = firmware.facs
    return plan
  }
}
