package import Host
package import QAPI

/// How a tunnel over a stream socket comes about.
enum StreamOrigin {
  case listen(SocketAddress)
  case connect(SocketAddress)
  /// A socket that is connected already.
  case connected(Int32)
}

/// `stream`, and `socket` with `listen=`, `connect=` or `fd=`: one connection at a time.
@MainLoop
package final class StreamBackend: NetBackend {
  private let id: String
  private var port: NetPort?
  private var listener: FileDescriptor?
  private var listenerWatch: Watch?
  private var pending: FileDescriptor?
  private var pendingWatch: Watch?
  private var stream: FrameStream?
  private var isClosed = false
  /// What `info network` says once there is a connection.
  private var describe: @MainLoop (Int32) -> String = { _ in "" }
  private var onConnected: @MainLoop (SocketAddressFlat) -> Void = { _ in }
  private var onDisconnected: @MainLoop () -> Void = {}
  private var unixPath: String?

  /// `-netdev stream`.
  package convenience init(
    _ id: String, _ options: NetdevStreamOptions, in network: Network
  ) throws(NetError) {
    let address = try AddressOption.address(options.addr, id, network)
    var origin = options.server == true ? StreamOrigin.listen(address) : .connect(address)
    if case .descriptor(let number, _) = address, options.server != true {
      origin = .connected(number)
    }
    try self.init(id, kind: "stream", origin)
    describe = { AddressOption.text(ofPeer: $0) }
    onConnected = { [weak network] address in
      network?.onEvent(.netdevStreamConnected(netdevId: id, addr: address))
    }
    onDisconnected = { [weak network] in
      network?.onEvent(.netdevStreamDisconnected(netdevId: id))
    }
    try begin(origin)
  }

  /// `-netdev socket`.
  convenience init(_ id: String, socket origin: StreamOrigin, _ text: String) throws(NetError) {
    try self.init(id, kind: "socket", origin)
    describe = { number in
      switch origin {
      case .listen:
        "socket: connection from \(Socket.peerAddress(number)?.text ?? "?")"
      case .connect: "socket: connect to \(text)"
      case .connected: "socket: fd=\(number)"
      }
    }
    try begin(origin)
  }

  private init(_ id: String, kind: String, _ origin: StreamOrigin) throws(NetError) {
    self.id = id
    let port = NetPort(id, kind: kind, owner: self)
    port.joinsSegments = true
    self.port = port
  }

  private func begin(_ origin: StreamOrigin) throws(NetError) {
    switch origin {
    case .listen(let address):
      if case .unix(let path) = address { unixPath = path }
      do throws(SocketError) { listener = try Socket.listen(address) } catch {
        throw NetError(error.message)
      }
      try watchListener()
    case .connect(let address): try connect(address)
    case .connected(let number):
      let file = FileDescriptor(owning: number)
      do throws(SystemError) { try file.setNonBlocking() } catch {
        throw NetError("\(id): Can't use file descriptor \(number): \(error.reason)")
      }
      start(file)
    }
  }

  private func watchListener() throws(NetError) {
    guard let number = listener.number else { return }
    do throws(SystemError) {
      listenerWatch = try MainLoop.watch(number, .readable) { [weak self] _ in self?.accept(number)
      }
    } catch { throw NetError("cannot wait for connections: \(error.reason)") }
  }

  private func accept(_ number: Int32) {
    guard stream == nil, let file = try? Socket.accept(number) else { return }
    // One at a time; the next waits in the kernel's queue.
    listenerWatch?.change(to: [])
    start(file)
  }

  private func connect(_ address: SocketAddress) throws(NetError) {
    let candidates: [ResolvedAddress]
    do throws(SocketError) { candidates = try Socket.candidates(address).addresses } catch {
      throw NetError(error.message)
    }
    for candidate in candidates {
      guard let (number, isPending) = try? Socket.startConnecting(candidate) else { continue }
      if !isPending {
        start(FileDescriptor(owning: number))
        return
      }
      pending = FileDescriptor(owning: number)
      pendingWatch = try? MainLoop.watch(number, .writable) { [weak self] _ in self?.connected() }
      return
    }
    failed()
  }

  private func connected() {
    guard let file = pending.take() else { return }
    pendingWatch?.cancel()
    pendingWatch = nil
    guard Socket.connectResult(file.rawValue) == 0 else { return failed() }
    start(file)
  }

  private func failed() {
    if port?.kind == "stream" { port?.details = "connection error" }
  }

  private func start(_ file: consuming FileDescriptor) {
    guard let port, !isClosed else { return }
    let number = file.rawValue
    do throws(SystemError) {
      stream = try FrameStream(file, port) { [weak self] in self?.streamEnded() }
    } catch { return failed() }
    port.details = describe(number)
    port.announceLink()
    onConnected(AddressOption.flat(ofPeer: number))
  }

  private func streamEnded() {
    guard stream != nil else { return }
    stream = nil
    port?.details = ""
    port?.becomesReady()
    port?.announceLink()
    onDisconnected()
    listenerWatch?.change(to: .readable)
  }

  package var ports: [NetPort] { port.map { [$0] } ?? [] }

  package func close() {
    isClosed = true
    listenerWatch?.cancel()
    listenerWatch = nil
    listener = nil
    pendingWatch?.cancel()
    pendingWatch = nil
    pending = nil
    stream?.close()
    stream = nil
    if let unixPath { Descriptors.unlink(unixPath) }
    unixPath = nil
  }

  package func receive(_ frame: Frame, on port: NetPort) -> Bool {
    // Nobody is there: as on a cable whose other end lies on the floor.
    stream?.send(frame) ?? true
  }

  package func resumeSending(on port: NetPort) { stream?.resume() }
}

extension Optional where Wrapped == FileDescriptor {
  fileprivate var number: Int32? {
    switch self {
    case .some(let file): file.rawValue
    case .none: nil
    }
  }
}
