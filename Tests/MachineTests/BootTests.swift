import CPU
import Devices
import Machine
import Shm
import Support
import Testing

/// A bzImage of `size` bytes behind the real-mode part, with a header of protocol 2.15.
private func bzImage(size: Int = 0x3000, sectors: UInt8 = 3) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: (Int(sectors) + 1) * 512 + size)
  func put(_ offset: Int, _ value: UInt64, _ width: Int) {
    for index in 0..<width {
      bytes[offset + index] = UInt8(truncatingIfNeeded: value >> (index * 8))
    }
  }
  put(0x1F1, UInt64(sectors), 1)
  put(0x1F4, UInt64(size / 16), 4)
  put(0x201, 0x6A, 1)
  put(0x202, 0x5372_6448, 4)
  put(0x206, 0x20F, 2)
  put(0x211, 1, 1)
  put(0x22C, 0x7FFF_FFFF, 4)
  put(0x236, 0x7F, 2)
  put(0x238, 2047, 4)
  for index in 0..<size {
    bytes[(Int(sectors) + 1) * 512 + index] = UInt8(truncatingIfNeeded: index)
  }
  return bytes
}

/// An ELF-64 with one segment at 1 MiB and, unless nil, Xen's entry note.
private func elf(entry: UInt32? = 0x10_0020, address: UInt64 = 0x10_0000) -> [UInt8] {
  var bytes: [UInt8] = [0x7F, 0x45, 0x4C, 0x46, 2, 1, 1] + [UInt8](repeating: 0, count: 9)
  func append(_ value: UInt64, _ width: Int) {
    for index in 0..<width { bytes.append(UInt8(truncatingIfNeeded: value >> (index * 8))) }
  }
  for value in [2, 62] as [UInt64] { append(value, 2) }
  append(1, 4)
  for value in [0x1234, 64, 0] as [UInt64] { append(value, 8) }
  append(0, 4)
  for value in [64, 56, 2, 0, 0, 0] as [UInt64] { append(value, 2) }
  func header(_ kind: UInt64, _ offset: UInt64, _ address: UInt64, _ file: UInt64, _ size: UInt64) {
    append(kind, 4)
    append(5, 4)
    for value in [offset, address, address, file, size, 0x1000] { append(value, 8) }
  }
  header(1, 200, address, 16, 0x40)
  header(4, 176, 0, 20, 20)
  append(4, 4)
  append(4, 4)
  append(entry == nil ? 17 : 18, 4)
  bytes += [0x58, 0x65, 0x6E, 0]
  append(UInt64(entry ?? 0), 4)
  bytes += [UInt8](repeating: 0, count: 200 - bytes.count)
  bytes += (0..<16).map { UInt8($0) }
  return bytes
}

@Suite struct BootTests {
  private func configuration(
    kernel: [UInt8]? = nil, initrd: Int? = nil, megabytes: UInt64 = 128
  ) -> BootConfiguration {
    var configuration = BootConfiguration(memory: MemoryLayout(ramSize: megabytes << 20))
    configuration.firmware = BootFile(name: "bios", bytes: [UInt8](repeating: 0, count: 0x2_0000))
    configuration.kernel = kernel.map { BootFile(name: "vmlinuz", bytes: $0) }
    configuration.initrd = initrd.map {
      BootFile(name: "initrd", bytes: [UInt8](repeating: 7, count: $0))
    }
    return configuration
  }

  private func failure(_ configuration: BootConfiguration) -> BootError? {
    do {
      _ = try BootPlan.make(configuration)
      return nil
    } catch {
      return error
    }
  }

  private func word(_ bytes: [UInt8]?, _ offset: Int) -> UInt32 {
    guard let bytes, bytes.count >= offset + 4 else { return 0xDEAD_BEEF }
    return (0..<4).reversed().reduce(0) { $0 << 8 | UInt32(bytes[offset + $1]) }
  }

  @Test func memoryBeyondTheHoleContinuesAtFourGiB() {
    #expect(MemoryLayout(ramSize: 3 << 30).above4G == 0)
    #expect(MemoryLayout(ramSize: 0xDFFF_F000).above4G == 0)
    let large = MemoryLayout(ramSize: 8 << 30)
    #expect(large.below4G == 0xC000_0000)
    #expect(large.ramSize == 8 << 30)
  }

  @Test func bzImageGoesToFirmwareThroughItemsAndAROM() throws {
    let kernel = bzImage()
    var wanted = configuration(kernel: kernel, initrd: 5000)
    wanted.commandLine = "console=ttyS0"
    let plan = try BootPlan.make(wanted)
    #expect(plan.entry == nil && plan.memory.isEmpty)
    #expect(plan.firmware?.count == 0x2_0000)
    let items = Dictionary(uniqueKeysWithValues: plan.items.map { ($0.key, $0.bytes) })
    #expect(items[FwCfgKey.kernelData] == Array(kernel[2048...]))
    #expect(word(items[FwCfgKey.kernelAddress], 0) == 0x10_0000)
    #expect(word(items[FwCfgKey.setupAddress], 0) == 0x1_0000)
    #expect(items[FwCfgKey.commandLineData] == Array("console=ttyS0".utf8) + [0])
    let setup = items[FwCfgKey.setupData]
    #expect(setup?.count == 2048)
    #expect(setup?[0x210] == 0xB0)
    #expect(setup?[0x211] == 0x81)
    #expect(word(setup, 0x228) == 0x2_0000)
    let initrd = word(setup, 0x218)
    #expect(initrd % 4096 == 0)
    #expect(UInt64(initrd) + 5000 <= 128 << 20)
    #expect(word(setup, 0x21C) == 5000)
    #expect(word(items[FwCfgKey.initrdAddress], 0) == initrd)

    let rom = try #require(plan.files.first { $0.name.hasPrefix("genroms/") }?.bytes)
    #expect(rom.count == Int(rom[2]) * 512)
    #expect(rom[0] == 0x55 && rom[1] == 0xAA)
    #expect(rom.reduce(0, &+) == 0)
    let header = Int(rom[0x1A])
    #expect(Array(rom[header..<header + 4]) == Array("$PnP".utf8))
    #expect(rom[header..<header + 32].reduce(0, &+) == 0)
    #expect(plan.bootOrder == ["/rom@genroms/linuxboot_dma.bin"])
    // Setup, command line, kernel, initrd, then the end of the list.
    let lengths = (0..<5).map { index in
      rom[0x104 + index * 16..<0x108 + index * 16].reduce(0) { $0 << 8 | Int($1) }
    }
    #expect(lengths == [2048, 14, 0x3000, 5000, 0])
  }

  @Test func videoModeOfTheCommandLineGoesIntoTheHeader() throws {
    for (option, mode) in [
      ("vga=ask", 0xFFFD), ("vga=0x317", 0x317), ("vga=normal quiet", 0xFFFF), ("vga=791", 791),
    ] as [(String, UInt16)] {
      var wanted = configuration(kernel: bzImage())
      wanted.commandLine = option
      let setup =
        try BootPlan.make(wanted).items.first { $0.key == FwCfgKey.setupData }?.bytes ?? []
      #expect(UInt16(setup[0x1FA]) | UInt16(setup[0x1FB]) << 8 == mode)
    }
    var wrong = configuration(kernel: bzImage())
    wrong.commandLine = "vga=purple"
    #expect(failure(wrong)?.message == "can't parse 'vga' parameter: purple")
  }

  @Test func directEntryBuildsTheZeroPage() throws {
    var wanted = configuration(kernel: bzImage(), initrd: 100)
    wanted.prefersDirectEntry = true
    wanted.tables = FirmwareTables(
      FirmwareConfiguration(memory: wanted.memory, processors: [.init(uid: 0, apicID: 0)]))
    let plan = try BootPlan.make(wanted)
    let entry = try #require(plan.entry)
    #expect(plan.firmware == nil && plan.substitutesFirmware)
    #expect(entry.rip == 0x10_0000 && entry.cs.selector == 0x10 && entry.cr0 & 1 == 1)
    let page = try #require(plan.memory.first { $0.address.rawValue == entry.registers[6] }?.bytes)
    #expect(word(page, 0x202) == 0x5372_6448)
    #expect(word(page, 0x70) != 0)
    let entries = Int(page[0x1E8])
    #expect(entries >= 4)
    // Usable memory begins at 0; nothing overlaps.
    var end: UInt64 = 0
    for index in 0..<entries {
      let at = 0x2D0 + index * 20
      let start = UInt64(word(page, at)) | UInt64(word(page, at + 4)) << 32
      #expect(start >= end)
      end = start + (UInt64(word(page, at + 8)) | UInt64(word(page, at + 12)) << 32)
    }
    #expect(end == 128 << 20)
  }

  @Test func elfWithEntryNoteStartsByPVH() throws {
    var wanted = configuration(kernel: elf(), initrd: 4097)
    wanted.commandLine = "quiet"
    let plan = try BootPlan.make(wanted)
    let entry = try #require(plan.entry)
    #expect(entry.rip == 0x10_0020)
    #expect(entry.cr0 & 0x8000_0001 == 1 && entry.efer == 0)
    func memory(_ address: UInt64) -> [UInt8]? {
      plan.memory.first { $0.address.rawValue == address }?.bytes
    }
    #expect(memory(0x10_0000) == (0..<16).map { UInt8($0) } + [UInt8](repeating: 0, count: 48))
    let info = memory(entry.registers[3])
    #expect(word(info, 0) == 0x336E_C578)
    #expect(word(info, 12) == 1)
    #expect(memory(UInt64(word(info, 24))) == Array("quiet".utf8) + [0])
    let lists = try #require(memory(UInt64(word(info, 16))))
    #expect(memory(UInt64(word(lists, 0)))?.count == 4097)
    #expect(word(lists, 8) == 4097)
    #expect(word(info, 48) >= 3)
  }

  @Test func multibootImageGetsItsInformation() throws {
    var image = [UInt8](repeating: 0x90, count: 64)
    let flags: UInt32 = 0x1_0003
    let sum = 0 &- 0x1BAD_B002 &- flags
    let header: [UInt32] = [
      0x1BAD_B002, flags, sum, 0x10_0000, 0x10_0000, 0x10_0040, 0x10_0100, 0x10_0024,
    ]
    for (index, value) in header.enumerated() {
      for byte in 0..<4 { image[index * 4 + byte] = UInt8(truncatingIfNeeded: value >> (byte * 8)) }
    }
    var wanted = configuration(kernel: image, initrd: 10)
    wanted.commandLine = "a b"
    let plan = try BootPlan.make(wanted)
    let entry = try #require(plan.entry)
    #expect(entry.rip == 0x10_0024)
    #expect(entry.registers[0] == 0x2BAD_B002)
    func memory(_ address: UInt64) -> [UInt8]? {
      plan.memory.first { $0.address.rawValue == address }?.bytes
    }
    #expect(memory(0x10_0000)?.count == 0x100)
    let info = memory(entry.registers[3])
    #expect(word(info, 0) == 0x24D)
    #expect(memory(UInt64(word(info, 16))) == Array("vmlinuz a b".utf8) + [0])
    #expect(word(info, 8) == 127 << 10)
    #expect(word(info, 20) == 1)
    let module = memory(UInt64(word(info, 24)))
    #expect(memory(UInt64(word(module, 0)))?.count == 10)
  }

  // MARK: - What cannot be booted

  @Test func filesOfNoKindAreRefusedByName() {
    #expect(failure(configuration(kernel: []))?.kind == .malformed)
    let text = failure(configuration(kernel: Array("hello".utf8)))
    #expect(text?.message.contains("could not load kernel 'vmlinuz'") == true)
    #expect(
      failure(configuration(kernel: elf(entry: nil)))?.message.contains("PVH ELF Note") == true)
  }

  @Test func truncatedKernelsAreRefused() {
    let kernel = bzImage()
    for count in [0x206, 0x300, 2048, 2049, 8000, kernel.count - 16] {
      #expect(failure(configuration(kernel: Array(kernel[..<count])))?.kind == .malformed)
    }
    let image = elf()
    for count in [4, 20, 64, 100, 180, 210] {
      #expect(failure(configuration(kernel: Array(image[..<count])))?.kind == .malformed)
    }
  }

  @Test func filesLargerThanMemoryAreRefused() {
    #expect(failure(configuration(kernel: bzImage(size: 4 << 20), megabytes: 4))?.kind == .tooLarge)
    let initrd = failure(configuration(kernel: bzImage(), initrd: 3 << 20, megabytes: 4))
    #expect(initrd?.kind == .tooLarge)
    #expect(initrd?.message.contains("'initrd'") == true)
    #expect(failure(configuration(kernel: elf(address: 0x4000_0000)))?.kind == .tooLarge)
    #expect(failure(configuration(kernel: elf(address: UInt64.max - 8)))?.kind == .tooLarge)
    #expect(failure(configuration(kernel: elf(address: 0x7000)))?.kind == .unsupported)
  }

  @Test func commandLineHasTheKernelsLimit() {
    var wanted = configuration(kernel: bzImage())
    wanted.commandLine = String(repeating: "x", count: 2047)
    #expect(failure(wanted) == nil)
    wanted.commandLine += "y"
    #expect(failure(wanted)?.message.contains("2047") == true)
  }

  @Test func optionsWithoutAKernelAreRefused() {
    #expect(
      failure(configuration(initrd: 1))?.message == "-initrd only allowed with -kernel option")
    var wanted = configuration()
    wanted.commandLine = "x"
    #expect(failure(wanted)?.message == "-append only allowed with -kernel option")
  }

  @Test func firmwareMustBeWholeBlocks() {
    for count in [0, 1000, 65_537] {
      var wanted = configuration()
      wanted.firmware = BootFile(name: "b", bytes: [UInt8](repeating: 0, count: count))
      #expect(failure(wanted)?.kind == .malformed)
    }
    var large = configuration()
    large.firmware = BootFile(name: "b", bytes: [UInt8](repeating: 0, count: 16 << 20))
    #expect(failure(large)?.kind == .tooLarge)
  }

  @Test func missingFilesAreNamedWithTheReason() {
    #expect(
      throws: BootError(.unreadable, "could not load kernel '/no/such': No such file or directory")
    ) {
      try BootFile.read("/no/such", as: "kernel")
    }
    #expect(throws: BootError(.unreadable, "could not find PC BIOS 'no-such.bin'")) {
      try BootFile.firmware("no-such.bin", directories: ["/no/such"])
    }
  }

  @Test func filesWithoutAnEndAreRefused() {
    #expect(
      throws: BootError(.tooLarge, "could not load initrd '/dev/zero': it has more than 1 MiB")
    ) {
      try BootFile.read("/dev/zero", as: "initrd", limit: 1 << 20)
    }
    #expect(throws: BootError.self) { try BootFile.firmware("/dev/zero") }
  }

  @Test func noHeaderMakesTheLoadersTrap() {
    var generator = SeededGenerator(seed: 2_15)
    let sources = [bzImage(), elf()]
    for round in 0..<3000 {
      var bytes = sources[round % 2]
      for _ in 0..<Int.random(in: 1...8, using: &generator) {
        let range = round % 2 == 0 ? 0x1F0..<0x270 : 0..<200
        let at = Int.random(in: range, using: &generator)
        bytes[at] =
          [0, 1, 0x7F, 0x80, 0xFF, UInt8.random(in: 0...255, using: &generator)]
          .randomElement(using: &generator) ?? 0
      }
      var wanted = configuration(kernel: bytes, initrd: 100, megabytes: 64)
      wanted.prefersDirectEntry = round % 4 < 2
      _ = try? BootPlan.make(wanted)
    }
  }
}
