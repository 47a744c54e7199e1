import Block
import DeviceModel
import Host
import PCI
import Shm
import Support
import Synchronization
import Testing
import Virtio

/// Random bytes of a kind, now and then later.
@MainLoop
private final class Echo: RandomSource {
  private var count = 0
  private var epoch = 0

  func request(_ count: Int, _ deliver: @escaping @MainLoop ([UInt8]) -> Void) {
    self.count += 1
    let bytes = [UInt8](repeating: 0x81, count: count)
    guard self.count % 3 == 0 else { return deliver(bytes) }
    let epoch = epoch
    MainLoop.post { [self] in if epoch == self.epoch { deliver(bytes) } }
  }
  func cancelRequests() { epoch += 1 }
}

/// Disks, the first with four queues, a source of random bytes and a balloon in one machine.
///
/// Wild drivers own the RAM at 0; what they do to the other RAM is an error of ours.
private final class Board: Sendable {
  let devices = AddressSpace(name: "memory")
  let ram: WatchedRAM
  let memory: GuestMemory
  let bus = PCIBus()
  let graph = BlockGraph()
  let backends: [BlockBackend]
  let balloon: VirtioBalloonPCI
  let functions: [any Device]

  @MainLoop
  init(_ thread: IOThread?) throws {
    ram = try WatchedRAM()
    memory = ram.memory
    let line = RecordedLine()
    let context = MachineContext(
      ports: AddressSpace(name: "io"), deviceMemory: devices, memory: memory, clock: FakeClock(),
      interrupt: { _ in line.line }, signalMSI: { _, _ in }, request: { _ in })
    bus.setRouter { _, level in line.line.set(level) }
    var transport = VirtioPCI.Settings()
    transport.vectors = 5
    transport.packedRings = true
    let bus = bus
    func placement(_ index: Int) -> PCIPlacement {
      PCIPlacement(bus: bus, address: PCIAddress(device: UInt8(4 + index)))
    }
    var functions: [any Device] = []
    var backends: [BlockBackend] = []
    for index in 0..<2 {
      let node = MoodyNode("node\(index)", length: 64 << 10, fails: index == 0)
      try graph.add(node)
      let backend = BlockBackend(graph, name: "d\(index)")
      try backend.insert(node)
      if index == 0 { backend.setErrorPolicy(read: .stop, write: .report) }
      var settings = DiskSettings()
      settings.queueSize = 64
      settings.queueCount = index == 0 ? 4 : 1
      let disk = Disk(backend, settings, thread: index == 0 ? thread : nil)
      backend.attach(disk)
      backends.append(backend)
      functions.append(
        VirtioBlockPCI(
          placement(index), transport, disk, driveName: "d\(index)", bootIndex: nil))
    }
    self.backends = backends
    functions.append(VirtioRandomPCI(placement(2), transport, .init(), source: Echo()))
    var options = Balloon.Settings()
    options.freePageReporting = true
    balloon = VirtioBalloonPCI(placement(3), transport, options, ramSize: WatchedRAM.wildSize)
    functions.append(balloon)
    self.functions = functions
    for function in functions { try function.realize(in: context) }
    for index in UInt8(0)..<4 { DriverRegisters.map(index, of: bus) }
  }
}

/// Drivers of disks, of `virtio-rng` and of `virtio-balloon` that break every rule with requests in flight.
@Suite(.timeLimit(.minutes(15))) struct HostileDiskTests {
  init() { MainLoopThread.start() }

  /// Four rings of 16 entries whose parts and buffers share 128 KiB.
  private static let rings = (0..<4).map { (index: UInt64) in
    DriverRegisters.Ring(
      descriptors: 0x2_0000 + index * 0x1000, available: 0x2_0400 + index * 0x1000,
      used: 0x2_0800 + index * 0x1000)
  }

  /// One thing that a driver may do to itself.
  private static func misbehave(
    _ random: inout SeededGenerator, _ index: UInt8, _ board: Board, _ registers: DriverRegisters
  ) {
    let memory = board.memory
    let ring = rings[Int(random.next() % 4)]
    switch random.next() % 28 {
    case 0..<7:
      // A request that is mostly in order: header, data, status.
      let first = random.next() % 4 * 4
      let header = 0x2_8000 + random.next() % 64 * 16
      let kind = [0, 0, 1, 1, 1, 4, 8, 11, 13, 77][Int(random.next() % 10)] as UInt32
      memory.store(GuestAddress(header), kind)
      let isWild = random.next() % 8 == 0
      _ = memory.store(GuestAddress(header + 8), isWild ? random.next() : random.next() % 140)
      let length = random.next() % 16 == 0 ? random.next() % 5000 : random.next() % 9 * 512
      let isRead = kind == 0 || kind == 8 ? 2 : 0 as UInt16
      let parts: [(UInt64, UInt64, UInt16)] = [
        (header, 16, 1), (0x2_C000 + random.next() % 0x4000, length, isRead | 1),
        (header + 1, 1, 2),
      ]
      for (number, part) in parts.enumerated() {
        let at = ring.descriptors + (first + UInt64(number)) * 16
        _ = memory.store(GuestAddress(at), part.0)
        _ = memory.store(GuestAddress(at + 8), UInt32(truncatingIfNeeded: part.1))
        _ = memory.store(GuestAddress(at + 12), part.2)
        _ = memory.store(
          GuestAddress(at + 14), UInt16(truncatingIfNeeded: first) + UInt16(number) + 1)
      }
      let index = memory.load(GuestAddress(ring.available + 2)) ?? UInt16(0)
      _ = memory.store(
        GuestAddress(ring.available + 4 + UInt64(index % 16) * 2), UInt16(truncatingIfNeeded: first)
      )
      _ = memory.store(GuestAddress(ring.available + 2), index &+ 1)
    case 7..<11:
      // A descriptor that is often wild.
      let at = GuestAddress(ring.descriptors + random.next() % 16 * 16)
      let isWild = random.next() % 3 == 0
      _ = memory.store(at, isWild ? random.next() : 0x2_0000 + random.next() % 0xF000)
      // Either short or longer than the memory.
      let length = UInt32(truncatingIfNeeded: random.next())
      _ = memory.store(at + 8, isWild ? length | 1 << 21 : length % 3000)
      _ = memory.store(at + 12, UInt16(random.next() % (isWild ? 0x1_0000 : 8)))
      _ = memory.store(at + 14, UInt16(random.next() % (isWild ? 0x1_0000 : 16)))
    case 11..<13:
      _ = memory.store(
        GuestAddress(ring.available + 4 + random.next() % 16 * 2), UInt16(random.next() % 17))
    case 13:
      let at = GuestAddress(ring.available + 2)
      let step = random.next() % 16 == 0 ? random.next() % 0x1_0000 : random.next() % 4
      _ = memory.store(at, (memory.load(at) ?? UInt16(0)) &+ UInt16(step))
    case 14..<22: registers.write(0x3000 + random.next() % 4 * 4, 2, random.next() % 5)
    case 22:
      // Any register, also those of the device itself and of MSI-X; but rings stay in the driver's memory.
      let offset = random.next() % 0x4000
      if !(0x20..<0x38).contains(offset) {
        registers.write(offset, [1, 2, 4][Int(random.next() % 3)], random.next())
      }
      board.devices.write(
        0xD000_0000 + UInt64(index) << 16 + random.next() % 0x1000, width: 4, random.next(),
        vcpu: VCPUID(0))
    case 23: registers.write(0x14, 1, [0, 15, 11, 4, 64, 128][Int(random.next() % 6)])
    case 24:
      // A queue that moves while it is in use.
      registers.write(0x16, 2, random.next() % 5)
      registers.write(0x20 + random.next() % 6 * 4, 4, random.next() % 0x2_0000)
      registers.write(0x1C, 2, random.next() % 2)
    case 25:
      // The cache's mode, and the balloon's size.
      registers.write(0x2000 + random.next() % 64, 1, random.next() & 0xFF)
      registers.write(0x2004, 4, random.next() % 1000)
    case 26:
      // Registers through configuration space, and registers that come and go.
      let function = board.bus.function(at: PCIAddress(device: 4 + index))
      function?.writeConfiguration(0x04, width: 2, UInt32(random.next() % 8))
      function?.writeConfiguration(0x04, width: 2, 7)
      _ = function?.readConfiguration(Int(random.next() % 64) * 4, width: 4)
    default:
      if random.next() % 8 == 0 {
        board.functions[Int(index)].reset(.warm)
        DriverRegisters.map(index, of: board.bus)
      } else {
        for offset in 0..<16 as Range<UInt64> { _ = registers.read(0x2000 + offset * 4, 4) }
      }
    }
  }

  private static func run(_ board: Board, _ index: UInt8, _ seed: UInt64, rounds: Int) {
    var random = SeededGenerator(seed: seed)
    let registers = DriverRegisters(of: index, in: board.devices)
    for round in 0..<rounds {
      let packed: UInt64 = round % 3 == 0 ? 1 << 34 : 0
      for ring in rings {
        _ = board.memory.store(GuestAddress(ring.available), UInt64(0))
        _ = board.memory.store(GuestAddress(ring.used), UInt64(0))
      }
      registers.start(features: 0x3000_0000 | 0xFF_FFFF | packed, rings, size: 16)
      for _ in 0..<200 { misbehave(&random, index, board, registers) }
    }
  }

  /// Asks the disk for one thing and waits for its status; nil when none comes.
  private static func ask(
    _ board: Board, _ registers: DriverRegisters, _ base: UInt64, _ kind: UInt32, _ number: UInt16
  ) -> UInt8? {
    let memory = board.memory
    _ = memory.store(GuestAddress(base + 0x4000), kind)
    _ = memory.store(GuestAddress(base + 0x4008), UInt64(0))
    memory.write(GuestAddress(base + 0x4010), [0xFF])
    let parts: [(UInt64, UInt32, UInt16)] = [
      (base + 0x4000, 16, 1), (base + 0x5000, 512, kind == 0 ? 3 : 1), (base + 0x4010, 1, 2),
    ]
    for (index, part) in parts.enumerated() {
      let at = GuestAddress(base + UInt64(index) * 16)
      _ = memory.store(at, part.0)
      _ = memory.store(at + 8, part.1)
      _ = memory.store(at + 12, part.2)
      _ = memory.store(at + 14, UInt16(index) + 1)
    }
    _ = memory.store(GuestAddress(base + 0x1004 + UInt64(number % 8) * 2), UInt16(0))
    _ = memory.store(GuestAddress(base + 0x1002), number &+ 1)
    registers.write(0x3000, 2, 0)
    let end = HostClock.monotonic + 30_000_000_000
    while memory.load(GuestAddress(base + 0x2002), as: UInt16.self) != number &+ 1 {
      if HostClock.monotonic > end { return nil }
    }
    return memory.load(GuestAddress(base + 0x4010))
  }

  private static func tameRing(_ base: UInt64) -> [DriverRegisters.Ring] {
    [.init(descriptors: base, available: base + 0x1000, used: base + 0x2000)]
  }

  /// Two vCPUs drive one device wildly while a neighbour works.
  @MainLoop
  @Test(arguments: [
    (0 as UInt8, false, 1 as UInt64), (0, true, 2), (0, false, 3), (2, false, 4), (3, false, 5),
  ])
  func aDriverBreaksItsOwnDeviceOnly(
    _ index: UInt8, _ hasThread: Bool, _ seed: UInt64
  ) async throws {
    let board = try Board(hasThread ? IOThread(name: "hostile") : nil)
    let rounds = 60
    async let one: Void = HostThread.value(name: "cpu0") {
      HostileDiskTests.run(board, index, seed, rounds: rounds)
    }
    async let other: Void = HostThread.value(name: "cpu1") {
      HostileDiskTests.run(board, index, seed &+ 100, rounds: rounds)
    }
    async let tame: Int = HostThread.value(name: "neighbour") {
      let registers = DriverRegisters(of: 1, in: board.devices)
      registers.start(features: 1 << 9, HostileDiskTests.tameRing(WatchedRAM.tame))
      var good = 0
      for number in 0..<200 as Range<UInt16> {
        let bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: 512)
        board.memory.write(GuestAddress(WatchedRAM.tame + 0x5000), bytes)
        let wrote = HostileDiskTests.ask(board, registers, WatchedRAM.tame, 1, number &* 2)
        board.memory.write(
          GuestAddress(WatchedRAM.tame + 0x5000), [UInt8](repeating: 0, count: 512))
        let read = HostileDiskTests.ask(board, registers, WatchedRAM.tame, 0, number &* 2 &+ 1)
        let data = board.memory.read(GuestAddress(WatchedRAM.tame + 0x5000), count: 512)
        if wrote == 0, read == 0, data == bytes { good += 1 }
      }
      return good
    }
    // The user's side goes on: the machine stops and runs again, the balloon's target moves.
    for step in 0..<50 {
      board.backends[0].resume()
      board.balloon.balloon.setTarget(UInt64(step) << 12)
      board.balloon.balloon.pollingInterval = Int64(step % 2)
      await MainLoop.nextTurn()
    }
    try await (one, other)
    #expect(try await tame == 200)
    #expect(!DriverRegisters(of: 1, in: board.devices).isBroken)
    #expect(board.ram.isIntact)

    // A driver that behaves finds the device as new.
    board.functions[Int(index)].reset(.cold)
    DriverRegisters.map(index, of: board.bus)
    #expect(board.backends[0].inFlight == 0)
    #expect(board.backends[0].parkedCount == 0)
    board.memory.write(GuestAddress(0x2_0000), [UInt8](repeating: 0, count: 0x1_0000))
    let registers = DriverRegisters(of: index, in: board.devices)
    registers.start(features: index == 0 ? 1 << 9 : 0, Self.tameRing(0x2_0000))
    #expect(!registers.isBroken)
    if index == 0 {
      board.backends[0].setErrorPolicy(read: .ignore, write: .ignore)
      for number in 0..<20 as Range<UInt16> {
        #expect(Self.ask(board, registers, 0x2_0000, UInt32(number & 1), number) == 0)
      }
    } else {
      _ = board.memory.store(GuestAddress(0x2_0000), UInt64(0x2_5000))
      _ = board.memory.store(GuestAddress(0x2_0008), UInt64(64) | (index == 2 ? 2 : 0) << 32)
      _ = board.memory.store(GuestAddress(0x2_1002), UInt16(1))
      registers.write(0x3000, 2, 0)
      while board.memory.load(GuestAddress(0x2_2002), as: UInt16.self) != 1 {
        await MainLoop.nextTurn()
      }
      if index == 2 {
        #expect(
          board.memory.read(GuestAddress(0x2_5000), count: 64)
            == [UInt8](repeating: 0x81, count: 64))
      }
    }
    for backend in board.backends { try backend.remove() }
  }

  /// A reset ends everything: what was asked for before neither writes into memory after, nor comes back in the new driver's ring.
  @MainLoop
  @Test(arguments: [false, true])
  func nothingOfBeforeAResetIsSeenAfterIt(_ hasThread: Bool) async throws {
    let board = try Board(hasThread ? IOThread(name: "resets") : nil)
    let backend = board.backends[0]
    backend.setErrorPolicy(read: .report, write: .report)
    let registers = DriverRegisters(of: 0, in: board.devices)
    let base: UInt64 = 0x2_0000
    for round in 0..<200 {
      board.memory.write(GuestAddress(base), [UInt8](repeating: 0, count: 0x8000))
      registers.start(features: 1 << 9, Self.tameRing(base), size: 64)
      for request in 0..<16 as Range<UInt64> {
        let parts: [(UInt64, UInt32, UInt16)] = [
          (base + 0x3000, 16, 1), (base + 0x4000 + request * 512, 512, 3),
          (base + 0x3800 + request, 1, 2),
        ]
        for (index, part) in parts.enumerated() {
          let at = GuestAddress(base + (request * 3 + UInt64(index)) * 16)
          _ = board.memory.store(at, part.0)
          _ = board.memory.store(at + 8, part.1)
          _ = board.memory.store(at + 12, part.2)
          _ = board.memory.store(at + 14, UInt16(request * 3 + UInt64(index)) + 1)
        }
        _ = board.memory.store(GuestAddress(base + 0x1004 + request * 2), UInt16(request * 3))
      }
      _ = board.memory.store(GuestAddress(base + 0x1002), UInt16(16))
      registers.write(0x3000, 2, 0)
      switch round % 3 {
      case 0: registers.write(0x14, 1, 0)
      case 1:
        board.functions[0].reset(.warm)
        DriverRegisters.map(0, of: board.bus)
      default:
        // Another driver starts at once.
        registers.write(0x14, 1, 0)
        _ = board.memory.store(GuestAddress(base + 0x1002), UInt16(0))
        _ = board.memory.store(GuestAddress(base + 0x2002), UInt16(0))
        registers.start(features: 1 << 9, Self.tameRing(base), size: 64)
      }
      #expect(backend.inFlight == 0)
      let blank = [UInt8](repeating: 0x33, count: 0x3000)
      board.memory.write(GuestAddress(base + 0x3000), blank)
      if round % 3 == 2 {
        board.memory.write(GuestAddress(base + 0x2000), [UInt8](repeating: 0, count: 0x1000))
      }
      await MainLoop.nextTurn()
      #expect(board.memory.read(GuestAddress(base + 0x3000), count: blank.count) == blank)
      if round % 3 == 2 {
        #expect(board.memory.load(GuestAddress(base + 0x2002), as: UInt16.self) == 0)
      }
    }
    for backend in board.backends { try backend.remove() }
  }
}
