import Chardev
import Glibc
import Host
import QAPI
import Support
import Testing

/// Devices that are files, terminals and memory.
@Suite(.timeLimit(.minutes(15))) struct TransportTests {
  init() { MainLoopThread.start() }

  @Test func ptyOpensClosesAndCarriesBytesBothWays() async throws {
    let registry = await ChardevRegistry()
    let frontend = await RecordingFrontend()
    let (device, port) = try await MainLoop.perform {
      registry.onNotice = { frontend.events.append($0) }
      let device = try registry.create("serial0", .pty(ChardevCommon()))
      let port = try device.attach(frontend)
      port.write(Array("lost".utf8))
      return (device, port)
    }
    let path = try #require(await device.pseudoTerminalPath)
    #expect(await device.filename == "pty:\(path)")
    #expect(await frontend.events == ["char device redirected to \(path) (label serial0)"])
    for round in 1...2 {
      let terminal = try FileDescriptor.open(path, O_RDWR | O_NOCTTY)
      await frontend.wait { frontend.events.count == 2 * round }
      port.write(Array("to terminal\n".utf8))
      var buffer = [UInt8](repeating: 0, count: 100)
      let count = try terminal.read(into: &buffer)
      #expect(String(decoding: buffer[..<count], as: UTF8.self) == "to terminal\n")
      _ = try terminal.write(Array("from\r\u{3}".utf8))
      await frontend.wait { frontend.text == String(repeating: "from\r\u{3}", count: round) }
      terminal.close()
      await frontend.wait { frontend.events.count == 2 * round + 1 }
    }
    #expect(await frontend.events.dropFirst() == ["opened", "closed", "opened", "closed"])
    await registry.shutDown()
  }

  @Test func fileAppendsOrStartsAnewAndLogsAreCopies() async throws {
    let path = temporaryPath("file")
    let log = temporaryPath("log")
    for (append, expected) in [(false, "ab"), (true, "abab"), (false, "ab")] {
      let registry = await ChardevRegistry()
      try await MainLoop.perform {
        let device = try registry.create(
          "f", .file(ChardevFile(logfile: log, logappend: true, out: path, append: append)))
        let port = try device.attach(RecordingFrontend())
        port.write(Array("ab".utf8))
        registry.shutDown()
      }
      #expect(try FileDescriptor.contents(of: path) == Array(expected.utf8))
    }
    #expect(try FileDescriptor.contents(of: log) == Array("ababab".utf8))
    Descriptors.unlink(path)
    Descriptors.unlink(log)
  }

  @Test func fileInputIsReadToItsEnd() async throws {
    let input = temporaryPath("in")
    let output = temporaryPath("out")
    let bytes = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 >> 3) }
    let file = try FileDescriptor.open(input, O_WRONLY | O_CREAT)
    #expect(try file.write(bytes) == bytes.count)
    let registry = await ChardevRegistry()
    let frontend = await RecordingFrontend()
    let port = try await MainLoop.perform {
      try registry.create("f", .file(ChardevFile(in: input, out: output))).attach(frontend)
    }
    await frontend.wait { frontend.received.count == bytes.count }
    #expect(await frontend.received == bytes)
    _ = port
    await registry.shutDown()
    Descriptors.unlink(input)
    Descriptors.unlink(output)
  }

  @Test func pipeUsesTheTwoFIFOs() async throws {
    let path = temporaryPath("pipe")
    #expect(mkfifo(path + ".in", 0o600) == 0)
    #expect(mkfifo(path + ".out", 0o600) == 0)
    let registry = await ChardevRegistry()
    let frontend = await RecordingFrontend()
    let port = try await MainLoop.perform {
      try registry.create("p", .pipe(ChardevHostdev(device: path))).attach(frontend)
    }
    let writer = try FileDescriptor.open(path + ".in", O_WRONLY)
    let reader = try FileDescriptor.open(path + ".out", O_RDONLY)
    _ = try writer.write(Array("ping".utf8))
    await frontend.wait { frontend.text == "ping" }
    port.write(Array("pong".utf8))
    var buffer = [UInt8](repeating: 0, count: 10)
    #expect(try reader.read(into: &buffer) == 4)
    await registry.shutDown()
    Descriptors.unlink(path + ".in")
    Descriptors.unlink(path + ".out")
  }

  @Test func datagramsGoBothWays() async throws {
    let registry = await ChardevRegistry()
    let frontend = await RecordingFrontend()
    let peer = try Socket.datagram(
      remote: InetAddress(host: "127.0.0.1", port: "9"),
      local: InetAddress(host: "127.0.0.1", port: "0"))
    let number = Socket.localAddress(peer.rawValue)?.port ?? 0
    let (device, port) = try await MainLoop.perform {
      let device = try registry.create(
        "u",
        .udp(
          ChardevUdp(remote: .inet(InetSocketAddress(host: "127.0.0.1", port: String(number))))))
      return (device, try device.attach(frontend))
    }
    let own = await device.localPort
    var address = try InetAddress(host: "127.0.0.1", port: String(own))
      .resolve(isPassive: false, kind: Socket.datagramKind)
    #expect(Socket.connect(peer.rawValue, to: address.removeFirst()))
    _ = try Socket.send(peer.rawValue, Array("in".utf8), from: 0)
    await frontend.wait { frontend.text == "in" }
    port.write(Array("out".utf8))
    var entry = pollfd(fd: peer.rawValue, events: Int16(POLLIN), revents: 0)
    #expect(poll(&entry, 1, 10_000) == 1)
    var buffer = [UInt8](repeating: 0, count: 10)
    #expect(try Socket.receive(peer.rawValue, into: &buffer)?.count == 3)
    await registry.shutDown()
  }

  @Test func ringBufferKeepsTheNewestBytes() throws {
    var ring = try RingBuffer(size: 8)
    ring.write(Array("abcdefghij".utf8))
    #expect(ring.count == 8)
    #expect(ring.read(limit: 3) == Array("cde".utf8))
    ring.write(Array("kl".utf8))
    #expect(ring.read(limit: 100) == Array("fghijkl".utf8))
    #expect(ring.read(limit: 1) == [])
    for size in [0, -8, 100] {
      #expect(throws: ChardevError.self) { try RingBuffer(size: size) }
    }
  }

  @Test func ringBufferDeviceHoldsTheOutput() async throws {
    let registry = await ChardevRegistry()
    try await MainLoop.perform {
      let device = try registry.create("r", .ringbuf(ChardevRingbuf(size: 4)))
      let port = try device.attach(RecordingFrontend())
      port.write(Array("hello".utf8))
      #expect(device.readRingBuffer(limit: 10) == Array("ello".utf8))
      #expect(device.readRingBuffer(limit: 10) == [])
      #expect(try registry.create("n", .null(ChardevCommon())).readRingBuffer(limit: 1) == nil)
    }
  }

  @Test func labelsAndFrontendsAreTakenOnce() async throws {
    try await MainLoop.perform {
      let registry = ChardevRegistry()
      let device = try registry.create("a", .null(ChardevCommon()))
      #expect(throws: ChardevError(.inUse, "Chardev with id 'a' already exists")) {
        try registry.create("a", .null(ChardevCommon()))
      }
      let port = try device.attach(RecordingFrontend())
      #expect(throws: ChardevError(.inUse, "Device 'a' is in use")) {
        try device.attach(RecordingFrontend())
      }
      #expect(throws: ChardevError(.inUse, "Chardev 'a' is busy")) { try registry.remove("a") }
      port.detach()
      try registry.remove("a")
      #expect(throws: ChardevError(.notFound, "Chardev 'a' not found")) {
        try registry.remove("a")
      }
    }
  }
}
