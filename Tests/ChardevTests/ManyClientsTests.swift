import Chardev
import Glibc
import Host
import QAPI
import Support
import Testing

/// Any number of clients at once on one listening socket.
@Suite(.timeLimit(.minutes(15))) struct ManyClientsTests {
  init() { MainLoopThread.start() }

  /// A device whose sessions echo what they get in angle brackets.
  @MainLoop
  final class Door {
    let registry = ChardevRegistry()
    let device: Chardev
    var sessions: [Session] = []
    /// Sessions that ended.
    let ended = RecordingFrontend()

    init(_ address: SocketAddressLegacy, telnet: Bool? = nil, wait: Bool? = nil) throws {
      device = try makeSocket(registry, address, telnet: telnet, wait: wait)
      try device.serve { [unowned self] client in
        let session = Session(client, self)
        sessions.append(session)
        return session
      }
    }
  }

  @MainLoop
  final class Session: ChardevFrontend {
    let client: ChardevClient
    private unowned let door: Door
    var room = Int.max

    init(_ client: ChardevClient, _ door: Door) {
      self.client = client
      self.door = door
    }

    func chardevReceived(_ bytes: [UInt8]) -> Int {
      let taken = min(room, bytes.count)
      if taken > 0 { client.port.write([0x3C] + bytes[..<taken] + [0x3E]) }
      return taken
    }
    func chardevClosed() {
      door.sessions.removeAll { $0 === self }
      door.ended.chardevClosed()
    }
    func chardevDrained() { door.ended.chardevDrained() }
  }

  private func open(
    _ address: SocketAddressLegacy, telnet: Bool? = nil, wait: Bool? = nil
  ) async throws -> Door {
    try await MainLoop.perform { try Door(address, telnet: telnet, wait: wait) }
  }

  @Test func clientsAreServedAtOnceEachWithItsOwnSession() async throws {
    let door = try await open(anyPort)
    let number = await door.device.localPort
    let first = try Client(port: number)
    let second = try Client(port: number)
    try second.send("two")
    #expect(try second.receiveText(5) == "<two>")
    try first.send("one")
    #expect(try first.receiveText(5) == "<one>")
    #expect(await door.device.clientCount == 2)
    // The oldest is the one that is shown.
    let own = Socket.localAddress(first.socket.rawValue)?.text ?? ""
    #expect(await door.device.filename == "tcp:127.0.0.1:\(number),server=on <-> \(own)")
    _ = consume first
    await door.ended.wait { door.ended.events == ["closed"] }
    let other = Socket.localAddress(second.socket.rawValue)?.text ?? ""
    #expect(await door.device.filename.hasSuffix(" <-> \(other)"))
    try second.send("still")
    #expect(try second.receiveText(7) == "<still>")
    _ = consume second
    await door.ended.wait { door.ended.events == ["closed", "closed"] }
    #expect(await door.device.filename == "disconnected:tcp:127.0.0.1:\(number),server=on")
    await door.registry.shutDown()
  }

  @Test func whatAClientAskedForBeforeItsHalfCloseReachesIt() async throws {
    let registry = await ChardevRegistry()
    let ended = await RecordingFrontend()
    let size = 4 << 20
    let device = try await MainLoop.perform {
      let device = try makeSocket(registry, anyPort)
      try device.serve { Generous($0, size: size, ended) }
      return device
    }
    let client = try Client(port: await device.localPort)
    try client.send("x")
    shutdown(client.socket.rawValue, Int32(SHUT_WR))
    // The end is there to be read long before the client has room for the answer.
    for _ in 0..<50 { try await MainLoop.perform {} }
    #expect(try client.receive(size + 1).count == size)
    await ended.wait { ended.events == ["closed"] }
    await registry.shutDown()
  }

  /// Answers the first bytes with very many.
  @MainLoop
  private final class Generous: ChardevFrontend {
    private let client: ChardevClient
    private let size: Int
    private let ended: RecordingFrontend

    init(_ client: ChardevClient, size: Int, _ ended: RecordingFrontend) {
      self.client = client
      self.size = size
      self.ended = ended
    }

    func chardevReceived(_ bytes: [UInt8]) -> Int {
      client.port.write([UInt8](repeating: 0x79, count: size))
      return bytes.count
    }
    func chardevClosed() { ended.chardevClosed() }
  }

  @Test func telnetStateAndPassedDescriptorsBelongToTheirClient() async throws {
    let door = try await open(anyPort, telnet: true)
    let number = await door.device.localPort
    let first = try Client(port: number)
    let second = try Client(port: number)
    #expect(try first.receive(12) == TelnetOpening.bytes)
    #expect(try second.receive(12) == TelnetOpening.bytes)
    // The first is in the midst of a sequence when the second speaks.
    try first.send([0xFF, 0xFD])
    try second.send([0x61])
    #expect(try second.receiveText(3) == "<a>")
    try first.send([0x01, 0x62])
    #expect(try first.receiveText(3) == "<b>")
    await door.registry.shutDown()
  }

  @Test func aClientThatReadsNothingHoldsUpNobodyAndTellsWhenItHasRead() async throws {
    let path = temporaryPath("slow")
    let door = try await open(.unix(UnixSocketAddress(path: path)))
    let slow = try Client(.unix(path: path))
    try slow.send("x")
    #expect(try slow.receiveText(3) == "<x>")
    let flood = [UInt8](repeating: 0x2E, count: 3_000_000)
    let queued = await MainLoop.query {
      guard let port = door.sessions.first?.client.port else { return 0 }
      port.write(flood)
      port.notifyWhenDrained()
      return port.queuedByteCount
    }
    #expect(queued > 2_000_000)
    let quick = try Client(.unix(path: path))
    try quick.send("y")
    #expect(try quick.receiveText(3) == "<y>")
    #expect(try slow.receive(flood.count) == flood)
    await door.ended.wait { door.ended.events == ["drained"] }
    await door.registry.shutDown()
  }

  @Test func theStartWaitsForTheFirstClientOnly() async throws {
    let path = temporaryPath("wait")
    let door = try await open(.unix(UnixSocketAddress(path: path)), wait: true)
    let started = await RecordingFrontend()
    await MainLoop.query { door.registry.whenConnected { started.chardevOpened() } }
    #expect(await started.events == [])
    let client = try Client(.unix(path: path))
    await started.wait { started.events == ["opened"] }
    #expect(await door.device.isOpen)
    _ = consume client
    await door.registry.shutDown()
  }

  @Test func aSessionCanEndItsConnectionAndKnowsWhoItIs() async throws {
    let path = temporaryPath("who")
    let door = try await open(.unix(UnixSocketAddress(path: path)))
    let client = try Client(.unix(path: path))
    try client.send("x")
    #expect(try client.receiveText(3) == "<x>")
    let peer = await MainLoop.query { door.sessions.first?.client.peer }
    #expect(
      peer
        == ChardevPeer(address: "unix:\(path),server=on", process: getpid(), user: getuid()))
    await MainLoop.query { door.sessions.first?.client.disconnect() }
    #expect(try client.receive(1) == [])
    #expect(await door.device.clientCount == 0)
    await door.registry.shutDown()
  }

  @Test func aThousandIdleClientsDelayNobody() async throws {
    let path = temporaryPath("crowd")
    let door = try await open(.unix(UnixSocketAddress(path: path)))
    _ = Descriptors.raiseLimit()
    let count = 1000
    var sockets: [Int32] = []
    // In groups, each answered before the next: the kernel refuses when too many wait.
    while sockets.count < count {
      for _ in 0..<100 { sockets.append(try Socket.connect(.unix(path: path)).release()) }
      let probe = try Client(.unix(path: path))
      try probe.send("p")
      #expect(try probe.receiveText(3) == "<p>")
    }
    let last = try Client(.unix(path: path))
    try last.send("z")
    #expect(try last.receiveText(3) == "<z>")
    #expect(await door.device.clientCount == count + 1)
    for socket in sockets { FileDescriptor(owning: socket).close() }
    await door.ended.wait { door.ended.events.count == count + 10 }
    try last.send("w")
    #expect(try last.receiveText(3) == "<w>")
    await door.registry.shutDown()
  }
}

enum TelnetOpening {
  static let bytes: [UInt8] = [255, 251, 1, 255, 251, 3, 255, 251, 0, 255, 253, 0]
}

extension MainLoop {
  /// Asks something on the main loop.
  @MainLoop
  static func query<T: Sendable>(_ body: @MainLoop () -> T) async -> T { body() }
}
