import CPU
import Foundation
import Glibc
import Host
import JSON
import Jobs
import Machine
import QAPI
import Shm
import Support
import Testing

/// Guest memory with a pattern, dumped and read back by a program that shares no code with the writer.
@Suite struct DumpTests {
  /// RAM with a hole, ROM behind it: untouched pages, zero pages that were touched, random and compressible ones.
  private static func makeMemory() throws -> GuestMemory {
    let memory = GuestMemory()
    let ram = try RAMBlock(name: "ram", size: 8 << 20)
    let rom = try RAMBlock(name: "rom", size: 64 << 10)
    memory.setSlots([
      MemorySlot(guest: GuestAddress(0), size: 0xA0000, block: ram),
      MemorySlot(guest: GuestAddress(0x100000), size: 7 << 20, block: ram, offset: 0x100000),
      MemorySlot(guest: GuestAddress(0xFFFF_0000), size: 64 << 10, block: rom, isReadOnly: true),
    ])
    var random = SystemRandomNumberGenerator()
    for page in stride(from: 0, to: 0xA0, by: 3) {
      let bytes = (0..<4096).map { _ in UInt8.random(in: 0...255, using: &random) }
      memory.write(GuestAddress(UInt64(page) << 12), bytes)
    }
    memory.write(
      GuestAddress(0x200000), [UInt8](repeating: 0, count: 1 << 20))
    memory.write(GuestAddress(0x2FF000), [UInt8](repeating: 0x5A, count: 12345))
    memory.write(GuestAddress(0x7FFFFF), [7])
    memory.write(GuestAddress(0xFFFF_FFF0), [0xEA, 1, 2, 3], toROM: true)
    return memory
  }

  private static func state(long: Bool, rip: UInt64) -> CPUState {
    var state = CPUState()
    state.rip = rip
    state.registers[3] = 0xB0B
    state.registers[4] = 0x5000
    state.cr0 = 0x8000_0011
    state.cr3 = 0x1000
    if long {
      state.efer = 0x500
      state.cr4 = 0x20
    }
    return state
  }

  private static func number(_ value: JSONValue) -> Int? { Int(value.text) }

  private struct Outcome {
    let about: JSONValue
    /// Memory by address, as the file has it.
    let memory: [UInt8]
    let file: String
  }

  /// Dumps to a file and reads that back.
  private func dump(
    _ memory: GuestMemory, _ states: [CPUState], _ format: DumpGuestMemoryFormat = .elf,
    paging: Bool = false, filter: Range<UInt64>? = nil, vmcoreinfo: VMCoreInfoNote? = nil
  ) throws -> Outcome {
    let folder = Goliath.temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = folder + "/dump"
    let output = OutputFile(try FileDescriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC))
    let dump = GuestDump(
      DumpRequest(
        format: format, usesPageTables: paging, filter: filter, output: output, name: path),
      memory: memory, states: states, vmcoreinfo: vmcoreinfo)
    try dump.run()
    let (done, total) = dump.progress.now
    #expect(done == total)
    let result = try Process.output([
      "python3", Checkout.root + "/Tests/Support/read-dump.py", path, folder + "/raw",
    ])
    try #require(result.status == 0, "\(result.text)")
    let raw = try Array(
      Data(contentsOf: URL(filePath: folder + "/raw"), options: .mappedIfSafe).prefix(16 << 20))
    return Outcome(about: try JSONValue(parsing: result.text), memory: raw, file: path)
  }

  private func expectSame(_ outcome: Outcome, _ memory: GuestMemory, _ range: Range<UInt64>) {
    let wanted = memory.read(GuestAddress(range.lowerBound), count: range.count)
    #expect(Array(outcome.memory[Int(range.lowerBound)..<Int(range.upperBound)]) == wanted)
  }

  @Test func anELFDumpHoldsAllMemoryAndTheProcessors() throws {
    let memory = try Self.makeMemory()
    let states = [
      Self.state(long: true, rip: 0xFFFF_8000_1234_5678), Self.state(long: true, rip: 2),
    ]
    let outcome = try dump(memory, states)
    #expect(outcome.about["machine"] == 62)
    #expect(
      outcome.about["loads"]?.text
        == "[[0, 0, 655360], [1048576, 1048576, 7340032], [4294901760, 4294901760, 65536]]")
    #expect(outcome.about["sections"]?.text == #"["", ".shstrtab"]"#)
    let notes = outcome.about["notes"]?.arrayValue ?? []
    #expect(notes.map { $0["name"]?.stringValue } == ["CORE", "CORE", "QEMU", "QEMU"])
    #expect(notes[0]["rip"] == .uint(0xFFFF_8000_1234_5678) && notes[1]["pid"] == 2)
    #expect(notes[0]["rsp"] == 0x5000 && notes[0]["rbx"] == 0xB0B)
    #expect(notes[2]["length"] == 440 && notes[3]["rip"] == 2 && notes[2]["cr3"] == 0x1000)
    expectSame(outcome, memory, 0..<0xA0000)
    expectSame(outcome, memory, 0x100000..<0x800000)
  }

  @Test func aProcessorOutsideLongModeMakesA32BitDump() throws {
    let outcome = try dump(try Self.makeMemory(), [Self.state(long: false, rip: 0xFFF0)])
    #expect(outcome.about["machine"] == 3)
    #expect(
      outcome.about["notes"]?[0]?["size"] == 144 && outcome.about["notes"]?[0]?["rip"] == 0xFFF0)
    #expect(outcome.about["notes"]?[0]?["rbx"] == 0xB0B)
  }

  @Test(arguments: [DumpGuestMemoryFormat.kdumpZlib])
  func aKdumpHoldsAllMemory(_ format: DumpGuestMemoryFormat) throws {
    let memory = try Self.makeMemory()
    let outcome = try dump(memory, [Self.state(long: true, rip: 9)], format)
    #expect(outcome.about["pages"] == 1968)
    #expect(outcome.about["max_pfn"] == 0x10_0000 && outcome.about["cpus"] == 1)
    let zeros: JSONValue? = outcome.about["zeros"]
    #expect(zeros.flatMap(Self.number).map { $0 > 0x600 } == true)
    #expect(outcome.about["notes"]?[0]?["rip"] == 9)
    expectSame(outcome, memory, 0..<0xA0000)
    expectSame(outcome, memory, 0x100000..<0x800000)
  }

  @Test func aRangeIsDumpedToTheByte() throws {
    let memory = try Self.makeMemory()
    let outcome = try dump(
      memory, [Self.state(long: true, rip: 0)], filter: 0x9_E001..<0x10_2003)
    #expect(
      outcome.about["loads"]?.text == "[[647169, 647169, 8191], [1048576, 1048576, 8195]]")
    expectSame(outcome, memory, 0x9_E001..<0xA_0000)
    expectSame(outcome, memory, 0x10_0000..<0x10_2003)
  }

  @Test func pageTablesGiveTheSegmentsTheirVirtualAddresses() throws {
    let memory = try Self.makeMemory()
    func entry(_ table: UInt64, _ index: UInt64, _ value: UInt64) {
      memory.store(GuestAddress(table + index * 8), value)
    }
    entry(0x1000, 511, 0x2003)  // the kernel's half
    entry(0x2000, 510, 0x3003)
    entry(0x3000, 8, 0x20_0083)  // a large page: 2 MiB at 2 MiB
    entry(0x3000, 9, 0x4003)
    entry(0x4000, 0, 0x5003)
    entry(0x4000, 1, 0x6003)  // goes on from it
    entry(0x4000, 7, 0xFEE0_0003)  // no memory
    let outcome = try dump(memory, [Self.state(long: true, rip: 0)], paging: true)
    let base = 0xFFFF_FFFF_8000_0000 as UInt64
    #expect(
      outcome.about["loads"]?.text
        == "[[\(base + 9 << 21), 20480, 8192], [\(base + 8 << 21), 2097152, 2097152]]"
        .replacingOccurrences(of: "\(base + 9 << 21)", with: "\(base + 0x120_0000)")
        .replacingOccurrences(of: "\(base + 8 << 21)", with: "\(base + 0x100_0000)"))
  }

  @Test func tablesThatMapThemselvesEndTheDump() throws {
    let memory = try Self.makeMemory()
    for index in 0..<512 {
      memory.store(GuestAddress(0x1000 + UInt64(index) * 8), 0x1003 as UInt64)
    }
    let failure = #expect(throws: DumpFailure.self) {
      _ = try dump(memory, [Self.state(long: true, rip: 0)], paging: true)
    }
    #expect(failure?.message.contains("page tables") == true)
  }

  @Test func moreSegmentsThanTheHeaderCounts() {
    let segments = (0..<70_000).map {
      ELFCore.Segment(physical: $0 * 4096, virtual: $0 * 8192, size: 4096, offset: $0 * 4096)
    }
    let core = ELFCore(segments: segments, notes: [], isLongMode: true, memorySize: 70_000 * 4096)
    let header = core.header
    #expect(Array(header[56...57]) == [0xFF, 0xFF])
    // sh_info of section 0.
    let count = (0..<4).reduce(0) { $0 | Int(header[64 + 44 + $1]) << ($1 * 8) }
    #expect(count == 70_001)
    #expect(core.programHeaders.count == 70_001 * 56)
  }

  @Test func vmcoreinfoIsInBothFormats() throws {
    var note: [UInt8] = [11, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0]
    note += Array("VMCOREINFO\0\0".utf8) + Array("NUMBER(phys_base)=409600\n".utf8).dropLast()
    note += [UInt8](repeating: 0, count: 100)
    let info = try #require(VMCoreInfoNote(note))
    #expect(info.physicalBase == 409_600)
    let memory = try Self.makeMemory()
    let elf = try dump(memory, [Self.state(long: true, rip: 0)], vmcoreinfo: info)
    #expect(elf.about["notes"]?[2]?["name"] == "VMCOREINFO")
    let kdump = try dump(memory, [Self.state(long: true, rip: 0)], .kdumpZlib, vmcoreinfo: info)
    #expect(kdump.about["vmcoreinfo"] == "NUMBER(phys_base)=409600")
    #expect(kdump.about["phys_base"] == 409_600)
  }

  @Test func aGuestsBadNoteIsNone() {
    #expect(VMCoreInfoNote([]) == nil)
    #expect(VMCoreInfoNote([UInt8](repeating: 0xFF, count: 64)) == nil)
    #expect(VMCoreInfoNote([UInt8](repeating: 0, count: 64)) == nil)
    for _ in 0..<2000 {
      _ = VMCoreInfoNote((0..<Int.random(in: 0..<80)).map { _ in .random(in: 0...20) })
    }
  }

  @Test func aFullDiskEndsItWithTheReason() throws {
    let memory = try Self.makeMemory()
    for (format, text) in [
      (DumpGuestMemoryFormat.elf, "dump: failed to write elf header: No space left on device"),
      (.kdumpZlib, "dump: failed to write start flat header: No space left on device"),
    ] {
      let output = OutputFile(try FileDescriptor.open("/dev/full", O_WRONLY))
      let dump = GuestDump(
        DumpRequest(format: format, output: output, name: "full"), memory: memory,
        states: [Self.state(long: true, rip: 0)])
      let failure = #expect(throws: DumpFailure.self) { try dump.run() }
      #expect(failure?.message == text && failure?.isCancelled == false)
    }
  }

  /// A pipe that nobody reads fills up; the dump waits there until it is cancelled, and where it is held it stands.
  @Test(arguments: [DumpGuestMemoryFormat.elf, .kdumpZlib])
  func aDumpThatWaitsCanBeCancelled(_ format: DumpGuestMemoryFormat) throws {
    var ends: [Int32] = [-1, -1]
    #expect(pipe(&ends) == 0)
    let reader = FileDescriptor(owning: ends[0])
    let dump = GuestDump(
      DumpRequest(
        format: format, output: OutputFile(FileDescriptor(owning: ends[1])), name: "pipe"),
      memory: try Self.makeMemory(), states: [Self.state(long: true, rip: 0)])
    let ended = WaitWord()
    let failures = Failures()
    let thread = try HostThread(name: "test") {
      do throws(DumpFailure) { try dump.run() } catch { failures.add(error) }
      ended.advance()
    }
    // It fills the pipe and stands still there.
    var last = -1
    while true {
      let filled = Self.bytesWaiting(reader.rawValue)
      if filled > 0, filled == last { break }
      last = filled
      ended.wait(while: 0, nanoseconds: 50_000_000)
    }
    #expect(ended.value == 0)
    dump.cancel()
    while ended.value == 0 { ended.wait(while: 0, nanoseconds: 1_000_000_000) }
    thread.join()
    #expect(failures.all.first?.isCancelled == true)
  }

  private static func bytesWaiting(_ descriptor: Int32) -> Int {
    var count: Int32 = 0
    _ = ioctl(descriptor, UInt(FIONREAD), &count)
    return Int(count)
  }

  @Test func aHeldDumpStandsAndGoesOn() throws {
    let held = WaitWord()
    let path = Goliath.temporaryFolder() + "/dump"
    let dump = GuestDump(
      DumpRequest(
        output: OutputFile(try FileDescriptor.open(path, O_WRONLY | O_CREAT)), name: path),
      memory: try Self.makeMemory(), states: [Self.state(long: true, rip: 0)],
      onHeld: { held.advance() })
    dump.hold()
    let failures = Failures()
    let thread = try HostThread(name: "test") {
      do throws(DumpFailure) { try dump.run() } catch { failures.add(error) }
    }
    while held.value == 0 { held.wait(while: 0, nanoseconds: 1_000_000_000) }
    #expect(dump.progress.now.current == 0)
    dump.release()
    thread.join()
    #expect(failures.all.isEmpty && dump.progress.now.current == dump.progress.now.total)
    try? FileManager.default.removeItem(atPath: path)
  }

  @Test func aSparseFileTakesNoMoreThanItMust() throws {
    let memory = GuestMemory()
    let ram = try RAMBlock(name: "ram", size: 256 << 20)
    memory.setSlots([MemorySlot(guest: GuestAddress(0), size: 256 << 20, block: ram)])
    memory.write(GuestAddress(0x10_0000), [1])
    let path = Goliath.temporaryFolder() + "/dump"
    let output = OutputFile(try FileDescriptor.open(path, O_WRONLY | O_CREAT))
    try GuestDump(
      DumpRequest(output: output, name: path), memory: memory,
      states: [Self.state(long: true, rip: 0)]
    ).run()
    var status = stat()
    #expect(stat(path, &status) == 0)
    #expect(status.st_size > 256 << 20 && status.st_blocks * 512 < 8 << 20)
    try? FileManager.default.removeItem(atPath: path)
  }
}

private final class Failures: @unchecked Sendable {
  private let lock = NSLock()
  private var list: [DumpFailure] = []
  func add(_ failure: DumpFailure) { lock.withLock { list.append(failure) } }
  var all: [DumpFailure] { lock.withLock { list } }
}
