import Chardev
import Glibc
import Host
import Monitor
import QAPI
import Support
import Testing

/// The same keys to QEMU's human monitor and to ours: the same bytes, where they depend on no table of commands.
@Suite(.timeLimit(.minutes(15))) struct HMPPeerTests {
  /// Keys in the order in which they are sent; both monitors keep their state throughout.
  private static let keys: [String] = [
    "abc", "\u{1B}[D", "X", "\u{1}", "\u{5}", "\u{1B}[C", "\u{1B}[3~", "\u{8}", "\u{7F}", "\u{17}",
    "\u{C}", "p 1\r", "\n", "p 2\r\n", "\u{1B}[A", "\u{1B}[A", "\u{1B}[A", "\u{1B}[B", "\u{1B}[B",
    "\u{1B}[B", "zz\u{3}\u{B}\u{15}\u{1A}z", "\u{17}", "info mtre\t", "\u{17}\u{17}", "nope\t",
    "\u{17}", "sum \t", "\u{17}\u{17}", "  sys\t", "\u{17}", "cp\t", "\u{17}\u{17}",
    "stop\u{1}\u{1B}OF\u{1B}OH\u{1B}[4~\u{1B}[1~\u{4}\u{4}", "\u{C}", "\u{5}\u{17}",
    "\u{1B}[Z\u{1B}xy", "\u{17}", "  nope\r", " p 1 2\r", "/x\r", "\"\r", "info\t", "\u{17}\u{17}",
    "abc def ghi\u{1B}[D\u{1B}[D\u{1B}[D\u{1B}[D", "\u{17}", "\u{17}", "\u{17}", "\u{5}\u{17}",
    "help\t", "\u{17}\u{17}", "?\t", "\u{17}\u{17}", "help info regi\t", "\u{17}\u{17}\u{17}",
    "info history\r", "\u{1B}[A\u{1B}[A\u{1B}[A\u{1B}[D\u{1B}[D\u{4}\u{4}7\r", "\u{1B}[F\u{1B}[E\r",
    String(repeating: "long ", count: 30) + "\u{1}\u{5}\r",
  ]

  /// Lines whose answers depend on no state but a processor and memory after reset.
  private static let lines: [String] = [
    "p 1+", "p 1a", "p (1", "p (1)", "p 1/0", "p 7/2", "p -7/2", "p -7%3", "p $foo", "p $",
    "p 99999999999999999999", "p 18446744073709551615", "p/x 255", "p/d -1", "p/o 8", "p/c 65",
    "p/c 10", "p/u -1", "p/xb 0x1ff", "p 1 2", "p", "p/", "p/z 1", "p/10x 5", "p/xd 5", "p ~0",
    "p !1", "p 1&&1", "p 5%3", "p 1<<2", "p -(1+2)*3", "p 0b11", "p 010", "p 08", "p 0x", "p 0xg",
    "p 0X1F", "p 'a'", "p '\\n'", "p ''", "p '", "p 'ab'", "p 1+2*3", "p 6&3+1", "p 1|2^3",
    "p 7-2-1", "p 100/7/2", "p  ( 1 + 2 ) ", "p --1", "p +-~1", "p 1 + ", "p 2 * ( 3", "p )", "p *",
    "p \"a\"", "print/x", "p $eax", "p $edx", "p $cs", "p $cs.base", "p $cs.limit", "p $pc",
    "p $eip", "p $esp+4", "p $eflags", "p $r15", "p $fs", "p $fs.base", "p $al", "p $st0",
    "x 0 0", "x", "xp", "x/", "xp/4xb 0xfffffff0", "xp/4xh 0xfffffff0", "xp/4xw 0xfffffff0",
    "xp/4db 0xfffffff0", "xp/4dw 0xfffffff0", "xp/4ub 0xfffffff0", "xp/4ob 0xfffffff0",
    "xp/4cb 0xfffffff0", "xp/16cb 0xfffffff0", "xp/2ch 0xfffffff0", "xp/3cw 0xfffffff0",
    "xp/1dg 0xfffffff0", "xp/1dh 0xfffffff8", "xp/2ug 0xfffffff0", "xp/2og 0xfffffff0",
    "xp/1s 0", "xp/-1x 0", "xp/0x 0", "xp/xx 0", "xp /2wx 0xfffffff0", "xp  /2xwb 0xfffffff0",
    "x/4xb 0xffffffff", "xp/5xg 0x100", "x/2xg 0", "xp/b 0xfffffff0", "xp 0xfffffff0", "xp/i",
    "x/1i $pc", "xp/1i 0xfffffff0", "cpu 1", "cpu 0", "cpu", "cpu a", "cpu -1", "cpu 99999999999",
    "stop x", "stop", "info nope", "info status x", "info status", "  info   status  ",
    "info registers", "info registers 0", "info registers 1", "info registers -x",
    "info registers -a -a", "info registers a", "info lapic 5", "info lapic -1", "info mem",
    "info tlb", "info kvm", "info uuid", "help nope", "help info nope", "info \"status\"",
    "\"info\" status", "info status\"", "sum 0 -1", "sum 0 0", "sum 0xfffffff0 16 5",
    "memsave 0 10",
    "memsave 0 4 \"a", "memsave 0 4 \"a\\q\"", "memsave 0 \"4\" x", "memsave 0 10 /tmp/x",
    "pmemsave 0 10 \"/nosuch/x\"", "gpa2hva -1", "gpa2hva 0xfee00000", "gva2gpa 0",
    "gva2gpa 0xfffffff0", "gva2gpa", "gva2gpa -1", "i 0x70.", "i/xb 0x70 5", "i 0x1ffffffff",
    "o 0x80 0x1ffffffff", "o 1", "o", "i", "quit x", "system_reset x", "info history x",
  ]

  @Test func theSameKeysGiveTheSameBytes() async throws {
    guard let qemu = Process.find("qemu-system-x86_64") else {
      print("skipped: qemu-system-x86_64 is not installed")
      return
    }
    let path = Goliath.temporaryFolder() + "/hmp"
    let process = try Process([
      qemu, "-machine", "pc", "-m", "1", "-nodefaults", "-display", "none", "-S", "-accel", "tcg",
      "-monitor", "unix:\(path),server=on,wait=off",
    ])
    defer { process.kill(signal: SIGKILL) }
    try await MonitoredMachine.run { monitored in
      var theirs: TextClient?
      for _ in 0..<200 where theirs == nil {
        theirs = try? TextClient(.unix(path: path))
        if theirs == nil { usleep(50_000) }
      }
      let peer = try #require(theirs)
      let (registry, server, port) = try await ours(monitored)
      let own = try TextClient(port: port)
      #expect(try own.read(until: "(qemu) ") == peer.read(until: "(qemu) "))
      for keys in Self.keys {
        try peer.send(keys)
        try own.send(keys)
        var expected = try peer.readQuiet(milliseconds: 60)
        var got = try own.readQuiet(milliseconds: 20)
        // On a busy host either may be late.
        let end = HostClock.monotonic + 20_000_000_000
        while got != expected, HostClock.monotonic < end {
          expected += try peer.readQuiet(milliseconds: 60)
          got += try own.readQuiet(milliseconds: 20)
        }
        #expect(got == expected, "keys \(keys)")
      }
      for line in Self.lines {
        try peer.send(line + "\r")
        try own.send(line + "\r")
        let expected = try peer.read(until: "\n(qemu) ")
        let got = try own.read(until: "\n(qemu) ")
        #expect(got == expected, "line \(line)")
      }
      _ = server
      await registry.shutDown()
    }
  }

  @MainLoop
  private func ours(
    _ monitored: MonitoredMachine
  ) async throws -> (ChardevRegistry, HMPServer, UInt16) {
    let registry = ChardevRegistry()
    let device = try registry.create(
      "mon",
      .socket(
        ChardevSocket(
          addr: .inet(InetSocketAddress(host: "127.0.0.1", port: "0")), server: true)))
    let machine = PaperMachine()
    let server = try HMPServer(
      on: device,
      session: HMPSession(commands: MonitorCommands(monitored.context), machine: machine))
    return (registry, server, device.localPort)
  }
}
