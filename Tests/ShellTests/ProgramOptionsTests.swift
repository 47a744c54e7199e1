import Host
import Testing
import goliath_shell

@Suite struct ProgramOptionsTests {
  @Test func optionsAndAddressesMayMix() throws {
    let options = try ProgramOptions([
      "-c", "stop", "a=/run/a.qmp", "--command=cont", "-fscript", "host:4444", "-qk", "--timeout",
      "1.5",
      "--select=status",
    ])
    #expect(options.steps == [.line("stop"), .line("cont"), .file("script")])
    #expect(options.nodes.map(\.name) == ["a", "host:4444"])
    #expect(options.isQuiet && options.keepsGoing)
    #expect(options.timeout == 1.5 && options.select == "status")
    #expect(try ProgramOptions(["--", "-odd"]).nodes.map(\.name) == ["-odd"])
  }

  @Test(arguments: [
    ["--nosuch"], ["-c"], ["--timeout", "soon"], ["--json=1"], ["--color", "blue"], ["x="],
    ["--completion", "fish"], ["fd:x"], ["tcp:nowhere"],
  ])
  func mistakesAreToldAsSuch(arguments: [String]) {
    #expect(throws: LineError.self) { try ProgramOptions(arguments) }
  }

  @Test(arguments: [
    ("/run/vm.qmp", "vm", SocketAddress.unix(path: "/run/vm.qmp")),
    ("/run/vm7/qmp.sock", "vm7", .unix(path: "/run/vm7/qmp.sock")),
    ("n=sock", "n", .unix(path: "sock")),
    ("unix:/a=b", "a=b", .unix(path: "/a=b")),
    ("localhost:1", "localhost:1", .inet(InetAddress(host: "localhost", port: "1"))),
    (":1", "localhost:1", .inet(InetAddress(host: "localhost", port: "1"))),
    ("x=[::1]:22", "x", .inet(InetAddress(host: "::1", port: "22"))),
    ("telnet:h:23", "h:23", .inet(InetAddress(host: "h", port: "23"))),
    ("fd:3", "3", .descriptor(3)),
    ("unix:@name", "name,abstract=on,tight=on", .abstract(name: "name", isTight: true)),
  ])
  func addresses(text: String, name: String, socket: SocketAddress) throws {
    let address = try NodeAddress(parsing: text)
    #expect(address.name == name)
    #expect(address.socket == socket)
  }

  @Test func nodesOfOneNameAreNumbered() throws {
    let options = try ProgramOptions(["/a/x.qmp", "/b/x.qmp", "/c/x.qmp"])
    #expect(options.nodes.map(\.name) == ["x", "x-2", "x-3"])
  }

  @Test func theGreatestStatusCounts() {
    #expect(max(ExitStatus.success, .commandFailed) == .commandFailed)
    #expect(max(ExitStatus.connectionLost, .timeout) == .connectionLost)
    #expect(
      ExitStatus.allCases.map(\.rawValue) == [0, 1, 2, 3, 4, 5, 6, 130])
  }

  @Test func helpNamesEveryOptionAndStatus() {
    let help = Manual.help.joined(separator: "\n")
    for entry in OptionEntry.all {
      for name in entry.names { #expect(help.contains(name)) }
    }
    for status in ExitStatus.allCases { #expect(help.contains(status.meaning)) }
    #expect(Manual.help.allSatisfy { $0.count <= 110 })
  }
}
