import Block
import DeviceModel
import Host
import PCI
import Shm
import Support
import Synchronization
import Virtio

/// A disk in memory that may be slow (nothing is had without waiting) and may fail.
final class MemoryNode: BlockNode {
  let driver = "null-co"
  let name: String
  private let buffer: IOBuffer
  let isReadOnly: Bool
  let isSlow: Bool
  let failure = Mutex<BlockError?>(nil)
  let calls = Mutex<[String]>([])
  /// What was asked for, and where.
  let transfers = Mutex<[Transfer]>([])
  /// A read or write of that byte fails.
  let badByte = Mutex<UInt64?>(nil)

  struct Transfer: Equatable {
    var isWrite: Bool
    var offset: UInt64
    var count: Int
  }

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

  private func note(_ transfer: Transfer) throws(BlockError) {
    transfers.withLock { $0.append(transfer) }
    if let bad = badByte.withLock({ $0 }), bad >= transfer.offset,
      bad - transfer.offset < UInt64(transfer.count)
    {
      throw BlockError(5, "Input/output error")
    }
  }

  func read(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    try note("read")
    try note(Transfer(isWrite: false, offset: offset, count: target.count))
    target.copy(from: buffer.vector(Int(offset)..<Int(offset) + target.count))
  }
  func readNow(_ offset: UInt64, into target: IOVector) throws(BlockError) -> Bool {
    if isSlow { return false }
    try read(offset, into: target)
    return true
  }
  func write(_ offset: UInt64, from source: IOVector, _ flags: WriteFlags) throws(BlockError) {
    try note(flags.contains(.forceUnitAccess) ? "write-through" : "write")
    try note(Transfer(isWrite: true, offset: offset, count: source.count))
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

/// A disk behind a queue of eight (or more), and its driver, which has as many requests out at once as there are slots.
final class DiskBench {
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
  private let slots: Int
  private let queueSize: Int
  private var taken: UInt16 = 0
  private var offered: UInt16 = 0

  init(
    size: Int = 1 << 20, isSlow: Bool = false, isReadOnly: Bool = false,
    settings: DiskSettings = DiskSettings(), slots: Int = 2
  ) throws {
    self.slots = slots
    queueSize = slots == 2 ? 8 : 256
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
    settings.queueSize = UInt16(queueSize)
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
    function?.writeConfiguration(0x20, width: 4, UInt32(DiskBench.window))
    function?.writeConfiguration(0x04, width: 2, 7)
  }

  func write(_ offset: UInt64, _ width: Int, _ value: UInt64) {
    devices.write(DiskBench.window + offset, width: width, value, vcpu: VCPUID(0))
  }
  func read(_ offset: UInt64, _ width: Int) -> UInt64 {
    devices.read(DiskBench.window + offset, width: width, vcpu: VCPUID(0))
  }

  func start(features: UInt64 = 1 << 9 | 1 << 11) {
    write(0x14, 1, 0)
    // A new driver makes its rings anew.
    _ = memory.store(GuestAddress(DiskBench.available), UInt64(0))
    _ = memory.store(GuestAddress(DiskBench.used), UInt64(0))
    write(0x14, 1, 3)
    write(0x08, 4, 0)
    write(0x0C, 4, features)
    write(0x08, 4, 1)
    write(0x0C, 4, 1)
    write(0x14, 1, 11)
    write(0x16, 2, 0)
    write(0x20, 4, DiskBench.descriptors)
    write(0x28, 4, DiskBench.available)
    write(0x30, 4, DiskBench.used)
    write(0x1C, 2, 1)
    write(0x14, 1, 15)
    (taken, offered) = (0, 0)
  }

  /// Where a slot's memory is; with more than two of them there is room for 3 KiB each way.
  private func base(_ request: UInt16) -> UInt64 {
    let slot = UInt64(Int(request) % slots)
    return 0x8000 + slot * (slots == 2 ? 0x20000 : 0x2000)
  }
  private func part(_ offset: UInt64) -> UInt64 { slots == 2 ? offset : offset / 8 }

  /// The bytes that a slot's read has got.
  func data(ofSlot slot: Int, _ count: Int) -> [UInt8] {
    memory.read(GuestAddress(base(UInt16(slot)) + part(0x8000)), count: count) ?? []
  }

  /// Waits for so many requests; the statuses of the first slots, nil when not all come back.
  func statuses(_ count: Int) -> [UInt8]? {
    for _ in 0..<count where take() == nil { return nil }
    return (0..<count).map { memory.load(GuestAddress(base(UInt16($0)) + 0x100)) ?? 0xEE }
  }

  /// Tells the device of what was offered.
  func notify() { write(0x3000, 2, 0) }

  /// Offers a request: header and `out` to read, `into` bytes at 0x10000 to write, then the status; the device is told.
  func offer(_ kind: UInt32, sector: UInt64, out: [UInt8] = [], into: Int = 0, notify: Bool = true)
  {
    let slot = UInt64(Int(offered) % slots) * 4
    let base = self.base(offered)
    _ = memory.store(GuestAddress(base), kind)
    _ = memory.store(GuestAddress(base + 8), sector)
    memory.write(GuestAddress(base + part(0x1000)), out)
    memory.write(GuestAddress(base + 0x100), [0xFF])
    var chain: [(UInt64, UInt32, UInt16)] = [(base, 16, 0)]
    if !out.isEmpty { chain.append((base + part(0x1000), UInt32(out.count), 0)) }
    if into > 0 { chain.append((base + part(0x8000), UInt32(into), 2)) }
    chain.append((base + 0x100, 1, 2))
    for (index, part) in chain.enumerated() {
      let at = GuestAddress(DiskBench.descriptors + (slot + UInt64(index)) * 16)
      let isLast = index == chain.count - 1
      _ = memory.store(at, part.0)
      _ = memory.store(at + 8, part.1)
      _ = memory.store(at + 12, part.2 | (isLast ? 0 : 1))
      _ = memory.store(at + 14, UInt16(slot) + UInt16(index) + 1)
    }
    _ = memory.store(
      GuestAddress(DiskBench.available + 4 + 2 * UInt64(Int(offered) % queueSize)), UInt16(slot))
    offered &+= 1
    _ = memory.store(GuestAddress(DiskBench.available + 2), offered)
    if notify { write(0x3000, 2, 0) }
  }

  /// Waits for the next request to come back: its status and how many bytes were written; nil when it does not.
  func take() -> (status: UInt8, written: UInt32)? {
    let end = HostClock.monotonic + 5_000_000_000
    while memory.load(GuestAddress(DiskBench.used + 2), as: UInt16.self) == taken {
      if HostClock.monotonic > end { return nil }
    }
    let entry = DiskBench.used + 4 + 8 * UInt64(Int(taken) % queueSize)
    let head = memory.load(GuestAddress(entry), as: UInt32.self) ?? 0
    let base = self.base(UInt16(clamping: head / 4))
    taken &+= 1
    return (
      memory.load(GuestAddress(base + 0x100)) ?? 0xEE, memory.load(GuestAddress(entry + 4)) ?? 0
    )
  }
  func data(_ count: Int) -> [UInt8] {
    memory.read(GuestAddress(base(taken &- 1) + part(0x8000)), count: count) ?? []
  }
  func run(
    _ kind: UInt32, sector: UInt64 = 0, out: [UInt8] = [], into: Int = 0
  ) -> (status: UInt8, written: UInt32) {
    offer(kind, sector: sector, out: out, into: into)
    return take() ?? (0xDD, 0)
  }
}
