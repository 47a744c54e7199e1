import Glibc
import Host
import Support
import Testing

/// goliath-shell as a program: against Goliath, against QEMU where it is installed, and against servers that misbehave.
@Suite(.serialized) struct ShellTests {
  /// The program under test, beside `goliath`.
  static var path: String { Goliath.path + "-shell" }

  /// Runs the shell to its end. Standard error is part of the text unless told otherwise.
  static func shell(
    _ arguments: [String], joinErrors: Bool = true, seconds: Double = 60
  ) throws -> Process.Result {
    try Process.output([path] + arguments, joinErrors: joinErrors, seconds: seconds)
  }

  /// What the shell works on: Goliath, and QEMU 7.2 where there is one.
  enum Server: String, CaseIterable, Sendable {
    case goliath, qemu

    var program: String? { self == .goliath ? Goliath.path : Process.find("qemu-system-x86_64") }

    static var installed: [Server] { allCases.filter { $0.program != nil } }
  }

  /// A server without a machine, with two QMP sockets and a human monitor.
  final class Running {
    let folder = Goliath.temporaryFolder()
    let process: Process
    var qmp: String { folder + "/vm.sock" }
    var second: String { folder + "/other.sock" }
    var human: String { folder + "/human.sock" }

    init(_ server: Server) throws {
      let folder = folder
      process = try Process(
        [server.program ?? "", "-machine", "none", "-S", "-display", "none", "-nodefaults"]
          + ["-qmp", "unix:\(folder)/vm.sock,server=on,wait=off"]
          + ["-qmp", "unix:\(folder)/other.sock,server=on,wait=off"]
          + ["-monitor", "unix:\(folder)/human.sock,server=on,wait=off"])
    }

    deinit {
      process.kill(signal: SIGKILL)
      _ = process.wait(seconds: 5)
      _ = try? Process.output(["rm", "-rf", folder])
    }
  }

  @Test(arguments: Server.installed)
  func linesRunInOrderAndEndWithTheirStatus(server: Server) throws {
    let running = try Running(server)
    let first = try Self.shell(["--retry", running.qmp, "-c", "query-status", "-c", "query-name"])
    #expect(first.status == 0)
    #expect(first.text == "running     false\nsinglestep  false\nstatus      prelaunch\n")
    let failed = try Self.shell([running.qmp, "-c", "nosuch", "-c", "query-status"])
    #expect(failed.status == 1)
    #expect(failed.text == "error: CommandNotFound: The command nosuch has not been found\n")
    let going = try Self.shell([running.qmp, "-k", "-j", "-c", "nosuch", "-c", "query-name"])
    #expect(going.status == 1)
    #expect(going.text.hasSuffix("}}\n{\"return\": {}}\n"), "\(going.text)")
    let selected = try Self.shell([running.qmp, "-s", "status", "-c", "query-status"])
    #expect(selected.text == "prelaunch\n")
    let senseless = try Self.shell([running.qmp, "-c", "a b"])
    #expect(senseless.status == 2)
  }

  @Test(arguments: Server.installed)
  func argumentsAreTypedByTheSchema(server: Server) throws {
    let running = try Running(server)
    // A label of digits is a string, a size of digits a number: the schema says so.
    let result = try Self.shell([
      "--retry", running.qmp, "-c", "chardev-add id=5 backend.type=ringbuf backend.data.size=64",
      "-c", "ringbuf-write device=5 data=123", "-c", "ringbuf-read device=5 size=64",
      "-c", "expect *.label=5 query-chardev", "-c", "chardev-remove id=5",
      "-c", "expect *.label=5 query-chardev",
    ])
    #expect(result.status == 1)
    #expect(
      result.text.hasPrefix("123\ngoliath-shell: expected '5' at '*.label'"), "\(result.text)")
  }

  @Test(arguments: Server.installed)
  func waitSeesEventsThatCameBeforeTheReply(server: Server) throws {
    let running = try Running(server)
    let result = try Self.shell([
      "--retry", "-j", running.qmp, "-c", "cont", "-c", "stop", "-c", "wait STOP timeout=20",
    ])
    #expect(result.status == 0)
    #expect(result.text.contains("\"event\": \"STOP\""), "\(result.text)")
    let late = try Self.shell([running.qmp, "-c", "wait NOSUCH timeout=0.05"])
    #expect(late.status == 4)
  }

  @Test(arguments: Server.installed)
  func severalNodesAnswerByName(server: Server) throws {
    let running = try Running(server)
    let nodes = ["--retry", "a=\(running.qmp)", "b=\(running.second)"]
    let both = try Self.shell(
      nodes + ["-s", "status", "-c", "query-status", "-c", "@b query-status"])
    #expect(both.text == "a: prelaunch\nb: prelaunch\nb: prelaunch\n")
    #expect(both.status == 0)
    let json = try Self.shell(nodes + ["-j", "-c", "query-name"])
    #expect(json.text == "{\"node\": \"a\", \"return\": {}}\n{\"node\": \"b\", \"return\": {}}\n")
    let unknown = try Self.shell(nodes + ["-c", "@c query-name"])
    #expect(unknown.status == 2)
    let missing = try Self.shell([
      "-k", "a=\(running.qmp)", "z=\(running.folder)/none", "-s", "status", "-c", "query-status",
    ])
    #expect(missing.status == 3)
    #expect(missing.text.contains("a: prelaunch\n"), "\(missing.text)")
  }

  @Test(arguments: Server.installed)
  func humanMonitorsAnswerLines(server: Server) throws {
    let running = try Running(server)
    let plain = try Self.shell(["--retry", "--hmp", running.human, "-c", "info status"])
    #expect(plain.text == "VM status: paused (prelaunch)\n")
    #expect(plain.status == 0)
    let failed = try Self.shell(["--hmp", running.human, "-c", "nosuch", "-c", "info status"])
    #expect(failed.status == 1)
    #expect(failed.text == "unknown command: 'nosuch'\n")
    let through = try Self.shell([running.qmp, "-c", "!info status"])
    #expect(through.text == "VM status: paused (prelaunch)\n")
    let mode = try Self.shell(["-H", running.qmp, "-c", "info status", "-c", "/qmp query-name"])
    #expect(mode.text == "VM status: paused (prelaunch)\n")
    #expect(mode.status == 0)
    let quit = try Self.shell(["--hmp", running.human, "-c", "quit"])
    #expect(quit.status == 0)
    #expect(running.process.wait(seconds: 20) == 0)
  }

  @Test(arguments: Server.installed)
  func filesArePassedAsDescriptors(server: Server) throws {
    let running = try Running(server)
    let result = try Self.shell([
      "--retry", running.qmp, "-c", "getfd disk /dev/null", "-c", "closefd fdname=disk", "-c",
      "closefd fdname=disk",
    ])
    #expect(result.status == 1)
    #expect(result.text.contains("'disk' not found"), "\(result.text)")
  }

  @Test func scriptsComeFromFilesAndPipes() throws {
    let running = try Running(.goliath)
    let script = running.folder + "/script"
    let lines = "# first\nquery-name\n{\"execute\":\n \"query-name\"}\nexit\nnosuch\n"
    try Process.createFile(Array(lines.utf8), at: script)
    let fromFile = try Self.shell(["--retry", "-j", running.qmp, "-f", script])
    #expect(fromFile.text == "{\"return\": {}}\n{\"return\": {}}\n")
    #expect(fromFile.status == 0)
    let fromPipe = try Process.output(
      ["sh", "-c", "\(Self.path) -j \(running.qmp) < \(script)"], seconds: 60)
    #expect(fromPipe.text == fromFile.text)
    #expect(fromPipe.status == 0)
    #expect(try Self.shell([running.qmp, "-f", "/nonexistent"]).status == 2)
  }

  @Test func theEndOfTheServerIsTold() throws {
    let running = try Running(.goliath)
    let follower = try Process([Self.path, "--retry", "-F", running.qmp, "-c", "query-status"])
    // Its first answer proves that it is connected.
    #expect(follower.expect("prelaunch", seconds: 30))
    let other = try Self.shell(["--retry", running.second, "-c", "cont"])
    #expect(other.status == 0)
    #expect(follower.expect("RESUME", seconds: 30))
    #expect(try Self.shell([running.second, "-c", "quit"]).status == 0)
    #expect(follower.wait(seconds: 30) == 5)
    _ = follower.expect("SHUTDOWN", seconds: 5)
    #expect(follower.text.contains("SHUTDOWN guest=false reason=host-qmp-quit"), "\(follower.text)")
  }

  @Test func pagesAreAvailableWithoutAServer() throws {
    let help = try Self.shell(["--help"])
    #expect(help.status == 0 && help.text.contains("--select"))
    #expect(try Self.shell(["--manual"]).text.contains("EXIT STATUS"))
    let completion = try Process.output(
      ["bash", "-c", "source <(\(Self.path) --completion bash) && complete -p goliath-shell"])
    #expect(completion.text.contains("-F _goliath_shell goliath-shell"))
    #expect(try Self.shell([]).status == 2)
    #expect(try Self.shell(["--nosuch"]).status == 2)
    let missing = try Self.shell(["/nonexistent/socket", "-c", "stop"])
    #expect(missing.status == 3)
    #expect(missing.text.contains("No such file or directory"))
  }
}
