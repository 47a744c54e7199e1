import CPU
import Shm

/// Starts an uncompressed kernel by the PVH convention (Xen, docs/misc/pvh and public/arch-x86/hvm/start_info.h): 32-bit protected mode,
/// EBX points to `hvm_start_info`.
enum PVHLoader {
  private static let magic: UInt32 = 0x336E_C578

  static func plan(
    _ kernel: BootFile, _ configuration: BootConfiguration
  ) throws(BootError) -> BootPlan {
    let image = try ELFImage(kernel)
    guard let entry = image.pvhEntry else {
      throw BootError(
        .malformed,
        "could not load kernel '\(kernel.name)': Error loading uncompressed kernel without PVH ELF Note"
      )
    }
    let (writes, end) = try image.writes(configuration.memory)
    let firmware = DirectFirmware(configuration)
    var plan = BootPlan()
    plan.memory = firmware.memory + writes

    var lists: [UInt8] = []
    if let initrd = configuration.initrd {
      let address = try BootMemory.placeInitrd(
        initrd, above: end, limit: 0xFFFF_FFFF, reserving(configuration))
      plan.memory.append(.init(GuestAddress(UInt64(address)), initrd.bytes))
      for value in [UInt64(address), UInt64(initrd.bytes.count), 0, 0] { lists.append64(value) }
    }
    let mapAddress = BootMemory.startInfoLists + UInt64(lists.count)
    for entry in firmware.map {
      lists.append64(entry.address)
      lists.append64(entry.size)
      lists.append32(entry.kind.rawValue)
      lists.append32(0)
    }
    let commandLine = Array(configuration.commandLine.utf8) + [0]
    guard commandLine.count < 0x1_0000 else {
      throw BootError(.tooLarge, "the kernel command line has more than 65535 bytes")
    }
    var info: [UInt8] = []
    info.append32(magic)
    info.append32(1)  // version
    info.append32(0)  // flags
    info.append32(configuration.initrd == nil ? 0 : 1)
    info.append64(configuration.initrd == nil ? 0 : BootMemory.startInfoLists)
    info.append64(BootMemory.commandLine)
    info.append64(firmware.rsdp)
    info.append64(mapAddress)
    info.append32(UInt32(firmware.map.count))
    info.append32(0)

    plan.memory += [
      .init(GuestAddress(BootMemory.startInfo), info),
      .init(GuestAddress(BootMemory.startInfoLists), lists),
      .init(GuestAddress(BootMemory.commandLine), commandLine),
    ]
    var state = FlatEntry.state(rip: UInt64(entry), signature: configuration.cpuSignature)
    state.registers[3] = BootMemory.startInfo
    plan.entry = state
    plan.facs = firmware.facs
    return plan
  }

  /// The memory below the tables that `DirectFirmware` puts at the top.
  static func reserving(_ configuration: BootConfiguration) -> MemoryLayout {
    let tables = UInt64(configuration.tables?.placedSize ?? 0) + 0x1_0000
    let low = configuration.memory.below4G
    return MemoryLayout(ramSize: low > tables ? low - tables : low)
  }
}
