import Glibc
import Host

/// What a socket device does, apart from its address.
struct SocketOptions: Equatable, Sendable {
  var isServer = false
  /// Start-up waits for the first client.
  var waits = false
  var noDelay = false
  var telnet = false
  /// Client: seconds after which a lost or refused connection is tried again; 0 is never.
  var reconnectSeconds: Int64 = 0

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

/// `socket`: Unix or TCP, server for one client at a time or client, with telnet if asked for.
@MainLoop
final class SocketTransport: ChardevTransport {
  private let address: SocketAddress
  private let options: SocketOptions
  private let listener: Listener?
  private var listenerWatch: Watch?
  private var stream: DescriptorStream?
  private var connection: Int32 = -1
  private var connecting: ConnectionAttempt?
  private var retry: HostTimer?
  private weak var device: Chardev?
  private var telnet = TelnetFilter()
  private var isReceiving = true
  private var hadClient = false
  /// Told about failed connection attempts of a reconnecting client.
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
        listener = Listener(try Socket.listen(address))
      } else {
        listener = nil
        if options.reconnectSeconds == 0 { adopt(try Socket.connect(address)) }
      }
    } catch { throw ChardevError(error) }
  }

  // MARK: - ChardevTransport

  var filename: String {
    let server = options.isServer ? ",server=on" : ""
    let isInet = if case .inet = address { true } else { false }
    let scheme = options.telnet ? "telnet" : isInet ? "tcp" : "unix"
    guard connection >= 0, stream != nil else {
      var text = address.text
      if let listener, isInet, let own = Socket.localAddress(listener.rawValue) { text = own.text }
      if case .descriptor = address { text = describe(listener?.rawValue ?? -1) }
      let kind = if case .unix = address { "unix" } else { scheme }
      return "disconnected:\(kind):\(text)\(server)"
    }
    guard let own = Socket.localAddress(connection) else { return "\(scheme):\(server)" }
    if own.family == AF_UNIX {
      let path = options.isServer ? own.text : Socket.peerAddress(connection)?.text ?? ""
      return "unix:\(path)\(server)"
    }
    let peer = Socket.peerAddress(connection)?.text ?? ""
    let kind = options.telnet ? "telnet" : "tcp"
    return "\(kind):\(own.text)\(server) <-> \(peer)"
  }

  /// The port that the server listens on, for those who asked for any.
  var localPort: UInt16 {
    guard let listener else { return 0 }
    return Socket.localAddress(listener.rawValue)?.port ?? 0
  }

  var isWaitingForClient: Bool { options.waits && !hadClient }

  func start(_ device: Chardev) {
    self.device = device
    if let listener {
      listenerWatch = try? MainLoop.watch(listener.rawValue, .readable) { [weak self] _ in
        self?.acceptClient()
      }
    } else if stream != nil {
      MainLoop.post { [weak self] in self?.opened() }
    } else {
      startConnecting()
    }
  }

  func write(_ bytes: [UInt8], from start: Int) -> Int {
    guard let stream else { return bytes.count - start }
    if options.telnet, bytes.contains(0xFF) {
      // Doubling changes the count: what does not fit now is kept by the stream's own queue below.
      return writeEncoded(start == 0 ? bytes : Array(bytes[start...]), stream)
    }
    if !unsent.isEmpty { return 0 }
    return stream.write(bytes, from: start)
  }

  func setReceiving(_ on: Bool) {
    isReceiving = on
    stream?.setReceiving(on)
  }

  func drain(_ bytes: [UInt8]) {
    let rest = unsent + (options.telnet ? TelnetFilter.encode(bytes) : bytes)
    unsent = []
    stream?.drain(rest, milliseconds: 500)
  }

  func shutDown() {
    if !unsent.isEmpty { drain([]) }
    stream?.stop()
    stream = nil
    listenerWatch?.cancel()
    connecting?.cancel()
    retry?.cancel()
    if case .unix(let path) = address, options.isServer { Descriptors.unlink(path) }
  }

  // MARK: - Connections

  /// Encoded bytes that the socket did not take.
  private var unsent: [UInt8] = []

  private func writeEncoded(_ bytes: [UInt8], _ stream: DescriptorStream) -> Int {
    if !unsent.isEmpty { return 0 }
    let encoded = TelnetFilter.encode(bytes)
    let sent = stream.write(encoded)
    if sent < encoded.count { unsent = Array(encoded[sent...]) }
    return bytes.count
  }

  private func drained() {
    if !unsent.isEmpty, let stream {
      let sent = stream.write(unsent)
      unsent.removeFirst(sent)
      if !unsent.isEmpty { return }
    }
    device?.transportDrained()
  }

  private func adopt(_ socket: consuming FileDescriptor) {
    connection = socket.rawValue
    // Small writes go out at once on every connection: interactive clients wait for each of them.
    if case .inet = address { Socket.setNoDelay(connection) }
    if case .descriptor = address { Socket.setNoDelay(connection) }
    let stream = DescriptorStream(both: socket, isSocket: true)
    stream.onBytes = { [weak self] bytes, descriptors in self?.received(bytes, descriptors) }
    stream.onDrained = { [weak self] in self?.drained() }
    stream.onEnd = { [weak self] in self?.closed() }
    self.stream = stream
    telnet = TelnetFilter()
    unsent = []
  }

  private func acceptClient() {
    guard stream == nil, let listener else {
      listenerWatch?.change(to: [])
      return
    }
    let client: FileDescriptor
    do throws(SystemError) { client = try Socket.accept(listener.rawValue) } catch { return }
    // One client at a time: the next ones wait in the kernel's queue.
    listenerWatch?.change(to: [])
    adopt(client)
    opened()
  }

  private func opened() {
    guard let stream else { return }
    hadClient = true
    if options.telnet { _ = stream.write(TelnetFilter.opening) }
    device?.transportOpened()
    self.stream?.setReceiving(isReceiving)
  }

  private func received(_ bytes: [UInt8], _ descriptors: [Int32]) {
    passed += descriptors
    guard options.telnet else {
      device?.transportReceived(bytes)
      return
    }
    let (data, breaks) = telnet.receive(bytes)
    for _ in 0..<breaks { device?.transportBreak() }
    if !data.isEmpty { device?.transportReceived(data) }
  }

  /// Descriptors that came with bytes (SCM_RIGHTS) and were not taken.
  private var passed: [Int32] = []

  /// The descriptor that came last, if one did; the caller owns it.
  func takeDescriptor() -> Int32? {
    while passed.count > 1 { FileDescriptor(owning: passed.removeFirst()).close() }
    return passed.popLast()
  }

  private func closed() {
    stream?.stop()
    stream = nil
    connection = -1
    unsent = []
    while let number = passed.popLast() { FileDescriptor(owning: number).close() }
    device?.transportClosed()
    if options.isServer {
      listenerWatch?.change(to: .readable)
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
        self.adopt(FileDescriptor(owning: number))
        self.opened()
      case .failed(let message):
        self.report(message)
        self.scheduleRetry()
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

  private func describe(_ descriptor: Int32) -> String {
    Socket.localAddress(descriptor)?.text ?? address.text
  }
}

/// A listening socket, closed with its last reference.
private final class Listener {
  private let descriptor: FileDescriptor
  var rawValue: Int32 { descriptor.rawValue }
  init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }
}

/// One attempt to connect without waiting: resolves names on a thread of its own, tries the addresses in turn.
@MainLoop
final class ConnectionAttempt {
  enum Result {
    /// The caller owns the descriptor.
    case connected(Int32)
    case failed(String)
  }

  private var candidates: [ResolvedAddress] = []
  private var name = ""
  private var watch: Watch?
  private var socket: Int32 = -1
  private var lastReason = "No such file or directory"
  private var completion: ((Result) -> Void)?

  init(_ address: SocketAddress, _ completion: @escaping (Result) -> Void) {
    self.completion = completion
    do throws(SystemError) {
      _ = try HostThread(name: "resolve") { [weak self] in
        let resolved: Swift.Result<(addresses: [ResolvedAddress], name: String), SocketError>
        do throws(SocketError) {
          resolved = .success(try Socket.candidates(address))
        } catch { resolved = .failure(error) }
        MainLoop.post { self?.resolved(resolved) }
      }
    } catch { finish(.failed(error.reason)) }
  }

  func cancel() {
    completion = nil
    dropSocket()
  }

  private func resolved(
    _ result: Swift.Result<(addresses: [ResolvedAddress], name: String), SocketError>
  ) {
    switch result {
    case .failure(let error): finish(.failed(error.message))
    case .success(let (addresses, name)):
      candidates = addresses
      self.name = name
      tryNext()
    }
  }

  private func tryNext() {
    guard completion != nil else { return }
    while !candidates.isEmpty {
      let address = candidates.removeFirst()
      do throws(SystemError) {
        let (number, isPending) = try Socket.startConnecting(address)
        if !isPending { return finish(.connected(number)) }
        socket = number
        watch = try MainLoop.watch(number, .writable) { [weak self] _ in self?.settled() }
        return
      } catch {
        lastReason = error.reason
        dropSocket()
      }
    }
    finish(.failed("Failed to connect to '\(name)': \(lastReason)"))
  }

  private func settled() {
    let code = Socket.connectResult(socket)
    watch?.cancel()
    watch = nil
    if code == 0 {
      let number = socket
      socket = -1
      finish(.connected(number))
    } else {
      lastReason = SystemError(call: "connect", code: code).reason
      dropSocket()
      tryNext()
    }
  }

  private func dropSocket() {
    watch?.cancel()
    watch = nil
    if socket >= 0 { FileDescriptor(owning: socket).close() }
    socket = -1
  }

  private func finish(_ result: Result) {
    let completion = completion
    self.completion = nil
    if let completion {
      completion(result)
    } else if case .connected(let number) = result {
      FileDescriptor(owning: number).close()
    }
  }
}
