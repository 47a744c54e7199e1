import Glibc
package import Host

/// A client of a text protocol over a socket; reads wait at most ten seconds.
package final class TextClient {
  private let socket: FileDescriptor
  private var pending: [UInt8] = []

  package init(_ address: SocketAddress) throws { socket = try Socket.connect(address) }

  package convenience init(port: UInt16) throws {
    try self.init(.inet(InetAddress(host: "127.0.0.1", port: String(port))))
  }

  /// Connects to a Unix socket as soon as it is there.
  package convenience init(path: String, seconds: Double = 20) throws {
    var tries = Int(seconds * 50)
    while unsafe access(path, R_OK) != 0, tries > 0 {
      usleep(20_000)
      tries -= 1
    }
    try self.init(.unix(path: path))
  }

  /// Waits for a client of a listening socket.
  package init(accepting listener: Int32, milliseconds: Int32 = 20_000) throws {
    var entry = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
    // SAFETY: one element, as said; no address is wanted from accept.
    let ready = unsafe poll(&entry, 1, milliseconds)
    let number = ready == 1 ? unsafe accept(listener, nil, nil) : -1
    guard number >= 0 else { throw SystemError(call: "accept", code: errno) }
    socket = FileDescriptor(owning: number)
    try socket.setNonBlocking()
  }

  package func send(_ text: String) throws { try send([UInt8](text.utf8)) }

  package func send(_ bytes: [UInt8]) throws {
    var start = 0
    while start < bytes.count {
      // The other side may wait for us to read.
      let count = try Socket.send(socket.rawValue, bytes, from: start)
      start += count
      if count == 0 { _ = try receive(milliseconds: 100) }
    }
  }

  /// Sends `text` again and again until the other side takes no more for a while; answers how many bytes that were.
  package func sendUntilFull(_ text: String, milliseconds: Int32) throws -> Int {
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
        if unsafe poll(&entry, 1, milliseconds) == 0 { return total }
      }
    }
  }

  /// Says that nothing more will be sent; the other side may still answer.
  package func finishSending() { _ = shutdown(socket.rawValue, Int32(SHUT_WR)) }

  /// Text up to the end of the connection.
  package func readToEnd() throws -> String {
    while try receive(milliseconds: 10_000) {}
    return take(pending.count)
  }

  /// What comes next in one piece.
  package func readOnce() throws -> String {
    if pending.isEmpty { _ = try receive(milliseconds: 10_000) }
    return take(pending.count)
  }

  /// Text up to and with the first `end`; what there is when it does not come.
  package func read(until end: String) throws -> String {
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

  /// Text that ends with `end` as it came, the end of what there is now.
  package func read(untilSuffix end: String) throws -> String {
    var text = ""
    repeat {
      let more = try readOnce()
      if more.isEmpty { return text }
      text += more
    } while !text.hasSuffix(end)
    return text
  }

  /// Text up to and with so many times `end`.
  package func read(count end: String, _ number: Int) throws -> String {
    var text = ""
    for _ in 0..<number { text += try read(until: end) }
    return text
  }

  /// So many bytes, each as a character.
  package func read(latin count: Int) throws -> String {
    while pending.count < count, try receive(milliseconds: 10_000) {}
    let bytes = pending.prefix(count)
    pending.removeFirst(bytes.count)
    return String(String.UnicodeScalarView(bytes.map { UnicodeScalar($0) }))
  }

  /// Everything until nothing comes for a while.
  package func readQuiet(milliseconds: Int32) throws -> String {
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
    guard unsafe poll(&entry, 1, milliseconds) == 1 else { return false }
    var buffer = [UInt8](repeating: 0, count: 65536)
    guard let got = try Socket.receive(socket.rawValue, into: &buffer) else { return true }
    pending += buffer[..<got.count]
    return got.count > 0
  }
}
