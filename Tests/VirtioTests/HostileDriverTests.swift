import DeviceModel
import Host
import Net
import PCI
import Shm
import Support
import Synchronization
import Testing
import Virtio

/// Where frames of one card go.
@MainLoop
private final class Cable: NetPortOwner {
  private(set) var frames: [[UInt8]] = []
  private(set) lazy var port = NetPort("cable", kind: "test", owner: self)

  func receive(_ frame: Frame, on port: NetPort) -> Bool {
    if frames.count < 1000 { frames.append(frame.bytes) }
    return true
  }
  func forget() { frames = [] }
  func resumeSending(on port: NetPort) {}
  func linkChanged(on port: NetPort) {}
}

/// Two network cards and a serial bus with two ports, in one machine.
@MainLoop
private final class Machine {
  static let size: UInt64 = 1 << 20
  let devices = AddressSpace(name: "memory")
  let memory = GuestMemory()
  let bus = PCIBus()
  let network = Network()
  let cables = [Cable(), Cable()]
  let serial: VirtioSerialPCI
  var received: [UInt8] = []
  private var functions: [any Device] = []

  init() throws {
    memory.setSlots([
      MemorySlot(
        guest: GuestAddress(0), size: Machine.size,
        block: try RAMBlock(name: "ram", size: Int(Machine.size)))
    ])
    let line = RecordedLine()
    let context = MachineContext(
      ports: AddressSpace(name: "io"), deviceMemory: devices, memory: memory, clock: FakeClock(),
      interrupt: { _ in line.line }, signalMSI: { _, _ in }, request: { _ in })
    bus.setRouter { _, level in line.line.set(level) }
    var transport = VirtioPCI.Settings()
    transport.vectors = 3
    transport.packedRings = true
    for index in 0..<2 {
      var settings = VirtioNet.Settings()
      settings.features = VirtioNetPCI.features(
        switches: VirtioNetPCI.switches.reduce(0) { $0 | $1.bit }, multiqueue: false, mtu: 0,
        speed: -1, duplex: 0xFF)
      let card = VirtioNetPCI(
        PCIPlacement(bus: bus, address: PCIAddress(device: UInt8(4 + index))), transport, settings,
        name: "card\(index)", id: nil, netdev: nil, bootIndex: nil, network: network)
      network.register(card.card)
      try card.realize(in: context)
      card.card.ports[0].connect(to: cables[index].port)
      functions.append(card)
    }
    serial = VirtioSerialPCI(
      PCIPlacement(bus: bus, address: PCIAddress(device: 6)), transport, maximumPorts: 4,
      takesEmergencyWrites: true, busName: "serial.0")
    try serial.realize(in: context)
    for number in UInt32(1)...2 {
      let port = VirtioSerialPort(isConsole: number == 2, name: "p\(number)") { _ in }
      port.attach(
        VirtioSerialSink(
          send: { [weak self] bytes in
            guard let self else { return bytes.count }
            if received.count < 1 << 16 { received += bytes }
            return bytes.count
          }, resumeReceiving: {}))
      port.sinkOpened(true)
      let device = VirtSerialPort(port, on: serial.serial, number: number)
      try device.realize(in: context)
      functions.append(device)
    }
    functions.append(serial)
    for index in UInt8(0)..<3 { DriverRegisters.map(index, of: bus) }
  }
}

/// Drivers that break every rule, while the other side of their device is busy.
@Suite(.timeLimit(.minutes(15))) struct HostileDriverTests {
  init() { MainLoopThread.start() }

  private static let frame =
    [0x52, 0x54, 0, 0x12, 0x34, 0x56, 2, 2, 3, 4, 5, 6, 8, 0] + [UInt8](repeating: 7, count: 1000)

  /// Six rings of 16 entries; their parts and the buffers that they name share 64 KiB from `base`, so that everything may be anything.
  private static func rings(_ base: UInt64) -> [DriverRegisters.Ring] {
    (0..<6).map { (index: UInt64) in
      .init(
        descriptors: base + index * 0x1000, available: base + index * 0x1000 + 0x400,
        used: base + index * 0x1000 + 0x800)
    }
  }

  /// One thing that a driver may do to itself.
  private static func misbehave(
    _ random: inout SeededGenerator, _ index: UInt8, _ base: UInt64, _ memory: GuestMemory,
    _ bus: PCIBus, _ registers: DriverRegisters
  ) {
    let ring = Self.rings(base)[Int(random.next() % 6)]
    switch random.next() % 24 {
    case 0..<8:
      // A descriptor: often sensible, else wild.
      let at = GuestAddress(ring.descriptors + random.next() % 16 * 16)
      let isWild = random.next() % 4 == 0
      _ = memory.store(at, isWild ? random.next() : base + random.next() % 0xF000)
      _ = memory.store(
        at + 8, isWild ? UInt32(truncatingIfNeeded: random.next()) : UInt32(random.next() % 3000))
      _ = memory.store(at + 12, UInt16(random.next() % (isWild ? 0x1_0000 : 4)))
      _ = memory.store(at + 14, UInt16(random.next() % (isWild ? 0x1_0000 : 16)))
    case 8..<13:
      _ = memory.store(
        GuestAddress(ring.available + 4 + random.next() % 16 * 2), UInt16(random.next() % 17))
    case 13..<17:
      let at = GuestAddress(ring.available + 2)
      let step = random.next() % 16 == 0 ? random.next() % 0x1_0000 : random.next() % 4
      _ = memory.store(at, (memory.load(at) ?? UInt16(0)) &+ UInt16(step))
    case 17..<20: registers.write(0x3000 + random.next() % 6 * 4, 2, random.next() % 8)
    case 20:
      // Any register, also those of the device itself and of MSI-X.
      registers.write(random.next() % 0x4000, [1, 2, 4][Int(random.next() % 3)], random.next())
      registers.devices.write(
        0xD000_0000 + UInt64(index) << 16 + random.next() % 0x1000, width: 4, random.next(),
        vcpu: VCPUID(0))
    case 21: registers.write(0x14, 1, [0, 15, 11, 4, 64, 128][Int(random.next() % 6)])
    case 22:
      registers.write(0x16, 2, random.next() % 8)
      registers.write(0x18 + random.next() % 0x20, 4, random.next() % 0x2_0000)
      registers.write(0x1C, 2, random.next() % 2)
    default:
      // Registers that come and go.
      let function = bus.function(at: PCIAddress(device: 4 + index))
      function?.writeConfiguration(0x04, width: 2, UInt32(random.next() % 8))
      function?.writeConfiguration(0x04, width: 2, 7)
      _ = function?.readConfiguration(Int(random.next() % 64) * 4, width: 4)
    }
  }

  /// A driver of one device runs wild on a thread of its own, starting the device again and again; frames and bytes come from outside all
  /// the while.
  @MainLoop
  @Test(arguments: [(0 as UInt8, 1 as UInt64), (0, 2), (0, 3), (2, 4), (2, 5)])
  func aDriverBreaksItsOwnDeviceOnly(_ index: UInt8, _ seed: UInt64) async throws {
    let machine = try Machine()
    let (memory, bus) = (machine.memory, machine.bus)
    let registers = DriverRegisters(of: index, in: machine.devices)
    let over = Flag()
    async let wild: Void = HostThread.value(name: "driver") {
      var random = SeededGenerator(seed: seed)
      for round in 0..<150 {
        let packed: UInt64 = round % 3 == 0 ? 1 << 34 : 0
        registers.start(
          features: 0x3000_0000 | 0xFF_FFFF | packed, Self.rings(0x2_0000), size: 16)
        for _ in 0..<200 {
          Self.misbehave(&random, index, 0x2_0000, memory, bus, registers)
        }
      }
      over.set()
    }
    // The well-behaved neighbour works in between.
    let neighbour = DriverRegisters(of: 1, in: machine.devices)
    let ring = DriverRegisters.Ring(
      descriptors: 0x8_0000, available: 0x8_1000, used: 0x8_2000)
    let receive = DriverRegisters.Ring(
      descriptors: 0x9_0000, available: 0x9_1000, used: 0x9_2000)
    neighbour.start(features: 1 << 15, [receive, ring])
    _ = memory.write(GuestAddress(0xA_0000), [UInt8](repeating: 0, count: 12) + Self.frame)
    var sent: UInt16 = 0
    while !over.isSet {
      let size = Int.random(in: 14...Self.frame.count)
      machine.cables[0].port.send(Frame(IOBuffer(Self.frame), 0..<size))
      machine.cables[0].forget()
      let descriptor = GuestAddress(0x8_0000)
      _ = memory.store(descriptor, UInt64(0xA_0000))
      _ = memory.store(descriptor + 8, UInt64(12 + Self.frame.count))
      sent &+= 1
      _ = memory.store(GuestAddress(0x8_1002), sent)
      neighbour.write(0x3004, 2, 1)
      while memory.load(GuestAddress(0x8_2002), as: UInt16.self) != sent {
        await MainLoop.nextTurn()
      }
      #expect(machine.cables[1].frames.last == Self.frame)
      machine.cables[1].forget()
    }
    try await wild
    #expect(!neighbour.isBroken)
    #expect(sent > 0)

    // A driver that behaves finds the device as new.
    DriverRegisters.map(index, of: machine.bus)
    for ring in Self.rings(0x2_0000) {
      memory.write(GuestAddress(ring.descriptors), [UInt8](repeating: 0, count: 0x1000))
    }
    registers.start(features: index == 0 ? 1 << 15 : 1 << 1, Self.rings(0x2_0000), size: 16)
    for _ in 0..<3 { await MainLoop.nextTurn() }
    #expect(!registers.isBroken)
    machine.cables[0].forget()
    let queue = Self.rings(0x2_0000)[index == 0 ? 1 : 3]
    let message: [UInt8] = [1, 0, 0, 0, 1, 0, 1, 0]
    let bytes = index == 0 ? [UInt8](repeating: 0, count: 12) + Self.frame : message
    _ = memory.write(GuestAddress(0x4_0000), bytes)
    _ = memory.store(GuestAddress(queue.descriptors), UInt64(0x4_0000))
    _ = memory.store(GuestAddress(queue.descriptors + 8), UInt64(bytes.count))
    _ = memory.store(GuestAddress(queue.available + 2), UInt16(1))
    registers.write(0x3000 + (index == 0 ? 4 : 12), 2, index == 0 ? 1 : 3)
    while memory.load(GuestAddress(queue.used + 2), as: UInt16.self) != 1 {
      await MainLoop.nextTurn()
    }
    if index == 0 { #expect(machine.cables[0].frames == [Self.frame]) }
  }
}

/// Set once, by any thread.
private final class Flag: Sendable {
  private let value = Atomic<Bool>(false)
  var isSet: Bool { value.load(ordering: .acquiring) }
  func set() { value.store(true, ordering: .releasing) }
}
