import Host
import JSON
import Support
import Testing

/// The program's monitors as clients meet them: raw bytes, trouble at the start, and who must not wait for whom.
@Suite struct WireTests {
  @Test func everyRuleOfTheWireHoldsAndThePeerSendsTheSameBytes() throws {
    let script = Checkout.root + "/Tests/EndToEnd/wire.py"
    let peer = "/usr/bin/qemu-system-x86_64"
    let programs = [Goliath.path] + (Process.isThere(peer) ? [peer] : [])
    let result = try Process.output(["python3", script] + programs, seconds: 600)
    #expect(result.status == 0, "\(result.text.suffix(6000))")
  }

  @Test func aStartThatFailsIsExplainedOnTheMonitor() throws {
    let goliath = try Goliath([
      "-machine", "pc", "-cpu", "nosuch", "-nodefaults", "-display", "none",
    ])
    let client = try QMPClient(path: goliath.qmpPath, negotiate: false)
    try client.send(#"{"execute":"qmp_capabilities"}"#)
    #expect(try client.receive() == ["return": [:]])
    let event = try client.receive()
    #expect(event["event"] == "X_START_FAILED")
    #expect(event["data"]?["option"] == "-cpu" && event["data"]?["value"] == "nosuch")
    #expect(goliath.process.wait(seconds: 20) == 1)
  }

  @Test func aStartThatFailsDoesNotWaitForClientsWhoDoNotCome() throws {
    let goliath = try Goliath([
      "-machine", "pc", "-cpu", "nosuch", "-nodefaults", "-display", "none",
    ])
    #expect(goliath.process.wait(seconds: 20) == 1)
  }
}
