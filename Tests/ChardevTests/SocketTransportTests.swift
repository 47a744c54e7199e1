import Chardev
import Host
import QAPI
import Support
import Testing

/// Socket devices over real sockets on ports and paths of their own.
@Suite(.timeLimit(.minutes(15))) struct SocketTransportTests {
  init() { MainLoopThread.start() }

  @Test func tcpServerServesOneClientAndThenTheNext() async throws {
    let (registry, device, frontend, port) = try await serve(anyPort)
    let number = await device.localPort
    let first = try Client(port: number)
    try first.send("hello")
    await frontend.wait { frontend.text == "hello" }
    port.write(Array("world".utf8))
    #expect(try first.receiveText(5) == "world")
    #expect(await device.filename.hasPrefix("tcp:127.0.0.1:\(number),server=on <-> 127.0.0.1:"))

    let second = try Client(port: number)
    try second.send("again")
    _ = consume first
    await frontend.wait { frontend.text == "helloagain" }
    #expect(await frontend.events == ["opened", "closed", "opened"])
    _ = consume second
    await frontend.wait { frontend.events.count == 4 }
    #expect(await device.filename == "disconnected:tcp:127.0.0.1:\(number),server=on")
    await registry.shutDown()
  }

  @Test func telnetSendsItsTwelveBytesAndDropsSequencesAcrossReads() async throws {
    let (registry, device, frontend, port) = try await serve(anyPort, telnet: true)
    let client = try Client(port: await device.localPort)
    let opening: [UInt8] = [255, 251, 1, 255, 251, 3, 255, 251, 0, 255, 253, 0]
    #expect(try client.receive(12) == opening)
    try client.send([0x61, 0xFF, 0xFD])
    await frontend.wait { frontend.text == "a" }
    try client.send([0x03, 0x62, 0xFF, 0xFF, 0xFF, 0xF3, 0x63])
    await frontend.wait { frontend.received == [0x61, 0x62, 0xFF, 0x63] }
    #expect(await frontend.events == ["opened", "break"])
    port.write([0x78, 0xFF, 0x79])
    #expect(try client.receive(4) == [0x78, 0xFF, 0xFF, 0x79])
    await registry.shutDown()
  }

  @Test func aClientThatLeavesAFrontendThatTakesNothingMakesRoomForTheNext() async throws {
    let path = temporaryPath("leave")
    let (registry, _, frontend, port) = try await serve(.unix(UnixSocketAddress(path: path)))
    await frontend.limit(0)
    let first = try Client(.unix(path: path))
    try first.send("nobody reads this")
    await frontend.wait { frontend.events == ["opened"] }
    _ = consume first
    let second = try Client(.unix(path: path))
    try second.send("but this")
    await frontend.wait { frontend.events == ["opened", "closed", "opened"] }
    await frontend.limit(.max)
    port.resumeReceiving()
    await frontend.wait { frontend.text == "but this" }
    await registry.shutDown()
  }

  @Test func aFrontendThatTakesLittleGetsEverythingInTheEnd() async throws {
    let (registry, device, frontend, port) = try await serve(anyPort)
    await frontend.limit(3)
    let client = try Client(port: await device.localPort)
    let sent = (0..<300_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    let sender = Task.detached {
      try client.send(sent)
      return try client.receive(1)
    }
    await frontend.wait { frontend.received.count == 3 }
    while await frontend.received.count < sent.count {
      let wanted = await min(frontend.received.count + 1, sent.count)
      await frontend.limit(50_000)
      port.resumeReceiving()
      await frontend.wait { frontend.received.count >= wanted }
    }
    #expect(await frontend.received == sent)
    port.write([1])
    #expect(try await sender.value == [1])
    await registry.shutDown()
  }

  @Test func aFrontendThatHasRoomAgainWhileItTakesBytesLosesNothing() async throws {
    let (registry, device, frontend, port) = try await serve(anyPort)
    await frontend.limit(16)
    // A guest that empties its FIFO before the device has answered how much it took.
    await frontend.whenReceiving {
      frontend.room = 16
      port.resumeReceiving()
    }
    let client = try Client(port: await device.localPort)
    try client.send(String(repeating: "0123456789", count: 100))
    await frontend.wait { frontend.received.count == 1000 }
    await registry.shutDown()
  }

  @Test func writesFromOtherThreadsArriveWholeAndInOrderThroughASlowReader() async throws {
    let (registry, device, frontend, port) = try await serve(anyPort, outputLimit: 4096)
    let client = try Client(port: await device.localPort)
    await frontend.wait { frontend.events == ["opened"] }
    let total = 4_000_000
    let writer = try HostThread(name: "writer") {
      var sent = 0
      while sent < total {
        if port.write(UInt8(truncatingIfNeeded: sent &* 13)) { sent += 1 }
      }
    }
    let bytes = try client.receive(total)
    #expect(bytes.count == total)
    #expect(bytes.indices.allSatisfy { bytes[$0] == UInt8(truncatingIfNeeded: $0 &* 13) })
    writer.join()
    await frontend.wait { frontend.events.contains("drained") }
    await registry.shutDown()
  }

  @Test func whatIsQueuedAtTheEndStillArrives() async throws {
    let (registry, device, frontend, port) = try await serve(anyPort)
    let client = try Client(port: await device.localPort)
    await frontend.wait { frontend.events == ["opened"] }
    // More than the socket takes at once.
    let sent = (0..<4_000_000).map { UInt8(truncatingIfNeeded: $0 &* 11) }
    port.write(sent)
    let reader = try HostThread(name: "shutdown") {
      MainLoop.post { registry.shutDown() }
    }
    #expect(try client.receive(sent.count) == sent)
    #expect(try client.receive(1) == [])
    reader.join()
  }

  @Test func unixSocketIsRemovedAtTheEndAndDescriptorsArrive() async throws {
    let path = temporaryPath("unix")
    let (registry, device, frontend, _) = try await serve(.unix(UnixSocketAddress(path: path)))
    #expect(await device.filename == "disconnected:unix:\(path),server=on")
    let client = try Client(.unix(path: path))
    try client.send("x")
    await frontend.wait { frontend.text == "x" }
    #expect(await device.filename == "unix:\(path),server=on")
    #expect(Process.isThere(path))
    await registry.shutDown()
    #expect(!Process.isThere(path))
    #expect(try client.receive(1) == [])
  }

  @Test func abstractNamesWork() async throws {
    let name = "goliath-\(UInt64.random(in: 0...UInt64.max))"
    let address = UnixSocketAddress(path: name, abstract: true)
    let (registry, _, frontend, _) = try await serve(.unix(address))
    let client = try Client(.abstract(name: name, isTight: true))
    try client.send("x")
    await frontend.wait { frontend.text == "x" }
    await registry.shutDown()
  }

  @Test func aClientReconnects() async throws {
    let listener = try Socket.listen(.inet(InetAddress(host: "127.0.0.1", port: "0")))
    let number = Socket.localAddress(listener.rawValue)?.port ?? 0
    let address = SocketAddressLegacy.inet(
      InetSocketAddress(host: "127.0.0.1", port: String(number)))
    let (registry, _, frontend, _) = try await serve(address, server: false, reconnect: 1)
    await frontend.wait { frontend.events == ["opened"] }
    try Socket.accept(listener.rawValue).close()
    await frontend.wait { frontend.events == ["opened", "closed", "opened"] }
    await registry.shutDown()
  }

  @Test func waitingServersHoldTheStartUntilTheirClientsAreThere() async throws {
    let registry = await ChardevRegistry()
    let path = temporaryPath("wait")
    let frontend = await RecordingFrontend()
    _ = try await MainLoop.perform {
      registry.onReport = { label, text in frontend.events.append("\(label) \(text)") }
      _ = try makeSocket(registry, .unix(UnixSocketAddress(path: path)), wait: true)
      registry.whenConnected { frontend.chardevOpened() }
    }
    #expect(
      await frontend.events == [
        "c info: QEMU waiting for connection on: disconnected:unix:\(path),server=on"
      ])
    let client = try Client(.unix(path: path))
    await frontend.wait { frontend.events.last == "opened" }
    _ = consume client
    await registry.shutDown()
  }

  @Test(arguments: [
    (
      ChardevSocket(addr: .unix(UnixSocketAddress(path: "/nosuch/dir/s"))),
      "Failed to bind socket to /nosuch/dir/s: No such file or directory"
    ),
    (
      ChardevSocket(addr: .unix(UnixSocketAddress(path: "/nosuch")), server: false),
      "Failed to connect to '/nosuch': No such file or directory"
    ),
    (
      ChardevSocket(
        addr: .inet(InetSocketAddress(host: "127.0.0.1", port: "abc")), server: true),
      "address resolution failed for 127.0.0.1:abc: Servname not supported for ai_socktype"
    ),
    (
      ChardevSocket(
        addr: .inet(InetSocketAddress(host: "127.0.0.1", port: "1")), server: false, wait: true),
      "'wait' option is incompatible with socket in client connect mode"
    ),
    (
      ChardevSocket(addr: anyPort, server: true, reconnect: 1),
      "'reconnect' option is incompatible with socket in server listen mode"
    ),
    (
      ChardevSocket(addr: .fd(DescriptorName(str: "9999"))),
      "File descriptor '9999' is not a socket"
    ),
    (
      ChardevSocket(addr: .unix(UnixSocketAddress(path: String(repeating: "x", count: 108)))),
      "UNIX socket path '\(String(repeating: "x", count: 108))' is too long"
    ),
  ])
  func errorsNameAddressAndReason(_ socket: ChardevSocket, _ text: String) async throws {
    let registry = await ChardevRegistry()
    let error = await #expect(throws: ChardevError.self) {
      try await registry.create("c", .socket(socket))
    }
    #expect(error?.message == text)
  }

  @Test func aBusyPortIsReported() async throws {
    let listener = try Socket.listen(.inet(InetAddress(host: "127.0.0.1", port: "0")))
    let number = Socket.localAddress(listener.rawValue)?.port ?? 0
    let registry = await ChardevRegistry()
    let address = InetSocketAddress(host: "127.0.0.1", port: String(number))
    let error = await #expect(throws: ChardevError.self) {
      try await registry.create("c", .socket(ChardevSocket(addr: .inet(address))))
    }
    #expect(error?.message == "Failed to find an available port: Address already in use")
    let range = InetSocketAddress(
      host: "127.0.0.1", port: String(number), to: number &+ 50)
    let device = try await registry.create("c", .socket(ChardevSocket(addr: .inet(range))))
    #expect(await device.localPort > number)
    await registry.shutDown()
  }

  private func serve(
    _ address: SocketAddressLegacy, server: Bool = true, telnet: Bool? = nil,
    reconnect: Int? = nil, outputLimit: Int = .max
  ) async throws -> (ChardevRegistry, Chardev, RecordingFrontend, ChardevPort) {
    try await MainLoop.perform {
      let registry = ChardevRegistry()
      let frontend = RecordingFrontend()
      let device = try makeSocket(
        registry, address, server: server, telnet: telnet, reconnect: reconnect)
      let port = try device.attach(frontend, outputLimit: outputLimit)
      return (registry, device, frontend, port)
    }
  }
}

extension RecordingFrontend {
  func limit(_ bytes: Int) { room = bytes }
}

extension MainLoop {
  /// Runs `body` on the main loop and waits for its result.
  @MainLoop
  static func perform<T: Sendable>(_ body: @MainLoop () throws -> T) async throws -> T {
    try body()
  }
}
