import CPU
import Chardev
import Host
import JSON
import Monitor
import QAPI
import Support
import Testing

/// A machine of memory and registers only, for the human monitor's tests.
@MainLoop
final class PaperMachine: HMPMachine {
  var states: [CPUState]
  /// RAM from address 0.
  var memory = [UInt8](repeating: 0, count: 1 << 20)
  /// ROM that ends at 4 GiB.
  let rom: [UInt8] = [
    0xEA, 0x5B, 0xE0, 0x00, 0xF0, 0x30, 0x36, 0x2F, 0x32, 0x33, 0x2F, 0x39, 0x39, 0x00, 0xFC, 0x00,
  ]
  var portWrites: [String] = []
  var apics: [HMPLocalAPIC]
  var controllers: [HMPInterruptController] = []

  init(cpus: Int = 1) {
    states = (0..<cpus).map { index in
      var state = CPUState.reset(signature: 0x60FB1)
      if index > 0 { state.activity = .waitingForStartup }
      return state
    }
    apics = [HMPLocalAPIC](repeating: HMPLocalAPIC(), count: cpus)
  }

  var cpuCount: Int { states.count }
  func cpuState(_ index: Int) -> CPUState? { states.indices.contains(index) ? states[index] : nil }

  func readPhysical(_ address: UInt64, count: Int) -> [UInt8]? {
    let romStart = UInt64(1 << 32) - UInt64(rom.count)
    if address >= romStart, address < 1 << 32, address + UInt64(count) <= 1 << 32 {
      return Array(rom[Int(address - romStart)...].prefix(count))
    }
    guard address < UInt64(memory.count), address + UInt64(count) <= UInt64(memory.count) else {
      return nil
    }
    return Array(memory[Int(address)..<Int(address) + count])
  }

  func store(_ value: UInt64, at address: Int) {
    for byte in 0..<8 { memory[address + byte] = UInt8(truncatingIfNeeded: value >> (8 * byte)) }
  }

  func readPort(_ port: UInt16, width: Int) -> UInt32 {
    UInt32(truncatingIfNeeded: 0x1234_5678 & (UInt64(1) << UInt64(8 * width) - 1))
  }
  func writePort(_ port: UInt16, width: Int, _ value: UInt32) {
    portWrites.append("\(port) \(width) \(value)")
  }
  func hostAddress(of address: UInt64) -> HMPHostAddress {
    address < UInt64(memory.count)
      ? .memory(block: "pc.ram", address: 0x7F00_0000_0000 + address)
      : address == 0xFEE0_0000 ? .device : .unmapped
  }
  var hand: [String] = []
  func setBootOrder(_ order: String) -> String? {
    hand.append("boot \(order)")
    return order == "z" ? "Invalid boot device 'z'" : nil
  }
  func localAPIC(_ cpuIndex: Int) -> HMPLocalAPIC? {
    apics.indices.contains(cpuIndex) ? apics[cpuIndex] : nil
  }
  func cpuIndex(apicID: UInt32) -> Int? { Int(apicID) < states.count ? Int(apicID) : nil }
  var interruptControllers: [HMPInterruptController] { controllers }
  var memoryTree: [HMPAddressSpace] {
    [
      HMPAddressSpace(
        name: "memory",
        root: HMPRegion(
          name: "system", start: 0, end: .max, kind: "i/o",
          children: [
            HMPRegion(name: "pc.ram", start: 0, end: 0x7FF_FFFF, kind: "ram"),
            HMPRegion(
              name: "apic-msi", start: 0xFEE0_0000, end: 0xFEEF_FFFF, priority: 4096, kind: "i/o"),
          ]))
    ]
  }
  var deviceTree: HMPBus {
    HMPBus(
      name: "main-system-bus", type: "System",
      devices: [
        HMPDevice(
          type: "i440FX-pcihost", lines: ["bypass-iommu = false"],
          buses: [
            HMPBus(
              name: "pci.0", type: "PCI",
              devices: [HMPDevice(type: "i440FX", id: "x", lines: ["addr = 00.0"])])
          ])
      ])
  }
  var roms: [HMPROM] {
    [
      HMPROM(place: .firmwareFile("genroms/kvmvapic.bin"), size: 0x2400, name: "kvmvapic.bin"),
      HMPROM(
        place: .memory(0xFFFC_0000, kind: "rom"), size: 0x40000, name: "bios-256k.bin"),
      HMPROM(
        place: .block("/rom@etc/acpi/tables"), size: 0x200000, name: "etc/acpi/tables"),
    ]
  }
  var isSingleStepping = false
  func logChanged() {}
}

/// A human monitor over a machine of paper and the commands of an empty machine.
@MainLoop
final class PaperMonitor {
  let machine: PaperMachine
  let session: HMPSession

  init(_ monitored: MonitoredMachine, cpus: Int = 1) {
    machine = PaperMachine(cpus: cpus)
    session = HMPSession(commands: MonitorCommands(monitored.context), machine: machine)
  }

  /// What a line prints, with plain newlines.
  func run(_ line: String) -> String {
    session.run(commandLine: line).split(separator: "\r\n", omittingEmptySubsequences: false)
      .joined(separator: "\n")
  }

  /// The same for a line whose command may wait.
  func runToEnd(_ line: String) async -> String {
    await session.perform(commandLine: line)
      .split(separator: "\r\n", omittingEmptySubsequences: false).joined(separator: "\n")
  }

  /// Runs a test with one.
  nonisolated static func test(
    cpus: Int = 1, _ body: @MainLoop @Sendable (PaperMonitor) async throws -> Void
  ) async throws {
    try await MonitoredMachine.run { monitored in
      try await check(PaperMonitor(monitored, cpus: cpus), body)
    }
  }

  private static func check(
    _ monitor: PaperMonitor, _ body: @MainLoop @Sendable (PaperMonitor) async throws -> Void
  ) async throws {
    try await body(monitor)
  }
}
