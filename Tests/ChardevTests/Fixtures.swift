import Chardev
import Glibc
import Host
import QAPI
import Support
import Testing

/// A frontend that remembers what happened and lets a test wait for it.
@MainLoop
final class RecordingFrontend: ChardevFrontend {
  var received: [UInt8] = []
  var events: [String] = []
  /// How many bytes it takes before it must be drained.
  var room = Int.max
  /// Called in the midst of `chardevReceived`.
  var onReceive: () -> Void = {}
  private var waiting: [(condition: () -> Bool, continuation: CheckedContinuation<Void, Never>)] =
    []

  var text: String { String(decoding: received, as: UTF8.self) }

  func chardevReceived(_ bytes: [UInt8]) -> Int {
    let taken = min(room, bytes.count)
    room -= room == .max ? 0 : taken
    received += bytes[..<taken]
    onReceive()
    changed()
    return taken
  }
  func chardevOpened() { note("opened") }
  func chardevClosed() { note("closed") }
  func chardevBreak() { note("break") }
  func chardevDrained() { note("drained") }
  func chardevFocusChanged(_ hasFocus: Bool) { note(hasFocus ? "focus" : "blur") }

  func whenReceiving(_ body: @escaping @MainLoop () -> Void) { onReceive = body }

  func wait(_ condition: @escaping @MainLoop () -> Bool) async {
    if condition() { return }
    await withCheckedContinuation { waiting.append((condition, $0)) }
  }

  private func note(_ event: String) {
    events.append(event)
    changed()
  }

  private func changed() {
    let ready = waiting.filter { $0.condition() }
    waiting.removeAll { $0.condition() }
    for entry in ready { entry.continuation.resume() }
  }
}

/// A path under /tmp that nothing else uses.
func temporaryPath(_ name: String) -> String {
  "/tmp/goliath-test-\(getpid())-\(UInt64.random(in: 0...UInt64.max))-\(name)"
}

/// The other side of a socket device, blocking with a limit of fifty seconds.
struct Client: ~Copyable {
  let socket: FileDescriptor

  init(_ address: SocketAddress) throws { socket = try Socket.connect(address) }

  init(port: UInt16) throws {
    try self.init(.inet(InetAddress(host: "127.0.0.1", port: String(port))))
  }

  func send(_ text: String) throws { try send([UInt8](text.utf8)) }

  func send(_ bytes: [UInt8]) throws {
    var start = 0
    while start < bytes.count {
      let count = try Socket.send(socket.rawValue, bytes, from: start)
      if count == 0 { Descriptors.waitWritable(socket.rawValue, milliseconds: 10_000) }
      start += count
    }
  }

  /// Reads until so many bytes came, the end, or the limit.
  func receive(_ count: Int) throws -> [UInt8] {
    var result: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65536)
    while result.count < count {
      var entry = pollfd(fd: socket.rawValue, events: Int16(POLLIN), revents: 0)
      guard poll(&entry, 1, 50_000) == 1 else { break }
      guard let got = try Socket.receive(socket.rawValue, into: &buffer) else { continue }
      if got.count == 0 { break }
      result += buffer[..<got.count]
    }
    return result
  }

  func receiveText(_ count: Int) throws -> String {
    String(decoding: try receive(count), as: UTF8.self)
  }
}

@MainLoop
func makeSocket(
  _ registry: ChardevRegistry, _ address: SocketAddressLegacy, label: String = "c",
  server: Bool = true, telnet: Bool? = nil, reconnect: Int? = nil, wait: Bool? = nil
) throws -> Chardev {
  try registry.create(
    label,
    .socket(
      ChardevSocket(
        addr: address, server: server, wait: wait, telnet: telnet, reconnect: reconnect)))
}

let anyPort = SocketAddressLegacy.inet(InetSocketAddress(host: "127.0.0.1", port: "0"))
