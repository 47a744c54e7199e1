import CPU
import Shm

/// Starts a multiboot 1 image (Multiboot Specification 0.6.96): 32-bit protected mode, EAX holds the magic number, EBX points to the
/// information structure. An initrd becomes the first module.
enum MultibootLoader {
  static let headerMagic: UInt32 = 0x1BAD_B002
  private static let bootMagic: UInt64 = 0x2BAD_B002

  /// Bits of the header's flags (3.1.2).
  private enum Flag {
    static let pageAligned: UInt32 = 1 << 0
    static let memory: UInt32 = 1 << 1
    static let video: UInt32 = 1 << 2
    static let addresses: UInt32 = 1 << 16
    static let known = pageAligned | memory | video
  }

  static func plan(
    _ kernel: BootFile, headerAt offset: Int, _ configuration: BootConfiguration
  ) throws(BootError) -> BootPlan {
    let bytes = LittleEndian(kernel.bytes)
    let flags = bytes.u32(offset + 4)
    // Bits 0 to 15 are requirements: an unknown one must be refused.
    guard flags & 0xFFFF & ~Flag.known == 0 else {
      throw BootError(
        .unsupported,
        "could not load kernel '\(kernel.name)': multiboot flags 0x\(String(flags, radix: 16)) ask "
          + "for something unknown")
    }
    let loads: [BootPlan.MemoryWrite]
    let end: UInt64
    let entry: UInt64
    if flags & Flag.addresses != 0 {
      (loads, end, entry) = try byHeader(kernel, offset, configuration.memory)
    } else {
      let image = try ELFImage(kernel)
      (loads, end) = try image.writes(configuration.memory)
      entry = image.entry
    }
    guard let start = UInt32(exactly: entry) else {
      throw BootError(
        .malformed, "could not load kernel '\(kernel.name)': its entry is above 4 GiB")
    }
    var plan = BootPlan()
    let firmware = DirectFirmware(configuration)
    plan.memory = firmware.memory + loads
    plan.memory += try information(kernel, configuration, firmware, end)
    var state = FlatEntry.state(rip: UInt64(start), signature: configuration.cpuSignature)
    state.registers[0] = bootMagic
    state.registers[3] = BootMemory.startInfo
    plan.entry = state
    plan.facs = firmware.facs
    return plan
  }

  /// Load addresses from the multiboot header itself (3.1.3).
  private static func byHeader(
    _ kernel: BootFile, _ offset: Int, _ memory: MemoryLayout
  ) throws(BootError) -> (writes: [BootPlan.MemoryWrite], end: UInt64, entry: UInt64) {
    let bytes = LittleEndian(kernel.bytes)
    let header = UInt64(bytes.u32(offset + 12))
    let load = UInt64(bytes.u32(offset + 16))
    let loadEnd = UInt64(bytes.u32(offset + 20))
    let bssEnd = UInt64(bytes.u32(offset + 24))
    // Where the load address is in the file, from where the header is in both.
    guard header >= load, header - load <= UInt64(offset) else {
      throw BootError(
        .malformed, "could not load kernel '\(kernel.name)': invalid multiboot load address")
    }
    let from = offset - Int(header - load)
    let available = UInt64(kernel.bytes.count - from)
    let size = loadEnd == 0 ? available : loadEnd &- load
    guard loadEnd == 0 || loadEnd >= load, size <= available else {
      throw BootError(
        .malformed,
        "could not load kernel '\(kernel.name)': its multiboot header says \(size) bytes, the file "
          + "has \(available) (truncated?)")
    }
    let end = max(load + size, bssEnd)
    guard load >= 0x3_0000, end <= memory.below4G else {
      throw BootError(
        .tooLarge,
        "could not load kernel '\(kernel.name)': 0x\(String(load, radix: 16)) to "
          + "0x\(String(end, radix: 16)) is not free RAM")
    }
    var image = Array(kernel.bytes[from..<from + Int(size)])
    image += [UInt8](repeating: 0, count: Int(end - load) - image.count)
    return (
      [.init(GuestAddress(load), image)], end, UInt64(bytes.u32(offset + 28))
    )
  }

  /// The information structure (3.3) with command line, module and memory map.
  private static func information(
    _ kernel: BootFile, _ configuration: BootConfiguration, _ firmware: DirectFirmware,
    _ end: UInt64
  ) throws(BootError) -> [BootPlan.MemoryWrite] {
    // As a boot loader's first argument, the image's own name.
    let separator = configuration.commandLine.isEmpty ? "" : " "
    let commandLine = Array((kernel.name + separator + configuration.commandLine).utf8) + [0]
    guard commandLine.count < 0x8000 else {
      throw BootError(.tooLarge, "the kernel command line has more than 32767 bytes")
    }
    var writes: [BootPlan.MemoryWrite] = []
    var lists: [UInt8] = []
    if let initrd = configuration.initrd {
      // Modules follow the image, page aligned.
      let address = (end + 4095) & ~4095
      let last = address + UInt64(initrd.bytes.count)
      guard last <= PVHLoader.reserving(configuration).below4G else {
        throw BootError(
          .tooLarge,
          "could not load initrd '\(initrd.name)': \(initrd.bytes.count) bytes do not fit behind "
            + "the kernel into \(configuration.memory.below4G >> 20) MiB of RAM")
      }
      writes.append(.init(GuestAddress(address), initrd.bytes))
      let name = BootMemory.commandLine + 0x8000
      writes.append(.init(GuestAddress(name), Array(initrd.name.utf8.prefix(4095)) + [0]))
      for value in [address, last, name, 0] { lists.append32(UInt32(truncatingIfNeeded: value)) }
    }
    let mapAddress = BootMemory.startInfoLists + UInt64(lists.count)
    let mapStart = lists.count
    for entry in firmware.map {
      lists.append32(20)  // size of what follows
      lists.append64(entry.address)
      lists.append64(entry.size)
      lists.append32(entry.kind.rawValue)
    }
    let loaderName = BootMemory.startInfoLists + UInt64(lists.count)
    let mapLength = lists.count - mapStart
    lists += Array("Goliath".utf8) + [0]

    var info = [UInt8](repeating: 0, count: 88)
    let hasModule = configuration.initrd != nil
    // Valid: memory sizes, command line, modules, memory map, loader's name.
    info.put(UInt32(hasModule ? 0x24D : 0x245), at: 0)
    info.put(UInt32(639), at: 4)
    let upper = configuration.memory.below4G > 0x10_0000 ? configuration.memory.below4G >> 10 : 1024
    info.put(UInt32(truncatingIfNeeded: upper - 1024), at: 8)
    info.put(UInt32(truncatingIfNeeded: BootMemory.commandLine), at: 16)
    info.put(UInt32(hasModule ? 1 : 0), at: 20)
    info.put(UInt32(truncatingIfNeeded: BootMemory.startInfoLists), at: 24)
    info.put(UInt32(mapLength), at: 44)
    info.put(UInt32(truncatingIfNeeded: mapAddress), at: 48)
    info.put(UInt32(truncatingIfNeeded: loaderName), at: 64)
    writes += [
      .init(GuestAddress(BootMemory.startInfo), info),
      .init(GuestAddress(BootMemory.startInfoLists), lists),
      .init(GuestAddress(BootMemory.commandLine), commandLine),
    ]
    return writes
  }
}
