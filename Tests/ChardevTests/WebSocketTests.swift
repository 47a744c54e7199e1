import Chardev
import Host
import QAPI
import Support
import Testing

/// A client that reads exactly as many bytes as asked for.
private final class Peer {
  private let client: Client
  private var buffer: [UInt8] = []

  init(port: UInt16) throws { client = try Client(port: port) }

  func send(_ text: String) throws { try client.send(text) }
  func send(_ bytes: [UInt8]) throws { try client.send(bytes) }

  /// Fewer at the end of the connection.
  func receive(_ count: Int) throws -> [UInt8] {
    if buffer.count < count { buffer += try client.receive(count - buffer.count) }
    let result = Array(buffer.prefix(count))
    buffer.removeFirst(result.count)
    return result
  }

  func receiveText(_ count: Int) throws -> String {
    String(decoding: try receive(count), as: UTF8.self)
  }
}

/// A websocket device and raw clients: bytes as QEMU 7.2 sends them.
@Suite(.timeLimit(.minutes(15))) struct WebSocketTests {
  init() { MainLoopThread.start() }

  private static let request = [
    "GET / HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Protocol: binary",
  ]

  @MainLoop
  private final class Door {
    let registry = ChardevRegistry()
    let device: Chardev
    let frontend = RecordingFrontend()
    var reports: [String] = []
    let port: ChardevPort

    init() throws {
      device = try registry.create(
        "ws",
        .socket(ChardevSocket(addr: anyPort, server: true, wait: false, websocket: true)))
      port = try device.attach(frontend)
      registry.onReport = { [weak self] _, text in self?.reports.append(text) }
    }
  }

  private func open() async throws -> Door { try await MainLoop.perform { try Door() } }

  /// What a server answers, with its date blanked, until it closes or `count` bytes came.
  private func answer(_ client: Peer, _ count: Int = .max) throws -> String {
    let text = try client.receiveText(count)
    return text.split(separator: "\r\n", omittingEmptySubsequences: false).map {
      $0.hasPrefix("Date: ") && $0.hasSuffix(" GMT") && $0.utf8.count == 35 ? "Date: X" : $0
    }.joined(separator: "\r\n")
  }

  private func bytes(_ lines: [String]) -> String { lines.joined(separator: "\r\n") + "\r\n\r\n" }

  static let welcome =
    "HTTP/1.1 101 Switching Protocols\r\nServer: QEMU VNC\r\nDate: X\r\nUpgrade: websocket\r\n"
    + "Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"

  static let badRequest =
    "HTTP/1.1 400 Bad Request\r\nServer: QEMU VNC\r\nDate: X\r\nConnection: close\r\n"
    + "Sec-WebSocket-Version: 13\r\n"

  /// The date counts 29 bytes.
  private func size(_ answer: String) -> Int { answer.utf8.count + 28 }

  private func connect(_ door: Door) async throws -> Peer {
    let number = await door.device.localPort
    let client = try Peer(port: number)
    try client.send(bytes(Self.request))
    let expected = Self.welcome + "Sec-WebSocket-Protocol: binary\r\n\r\n"
    #expect(try answer(client, size(expected)) == expected)
    return client
  }

  private func frame(
    _ opcode: UInt8, _ payload: [UInt8], last: Bool = true, mask: [UInt8]? = [1, 2, 3, 4],
    reserved: UInt8 = 0, length: UInt64? = nil
  ) -> [UInt8] {
    let count = length ?? UInt64(payload.count)
    var frame = [opcode | (last ? 0x80 : 0) | reserved << 4]
    let flag: UInt8 = mask == nil ? 0 : 0x80
    if count < 126 {
      frame.append(flag | UInt8(count))
    } else {
      let size = count < 65536 ? 2 : 8
      frame.append(flag | (size == 2 ? 126 : 127))
      for index in (0..<size).reversed() {
        frame.append(UInt8(truncatingIfNeeded: count >> UInt64(8 * index)))
      }
    }
    guard let mask else { return frame + payload }
    return frame + mask + payload.enumerated().map { $1 ^ mask[$0 % 4] }
  }

  @Test func dataPassesInBinaryFrames() async throws {
    let door = try await open()
    let name = await door.device.filename
    #expect(name == "disconnected:websocket:127.0.0.1:\(await door.device.localPort),server=on")
    let client = try await connect(door)
    await door.frontend.wait { door.frontend.events == ["opened"] }
    #expect(await door.device.filename.hasPrefix("websocket:127.0.0.1:"))
    try client.send(frame(2, Array("hel".utf8), last: false))
    try client.send(frame(9, [7, 8]))
    // The mask goes on across reads.
    for byte in frame(0, Array("lo world".utf8)) { try client.send([byte]) }
    await door.frontend.wait { door.frontend.text == "hello world" }
    #expect(try client.receive(4) == [0x8A, 2, 7, 8])
    _ = await door.port.write(Array("answer".utf8))
    #expect(try client.receive(8) == [0x82, 6] + Array("answer".utf8))
    let long = [UInt8](repeating: 0x61, count: 70_000)
    try await MainLoop.perform { _ = door.port.write(long) }
    var payload: [UInt8] = []
    while payload.count < long.count {
      let head = try client.receive(2)
      #expect(head[0] == 0x82)
      let extended = try client.receive(head[1] == 127 ? 8 : head[1] == 126 ? 2 : 0)
      let count = extended.isEmpty ? Int(head[1]) : extended.reduce(0) { $0 << 8 | Int($1) }
      payload += try client.receive(count)
    }
    #expect(payload.count == long.count)
    #expect(payload.allSatisfy { $0 == 0x61 })
    try client.send(frame(8, [3, 232]))
    #expect(try client.receive(100) == [0x88, 22, 3, 232] + Array("peer requested close".utf8))
    await door.frontend.wait { door.frontend.events.contains("closed") }
    #expect(await door.reports.isEmpty)
  }

  @Test(arguments: [
    (["Sec-WebSocket-Protocol: chat, binary"], "Sec-WebSocket-Protocol: binary\r\n"),
    ([], ""),
  ])
  func theProtocolIsAgreedOn(fields: [String], answered: String) async throws {
    let door = try await open()
    let client = try Peer(port: await door.device.localPort)
    try client.send(bytes(Self.request.dropLast() + fields))
    let expected = Self.welcome + answered + "\r\n"
    #expect(try answer(client, size(expected)) == expected)
  }

  /// Which line of the request is replaced by which (nil: left out).
  @Test(
    arguments: [
      (0, "POST / HTTP/1.1"), (0, "GET / HTTP/1.0"), (0, "hello"), (1, nil), (2, nil), (3, nil),
      (4, nil), (5, nil), (2, "Upgrade: x"), (3, "Connection: close"),
      (4, "Sec-WebSocket-Key: abc"), (5, "Sec-WebSocket-Version: 8"),
      (6, "Sec-WebSocket-Protocol: chat"), (6, "no colon"),
    ] as [(Int, String?)])
  func otherRequestsAreBad(line: Int, replacement: String?) async throws {
    let door = try await open()
    let client = try Peer(port: await door.device.localPort)
    var lines = Self.request
    if let replacement { lines[line] = replacement } else { lines.remove(at: line) }
    try client.send(bytes(lines))
    #expect(try answer(client) == Self.badRequest)
    let device = door.device
    // The next one is welcome.
    _ = try await connect(door)
    #expect(await device.filename.contains("websocket"))
  }

  @Test func otherPathsAndLongRequestsAreRefused() async throws {
    let door = try await open()
    let number = await door.device.localPort
    let client = try Peer(port: number)
    try client.send(bytes(["GET /x HTTP/1.1"] + Self.request.dropFirst()))
    let end = "\r\nServer: QEMU VNC\r\nDate: X\r\nConnection: close\r\n\r\n"
    #expect(try answer(client) == "HTTP/1.1 404 Not Found" + end)
    let other = try Peer(port: number)
    try other.send("GET / HTTP/1.1\r\nX: " + String(repeating: "a", count: 4096))
    let tooLong = "HTTP/1.1 403 Request Entity Too Large" + end
    #expect(try answer(other, size(tooLong)) == tooLong)
    let many = try Peer(port: number)
    try many.send(bytes(Self.request + (0..<40).map { "X-\($0): y" }))
    #expect(try answer(many) == Self.badRequest)
    try await MainLoop.perform {
      #expect(door.reports.count == 3)
      #expect(door.reports.allSatisfy { $0.hasPrefix("Websocket handshake failed: ") })
    }
  }

  @Test func framesThatBreakTheRulesCloseTheConnection() async throws {
    let cases: [([UInt8], UInt16, String)] = [
      (frame(1, [65]), 1003, "only binary, close, ping, and pong frames are supported"),
      (frame(3, [65]), 1003, "only binary, close, ping, and pong frames are supported"),
      (frame(0, [65]), 1003, "only binary, close, ping, and pong frames are supported"),
      (frame(9, [UInt8](repeating: 0, count: 126)), 1002, "control frame is too large"),
      (frame(9, [65], last: false), 1008, "only binary frames may be fragmented"),
      (frame(2, [65], mask: nil), 1002, "client frames must be masked"),
      (frame(2, [65], reserved: 4), 1002, "reserved bits are set"),
      (frame(2, [65], length: 1 << 63), 1002, "frame length is out of range"),
    ]
    for (bytes, code, text) in cases {
      let door = try await open()
      let client = try await connect(door)
      try client.send(bytes)
      let status = [UInt8(code >> 8), UInt8(code & 255)]
      let expected = [0x88, UInt8(text.utf8.count + 2)] + status + Array(text.utf8)
      #expect(try client.receive(200) == expected, "\(text)")
      #expect(await door.frontend.received.isEmpty)
    }
  }

  @Test func claimedLengthsCostNothing() async throws {
    let door = try await open()
    let client = try await connect(door)
    try client.send(frame(2, Array("data".utf8), length: 1 << 62))
    await door.frontend.wait { door.frontend.text == "data" }
  }

  @Test func telnetRunsInsideAWebsocket() async throws {
    let device = try await MainLoop.perform {
      let registry = ChardevRegistry()
      let device = try registry.create(
        "ws",
        .socket(
          ChardevSocket(addr: anyPort, server: true, wait: false, telnet: true, websocket: true)))
      return (registry, device)
    }
    let client = try Peer(port: await device.1.localPort)
    try client.send(bytes(Self.request))
    let welcome = Self.welcome + "Sec-WebSocket-Protocol: binary\r\n\r\n"
    #expect(try answer(client, size(welcome)) == welcome)
    #expect(try client.receive(14).prefix(5) == [0x82, 12, 0xFF, 0xFB, 1])
    #expect(await device.1.filename.hasPrefix("telnet:"))
  }
}
