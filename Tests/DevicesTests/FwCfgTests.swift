import DeviceModel
import Devices
import Shm
import Support
import Testing

@Suite struct FwCfgTests {
  private struct Machine {
    let bench = TimerBench()
    let memory = GuestMemory()
    let device = FwCfg()

    init() throws {
      let ram = try RAMBlock(name: "ram", size: 1 << 20)
      memory.setSlots([MemorySlot(guest: GuestAddress(0), size: 1 << 20, block: ram)])
      try device.realize(
        in: MachineContext(
          ports: bench.ports, deviceMemory: bench.memory, memory: memory, clock: bench.clock,
          interrupt: { _ in .unconnected }, signalMSI: { _, _ in }, request: { _ in }))
    }

    func select(_ key: UInt16) { bench.ports.write(0x510, width: 2, UInt64(key), vcpu: VCPUID(0)) }
    func read(_ count: Int) -> [UInt8] { (0..<count).map { _ in bench.in(0x511) } }

    /// Gives a command by DMA; answers the control word that the device leaves.
    func command(_ control: UInt32, length: UInt32, address: UInt64) -> UInt32 {
      let block = FwCfgDMACommand(control: control, length: length, address: address)
      memory.write(GuestAddress(0x600), block.encoded())
      bench.ports.write(0x514, width: 4, 0, vcpu: VCPUID(0))
      bench.ports.write(0x518, width: 4, UInt64(UInt32(0x600).byteSwapped), vcpu: VCPUID(0))
      return (memory.load(GuestAddress(0x600), as: UInt32.self) ?? 0).byteSwapped
    }
  }

  @Test func signatureAndDMAAreAnnounced() throws {
    let machine = try Machine()
    machine.select(0)
    #expect(machine.read(4) == Array("QEMU".utf8))
    machine.select(1)
    #expect(machine.read(4) == [3, 0, 0, 0])
    // "QEMU CFG", first byte at the lowest port.
    #expect((0..<8).map { machine.bench.in(0x514 + $0) } == Array("QEMU CFG".utf8))
  }

  @Test func readingBehindTheEndGivesZeros() throws {
    let machine = try Machine()
    machine.device.setItem(0x0F, [7, 8])
    machine.select(0x0F)
    #expect(machine.read(4) == [7, 8, 0, 0])
    machine.select(0x0777)
    #expect(machine.read(2) == [0, 0])
  }

  @Test func directoryListsFilesByNameWithBigEndianNumbers() throws {
    let machine = try Machine()
    try machine.device.setFile("opt/b", [1, 2, 3])
    try machine.device.setFile("etc/a", [4])
    machine.select(0x19)
    #expect(machine.read(4) == [0, 0, 0, 2])
    let first = machine.read(64)
    #expect(Array(first[..<8]) == [0, 0, 0, 1, 0, 0x21, 0, 0])
    #expect(String(decoding: first[8...].prefix { $0 != 0 }, as: UTF8.self) == "etc/a")
    machine.select(0x21)
    #expect(machine.read(1) == [4])
    try machine.device.setFile("etc/a", [5, 6])
    machine.select(0x21)
    #expect(machine.read(2) == [5, 6])
  }

  @Test func badNamesAndFullDirectoryAreRefused() throws {
    let machine = try Machine()
    #expect(throws: DeviceError.self) {
      try machine.device.setFile(String(repeating: "x", count: 56), [])
    }
    #expect(throws: DeviceError.self) {
      for index in 0...FwCfgModel.fileSlots { try machine.device.setFile("opt/\(index)", []) }
    }
  }

  @Test func dmaReadsSkipsAndContinues() throws {
    let machine = try Machine()
    let content = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    machine.device.setItem(0x11, content)
    #expect(machine.command(0x0011_000A, length: 150_000, address: 0x1000) == 0)
    #expect(machine.memory.read(GuestAddress(0x1000), count: 150_000) == Array(content[..<150_000]))
    #expect(machine.command(0x4, length: 10, address: 0) == 0)
    #expect(machine.command(0x2, length: 4, address: 0x1000) == 0)
    #expect(
      machine.memory.read(GuestAddress(0x1000), count: 4) == Array(content[150_010..<150_014]))
  }

  @Test func dmaToWhereNoMemoryIsReportsAnError() throws {
    let machine = try Machine()
    #expect(machine.command(0x0000_000A, length: 4, address: 0x10_0000) == 1)
    #expect(machine.command(0x0000_000A, length: 4, address: UInt64.max) == 1)
    #expect(machine.command(0x0000_000A, length: UInt32.max, address: 0x1000) == 1)
  }

  @Test func onlyWritableFilesCanBeWrittenAndOnlyWithinTheirSize() throws {
    let machine = try Machine()
    try machine.device.setFile("etc/w", [0, 0, 0, 0], isWritable: true)
    try machine.device.setFile("etc/r", [1, 1])
    machine.memory.write(GuestAddress(0x1000), [9, 8, 7, 6])
    #expect(machine.command(0x0020_0018, length: 4, address: 0x1000) == 0)
    #expect(machine.device.file("etc/w") == [9, 8, 7, 6])
    #expect(machine.command(0x0020_0018, length: 5, address: 0x1000) == 1)
    #expect(machine.command(0x0021_0018, length: 2, address: 0x1000) == 1)
    #expect(machine.device.file("etc/r") == [1, 1])
  }
}
