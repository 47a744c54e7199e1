// Where nodes listen, as text.

internal import Cluster
internal import Host

/// Reads the addresses of `peers=` and `iplist=`.
enum ClusterAddressText {
  /// Where node 0 listens when a peer has no port; node N at N more.
  static let firstPort: UInt16 = 7710

  /// The addresses in the nodes' order, each with its port. Throws when one is none, or is there twice.
  static func addresses(
    _ texts: [String], _ origin: OptionOrigin
  ) throws(OptionError) -> [SocketAddress] {
    var result: [SocketAddress] = []
    for (number, text) in texts.enumerated() {
      let address = try address(text, node: number, origin)
      if let other = result.firstIndex(of: address) {
        throw OptionError(
          .conflict, origin, "nodes \(other) and \(number) have the same address \(address.text)")
      }
      result.append(address)
    }
    return result
  }

  /// `HOST`, `HOST:PORT`, `[IPV6]`, `[IPV6]:PORT`, `unix:PATH`; an IPv6 address without port may go without brackets.
  static func address(
    _ text: String, node: Int, _ origin: OptionOrigin
  ) throws(OptionError) -> SocketAddress {
    if text.hasPrefix("unix:") {
      let path = String(text.dropFirst(5))
      guard !path.isEmpty, path.utf8.count < 108 else {
        throw OptionError(
          .invalidValue, origin,
          path.isEmpty
            ? "a unix socket needs a path, as in unix:/run/user/1000/node-\(node)"
            : "UNIX socket path '\(path)' is too long; it must be less than 108 bytes")
      }
      return .unix(path: path)
    }
    var host = text
    var port = String(firstPort + UInt16(node))
    var hasPort = false
    if text.hasPrefix("[") {
      guard let end = text.firstIndex(of: "]") else { throw malformed(text, origin) }
      host = String(text[text.index(after: text.startIndex)..<end])
      let rest = text[text.index(after: end)...]
      guard rest.isEmpty || rest.hasPrefix(":"), host.contains(":") else {
        throw malformed(text, origin)
      }
      if !rest.isEmpty {
        port = String(rest.dropFirst())
        hasPort = true
      }
    } else if text.utf8.count(where: { $0 == UInt8(ascii: ":") }) == 1,
      let colon = text.firstIndex(of: ":")
    {
      host = String(text[..<colon])
      port = String(text[text.index(after: colon)...])
      hasPort = true
    }
    guard isHost(host) else { throw malformed(text, origin) }
    if hasPort {
      guard let number = UInt16(port), number > 0 else {
        throw OptionError(
          .invalidValue, origin, "'\(port)' in '\(text)' is no port; give a number from 1 to 65535")
      }
      port = String(number)
    }
    return .inet(InetAddress(host: host, port: port))
  }

  private static func malformed(_ text: String, _ origin: OptionOrigin) -> OptionError {
    OptionError(
      .invalidValue, origin,
      "'\(text)' is no address; write HOST:PORT, [IPV6]:PORT or unix:PATH")
  }

  private static func isHost(_ host: String) -> Bool {
    !host.isEmpty
      && host.utf8.allSatisfy { byte in
        (0x30...0x3A).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
          || byte == UInt8(ascii: "-") || byte == UInt8(ascii: ".") || byte == UInt8(ascii: "_")
          || byte == UInt8(ascii: "%")
      }
  }

  /// 127.0.0.0/8, ::1 and what is always their name.
  static func isLoopback(_ host: String) -> Bool {
    if host == "localhost" || host == "::1" { return true }
    let parts = host.split(separator: ".", omittingEmptySubsequences: false)
    return parts.count == 4 && parts[0] == "127" && parts.allSatisfy { UInt8($0) != nil }
  }
}
