import Support
import Testing

/// The program as a user calls it, without a guest: wrong input ends in one clear line and status 1.
@Suite struct CommandLineTests {
  func run(_ arguments: String...) throws -> Process.Result {
    try Process.output([Goliath.path] + arguments, seconds: 60)
  }

  @Test func helpAndVersionEndWithZero() throws {
    for arguments in [
      ["-help"], ["--version"], ["-machine", "help"], ["-cpu", "help"], ["-accel", "help"],
      ["-device", "help"], ["-device", "isa-serial,help"], ["-chardev", "help"], ["-d", "help"],
    ] {
      let result = try Process.output([Goliath.path] + arguments)
      #expect(result.status == 0, "\(arguments)")
      #expect(!result.text.isEmpty, "\(arguments)")
    }
  }

  @Test func unknownOptionNamesTheNearest() throws {
    let result = try run("-kernle", "x")
    #expect(result.status == 1)
    #expect(result.text == "goliath: -kernle: invalid option; did you mean '-kernel'?\n")
  }

  @Test(arguments: ["-fda", "-virtfs", "-incoming"])
  func optionsOfLaterIssuesAreRefusedByName(option: String) throws {
    let result = try run(option, "x")
    #expect(result.status == 1)
    #expect(result.text.hasPrefix("goliath: \(option)") && result.text.contains("not supported"))
  }

  @Test func missingFilesAreNamed() throws {
    for (option, what) in [("-kernel", "kernel"), ("-bios", "PC BIOS")] {
      let result = try run("-accel", "tcg", option, "/nowhere/file")
      #expect(result.status == 1)
      #expect(result.text.contains(what) && result.text.contains("/nowhere/file"), "\(result.text)")
      #expect(result.text.split(separator: "\n").count == 1, "\(result.text)")
    }
  }

  @Test func irqchipInTheKernelIsRefusedWithTheReason() throws {
    for mode in ["on", "split"] {
      let result = try run("-machine", "pc,kernel-irqchip=\(mode)")
      #expect(result.status == 1)
      #expect(result.text.contains("kernel-irqchip"), "\(result.text)")
    }
  }

  @Test func daemonizeLeavesWhenTheSocketListens() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let result = try run(
      "-machine", "none", "-daemonize", "-pidfile", folder + "/pid", "-display", "none", "-qmp",
      "unix:\(folder)/qmp,server=on,wait=off")
    #expect(result.status == 0, "\(result.text)")
    #expect(Process.isThere(folder + "/pid"))
    let client = try QMPClient(path: folder + "/qmp", seconds: 1)
    _ = try client.run("quit")
  }

  @Test func daemonizeReportsAFailureInTheParent() throws {
    let result = try run(
      "-machine", "none", "-daemonize", "-display", "none", "-qmp",
      "unix:/nowhere/at/all,server=on,wait=off")
    #expect(result.status == 1)
    #expect(result.text.contains("/nowhere/at/all"))
  }
}
