package import Cluster
import Glibc
import Host

/// Two processes of a benchmark, and the connections between them: a node in each.
package struct TwoProcesses {
  /// A connection: this process's end first.
  package typealias Connection = (parent: Int32, child: Int32)

  private let kind: String
  private let folder: String
  private var names: [String] = []

  /// - Parameter kind: of sockets: `unix`, `tcp` or `tcp6`.
  package init(_ kind: String) {
    self.kind = kind
    folder = "/tmp/goliath-benchmark.\(getpid())"
    if kind == "unix" { mkdir(folder, 0o700) }
  }

  /// A connection as links have them. Throws `SocketError`, `SystemError`.
  package mutating func connect(_ name: String) throws -> Connection {
    let port = String(20_000 + Int(getpid()) % 20_000 + names.count)
    names.append(name)
    let place: SocketAddress =
      switch kind {
      case "tcp": .inet(InetAddress(host: "127.0.0.1", port: port))
      case "tcp6": .inet(InetAddress(host: "::1", port: port))
      default: .unix(path: "\(folder)/\(name)")
      }
    let listener = try Socket.listen(place, backlog: 4)
    let one = try Socket.connect(place)
    var entries = [PollEntry(listener.rawValue, .readable)]
    try PollEntry.wait(&entries, milliseconds: 1000)
    let other = try Socket.accept(listener.rawValue)
    return (one.release(), other.release())
  }

  /// A connection for blocking calls. Throws `SocketError`, `SystemError`.
  package mutating func connectRaw(_ name: String) throws -> Connection {
    let connection = try connect(name)
    for descriptor in [connection.parent, connection.child] {
      _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_NONBLOCK)
      var on: Int32 = 1
      setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, 4)
    }
    return connection
  }

  /// Splits the process before it has made a thread, so that the child may go on as it is, and closes the other's ends. Answers the child's
  /// number; 0: this is the child.
  package func fork(_ connections: [Connection]) -> Int32 {
    // Swift does not offer fork by name.
    let call = unsafeBitCast(dlsym(nil, "fork"), to: (@convention(c) () -> Int32).self)
    let child = call()
    for connection in connections { close(child == 0 ? connection.parent : connection.child) }
    return child
  }

  /// Ends the child and takes the sockets' files away.
  package func end(_ child: Int32) {
    kill(child, SIGKILL)
    guard kind == "unix" else { return }
    for name in names { unlink("\(folder)/\(name)") }
    rmdir(folder)
  }

  /// Puts the process on a processor. Swift does not offer the macros of cpu_set_t.
  package static func settle(on cpu: Int) {
    typealias Call = @convention(c) (Int32, Int, UnsafeMutableRawPointer) -> Int32
    var mask = [UInt](repeating: 0, count: 16)
    mask[cpu / 64] = 1 << UInt(cpu % 64)
    let call = unsafeBitCast(dlsym(nil, "sched_setaffinity"), to: Call.self)
    if call(0, 128, &mask) != 0 { exit(1) }
  }

  /// Gives `transport` its two streams to another node. Throws `SystemError`.
  package static func attach(
    _ transport: LinkTransport, ctl: Int32, mem: Int32, to other: NodeID
  ) throws {
    for (descriptor, stream) in [(ctl, StreamKind.ctl), (mem, .mem)] {
      let socket = try StreamSocket(FileDescriptor(owning: descriptor))
      socket.tune(timeoutMilliseconds: 1500)
      _ = try transport.attach(NodeConnection(socket), to: other, stream)
    }
  }
}

/// A raw round trip: a header of 32 bytes there, so many bytes back, by blocking calls and nothing else.
package struct RawTrips: @unchecked Sendable {
  // Of one thread at a time, and never freed.
  private let descriptor: Int32
  private let header = UnsafeMutableRawPointer.allocate(byteCount: 32, alignment: 32)
  private let buffer = UnsafeMutableRawPointer.allocate(byteCount: 1 << 20, alignment: 4096)

  package init(_ descriptor: Int32) {
    self.descriptor = descriptor
    header.initializeMemory(as: UInt8.self, repeating: 0, count: 32)
    buffer.initializeMemory(as: UInt8.self, repeating: 1, count: 1 << 20)
  }

  /// Asks for so many bytes and takes them.
  package func ask(_ count: Int) {
    header.storeBytes(of: count, as: Int.self)
    _ = write(descriptor, header, 32)
    _ = RawTrips.read(descriptor, buffer, count)
  }

  /// Tells the other process a range of numbers, and waits until it has done with it.
  package func tell(_ range: Range<Int>) {
    header.storeBytes(of: range.lowerBound, toByteOffset: 8, as: Int.self)
    header.storeBytes(of: range.count, toByteOffset: 16, as: Int.self)
    header.storeBytes(of: 0, as: Int.self)
    _ = write(descriptor, header, 32)
    _ = RawTrips.read(descriptor, buffer, 32)
  }

  /// Serves the other process until it ends. `told` gets the ranges.
  package func serve(_ told: (Range<Int>) -> Void = { _ in }) {
    while RawTrips.read(descriptor, header, 32) {
      var count = header.load(as: Int.self)
      if count == 0 {
        let first = header.load(fromByteOffset: 8, as: Int.self)
        told(first..<first + header.load(fromByteOffset: 16, as: Int.self))
        count = 32
      }
      if write(descriptor, buffer, count) != count { return }
    }
  }

  /// Reads all of so many bytes; false when there are no more.
  package static func read(
    _ descriptor: Int32, _ buffer: UnsafeMutableRawPointer, _ count: Int
  ) -> Bool {
    var done = 0
    while done < count {
      let got = Glibc.read(descriptor, buffer + done, count - done)
      if got <= 0 { return false }
      done += got
    }
    return true
  }
}
