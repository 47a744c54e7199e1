import Host

/// The first words on a connection: TLS if there are credentials, then HELLO both ways. By one thread, at most five seconds.
struct Handshake {
  /// Longest time for all of it.
  static let limitNanoseconds: Int64 = 5_000_000_000

  /// Why it did not succeed.
  enum Failure: Error {
    /// The connection ended, or took too long: to be tried again.
    case ended(String)
    /// The other side says no, and why; whether it will say so again.
    case refused(String, isFinal: Bool)
    /// Credentials do not fit.
    case credentials(String)
  }

  /// The codes of an ERROR frame's argument.
  enum RefusalCode {
    static let later: UInt64 = 1
    static let final: UInt64 = 2
  }

  let socket: StreamSocket
  private var protection: LinkProtection?
  private var plain: [UInt8] = []
  private let deadline: Int64
  private let buffer = IOBuffer(count: 4096)

  init(_ socket: StreamSocket) {
    self.socket = socket
    deadline = HostClock.monotonic &+ Handshake.limitNanoseconds
  }

  var isProtected: Bool { protection != nil }

  /// TLS's handshake. Throws `Failure`.
  mutating func protect(_ credentials: TLSCredentials) throws(Failure) {
    let made: TLSSession
    do throws(TLSError) { made = try TLSSession(credentials) } catch {
      throw .credentials(error.message)
    }
    var input: [UInt8] = []
    while true {
      var failure: TLSError?
      do throws(TLSError) { plain += try made.receive(input) } catch { failure = error }
      let output = made.takeOutput()
      if !output.isEmpty { try send(output) }
      if let failure { throw .credentials(failure.message) }
      if made.phase == .open { break }
      if made.phase == .ended { throw .ended("the TLS handshake was broken off") }
      input = try receive()
    }
    protection = LinkProtection(made)
  }

  /// Why the peer may not call itself by that number; nil when it may.
  func refusal(
    _ node: NodeID, _ cluster: String, _ kind: TLSCredentials.Kind, isServer: Bool
  ) -> String? {
    protection?.refusal(kind, isServer: isServer, cluster, node)
  }

  mutating func send(_ hello: Hello) throws(Failure) {
    var header = FrameHeader(.hello, argument: UInt64(hello.stream.rawValue))
    header.source = hello.node
    try send(header, hello.bytes)
  }

  /// Tells the peer why not; it may be gone already.
  mutating func refuse(_ reason: String, isFinal: Bool, _ node: NodeID) {
    var header = FrameHeader(
      .error, argument: isFinal ? RefusalCode.final : RefusalCode.later)
    header.source = node
    try? send(header, Array(reason.utf8.prefix(1024)))
  }

  private mutating func send(_ header: FrameHeader, _ body: [UInt8]) throws(Failure) {
    var header = header
    header.length = UInt32(clamping: body.count)
    header.epoch = 0
    let words = header.encoded(isProtected: isProtected)
    guard let protection else {
      return try send(FrameHeader.bytes(words) + body)
    }
    guard let bytes = protection.send(words, IOBuffer(body).vector, nil) else {
      throw .ended("the TLS session broke")
    }
    try send(bytes)
  }

  /// The peer's HELLO. Throws `Failure`, also for an ERROR in its place.
  mutating func hello() throws(Failure) -> Hello {
    let (header, body) = try frame()
    switch header.type {
    case .hello:
      guard let hello = Hello(body, argument: header.argument), hello.node == header.source else {
        throw .refused("the peer's HELLO makes no sense", isFinal: true)
      }
      return hello
    case .error:
      throw .refused(
        String(decoding: body, as: UTF8.self), isFinal: header.argument == RefusalCode.final)
    default: throw .refused("the peer began with a \(header.type)", isFinal: true)
    }
  }

  private mutating func frame() throws(Failure) -> (FrameHeader, [UInt8]) {
    while plain.count < FrameHeader.size { try fill() }
    guard let words = FrameHeader.words(plain.prefix(FrameHeader.size)) else {
      throw .ended("nothing came")
    }
    // Who it is is in the frame itself: it is compared with the HELLO, the configuration and the credentials.
    let source = NodeID(rawValue: UInt8(truncatingIfNeeded: words[0] >> 48))
    let parsed: ParsedFrame
    do throws(FrameError) {
      parsed = try FrameHeader.parse(words, from: source, on: .ctl, isProtected: isProtected)
    } catch { throw .refused("the peer's first frame \(error)", isFinal: false) }
    guard case .frame(let header) = parsed, header.length <= 32 << 10 else {
      throw .refused("the peer's first frame makes no sense", isFinal: false)
    }
    let end = FrameHeader.size + Int(header.length)
    while plain.count < end { try fill() }
    let body = Array(plain[FrameHeader.size..<end])
    plain.removeFirst(end)
    return (header, body)
  }

  private mutating func fill() throws(Failure) {
    let bytes = try receive()
    guard let protection else {
      plain += bytes
      return
    }
    do throws(TLSError) { plain += try protection.receive(bytes) } catch {
      throw .credentials(error.message)
    }
    if protection.hasEnded { throw .ended("the peer ended the TLS session") }
  }

  private func receive() throws(Failure) -> [UInt8] {
    let left = deadline &- HostClock.monotonic
    guard left > 0, socket.waitReadable(milliseconds: Int32(clamping: left / 1_000_000 + 1)) else {
      throw .ended("no answer within 5 s")
    }
    let count = socket.receive(into: buffer, 0..<buffer.count, waits: false)
    if StreamSocket.isAgain(count) { return [] }
    if count == 0 { throw .ended("the connection was closed") }
    if count < 0 {
      throw .ended(SystemError(call: "recv", code: Int32(truncatingIfNeeded: -count)).reason)
    }
    return buffer.bytes(0..<count)
  }

  private func send(_ bytes: [UInt8]) throws(Failure) {
    var done = 0
    while done < bytes.count {
      let count = socket.send(bytes, from: done)
      if count > 0 {
        done += count
      } else if StreamSocket.isAgain(count), HostClock.monotonic < deadline {
        socket.waitWritable(milliseconds: 100)
      } else {
        throw .ended("the connection was closed")
      }
    }
  }

  /// The connection for `LinkTransport`.
  func finish() -> NodeConnection { NodeConnection(socket, protection, first: plain) }
}
