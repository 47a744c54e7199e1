import DeviceModel
import Devices
import DistIRQ
import Foundation
import Shm
import PCI
import Support
import Synchronization
import Testing

/// All devices of a PC on one set of ports, hammered with random accesses: whatever a guest does, the process lives on.
///
/// `GOLIATH_FUZZ_SECONDS` sets how long (default 2), `GOLIATH_FUZZ_SEED` repeats a run.
@Suite struct BoardFuzzTests {
  private struct Board {
    let bench = TimerBench()
    let memory = GuestMemory()
    let ram: RAMBlock
    var devices: [any Device] = []

    init() throws {
      ram = try RAMBlock(name: "ram", size: 2 << 20)
      let (memory, ram) = (memory, ram)
      let bus = PCIBus()
      let gate = A20Gate()
      let pit = PIT()
      let config = FwCfg()
      try config.setFile("opt/w", [UInt8](repeating: 0, count: 100), isWritable: true)
      devices = [
        PCIHost(bus: bus),
        I440FX(bus: bus) { segments in
          var slots = [MemorySlot(guest: GuestAddress(0), size: 0xA0000, block: ram)]
          for segment in segments where segment.readsRAM {
            slots.append(
              MemorySlot(
                guest: GuestAddress(segment.start), size: segment.size, block: ram,
                offset: segment.start, isReadOnly: !segment.writesRAM))
          }
          memory.setSlots(slots)
        }, PIIX3(bus: bus), PIIX4PM(bus: bus), I8042(gate: gate), Port92(gate: gate),
        ScratchPorts(), DMAController(second: false), DMAController(second: true), config,
        DebugConsole(port: 0x402), DebugExit(), PVPanic(), pit, PCSpeaker(pit: pit),
        RTC(clock: bench.clock), HPET { pit.setInterruptConnected(!$0) },
        try ParallelPort(index: 0),
      ]
      for index in 0..<4 as Range<UInt32> { devices.append(try SerialPort(index: index)) }
      let bench = bench
      let context = MachineContext(
        ports: bench.ports, deviceMemory: bench.memory, memory: memory, clock: bench.clock,
        interrupt: { bench.lines[Int($0.rawValue)].line }, signalMSI: { _, _ in },
        request: { _ in })
      for device in devices { try device.realize(in: context) }
      for device in devices { device.reset(.cold) }
    }
  }

  private static var seconds: Double {
    ProcessInfo.processInfo.environment["GOLIATH_FUZZ_SECONDS"].flatMap(Double.init) ?? 2
  }
  private static var seed: UInt64 {
    ProcessInfo.processInfo.environment["GOLIATH_FUZZ_SEED"].flatMap(UInt64.init)
      ?? UInt64.random(in: 0...UInt64.max)
  }

  @Test func anyAccessToAnyPortIsSurvived() throws {
    let seed = BoardFuzzTests.seed
    print("fuzzing ports with GOLIATH_FUZZ_SEED=\(seed)")
    var generator = SeededGenerator(seed: seed)
    let board = try Board()
    let regions = board.bench.ports.regions.map { $0.start...$0.last }
    let deadline = Date().addingTimeInterval(BoardFuzzTests.seconds)
    var count = 0
    while count % 256 != 0 || Date() < deadline {
      count += 1
      let width = 1 << Int.random(in: 0...2, using: &generator)
      var value = generator.next()
      if Bool.random(using: &generator) { value &= 0xFF }
      value &= AddressSpace.mask(width)
      switch UInt8.random(in: 0...15, using: &generator) {
      case 0:
        let port = UInt64(UInt16.random(in: 0...UInt16.max, using: &generator))
        board.bench.ports.write(port, width: width, value, vcpu: VCPUID(0))
      case 1:
        let address = HPET.address + UInt64.random(in: 0...0x3FF, using: &generator)
        board.bench.memory.write(address, width: width, value, vcpu: VCPUID(0))
        _ = board.bench.memory.read(address, width: width, vcpu: VCPUID(0))
      case 2: board.bench.clock.advance(by: Int64.random(in: 0...2_000_000, using: &generator))
      case 3: pci(board, &generator, value)
      case 4: dma(board, &generator)
      case 5 where count % 4096 == 0:
        for device in board.devices { device.reset(.warm) }
      default:
        guard let region = regions.randomElement(using: &generator) else { return }
        let port = UInt64.random(in: region, using: &generator)
        if Bool.random(using: &generator) {
          board.bench.ports.write(port, width: width, value, vcpu: VCPUID(0))
        } else {
          let read = board.bench.ports.read(port, width: width, vcpu: VCPUID(0))
          #expect(read <= AddressSpace.mask(width))
        }
      }
    }
    print("\(count) accesses")
  }

  private func pci(_ board: Board, _ generator: inout SeededGenerator, _ value: UInt64) {
    let functions: [UInt64] = [0x8000_0000, 0x8000_0800, 0x8000_0B00]
    let address = (functions.randomElement(using: &generator) ?? 0) | value & 0xFC
    board.bench.ports.write(0xCF8, width: 4, address, vcpu: VCPUID(0))
    board.bench.ports.write(0xCFC, width: 4, generator.next() & 0xFFFF_FFFF, vcpu: VCPUID(0))
  }

  /// Random commands with small lengths at random places, so that each is quick.
  private func dma(_ board: Board, _ generator: inout SeededGenerator) {
    let near = UInt64.random(in: 0...0xFFFFF, using: &generator)
    let command = FwCfgDMACommand(
      control: UInt32(truncatingIfNeeded: generator.next()) & 0x003F_001F,
      length: UInt32.random(in: 0...5000, using: &generator),
      address: Bool.random(using: &generator) ? near : generator.next())
    let block = UInt32.random(in: 0...0x9FFFF, using: &generator)
    board.memory.write(GuestAddress(UInt64(block)), command.encoded())
    board.bench.ports.write(0x518, width: 4, UInt64(block.byteSwapped), vcpu: VCPUID(0))
  }
}
