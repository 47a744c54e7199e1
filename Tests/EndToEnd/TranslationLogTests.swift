import Glibc
import Host
import JSON
import Support
import Testing

/// `-d` of blocks and events, and the commands around the translator.
@Suite struct TranslationLogTests {
  /// Firmware of 204 bytes at the start of a 64 KiB image whose reset vector jumps there: a loop in real mode, protected mode, INT3, UD2 with
  /// a handler that skips it, a few instructions more, then port 0xF4 ends the program with status 1.
  private static let program: [UInt8] = [
    0xB9, 0x03, 0x00, 0x01, 0xC8, 0xE2, 0xFC, 0x2E, 0x66, 0x0F, 0x01, 0x16, 0x88, 0x00, 0x2E, 0x66,
    0x0F, 0x01, 0x1E, 0xC6, 0x00, 0x0F, 0x20, 0xC0, 0x0C, 0x01, 0x0F, 0x22, 0xC0, 0x66, 0xEA, 0x25,
    0x00, 0xFF, 0xFF, 0x08, 0x00, 0x66, 0xB8, 0x10, 0x00, 0x8E, 0xD8, 0x8E, 0xC0, 0x8E, 0xD0, 0xBC,
    0x00, 0x80, 0x00, 0x00, 0xBE, 0x6B, 0x00, 0xFF, 0xFF, 0xBF, 0x00, 0x90, 0x00, 0x00, 0xB9, 0x05,
    0x00, 0x00, 0x00, 0xFC, 0xA4, 0xCC, 0xB8, 0x78, 0x56, 0x34, 0x12, 0x0F, 0x0B, 0x0F, 0xB6, 0x1D,
    0x01, 0x90, 0x00, 0x00, 0x8D, 0x54, 0x83, 0x10, 0x31, 0xC0, 0x83, 0xFB, 0x65, 0x0F, 0x94, 0xC0,
    0x50, 0x59, 0xE6, 0xF4, 0xF4, 0xCF, 0x83, 0x04, 0x24, 0x02, 0xCF, 0x68, 0x65, 0x6C, 0x6C, 0x6F,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0x9B, 0xCF, 0x00,
    0xFF, 0xFF, 0x00, 0x00, 0x00, 0x93, 0xCF, 0x00, 0x17, 0x00, 0x70, 0x00, 0xFF, 0xFF, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x65, 0x00, 0x08, 0x00, 0x00, 0x8E, 0xFF, 0xFF, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x66, 0x00,
    0x08, 0x00, 0x00, 0x8E, 0xFF, 0xFF, 0x37, 0x00, 0x8E, 0x00, 0xFF, 0xFF,
  ]

  /// Writes the firmware into `folder` and answers the arguments that run it.
  private func machine(_ folder: String) throws -> [String] {
    var image = [UInt8](repeating: 0, count: 65536)
    image.replaceSubrange(0..<Self.program.count, with: Self.program)
    image.replaceSubrange(0xFFF0..<0xFFF3, with: [0xE9, 0x0D, 0x00])
    try Process.createFile(image, at: folder + "/firmware")
    return [
      "-machine", "pc", "-m", "32", "-nodefaults", "-display", "none", "-bios",
      folder + "/firmware", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
    ]
  }

  private func contents(_ path: String) throws -> [Substring] {
    String(decoding: try FileDescriptor.contents(of: path), as: UTF8.self)
      .split(separator: "\n", omittingEmptySubsequences: false)
  }

  /// Without what differs from run to run, and from QEMU: addresses of host code, the translator's own flags, lazily computed flags.
  private func comparable(_ lines: [Substring]) -> [String] {
    lines.filter { !$0.hasPrefix("CCS=") && !$0.hasPrefix("check_exception") }.map { line in
      guard line.hasPrefix("Trace"), let open = line.firstIndex(of: "[") else {
        return String(line)
      }
      return "Trace " + line[open...].split(separator: "/").prefix(3).joined(separator: "/")
    }
  }

  private func run(_ command: [String]) throws -> Int32? {
    let process = try Process(command)
    defer { process.kill(signal: SIGKILL) }
    return process.wait(seconds: 60)
  }

  /// With one instruction in a block both programs have the same blocks: every line is the same.
  @Test func logsOfTheSameProgramAreQEMUs() throws {
    guard let qemu = Process.find("qemu-system-x86_64") else {
      print("SKIPPED: comparison of the log: qemu-system-x86_64 is not installed")
      return
    }
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let arguments =
      try machine(folder) + ["-singlestep", "-d", "in_asm,exec,cpu,fpu,int,nochain", "-D"]
    #expect(try run([Goliath.path] + arguments + [folder + "/ours"]) == 1)
    #expect(try run([qemu] + arguments + [folder + "/theirs"]) == 1)
    let ours = comparable(try contents(folder + "/ours"))
    let theirs = comparable(try contents(folder + "/theirs"))
    #expect(ours.count > 1000)
    #expect(ours.count == theirs.count)
    for (index, pair) in zip(ours, theirs).enumerated() where pair.0 != pair.1 {
      Issue.record("line \(index): \(pair.0)\ninstead of: \(pair.1)")
      break
    }
  }

  @Test func theFilterLimitsWhatIsLoggedOfGuestCode() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let arguments =
      try machine(folder) + [
        "-d", "in_asm,exec", "-dfilter", "0xffff0000+3,0xfffffff0..0xffffffff", "-D",
        folder + "/log",
      ]
    #expect(try run([Goliath.path] + arguments) == 1)
    let lines = try contents(folder + "/log")
    #expect(
      lines.prefix(4) == [
        "----------------", "IN: ", "0xfffffff0:  e9 0d 00                 jmp      0", "",
      ])
    let traces = lines.filter { $0.hasPrefix("Trace 0: ") }
    #expect(traces.count == 2)
    #expect(traces.first?.contains(" [00000000ffff0000/00000000fffffff0/00000040/") == true)
    #expect(traces.last?.contains("/00000000ffff0000/00000040/") == true)
  }

  @Test func modesOfTheTranslatorDoNotChangeTheOutcome() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let arguments = try machine(folder)
    for properties in [
      "tb-size=1", "one-insn-per-tb=on", "x-translate=off", "x-threshold=1,x-exact-flags=on",
      "x-threshold=1,x-tlb-entries=4,x-flush-every=5,x-request-every=3,x-seed=7",
      "x-max-insns=2,x-code-cache=65536", "split-wx=off,thread=multi",
      "thread=single",
    ] {
      let status = try run([Goliath.path] + arguments + ["-accel", "tcg,\(properties)"])
      #expect(status == 1, "\(properties)")
    }
  }

  @Test func monitorsSwitchSingleStepsAndTellOfTheTranslator() throws {
    let goliath = try Goliath(["-S", "-nodefaults", "-display", "none", "-m", "32"])
    let client = try goliath.connect()
    func text(_ line: String) throws -> String {
      let reply = try client.run("human-monitor-command", "{\"command-line\":\"\(line)\"}")
      return reply["return"]?.stringValue ?? "\(reply)"
    }
    func stepping() throws -> Bool? {
      try client.run("query-status")["return"]?["singlestep"]?.boolValue
    }
    #expect(try stepping() == false)
    #expect(try text("singlestep") == "")
    #expect(try stepping() == true)
    #expect(try text("info status") == "VM status: paused (single step mode) (prelaunch)\r\n")
    #expect(try text("singlestep foo") == "unexpected option foo\r\n")
    #expect(try text("singlestep off") == "")
    #expect(try stepping() == false)
    #expect(try text("info opcount") == "[TCG profiler not compiled]\r\n")
    let jit = try text("info jit")
    #expect(jit.hasPrefix("Translation buffer state:\r\ngen code size "))
    #expect(jit.contains("\r\nvCPU 0: blocks 0,"))
    let reply = try client.run("x-query-jit")["return"]?["human-readable-text"]?.stringValue
    #expect(reply?.hasPrefix("Translation buffer state:\n") == true)
  }

  @Test func theCommandLinesSingleStepsAreTold() throws {
    let goliath = try Goliath(["-S", "-nodefaults", "-display", "none", "-m", "32", "-singlestep"])
    let status = try goliath.connect().run("query-status")
    #expect(status["return"]?["singlestep"]?.boolValue == true)
  }
}
