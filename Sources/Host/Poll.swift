import CLinux
import Glibc

/// Waits for descriptors without a main loop (poll(2)), for programs that do one thing at a time.
package struct PollEntry {
  package let descriptor: Int32
  package let interest: Readiness
  /// What `wait` found.
  package fileprivate(set) var ready: Readiness = []

  package init(_ descriptor: Int32, _ interest: Readiness) {
    self.descriptor = descriptor
    self.interest = interest
  }

  /// Waits until one of `entries` is ready, at most `milliseconds` (negative: for ever). Answers how many are. Throws `SystemError`.
  @discardableResult
  package static func wait(
    _ entries: inout [PollEntry], milliseconds: Int32
  ) throws(SystemError) -> Int {
    var list = entries.map {
      pollfd(
        fd: $0.descriptor, events: Int16(truncatingIfNeeded: $0.interest.rawValue), revents: 0)
    }
    let count = list.count
    let ready = try SystemError.check("poll") { () -> Int in
      // SAFETY: the array lives through the call and has `count` elements.
      unsafe Int(poll(&list, nfds_t(count), milliseconds))
    }
    for index in entries.indices {
      entries[index].ready = Readiness(rawValue: UInt32(UInt16(bitPattern: list[index].revents)))
    }
    return ready
  }
}

/// Signals as something to wait for (signalfd(2)). They are blocked for the process from `init` on.
package struct SignalDescriptor: ~Copyable {
  private let descriptor: FileDescriptor
  /// Readable when a signal has come.
  package var pollDescriptor: Int32 { descriptor.rawValue }

  /// Throws `SystemError`.
  package init(_ signals: [Int32]) throws(SystemError) {
    var set = sigset_t()
    // SAFETY: all work on a local.
    unsafe sigemptyset(&set)
    for number in signals { unsafe sigaddset(&set, number) }
    unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
    let copy = set
    descriptor = FileDescriptor(
      owning: try SystemError.check("signalfd") { () -> Int32 in
        var set = copy
        return unsafe signalfd(-1, &set, Int32(SFD_NONBLOCK) | Int32(SFD_CLOEXEC))
      })
  }

  /// The next signal that has come; nil when there is none.
  package func next() -> Int32? {
    var record = [UInt8](repeating: 0, count: 128)
    guard let count = try? descriptor.read(into: &record), count == 128 else { return nil }
    // signalfd_siginfo begins with the number.
    return Int32(record[0]) | Int32(record[1]) << 8
  }
}
