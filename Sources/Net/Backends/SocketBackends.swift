import Host
import QAPI

/// `-netdev socket` in its forms.
@MainLoop
enum SocketBackends {
  static func make(
    _ id: String, _ options: NetdevSocketOptions, in network: Network
  ) throws(NetError) -> any NetBackend {
    let kinds = [options.fd, options.listen, options.connect, options.mcast, options.udp]
    guard kinds.count(where: { $0 != nil }) == 1 else {
      throw NetError("exactly one of listen=, connect=, mcast= or udp= is required")
    }
    if options.localaddr != nil, options.mcast == nil, options.udp == nil {
      throw NetError("localaddr= is only valid with mcast= or udp=")
    }
    if let fd = options.fd {
      let number = try GivenDescriptor.number(fd, id, network)
      guard let kind = Socket.kind(of: number) else {
        throw NetError("can't get socket option SO_TYPE")
      }
      if kind == Socket.stream {
        return try StreamBackend(id, socket: .connected(number), fd)
      }
      return try DatagramBackend(id, descriptor: number, kind: "socket", "socket: fd=\(number)")
    }
    if let listen = options.listen {
      return try StreamBackend(id, socket: .listen(.inet(try inet(listen))), listen)
    }
    if let connect = options.connect {
      return try StreamBackend(id, socket: .connect(.inet(try inet(connect))), connect)
    }
    if let group = options.mcast {
      let address = try resolve(try inet(group))
      var local: [UInt8]?
      if let text = options.localaddr {
        guard let value = AddressText.ipv4(text) else {
          throw NetError("localaddr '\(text)' is not a valid IPv4 address")
        }
        local = (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * UInt32($0))) }
      }
      return try DatagramBackend(
        id, group: address, interface: local, kind: "socket", "socket: mcast=\(address.text)")
    }
    guard let remote = options.udp else { throw NetError("udp= is required") }
    guard let local = options.localaddr else {
      throw NetError("localaddr= is mandatory with udp=")
    }
    let there = try resolve(try inet(remote))
    let here = try resolve(try inet(local))
    return try DatagramBackend(
      id, local: here, remote: there, kind: "socket", "socket: udp=\(there.text)")
  }

  private static func inet(_ text: String) throws(NetError) -> InetAddress {
    guard let colon = text.firstIndex(of: ":") else {
      throw NetError(
        "host address '\(text)' doesn't contain ':' separating host from port")
    }
    let port = text[text.index(after: colon)...]
    guard UInt16(port) != nil else { throw NetError("port number '\(port)' is invalid") }
    let host = text[..<colon]
    return InetAddress(
      host: host.isEmpty ? "0.0.0.0" : String(host), port: String(port), ipv4: true, ipv6: false)
  }

  static func resolve(_ inet: InetAddress) throws(NetError) -> ResolvedAddress {
    do throws(SocketError) {
      guard
        let found = try inet.resolve(isPassive: true, kind: Socket.datagramKind).first
      else { throw SocketError("can't resolve host address '\(inet.host)'") }
      return found
    } catch { throw NetError("can't resolve host address '\(inet.host)'") }
  }
}
