import Host
import QAPI

/// Socket addresses of the monitor API, and back.
@MainLoop
enum AddressOption {
  /// Throws with QEMU's sentences.
  static func address(
    _ wanted: SocketAddressFlat, _ id: String, _ network: Network
  ) throws(NetError) -> SocketAddress {
    switch wanted {
    case .inet(let inet):
      return .inet(
        InetAddress(
          host: inet.host, port: inet.port, lastPort: inet.to.map { UInt16(clamping: $0) },
          ipv4: inet.ipv4, ipv6: inet.ipv6, keepAlive: inet.keepAlive ?? false,
          isNumeric: inet.numeric ?? false))
    case .unix(let unix):
      if unix.abstract == true { return .abstract(name: unix.path, isTight: unix.tight ?? true) }
      return .unix(path: unix.path)
    case .vsock(let vsock):
      guard let context = UInt32(vsock.cid), let port = UInt32(vsock.port) else {
        throw NetError("Failed to parse cid '\(vsock.cid)'")
      }
      return .vsock(context: context, port: port)
    case .fd(let fd):
      return .descriptor(try GivenDescriptor.number(fd.str, id, network), name: fd.str)
    }
  }

  /// The other side of a connection.
  static func flat(ofPeer number: Int32) -> SocketAddressFlat {
    let address = Socket.peerAddress(number)
    switch address?.family {
    case 2, 10:
      let (host, port) = split(address?.text ?? "")
      return .inet(
        InetSocketAddress(
          host: host, port: port, ipv4: address?.family == 2 ? true : nil,
          ipv6: address?.family == 10 ? true : nil))
    case 40:
      let (context, port) = split(address?.text ?? "")
      return .vsock(VsockSocketAddress(cid: context, port: port))
    case 1:
      let path = address?.text ?? ""
      return .unix(
        UnixSocketAddress(path: path.isEmpty ? Socket.localAddress(number)?.text ?? "" : path))
    default: return .fd(DescriptorName(str: String(number)))
    }
  }

  private static func split(_ text: String) -> (String, String) {
    guard let colon = text.lastIndex(of: ":") else { return (text, "") }
    var host = String(text[..<colon])
    if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
    return (host, String(text[text.index(after: colon)...]))
  }

  /// What `info network` says of a connection.
  static func text(ofPeer number: Int32) -> String {
    switch flat(ofPeer: number) {
    case .inet(let inet): "tcp:\(inet.host):\(inet.port)"
    case .unix(let unix): "unix:\(unix.path)"
    case .vsock(let vsock): "vsock:\(vsock.cid):\(vsock.port)"
    case .fd: "fd:\(number)"
    }
  }
}
