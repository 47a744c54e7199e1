import Chardev
import Host
import JSON
import Monitor
import QAPI
import Support
import Testing

/// The human monitor over real connections.
@Suite(.timeLimit(.minutes(15))) struct HMPServerTests {
  private static let banner = "QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) "

  /// A server on a device of its own registry.
  @MainLoop
  private final class Setup {
    let monitored: MonitoredMachine
    let registry = ChardevRegistry()
    let machine = PaperMachine()
    var servers: [HMPServer] = []

    init(_ monitored: MonitoredMachine) { self.monitored = monitored }

    func serve(_ backend: ChardevBackend) throws -> Chardev {
      let device = try registry.create("mon", backend)
      servers.append(
        try HMPServer(
          on: device,
          session: HMPSession(
            commands: MonitorCommands(self.monitored.context), machine: self.machine)))
      return device
    }

    func shutDown() {
      registry.shutDown()
    }
  }

  private func run(
    _ body: @Sendable (Setup, MonitoredMachine) async throws -> Void
  ) async throws {
    try await MonitoredMachine.run { monitored in
      let setup = await Setup(monitored)
      do { try await body(setup, monitored) } catch {
        await setup.shutDown()
        throw error
      }
      await setup.shutDown()
    }
  }

  private func socket(telnet: Bool = false) -> ChardevBackend {
    .socket(
      ChardevSocket(
        addr: .inet(InetSocketAddress(host: "127.0.0.1", port: "0")), server: true,
        telnet: telnet))
  }

  @Test func telnetClientsAreGreetedAndEchoed() async throws {
    try await run { setup, _ in
      let device = try await setup.serve(socket(telnet: true))
      let client = try TextClient(port: await device.localPort)
      let opening = "\u{FF}\u{FB}\u{1}\u{FF}\u{FB}\u{3}\u{FF}\u{FB}\u{0}\u{FF}\u{FD}\u{0}"
      #expect(try client.read(latin: 12) == opening)
      #expect(try client.read(until: "(qemu) ") == Self.banner)
      // The client's answers to the options may stand anywhere, also inside a line.
      try client.send([0xFF, 0xFD, 1, 0xFF, 0xFD, 3, 0x70, 0xFF, 0xFB, 0, 0x20, 0x31, 0x0D])
      #expect(
        try client.read(until: "(qemu) ")
          == "p\u{1B}[K\u{1B}[Dp \u{1B}[K\u{1B}[D\u{1B}[Dp 1\u{1B}[K\r\n0x1\r\n(qemu) ")
    }
  }

  @Test func historySurvivesAReconnectAndTheHalfTypedLineDoesNot() async throws {
    try await run { setup, _ in
      let device = try await setup.serve(socket())
      let first = try TextClient(port: await device.localPort)
      _ = try first.read(until: "(qemu) ")
      try first.send("p 7\rhalf")
      _ = try first.read(until: "half\u{1B}[K")
      _ = consume first
      let second = try TextClient(port: await device.localPort)
      #expect(try second.read(until: "(qemu) ") == Self.banner)
      try second.send("\u{1B}[A\r")
      #expect(try second.read(until: "(qemu) ") == "p 7\u{1B}[K\r\n0x7\r\n(qemu) ")
      try second.send("info history\r")
      #expect(
        try second.read(until: "(qemu) ").hasSuffix("\r\n0: 'p 7'\r\n1: 'info history'\r\n(qemu) "))
    }
  }

  @Test func commandsActOnTheMachineAndQuitHasNoPrompt() async throws {
    try await run { setup, monitored in
      let device = try await setup.serve(socket())
      let client = try TextClient(port: await device.localPort)
      _ = try client.read(until: "(qemu) ")
      let steps = [
        ("cont", ""), ("info status", "VM status: running\r\n"), ("stop", ""),
        ("info status", "VM status: paused\r\n"),
      ]
      for (line, expected) in steps {
        try client.send(line + "\r")
        #expect(try client.read(until: "(qemu) ").hasSuffix("\u{1B}[K\r\n\(expected)(qemu) "))
      }
      try client.send("quit\r")
      #expect(try client.read(until: "quit\u{1B}[K\r\n").hasSuffix("quit\u{1B}[K\r\n"))
      #expect(await monitored.exitStatus == 0)
    }
  }

  @Test func aLineThatCameInOneReadIsAnsweredInOneWrite() async throws {
    try await run { setup, _ in
      let device = try await setup.serve(socket(telnet: true))
      let client = try TextClient(port: await device.localPort)
      _ = try client.read(until: "(qemu) ")
      for _ in 0..<50 {
        try client.send("info status\r")
        let text = try client.readOnce()
        #expect(text.hasPrefix("i\u{1B}[K\u{1B}[Din"))
        #expect(text.hasSuffix("\r\nVM status: paused (prelaunch)\r\n(qemu) "))
      }
    }
  }

  @Test func aClientThatReadsNothingMustStopSendingAndDisturbsNobody() async throws {
    try await run { setup, _ in
      let device = try await setup.serve(socket())
      let deaf = try TextClient(port: await device.localPort)
      // Each line prints thousands of bytes; 64 MiB of lines would make gigabytes.
      let sent = try deaf.sendUntilFull(
        String(repeating: "help\r", count: 1000), milliseconds: 300)
      #expect(sent < 32 << 20)
      let other = try TextClient(port: await device.localPort)
      _ = try other.read(until: "(qemu) ")
      try other.send("p 1\r")
      #expect(try other.read(until: "\n(qemu) ").hasSuffix("0x1\r\n(qemu) "))
      // It gets everything once it reads.
      #expect(try deaf.read(count: "(qemu) ", 200).ranges(of: "(qemu) ").count == 200)
    }
  }

  @Test func theChosenProcessorStaysChosenForTheNextClient() async throws {
    try await run { setup, _ in
      await MainLoop.run { setup.machine.states += setup.machine.states }
      let device = try await setup.serve(socket())
      let first = try TextClient(port: await device.localPort)
      _ = try first.read(until: "(qemu) ")
      try first.send("cpu 1\r")
      _ = try first.read(until: "\n(qemu) ")
      let second = try TextClient(port: await device.localPort)
      _ = try second.read(until: "(qemu) ")
      try second.send("info registers\r")
      #expect(try second.read(until: "\n(qemu) ").contains("\r\nCPU#1\r\n"))
    }
  }

  @Test func thousandsOfLinesInOneWriteAreAnswered() async throws {
    try await run { setup, _ in
      let device = try await setup.serve(socket())
      let client = try TextClient(port: await device.localPort)
      try client.send(String(repeating: "p 1\r", count: 2000))
      let text = try client.read(count: "(qemu) ", 2001)
      #expect(text.ranges(of: "0x1\r\n").count == 2000)
    }
  }

  @Test func aMultiplexedMonitorSpeaksWhenItHasTheKeys() async throws {
    try await run { setup, _ in
      let number = try await MainLoop.run {
        let base = try setup.registry.create("serial0-base", socket())
        let mux = try setup.registry.create("serial0", .mux(ChardevMux(chardev: "serial0-base")))
        setup.servers.append(
          try HMPServer(
            on: mux,
            session: HMPSession(
              commands: MonitorCommands(setup.monitored.context), machine: setup.machine)))
        _ = try mux.attach(Silent())
        return base.localPort
      }
      let client = try TextClient(port: number)
      try client.send("to the serial port\r\u{1}c")
      #expect(try client.read(until: "(qemu) ") == Self.banner)
      try client.send("half")
      _ = try client.read(until: "half\u{1B}[K")
      try client.send("\u{1}c")
      #expect(try client.read(until: "\n") == "\r\n")
      try client.send("\u{1}cp 1\r")
      #expect(try client.read(until: "(qemu) ") == "(qemu) ")
      #expect(try client.read(until: "(qemu) ").hasSuffix("\r\n0x1\r\n(qemu) "))
    }
  }

  @Test func aLineForQMPIsRunWithoutEchoOrPrompt() async throws {
    try await MonitoredMachine.run { monitored in
      await MainLoop.run { HMPServer.serveHumanMonitorCommand(in: monitored.context) }
      let client = try QMPClient(path: monitored.path())
      #expect(
        try client.run(
          "human-monitor-command", #"{"command-line": "info status"}"#)
          == ["return": "VM status: paused (prelaunch)\r\n"])
      #expect(
        try client.run("human-monitor-command", #"{"command-line": "nope"}"#)
          == ["return": "unknown command: 'nope'\r\n"])
      #expect(
        try client.run("human-monitor-command", #"{"command-line": "stop"}"#) == ["return": ""])
    }
  }
}

/// A frontend that takes everything.
@MainLoop
private final class Silent: ChardevFrontend {
  func chardevReceived(_ bytes: [UInt8]) -> Int { bytes.count }
}

extension MainLoop {
  /// Runs `body` on the main loop and waits for its result.
  @MainLoop
  fileprivate static func run<T: Sendable>(_ body: @MainLoop () throws -> T) async rethrows -> T {
    try body()
  }
}
