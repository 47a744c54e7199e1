import CLinux
import Glibc

/// Where a socket listens, connects or sends to, as users name it.
package enum SocketAddress: Equatable, Sendable {
  case inet(InetAddress)
  /// A path in the file system, at most 107 bytes.
  case unix(path: String)
  /// A name in Linux's abstract name space; `isTight` when the address ends with the name (unix(7)).
  case abstract(name: String, isTight: Bool)
  /// A context and a port of the virtual machine sockets (vsock(7)).
  case vsock(context: UInt32, port: UInt32)
  /// An open socket that the process was given, and what its user calls it.
  case descriptor(Int32, name: String? = nil)

  /// The part after the scheme in `info chardev`, such as `127.0.0.1:1234` or `/run/x.sock`.
  package var text: String {
    switch self {
    case .inet(let address): address.text
    case .unix(let path): path
    case .abstract(let name, let isTight): "\(name),abstract=on\(isTight ? ",tight=on" : "")"
    case .vsock(let context, let port): "\(context):\(port)"
    case .descriptor(let number, let name): name ?? String(number)
    }
  }
}

/// An internet address before resolution: host and port as text.
package struct InetAddress: Equatable, Sendable {
  /// A name or a number; empty means any address when listening.
  package var host: String
  /// A number or a service name.
  package var port: String
  /// When listening: the last port to try.
  package var lastPort: UInt16?
  /// Whether the families are allowed; nil means yes unless the other one is asked for.
  package var ipv4: Bool?
  package var ipv6: Bool?
  /// Keep-alive probes on the connection.
  package var keepAlive: Bool
  /// Nothing is resolved by name service when set.
  package var isNumeric: Bool

  package init(
    host: String, port: String, lastPort: UInt16? = nil, ipv4: Bool? = nil, ipv6: Bool? = nil,
    keepAlive: Bool = false, isNumeric: Bool = false
  ) {
    self.host = host
    self.port = port
    self.lastPort = lastPort
    self.ipv4 = ipv4
    self.ipv6 = ipv6
    self.keepAlive = keepAlive
    self.isNumeric = isNumeric
  }

  /// `host:port`, with brackets around a host that has colons.
  package var text: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }

  /// Resolves the name. May ask name servers unless the host is a number: call it at start-up, or on a thread of its own.
  ///
  /// - Parameters:
  ///   - isPassive: an empty host means any address, not the own host.
  ///   - kind: `SOCK_STREAM` or `SOCK_DGRAM`.
  package func resolve(isPassive: Bool, kind: Int32) throws(SocketError) -> [ResolvedAddress] {
    var hints = unsafe addrinfo()  // SAFETY: a plain C struct of zeros.
    unsafe hints.ai_flags = (isPassive ? AI_PASSIVE : 0) | (isNumeric ? AI_NUMERICHOST : 0)
    unsafe hints.ai_socktype = kind
    switch (ipv4, ipv6) {
    case (true, true), (nil, nil), (false, false): unsafe hints.ai_family = AF_UNSPEC
    case (true, _), (_, false): unsafe hints.ai_family = AF_INET
    case (_, true), (false, _): unsafe hints.ai_family = AF_INET6
    }
    if ipv4 == false, ipv6 == false {
      throw SocketError("Cannot disable IPv4 and IPv6 at same time")
    }
    var list: UnsafeMutablePointer<addrinfo>?
    // SAFETY: all pointers live through the call; the list is freed below.
    let code = unsafe getaddrinfo(host.isEmpty ? nil : host, port, &hints, &list)
    guard code == 0 else {
      let reason = unsafe String(cString: gai_strerror(code))  // SAFETY: a static C string.
      throw SocketError("address resolution failed for \(host):\(port): \(reason)")
    }
    defer { unsafe freeaddrinfo(list) }
    var result: [ResolvedAddress] = []
    var next = unsafe list
    // SAFETY: getaddrinfo's list is valid until freed, each address has `ai_addrlen` bytes.
    while let entry = unsafe next {
      let raw = unsafe UnsafeRawBufferPointer(
        start: entry.pointee.ai_addr, count: Int(entry.pointee.ai_addrlen))
      unsafe result.append(ResolvedAddress(family: entry.pointee.ai_family, bytes: [UInt8](raw)))
      unsafe next = entry.pointee.ai_next
    }
    return result
  }
}

/// A socket address in the kernel's form (`sockaddr`).
package struct ResolvedAddress: Equatable, Sendable {
  /// `AF_INET`, `AF_INET6` or `AF_UNIX`.
  package let family: Int32
  /// The bytes of the `sockaddr`, its family first.
  package var bytes: [UInt8]

  package init(family: Int32, bytes: [UInt8]) {
    self.family = family
    self.bytes = bytes
  }

  /// A Unix domain address (unix(7)). Throws when the path does not fit.
  package init(unixPath path: String) throws(SocketError) {
    let name = [UInt8](path.utf8)
    guard name.count < 108 else {
      throw SocketError(
        "UNIX socket path '\(path)' is too long", hint: "Path must be less than 108 bytes")
    }
    self.init(family: AF_UNIX, bytes: ResolvedAddress.family(AF_UNIX) + name + [0])
  }

  /// An address in Linux's abstract name space. Throws when the name does not fit.
  package init(abstractName name: String, isTight: Bool) throws(SocketError) {
    var bytes = [0] + [UInt8](name.utf8)
    guard bytes.count <= 108 else {
      throw SocketError(
        "UNIX socket path '\(name)' is too long", hint: "Path must be less than 108 bytes")
    }
    if !isTight { bytes += [UInt8](repeating: 0, count: 108 - bytes.count) }
    self.init(family: AF_UNIX, bytes: ResolvedAddress.family(AF_UNIX) + bytes)
  }

  /// `AF_VSOCK`.
  package static let vsockFamily: Int32 = 40

  /// An address of the virtual machine sockets: family, nothing, port, context, padding.
  package init(vsockContext context: UInt32, port: UInt32) {
    func word(_ value: UInt32) -> [UInt8] {
      (0..<4).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
    }
    let head = ResolvedAddress.family(ResolvedAddress.vsockFamily) + [0, 0]
    self.init(
      family: ResolvedAddress.vsockFamily,
      bytes: head + word(port) + word(context) + [0, 0, 0, 0])
  }

  private static func family(_ family: Int32) -> [UInt8] {
    [UInt8(truncatingIfNeeded: family), UInt8(truncatingIfNeeded: family >> 8)]
  }

  /// The port of an internet address, in host order; 0 otherwise.
  package var port: UInt16 {
    get { family != AF_UNIX && bytes.count >= 4 ? UInt16(bytes[2]) << 8 | UInt16(bytes[3]) : 0 }
    set {
      guard family != AF_UNIX, bytes.count >= 4 else { return }
      bytes[2] = UInt8(newValue >> 8)
      bytes[3] = UInt8(truncatingIfNeeded: newValue)
    }
  }

  /// The address in numbers: `127.0.0.1:80`, `[::1]:80`, or a path.
  package var text: String {
    if family == AF_UNIX {
      let path = bytes.dropFirst(2)
      return String(decoding: path.prefix { $0 != 0 }, as: UTF8.self)
    }
    if family == ResolvedAddress.vsockFamily, bytes.count >= 12 {
      func word(_ start: Int) -> UInt32 {
        (0..<4).reduce(0) { $0 | UInt32(bytes[start + $1]) << (UInt32($1) * 8) }
      }
      return "\(word(8)):\(word(4))"
    }
    var host = [UInt8](repeating: 0, count: 128)
    // SAFETY: the address bytes are a complete `sockaddr`; the buffer's size is passed along.
    let code = unsafe withSockaddr { address, length in
      unsafe host.withUnsafeMutableBytes {
        unsafe getnameinfo(
          address, length, $0.baseAddress?.assumingMemoryBound(to: CChar.self), 128, nil, 0,
          NI_NUMERICHOST)
      }
    }
    guard code == 0 else { return "?" }
    let name = String(decoding: host.prefix { $0 != 0 }, as: UTF8.self)
    return name.contains(":") ? "[\(name)]:\(port)" : "\(name):\(port)"
  }

  /// Lends the bytes as the C library takes them.
  func withSockaddr<T>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> T) -> T {
    var aligned = [UInt64](repeating: 0, count: (bytes.count + 15) / 8)
    // SAFETY: the copy is aligned, large enough for the bytes, and lives through `body`.
    return unsafe aligned.withUnsafeMutableBytes { buffer in
      unsafe buffer.copyBytes(from: bytes)
      let base = unsafe UnsafeRawPointer(buffer.baseAddress.unsafelyUnwrapped)
      return unsafe body(
        base.assumingMemoryBound(to: sockaddr.self), socklen_t(bytes.count))
    }
  }
}

/// Why a socket could not be made, bound or connected: the sentence for the user, in QEMU's words.
package struct SocketError: Error, Equatable, Sendable, CustomStringConvertible {
  package let message: String
  /// A second line that helps; empty when there is none.
  package let hint: String
  /// `errno` where a system call failed, else 0.
  package let code: Int32

  package init(_ message: String, hint: String = "", code: Int32 = 0) {
    self.message = message
    self.hint = hint
    self.code = code
  }

  /// `what: reason` for a failed call.
  init(_ what: String, _ error: SystemError) {
    self.init("\(what): \(error.reason)", code: error.code)
  }

  package var description: String { message }
}
