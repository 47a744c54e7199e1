package import Host

/// Who is at the other side of a connection.
package struct ChardevPeer: Equatable, Sendable {
  /// Kind and address, as `query-chardev` would show the connection.
  package var address: String
  /// On a Unix socket: process and user at the time of connecting (SO_PEERCRED); nil elsewhere.
  package var process: Int32?
  package var user: UInt32?
  /// Who it has proved to be by a layer, such as the name in a TLS certificate.
  package var identity: String?

  package init(
    address: String, process: Int32? = nil, user: UInt32? = nil, identity: String? = nil
  ) {
    self.address = address
    self.process = process
    self.user = user
    self.identity = identity
  }
}

/// One client of a device that serves any number (`Chardev.serve`): what its session writes to and asks.
@MainLoop
package final class ChardevClient {
  /// Where the session writes; also tells how many bytes wait (`queuedByteCount`) and lets reading go on (`resumeReceiving`).
  package let port: ChardevPort
  private weak var connection: (any ChardevConnection)?

  init(_ port: ChardevPort, _ connection: any ChardevConnection) {
    self.port = port
    self.connection = connection
  }

  /// The descriptor that came last with the client's bytes (SCM_RIGHTS); the caller owns it.
  package func takeDescriptor() -> Int32? { connection?.takeDescriptor() }

  /// Ends the connection now; what is queued is sent as far as the socket takes it at once. The session hears
  /// `chardevClosed`. Nothing on devices that have no connections (stdio, a pty).
  package func disconnect() { connection?.disconnect() }

  /// Who the client is; for a log.
  package var peer: ChardevPeer { connection?.peer ?? ChardevPeer(address: "") }
}

/// What a `ChardevClient` stands on.
@MainLoop
protocol ChardevConnection: AnyObject {
  func takeDescriptor() -> Int32?
  func disconnect()
  var peer: ChardevPeer { get }
}

/// One of any number of connections of a listening socket, with its session.
@MainLoop
final class ServedClient: ChardevConnection, ChardevPortOwner {
  let stream: ClientStream
  private weak var device: Chardev?
  private weak var transport: SocketTransport?
  private var port: ChardevPort?
  private var isReceiving = true

  init(_ stream: ClientStream, _ device: Chardev, _ transport: SocketTransport) {
    self.stream = stream
    self.device = device
    self.transport = transport
  }

  /// Begins; the session is made once data passes.
  func start(
    outputLimit: Int, _ makeSession: @escaping (ChardevClient) -> any ChardevFrontend
  ) {
    // Strong, since weak references make every use of the object slower; `stop` of the stream drops them.
    stream.onOpened = { [self] in opened(outputLimit, makeSession) }
    stream.onBytes = { [self] in received($0) }
    stream.onBreak = { [self] in port?.frontend?.chardevBreak() }
    stream.onDrained = { [self] in port?.flush() }
    stream.onEnd = { [self] in closed($0) }
    stream.start()
    stream.setReceiving(isReceiving)
  }

  /// Whether data passes.
  var isOpen: Bool { port != nil }

  func takeDescriptor() -> Int32? { stream.takeDescriptor() }

  func disconnect() {
    port?.flush()
    closed(nil)
  }

  var peer: ChardevPeer {
    let credentials = Socket.peerCredentials(stream.descriptor)
    return ChardevPeer(
      address: transport?.name(of: stream.descriptor) ?? "", process: credentials?.process,
      user: credentials?.user, identity: stream.peerIdentity)
  }

  /// For the end of the process: sends what waits.
  func shutDown() {
    port?.flush()
    stream.drain(port?.takeQueued() ?? [])
    closed(nil)
  }

  // MARK: - ChardevPortOwner

  func transmit(_ bytes: [UInt8], from start: Int) -> Int {
    let taken = stream.write(bytes, from: start)
    device?.log(bytes, from: start, to: start + taken)
    return taken
  }

  func resume(_ port: ChardevPort) {
    port.offerHeld()
    updateReceiving()
  }

  func detach(_ port: ChardevPort) { disconnect() }
  func setLine(_ line: ChardevLine) {}

  // MARK: -

  private func opened(_ limit: Int, _ makeSession: (ChardevClient) -> any ChardevFrontend) {
    let port = ChardevPort(self, limit: limit)
    self.port = port
    let session = makeSession(ChardevClient(port, self))
    port.frontend = session
    device?.clientOpened()
    session.chardevOpened()
  }

  private func received(_ bytes: [UInt8]) {
    port?.offer(bytes)
    updateReceiving()
  }

  func updateReceiving() {
    let on = port.map { $0.held.isEmpty && !$0.isPaused } ?? true
    guard on != isReceiving else { return }
    isReceiving = on
    stream.setReceiving(on)
  }

  private func closed(_ reason: String?) {
    stream.stop()
    if let reason { transport?.reportFailure(reason) }
    let port = exchange(&port, with: nil)
    port?.held = []
    port?.discardOutput()
    // Out of the list first: the session may look at it.
    device?.clientClosed(self)
    port?.frontend?.chardevClosed()
    port?.frontend = nil
    port?.disown()
    transport?.noteClientGone()
  }
}

/// The frontend of a device that has one other side at most (stdio, a pty, a multiplexer): a session for each time it opens.
@MainLoop
final class SessionFrontend: ChardevFrontend, ChardevConnection {
  private weak var device: Chardev?
  private let makeSession: (ChardevClient) -> any ChardevFrontend
  private var port: ChardevPort?
  private var session: (any ChardevFrontend)?
  private var hasFocus: Bool?

  init(_ device: Chardev, _ makeSession: @escaping (ChardevClient) -> any ChardevFrontend) {
    self.device = device
    self.makeSession = makeSession
  }

  func attached(_ port: ChardevPort) { self.port = port }

  func takeDescriptor() -> Int32? { device?.takeDescriptor() }
  func disconnect() { device?.disconnect() }
  var peer: ChardevPeer { ChardevPeer(address: device?.filename ?? "") }

  func chardevReceived(_ bytes: [UInt8]) -> Int { session?.chardevReceived(bytes) ?? bytes.count }

  func chardevOpened() {
    guard let port, session == nil else { return }
    let session = makeSession(ChardevClient(port, self))
    self.session = session
    if let hasFocus { session.chardevFocusChanged(hasFocus) }
    session.chardevOpened()
  }

  func chardevClosed() { exchange(&session, with: nil)?.chardevClosed() }
  func chardevBreak() { session?.chardevBreak() }
  func chardevDrained() { session?.chardevDrained() }

  func chardevFocusChanged(_ hasFocus: Bool) {
    self.hasFocus = hasFocus
    session?.chardevFocusChanged(hasFocus)
  }
}
