import Glibc
import Host

/// A client of a text protocol over a socket; reads wait at most ten seconds.
final class TextClient {
  private let socket: FileDescriptor
  private var pending: [UInt8] = []

  init(_ address: SocketAddress) throws { socket = try Socket.connect(address) }

  convenience init(port: UInt16) throws {
    try self.init(.inet(InetAddress(host: "127.0.0.1", port: String(port))))
  }

  func send(_ text: String) throws { try send([UInt8](text.utf8)) }

  func send(_ bytes: [UInt8]) throws {
    var start = 0
    while start < bytes.count {
      // The other side may wait for us to read.
      let count = try Socket.send(socket.rawValue, bytes, from: start)
      start += count
      if count == 0 { _ = try receive(milliseconds: 100) }
    }
  }

  /// Sends `text` again and again until the other side takes no more for a while; answers how many bytes that were.
  func sendUntilFull(_ text: String, milliseconds: Int32) throws -> Int {
    let bytes = [UInt8](text.utf8)
    var total = 0
    while true {
      var start = 0
      while start < bytes.count {
        let count = try Socket.send(socket.rawValue, bytes, from: start)
        start += count
        total += count
        guard count == 0 else { continue }
        var entry = pollfd(fd: socket.rawValue, events: Int16(POLLOUT), revents: 0)
        if poll(&entry, 1, milliseconds) == 0 { return total }
      }
    }
  }

  /// What comes next in one piece.
  func readOnce() throws -> String {
    if pending.isEmpty { _ = try receive(milliseconds: 10_000) }
    return take(pending.count)
  }

  /// Text up to and with the first `end`; what there is when it does not come.
  func read(until end: String) throws -> String {
    let end = [UInt8](end.utf8)
    var searched = 0
    while true {
      if pending.count >= end.count {
        for start in searched...(pending.count - end.count)
        where pending[start] == end[0] && Array(pending[start..<start + end.count]) == end {
          return take(start + end.count)
        }
        searched = pending.count - end.count + 1
      }
      guard try receive(milliseconds: 10_000) else { return take(pending.count) }
    }
  }

  /// Text up to and with so many times `end`.
  func read(count end: String, _ number: Int) throws -> String {
    var text = ""
    for _ in 0..<number { text += try read(until: end) }
    return text
  }

  /// So many bytes, each as a character.
  func read(latin count: Int) throws -> String {
    while pending.count < count, try receive(milliseconds: 10_000) {}
    let bytes = pending.prefix(count)
    pending.removeFirst(bytes.count)
    return String(String.UnicodeScalarView(bytes.map { UnicodeScalar($0) }))
  }

  /// Everything until nothing comes for a while.
  func readQuiet(milliseconds: Int32) throws -> String {
    while try receive(milliseconds: milliseconds) {}
    return take(pending.count)
  }

  private func take(_ count: Int) -> String {
    let text = String(decoding: pending.prefix(count), as: UTF8.self)
    pending.removeFirst(count)
    return text
  }

  /// False at the end or when nothing came.
  private func receive(milliseconds: Int32) throws -> Bool {
    var entry = pollfd(fd: socket.rawValue, events: Int16(POLLIN), revents: 0)
    guard poll(&entry, 1, milliseconds) == 1 else { return false }
    var buffer = [UInt8](repeating: 0, count: 65536)
    guard let got = try Socket.receive(socket.rawValue, into: &buffer) else { return true }
    pending += buffer[..<got.count]
    return got.count > 0
  }
}
