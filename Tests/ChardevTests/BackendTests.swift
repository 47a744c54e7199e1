import Chardev
import Glibc
import Host
import QAPI
import Support
import Testing

/// Descriptor sets, changes below a frontend, and the rarer kinds of devices.
@Suite(.timeLimit(.minutes(15)), .serialized) struct BackendTests {
  init() { MainLoopThread.start() }

  @MainLoop
  final class ChangeableFrontend: ChardevFrontend {
    var events: [String] = []
    let canChangeDevice = true
    func chardevReceived(_ bytes: [UInt8]) -> Int { bytes.count }
    func chardevOpened() { events.append("opened") }
    func chardevClosed() { events.append("closed") }
  }

  @Test func aFileOfASetIsADuplicateOfTheDescriptorWhoseModeFits() async throws {
    let path = temporaryPath("set")
    let number: Int64 = 1_000_007
    let name = "/dev/fdset/\(number)"
    try await MainLoop.perform {
      let sets = DescriptorSets.shared
      let write = try FileDescriptor.open(path, O_WRONLY | O_CREAT)
      sets.add(write, to: number, note: "w")
      #expect(code { _ = try FileDescriptor.open(name, O_RDONLY) } == EACCES)
      #expect(code { _ = try FileDescriptor.open("/dev/fdset/1000009", O_RDONLY) } == ENOENT)
      #expect(code { _ = try FileDescriptor.open("/dev/fdset/x", O_RDONLY) } == EINVAL)
      sets.add(try FileDescriptor.open(path, O_RDONLY), to: number, note: nil)

      let registry = ChardevRegistry()
      let device = try registry.create("f", .file(ChardevFile(out: name)))
      try device.attach(RecordingFrontend()).write(Array("through the set".utf8))
      #expect(try FileDescriptor.contents(of: name) == Array("through the set".utf8))
      #expect(
        throws: ChardevError(
          .cannotOpen, "Could not open '/dev/fdset/1000009': No such file or directory")
      ) {
        try registry.create("g", .file(ChardevFile(out: "/dev/fdset/1000009")))
      }
      #expect(
        throws: ChardevError(
          .cannotOpen,
          "Could not dup FD for /dev/fdset/1000009 flags 241: No such file or directory")
      ) {
        try registry.create("h", .null(ChardevCommon(logfile: "/dev/fdset/1000009")))
      }
      let listed = sets.list.first { $0.id == number }
      #expect(listed?.members.map(\.note) == ["w", nil])

      // Nothing is closed while the machine does not run; what is open keeps the set afterwards.
      sets.setMachineProbe { false }
      #expect(sets.remove(set: number, descriptor: nil))
      #expect(sets.list.first { $0.id == number }?.members.count == 2)
      sets.setMachineProbe { true }
      #expect(!sets.remove(set: number, descriptor: 1))
      #expect(sets.remove(set: number, descriptor: nil))
      #expect(sets.list.first { $0.id == number }?.members == [])
      registry.shutDown()
      #expect(!sets.remove(set: 1_000_009, descriptor: nil))
    }
    // The device's descriptor closes with its last reference; the set goes a turn later.
    while await MainLoop.query({ DescriptorSets.shared.list.contains { $0.id == number } }) {
      await Task.yield()
    }
    Descriptors.unlink(path)
  }

  @Test func aDeviceChangesBelowAFrontendThatAllowsIt() async throws {
    let path = temporaryPath("change")
    try await MainLoop.perform {
      let registry = ChardevRegistry()
      let frontend = ChangeableFrontend()
      let device = try registry.create("serial0", .ringbuf(ChardevRingbuf()))
      let port = try device.attach(frontend)
      port.write(Array("before".utf8))
      #expect(device.readRingBuffer(limit: 10) == Array("before".utf8))
      #expect(try registry.change("serial0", .file(ChardevFile(out: path))) === device)
      #expect(device.filename == "file")
      port.write(Array("after".utf8))
      #expect(try FileDescriptor.contents(of: path) == Array("after".utf8))

      // What cannot be made leaves the old one.
      let error = #expect(throws: ChardevError.self) {
        try registry.change("serial0", .file(ChardevFile(out: "/nosuch/file")))
      }
      #expect(error?.message == "Could not open '/nosuch/file': No such file or directory")
      #expect(device.filename == "file")
      registry.shutDown()
    }
    Descriptors.unlink(path)
  }

  @Test func othersDoNotChange() async throws {
    try await MainLoop.perform {
      let registry = ChardevRegistry()
      let null = ChardevBackend.null(ChardevCommon())
      try registry.create("a", null)
      try registry.create("m", .mux(ChardevMux(chardev: "a")))
      _ = try registry.create("used", null).attach(RecordingFrontend())
      @MainLoop func message(_ label: String) -> String? {
        do throws(ChardevError) { try registry.change(label, null) } catch { return error.message }
        return nil
      }
      #expect(message("nope") == "Chardev 'nope' does not exist")
      #expect(message("m") == "Mux device hotswap not supported yet")
      #expect(message("a") == "Chardev user does not support chardev hotswap")
      #expect(message("used") == "Chardev user does not support chardev hotswap")
      try registry.remove("m")
      // Without a user it is simply another device.
      #expect(message("a") == nil)
      registry.shutDown()
    }
  }

  @Test func connectedSocketsCanBeHandedToAListeningDevice() async throws {
    let registry = await ChardevRegistry()
    let frontend = await RecordingFrontend()
    let path = temporaryPath("hand")
    var pair: [Int32] = [0, 0]
    #expect(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair) == 0)
    let mine = FileDescriptor(owning: pair[0])
    let theirs = pair[1]
    let port = try await MainLoop.perform {
      let device = try makeSocket(registry, .unix(UnixSocketAddress(path: path)))
      let port = try device.attach(frontend)
      let isTaken = device.addClient(FileDescriptor(owning: theirs))
      #expect(isTaken)
      // There is room for one.
      let isSecondTaken = device.addClient(try FileDescriptor.open("/dev/null", O_RDWR))
      #expect(!isSecondTaken)
      let null = try registry.create("n", .null(ChardevCommon()))
      let isOtherTaken = null.addClient(try FileDescriptor.open("/dev/null", O_RDWR))
      #expect(!isOtherTaken)
      return port
    }
    #expect(try Socket.send(mine.rawValue, Array("handed".utf8), from: 0) == 6)
    await frontend.wait { frontend.text == "handed" }
    _ = port
    await registry.shutDown()
  }

  @Test func aSocketFileThatAnotherDeviceHasTakenStays() async throws {
    let path = temporaryPath("taken")
    try await MainLoop.perform {
      let registry = ChardevRegistry()
      _ = try makeSocket(registry, .unix(UnixSocketAddress(path: path)), label: "old")
      _ = try makeSocket(registry, .unix(UnixSocketAddress(path: path)), label: "new")
      try registry.remove("old")
      #expect(Process.isThere(path))
      try registry.remove("new")
      #expect(!Process.isThere(path))
    }
  }

  @Test func aRunningMachineDoesNotWaitForAConnection() async throws {
    let registry = await ChardevRegistry()
    let frontend = await RecordingFrontend()
    let path = temporaryPath("full")
    // Nobody accepts, and the queue is full: a connection cannot be made now.
    let listener = try Socket.listen(.unix(path: path), backlog: 0)
    let first = try Socket.connect(.unix(path: path))
    let socket = ChardevSocket(addr: .unix(UnixSocketAddress(path: path)), server: false)
    let name = try await MainLoop.perform {
      registry.onReport = { _, text in frontend.events.append(text) }
      let device = try registry.create("c", .socket(socket), isRunning: true)
      return device.filename
    }
    #expect(name == "disconnected:unix:\(path)")
    _ = (first.rawValue, listener.rawValue)
    await registry.shutDown()
    Descriptors.unlink(path)
  }

  @Test func descriptorsAreGivenByNumberAtTheStartAndByNameLater() async throws {
    let listener = try Socket.listen(.inet(InetAddress(host: "127.0.0.1", port: "0")))
    let number = fcntl(listener.rawValue, F_DUPFD_CLOEXEC, 3)
    let path = temporaryPath("plain")
    let plain = try FileDescriptor.open(path, O_RDWR | O_CREAT).release()
    @Sendable func socket(_ name: String) -> ChardevBackend {
      .socket(ChardevSocket(addr: .fd(DescriptorName(str: name)), server: true))
    }
    try await MainLoop.perform {
      let registry = ChardevRegistry()
      registry.descriptorNamed = { $0 == "plain" ? plain : nil }
      @MainLoop func message(_ name: String, isRunning: Bool) -> String? {
        do throws(ChardevError) {
          try registry.create("x", socket(name), isRunning: isRunning)
        } catch { return error.message }
        return nil
      }
      #expect(
        message("\(number)", isRunning: true)
          == "File descriptor named '\(number)' has not been found")
      #expect(message("plain", isRunning: true) == "File descriptor 'plain' is not a socket")
      #expect(message("systemd:web", isRunning: false) == "Unable to parse FD number systemd:web")
      let device = try registry.create("fd", socket("\(number)"))
      #expect(device.localPort == Socket.localAddress(listener.rawValue)?.port)
      #expect(device.filename == "disconnected:tcp:127.0.0.1:\(device.localPort),server=on")
      registry.shutDown()
    }
    Descriptors.unlink(path)
  }

  @Test func aTestDeviceEndsTheProcessWithTheNumberThatTheGuestGives() async throws {
    let registry = await ChardevRegistry()
    let statuses = await MainLoop.query { () -> [Int32] in
      final class Box { var statuses: [Int32] = [] }
      let box = Box()
      registry.onTestExit = { box.statuses.append($0) }
      guard
        let port = try? registry.create("t", .testdev(ChardevCommon()))
          .attach(RecordingFrontend())
      else { return [] }
      for text in ["z 12", " q", "q", "7z5q", "12 3q"] { port.write(Array(text.utf8)) }
      return box.statuses
    }
    #expect(statuses == [25, 1, 11, 1])
    await registry.shutDown()
  }

  @Test func kindsOfTheHostSayWhatIsWrong() async throws {
    try await MainLoop.perform {
      let registry = ChardevRegistry()
      @MainLoop func message(_ backend: ChardevBackend) -> String? {
        do throws(ChardevError) { try registry.create("x", backend) } catch { return error.message }
        return nil
      }
      #expect(
        message(.parallel(ChardevHostdev(device: "/dev/null")))
          == "not a parallel port: Inappropriate ioctl for device")
      #expect(
        message(.parallel(ChardevHostdev(device: "/nosuch")))
          == "Could not open '/nosuch': No such file or directory")
      func vsock(_ cid: String, _ port: String) -> ChardevBackend {
        .socket(ChardevSocket(addr: .vsock(VsockSocketAddress(cid: cid, port: port))))
      }
      #expect(message(vsock("x", "1")) == "Failed to parse cid 'x'")
      #expect(message(vsock("1", "y")) == "Failed to parse port 'y'")
      let web = ChardevSocket(
        addr: .unix(UnixSocketAddress(path: "/nosuch")), server: false, websocket: true)
      #expect(message(.socket(web)) == "Websocket client is not implemented")
      let tls = ChardevSocket(addr: anyPort, tlsAuthz: "a")
      #expect(message(.socket(tls)) == "'tls_authz' option requires 'tls_creds' option")
      let secure = ChardevSocket(addr: anyPort, tlsCreds: "c")
      #expect(message(.socket(secure)) == "No TLS credentials with id 'c'")
      registry.shutDown()
    }
  }

  @Test func aSerialLineGetsTheSpeedThatTheGuestSets() async throws {
    let registry = await ChardevRegistry()
    let (master, path) = try Terminal.openPseudoTerminal()
    let port = try await MainLoop.perform {
      try registry.create("s", .serial(ChardevHostdev(device: path))).attach(RecordingFrontend())
    }
    port.setLine(
      ChardevLine(speed: 9600, dataBits: 7, parity: "E", stopBits: 2, isSendingBreak: false))
    var mode = termios()
    repeat {
      await Task.yield()
      #expect(tcgetattr(master, &mode) == 0)
    } while mode.c_cflag & tcflag_t(CSTOPB) == 0
    #expect(cfgetospeed(&mode) == speed_t(B9600))
    await registry.shutDown()
    _ = close(master)
  }

  /// The error number that `body` ends with; 0 without one.
  private func code(_ body: () throws -> Void) -> Int32 {
    do { try body() } catch { return (error as? SystemError)?.code ?? -1 }
    return 0
  }
}
