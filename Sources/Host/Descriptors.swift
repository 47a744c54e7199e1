import Glibc

/// Small questions to descriptors by number, for callers that lend and do not own.
package enum Descriptors {
  /// Waits until `descriptor` takes bytes, at most so long. For the end of the process.
  package static func waitWritable(_ descriptor: Int32, milliseconds: Int32) {
    var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
    // SAFETY: one entry, alive through the call.
    _ = unsafe poll(&entry, 1, milliseconds)
  }

  /// A descriptor for writing to the same file without waiting, not sharing its flags where possible.
  ///
  /// Setting O_NONBLOCK on the process's own output would change it for the shell and everyone else who shares it;
  /// terminals and pipes can be opened anew. Files never wait; anything else gets a duplicate.
  package static func reopenForWriting(_ descriptor: Int32) throws(SystemError) -> FileDescriptor {
    var status = stat()
    // SAFETY: `status` outlives the call.
    if unsafe fstat(descriptor, &status) == 0 {
      let kind = status.st_mode & S_IFMT
      if kind == S_IFIFO || kind == S_IFCHR,
        let copy = try? FileDescriptor.open(
          "/proc/self/fd/\(descriptor)", O_WRONLY | O_NONBLOCK | O_NOCTTY)
      {
        return copy
      }
    }
    let number: Int32 = try SystemError.check("fcntl") { () -> Int32 in
      fcntl(descriptor, F_DUPFD_CLOEXEC, 3)
    }
    return FileDescriptor(owning: number)
  }

  /// Raises the number of descriptors that the process may have as far as it may (getrlimit(2)). False when it is there already.
  package static func raiseLimit() -> Bool {
    var limit = rlimit()
    // SAFETY: `limit` outlives both calls.
    guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0,
      limit.rlim_cur < limit.rlim_max
    else { return false }
    limit.rlim_cur = limit.rlim_max
    return unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0
  }

  /// Whether the number is an open descriptor.
  package static func isOpen(_ descriptor: Int32) -> Bool { fcntl(descriptor, F_GETFD) >= 0 }

  /// Removes a file; a missing one is no error.
  package static func unlink(_ path: String) {
    _ = unsafe Glibc.unlink(path)  // SAFETY: the string lives through the call.
  }
}

/// What file a path names: device and number of its node.
package struct FileIdentity: Equatable, Sendable {
  private let device: UInt
  private let node: UInt

  /// Nil when there is none.
  package init?(_ path: String) {
    var status = stat()
    // SAFETY: the string lives through the call, `status` outlives it.
    guard unsafe lstat(path, &status) == 0 else { return nil }
    device = UInt(status.st_dev)
    node = UInt(status.st_ino)
  }
}

/// Sockets that a service manager has opened for this process (sd_listen_fds(3)): descriptors from 3 on, counted in `LISTEN_FDS`,
/// named in `LISTEN_FDNAMES`, if `LISTEN_PID` is this process.
package enum SocketActivation {
  /// The descriptor that `systemd:NAME` means, or `systemd:0` for the first.
  package static func descriptor(named text: String) -> Int32? {
    guard text.hasPrefix("systemd:") else { return nil }
    let name = String(text.dropFirst(8))
    guard let pid = value("LISTEN_PID").flatMap({ Int32($0) }), pid == getpid(),
      let count = value("LISTEN_FDS").flatMap({ Int32($0) }), count > 0, count < 1024
    else { return nil }
    if let place = Int32(name) { return (0..<count).contains(place) ? 3 + place : nil }
    let names = (value("LISTEN_FDNAMES") ?? "").split(
      separator: ":", omittingEmptySubsequences: false)
    guard let place = names.prefix(Int(count)).firstIndex(where: { $0 == name }) else { return nil }
    return 3 + Int32(place)
  }

  private static func value(_ name: String) -> String? {
    // SAFETY: the environment is not changed by this process; the string is copied at once.
    unsafe getenv(name).map { unsafe String(cString: $0) }
  }
}

/// Tells when a path is opened by anyone (inotify(7)).
package struct OpenNotifier: ~Copyable {
  private let descriptor: FileDescriptor
  /// Readable when the path was opened.
  package var pollDescriptor: Int32 { descriptor.rawValue }

  /// Throws `SystemError`.
  package init(path: String) throws(SystemError) {
    let number: Int32 = try SystemError.check("inotify_init1") { () -> Int32 in
      inotify_init1(Int32(IN_NONBLOCK) | Int32(IN_CLOEXEC))
    }
    let owned = FileDescriptor(owning: number)
    try SystemError.check("inotify_add_watch") { () -> Int32 in
      unsafe inotify_add_watch(number, path, UInt32(IN_OPEN))  // SAFETY: lives through the call.
    }
    descriptor = owned
  }

  /// Takes the events that were reported.
  package func clear() {
    var buffer = [UInt8](repeating: 0, count: 4096)
    while let count = try? descriptor.read(into: &buffer), count > 0 {}
  }
}
