import Glibc
import Host
package import QAPI

extension ChardevRegistry {
  /// The kinds that `create` can make.
  package nonisolated static let supportedKinds: [ChardevBackendKind] = [
    .null, .vc, .pty, .file, .pipe, .serial, .stdio, .ringbuf, .memory, .udp, .mux, .socket,
  ]

  /// Makes a device from its description (`chardev-add`, `-chardev`) and enters it as `label`.
  ///
  /// Start-up may wait here for a client-mode socket to connect, as QEMU does. Throws `ChardevError`.
  @discardableResult
  package func create(
    _ label: String, _ backend: ChardevBackend
  ) throws(ChardevError) -> Chardev {
    try checkLabel(label)
    let log = try openLog(backend)
    switch backend {
    case .null: return add(label, NullTransport(), log: log)
    case .vc: return add(label, NullTransport(filename: "vc"), log: log)
    case .pty: return add(label, try PseudoTerminalTransport(), log: log)
    case .file(let file):
      let transport = try StreamTransport.file(
        input: file.in, out: file.out, isAppending: file.append ?? false)
      return add(label, transport, log: log)
    case .pipe(let pipe): return add(label, try StreamTransport.pipe(path: pipe.device), log: log)
    case .serial(let line):
      return add(label, try StreamTransport.serialLine(path: line.device), log: log)
    case .stdio(let stdio):
      let transport = try StreamTransport.standardIO(signals: stdio.signal ?? true)
      return add(label, transport, log: log)
    case .ringbuf(let ring), .memory(let ring):
      return add(label, try RingBufferTransport(size: ring.size ?? 65536), log: log)
    case .udp(let udp):
      let transport = try DatagramTransport(
        remote: try inet(udp.remote), local: try udp.local.map(inet))
      return add(label, transport, log: log)
    case .mux(let mux):
      guard let base = self[mux.chardev] else {
        throw ChardevError(.notFound, "mux: base chardev \(mux.chardev) not found")
      }
      let transport = try MuxTransport(base: base)
      return add(label, transport, mux: MuxModel(escape: muxEscape), log: log)
    case .socket(let socket): return add(label, try makeSocket(label, socket), log: log)
    case .parallel, .msmouse, .wctablet, .braille, .testdev, .console, .spicevmc, .spiceport,
      .qemuVdagent, .dbus:
      throw ChardevError(
        .unsupported, "'\(backend.kind.rawValue)' is not a valid char driver name",
        hint:
          "Supported: file, memory, mux, null, pipe, pty, ringbuf, serial, socket, stdio, udp, vc")
    }
  }

  // MARK: -

  private func makeSocket(
    _ label: String, _ socket: ChardevSocket
  ) throws(ChardevError) -> SocketTransport {
    let isServer = socket.server ?? true
    var credentials: TLSCredentials?
    if let id = socket.tlsCreds {
      let found = try credentialsNamed(id)
      let endpoint: TLSCredentials.Endpoint = isServer ? .server : .client
      guard found.endpoint == endpoint else {
        throw ChardevError(
          .badOption, "Expected TLS credentials for a \(endpoint.rawValue) endpoint")
      }
      credentials = found
    }
    try checkLayers(socket, isServer: isServer)
    if socket.tn3270 ?? false {
      throw ChardevError(.unsupported, "'tn3270' is not supported: it is for s390x machines")
    }
    var options = SocketOptions()
    options.isServer = isServer
    options.waits = socket.wait ?? false
    options.noDelay = socket.nodelay ?? false
    options.telnet = socket.telnet ?? false
    options.reconnectSeconds = Int64(socket.reconnect ?? 0)
    options.websocket = socket.websocket ?? false
    if let credentials { options.layers.append(tlsLayer(credentials, socket)) }
    return try SocketTransport(try address(socket.addr), options) { [weak self] reason in
      self?.onReport(label, reason)
    }
  }

  /// Refuses layers that exclude each other or the kind of address.
  private func checkLayers(_ socket: ChardevSocket, isServer: Bool) throws(ChardevError) {
    let kind: String? =
      switch socket.addr {
      case .unix: "unix"
      case .vsock: "vsock"
      case .fd: isServer ? nil : "fd"
      case .inet: nil
      }
    if socket.tlsCreds != nil, let kind {
      throw ChardevError(
        .badOption, "'tls_creds' option is incompatible with '\(kind)' address type")
    }
    if socket.tlsAuthz != nil, socket.tlsCreds == nil {
      throw ChardevError(.badOption, "'tls_authz' option requires 'tls_creds' option")
    }
    if socket.websocket ?? false, !isServer {
      throw ChardevError(.badOption, "Websocket client is not implemented")
    }
  }

  private func tlsLayer(
    _ credentials: TLSCredentials, _ socket: ChardevSocket
  ) -> StreamLayerFactory {
    var host: String?
    if credentials.endpoint == .client, case .inet(let inet) = socket.addr { host = inet.host }
    let list = socket.tlsAuthz
    return { [weak self, host] () throws(ChardevError) in
      guard let list else { return try TLSLayer(credentials, hostName: host) }
      // Authorisation is asked anew for each peer: the object may have changed.
      return try TLSLayer(credentials, hostName: host) { name throws(TLSError) in
        guard let self else { return false }
        return try self.isAuthorised(list, name)
      }
    }
  }

  private func address(_ address: SocketAddressLegacy) throws(ChardevError) -> SocketAddress {
    switch address {
    case .inet: return .inet(try inet(address))
    case .unix(let unix):
      return unix.abstract ?? false
        ? .abstract(name: unix.path, isTight: unix.tight ?? true) : .unix(path: unix.path)
    case .fd(let name):
      if let number = Int32(name.str), number >= 0 { return .descriptor(number) }
      if let number = descriptorNamed(name.str) { return .descriptor(number) }
      throw ChardevError(.badOption, "File descriptor named '\(name.str)' has not been found")
    case .vsock:
      throw ChardevError(.unsupported, "vsock is not supported for character devices")
    }
  }

  private func inet(_ address: SocketAddressLegacy) throws(ChardevError) -> InetAddress {
    guard case .inet(let inet) = address else {
      throw ChardevError(.badOption, "an internet address (host and port) is needed here")
    }
    return InetAddress(
      host: inet.host, port: inet.port, lastPort: inet.to, ipv4: inet.ipv4, ipv6: inet.ipv6,
      keepAlive: inet.keepAlive ?? false, isNumeric: inet.numeric ?? false)
  }

  private func openLog(_ backend: ChardevBackend) throws(ChardevError) -> FileDescriptor? {
    let (path, isAppending) = backend.log
    guard let path else { return nil }
    let flags = O_WRONLY | O_CREAT | (isAppending ? O_APPEND : O_TRUNC)
    do { return try FileDescriptor.open(path, flags) } catch {
      throw ChardevError(.cannotOpen, "Could not create '\(path)': \(error.reason)")
    }
  }
}

extension ChardevBackend {
  /// `logfile` and `logappend`, which every kind has.
  fileprivate var log: (path: String?, isAppending: Bool) {
    switch self {
    case .file(let data): (data.logfile, data.logappend ?? false)
    case .serial(let data), .parallel(let data), .pipe(let data):
      (data.logfile, data.logappend ?? false)
    case .socket(let data): (data.logfile, data.logappend ?? false)
    case .udp(let data): (data.logfile, data.logappend ?? false)
    case .pty(let data), .null(let data), .msmouse(let data), .wctablet(let data),
      .braille(let data), .testdev(let data), .console(let data):
      (data.logfile, data.logappend ?? false)
    case .mux(let data): (data.logfile, data.logappend ?? false)
    case .stdio(let data): (data.logfile, data.logappend ?? false)
    case .spicevmc(let data): (data.logfile, data.logappend ?? false)
    case .spiceport(let data): (data.logfile, data.logappend ?? false)
    case .qemuVdagent(let data): (data.logfile, data.logappend ?? false)
    case .dbus(let data): (data.logfile, data.logappend ?? false)
    case .vc(let data): (data.logfile, data.logappend ?? false)
    case .ringbuf(let data), .memory(let data): (data.logfile, data.logappend ?? false)
    }
  }
}
