package import CPU
import Shm

/// One entry of a memory map, as BIOS call E820 and `hvm_start_info` number its kinds.
package struct MemoryMapEntry: Equatable, Sendable {
  package enum Kind: UInt32, Sendable {
    case usable = 1
    case reserved = 2
    case acpi = 3
  }
  package let address: UInt64
  package let size: UInt64
  package let kind: Kind

  package init(_ address: UInt64, _ size: UInt64, _ kind: Kind) {
    self.address = address
    self.size = size
    self.kind = kind
  }
}

/// Where loaders put their own data in low memory, and rules common to all of them.
package enum BootMemory {
  /// Global descriptor table of the entry state.
  package static let descriptorTable: UInt64 = 0x500
  /// `hvm_start_info`, multiboot information, or Linux's boot parameters.
  package static let startInfo: UInt64 = 0x7000
  /// Memory map and module list behind it.
  package static let startInfoLists: UInt64 = 0x8000
  package static let commandLine: UInt64 = 0x2_0000
  /// Where the extended BIOS data area begins, which scanning software looks up.
  package static let extendedData: UInt64 = 0x9_FC00
  /// A copy of the SMBIOS entry point.
  package static let smbiosAnchor: UInt64 = 0xF_5A00
  /// RAM at the top of the low part that firmware needs for tables: initrds end below.
  package static let firmwareReserve: UInt64 = 0x2_8000

  /// As high as allowed, page aligned, above `end`. Throws `tooLarge` with both sizes.
  package static func placeInitrd(
    _ initrd: BootFile, above end: UInt64, limit: UInt64, _ memory: MemoryLayout
  ) throws(BootError) -> UInt32 {
    let size = UInt64(initrd.bytes.count)
    let reserve = memory.below4G > firmwareReserve ? memory.below4G - firmwareReserve : 0
    let top = min(limit &+ 1, reserve)
    guard size <= top, (top - size) & ~4095 >= (end + 4095) & ~4095,
      let address = UInt32(exactly: (top - size) & ~4095)
    else {
      throw BootError(
        .tooLarge,
        "could not load initrd '\(initrd.name)': \(size) bytes do not fit behind the kernel into "
          + "\(memory.below4G >> 20) MiB of RAM")
    }
    return address
  }

  /// The map that `etc/e820` gives firmware: RAM only, 20 bytes each.
  package static func firmwareMap(_ memory: MemoryLayout) -> [UInt8] {
    var bytes: [UInt8] = []
    var entries = [MemoryMapEntry(0, memory.below4G, .usable)]
    if memory.above4G > 0 {
      entries.append(MemoryMapEntry(1 << 32, memory.above4G, .usable))
    }
    for entry in entries {
      bytes.append64(entry.address)
      bytes.append64(entry.size)
      bytes.append32(entry.kind.rawValue)
    }
    return bytes
  }
}

/// What the guest finds in memory when there is no firmware: the memory map, ACPI and SMBIOS tables, an extended BIOS data area.
struct DirectFirmware {
  let map: [MemoryMapEntry]
  let memory: [BootPlan.MemoryWrite]
  /// Address of the ACPI root pointer, or 0.
  let rsdp: UInt64
  /// Address of the FACS.
  private(set) var facs: GuestAddress?

  init(_ configuration: BootConfiguration) {
    let layout = configuration.memory
    var memory: [BootPlan.MemoryWrite] = []
    var top = layout.below4G
    var map = [
      MemoryMapEntry(0, BootMemory.extendedData, .usable),
      MemoryMapEntry(BootMemory.extendedData, 0xA_0000 - BootMemory.extendedData, .reserved),
      MemoryMapEntry(0xF_0000, 0x1_0000, .reserved),
    ]
    var rsdp: UInt64 = 0
    // Segment of the extended BIOS data area and kilobytes of low memory, where scanners look (BIOS data area, 0x40E and 0x413).
    memory.append(.init(GuestAddress(0x40E), [0xC0, 0x9F]))
    memory.append(.init(GuestAddress(0x413), [0x7F, 0x02]))
    var extendedData = [UInt8](repeating: 0, count: 0x400)
    extendedData[0] = 1
    if let tables = configuration.tables {
      let size = UInt64(tables.placedSize)
      if size + 0x20_0000 < top {
        top = (top - size) & ~0xFFFF
        let placed = tables.placed(at: GuestAddress(top))
        memory.append(.init(GuestAddress(top), placed.bytes))
        rsdp = placed.rsdp?.rawValue ?? 0
        facs = placed.rsdp.map { $0 + UInt64(FirmwareTables.facsOffset) }
        map.append(MemoryMapEntry(top, layout.below4G - top, .acpi))
        // Copies of the root pointer and the SMBIOS entry point where they are looked for (ACPI 6.4, 5.2.5.1; SMBIOS 2.8, 5.2).
        extendedData.replaceSubrange(16..<16 + placed.rootPointer.count, with: placed.rootPointer)
        memory.append(.init(GuestAddress(BootMemory.smbiosAnchor), placed.smbiosAnchor))
      }
    }
    memory.append(.init(GuestAddress(BootMemory.extendedData), extendedData))
    map.append(MemoryMapEntry(0x10_0000, top - min(top, 0x10_0000), .usable))
    if layout.above4G > 0 { map.append(MemoryMapEntry(1 << 32, layout.above4G, .usable)) }
    self.map = map.sorted { $0.address < $1.address }
    self.memory = memory + [FlatEntry.descriptorTable]
    self.rsdp = rsdp
  }
}

/// 32-bit protected mode with flat segments and paging off, as PVH, multiboot and Linux's 32-bit entry all want it.
package enum FlatEntry {
  /// Selectors 0x10 (code) and 0x18 (data), which Linux's protocol prescribes, and 0x20 (task state).
  static let descriptorTable = BootPlan.MemoryWrite(
    GuestAddress(BootMemory.descriptorTable),
    [
      0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
      0xFF, 0xFF, 0, 0, 0, 0x9B, 0xCF, 0, 0xFF, 0xFF, 0, 0, 0, 0x93, 0xCF, 0,
      0x67, 0, 0, 0, 0, 0x8B, 0, 0,
    ])

  /// Execution at `rip` with interrupts off and all general registers zero.
  package static func state(rip: UInt64, signature: UInt32) -> CPUState {
    var state = CPUState.reset(signature: signature)
    state.registers = [UInt64](repeating: 0, count: 16)
    state.rip = rip
    state.rflags = 2
    state.cr0 = 0x11
    state.cs = SegmentRegister(selector: 0x10, base: 0, limit: 0xFFFF_FFFF, attributes: 0xC09B)
    let data = SegmentRegister(selector: 0x18, base: 0, limit: 0xFFFF_FFFF, attributes: 0xC093)
    state.ds = data
    state.es = data
    state.fs = data
    state.gs = data
    state.ss = data
    state.tr = SegmentRegister(selector: 0x20, base: 0, limit: 0x67, attributes: 0x8B)
    state.gdtr = DescriptorTableRegister(base: BootMemory.descriptorTable, limit: 0x27)
    state.idtr = DescriptorTableRegister(base: 0, limit: 0)
    state.msrs.merge(memoryTypes) { _, new in new }
    return state
  }

  /// Memory type ranges as firmware leaves them (Intel SDM vol. 3A, 12.11): write-back but for VGA memory and the PCI hole's top half GiB,
  /// which no board fills with RAM.
  private static var memoryTypes: [UInt32: UInt64] {
    let writeBack: UInt64 = 0x0606_0606_0606_0606
    var registers: [UInt32: UInt64] = [0x250: writeBack, 0x258: writeBack, 0x259: 0]
    for index in 0x268...0x26F as ClosedRange<UInt32> { registers[index] = writeBack }
    registers[0x200] = 0xE000_0000
    registers[0x201] = 0xFF_E000_0800
    registers[0x2FF] = 0xC06
    return registers
  }
}
