import Glibc
import Host
package import QAPI

extension ChardevRegistry {
  /// The kinds that `create` can make, in the order in which QEMU lists its own.
  package nonisolated static let supportedKinds: [ChardevBackendKind] = [
    .testdev, .pty, .serial, .file, .memory, .udp, .parallel, .vc, .socket, .null, .pipe, .mux,
    .ringbuf, .stdio,
  ]

  /// Makes a device from its description (`chardev-add`, `-chardev`) and enters it as `label`.
  ///
  /// Start-up may wait here for a client-mode socket to connect, as QEMU does; a running machine (`isRunning`) does not, and is
  /// given descriptors by name only. Throws `ChardevError`.
  @discardableResult
  package func create(
    _ label: String, _ backend: ChardevBackend, isRunning: Bool = false
  ) throws(ChardevError) -> Chardev {
    try checkLabel(label)
    let log = try openLog(backend)
    let transport = try makeTransport(label, backend, isRunning: isRunning)
    let isMux = if case .mux = backend { true } else { false }
    return add(
      label, transport, mux: isMux ? MuxModel(escape: muxEscape) : nil, log: log,
      isRunning: isRunning)
  }

  func makeTransport(
    _ label: String, _ backend: ChardevBackend, isRunning: Bool
  ) throws(ChardevError) -> any ChardevTransport {
    switch backend {
    case .null: return NullTransport()
    case .vc: return NullTransport(filename: "vc")
    case .pty: return try PseudoTerminalTransport()
    case .file(let file):
      return try StreamTransport.file(
        input: file.in, out: file.out, isAppending: file.append ?? false)
    case .pipe(let pipe): return try StreamTransport.pipe(path: pipe.device)
    case .serial(let line): return try StreamTransport.serialLine(path: line.device)
    case .parallel(let port): return try StreamTransport.parallelPort(path: port.device)
    case .stdio(let stdio): return try StreamTransport.standardIO(signals: stdio.signal ?? true)
    case .ringbuf(let ring): return try RingBufferTransport(size: ring.size ?? 65536)
    case .memory(let ring):
      return try RingBufferTransport(size: ring.size ?? 65536, filename: "memory")
    case .udp(let udp):
      return try DatagramTransport(remote: try datagram(udp.remote), local: try local(udp.local))
    case .mux(let mux):
      guard let base = self[mux.chardev] else {
        throw ChardevError(.notFound, "mux: base chardev \(mux.chardev) not found")
      }
      return try MuxTransport(base: base)
    case .testdev: return TestDeviceTransport { [weak self] in self?.onTestExit($0) }
    case .socket(let socket): return try makeSocket(label, socket, isRunning: isRunning)
    case .msmouse, .wctablet, .braille, .console, .spicevmc, .spiceport, .qemuVdagent, .dbus:
      throw ChardevError(
        .unsupported, "'\(backend.kind.rawValue)' is not a valid char driver name",
        hint: "Supported: file, memory, mux, null, parallel, pipe, pty, ringbuf, serial, socket, "
          + "stdio, testdev, udp, vc")
    }
  }

  // MARK: -

  private func makeSocket(
    _ label: String, _ socket: ChardevSocket, isRunning: Bool
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
    options.isRunning = isRunning
    try options.validate()
    if let credentials { options.layers.append(tlsLayer(credentials, socket)) }
    let address = try address(socket.addr, isRunning: isRunning)
    return try SocketTransport(address, options) { [weak self] reason in
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

  private func address(
    _ address: SocketAddressLegacy, isRunning: Bool
  ) throws(ChardevError) -> SocketAddress {
    switch address {
    case .inet: return .inet(try inet(address))
    case .unix(let unix):
      return unix.abstract ?? false
        ? .abstract(name: unix.path, isTight: unix.tight ?? true) : .unix(path: unix.path)
    case .fd(let name):
      // A client of a monitor names what it has passed itself; numbers are the command line's.
      if isRunning {
        guard let number = descriptorNamed(name.str) else {
          throw ChardevError(.badOption, "File descriptor named '\(name.str)' has not been found")
        }
        return .descriptor(number, name: name.str)
      }
      if let number = Int32(name.str), number >= 0 { return .descriptor(number, name: name.str) }
      if let number = SocketActivation.descriptor(named: name.str) {
        return .descriptor(number, name: name.str)
      }
      throw ChardevError(.badOption, "Unable to parse FD number \(name.str)")
    case .vsock(let vsock):
      guard let context = UInt32(vsock.cid) else {
        throw ChardevError(.badOption, "Failed to parse cid '\(vsock.cid)'")
      }
      guard let port = UInt32(vsock.port) else {
        throw ChardevError(.badOption, "Failed to parse port '\(vsock.port)'")
      }
      return .vsock(context: context, port: port)
    }
  }

  private func datagram(_ address: SocketAddressLegacy) throws(ChardevError) -> InetAddress {
    guard case .inet = address else {
      throw ChardevError(.badOption, "socket type unsupported for datagram")
    }
    return try inet(address)
  }

  private func local(_ address: SocketAddressLegacy?) throws(ChardevError) -> InetAddress? {
    guard let address else { return nil }
    return try inet(address)
  }

  private func inet(_ address: SocketAddressLegacy) throws(ChardevError) -> InetAddress {
    guard case .inet(let inet) = address else {
      throw ChardevError(.badOption, "an internet address (host and port) is needed here")
    }
    return InetAddress(
      host: inet.host, port: inet.port, lastPort: inet.to, ipv4: inet.ipv4, ipv6: inet.ipv6,
      keepAlive: inet.keepAlive ?? false, isNumeric: inet.numeric ?? false)
  }

  func openLog(_ backend: ChardevBackend) throws(ChardevError) -> FileDescriptor? {
    let (path, isAppending) = backend.log
    guard let path else { return nil }
    let flags = O_WRONLY | O_CREAT | (isAppending ? O_APPEND : O_TRUNC)
    do { return try FileDescriptor.open(path, flags) } catch {
      if path.utf8.starts(with: DescriptorSets.prefix.utf8) {
        let digits = String(flags, radix: 16)
        throw ChardevError(
          .cannotOpen, "Could not dup FD for \(path) flags \(digits): \(error.reason)")
      }
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
