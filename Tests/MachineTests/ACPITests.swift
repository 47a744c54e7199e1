import Foundation
import Machine
import Shm
import Testing

/// Reads numbers of a placed table.
private struct Memory {
  let base: UInt64
  let bytes: [UInt8]

  func number(_ address: UInt64, _ width: Int) -> UInt64 {
    (0..<width).reversed().reduce(0) { $0 << 8 | UInt64(bytes[Int(address - base) + $1]) }
  }
  func text(_ address: UInt64, _ count: Int) -> String {
    let start = Int(address - base)
    return String(decoding: bytes[start..<start + count], as: UTF8.self)
  }
  func sum(_ address: UInt64, _ count: Int) -> UInt8 {
    let start = Int(address - base)
    return bytes[start..<start + count].reduce(0, &+)
  }
  func table(_ address: UInt64) -> [UInt8] {
    let start = Int(address - base)
    return Array(bytes[start..<start + Int(number(address + 4, 4))])
  }
}

private func configuration(cpus: UInt32 = 2) -> FirmwareConfiguration {
  var configuration = FirmwareConfiguration(
    memory: MemoryLayout(ramSize: 512 << 20),
    processors: (0..<cpus).map { .init(uid: $0, apicID: $0) })
  configuration.serialPorts = [0, 1, 2, 3]
  configuration.parallelPorts = [0]
  configuration.pvpanicPort = 0x505
  return configuration
}

private func place(_ configuration: FirmwareConfiguration) -> Memory {
  let base: UInt64 = 0x1FF0_0000
  let placed = FirmwareTables(configuration).placed(at: GuestAddress(base))
  return Memory(base: base, bytes: placed.bytes)
}

@Suite struct ACPITests {
  @Test func rootPointerLeadsToEveryTableAndAllChecksumsHold() {
    let memory = place(configuration())
    #expect(memory.text(memory.base, 8) == "RSD PTR ")
    #expect(memory.sum(memory.base, 20) == 0)
    #expect(memory.sum(memory.base, 36) == 0)
    let xsdt = memory.number(memory.base + 24, 8)
    let rsdt = memory.number(memory.base + 16, 4)
    #expect(memory.text(xsdt, 4) == "XSDT")
    #expect(memory.text(rsdt, 4) == "RSDT")
    var names: [String] = []
    let count = (memory.number(xsdt + 4, 4) - 36) / 8
    for index in 0..<count {
      let table = memory.number(xsdt + 36 + index * 8, 8)
      #expect(table == memory.number(rsdt + 36 + index * 4, 4))
      #expect(memory.sum(table, Int(memory.number(table + 4, 4))) == 0)
      names.append(memory.text(table, 4))
    }
    #expect(names == ["FACP", "APIC", "HPET", "WAET"])
    let fadt = memory.number(xsdt + 36, 8)
    #expect(memory.number(fadt + 36, 4) % 64 == 0)
    #expect(memory.text(memory.number(fadt + 36, 4), 4) == "FACS")
    #expect(memory.text(memory.number(fadt + 40, 4), 4) == "DSDT")
    #expect(memory.number(fadt + 140, 8) == memory.number(fadt + 40, 4))
    #expect(memory.number(fadt + 76, 4) == 0x608)
  }

  @Test func processorsWithLargeIdentifiersGetX2APICEntries() {
    let memory = place(configuration(cpus: 300))
    let xsdt = memory.number(memory.base + 24, 8)
    let madt = memory.table(memory.number(xsdt + 44, 8))
    var counts: [UInt8: Int] = [:]
    var at = 44
    while at + 1 < madt.count, madt[at + 1] > 0 {
      counts[madt[at], default: 0] += 1
      at += Int(madt[at + 1])
    }
    #expect(at == madt.count)
    #expect(counts[0] == 255)
    #expect(counts[9] == 45)
    #expect(counts[1] == 1)
    #expect(counts[2] == 5)
    #expect(counts[10] == 1)
  }

  @Test func firmwareScriptHasWholeCommandsForTheFilesItNames() {
    let files = FirmwareTables(configuration()).files
    let script = files.first { $0.name == "etc/table-loader" }?.bytes ?? []
    #expect(script.count % 128 == 0 && !script.isEmpty)
    let names = Set(files.map(\.name))
    for start in stride(from: 0, to: script.count, by: 128) {
      let name = script[(start + 4)..<(start + 60)].prefix { $0 != 0 }
      #expect(names.contains(String(decoding: name, as: UTF8.self)))
    }
  }

  @Test(
    .enabled(if: FileManager.default.isExecutableFile(atPath: "/usr/bin/iasl")),
    arguments: [UInt32(1), 4, 300])
  func disassemblerAcceptsEveryTableAndItsOutputCompilesAgain(cpus: UInt32) throws {
    let memory = place(configuration(cpus: cpus))
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(
      "goliath-acpi-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let xsdt = memory.number(memory.base + 24, 8)
    let fadt = memory.number(xsdt + 36, 8)
    var tables = ["DSDT": memory.table(memory.number(fadt + 40, 4)), "XSDT": memory.table(xsdt)]
    for index in 0..<(memory.number(xsdt + 4, 4) - 36) / 8 {
      let address = memory.number(xsdt + 36 + index * 8, 8)
      tables[memory.text(address, 4)] = memory.table(address)
    }
    for (name, bytes) in tables {
      try Data(bytes).write(to: folder.appendingPathComponent(name + ".aml"))
      let disassembly = try run("/usr/bin/iasl", ["-d", name + ".aml"], in: folder)
      #expect(disassembly.status == 0, "\(disassembly.text)")
      #expect(!disassembly.text.contains("Warning"), "\(disassembly.text)")
      let compilation = try run("/usr/bin/iasl", ["-p", name + ".new", name + ".dsl"], in: folder)
      #expect(compilation.status == 0, "\(compilation.text)")
      #expect(
        compilation.text.contains(" 0 Errors, 0 Warnings") || name != "DSDT", "\(compilation.text)")
    }
  }

  private func run(
    _ program: String, _ arguments: [String], in folder: URL
  ) throws -> (status: Int32, text: String) {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: program)
    process.arguments = arguments
    process.currentDirectoryURL = folder
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    try process.run()
    let data = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return (process.terminationStatus, String(decoding: data, as: UTF8.self))
  }

  @Test func smbios3HasTheEntryPointOf64Bits() throws {
    var wanted = configuration()
    wanted.hasSMBIOS3 = true
    let files = FirmwareTables(wanted).files
    let anchor = try #require(files.first { $0.name == "etc/smbios/smbios-anchor" }).bytes
    let tables = try #require(files.first { $0.name == "etc/smbios/smbios-tables" }).bytes
    #expect(anchor.count == 24 && anchor.reduce(0, &+) == 0)
    #expect(String(decoding: anchor.prefix(5), as: UTF8.self) == "_SM3_")
    #expect(Array(anchor[6...8]) == [24, 3, 0])
    #expect(Int(anchor[12]) | Int(anchor[13]) << 8 == tables.count)
    // Type 4 of version 3.0 has 48 bytes (DSP0134 3.0, 7.5).
    var offset = 0
    var sizes: [UInt8: UInt8] = [:]
    while offset < tables.count {
      sizes[tables[offset]] = tables[offset + 1]
      offset += Int(tables[offset + 1])
      while tables[offset] != 0 || tables[offset + 1] != 0 { offset += 1 }
      offset += 2
    }
    #expect(sizes[4] == 48)
  }
}
