import JSON
import Testing
import goliath_shell

@Suite struct ClientModelTests {
  static let greeting =
    #"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}"#
    + "\r\n"

  /// Whose reply it is; -1 for what is none.
  static func token(_ item: QMPClientModel.Item) -> Int? {
    guard case .reply(let token, _) = item else { return -1 }
    return token
  }

  static func ready(outOfBand: Bool = false) -> QMPClientModel {
    var model = QMPClientModel(outOfBand: outOfBand)
    let items = model.receive(Array(greeting.utf8))
    guard case .greeting? = items.first else {
      Issue.record("no greeting: \(items)")
      return model
    }
    #expect(model.receive(Array("{\"return\": {}}\r\n".utf8)) == [.ready])
    return model
  }

  @Test func negotiationFollowsTheGreeting() {
    var model = QMPClientModel(outOfBand: true)
    _ = model.receive(Array(Self.greeting.utf8))
    let sent = String(decoding: model.negotiation, as: UTF8.self)
    #expect(sent == #"{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}"# + "\n")
    #expect(!model.allowsOutOfBand)
    _ = model.receive(Array("{\"return\": {}}".utf8))
    #expect(model.allowsOutOfBand)
    #expect(!Self.ready().allowsOutOfBand)
  }

  @Test func repliesBelongToRequestsInOrderHoweverTheyAreCut() {
    var model = Self.ready()
    _ = model.send(QMPRequest("a"), token: 1)
    _ = model.send(QMPRequest("b"), token: 2)
    let text =
      #"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"# + "\r\n"
      + #"{"return": {"x": 1}}"# + "\r\n"
      + #"{"error": {"class": "GenericError", "desc": "no"}}"# + "\r\n"
    var items: [QMPClientModel.Item] = []
    for byte in text.utf8 { items += model.receive([byte]) }
    #expect(items.count == 3)
    guard items.count == 3, case .event(let event, _) = items[0],
      case .reply(1, let first) = items[1], case .reply(2, let second) = items[2]
    else {
      Issue.record("\(items)")
      return
    }
    #expect(event["event"] == "STOP")
    #expect(first.result == .success(["x": 1]))
    #expect(first.raw == Array(#"{"return": {"x": 1}}"#.utf8))
    #expect(second.result == .failure(.init(errorClass: "GenericError", text: "no")))
  }

  @Test func outOfBandRepliesOvertake() {
    var model = Self.ready(outOfBand: true)
    _ = model.send(QMPRequest("slow"), token: 1)
    let urgent = model.send(QMPRequest("yank", isOutOfBand: true), token: 2)
    #expect(
      String(decoding: urgent, as: UTF8.self)
        == #"{"exec-oob": "yank", "id": "goliath-shell-2"}"# + "\n")
    let items = model.receive(
      Array(#"{"return": {}, "id": "goliath-shell-2"}{"return": 5}"#.utf8) + [10])
    #expect(items.map(Self.token) == [2, 1])
  }

  @Test func anAbandonedReplyIsNobodysElse() {
    var model = Self.ready()
    _ = model.send(QMPRequest("a"), token: 1)
    model.abandon(1)
    _ = model.send(QMPRequest("b"), token: 2)
    let items = model.receive(Array(#"{"return": 1}{"return": 2} "#.utf8))
    #expect(items.map(Self.token) == [nil, 2])
  }

  @Test(arguments: [
    "SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n", "\u{0}\u{1}\u{2}", "[1, 2]\n",
    "{\"hello\": 1}\n", "220 mail\n", "7 ", "{\"QMP\" 1}",
  ])
  func whatIsNoMonitorIsSaidToBeNone(text: String) {
    var model = QMPClientModel(outOfBand: false)
    let items = model.receive(Array(text.utf8))
    guard case .broken(let reason)? = items.first else {
      Issue.record("\(items)")
      return
    }
    #expect(reason.hasPrefix("it does not speak QMP"))
    #expect(model.receive(Array(Self.greeting.utf8)) == [])
  }

  @Test func aHumanMonitorIsRecognised() {
    var model = QMPClientModel(outOfBand: false)
    let items = model.receive(
      Array("QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ".utf8))
    guard case .broken(let reason)? = items.first else {
      Issue.record("\(items)")
      return
    }
    #expect(reason.hasSuffix("use --hmp"))
  }

  @Test func aGreetingThatNeverEndsIsGivenUp() {
    var model = QMPClientModel(outOfBand: false)
    var items = model.receive(Array("{\"a\": \"".utf8))
    for _ in 0..<80 { items += model.receive([UInt8](repeating: 0x61, count: 1024)) }
    guard case .broken? = items.first else {
      Issue.record("nothing")
      return
    }
    #expect(items.count == 1)
  }

  @Test func garbageAfterTheGreetingEndsTheConnection() {
    for text in ["@@@\n", "[]", "{\"x\": 1}", "{\"return\" 1}"] {
      var model = Self.ready()
      guard case .broken? = model.receive(Array(text.utf8)).last else {
        Issue.record("\(text)")
        continue
      }
    }
  }

  // MARK: - The human monitor

  @Test func answersStandBetweenEchoAndPrompt() {
    var model = HumanClientModel()
    #expect(
      model.receive(Array("QEMU 7.2.22 monitor\r\n(qemu) ".utf8))
        == [.ready(banner: "QEMU 7.2.22 monitor\n")])
    #expect(model.send("info status", token: 4) == Array("info status\n".utf8))
    let echo = "i\u{1B}[K\u{1B}[Din\u{1B}[Dinfo status\u{1B}[K\r\n"
    var items = model.receive(Array(echo.utf8))
    items += model.receive(Array("VM status: paused\r\n(qemu)".utf8))
    #expect(items.isEmpty)
    #expect(model.receive([0x20]) == [.answer(4, "VM status: paused\n")])
    #expect(model.receive(Array("late news\r\n".utf8)) == [.text("late news\n")])
  }

  @Test func telnetsCommandsAreNoText() {
    var model = HumanClientModel()
    let bytes: [UInt8] =
      [255, 251, 1, 255, 251, 3, 255, 250, 24, 1, 255, 240] + Array("hi\r\n(qemu) ".utf8)
    #expect(model.receive(bytes) == [.ready(banner: "hi\n")])
  }

  @Test func keysOfTheLineEditorAreNotSent() {
    var model = HumanClientModel()
    _ = model.receive(Array("(qemu) ".utf8))
    #expect(model.send("a\u{9}\u{1}b\nc", token: 1) == Array("abc\n".utf8))
  }
}
