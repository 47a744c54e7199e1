import Chardev
import Host
import QAPI
import Support
import Testing

/// The multiplexer's keys, over a socket as its base.
@Suite(.timeLimit(.minutes(15))) struct MuxTests {
  init() { MainLoopThread.start() }

  private struct Setup: Sendable {
    let registry: ChardevRegistry
    let monitor: RecordingFrontend
    let serial: RecordingFrontend
    let ports: [ChardevPort]
    let number: UInt16
  }

  private func setUp(escape: UInt8? = 1) async throws -> Setup {
    try await MainLoop.perform {
      let registry = ChardevRegistry()
      registry.muxEscape = escape
      let base = try makeSocket(registry, anyPort, label: "serial0-base")
      let mux = try registry.create("serial0", .mux(ChardevMux(chardev: "serial0-base")))
      let monitor = RecordingFrontend()
      let serial = RecordingFrontend()
      registry.onMuxCommand = { monitor.events.append("\($0)") }
      let ports = [try mux.attach(monitor), try mux.attach(serial)]
      #expect(mux.filename == "mux")
      return Setup(
        registry: registry, monitor: monitor, serial: serial, ports: ports,
        number: base.localPort)
    }
  }

  @Test func keysGoToTheNewestFrontendUntilTheFocusMoves() async throws {
    let mux = try await setUp()
    let client = try Client(port: mux.number)
    try client.send("a\u{1}\u{1}b\u{1}cmon\u{1}cser\u{1}b\u{1}q\u{1}sx")
    await mux.serial.wait { mux.serial.text == "a\u{1}bserx" }
    #expect(await mux.monitor.text == "mon")
    #expect(await mux.serial.events == ["focus", "opened", "blur", "focus", "break"])
    #expect(await mux.monitor.events == ["blur", "opened", "focus", "blur", "commitAll"])
    mux.ports[0].write(Array("from monitor".utf8))
    #expect(try client.receiveText(12) == "from monitor")
    mux.ports[1].write(Array("from serial".utf8))
    #expect(try client.receiveText(11) == "from serial")
    await mux.registry.shutDown()
  }

  @Test func quitSaysItsFarewellFirst() async throws {
    let mux = try await setUp()
    let client = try Client(port: mux.number)
    try client.send("\u{1}x")
    #expect(try client.receiveText(18) == "QEMU: Terminated\n\r")
    await mux.monitor.wait { true }
    #expect(await mux.monitor.events.contains("quit"))
    await mux.registry.shutDown()
  }

  @Test func helpNamesTheKeys() async throws {
    let mux = try await setUp()
    let client = try Client(port: mux.number)
    try client.send("\u{1}h")
    let expected =
      "\n\rC-a h    print this help\n\rC-a x    exit emulator\n\r"
      + "C-a s    save disk data back to file (if -snapshot)\n\r"
      + "C-a t    toggle console timestamps\n\rC-a b    send break (magic sysrq)\n\r"
      + "C-a c    switch between console and monitor\n\rC-a C-a  sends C-a\n\r"
    #expect(try client.receiveText(expected.utf8.count) == expected)
    await mux.registry.shutDown()
  }

  @Test func anotherEscapeKeyOrNone() async throws {
    let other = try await setUp(escape: 2)
    let client = try Client(port: other.number)
    try client.send("\u{1}c\u{2}cm\u{2}\u{2}")
    await other.monitor.wait { other.monitor.text == "m\u{2}" }
    #expect(await other.serial.text == "\u{1}c")
    await other.registry.shutDown()

    let none = try await setUp(escape: nil)
    let second = try Client(port: none.number)
    try second.send("\u{1}c\u{0}c")
    await none.serial.wait { none.serial.text == "\u{1}c\u{0}c" }
    await none.registry.shutDown()
  }

  @Test func timeStampsStandAtLineStarts() async throws {
    let mux = try await setUp()
    let client = try Client(port: mux.number)
    try client.send("\u{1}t.")
    await mux.serial.wait { mux.serial.text == "." }
    mux.ports[1].write(Array("one\ntwo\n".utf8))
    let text = try client.receiveText(4 + 15 + 4)
    #expect(text == "one\n[00:00:00.000] two\n")
    await mux.registry.shutDown()
  }

  @Test func aFrontendThatTakesNothingDoesNotBlockTheEscape() async throws {
    let mux = try await setUp()
    await mux.serial.limit(0)
    let client = try Client(port: mux.number)
    try client.send(String(repeating: "z", count: 2000) + "\u{1}cm")
    await mux.monitor.wait { mux.monitor.text == "m" }
    await mux.serial.limit(.max)
    mux.ports[1].resumeReceiving()
    await mux.serial.wait { mux.serial.received.count == 2000 }
    await mux.registry.shutDown()
  }
}
