import Glibc
import Host
import Support
import Testing

/// goliath-shell with servers that are none, or that misbehave: a clear sentence, a status, and no waiting for ever.
@Suite struct ShellHostilityTests {
  static let greeting =
    #"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 9}, "package": "\u001b]0;x"}, "capabilities": []}}"#
    + "\r\n"

  /// Lets the shell connect to a server that says `greeting` and then, for each request, the next of `answers`; an empty one closes.
  /// With `closing`, the connection ends right behind the last answer.
  static func converse(
    _ greeting: [UInt8], answers: [[UInt8]] = [], closing: Bool = false, _ arguments: [String]
  ) throws -> (status: Int32, text: String) {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let listener = try Socket.listen(.unix(path: folder + "/s"))
    let process = try Process([ShellTests.path, folder + "/s"] + arguments)
    var entries = [PollEntry(listener.rawValue, .readable)]
    try PollEntry.wait(&entries, milliseconds: 30_000)
    let client = try Socket.accept(listener.rawValue)
    try send(greeting, client.rawValue)
    var buffer = [UInt8](repeating: 0, count: 65536)
    var open: Int32? = client.release()
    for answer in answers {
      guard let socket = open else { break }
      var entries = [PollEntry(socket, .readable)]
      try PollEntry.wait(&entries, milliseconds: 30_000)
      if let (count, _) = try? Socket.receive(socket, into: &buffer), count == 0 { break }
      if answer.isEmpty {
        close(socket)
        open = nil
      } else {
        try send(answer, socket)
      }
    }
    if closing, let socket = open {
      close(socket)
      open = nil
    }
    _ = process.readUntil(seconds: 60) { _ in false }
    let status = process.wait(seconds: 10) ?? -1
    if let open { close(open) }
    return (status, process.text)
  }

  /// Sends all bytes, as long as somebody takes them.
  private static func send(_ bytes: [UInt8], _ socket: Int32) throws {
    var done = 0
    while done < bytes.count {
      guard let count = try? Socket.send(socket, bytes, from: done) else { return }
      done += count
      if count == 0 { Descriptors.waitWritable(socket, milliseconds: 10_000) }
    }
  }

  static func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

  static let negotiated = bytes("{\"return\": {}}\r\n")

  @Test(arguments: [
    "SSH-2.0-OpenSSH_9.2p1 Debian\r\n", "HTTP/1.0 200 OK\r\n\r\n<html>", "\u{1B}[2J{}{}{}",
    "[[[[]]]]\n",
  ])
  func whatIsNoMonitorIsNamedAsSuch(said: String) throws {
    let result = try Self.converse(Self.bytes(said), ["-c", "query-status"])
    #expect(result.status == 3)
    #expect(result.text.contains("it does not speak QMP"), "\(result.text)")
    #expect(!result.text.contains("\u{1B}"))
  }

  @Test func anEndlessGreetingIsGivenUp() throws {
    let result = try Self.converse(
      Self.bytes("{\"QMP\": \"") + [UInt8](repeating: 0x61, count: 4 << 20), ["-c", "query-status"])
    #expect(result.status == 3)
    #expect(result.text.contains("no greeting"), "\(result.text)")
  }

  @Test func silenceIsATimeout() throws {
    let result = try Self.converse([], ["--connect-timeout", "0.2", "-c", "query-status"])
    #expect(result.status == 3)
    #expect(result.text.contains("no greeting within 0.2 s"), "\(result.text)")
    let later = try Self.converse(
      Self.bytes(Self.greeting), answers: [Self.negotiated], ["-t", "0.2", "-c", "query-status"])
    #expect(later.status == 4)
    #expect(later.text.contains("no reply within 0.2 s"), "\(later.text)")
  }

  @Test func anEarlyEndIsToldWithItsPlace() throws {
    let before = try Self.converse(Self.bytes(Self.greeting), answers: [[]], ["-c", "stop"])
    #expect(before.status == 3)
    let during = try Self.converse(
      Self.bytes(Self.greeting), answers: [Self.negotiated, []], ["-c", "stop"])
    #expect(during.status == 5)
    #expect(during.text.contains("closed the connection"), "\(during.text)")
    let half = try Self.converse(
      Self.bytes(Self.greeting), answers: [Self.negotiated, Self.bytes("{\"return\": {\"a")],
      closing: true, ["-c", "stop"])
    #expect(half.status == 5)
  }

  @Test func garbageInPlaceOfAReplyEndsTheConnection() throws {
    for garbage in ["{\"return\" 1}\n", "\u{0}\u{0}\n", "{\"neither\": 1}\n", "]]]]"] {
      let result = try Self.converse(
        Self.bytes(Self.greeting), answers: [Self.negotiated, Self.bytes(garbage)], ["-c", "stop"])
      #expect(result.status == 5, "\(garbage): \(result.text)")
    }
  }

  @Test func deepAndLargeAnswersAreJustAnswers() throws {
    let deep =
      String(repeating: "[", count: 1000) + "7" + String(repeating: "]", count: 1000)
    let first = try Self.converse(
      Self.bytes(Self.greeting), answers: [Self.negotiated, Self.bytes("{\"return\": \(deep)}\n")],
      ["-c", "query-x"])
    #expect(first.status == 0)
    let large = String(repeating: "x", count: 3 << 20)
    let second = try Self.converse(
      Self.bytes(Self.greeting),
      answers: [Self.negotiated, Self.bytes("{\"return\": \"\(large)\"}\n")], ["-c", "query-x"])
    #expect(second.status == 0)
    #expect(second.text.utf8.count == (3 << 20) + 1)
  }

  @Test func aServersTextCannotControlTheTerminal() throws {
    let evil = #"{"error": {"class": "GenericError", "desc": "a\u001b]0;title\u0007b\u009b2J"}}"#
    let result = try Self.converse(
      Self.bytes(Self.greeting), answers: [Self.negotiated, Self.bytes(evil + "\n")],
      ["-c", "stop"])
    #expect(result.status == 1)
    #expect(result.text == "error: a^[]0;title^Gb\u{FFFD}2J\n")
  }

  @Test func aFailedStartIsTold() throws {
    let event =
      #"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "X_START_FAILED", "data": {"option": "-drive", "value": "file=x", "reason": "no such option"}}"#
      + "\r\n"
    let result = try Self.converse(
      Self.bytes(Self.greeting + event), answers: [[]], ["--start-failure"])
    #expect(result.status == 6)
    #expect(
      result.text == "goliath-shell: the server cannot start: -drive file=x: no such option\n")
    let fine = try Self.converse(
      Self.bytes(Self.greeting), answers: [Self.negotiated], ["--start-failure"])
    #expect(fine.status == 0)
  }
}
