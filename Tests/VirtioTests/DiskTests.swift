import Block
import DeviceModel
import Host
import PCI
import Shm
import Support
import Synchronization
import Testing
import Virtio

/// A disk in memory that may be slow (nothing is had without waiting) and may fail.
private final class MemoryNode: BlockNode {
  let driver = "null-co"
  let name: String
  private let buffer: IOBuffer
  let isReadOnly: Bool
  let isSlow: Bool
  let failure = Mutex<BlockError?>(nil)
  let calls = Mutex<[String]>([])

  init(size: Int, isSlow: Bool = false, isReadOnly: Bool = false, name: String = "memory") {
    buffer = IOBuffer(count: size)
    self.isSlow = isSlow
    self.isReadOnly = isReadOnly
    self.name = name
  }

  var length: UInt64 { UInt64(buffer.count) }
  func bytes(_ range: Range<Int>) -> [UInt8] { buffer.bytes(range) }
  func fill(_ bytes: [UInt8], at offset: Int) { buffer.store(bytes, at: offset) }

  private func note(_ call: String) throws(BlockError) {
    calls.withLock { $0.append(call) }
    if let failure = failure.withLock({ $0 }) { throw failure }
  }

  func read(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    try note("read")
    target.copy(from: buffer.vector(Int(offset)..<Int(offset) + target.count))
  }
  func readNow(_ offset: UInt64, into target: IOVector) throws(BlockError) -> Bool {
    if isSlow { return false }
    try read(offset, into: target)
    return true
  }
  func write(_ offset: UInt64, from source: IOVector, _ flags: WriteFlags) throws(BlockError) {
    try note(flags.contains(.forceUnitAccess) ? "write-through" : "write")
    buffer.vector(Int(offset)..<Int(offset) + source.count).copy(from: source)
  }
  func writeZeroes(_ offset: UInt64, _ count: UInt64, _ flags: WriteFlags) throws(BlockError) {
    try note(flags.contains(.mayUnmap) ? "zero-unmap" : "zero")
    buffer.fill(0, Int(offset)..<Int(offset + count))
  }
  func discard(_ offset: UInt64, _ count: UInt64) throws(BlockError) { try note("discard") }
  func flush() throws(BlockError) { try note("flush") }
  func truncate(to length: UInt64, _ preallocation: Preallocation) throws(BlockError) {}
  func status(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> BlockStatus {
    BlockStatus(length: count, isAllocated: true, isZero: false, isData: true)
  }
}

/// A disk behind a queue of eight, and its driver.
private final class Bench {
  static let descriptors: UInt64 = 0x1000
  static let available: UInt64 = 0x2000
  static let used: UInt64 = 0x3000
  static let window: UInt64 = 0xC000_0000
  let devices = AddressSpace(name: "memory")
  let memory = GuestMemory()
  let line = RecordedLine()
  let node: MemoryNode
  let backend: BlockBackend
  let disk: Disk
  let transport: VirtioPCI
  private let graph = BlockGraph()
  private var taken: UInt16 = 0
  private var offered: UInt16 = 0

  init(
    size: Int = 1 << 20, isSlow: Bool = false, isReadOnly: Bool = false,
    settings: DiskSettings = DiskSettings()
  ) throws {
    memory.setSlots([
      MemorySlot(
        guest: GuestAddress(0), size: 1 << 20, block: try RAMBlock(name: "ram", size: 1 << 20))
    ])
    node = MemoryNode(size: size, isSlow: isSlow, isReadOnly: isReadOnly)
    var nodeSettings = NodeSettings()
    nodeSettings.unmaps = true
    try graph.add(node, settings: nodeSettings)
    backend = BlockBackend(graph, name: "d")
    try backend.insert(node)
    var settings = settings
    settings.queueSize = 8
    settings.serial = "SERIAL-0123456789-0123456789"
    disk = Disk(backend, settings)
    backend.attach(disk)
    let ports = AddressSpace(name: "io")
    let context = MachineContext(
      ports: ports, deviceMemory: devices, memory: memory, clock: FakeClock(),
      interrupt: { [line] _ in line.line }, signalMSI: { _, _ in }, request: { _ in })
    let bus = PCIBus()
    bus.setRouter { [line] _, level in line.line.set(level) }
    transport = VirtioPCI(disk, VirtioPCI.Settings(), in: context)
    disk.attach(to: transport)
    try transport.connect(at: PCIPlacement(bus: bus, address: PCIAddress(device: 4)), in: context)
    let function = bus.function(at: PCIAddress(device: 4))
    function?.writeConfiguration(0x20, width: 4, UInt32(Bench.window))
    function?.writeConfiguration(0x04, width: 2, 7)
  }

  func write(_ offset: UInt64, _ width: Int, _ value: UInt64) {
    devices.write(Bench.window + offset, width: width, value, vcpu: VCPUID(0))
  }
  func read(_ offset: UInt64, _ width: Int) -> UInt64 {
    devices.read(Bench.window + offset, width: width, vcpu: VCPUID(0))
  }

  func start(features: UInt64 = 1 << 9 | 1 << 11) {
    write(0x14, 1, 0)
    // A new driver makes its rings anew.
    _ = memory.store(GuestAddress(Bench.available), UInt64(0))
    _ = memory.store(GuestAddress(Bench.used), UInt64(0))
    write(0x14, 1, 3)
    write(0x08, 4, 0)
    write(0x0C, 4, features)
    write(0x08, 4, 1)
    write(0x0C, 4, 1)
    write(0x14, 1, 11)
    write(0x16, 2, 0)
    write(0x20, 4, Bench.descriptors)
    write(0x28, 4, Bench.available)
    write(0x30, 4, Bench.used)
    write(0x1C, 2, 1)
    write(0x14, 1, 15)
    (taken, offered) = (0, 0)
  }

  /// Offers a request: header and `out` to read, `into` bytes at 0x10000 to write, then the status; the device is told.
  func offer(_ kind: UInt32, sector: UInt64, out: [UInt8] = [], into: Int = 0, notify: Bool = true)
  {
    let slot = UInt64(offered % 2) * 4
    let base = 0x8000 + UInt64(offered % 2) * 0x20000
    _ = memory.store(GuestAddress(base), kind)
    _ = memory.store(GuestAddress(base + 8), sector)
    memory.write(GuestAddress(base + 0x1000), out)
    memory.write(GuestAddress(base + 0x100), [0xFF])
    var chain: [(UInt64, UInt32, UInt16)] = [(base, 16, 0)]
    if !out.isEmpty { chain.append((base + 0x1000, UInt32(out.count), 0)) }
    if into > 0 { chain.append((base + 0x8000, UInt32(into), 2)) }
    chain.append((base + 0x100, 1, 2))
    for (index, part) in chain.enumerated() {
      let at = GuestAddress(Bench.descriptors + (slot + UInt64(index)) * 16)
      let isLast = index == chain.count - 1
      _ = memory.store(at, part.0)
      _ = memory.store(at + 8, part.1)
      _ = memory.store(at + 12, part.2 | (isLast ? 0 : 1))
      _ = memory.store(at + 14, UInt16(slot) + UInt16(index) + 1)
    }
    _ = memory.store(
      GuestAddress(Bench.available + 4 + 2 * UInt64(offered % 8)), UInt16(slot))
    offered &+= 1
    _ = memory.store(GuestAddress(Bench.available + 2), offered)
    if notify { write(0x3000, 2, 0) }
  }

  /// Waits for the next request to come back: its status and how many bytes were written; nil when it does not.
  func take() -> (status: UInt8, written: UInt32)? {
    let end = HostClock.monotonic + 5_000_000_000
    while memory.load(GuestAddress(Bench.used + 2), as: UInt16.self) == taken {
      if HostClock.monotonic > end { return nil }
    }
    let entry = Bench.used + 4 + 8 * UInt64(taken % 8)
    let base = 0x8000 + UInt64(taken % 2) * 0x20000
    taken &+= 1
    return (
      memory.load(GuestAddress(base + 0x100)) ?? 0xEE, memory.load(GuestAddress(entry + 4)) ?? 0
    )
  }
  func data(_ count: Int) -> [UInt8] {
    memory.read(GuestAddress(0x8000 + UInt64((taken &- 1) % 2) * 0x20000 + 0x8000), count: count)
      ?? []
  }
  func run(
    _ kind: UInt32, sector: UInt64 = 0, out: [UInt8] = [], into: Int = 0
  ) -> (status: UInt8, written: UInt32) {
    offer(kind, sector: sector, out: out, into: into)
    return take() ?? (0xDD, 0)
  }
}

@Suite struct DiskTests {
  @Test(arguments: [false, true])
  func dataGoesBothWaysAtOnceOrLater(isSlow: Bool) throws {
    let bench = try Bench(isSlow: isSlow)
    bench.start()
    let bytes = (0..<4096).map { UInt8(truncatingIfNeeded: $0 / 7) }
    #expect(bench.run(1, sector: 8, out: bytes) == (0, 1))
    #expect(bench.node.bytes(4096..<8192) == bytes)
    #expect(bench.run(0, sector: 8, into: 4096) == (0, 4097))
    #expect(bench.data(4096) == bytes)
    #expect(bench.run(4) == (0, 1))
    #expect(bench.node.calls.withLock { $0 } == ["write", "read", "flush"])
    #expect(bench.line.level)
  }

  @Test func theRestOfTheCommands() throws {
    let bench = try Bench()
    bench.start()
    #expect(bench.run(8, into: 20) == (0, 21))
    #expect(String(decoding: bench.data(20), as: UTF8.self) == "SERIAL-0123456789-01")
    func segment(_ sector: UInt64, _ count: UInt32, _ flags: UInt32) -> [UInt8] {
      (0..<8).map { UInt8(truncatingIfNeeded: sector >> UInt64($0 * 8)) }
        + (0..<4).map { UInt8(truncatingIfNeeded: count >> UInt32($0 * 8)) }
        + (0..<4).map { UInt8(truncatingIfNeeded: flags >> UInt32($0 * 8)) }
    }
    bench.node.fill([UInt8](repeating: 1, count: 8192), at: 0)
    #expect(bench.run(13, out: segment(2, 4, 1)).status == 0)
    #expect(bench.node.bytes(1024..<3072).count { $0 != 0 } == 0)
    #expect(bench.node.bytes(0..<1024).count { $0 != 1 } == 0)
    #expect(bench.run(13, out: segment(2, 4, 0)).status == 0)
    #expect(bench.run(11, out: segment(0, 8, 0)).status == 0)
    #expect(bench.node.calls.withLock { $0 } == ["zero-unmap", "zero", "discard"])
    // What they do not allow: flags of a discard, the end of the disk, two segments, unknown kinds.
    #expect(bench.run(11, out: segment(0, 8, 1)).status == 2)
    #expect(bench.run(11, out: segment(2047, 2, 0)).status == 1)
    #expect(bench.run(13, out: segment(UInt64.max, 2, 0)).status == 1)
    #expect(bench.run(11, out: segment(0, 1, 0) + segment(8, 1, 0)).status == 2)
    #expect(bench.run(77).status == 2)
    #expect(bench.read(0x14, 1) == 15)
  }

  @Test func whatIsNotOnTheDiskFailsAndIsCounted() throws {
    let bench = try Bench()
    bench.start()
    for (sector, count) in [(2048, 512), (2047, 1024), (UInt64.max, 512), (0, 100)]
      as [(UInt64, Int)]
    {
      #expect(bench.run(0, sector: sector, into: count).status == 1, "\(sector) \(count)")
    }
    #expect(bench.backend.statistics.reads.invalid == 4)
    bench.node.failure.withLock { $0 = BlockError(5, "no") }
    #expect(bench.run(0, into: 512) == (1, 1))
    #expect(bench.run(4).status == 1)
  }

  @Test func aStopKeepsTheRequestUntilTheMachineGoesOn() throws {
    let bench = try Bench()
    bench.backend.setErrorPolicy(read: .report, write: .stop)
    bench.start()
    bench.node.failure.withLock { $0 = BlockError(28, "No space left on device") }
    bench.offer(1, sector: 0, out: [UInt8](repeating: 9, count: 512))
    #expect(bench.memory.load(GuestAddress(Bench.used + 2), as: UInt16.self) == 0)
    #expect(bench.backend.parkedCount == 1)
    bench.node.failure.withLock { $0 = nil }
    bench.backend.resume()
    #expect(bench.take()?.status == 0)
    #expect(bench.node.bytes(0..<512).count { $0 != 9 } == 0)
    // A reset forgets what is parked.
    bench.node.failure.withLock { $0 = BlockError(28, "No space left on device") }
    bench.offer(1, sector: 0, out: [UInt8](repeating: 7, count: 512))
    #expect(bench.backend.parkedCount == 1)
    bench.write(0x14, 1, 0)
    #expect(bench.backend.parkedCount == 0)
    bench.node.failure.withLock { $0 = nil }
    bench.start()
    #expect(bench.run(0, into: 512).status == 0)
  }

  @Test func configurationAndCacheMode() throws {
    var settings = DiskSettings()
    settings.physicalBlockSize = 4096
    settings.queueCount = 3
    let bench = try Bench(settings: settings)
    func field(_ offset: UInt64, _ width: Int) -> UInt64 { bench.read(0x2000 + offset, width) }
    #expect(field(0, 4) == 2048 && field(12, 4) == 6 && field(20, 4) == 512)
    #expect(field(24, 1) == 3 && field(32, 1) == 1 && field(34, 2) == 3)
    #expect(field(36, 4) == 4_194_303 && field(40, 4) == 1 && field(56, 1) == 1)
    bench.start()
    bench.write(0x2000 + 32, 1, 0)
    #expect(!bench.backend.hasWriteCache)
    #expect(bench.run(1, out: [UInt8](repeating: 1, count: 512)).status == 0)
    #expect(bench.node.calls.withLock { $0 } == ["write-through"])
    // A driver that cannot flush gets no cache; the next one finds it as the user had it.
    bench.write(0x14, 1, 0)
    #expect(bench.backend.hasWriteCache)
    bench.start(features: 0)
    #expect(!bench.backend.hasWriteCache)
    let generation = bench.read(0x15, 1)
    bench.disk.resized()
    #expect(bench.read(0x15, 1) != generation)
  }

  @Test func aReadOnlyDiskRefusesWrites() throws {
    let bench = try Bench(isReadOnly: true)
    bench.write(0x00, 4, 0)
    #expect(bench.read(0x04, 4) & 1 << 5 != 0)
    bench.start()
    #expect(bench.run(1, out: [UInt8](repeating: 1, count: 512)).status == 1)
    #expect(bench.node.calls.withLock { $0 }.isEmpty)
  }

  @Test func brokenRequestsBreakTheDeviceOnly() throws {
    for (length, address) in [(8, 0x8000), (16, 0xFFFF_0000_0000)] as [(UInt32, UInt64)] {
      let bench = try Bench()
      bench.start()
      _ = bench.memory.store(GuestAddress(Bench.descriptors), address)
      _ = bench.memory.store(GuestAddress(Bench.descriptors + 8), length)
      _ = bench.memory.store(GuestAddress(Bench.descriptors + 12), UInt32(1 | 1 << 16))
      _ = bench.memory.store(GuestAddress(Bench.descriptors + 16), UInt64(0x9000))
      _ = bench.memory.store(GuestAddress(Bench.descriptors + 24), UInt64(1) | 2 << 32)
      _ = bench.memory.store(GuestAddress(Bench.available + 2), UInt16(1))
      bench.write(0x3000, 2, 0)
      #expect(bench.read(0x14, 1) & 0x40 != 0)
      bench.start()
      #expect(bench.run(0, into: 512).status == 0)
    }
  }

  @Test func randomRequestsNeverTrap() throws {
    var random = SeededGenerator(seed: 0xD15C)
    for round in 0..<60 {
      let bench = try Bench(isSlow: round % 2 == 0)
      bench.start(features: random.next() & (1 << 28 | 1 << 29 | 1 << 9 | 1 << 11))
      var index: UInt16 = 0
      for _ in 0..<30 {
        for entry in UInt64(0)..<8 {
          let at = GuestAddress(Bench.descriptors + entry * 16)
          let wild = random.next() & 15 == 0
          _ = bench.memory.store(at, wild ? random.next() : random.next() & 0xF_FFFF)
          _ = bench.memory.store(at + 8, UInt32(truncatingIfNeeded: random.next() & 0x1FFF))
          _ = bench.memory.store(
            at + 12, UInt32(truncatingIfNeeded: random.next() & 3 | (random.next() & 7) << 16))
        }
        let base = UInt64(random.next() & 0xF_FFF0)
        _ = bench.memory.store(GuestAddress(Bench.descriptors), base)
        _ = bench.memory.store(GuestAddress(Bench.descriptors + 8), UInt32(16))
        _ = bench.memory.store(GuestAddress(Bench.descriptors + 12), UInt16(1))
        _ = bench.memory.store(GuestAddress(base), UInt32(truncatingIfNeeded: random.next() % 14))
        _ = bench.memory.store(GuestAddress(base + 8), random.next() & 0xFFF)
        _ = bench.memory.store(GuestAddress(Bench.available + 4 + 2 * UInt64(index % 8)), UInt16(0))
        index &+= 1
        _ = bench.memory.store(GuestAddress(Bench.available + 2), index)
        bench.write(0x3000, 2, 0)
        if bench.read(0x14, 1) & 0x40 != 0 || random.next() & 15 == 0 {
          bench.start(features: random.next() & (1 << 28 | 1 << 29 | 1 << 9 | 1 << 11))
          for at in stride(from: UInt64(0), to: 64, by: 8) {
            _ = bench.memory.store(GuestAddress(Bench.available + at), UInt64(0))
          }
          index = 0
          bench.start(features: 1 << 9)
        }
      }
      bench.write(0x14, 1, 0)
    }
  }
}
