package import Host

/// A node as named on the command line: `[NAME=]ADDRESS`.
package struct NodeAddress: Equatable, Sendable {
  /// What the user calls it; made from the address when no name was given.
  package let name: String
  package let socket: SocketAddress

  package init(name: String, socket: SocketAddress) {
    self.name = name
    self.socket = socket
  }

  /// Understands a path, `unix:PATH`, `HOST:PORT`, `[IPV6]:PORT`, `tcp:HOST:PORT`, `telnet:HOST:PORT`, `fd:NUMBER`, `unix:@ABSTRACT`, each with an
  /// optional `NAME=` before it. Throws `LineError`.
  package init(parsing text: String) throws(LineError) {
    var address = text[...]
    var name: String?
    if let equals = text.firstIndex(of: "="),
      text[..<equals].utf8.allSatisfy(NodeAddress.isNamePart), equals != text.startIndex
    {
      name = String(text[..<equals])
      address = text[text.index(after: equals)...]
    }
    guard !address.isEmpty else { throw LineError("'\(text)' has no address") }
    socket = try NodeAddress.socket(String(address))
    self.name = name ?? NodeAddress.name(socket)
  }

  private static func isNamePart(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"),
      UInt8(ascii: "."):
      true
    default: false
    }
  }

  private static func socket(_ text: String) throws(LineError) -> SocketAddress {
    for scheme in ["tcp:", "telnet:"] where text.hasPrefix(scheme) {
      guard let inet = inet(String(text.dropFirst(scheme.count))) else {
        throw LineError("'\(text)' is no address: \(scheme)HOST:PORT")
      }
      return .inet(inet)
    }
    if text.hasPrefix("fd:") {
      guard let number = Int32(text.dropFirst(3)), number >= 0 else {
        throw LineError("'\(text)' names no descriptor")
      }
      return .descriptor(number)
    }
    if text.hasPrefix("unix:@") {
      return .abstract(name: String(text.dropFirst(6)), isTight: true)
    }
    if text.hasPrefix("unix:") { return .unix(path: String(text.dropFirst(5))) }
    if !text.contains("/"), let inet = inet(text) { return .inet(inet) }
    return .unix(path: text)
  }

  private static func inet(_ text: String) -> InetAddress? {
    guard let colon = text.lastIndex(of: ":") else { return nil }
    let port = text[text.index(after: colon)...]
    var host = text[..<colon]
    guard !port.isEmpty, port.utf8.allSatisfy(isNamePart) else { return nil }
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
    } else if host.contains(":") {
      return nil
    }
    return InetAddress(host: host.isEmpty ? "localhost" : String(host), port: String(port))
  }

  private static func name(_ socket: SocketAddress) -> String {
    switch socket {
    case .unix(let path):
      let file = path.split(separator: "/").last.map(String.init) ?? path
      let stem = file.split(separator: ".").first.map(String.init) ?? file
      // Sockets are often called the same in folders named after their machines.
      guard ["qmp", "monitor", "hmp", "mon"].contains(stem) else { return stem }
      return path.split(separator: "/").dropLast().last.map { "\($0)" } ?? stem
    default: return socket.text
    }
  }

  /// Nodes with different names: a number is added where two have the same.
  package static func distinct(_ nodes: [NodeAddress]) -> [NodeAddress] {
    var seen: Set<String> = []
    return nodes.map { node in
      var name = node.name
      var number = 2
      while !seen.insert(name).inserted {
        name = "\(node.name)-\(number)"
        number += 1
      }
      return NodeAddress(name: name, socket: node.socket)
    }
  }
}
