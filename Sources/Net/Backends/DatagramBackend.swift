package import Host
package import QAPI

/// `dgram`, and `socket` with `mcast=`, `udp=` or `fd=`: a frame in each datagram.
@MainLoop
package final class DatagramBackend: NetBackend {
  private let socket: FileDescriptor
  private let remote: ResolvedAddress?
  private var port: NetPort?
  private var watch: Watch?
  private var isFull = false
  private let buffer = IOBuffer(count: Frame.maximum + 4096)
  private var unixPath: String?
  /// Frames that nobody at the other end took.
  private(set) var refused: UInt64 = 0

  /// `-netdev dgram`.
  package convenience init(
    _ id: String, _ options: NetdevDgramOptions, in network: Network
  ) throws(NetError) {
    guard options.local != nil || options.remote.map(Self.isMulticast) == true else {
      throw NetError("dgram requires local= parameter")
    }
    if let remote = options.remote, case .inet(let inet) = remote, Self.isMulticast(remote) {
      let group = try SocketBackends.resolve(
        InetAddress(host: inet.host, port: inet.port, ipv4: true, ipv6: false))
      let text = "mcast=\(group.text)"
      switch options.local {
      case nil:
        try self.init(id, group: group, interface: nil, kind: "dgram", text)
      case .inet(let local):
        let here = try SocketBackends.resolve(
          InetAddress(host: local.host, port: local.port, ipv4: true, ipv6: false))
        try self.init(
          id, group: group, interface: Array(here.bytes[4..<8]), kind: "dgram", text)
      case .fd(let fd):
        try self.init(
          id, descriptor: try GivenDescriptor.number(fd.str, id, network), kind: "dgram", text,
          remote: group)
      default: throw NetError("multicast only support inet type")
      }
      return
    }
    switch (options.local, options.remote) {
    case (.fd(let fd), nil):
      let number = try GivenDescriptor.number(fd.str, id, network)
      guard Socket.kind(of: number) != nil else {
        throw NetError("Unable to query local socket address: Socket operation on non-socket")
      }
      try self.init(id, descriptor: number, kind: "dgram", "fd=\(number)")
    case (.fd, _): throw NetError("don't set remote with local.fd")
    case (.inet, nil), (.unix, nil):
      throw NetError("type=inet or type=unix requires remote parameter")
    case (.inet(let local), .inet(let remote)):
      let here = try SocketBackends.resolve(
        InetAddress(host: local.host, port: local.port, ipv4: local.ipv4, ipv6: local.ipv6))
      let there = try SocketBackends.resolve(
        InetAddress(host: remote.host, port: remote.port, ipv4: remote.ipv4, ipv6: remote.ipv6))
      try self.init(
        id, local: here, remote: there, kind: "dgram", "udp=\(here.text)/\(there.text)")
    case (.unix(let local), .unix(let remote)):
      let here: ResolvedAddress
      let there: ResolvedAddress
      do throws(SocketError) {
        here = try ResolvedAddress(unixPath: local.path)
        there = try ResolvedAddress(unixPath: remote.path)
      } catch { throw NetError(error.message) }
      Descriptors.unlink(local.path)
      try self.init(
        id, local: here, remote: there, kind: "dgram", "udp=\(local.path):\(remote.path)")
      unixPath = local.path
    case (.inet, _), (.unix, _): throw NetError("remote and local types must be the same")
    default: throw NetError("only support inet or fd type for local")
    }
  }

  private static func isMulticast(_ address: SocketAddressFlat) -> Bool {
    guard case .inet(let inet) = address, let value = AddressText.ipv4(inet.host) else {
      return false
    }
    return value >> 28 == 14
  }

  /// A socket at `local` that sends to `remote`.
  convenience init(
    _ id: String, local: ResolvedAddress, remote: ResolvedAddress, kind: String, _ text: String
  ) throws(NetError) {
    let socket: FileDescriptor
    do throws(SocketError) { socket = try Socket.boundDatagram(local) } catch {
      throw NetError(error.message)
    }
    try self.init(id, socket, remote, kind, text)
  }

  /// A socket in a multicast group.
  convenience init(
    _ id: String, group: ResolvedAddress, interface: [UInt8]?, kind: String, _ text: String
  ) throws(NetError) {
    let socket: FileDescriptor
    do throws(SocketError) {
      socket = try Socket.multicast(group, interface: interface)
    } catch { throw NetError(error.message) }
    try self.init(id, socket, group, kind, text)
  }

  /// A socket of somebody else's making.
  convenience init(
    _ id: String, descriptor number: Int32, kind: String, _ text: String,
    remote: ResolvedAddress? = nil
  ) throws(NetError) {
    let socket = FileDescriptor(owning: number)
    do throws(SystemError) { try socket.setNonBlocking() } catch {
      throw NetError("\(id): Can't use file descriptor \(number): \(error.reason)")
    }
    try self.init(id, socket, remote, kind, text)
  }

  private init(
    _ id: String, _ socket: consuming FileDescriptor, _ remote: ResolvedAddress?, _ kind: String,
    _ text: String
  ) throws(NetError) {
    let number = socket.rawValue
    self.socket = socket
    self.remote = remote
    let port = NetPort(id, kind: kind, details: text, owner: self)
    port.joinsSegments = true
    self.port = port
    do throws(SystemError) {
      watch = try MainLoop.watch(number, .readable) { [weak self] ready in self?.ready(ready) }
    } catch { throw NetError("cannot watch the socket: \(error.reason)") }
  }

  package var ports: [NetPort] { port.map { [$0] } ?? [] }

  package func close() {
    watch?.cancel()
    watch = nil
    if let unixPath { Descriptors.unlink(unixPath) }
    unixPath = nil
  }

  private func update() {
    var interest: Readiness = []
    if port?.isWaiting != true { interest.insert(.readable) }
    if isFull { interest.insert(.writable) }
    watch?.change(to: interest)
  }

  private func ready(_ ready: Readiness) {
    guard let port else { return }
    if ready.contains(.writable) {
      isFull = false
      port.becomesReady()
      update()
    }
    guard !ready.isDisjoint(with: [.readable, .hungUp]) else { return }
    var left = 256
    while left > 0, !port.isWaiting {
      left -= 1
      // An error is the answer to something that was sent before, such as nobody listening.
      guard let count = try? buffer.read(from: socket.rawValue, at: 0) else { break }
      if count > 0 { port.send(Frame(buffer, 0..<count)) }
    }
    port.endBurst()
    if port.isWaiting { update() }
  }

  package func receive(_ frame: Frame, on port: NetPort) -> Bool {
    if isFull { return false }
    do throws(SystemError) {
      if try frame.buffer.send(frame.range, to: socket.rawValue, address: remote) == nil {
        isFull = true
        update()
        return false
      }
    } catch { refused &+= 1 }
    return true
  }

  package func resumeSending(on port: NetPort) { update() }
}
