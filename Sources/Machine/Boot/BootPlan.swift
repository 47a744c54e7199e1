package import CPU
package import Shm

/// A kernel, initrd or firmware file cannot be booted. The sentence names the file and what is wrong, without the program's name.
package struct BootError: Error, Equatable, Sendable, CustomStringConvertible {
  package enum Kind: Equatable, Sendable {
    /// The file cannot be read.
    case unreadable
    /// It is not of a kind that can be booted, or its header contradicts itself or the file's size.
    case malformed
    /// It is sound but does not fit into the machine's memory.
    case tooLarge
    /// The options do not go together.
    case unsupported
  }
  package let kind: Kind
  package let message: String

  package init(_ kind: Kind, _ message: String) {
    self.kind = kind
    self.message = message
  }

  package var description: String { message }
}

/// A file as the loaders see it: what to call it in messages, and its contents.
package struct BootFile: Equatable, Sendable {
  package let name: String
  package let bytes: [UInt8]

  package init(name: String, bytes: [UInt8]) {
    self.name = name
    self.bytes = bytes
  }
}

/// Where RAM is in a `pc` machine's address space: below the PCI hole, and above 4 GiB.
package struct MemoryLayout: Equatable, Sendable {
  /// Bytes of RAM from address 0.
  package let below4G: UInt64
  /// Bytes of RAM from 4 GiB.
  package let above4G: UInt64

  package init(below4G: UInt64, above4G: UInt64) {
    self.below4G = below4G
    self.above4G = above4G
  }

  /// Up to 3.5 GiB lie below the hole; more, and the hole begins at 3 GiB, as on the `pc` board of QEMU since 2.0.
  package init(ramSize: UInt64) {
    below4G = ramSize < 0xE000_0000 ? ramSize : 0xC000_0000
    above4G = ramSize - below4G
  }

  package var ramSize: UInt64 { below4G + above4G }
}

/// What a machine is booted from.
package struct BootConfiguration: Sendable {
  package var memory: MemoryLayout
  /// `-bios`, or the default firmware. May be absent for direct entry.
  package var firmware: BootFile?
  package var kernel: BootFile?
  package var initrd: BootFile?
  package var commandLine = ""
  /// Start a bzImage without firmware, through its 32-bit entry.
  package var prefersDirectEntry = false
  /// ACPI and SMBIOS for the guest.
  package var tables: FirmwareTables?
  /// CPUID.1:EAX of the boot processor, which RDX holds at reset.
  package var cpuSignature: UInt32 = 0
  /// `-machine max-fw-size`, in bytes.
  package var largestFirmware = 8 << 20

  package init(memory: MemoryLayout) { self.memory = memory }
}

/// All that has to be put into a machine so that it boots. At every reset: RAM keeps what it has, then `memory` is written again, then the
/// boot processor starts at `entry`, or at the reset vector in `firmware`.
package struct BootPlan: Sendable {
  /// Bytes to store in guest RAM.
  package struct MemoryWrite: Equatable, Sendable {
    package let address: GuestAddress
    package let bytes: [UInt8]

    package init(_ address: GuestAddress, _ bytes: [UInt8]) {
      self.address = address
      self.bytes = bytes
    }
  }

  /// A named file in fw_cfg.
  package struct ConfigurationFile: Equatable, Sendable {
    package let name: String
    package let bytes: [UInt8]
    /// The guest may change it.
    package let isWritable: Bool

    package init(_ name: String, _ bytes: [UInt8], isWritable: Bool = false) {
      self.name = name
      self.bytes = bytes
      self.isWritable = isWritable
    }
  }

  /// ROM image that ends at 4 GiB; its last 128 KiB show at the end of the first MiB too. A multiple of 64 KiB. Nil with direct entry.
  package var firmware: [UInt8]?
  package var memory: [MemoryWrite] = []
  /// fw_cfg items by selector key.
  package var items: [(key: UInt16, bytes: [UInt8])] = []
  package var files: [ConfigurationFile] = []
  /// Lines of the fw_cfg file `bootorder`, before those of other devices.
  package var bootOrder: [String] = []
  /// The boot processor's state for direct entry; nil to start at the reset vector.
  package var entry: CPUState?
  /// There is no firmware that will set up PCI bridges and the power management block: the board does it itself at reset
  /// (`FirmwareSubstitute`).
  package var substitutesFirmware: Bool { entry != nil }

  /// Where the ACPI firmware control structure (FACS) is, when we placed it.
  package var facs: GuestAddress?

  package init() {}
}

extension BootPlan {
  /// Where the boot processor goes on after S3 without firmware: real mode at the vector that the system left in the FACS
  /// (ACPI 6.4, 5.2.10 and 16.3.2). Nil when there is none.
  package func wakeState(from memory: GuestMemory, reset: CPUState) -> CPUState? {
    guard let facs, let vector = memory.load(facs + 12, as: UInt32.self), vector != 0,
      vector < 0x10_0000
    else { return nil }
    var state = reset
    state.cs = SegmentRegister(
      selector: UInt16(vector >> 4), base: UInt64(vector & ~15), limit: 0xFFFF, attributes: 0x9B)
    state.rip = UInt64(vector & 15)
    state.msrs.merge(entry?.msrs ?? [:]) { _, planned in planned }
    return state
  }

  /// Decides by the kernel's format how to boot. Pure: reads no files, touches no machine. Throws `BootError`.
  package static func make(_ configuration: BootConfiguration) throws(BootError) -> BootPlan {
    var plan = BootPlan()
    if let kernel = configuration.kernel {
      switch KernelFormat.detect(kernel.bytes) {
      case .bzImage where configuration.prefersDirectEntry:
        plan = try LinuxLoader.direct(kernel, configuration)
      case .bzImage: plan = try LinuxLoader.throughFirmware(kernel, configuration)
      case .multiboot(let offset):
        plan = try MultibootLoader.plan(kernel, headerAt: offset, configuration)
      case .elf: plan = try PVHLoader.plan(kernel, configuration)
      case .unknown:
        throw BootError(
          .malformed,
          "could not load kernel '\(kernel.name)': neither a Linux bzImage, an ELF image with a PVH "
            + "note, nor a multiboot image")
      }
    } else if configuration.initrd != nil {
      throw BootError(.unsupported, "-initrd only allowed with -kernel option")
    } else if !configuration.commandLine.isEmpty {
      throw BootError(.unsupported, "-append only allowed with -kernel option")
    }
    if plan.entry == nil {
      guard let firmware = configuration.firmware else {
        throw BootError(
          .unreadable,
          "no firmware found: install the package 'seabios', or name an image with -bios")
      }
      plan.firmware = try check(firmware, limit: configuration.largestFirmware)
    }
    if let tables = configuration.tables {
      if plan.entry == nil { plan.files += tables.files }
    }
    return plan
  }

  private static func check(
    _ file: BootFile, limit: Int
  ) throws(BootError) -> [UInt8] {
    guard !file.bytes.isEmpty, file.bytes.count % 65_536 == 0 else {
      throw BootError(
        .malformed,
        "could not load PC BIOS '\(file.name)': its size (\(file.bytes.count) bytes) is not a "
          + "multiple of 64 KiB")
    }
    guard file.bytes.count <= limit else {
      throw BootError(
        .tooLarge,
        "could not load PC BIOS '\(file.name)': it has \(file.bytes.count) bytes, max-fw-size is "
          + "\(limit)")
    }
    return file.bytes
  }
}

/// What a kernel image is, by its first bytes.
package enum KernelFormat: Equatable, Sendable {
  case bzImage
  case elf
  /// The multiboot 1 header's offset.
  case multiboot(Int)
  case unknown

  package static func detect(_ bytes: [UInt8]) -> KernelFormat {
    let reader = LittleEndian(bytes)
    if reader.u32(0x202) == 0x5372_6448 { return .bzImage }
    // A header within the first 8 KiB, four-byte aligned, whose three words add up to zero (Multiboot 0.6.96, 3.1.1).
    for offset in stride(from: 0, to: min(bytes.count, 8192) - 11, by: 4)
    where reader.u32(offset) == MultibootLoader.headerMagic {
      let sum = MultibootLoader.headerMagic &+ reader.u32(offset + 4) &+ reader.u32(offset + 8)
      if sum == 0 { return .multiboot(offset) }
    }
    return reader.u32(0) == 0x464C_457F ? .elf : .unknown
  }
}

/// Little-endian numbers at offsets in bytes from a file; zero where the file ends before.
struct LittleEndian {
  let bytes: [UInt8]
  init(_ bytes: [UInt8]) { self.bytes = bytes }

  func u8(_ offset: Int) -> UInt8 { bytes.indices.contains(offset) ? bytes[offset] : 0 }
  func u16(_ offset: Int) -> UInt16 { UInt16(u8(offset)) | UInt16(u8(offset &+ 1)) << 8 }
  func u32(_ offset: Int) -> UInt32 { UInt32(u16(offset)) | UInt32(u16(offset &+ 2)) << 16 }
  func u64(_ offset: Int) -> UInt64 { UInt64(u32(offset)) | UInt64(u32(offset &+ 4)) << 32 }
}

/// Little-endian numbers appended to bytes.
extension [UInt8] {
  mutating func append16(_ value: UInt16) {
    append(UInt8(truncatingIfNeeded: value))
    append(UInt8(value >> 8))
  }
  mutating func append32(_ value: UInt32) {
    append16(UInt16(truncatingIfNeeded: value))
    append16(UInt16(value >> 16))
  }
  mutating func append64(_ value: UInt64) {
    append32(UInt32(truncatingIfNeeded: value))
    append32(UInt32(value >> 32))
  }
  /// Stores a number at an offset; nothing where it would not fit.
  mutating func put<T: FixedWidthInteger>(_ value: T, at offset: Int) {
    let width = T.bitWidth / 8
    guard offset >= 0, offset + width <= count else { return }
    for index in 0..<width {
      self[offset + index] = UInt8(truncatingIfNeeded: value >> T(index * 8))
    }
  }
}
