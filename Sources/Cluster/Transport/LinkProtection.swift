import Host
import Synchronization

/// The TLS session of a link. One lock guards it: encryption and decryption take turns, calls of the kernel are made without it.
final class LinkProtection: Sendable {
  private let session: Mutex<TLSSession>

  /// Takes over a session whose handshake is done.
  init(_ session: sending TLSSession) { self.session = Mutex(session) }

  var hasEnded: Bool { session.withLock { $0.phase == .ended } }

  /// Encrypts a frame and sends what the socket takes. Answers what it did not take, or nil when the connection is broken. Only under the
  /// link's lock for sending: bytes go out in the order in which they are made.
  func send(_ words: SIMD4<UInt64>, _ body: IOVector, _ socket: StreamSocket?) -> [UInt8]? {
    session.withLock { session in
      do throws(TLSError) { try session.send(words, body) } catch { return nil }
      defer { session.dropOutput() }
      guard let socket else { return session.output(from: 0) }
      let sent = socket.send(outputOf: session)
      if sent < 0, !StreamSocket.isAgain(sent) { return nil }
      return session.output(from: max(sent, 0))
    }
  }

  /// Decrypts during the handshake of the cluster.
  func receive(_ bytes: [UInt8]) throws(TLSError) -> [UInt8] {
    try session.withLock { (session) throws(TLSError) in try session.receive(bytes) }
  }

  /// Why the peer may not call itself by that number; nil when it may.
  func refusal(
    _ kind: TLSCredentials.Kind, isServer: Bool, _ cluster: String, _ node: NodeID
  ) -> String? {
    session.withLock {
      ClusterCredentials.refusal($0, kind, isServer: isServer, cluster, node)
    }
  }

  /// Decrypts. What the session itself has to say to the peer goes before the next frame.
  func receive(
    _ source: IOBuffer, _ range: Range<Int>, into target: IOBuffer, _ room: Range<Int>
  ) throws(TLSError) -> (plain: Int, used: Int) {
    try session.withLock { (session) throws(TLSError) in
      try session.receive(source, range, into: target, room)
    }
  }
}
