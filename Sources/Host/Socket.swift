import CLinux
import Glibc

/// Making, binding and connecting sockets. All descriptors are close-on-exec and non-blocking.
package enum Socket {
  /// Binds and listens. Throws `SocketError` with QEMU's sentences, which name address and reason.
  package static func listen(
    _ address: SocketAddress, backlog: Int32 = 1
  ) throws(SocketError) -> FileDescriptor {
    switch address {
    case .unix(let path):
      let resolved = try ResolvedAddress(unixPath: path)
      let socket = try create(resolved.family, stream, "Failed to create Unix socket")
      _ = unsafe unlink(path)  // SAFETY: the string lives through the call.
      do { try bind(socket.rawValue, resolved) } catch {
        throw SocketError("Failed to bind socket to \(path)", error)
      }
      try startListening(socket.rawValue, backlog)
      return socket
    case .abstract(let name, let isTight):
      let resolved = try ResolvedAddress(abstractName: name, isTight: isTight)
      let socket = try create(resolved.family, stream, "Failed to create Unix socket")
      do { try bind(socket.rawValue, resolved) } catch {
        throw SocketError("Failed to bind socket to \(name)", error)
      }
      try startListening(socket.rawValue, backlog)
      return socket
    case .descriptor(let number, let name):
      let socket = try adopt(number, name)
      try startListening(socket.rawValue, backlog)
      return socket
    case .vsock(let context, let port):
      let resolved = ResolvedAddress(vsockContext: context, port: port)
      let socket = try create(resolved.family, stream, "Failed to create socket")
      do { try bind(socket.rawValue, resolved) } catch {
        throw SocketError("Failed to bind socket", error)
      }
      try startListening(socket.rawValue, backlog)
      return socket
    case .inet(let inet): return try listen(inet, backlog)
    }
  }

  private static func listen(
    _ inet: InetAddress, _ backlog: Int32
  ) throws(SocketError) -> FileDescriptor {
    var last = SocketError("Failed to create a socket: No such file or directory")
    for candidate in try inet.resolve(isPassive: true, kind: stream) {
      let first = candidate.port
      let end = max(first, inet.lastPort ?? first)
      if let lastPort = inet.lastPort, lastPort < first { continue }
      for port in first...end {
        var address = candidate
        address.port = port
        do throws(SocketError) {
          return try listen(address, dual: inet.ipv4 ?? (inet.ipv6 != true), backlog)
        } catch {
          last = error
          if error.code != EADDRINUSE { break }
        }
      }
    }
    throw last
  }

  private static func listen(
    _ address: ResolvedAddress, dual: Bool, _ backlog: Int32
  ) throws(SocketError) -> FileDescriptor {
    let socket = try create(address.family, stream, "Failed to create a socket")
    if address.family == AF_INET6 {
      setOption(socket.rawValue, Int32(IPPROTO_IPV6), IPV6_V6ONLY, dual ? 0 : 1)
    }
    setOption(socket.rawValue, SOL_SOCKET, SO_REUSEADDR, 1)
    do throws(SystemError) {
      try bind(socket.rawValue, address)
      let number = socket.rawValue
      try SystemError.check("listen") { () -> Int32 in Glibc.listen(number, backlog) }
    } catch {
      throw SocketError("Failed to find an available port", error)
    }
    return socket
  }

  /// Changes how many connections may wait for a listening socket to accept them.
  package static func setBacklog(_ listener: Int32, _ backlog: Int32) {
    _ = Glibc.listen(listener, backlog)
  }

  /// Process and user that connected a Unix socket (SO_PEERCRED, unix(7)); nil for other sockets.
  package static func peerCredentials(_ descriptor: Int32) -> (process: Int32, user: UInt32)? {
    guard localAddress(descriptor)?.family == AF_UNIX else { return nil }
    // The kernel's `struct ucred`: process, user, group.
    var values: [UInt32] = [0, 0, 0]
    var length = socklen_t(12)
    // SAFETY: both locals live through the call, `length` is the size of the array's elements.
    let result = unsafe getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &values, &length)
    return result == 0 && values[0] > 0 ? (Int32(bitPattern: values[0]), values[1]) : nil
  }

  /// Starts a connection to a resolved address: nil `pending` means it is there already.
  package static func startConnecting(
    _ address: ResolvedAddress
  ) throws(SystemError) -> (socket: Int32, isPending: Bool) {
    let family = address.family
    let number: Int32 = try SystemError.check("socket") { () -> Int32 in
      Glibc.socket(family, stream | flags, 0)
    }
    // SAFETY: the address lives through the call.
    let result = unsafe address.withSockaddr { unsafe Glibc.connect(number, $0, $1) }
    if result == 0 { return (number, false) }
    let code = errno
    if code == EINPROGRESS || code == EINTR { return (number, true) }
    _ = Glibc.close(number)
    throw SystemError(call: "connect", code: code)
  }

  /// The result of a connection that was pending, once the descriptor is writable: 0 or an `errno`.
  package static func connectResult(_ descriptor: Int32) -> Int32 {
    var value: Int32 = 0
    var length = socklen_t(4)
    // SAFETY: both locals live through the call.
    let result = unsafe getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &value, &length)
    return result == 0 ? value : errno
  }

  /// Connects and waits for it; for start-up, where the user waits as well. Throws `SocketError`.
  package static func connect(_ address: SocketAddress) throws(SocketError) -> FileDescriptor {
    guard let socket = try connect(address, patience: nil) else {
      throw SocketError("Failed to connect to '\(address.text)'")
    }
    return socket
  }

  /// Connects and waits for it at most `patience` milliseconds for each address (nil: as long as it takes). Nil when that was not
  /// enough, or a name would have to be asked for: whoever has no patience goes on in the background. Throws `SocketError`.
  package static func connect(
    _ address: SocketAddress, patience: Int32?
  ) throws(SocketError) -> FileDescriptor? {
    if case .descriptor(let number, let name) = address { return try adopt(number, name) }
    if patience != nil, case .inet(var inet) = address {
      inet.isNumeric = true
      if (try? inet.resolve(isPassive: false, kind: stream)) == nil { return nil }
    }
    let (addresses, name) = try candidates(address)
    var last = SocketError("Failed to connect to '\(name)': No such file or directory")
    for candidate in addresses {
      do throws(SystemError) {
        let (number, isPending) = try startConnecting(candidate)
        let socket = FileDescriptor(owning: number)
        if isPending {
          var entry = pollfd(fd: number, events: Int16(POLLOUT), revents: 0)
          // SAFETY: one entry, alive through the call.
          let ready: Int32 = try SystemError.check("poll") { () -> Int32 in
            unsafe poll(&entry, 1, patience ?? -1)
          }
          if ready == 0 { return nil }
          let code = connectResult(number)
          if code != 0 { throw SystemError(call: "connect", code: code) }
        }
        if case .inet(let inet) = address, inet.keepAlive {
          setOption(number, SOL_SOCKET, SO_KEEPALIVE, 1)
        }
        return socket
      } catch {
        // A Unix socket whose queue is full.
        if error.code == EAGAIN, patience != nil { return nil }
        last = SocketError("Failed to connect to '\(name)'", error)
      }
    }
    throw last
  }

  /// The kernel's forms of an address to connect to, and its name in error texts.
  package static func candidates(
    _ address: SocketAddress
  ) throws(SocketError) -> (addresses: [ResolvedAddress], name: String) {
    switch address {
    case .unix(let path): ([try ResolvedAddress(unixPath: path)], path)
    case .abstract(let name, let isTight):
      ([try ResolvedAddress(abstractName: name, isTight: isTight)], name)
    case .inet(let inet):
      (try inet.resolve(isPassive: false, kind: stream), "\(inet.host):\(inet.port)")
    case .vsock(let context, let port):
      ([ResolvedAddress(vsockContext: context, port: port)], "\(context):\(port)")
    case .descriptor: ([], address.text)
    }
  }

  /// Takes one waiting connection. Throws `SystemError`, also for `EAGAIN`.
  package static func accept(_ listener: Int32) throws(SystemError) -> FileDescriptor {
    let number: Int32 = try SystemError.check("accept") { () -> Int32 in
      Glibc.accept(listener, nil, nil)
    }
    let socket = FileDescriptor(owning: number)
    _ = fcntl(number, F_SETFD, FD_CLOEXEC)
    try socket.setNonBlocking()
    return socket
  }

  /// A datagram socket from `local` (nil: any) to `remote`. Throws `SocketError`.
  package static func datagram(
    remote: InetAddress, local: InetAddress?
  ) throws(SocketError) -> FileDescriptor {
    guard let peer = try remote.resolve(isPassive: false, kind: datagramKind).first else {
      throw SocketError("address resolution failed for \(remote.host):\(remote.port)")
    }
    let socket = try create(peer.family, datagramKind, "Failed to create datagram socket")
    setOption(socket.rawValue, SOL_SOCKET, SO_REUSEADDR, 1)
    var own = local ?? InetAddress(host: "", port: "0")
    own.ipv4 = peer.family == AF_INET
    own.ipv6 = peer.family == AF_INET6
    guard let from = try own.resolve(isPassive: true, kind: datagramKind).first else {
      throw SocketError("address resolution failed for \(own.host):\(own.port)")
    }
    do { try bind(socket.rawValue, from) } catch {
      throw SocketError("Failed to bind datagram socket", error)
    }
    do {
      try SystemError.check("connect") { () -> Int32 in
        // SAFETY: the address lives through the call.
        unsafe peer.withSockaddr { unsafe Glibc.connect(socket.rawValue, $0, $1) }
      }
    } catch {
      throw SocketError("Failed to connect socket", error)
    }
    return socket
  }

  /// Gives a datagram socket its peer; false when the kernel refuses.
  package static func connect(_ descriptor: Int32, to address: ResolvedAddress) -> Bool {
    // SAFETY: the address lives through the call.
    unsafe address.withSockaddr { unsafe Glibc.connect(descriptor, $0, $1) } == 0
  }

  /// Whether small writes go out at once (TCP_NODELAY); nothing on other sockets.
  package static func setNoDelay(_ descriptor: Int32, _ on: Bool = true) {
    setOption(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, on ? 1 : 0)
  }

  /// The address of this side.
  package static func localAddress(_ descriptor: Int32) -> ResolvedAddress? {
    // SAFETY: the pointers live through the call.
    unsafe addressOf { unsafe getsockname(descriptor, $0, $1) }
  }

  /// The address of the other side.
  package static func peerAddress(_ descriptor: Int32) -> ResolvedAddress? {
    // SAFETY: the pointers live through the call.
    unsafe addressOf { unsafe getpeername(descriptor, $0, $1) }
  }

  /// Reads what is there, with the descriptors that came along (SCM_RIGHTS; the caller owns them).
  ///
  /// Nil when there is nothing now; 0 bytes at the end. Throws `SystemError`.
  package static func receive(
    _ descriptor: Int32, into buffer: inout [UInt8]
  ) throws(SystemError) -> (count: Int, descriptors: [Int32])? {
    while true {
      var descriptors: [Int32] = []
      // SAFETY: buffer, numbers and room live through the call, with their sizes; the call fills as many numbers as it says.
      let count = unsafe withUnsafeTemporaryAllocation(of: Int32.self, capacity: 16) { numbers in
        var room: Int32 = 16
        let count = unsafe buffer.withUnsafeMutableBytes { bytes in
          unsafe goliath_receive(
            descriptor, bytes.baseAddress, UInt64(bytes.count), numbers.baseAddress, &room)
        }
        if room > 0 { unsafe descriptors.append(contentsOf: numbers.prefix(Int(room))) }
        return count
      }
      if count >= 0 { return (Int(count), descriptors) }
      let code = Int32(truncatingIfNeeded: -count)
      if code == EAGAIN { return nil }
      if code != EINTR { throw SystemError(call: "recvmsg", code: code) }
    }
  }

  /// Sends without a SIGPIPE; 0 when the socket is full. Throws `SystemError`.
  package static func send(
    _ descriptor: Int32, _ bytes: [UInt8], from start: Int
  ) throws(SystemError) -> Int {
    do {
      return try SystemError.check("send") { () -> Int in
        // SAFETY: the pointer covers the array's tail and is used within the call.
        unsafe bytes.withUnsafeBytes {
          let part = unsafe UnsafeRawBufferPointer(rebasing: $0[start...])
          return unsafe Glibc.send(
            descriptor, part.baseAddress, part.count,
            Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
        }
      }
    } catch {
      if error.code == EAGAIN { return 0 }
      throw error
    }
  }

  /// Sends bytes with a descriptor (SCM_RIGHTS) that stays the caller's. Answers how many went. Throws `SystemError`.
  package static func send(
    _ descriptor: Int32, _ bytes: [UInt8], passing file: Int32
  ) throws(SystemError) -> Int {
    while true {
      // SAFETY: the array lives through the call, with its size.
      let count = unsafe goliath_send_descriptor(descriptor, bytes, UInt64(bytes.count), file)
      if count >= 0 { return Int(count) }
      let code = Int32(truncatingIfNeeded: -count)
      if code == EAGAIN { return 0 }
      if code != EINTR { throw SystemError(call: "sendmsg", code: code) }
    }
  }

  /// Ends the connection in both directions; the other side sees the end.
  package static func shutDown(_ descriptor: Int32) {
    _ = Glibc.shutdown(descriptor, Int32(SHUT_RDWR))
  }

  // MARK: -

  /// `SOCK_STREAM` and `SOCK_DGRAM` as the calls take them.
  package static var stream: Int32 { Int32(SOCK_STREAM.rawValue) }
  package static var datagramKind: Int32 { Int32(SOCK_DGRAM.rawValue) }
  private static var flags: Int32 {
    Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
  }

  private static func create(
    _ family: Int32, _ kind: Int32, _ what: String
  ) throws(SocketError) -> FileDescriptor {
    do {
      let number: Int32 = try SystemError.check("socket") { () -> Int32 in
        Glibc.socket(family, kind | flags, 0)
      }
      return FileDescriptor(owning: number)
    } catch { throw SocketError(what, error) }
  }

  /// Takes over a descriptor that the process was given. Throws unless it is a socket.
  private static func adopt(
    _ number: Int32, _ name: String?
  ) throws(SocketError) -> FileDescriptor {
    var value: Int32 = 0
    var length = socklen_t(4)
    // SAFETY: both locals live through the call.
    guard unsafe getsockopt(number, SOL_SOCKET, SO_TYPE, &value, &length) == 0 else {
      throw SocketError("File descriptor '\(name ?? String(number))' is not a socket")
    }
    let socket = FileDescriptor(owning: number)
    do { try socket.setNonBlocking() } catch {
      throw SocketError("File descriptor '\(name ?? String(number))' cannot be used", error)
    }
    _ = fcntl(number, F_SETFD, FD_CLOEXEC)
    return socket
  }

  private static func bind(
    _ descriptor: Int32, _ address: ResolvedAddress
  ) throws(SystemError) {
    try SystemError.check("bind") { () -> Int32 in
      // SAFETY: the address lives through the call.
      unsafe address.withSockaddr { unsafe Glibc.bind(descriptor, $0, $1) }
    }
  }

  private static func startListening(
    _ descriptor: Int32, _ backlog: Int32
  ) throws(SocketError) {
    do {
      try SystemError.check("listen") { () -> Int32 in Glibc.listen(descriptor, backlog) }
    } catch { throw SocketError("Failed to listen on socket", error) }
  }

  private static func setOption(
    _ descriptor: Int32, _ level: Int32, _ option: Int32, _ value: Int32
  ) {
    var value = value
    // SAFETY: four bytes of a local. A refusal only loses the option's effect.
    _ = unsafe setsockopt(descriptor, level, option, &value, 4)
  }

  private static func addressOf(
    _ call: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
  ) -> ResolvedAddress? {
    var storage = [UInt64](repeating: 0, count: 16)
    var length = socklen_t(128)
    // SAFETY: 128 aligned bytes, as `length` says; the kernel shortens it.
    return unsafe storage.withUnsafeMutableBytes { buffer in
      let base = unsafe buffer.baseAddress.unsafelyUnwrapped
      guard unsafe call(base.assumingMemoryBound(to: sockaddr.self), &length) == 0 else {
        return nil
      }
      let bytes = unsafe [UInt8](buffer.prefix(Int(length)))
      guard bytes.count >= 2 else { return nil }
      return ResolvedAddress(family: Int32(bytes[0]) | Int32(bytes[1]) << 8, bytes: bytes)
    }
  }
}
