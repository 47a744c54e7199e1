import DeviceModel
import Host
import Net
import PCI
import QAPI
import Shm
import Support
import Synchronization
import Testing
import Virtio

/// The host's end of the cable.
@MainLoop
private final class Wire: NetPortOwner {
  private var made: NetPort?
  var frames: [[UInt8]] = []
  var resumed = 0

  init() {
    made = nil
    let port = NetPort("wire", kind: "test", owner: self)
    port.accepts = .all
    made = port
  }
  var port: NetPort {
    guard let made else { preconditionFailure("made in init") }
    return made
  }
  func receive(_ frame: Frame, on port: NetPort) -> Bool {
    frames.append(frame.bytes)
    return true
  }
  func resumeSending(on port: NetPort) { resumed += 1 }
  func linkChanged(on port: NetPort) {}
}

/// A card with a driver that is this test.
@MainLoop
private final class NetBench {
  static let window: UInt64 = 0xC000_0000
  let devices = AddressSpace(name: "memory")
  let memory = GuestMemory()
  let bus = PCIBus()
  let network = Network()
  let wire = Wire()
  let function: VirtioNetPCI

  /// Mergeable buffers, control queue with everything, status.
  static let features: UInt64 = 1 << 15 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 20 | 1 << 23

  init() throws {
    memory.setSlots([
      MemorySlot(
        guest: GuestAddress(0), size: 1 << 20, block: try RAMBlock(name: "ram", size: 1 << 20))
    ])
    let line = RecordedLine()
    let context = MachineContext(
      ports: AddressSpace(name: "io"), deviceMemory: devices, memory: memory, clock: FakeClock(),
      interrupt: { _ in line.line }, signalMSI: { _, _ in }, request: { _ in })
    bus.setRouter { _, level in line.line.set(level) }
    var settings = VirtioNet.Settings()
    settings.features = VirtioNetPCI.features(
      switches: VirtioNetPCI.switches.reduce(0) { $0 | $1.bit }, multiqueue: false, mtu: 0,
      speed: -1, duplex: 0xFF)
    function = VirtioNetPCI(
      PCIPlacement(bus: bus, address: PCIAddress(device: 4)), VirtioPCI.Settings(), settings,
      name: "card", id: "card", netdev: nil, bootIndex: nil, network: network)
    network.register(function.card)
    try function.realize(in: context)
    function.card.ports[0].connect(to: wire.port)
    configure(0x20, UInt32(NetBench.window))
    configure(0x24, 0)
    configure(0x10, 0xC000)
    configure(0x04, 7)
  }

  private func configure(_ offset: Int, _ value: UInt32) {
    bus.function(at: PCIAddress(device: 4))?.writeConfiguration(offset, width: 4, value)
  }
  private var registers: DriverRegisters { DriverRegisters(devices: devices) }
  func write(_ offset: UInt64, _ width: Int, _ value: UInt64) {
    registers.write(offset, width, value)
  }
  func read(_ offset: UInt64, _ width: Int) -> UInt64 { registers.read(offset, width) }

  /// Rings of 8 entries: descriptors, available, used of queue N at 0x10000 * (N + 1).
  static func ring(_ queue: Int) -> UInt64 { 0x10000 * UInt64(queue + 1) }

  func start(_ features: UInt64 = NetBench.features) async {
    let rings = (0..<3).map { queue in
      let base = NetBench.ring(queue)
      // A driver begins with empty rings.
      memory.write(GuestAddress(base + 0x1000), [UInt8](repeating: 0, count: 0x1008))
      return DriverRegisters.Ring(
        descriptors: base, available: base + 0x1000, used: base + 0x2000)
    }
    registers.start(features: features, rings)
    for _ in 0..<3 { await MainLoop.nextTurn() }
  }

  private var offered = [UInt16](repeating: 0, count: 3)

  /// Makes a chain available: address, length, writable.
  func offer(_ queue: Int, _ parts: [(UInt64, UInt32, Bool)]) async {
    let base = NetBench.ring(queue)
    let first = (UInt64(offered[queue]) * 2) % 8
    for (index, part) in parts.enumerated() {
      let number = (first + UInt64(index)) % 8
      let at = GuestAddress(base + number * 16)
      let isLast = index == parts.count - 1
      _ = memory.store(at, part.0)
      _ = memory.store(at + 8, part.1)
      _ = memory.store(at + 12, UInt16((isLast ? 0 : 1) | (part.2 ? 2 : 0)))
      _ = memory.store(at + 14, UInt16((number + 1) % 8))
    }
    _ = memory.store(
      GuestAddress(base + 0x1000 + 4 + 2 * UInt64(offered[queue] % 8)), UInt16(first))
    offered[queue] &+= 1
    _ = memory.store(GuestAddress(base + 0x1002), offered[queue])
    write(0x3000 + 4 * UInt64(queue), 2, UInt64(queue))
    for _ in 0..<3 { await MainLoop.nextTurn() }
  }

  func used(_ queue: Int) -> UInt16 {
    memory.load(GuestAddress(NetBench.ring(queue) + 0x2002)) ?? 0
  }
  func written(_ queue: Int, _ entry: UInt64) -> UInt32 {
    memory.load(GuestAddress(NetBench.ring(queue) + 0x2004 + 8 * entry + 4)) ?? 0
  }
  var isBroken: Bool { registers.isBroken }

  /// A command on the control queue; answers the acknowledgement.
  func control(_ bytes: [UInt8]) async -> UInt8 {
    _ = memory.write(GuestAddress(0x8000), bytes)
    _ = memory.store(GuestAddress(0x9000), UInt8(0xEE))
    await offer(2, [(0x8000, UInt32(bytes.count), false), (0x9000, 1, true)])
    return memory.load(GuestAddress(0x9000)) ?? 0xFF
  }
}

@Suite(.timeLimit(.minutes(15))) struct VirtioNetTests {
  init() { MainLoopThread.start() }

  private static let frame =
    [0x52, 0x54, 0, 0x12, 0x34, 0x56, 2, 2, 3, 4, 5, 6, 8, 6] + [UInt8](repeating: 7, count: 46)

  @MainLoop @Test func theDriversFramesReachTheWire() async throws {
    let bench = try NetBench()
    await bench.start()
    _ = bench.memory.write(
      GuestAddress(0x8000), [UInt8](repeating: 0, count: 12) + Self.frame)
    await bench.offer(1, [(0x8000, 20, false), (0x8014, UInt32(Self.frame.count - 8), false)])
    #expect(bench.wire.frames == [Self.frame])
    #expect(bench.used(1) == 1)
  }

  @MainLoop @Test func framesFillAsManyBuffersAsTheyNeed() async throws {
    let bench = try NetBench()
    await bench.start()
    let large = Self.frame + [UInt8](repeating: 9, count: 100)
    #expect(!bench.wire.port.send(Frame(IOBuffer(large), 0..<large.count)))
    #expect(bench.used(0) == 0)
    await bench.offer(0, [(0x8000, 100, true)])
    #expect(bench.used(0) == 0)
    await bench.offer(0, [(0x9000, 100, true)])
    #expect(bench.used(0) == 2)
    #expect(bench.wire.resumed == 1)
    #expect(bench.memory.load(GuestAddress(0x800A), as: UInt16.self) == 2)
    #expect(bench.written(0, 0) == 100)
    #expect(bench.written(0, 1) == UInt32(large.count + 12 - 100))
    let bytes =
      (bench.memory.read(GuestAddress(0x800C), count: 88) ?? [])
      + (bench.memory.read(GuestAddress(0x9000), count: large.count - 88) ?? [])
    #expect(bytes == large)
  }

  @MainLoop @Test func theControlQueueSetsTheFilter() async throws {
    let bench = try NetBench()
    await bench.start()
    #expect(await bench.control([0, 0, 0]) == 0)
    #expect(await bench.control([1, 0, 1, 0, 0, 0, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0]) == 0)
    #expect(bench.function.card.filter?.unicastTable == ["02:02:02:02:02:02"])
    #expect(bench.function.card.filter?.promiscuous == false)
    await bench.offer(0, [(0xA000, 200, true)])
    var other = Self.frame
    other[5] = 0x77
    bench.wire.port.send(Frame(IOBuffer(other), 0..<other.count))
    #expect(bench.used(0) == 0)
    bench.wire.port.send(Frame(IOBuffer(Self.frame), 0..<Self.frame.count))
    #expect(bench.used(0) == 1)
    // What makes no sense is refused and changes nothing.
    let refused: [[UInt8]] = [
      [9, 9], [0, 9, 1], [1, 0, 255, 255, 255, 255], [1, 0, 1, 0, 0, 0], [1, 1, 1, 2, 3],
      [4, 0, 9, 0], [5, 0, 1], [2, 0, 0xFF, 0xFF],
    ]
    for command in refused { #expect(await bench.control(command) == 1, "\(command)") }
    #expect(bench.function.card.filter?.unicastTable == ["02:02:02:02:02:02"])
    #expect(!bench.isBroken)
  }

  @MainLoop @Test func aDriverThatBreaksTheRulesBreaksItsOwnCardOnly() async throws {
    for part: (UInt64, UInt32, Bool) in [
      (0x8000, 4, false), (0xFFFF_FFFF_0000, 100, false), (0x8000, 100, true),
    ] {
      let bench = try NetBench()
      await bench.start()
      await bench.offer(1, [part])
      #expect(bench.isBroken)
      await bench.start()
      #expect(!bench.isBroken)
    }
    let bench = try NetBench()
    await bench.start()
    // Longer than any frame: passed over.
    await bench.offer(1, [(0x8000, 0x40000, false)])
    #expect(bench.used(1) == 1 && bench.wire.frames.isEmpty && !bench.isBroken)
    // Buffers for frames that the device may not write, or that lie nowhere.
    await bench.offer(0, [(0xFFFF_FFFF_0000, 2000, true)])
    bench.wire.port.send(Frame(IOBuffer(Self.frame), 0..<Self.frame.count))
    #expect(bench.isBroken)
  }

  @MainLoop @Test func aPulledCableShowsInTheStatus() async throws {
    let bench = try NetBench()
    await bench.start()
    #expect(bench.read(0x2006, 2) == 1)
    try bench.network.setLink("card", up: false)
    #expect(bench.read(0x2006, 2) == 0)
    try bench.network.setLink("card", up: true)
    #expect(bench.read(0x2006, 2) == 1)
  }
}
