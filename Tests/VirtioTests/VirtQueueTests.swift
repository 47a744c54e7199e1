import DeviceModel
import Host
import PCI
import Shm
import Support
import Synchronization
import Testing
import Virtio

/// A device that counts what its driver does.
private final class Probe: VirtioDevice {
  let number: UInt16 = 4
  let offeredFeatures: UInt64 = 1 << 3
  let queueSizes: [UInt16] = [8, 16]
  let configuration: [UInt8] = [1, 2, 3, 4]
  let notifications = Mutex<[Int]>([])
  let started = Mutex<UInt64?>(nil)
  func writeConfiguration(_ offset: Int, _ bytes: [UInt8]) {}
  func start(_ features: UInt64) { started.withLock { $0 = features } }
  func notified(_ queue: Int) { notifications.withLock { $0.append(queue) } }
  func reset() { started.withLock { $0 = nil } }
}

/// A machine with one virtio function, and the registers of its modern interface.
private final class Bench {
  static let descriptors: UInt64 = 0x1000
  static let available: UInt64 = 0x2000
  static let used: UInt64 = 0x3000
  static let window: UInt64 = 0xC000_0000

  let ports = AddressSpace(name: "io")
  let devices = AddressSpace(name: "memory")
  let memory = GuestMemory()
  let bus = PCIBus()
  let probe = Probe()
  let transport: VirtioPCI
  let messages = Mutex<[[UInt64]]>([])
  let line = RecordedLine()

  init(vectors: Int = 2) throws {
    memory.setSlots([
      MemorySlot(
        guest: GuestAddress(0), size: 1 << 20, block: try RAMBlock(name: "ram", size: 1 << 20))
    ])
    var settings = VirtioPCI.Settings()
    settings.vectors = vectors
    let sink = MessageSink()
    let context = MachineContext(
      ports: ports, deviceMemory: devices, memory: memory, clock: FakeClock(),
      interrupt: { [line] _ in line.line }, signalMSI: { sink.take($0, $1) }, request: { _ in })
    self.sink = sink
    bus.setRouter { [line] _, level in line.line.set(level) }
    transport = VirtioPCI(probe, settings, in: context)
    try transport.connect(
      at: PCIPlacement(bus: bus, address: PCIAddress(device: 4)), in: context)
    configure(0x20, 4, Bench.window)
    configure(0x24, 4, 0)
    configure(0x14, 4, 0xB000_0000)
    configure(0x10, 4, 0xC000)
    configure(0x04, 2, 7)
  }

  final class MessageSink: Sendable {
    let messages = Mutex<[[UInt64]]>([])
    func take(_ address: UInt64, _ data: UInt32) {
      messages.withLock { $0.append([address, UInt64(data)]) }
    }
  }
  let sink: MessageSink

  func configure(_ offset: Int, _ width: Int, _ value: UInt64) {
    bus.function(at: PCIAddress(device: 4))?
      .writeConfiguration(offset, width: width, UInt32(truncatingIfNeeded: value))
  }
  func configuration(_ offset: Int, _ width: Int) -> UInt32 {
    bus.function(at: PCIAddress(device: 4))?.readConfiguration(offset, width: width) ?? 0
  }
  private var registers: DriverRegisters { DriverRegisters(devices: devices) }
  func write(_ offset: UInt64, _ width: Int, _ value: UInt64) {
    registers.write(offset, width, value)
  }
  func read(_ offset: UInt64, _ width: Int) -> UInt64 { registers.read(offset, width) }

  /// Sets queue 0 up with `size` entries.
  func start(features: UInt64 = 0, size: UInt16 = 8) {
    registers.start(
      features: features,
      [.init(descriptors: Bench.descriptors, available: Bench.available, used: Bench.used)],
      size: size)
  }

  func descriptor(
    _ index: UInt64, _ address: UInt64, _ length: UInt32, _ flags: UInt16, next: UInt16 = 0,
    table: UInt64 = Bench.descriptors
  ) {
    let at = GuestAddress(table + index * 16)
    _ = memory.store(at, address)
    _ = memory.store(at + 8, length)
    _ = memory.store(at + 12, flags)
    _ = memory.store(at + 14, next)
  }
  func offer(_ heads: [UInt16], from start: UInt16 = 0, size: UInt16 = 8) {
    for (index, head) in heads.enumerated() {
      let slot = UInt64((start &+ UInt16(index)) % size)
      _ = memory.store(GuestAddress(Bench.available + 4 + 2 * slot), head)
    }
    _ = memory.store(GuestAddress(Bench.available + 2), start &+ UInt16(heads.count))
  }
  func load16(_ address: UInt64) -> UInt16 { memory.load(GuestAddress(address)) ?? 0 }
  func load32(_ address: UInt64) -> UInt32 { memory.load(GuestAddress(address)) ?? 0 }
}

@Suite struct VirtioTests {
  @Test func aTransitionalFunctionHasTheNumbersOfItsStandard() throws {
    let bench = try Bench()
    #expect(bench.configuration(0, 4) == 0x1005_1AF4)
    #expect(bench.configuration(0x2C, 4) == 0x0004_1AF4)
    var types: [UInt32] = []
    var at = Int(bench.configuration(0x34, 1))
    while at != 0 {
      if bench.configuration(at, 1) == 9 { types.append(bench.configuration(at + 3, 1)) }
      at = Int(bench.configuration(at + 1, 1))
    }
    #expect(types.sorted() == [1, 2, 3, 4, 5])
  }

  @Test func elementsGoThereAndBack() throws {
    let bench = try Bench()
    bench.start()
    #expect(bench.probe.started.withLock { $0 } == 1 << 32)
    bench.descriptor(0, 0x8000, 4, 1, next: 1)
    bench.descriptor(1, 0x9000, 16, 2)
    bench.offer([0])
    bench.write(0x3000, 2, 0)
    #expect(bench.probe.notifications.withLock { $0 } == [0])
    let element = try #require(bench.transport.pop(0))
    #expect(element.readable == [GuestRange(address: GuestAddress(0x8000), length: 4)])
    #expect(element.writable == [GuestRange(address: GuestAddress(0x9000), length: 16)])
    #expect(bench.transport.pop(0) == nil)
    bench.transport.complete(0, element, written: 7)
    #expect(bench.load16(Bench.used + 2) == 1)
    #expect(bench.load32(Bench.used + 4) == 0)
    #expect(bench.load32(Bench.used + 8) == 7)
    #expect(bench.line.level)
    #expect(bench.read(0x1000, 1) == 1)
    #expect(!bench.line.level)
  }

  @Test func vectorsReplaceThePinAndAreKeptWhileMasked() throws {
    let bench = try Bench()
    var at = Int(bench.configuration(0x34, 1))
    while bench.configuration(at, 1) != 0x11 { at = Int(bench.configuration(at + 1, 1)) }
    bench.configure(at + 2, 2, 0x8000)
    bench.devices.write(0xB000_0010, width: 4, 0xFEE0_1000, vcpu: VCPUID(0))
    bench.devices.write(0xB000_0018, width: 4, 0x41, vcpu: VCPUID(0))
    bench.start()
    bench.write(0x16, 2, 0)
    bench.write(0x1A, 2, 1)
    #expect(bench.read(0x1A, 2) == 1)
    bench.write(0x1A, 2, 9)
    #expect(bench.read(0x1A, 2) == 0xFFFF)
    bench.write(0x1A, 2, 1)
    bench.descriptor(0, 0x9000, 16, 2)
    bench.offer([0])
    bench.transport.complete(0, try #require(bench.transport.pop(0)), written: 1)
    #expect(bench.sink.messages.withLock { $0 }.isEmpty)
    #expect(bench.devices.read(0xB000_0800, width: 4, vcpu: VCPUID(0)) == 2)
    bench.devices.write(0xB000_001C, width: 4, 0, vcpu: VCPUID(0))
    #expect(bench.sink.messages.withLock { $0 } == [[0xFEE0_1000, 0x41]])
    #expect(!bench.line.level)
  }

  @Test func aDriverThatBreaksTheRulesStopsItsDeviceUntilReset() throws {
    let breaks: [(String, (Bench) -> Void)] = [
      ("index ahead", { _ = $0.memory.store(GuestAddress(Bench.available + 2), UInt16(9)) }),
      ("head", { $0.offer([8]) }),
      (
        "loop",
        {
          $0.descriptor(0, 0x8000, 4, 1, next: 0); $0.offer([0])
        }
      ),
      (
        "order",
        {
          $0.descriptor(0, 0x8000, 4, 3, next: 1)
          $0.descriptor(1, 0x8000, 4, 0)
          $0.offer([0])
        }
      ),
      (
        "indirect that was not negotiated",
        {
          $0.descriptor(0, 0x8000, 16, 4)
          $0.offer([0])
        }
      ),
      (
        "wrapping buffer",
        {
          $0.descriptor(0, UInt64.max - 2, 16, 0); $0.offer([0])
        }
      ),
    ]
    for (name, act) in breaks {
      let bench = try Bench()
      bench.start()
      act(bench)
      #expect(bench.transport.pop(0) == nil, "\(name)")
      #expect(bench.read(0x14, 1) & 0x40 != 0, "\(name)")
      bench.start()
      #expect(bench.read(0x14, 1) == 15, "\(name)")
    }
  }

  @Test func indirectTablesAndEventIndicesWorkOnceNegotiated() throws {
    let bench = try Bench()
    bench.start(features: 1 << 28 | 1 << 29)
    bench.descriptor(0, 0x4000, 32, 4)
    bench.descriptor(0, 0x8000, 4, 1, next: 1, table: 0x4000)
    bench.descriptor(1, 0x9000, 8, 2, table: 0x4000)
    bench.offer([0, 0])
    let first = try #require(bench.transport.pop(0))
    #expect(first.readableLength == 4 && first.writableLength == 8)
    // The driver wants to hear of the second entry only.
    _ = bench.memory.store(GuestAddress(Bench.available + 4 + 16), UInt16(1))
    let second = try #require(bench.transport.pop(0))
    #expect(bench.load16(Bench.used + 4 + 64) == 2)
    bench.transport.complete(0, first, written: 0)
    _ = bench.read(0x1000, 1)
    bench.transport.complete(0, second, written: 0)
    #expect(bench.line.level)
  }

  @Test func anElementIsFilledAgainAndItsMemoryIsTheGuests() throws {
    let bench = try Bench()
    bench.start()
    bench.descriptor(0, 0x8000, 4, 1, next: 1)
    bench.descriptor(1, 0x9000, 16, 3, next: 2)
    bench.descriptor(2, 0x9010, 16, 2)
    bench.descriptor(3, 0xA000, 8, 0)
    bench.offer([0, 3])
    var element = VirtQueueElement()
    #expect(bench.transport.pop(0, into: &element))
    #expect(element.readableLength == 4 && element.writableLength == 32)
    var vector = IOVector()
    var pins = MemoryPins()
    let isThere = bench.memory.append(
      element.writable, 8, 16, for: .write, to: &vector, pinning: &pins)
    #expect(isThere && pins.isEmpty)
    #expect(vector.count == 16 && vector.pieceCount == 1)
    vector.store([UInt8](1...16))
    #expect(bench.memory.read(GuestAddress(0x9007), count: 4) == [0, 1, 2, 3])
    vector.removeAll()
    let isTooMuch = bench.memory.append(
      element.writable, 8, 32, for: .write, to: &vector, pinning: &pins)
    #expect(!isTooMuch)
    bench.transport.push(0, element, written: 0)
    #expect(bench.transport.pop(0, into: &element))
    #expect(element.head == 3 && element.readableLength == 8 && element.writable.isEmpty)
    bench.transport.push(0, element, written: 0)
    #expect(!bench.line.level)
    bench.transport.notifyDriver(0)
    #expect(bench.line.level)
    #expect(!bench.transport.pop(0, into: &element))
  }

  @Test func aDriverCannotHaveMoreInFlightThanItsRingHolds() throws {
    let bench = try Bench()
    bench.start()
    bench.descriptor(0, 0x9000, 16, 2)
    bench.offer([UInt16](repeating: 0, count: 8))
    for _ in 0..<8 { #expect(bench.transport.pop(0) != nil) }
    bench.offer([0], from: 8)
    #expect(bench.transport.pop(0) == nil)
    #expect(bench.read(0x14, 1) & 0x40 != 0)
  }

  @Test func aPolledQueueAsksForNoNoticeAndMissesNothing() throws {
    for features: UInt64 in [0, 1 << 29] {
      let bench = try Bench()
      bench.start(features: features)
      bench.descriptor(0, 0x9000, 16, 2)
      #expect(!bench.transport.setPolled(0, true))
      if features == 0 { #expect(bench.load16(Bench.used) == 1) }
      bench.offer([0, 0])
      #expect(bench.transport.pop(0) != nil)
      // The event index stays behind: what is added does not pass it again.
      if features != 0 { #expect(bench.load16(Bench.used + 4 + 64) == 0) }
      #expect(bench.transport.setPolled(0, false))
      #expect(bench.load16(Bench.used) == 0)
      if features != 0 { #expect(bench.load16(Bench.used + 4 + 64) == 1) }
      bench.transport.unpop(0)
      #expect(bench.transport.pop(0) != nil)
      #expect(bench.transport.pop(0) != nil)
      #expect(!bench.transport.setPolled(0, false))
    }
  }

  @Test func theLegacyInterfaceDrivesTheSameQueue() throws {
    let bench = try Bench(vectors: 0)
    func out(_ offset: UInt64, _ width: Int, _ value: UInt64) {
      bench.ports.write(0xC000 + offset, width: width, value, vcpu: VCPUID(0))
    }
    out(0x12, 1, 3)
    #expect(bench.ports.read(0xC000, width: 4, vcpu: VCPUID(0)) & (1 << 3) != 0)
    out(0x04, 4, 1 << 3)
    out(0x0E, 2, 0)
    #expect(bench.ports.read(0xC00C, width: 2, vcpu: VCPUID(0)) == 8)
    out(0x08, 4, 1)
    out(0x12, 1, 7)
    bench.descriptor(0, 0x8000, 4, 0)
    // The available ring follows the 8 descriptors, the used ring the next page.
    _ = bench.memory.store(GuestAddress(0x1000 + 128 + 4), UInt16(0))
    _ = bench.memory.store(GuestAddress(0x1000 + 128 + 2), UInt16(1))
    out(0x10, 2, 0)
    let element = try #require(bench.transport.pop(0))
    bench.transport.complete(0, element, written: 0)
    #expect(bench.load16(0x2000 + 2) == 1)
    #expect(bench.ports.read(0xC013, width: 1, vcpu: VCPUID(0)) == 1)
    #expect(bench.ports.read(0xC014, width: 4, vcpu: VCPUID(0)) == 0x0403_0201)
    out(0x12, 1, 0)
    #expect(bench.transport.pop(0) == nil)
  }

  @Test func randomRingsNeverTrapAndEveryElementIsInMemoryOrderOnce() throws {
    var random = SeededGenerator(seed: 0x5EED)
    for _ in 0..<300 {
      let bench = try Bench()
      bench.start(features: random.next() & (1 << 28 | 1 << 29))
      for _ in 0..<20 {
        for index in 0..<8 {
          let address = random.next() & 7 == 0 ? random.next() : random.next() & 0x1FFFF
          bench.descriptor(
            UInt64(index), address, UInt32(truncatingIfNeeded: random.next() & 0xFFF),
            UInt16(truncatingIfNeeded: random.next() & 7),
            next: UInt16(truncatingIfNeeded: random.next() & 9))
        }
        let taken = bench.load16(Bench.available + 2)
        bench.offer(
          (0..<Int(random.next() & 3)).map { _ in UInt16(truncatingIfNeeded: random.next() & 9) },
          from: taken)
        bench.write(0x3000, 2, random.next() & 3)
        while let element = bench.transport.pop(0) {
          _ = bench.memory.gather(element.readable, limit: 1 << 16)
          _ = bench.memory.scatter([1, 2, 3], to: element.writable)
          bench.transport.complete(0, element, written: 3)
        }
        let at = random.next() & 0x3FFF
        bench.write(at & ~3, 4, random.next())
        _ = bench.read(at & ~3, 4)
      }
    }
  }
}
