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
    if socket.tlsCreds != nil {
      throw ChardevError(.unsupported, "TLS is not supported for character devices yet")
    }
    if socket.websocket ?? false {
      throw ChardevError(.unsupported, "'websocket' is not supported for character devices yet")
    }
    if socket.tn3270 ?? false {
      throw ChardevError(.unsupported, "'tn3270' is not supported: it is for s390x machines")
    }
    var options = SocketOptions()
    options.isServer = socket.server ?? true
    options.waits = socket.wait ?? false
    options.noDelay = socket.nodelay ?? false
    options.telnet = socket.telnet ?? false
    options.reconnectSeconds = Int64(socket.reconnect ?? 0)
    return try SocketTransport(try address(socket.addr), options) { [weak self] reason in
      self?.onReport(label, reason)
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
