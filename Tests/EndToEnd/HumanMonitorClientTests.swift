import Glibc
import Host
import JSON
import Support
import Testing

/// Conversations of programs that drive the human monitor, as those programs have them.
@Suite(.serialized, .timeLimit(.minutes(15))) struct HumanMonitorClientTests {
  private static let machine = [
    "-machine", "pc", "-m", "16", "-smp", "2", "-accel", "tcg", "-S", "-nodefaults", "-display",
    "none",
  ]

  /// The port of the TCP monitor, as `query-chardev` tells it.
  private func port(_ goliath: Goliath) throws -> String {
    let reply = try goliath.connect().run("query-chardev")
    for device in reply["return"]?.arrayValue ?? [] {
      let name = device["filename"]?.stringValue ?? ""
      guard device["label"]?.stringValue == "compat_monitor0" else { continue }
      let address = name.split(separator: ",").first ?? ""
      return String(address.split(separator: ":").last ?? "")
    }
    return ""
  }

  @Test func telnetInATerminalTalksToTheMonitor() throws {
    guard Process.find("telnet") != nil, Process.find("script") != nil else {
      print("SKIPPED: telnet or script is not installed")
      return
    }
    let goliath = try Goliath(Self.machine + ["-monitor", "telnet:127.0.0.1:0,server=on,wait=off"])
    let number = try port(goliath)
    let telnet = try Process([
      "script", "-qfec", "telnet 127.0.0.1 \(number)", "/dev/null",
    ])
    #expect(telnet.expect("monitor - type 'help' for more information\r\n(qemu) ", seconds: 20))
    // The options that the server announces make the client send each key at once and echo none.
    telnet.send("info sta")
    #expect(telnet.expect("info sta\u{1B}[K", seconds: 10))
    telnet.send("tus\r")
    #expect(telnet.expect("VM status: paused (prelaunch)\r\n(qemu) ", seconds: 10))
    telnet.send("chardev-remo\tcomp\t")
    #expect(telnet.expect("chardev-remove compat_monitor\u{1B}[K", seconds: 10))
    telnet.send("\u{5}\u{17}\u{17}quit\r")
    #expect(telnet.expect("Connection closed by foreign host", seconds: 20))
    #expect(goliath.process.wait(seconds: 20) == 0)
  }

  /// NixOS's test driver listens itself, sends lines with LF and reads until the text ends with the prompt.
  @Test func aDriverThatListensAndWaitsForThePromptIsServed() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let listener = try Socket.listen(.unix(path: folder + "/monitor"))
    let goliath = try Goliath(Self.machine + ["-monitor", "unix:\(folder)/monitor"])
    let driver = try TextClient(accepting: listener.rawValue)
    #expect(try driver.read(untilSuffix: "(qemu) ").hasSuffix("information\r\n(qemu) "))
    for (line, part) in [
      ("info status", "VM status: paused (prelaunch)\r\n"), ("cont", ""),
      ("info status", "VM status: running\r\n"), ("stop", ""),
      ("sendkey ctrl-alt-f1 nope", "invalid char 'n' in expression"),
    ] {
      try driver.send(line + "\n")
      #expect(try driver.read(untilSuffix: "(qemu) ").contains("\r\n" + part))
    }
    try driver.send("quit\n")
    #expect(goliath.process.wait(seconds: 20) == 0)
  }

  /// GNS3 opens a connection for each action, reads lines until one holds the echoed command or an expected part.
  @Test func aConnectionForEachActionIsServed() throws {
    let goliath = try Goliath(Self.machine + ["-monitor", "tcp:127.0.0.1:0,server,nowait"])
    let number = UInt16(try port(goliath)) ?? 0
    for _ in 0..<20 {
      let action = try TextClient(port: number)
      try action.send("info status\n")
      var line = ""
      while !line.contains("VM status") {
        line = try action.read(until: "\n")
        try #require(!line.isEmpty)
      }
      #expect(line.hasPrefix("VM status: paused"))
      let second = try TextClient(port: number)
      try second.send("system_reset\n")
      line = ""
      while !line.contains("system_reset") {
        line = try second.read(until: "\n")
        try #require(!line.isEmpty)
      }
    }
  }

  /// autopkgtest waits for the prompt's text after each line; a later connection starts afresh.
  @Test func promptsAreWaitedForOverAUnixSocket() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let path = folder + "/monitor"
    let goliath = try Goliath(Self.machine + ["-monitor", "unix:\(path),server=on,wait=off"])
    for _ in 0..<3 {
      let client = try TextClient(path: path)
      #expect(try client.read(until: "(qemu)").contains("monitor - type"))
      // Nothing of an absent subsystem: the runner sees it in the text.
      try client.send("savevm s\n")
      #expect(try client.read(until: "\n(qemu)").contains("unknown command: 'savevm'\r\n"))
    }
    withExtendedLifetime(goliath) {}
  }

  /// ganeti pipes one line through socat and looks for its patterns in all that comes until the end.
  @Test func aPipedLineIsAnsweredBeforeTheEnd() throws {
    guard Process.find("socat") != nil else {
      print("SKIPPED: socat is not installed")
      return
    }
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let path = folder + "/monitor"
    let goliath = try Goliath(Self.machine + ["-monitor", "unix:\(path),server=on,wait=off"])
    _ = try TextClient(path: path)
    let expected = [
      "info cpus": #/CPU #1: thread_id=([1-9][0-9]*)\r\n\(qemu\) /#,
      "info version": #/\r\n7\.2\.([0-9]+).*\r\n\(qemu\) /#,
    ]
    for (line, pattern) in expected {
      let piped = try Process.output(
        ["sh", "-c", "echo '\(line)' | socat STDIO UNIX-CONNECT:\(path)"], seconds: 20)
      #expect(piped.status == 0)
      #expect(piped.text.firstMatch(of: pattern) != nil, "\(line): \(piped.text)")
    }
    let client = try TextClient(path: path)
    try client.send("info name\ninfo cpus\n")
    client.finishSending()
    #expect(try client.readToEnd().contains("CPU #0: thread_id="))
    withExtendedLifetime(goliath) {}
  }
}
