import Block
import DeviceModel
import Devices
import Host
import PCI
import Shm
import Support
import Synchronization
import Testing

/// The controller of a PC with a disk and a disc on its first channel, and a disk on its second.
///
/// Wild drivers own the RAM at 0; what they do to the other RAM is an error of ours.
private final class Board: Sendable {
  static let bar: UInt64 = 0xC000
  static let commands: [UInt64] = [0x1F0, 0x170]
  static let controls: [UInt64] = [0x3F6, 0x376]

  let ports = AddressSpace(name: "io")
  let ram: WatchedRAM
  let memory: GuestMemory
  let bus = PCIBus()
  let graph = BlockGraph()
  let backends: [BlockBackend]
  let units: [IDEUnit]
  let controller: PIIX3IDE
  let lines = [RecordedLine(), RecordedLine()]

  init() throws {
    ram = try WatchedRAM()
    memory = ram.memory
    let lines = lines
    let context = MachineContext(
      ports: ports, deviceMemory: AddressSpace(name: "memory"), memory: memory, clock: FakeClock(),
      interrupt: { lines[Int($0.rawValue) & 1].line }, signalMSI: { _, _ in }, request: { _ in })
    controller = PIIX3IDE(PCIPlacement(bus: bus, address: PIIX3IDE.address))
    try controller.realize(in: context)
    var backends: [BlockBackend] = []
    var units: [IDEUnit] = []
    for (index, place) in [(0, 0), (0, 1), (1, 0)].enumerated() {
      let node = MoodyNode("node\(index)", length: 1 << 20, fails: place.0 == 0)
      try graph.add(node)
      let backend = BlockBackend(graph, name: "ide\(index)")
      try backend.insert(node)
      backend.setErrorPolicy(read: index == 0 ? .stop : .report, write: .report)
      var options = IDEDriveOptions()
      options.shape.isOptical = index == 1
      options.shape.canTrim = index != 1
      options.shape.geometry = DriveShape.Geometry(sectorCount: 2048)
      let unit = IDEUnit(controller.channels[place.0], unit: place.1, backend, options)
      backend.attach(unit)
      backends.append(backend)
      units.append(unit)
    }
    self.backends = backends
    self.units = units
    map()
  }

  /// Maps the bus masters' ports, as firmware does.
  func map() {
    let function = bus.function(at: PIIX3IDE.address)
    function?.writeConfiguration(0x20, width: 4, UInt32(Board.bar) | 1)
    function?.writeConfiguration(0x04, width: 2, 7)
  }

  func out(_ port: UInt64, _ value: UInt64, width: Int = 1) {
    ports.write(port, width: width, value, vcpu: VCPUID(0))
  }
  func read(_ port: UInt64, width: Int = 1) -> UInt64 {
    ports.read(port, width: width, vcpu: VCPUID(0))
  }

  /// Writes parameters and a command of 48-bit addressing with small numbers.
  func command(_ channel: Int, _ code: UInt64, block: UInt64, count: UInt64, drive: UInt64 = 0) {
    let port = Board.commands[channel]
    out(port + 6, 0xE0 | drive << 4)
    for (register, value) in [(2, count), (3, block & 0xFF), (4, block >> 8), (5, 0)]
      as [(UInt64, UInt64)]
    {
      out(port + register, 0)
      out(port + register, value & 0xFF)
    }
    out(port + 7, code)
  }

  /// Moves the first sector of the second channel's disk by the bus master; whether the drive says that all is well.
  func transfer(toMemory: Bool) -> Bool {
    let master = Board.bar + 8
    _ = memory.store(GuestAddress(WatchedRAM.tame), WatchedRAM.tame + 0x1000 | 512 << 32 | 1 << 63)
    out(master, 0)
    out(master + 2, 6)
    out(master + 4, WatchedRAM.tame, width: 4)
    command(1, toMemory ? 0x25 : 0x35, block: 0, count: 1)
    out(master, toMemory ? 9 : 1)
    let end = HostClock.monotonic + 30_000_000_000
    while read(master + 2) & 4 == 0 {
      if HostClock.monotonic > end { return false }
    }
    out(master, 0)
    return read(Board.commands[1] + 7) == 0x50
  }
}

/// Drivers of the IDE controller that break every rule with transfers in flight.
@Suite(.timeLimit(.minutes(15))) struct HostileIDETests {
  init() { MainLoopThread.start() }

  /// Writes a table: short or unterminated, odd, crossing 64 KiB, naming nothing, or itself.
  private static func layTable(_ random: inout SeededGenerator, _ board: Board) -> UInt64 {
    let place: UInt64
    switch random.next() % 6 {
    case 0: place = 0x1_FFF0 + random.next() % 16
    case 1: place = 0xF_FFF8
    case 2: place = random.next() & 0xFFFF_FFFF
    default: place = 0x1_0000 + random.next() % 0x4000
    }
    let count = random.next() % 8 == 0 ? 600 : random.next() % 6 + 1
    for entry in 0..<count {
      var address = random.next() % 0xE_0000
      switch random.next() % 12 {
      case 0: address = place
      case 1: address = random.next() & 0xFFFF_FFFF | 1 << 31
      case 2: address = 0xF_FE00
      default: break
      }
      let length = [512, 512, 2048, 0, 1, 3, 0xFFFE, random.next() & 0xFFFF][
        Int(random.next() % 8)]
      let isLast = entry == count - 1 && random.next() % 4 != 0
      let at = GuestAddress(place & ~3 + entry * 8)
      // Never into the RAM that is not ours.
      if at.rawValue < WatchedRAM.wildSize {
        _ = board.memory.store(at, address | length << 32 | (isLast ? 1 << 63 : 0))
      }
    }
    return place
  }

  /// One thing that a driver of the first channel may do.
  private static func misbehave(
    _ random: inout SeededGenerator, _ board: Board, movesRegisters: Bool
  ) {
    let port = Board.commands[0]
    let value = random.next()
    switch random.next() % 24 {
    case 0..<6:
      // A transfer by the bus master, begun in the right order or not.
      let table = layTable(&random, board)
      let code = [0x25, 0x35, 0xC8, 0xCA, 0x06, 0x25][Int(value % 6)] as UInt64
      let toMemory: UInt64 =
        random.next() % 8 == 0 ? value & 8 : code == 0x25 || code == 0xC8 ? 8 : 0
      board.out(Board.bar + 4, table, width: 4)
      if value >> 8 % 4 == 0 { board.out(Board.bar, toMemory | 1) }
      if code == 0x06 { board.out(port + 1, 1) }
      board.command(0, code, block: random.next() % 2060, count: random.next() % 200)
      board.out(Board.bar, toMemory | 1)
    case 6..<8:
      // A packet, by the bus master or the register.
      let byDMA = value & 1
      board.out(Board.bar + 4, layTable(&random, board), width: 4)
      board.out(port + 6, 0xB0)
      board.out(port + 1, byDMA)
      board.out(port + 4, random.next() & 0xFF)
      board.out(port + 5, random.next() % 3)
      board.out(port + 7, 0xA0)
      let operation =
        [0x28, 0xA8, 0xBE, 0x12, 0x43, 0x46, 0x5A, 0x03, 0x1B, random.next() & 0xFF][
          Int(random.next() % 10)] as UInt64
      for word in 0..<6 as Range<UInt64> {
        let bytes = random.next() % 4 == 0 ? random.next() & 0xFFFF : random.next() % 4 << 8
        board.out(port, word == 0 ? operation : bytes, width: 2)
      }
      if byDMA != 0 { board.out(Board.bar, 9) }
    case 8..<12:
      // The bus master starts, stops, turns round and gets another table in flight.
      board.out(Board.bar, [0, 1, 8, 9, value & 0xFF][Int(random.next() % 5)])
      if value & 1 << 20 != 0 { board.out(Board.bar + 4, layTable(&random, board), width: 4) }
    case 12: board.out(Board.bar + 2, value & 0xFF)
    case 13: board.out(Board.bar + value % 8, random.next(), width: [1, 2, 4][Int(value >> 8 % 3)])
    case 14..<16: board.out(port + 1 + value % 6, random.next() & 0xFF)
    case 16:
      board.out(
        port + 7,
        [0x20, 0x30, 0x29, 0x39, 0xEC, 0xA1, 0x08, 0x90, value & 0xFF][
          Int(random.next() % 9)])
    case 17:
      for _ in 0..<300 { _ = board.read(port, width: value & 1 == 0 ? 2 : 4) }
    case 18:
      for _ in 0..<300 { board.out(port, random.next() | 0x8080_8080, width: 4) }
    case 19:
      // A reset of the drives, with or without the end of it.
      board.out(Board.controls[0], [4, 6, 0, 0x80, 2][Int(value % 5)])
      if value & 1 << 20 != 0 { board.out(Board.controls[0], 0) }
    case 20 where movesRegisters:
      let function = board.bus.function(at: PIIX3IDE.address)
      function?.writeConfiguration(0x04, width: 2, UInt32(value % 8))
      function?.writeConfiguration(0x40, width: 4, UInt32(truncatingIfNeeded: value))
      board.map()
    case 21:
      // Of the whole function, and so only where nobody uses the other channel.
      if value % 4 == 0, movesRegisters {
        board.controller.reset(.warm)
        board.map()
      }
    case 22:
      // The user's side: another medium, another size, the machine goes on after a failure.
      board.units[1].mediumChanged(isLoaded: value & 1 == 0)
      board.units[1].requestEject(isForced: value & 2 != 0)
      board.units[0].resized()
      board.backends[0].resume()
    default: for register in 0..<8 as Range<UInt64> { _ = board.read(port + register) }
    }
  }

  private static func run(_ board: Board, _ seed: UInt64, movesRegisters: Bool) {
    var random = SeededGenerator(seed: seed)
    for _ in 0..<3000 { misbehave(&random, board, movesRegisters: movesRegisters) }
  }

  /// One or two vCPUs drive the first channel wildly while a driver of the second works, unless the function's registers, which are of both,
  /// come and go.
  @Test(arguments: [1, 2, 3, 4] as [UInt64])
  func aDriverBreaksItsOwnChannelOnly(_ seed: UInt64) async throws {
    let board = try Board()
    let movesRegisters = seed > 2
    async let one: Void = HostThread.value(name: "cpu0") {
      HostileIDETests.run(board, seed, movesRegisters: movesRegisters)
    }
    async let other: Void = HostThread.value(name: "cpu1") {
      // Of a single vCPU every run is the same.
      if seed % 2 == 0 {
        HostileIDETests.run(board, seed &+ 100, movesRegisters: movesRegisters)
      }
    }
    async let tame: Int = HostThread.value(name: "neighbour") {
      var good = 0
      for number in 0..<200 where !movesRegisters {
        let bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: 512)
        let place = GuestAddress(WatchedRAM.tame + 0x1000)
        board.memory.write(place, bytes)
        let wrote = board.transfer(toMemory: false)
        board.memory.write(place, [UInt8](repeating: 0xEE, count: 512))
        if wrote, board.transfer(toMemory: true), board.memory.read(place, count: 512) == bytes {
          good += 1
        }
      }
      return good
    }
    try await (one, other)
    #expect(try await tame == (movesRegisters ? 0 : 200))
    #expect(board.ram.isIntact)

    // A reset ends it all, and the channel works.
    board.controller.reset(.cold)
    board.map()
    #expect(board.backends.allSatisfy { $0.inFlight == 0 && $0.parkedCount == 0 })
    #expect(board.transfer(toMemory: true))
    for backend in board.backends { backend.setErrorPolicy(read: .ignore, write: .ignore) }
    _ = board.memory.store(GuestAddress(0x1000), 0x8000 | 1024 << 32 | 1 << 63 as UInt64)
    board.out(Board.bar + 4, 0x1000, width: 4)
    board.command(0, 0x25, block: 4, count: 2)
    board.out(Board.bar, 9)
    let end = HostClock.monotonic + 30_000_000_000
    while board.read(Board.bar + 2) & 5 != 4, HostClock.monotonic < end {}
    #expect(board.read(Board.commands[0] + 7) == 0x50)
    #expect(
      board.memory.read(GuestAddress(0x8000), count: 1024)?.allSatisfy { $0 == 0x80 } == true)
    for backend in board.backends { try backend.remove() }
  }

  /// What a reset, of the drives or of the function, or a stop of the bus master ends writes nothing into memory afterwards.
  @Test func nothingOfBeforeAResetIsSeenAfterIt() throws {
    let board = try Board()
    for backend in board.backends { backend.setErrorPolicy(read: .report, write: .report) }
    let blank = [UInt8](repeating: 0x33, count: 0x1_0000)
    for round in 0..<300 {
      _ = board.memory.store(GuestAddress(0x1000), 0x2_0000 | 1 << 63 as UInt64)
      board.out(Board.bar + 4, 0x1000, width: 4)
      board.command(0, 0x25, block: 0, count: 128)
      board.out(Board.bar, 9)
      switch round % 3 {
      case 0:
        board.out(Board.controls[0], 4)
        board.memory.write(GuestAddress(0x2_0000), blank)
        board.out(Board.controls[0], 0)
      case 1:
        board.out(Board.bar, 0)
        board.memory.write(GuestAddress(0x2_0000), blank)
      default:
        board.controller.reset(.warm)
        board.map()
        board.memory.write(GuestAddress(0x2_0000), blank)
      }
      #expect(board.backends[0].inFlight == 0)
      if round % 8 == 0 { WaitWord().wait(while: 0, nanoseconds: 200_000) }
      #expect(board.memory.read(GuestAddress(0x2_0000), count: blank.count) == blank)
      board.out(Board.bar, 0)
      board.out(Board.controls[0], 4)
      board.out(Board.controls[0], 0)
    }
  }
}
