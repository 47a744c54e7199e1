import Glibc
import Host

/// What a socket device does, apart from its address.
struct SocketOptions: Sendable {
  var isServer = false
  /// Start-up waits for the first client.
  var waits = false
  var noDelay = false
  var telnet = false
  /// Client: seconds after which a lost or refused connection is tried again; 0 is never.
  var reconnectSeconds: Int64 = 0
  var websocket = false
  /// The machine runs: nothing may wait for a connection.
  var isRunning = false
  /// What makes the layers of a connection below websocket and telnet, the lowest first.
  var layers: [StreamLayerFactory] = []

  /// What `filename` calls a connection with layers, as QEMU does; nil without. TLS does not show.
  var scheme: String? { telnet ? "telnet" : websocket ? "websocket" : nil }

  /// Throws for combinations that make no sense.
  func validate() throws(ChardevError) {
    if !isServer, waits {
      throw ChardevError(
        .badOption, "'wait' option is incompatible with socket in client connect mode")
    }
    if isServer, reconnectSeconds > 0 {
      throw ChardevError(
        .badOption, "'reconnect' option is incompatible with socket in server listen mode")
    }
  }
}

/// `socket`: Unix or TCP, server or client, with layers on each connection if asked for.
///
/// A server has one client at a time unless its frontend takes any number (`serve`).
@MainLoop
final class SocketTransport: ChardevTransport {
  private let address: SocketAddress
  private let options: SocketOptions
  private let listener: ConnectionListener?
  /// The file of a Unix socket that this device has made.
  private let file: FileIdentity?
  /// The one connection.
  private var client: ClientStream?
  /// Where connections go when there may be any number.
  private var takeClient: ((ClientStream) -> Void)?
  /// With many, the one that `filename` is about.
  weak var shownClient: ClientStream?
  private var connecting: ConnectionAttempt?
  private var retry: HostTimer?
  private weak var device: Chardev?
  private var isReceiving = true
  private var hadClient = false
  private var hasReported = false
  /// Told about failed connection attempts of a reconnecting client, and about failed handshakes.
  private let report: (String) -> Void

  /// Listens, or connects (waiting for it unless it reconnects). Throws `ChardevError` with QEMU's sentences.
  init(
    _ address: SocketAddress, _ options: SocketOptions, report: @escaping (String) -> Void
  ) throws(ChardevError) {
    try options.validate()
    self.address = address
    self.options = options
    self.report = report
    do throws(SocketError) {
      if options.isServer {
        listener = ConnectionListener(try Socket.listen(address))
        file = if case .unix(let path) = address { FileIdentity(path) } else { nil }
      } else {
        listener = nil
        file = nil
        if options.reconnectSeconds == 0 {
          initial = try Socket.connect(
            address, patience: options.isRunning ? SocketTransport.patience : nil
          )?.release()
        }
      }
    } catch { throw ChardevError(error) }
  }

  /// Milliseconds that a running machine gives a peer to take a connection before that goes on in the background.
  private static let patience: Int32 = 20

  /// The connection that was made at first, until `start`.
  private var initial: Int32?

  // MARK: - ChardevTransport

  var filename: String {
    let server = options.isServer ? ",server=on" : ""
    let isInet = if case .inet = address { true } else { false }
    let connection = initial ?? (client ?? shownClient)?.descriptor
    guard let connection else {
      var text = address.text
      let own = listener?.address
      // Without the brackets that a connected one has, as QEMU has it.
      if isInet, let own { text = own.text.filter { $0 != "[" && $0 != "]" } }
      if case .descriptor = address { text = own?.text ?? address.text }
      let kind =
        switch address {
        case .unix, .abstract: "unix"
        case .vsock: "vsock"
        case .inet: scheme
        case .descriptor: own.map { $0.family == AF_UNIX ? "unix" : scheme } ?? "fd"
        }
      return "disconnected:\(kind):\(text)\(server)"
    }
    return name(of: connection)
  }

  private var scheme: String { options.scheme ?? "tcp" }

  /// Kind and addresses of one connection.
  func name(of connection: Int32) -> String {
    let server = options.isServer ? ",server=on" : ""
    guard let own = Socket.localAddress(connection) else { return "\(scheme):\(server)" }
    if own.family == AF_UNIX {
      let path = options.isServer ? own.text : Socket.peerAddress(connection)?.text ?? ""
      return "unix:\(path)\(server)"
    }
    let peer = Socket.peerAddress(connection)?.text ?? ""
    let kind = own.family == ResolvedAddress.vsockFamily ? "vsock" : scheme
    return "\(kind):\(own.text)\(server) <-> \(peer)"
  }

  /// The port that the server listens on, for those who asked for any.
  var localPort: UInt16 { listener?.address?.port ?? 0 }

  var isWaitingForClient: Bool { options.waits && !hadClient }

  func start(_ device: Chardev) {
    self.device = device
    if let listener {
      listener.onConnection = { [weak self] in self?.accepted($0) }
      listener.setAccepting(true)
    } else if initial != nil {
      MainLoop.post { [weak self] in
        guard let self, let number = exchange(&self.initial, with: nil) else { return }
        self.adopt(FileDescriptor(owning: number))
      }
    } else {
      startConnecting()
    }
  }

  func write(_ bytes: [UInt8], from start: Int) -> Int {
    client?.write(bytes, from: start) ?? bytes.count - start
  }

  func setReceiving(_ on: Bool) {
    isReceiving = on
    client?.setReceiving(on)
  }

  func drain(_ bytes: [UInt8]) { client?.drain(bytes) }

  func shutDown() {
    if let number = exchange(&initial, with: nil) { FileDescriptor(owning: number).close() }
    client?.drain([])
    client?.stop()
    client = nil
    listener?.stop()
    connecting?.cancel()
    retry?.cancel()
    // Another device may have put its own there meanwhile.
    if case .unix(let path) = address, let file, FileIdentity(path) == file {
      Descriptors.unlink(path)
    }
  }

  /// The descriptor that came last, if one did; the caller owns it.
  func takeDescriptor() -> Int32? { client?.takeDescriptor() }

  /// Ends the present connection.
  func disconnect() { if client != nil { closed(nil) } }

  // MARK: - Many clients

  /// Whether it is a server.
  var isListening: Bool { listener != nil }

  /// Gives each connection to `take` from now on, not started; `take` keeps it. For a server without a client.
  func serve(_ take: @escaping (ClientStream) -> Void) {
    takeClient = take
    listener?.setBacklog(ConnectionListener.crowd)
    listener?.setAccepting(true)
  }

  /// One of many has opened: start-up need not wait any longer.
  func noteClient() { hadClient = true }

  /// One of many is gone.
  func noteClientGone() { listener?.retry() }

  /// Tells the user why a connection failed.
  func reportFailure(_ reason: String) { report(reason) }

  /// Takes a connection as if it had been accepted. False when there is no room for one more.
  func add(_ socket: consuming FileDescriptor) -> Bool {
    guard takeClient != nil || (client == nil && initial == nil) else { return false }
    accepted(socket)
    return true
  }

  // MARK: - Connections

  private func accepted(_ socket: consuming FileDescriptor) {
    guard let takeClient else { return adopt(socket) }
    if let client = prepare(socket) { takeClient(client) }
  }

  private func prepare(_ socket: consuming FileDescriptor) -> ClientStream? {
    // Small writes go out at once on every connection: interactive clients wait for each of them.
    Socket.setNoDelay(socket.rawValue)
    do throws(ChardevError) {
      var layers: [any StreamLayer] = []
      for make in options.layers { layers.append(try make()) }
      if options.websocket { layers.append(WebSocketLayer()) }
      if options.telnet { layers.append(TelnetLayer()) }
      return ClientStream(socket, layers: layers)
    } catch {
      report(error.message)
      return nil
    }
  }

  private func adopt(_ socket: consuming FileDescriptor) {
    guard let client = prepare(socket) else { return }
    self.client = client
    // One client at a time: the next ones wait in the kernel's queue.
    listener?.setAccepting(false)
    client.onOpened = { [weak self] in self?.opened() }
    client.onBytes = { [weak self] in self?.device?.transportReceived($0) }
    client.onBreak = { [weak self] in self?.device?.transportBreak() }
    client.onDrained = { [weak self] in self?.device?.transportDrained() }
    client.onEnd = { [weak self] in self?.closed($0) }
    client.start()
    client.setReceiving(isReceiving)
  }

  private func opened() {
    hadClient = true
    device?.transportOpened()
  }

  private func closed(_ reason: String?) {
    if let reason { report(reason) }
    client?.stop()
    client = nil
    device?.transportClosed()
    if let listener {
      listener.setAccepting(true)
    } else if options.reconnectSeconds > 0 {
      scheduleRetry()
    }
  }

  // MARK: - Client

  private func startConnecting() {
    connecting = ConnectionAttempt(address) { [weak self] result in
      guard let self else { return }
      self.connecting = nil
      switch result {
      case .connected(let number):
        self.hasReported = false
        self.adopt(FileDescriptor(owning: number))
      case .failed(let message):
        // Once until it succeeds: it is tried every few seconds.
        if !self.hasReported {
          let label = self.device?.label ?? ""
          self.report("Unable to connect character device \(label): \(message)")
        }
        self.hasReported = true
        if self.options.reconnectSeconds > 0 { self.scheduleRetry() }
      }
    }
  }

  private func scheduleRetry() {
    let timer =
      retry
      ?? MainLoop.timers.makeTimer { [weak self] in
        MainLoop.assumeIsolated { self?.startConnecting() }
      }
    retry = timer
    timer.arm(at: HostClock.monotonic &+ options.reconnectSeconds &* 1_000_000_000)
  }
}
