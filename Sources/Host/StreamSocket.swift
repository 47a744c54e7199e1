import CLinux
import Glibc
import Synchronization

/// A connected stream socket for threads of their own, which wait in it: no main loop.
///
/// Threads: any; whoever sends or receives keeps the order by a lock of his own. Results below zero are `-errno`.
package final class StreamSocket: Sendable {
  private let descriptor: FileDescriptor
  package var number: Int32 { descriptor.rawValue }

  /// Takes over a connected socket and makes it one that waits. Throws `SystemError` for `fcntl`.
  package init(_ descriptor: consuming FileDescriptor) throws(SystemError) {
    let owned = descriptor
    try owned.setNonBlocking(false)
    self.descriptor = owned
  }

  /// Two connected ones of this process. Throws `SystemError`.
  package static func pair() throws(SystemError) -> (StreamSocket, StreamSocket) {
    var numbers: [Int32] = [-1, -1]
    try SystemError.check("socketpair") { () -> Int32 in
      // SAFETY: the array holds two numbers and lives through the call.
      unsafe socketpair(AF_UNIX, Socket.stream | Int32(SOCK_CLOEXEC.rawValue), 0, &numbers)
    }
    let second = FileDescriptor(owning: numbers[1])
    return (try StreamSocket(FileDescriptor(owning: numbers[0])), try StreamSocket(second))
  }

  /// Ends both directions: threads that wait in it are woken, the peer sees the end.
  package func shutDown() { Socket.shutDown(number) }

  /// Options of a link between nodes (distributed.md, section 2): nothing waits for more (TCP_NODELAY), what is not acknowledged for so
  /// long ends the connection (TCP_USER_TIMEOUT), and retransmissions are not put off longer than a second where the kernel can do that.
  package func tune(timeoutMilliseconds: Int32) {
    set(Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    set(Int32(IPPROTO_TCP), 18, timeoutMilliseconds)  // TCP_USER_TIMEOUT
    set(Int32(IPPROTO_TCP), 44, 1000)  // TCP_RTO_MAX_MS, Linux 6.15
    // Room for a run of 64 pages, where the kernel does not make it by itself as it does for TCP.
    if domain == AF_UNIX {
      set(SOL_SOCKET, SO_SNDBUF, 1 << 20)
      set(SOL_SOCKET, 32, 1 << 20)  // SO_SNDBUFFORCE: more, for who may
    }
  }

  private func set(_ level: Int32, _ option: Int32, _ value: Int32) {
    var value = value
    // SAFETY: four bytes of a local. A refusal only loses the option's effect.
    _ = unsafe setsockopt(number, level, option, &value, 4)
  }

  private var domain: Int32 {
    var value: Int32 = -1
    var size = socklen_t(MemoryLayout<Int32>.size)
    // SAFETY: four bytes of a local, and their number.
    _ = unsafe getsockopt(number, SOL_SOCKET, SO_DOMAIN, &value, &size)
    return value
  }

  /// Sends a header of 32 bytes and a body in one call, without waiting. Answers how many bytes went.
  package func send(_ header: SIMD4<UInt64>, _ body: IOVector) -> Int {
    var header = header
    let number = number
    // SAFETY: the header is a local of this call; the body's pieces are the caller's for as long (IOVector).
    return unsafe withUnsafeMutableBytes(of: &header) { header in
      let flags = Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT)
      if body.count == 0 {
        return result { unsafe Glibc.send(number, header.baseAddress, header.count, flags) }
      }
      let count = min(body.pieceCount, 1023)
      return unsafe withUnsafeTemporaryAllocation(of: iovec.self, capacity: count + 1) { pieces in
        unsafe pieces[0] = unsafe iovec(iov_base: header.baseAddress, iov_len: header.count)
        for index in 0..<count { unsafe pieces[index + 1] = body.pieces[index] }
        var message = unsafe msghdr()
        unsafe message.msg_iov = pieces.baseAddress
        unsafe message.msg_iovlen = pieces.count
        return Int(unsafe goliath_socket_send(number, &message, flags))
      }
    }
  }

  /// Sends bytes from `start` on, without waiting. Answers how many went.
  package func send(_ bytes: [UInt8], from start: Int) -> Int {
    guard start >= 0, start < bytes.count else { return 0 }
    let number = number
    return result {
      // SAFETY: the pointer covers the array's tail and is used within the call.
      unsafe bytes.withUnsafeBytes {
        unsafe Glibc.send(
          number, $0.baseAddress.map { unsafe $0 + start }, $0.count - start,
          Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
      }
    }
  }

  /// Sends what a TLS session has for its peer, without waiting. Answers how many bytes went.
  package func send(outputOf session: TLSSession) -> Int {
    let number = number
    return session.withOutput { bytes in
      if unsafe bytes.isEmpty { return 0 }
      return result {
        // SAFETY: the session's memory until its next call.
        unsafe Glibc.send(
          number, bytes.baseAddress, bytes.count,
          Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
      }
    }
  }

  /// Receives into a part of a buffer; 0 is the end. Without `waits`, `-EAGAIN` when there is nothing.
  package func receive(into buffer: IOBuffer, _ range: Range<Int>, waits: Bool) -> Int {
    let range = range.clamped(to: 0..<buffer.count)
    let number = number
    let flags: Int32 = waits ? 0 : Int32(MSG_DONTWAIT)
    // SAFETY: the range was clamped to the buffer.
    return Int(
      unsafe goliath_socket_receive(number, buffer.base + range.lowerBound, range.count, flags))
  }

  /// Receives into memory in pieces until it is full, and waits for that. False when the connection ends before.
  package func receive(into target: IOVector) -> Bool {
    let number = number
    var isComplete = true
    target.forEachPiece(0, target.count) { start, count in
      var done = 0
      while isComplete, done < count {
        let from = done
        // SAFETY: the piece has `count` bytes.
        let got = result {
          unsafe recv(number, start + from, count - from, Int32(MSG_WAITALL))
        }
        if got <= 0 { isComplete = false }
        done += max(got, 0)
      }
    }
    return isComplete
  }

  /// Waits until it takes bytes, at most so long.
  package func waitWritable(milliseconds: Int32) {
    Descriptors.waitWritable(number, milliseconds: milliseconds)
  }

  /// Waits until there is something to receive, its end included, at most so long. Answers whether there is.
  package func waitReadable(milliseconds: Int32) -> Bool {
    var entry = pollfd(fd: number, events: Int16(POLLIN), revents: 0)
    // SAFETY: one entry, alive through the call.
    _ = unsafe poll(&entry, 1, milliseconds)
    return entry.revents != 0
  }

  /// Bytes that the kernel has received and nobody has taken; nil when the peer sends no more.
  package var bytesWaiting: Int? {
    var entry = pollfd(fd: number, events: Int16(0x2000), revents: 0)  // POLLRDHUP
    var count: Int32 = 0
    // SAFETY: one entry and four bytes, alive through the calls.
    guard unsafe poll(&entry, 1, 0) == 0, unsafe ioctl(number, 0x541B, &count) == 0  // FIONREAD
    else { return nil }
    return Int(count)
  }

  private func result(_ body: () -> Int) -> Int {
    while true {
      let count = body()
      if count >= 0 { return count }
      let code = errno
      if code != EINTR { return -Int(code) }
    }
  }
}

/// Where a thread waits until a socket has something new. Another that wants to receive itself for a while closes it meanwhile, so that only
/// one of them is woken.
///
/// What is new is told once (epoll(7), edge-triggered): who is woken reads until a call gives less than there was room for.
package final class ReadSignal: Sendable {
  private let queue: FileDescriptor
  private let event: FileDescriptor
  private let socket: StreamSocket

  /// Open. Throws `SystemError` when the kernel has no descriptors left.
  package init(_ socket: StreamSocket) throws(SystemError) {
    self.socket = socket
    let number: Int32 = try SystemError.check("epoll_create1") { () -> Int32 in
      epoll_create1(Int32(EPOLL_CLOEXEC))
    }
    queue = FileDescriptor(owning: number)
    let flag: Int32 = try SystemError.check("eventfd") { () -> Int32 in
      eventfd(0, Int32(EFD_CLOEXEC))
    }
    event = FileDescriptor(owning: flag)
    try SystemError.check("epoll_ctl") { () -> Int32 in change(EPOLL_CTL_ADD, isOpen: true) }
  }

  /// Waits until it is open and there is something new. The end of the connection passes through a closed one, too.
  package func wait() {
    // SAFETY: one local, alive through the call.
    var found = unsafe epoll_event()
    _ = unsafe epoll_wait(queue.rawValue, &found, 1, -1)
  }

  /// Nobody is woken from `wait` from now on.
  package func close() { _ = change(EPOLL_CTL_MOD, isOpen: false) }
  /// Whoever is in `wait` is woken when there is something, now or later.
  package func open() { _ = change(EPOLL_CTL_MOD, isOpen: true) }

  /// Waits until there is something to receive or somebody pokes; whether it is closed does not matter. May return for nothing.
  package func waitDirectly() {
    // SAFETY: two entries, alive through the call.
    unsafe withUnsafeTemporaryAllocation(of: pollfd.self, capacity: 2) { entries in
      unsafe entries[0] = pollfd(fd: socket.number, events: Int16(POLLIN), revents: 0)
      unsafe entries[1] = pollfd(fd: event.rawValue, events: Int16(POLLIN), revents: 0)
      _ = unsafe poll(entries.baseAddress, 2, -1)
    }
  }

  /// Lets the thread in `waitDirectly`, or the next there, return.
  package func poke() {
    var one: UInt64 = 1
    // SAFETY: eight bytes of a local.
    _ = unsafe Glibc.write(event.rawValue, &one, 8)
  }

  /// Takes a poke, after waiting for it.
  package func takePoke() {
    var value: UInt64 = 0
    // SAFETY: eight bytes of a local.
    while unsafe Glibc.read(event.rawValue, &value, 8) < 0, errno == EINTR {}
  }

  private func change(_ operation: Int32, isOpen: Bool) -> Int32 {
    // SAFETY: one local, alive through the call.
    var interest = unsafe epoll_event()
    unsafe interest.events =
      isOpen ? EPOLLIN.rawValue | EPOLLRDHUP.rawValue | EPOLLET.rawValue : EPOLLET.rawValue
    return unsafe epoll_ctl(queue.rawValue, operation, socket.number, &interest)
  }
}

/// What the calling thread is doing, for code that must behave otherwise on some threads.
package enum ThreadDuty {
  /// It handles what a peer has sent, so it must not wait for peers.
  package static var isServing: Bool {
    get { goliath_thread_duty(-1) != 0 }
    set { _ = goliath_thread_duty(newValue ? 1 : 0) }
  }

  /// Asks the kernel to let it run soon after each wake-up, for a short while at a time (100 us), rather than longer and later; its share of the
  /// processors is the same. Kernels before 6.12 know no such thing.
  package static func preferShortTurns() { goliath_short_turns(100_000) }

  /// Runs before others (nice -10) where the process may ask for that. Answers whether it does.
  @discardableResult
  package static func raisePriority() -> Bool {
    setpriority(
      __priority_which_t(PRIO_PROCESS.rawValue), id_t(truncatingIfNeeded: goliath_thread_id()), -10)
      == 0
  }
}
