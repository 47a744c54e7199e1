import DeviceModel
import Devices
import PCI
import Support
import Synchronization
import Testing

/// Remembers accesses.
private final class Memory: BusDevice {
  let offsets = Mutex<[UInt64]>([])
  func read(_ access: BusAccess) -> UInt64 {
    offsets.withLock { $0.append(access.offset) }
    return 0x5A
  }
  func write(_ access: BusAccess, _ value: UInt64) {}
}

@Suite struct PCITests {
  private struct Machine {
    let bench = TimerBench()
    let bus = PCIBus()
    let segments = Shadow()
    let host: PCIHost
    let bridge: PIIX3

    final class Shadow: Sendable { let last = Mutex<[ShadowSegment]>([]) }

    init() throws {
      host = PCIHost(bus: bus)
      bridge = PIIX3(bus: bus)
      let segments = segments
      let chipset = I440FX(bus: bus) { new in segments.last.withLock { $0 = new } }
      try host.realize(in: bench.context)
      try chipset.realize(in: bench.context)
      try bridge.realize(in: bench.context)
      chipset.reset(.cold)
    }

    func latch(_ device: UInt32, _ function: UInt32, _ register: UInt32) {
      let address = 0x8000_0000 | device << 11 | function << 8 | register & 0xFC
      bench.ports.write(0xCF8, width: 4, UInt64(address), vcpu: VCPUID(0))
    }
    func read(_ device: UInt32, _ function: UInt32, _ register: UInt32, _ width: Int) -> UInt64 {
      latch(device, function, register)
      return bench.ports.read(0xCFC + UInt64(register & 3), width: width, vcpu: VCPUID(0))
    }
    func write(
      _ device: UInt32, _ function: UInt32, _ register: UInt32, _ width: Int, _ value: UInt64
    ) {
      latch(device, function, register)
      bench.ports.write(0xCFC + UInt64(register & 3), width: width, value, vcpu: VCPUID(0))
    }
  }

  @Test func functionsAreFoundByIdentityAndEmptySlotsReadAllOnes() throws {
    let machine = try Machine()
    #expect(machine.read(0, 0, 0, 4) == 0x1237_8086)
    #expect(machine.read(1, 0, 0, 4) == 0x7000_8086)
    #expect(machine.read(1, 0, 2, 2) == 0x7000)
    #expect(machine.read(1, 0, 0x0E, 1) == 0x80)
    #expect(machine.read(2, 0, 0, 4) == 0xFFFF_FFFF)
    #expect(machine.read(2, 0, 0, 2) == 0xFFFF)
  }

  @Test func onlyDoublewordsReachTheAddressLatch() throws {
    let machine = try Machine()
    machine.latch(1, 0, 0)
    machine.bench.ports.write(0xCF8, width: 2, 0, vcpu: VCPUID(0))
    machine.bench.out(0xCFA, 0)
    #expect(machine.bench.ports.read(0xCF8, width: 4, vcpu: VCPUID(0)) == 0x8000_0800)
    // Enable bit clear, or another bus: nobody answers.
    machine.bench.ports.write(0xCF8, width: 4, 0x0000_0800, vcpu: VCPUID(0))
    #expect(machine.bench.ports.read(0xCFC, width: 4, vcpu: VCPUID(0)) == 0xFFFF_FFFF)
    machine.bench.ports.write(0xCF8, width: 4, 0x8001_0800, vcpu: VCPUID(0))
    #expect(machine.bench.ports.read(0xCFC, width: 4, vcpu: VCPUID(0)) == 0xFFFF_FFFF)
  }

  @Test func resetControlResetsOnItsOwnPort() throws {
    let machine = try Machine()
    machine.bench.out(0xCF9, 0x02)
    #expect(machine.bench.requests.withLock { $0 } == [])
    machine.bench.out(0xCF9, 0x06)
    #expect(machine.bench.requests.withLock { $0 } == [.reset])
    #expect(machine.bench.in(0xCF9) == 0x02)
  }

  @Test func shadowRegistersTellTheBoardWhatToMap() throws {
    let machine = try Machine()
    let reset = machine.segments.last.withLock { $0 }
    #expect(reset.count == 13)
    #expect(reset.allSatisfy { !$0.readsRAM && !$0.writesRAM })
    #expect(reset.reduce(0) { $0 + $1.size } == 0x40000)
    machine.write(0, 0, 0x59, 1, 0x30)
    machine.write(0, 0, 0x5A, 1, 0x21)
    let segments = machine.segments.last.withLock { $0 }
    #expect(
      segments.last
        == ShadowSegment(start: 0xF0000, size: 0x10000, readsRAM: true, writesRAM: true))
    #expect(
      segments[0] == ShadowSegment(start: 0xC0000, size: 0x4000, readsRAM: true, writesRAM: false))
    #expect(
      segments[1] == ShadowSegment(start: 0xC4000, size: 0x4000, readsRAM: false, writesRAM: true))
  }

  @Test func pinsAreRotatedByDeviceAndRoutedByTheBridge() throws {
    let machine = try Machine()
    machine.write(1, 0, 0x60, 4, 0x0B0B_0A05)
    let lines = machine.bench.lines
    // Device 3, INTA#: PIRQC.
    let first = machine.bus.interruptLine(of: PCIAddress(device: 3), pin: 1)
    first.raise()
    #expect(lines[11].level && !lines[5].level && !lines[10].level)
    // Device 4, INTA#: PIRQD, the same interrupt: it stays up until both are down.
    let second = machine.bus.interruptLine(of: PCIAddress(device: 4), pin: 1)
    second.raise()
    first.lower()
    #expect(lines[11].level)
    second.lower()
    #expect(!lines[11].level)
    // Rerouting moves a level that is up; bit 7 cuts it off.
    let third = machine.bus.interruptLine(of: PCIAddress(device: 5), pin: 1)
    third.raise()
    #expect(lines[5].level)
    machine.write(1, 0, 0x60, 1, 0x0A)
    #expect(!lines[5].level && lines[10].level)
    machine.write(1, 0, 0x60, 1, 0x80)
    #expect(!lines[10].level)
    machine.write(1, 0, 0x60, 1, 0x00)
    #expect(!lines[0].level)
  }

  @Test func baseAddressesAreSizedMappedAndMoved() throws {
    let machine = try Machine()
    let device = Memory()
    let port = Memory()
    let bars = [
      PCIBarLayout(index: 0, kind: .memory64, size: 0x4000, isPrefetchable: true),
      PCIBarLayout(index: 2, kind: .io, size: 32),
    ]
    let endpoint = PCIEndpoint(
      configuration: PCIConfiguration(
        PCIIdentity(vendor: 0x1AF4, device: 0x1000, classCode: 0x02_0000), interruptPin: 1,
        bars: bars),
      windows: [
        .init(bars[0], name: "mem", device: device), .init(bars[1], name: "io", device: port),
      ], context: machine.bench.context)
    try endpoint.connect(to: machine.bus, at: PCIAddress(device: 3))
    #expect(throws: DeviceError.self) {
      try machine.bus.plug(endpoint, at: PCIAddress(device: 3))
    }
    machine.write(3, 0, 0x10, 4, 0xFFFF_FFFF)
    machine.write(3, 0, 0x14, 4, 0xFFFF_FFFF)
    machine.write(3, 0, 0x18, 4, 0xFFFF_FFFF)
    #expect(machine.read(3, 0, 0x10, 4) == 0xFFFF_C00C)
    #expect(machine.read(3, 0, 0x14, 4) == 0xFFFF_FFFF)
    #expect(machine.read(3, 0, 0x18, 4) == 0xFFFF_FFE1)
    machine.write(3, 0, 0x10, 4, 0xE000_0000)
    machine.write(3, 0, 0x14, 4, 0x1)
    machine.write(3, 0, 0x18, 4, 0xC000)
    #expect(!machine.bench.memory.isMapped(0x1_E000_0000))
    machine.write(3, 0, 0x04, 2, 0x0003)
    #expect(machine.bench.memory.read(0x1_E000_0010, width: 1, vcpu: VCPUID(0)) == 0x5A)
    #expect(device.offsets.withLock { $0 } == [0x10])
    #expect(machine.bench.ports.read(0xC01F, width: 1, vcpu: VCPUID(0)) == 0x5A)
    machine.write(3, 0, 0x18, 4, 0xD000)
    #expect(!machine.bench.ports.isMapped(0xC000))
    #expect(machine.bench.ports.isMapped(0xD000))
    endpoint.reset()
    #expect(!machine.bench.ports.isMapped(0xD000))
    #expect(!machine.bench.memory.isMapped(0x1_E000_0000))
  }

  @Test func interruptHonoursTheDisableBit() throws {
    let machine = try Machine()
    machine.write(1, 0, 0x60, 4, 0x0B0B_0A0A)
    let endpoint = PCIEndpoint(
      configuration: PCIConfiguration(
        PCIIdentity(vendor: 0x1AF4, device: 0x1000, classCode: 0x02_0000), interruptPin: 1),
      windows: [], context: machine.bench.context)
    try endpoint.connect(to: machine.bus, at: PCIAddress(device: 2))
    endpoint.setInterrupt(true)
    #expect(machine.bench.lines[10].level)
    #expect(machine.read(2, 0, 6, 2) & 8 == 8)
    machine.write(2, 0, 4, 2, 0x0400)
    #expect(!machine.bench.lines[10].level)
    machine.write(2, 0, 4, 2, 0)
    #expect(machine.bench.lines[10].level)
    endpoint.setInterrupt(false)
    #expect(!machine.bench.lines[10].level)
  }

  @Test func capabilitiesAreChained() {
    var configuration = PCIConfiguration(
      PCIIdentity(vendor: 1, device: 2, classCode: 0))
    #expect(configuration.addCapability(0x05, [0, 0, 0, 0], writable: [0xFF]) == 0x40)
    #expect(configuration.addCapability(0x11, [1, 2]) == 0x48)
    #expect(configuration.read(0x34, width: 1) == 0x48)
    #expect(configuration.read(0x48, width: 4) == 0x0201_4011)
    #expect(configuration.read(0x06, width: 1) & 0x10 != 0)
    configuration.write(0x42, width: 2, 0xFFFF)
    #expect(configuration.read(0x42, width: 2) == 0x00FF)
  }

  @Test func anyConfigurationAccessIsSurvived() throws {
    let machine = try Machine()
    var generator = SeededGenerator(seed: 440)
    for _ in 0..<30_000 {
      let port = 0xCF8 + UInt64.random(in: 0...7, using: &generator)
      let width = [1, 2, 4].randomElement(using: &generator) ?? 1
      let value = UInt64(UInt32.random(in: 0...UInt32.max, using: &generator))
      if Bool.random(using: &generator) {
        machine.bench.ports.write(
          port, width: width, value & 0x8000_FFFF & AddressSpace.mask(width), vcpu: VCPUID(0))
      } else {
        _ = machine.bench.ports.read(port, width: width, vcpu: VCPUID(0))
      }
    }
    #expect(machine.read(0, 0, 0, 4) == 0x1237_8086)
  }
}
