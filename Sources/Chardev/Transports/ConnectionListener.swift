import Glibc
import Host

/// A listening socket on the main loop: gives accepted connections one by one, a bounded number in a turn.
///
/// When the process has no descriptors left it pauses, tries again after a while and when `retry` is called, and never spins.
@MainLoop
final class ConnectionListener {
  private let socket: FileDescriptor
  private var watch: Watch?
  private var timer: HostTimer?
  private var isAccepting = false
  private var isStarved = false
  /// Takes a connection.
  var onConnection: (consuming FileDescriptor) -> Void = { _ in }

  /// So many in a turn: a crowd at the door must not keep those inside waiting.
  private static let turnLimit = 16
  /// Nanoseconds between attempts when descriptors or memory have run out.
  private static let pause: Int64 = 100_000_000
  /// How many connections the kernel keeps for a device that serves many.
  static let crowd: Int32 = 1024

  init(_ socket: consuming FileDescriptor) { self.socket = socket }

  /// The address that it listens on.
  var address: ResolvedAddress? { Socket.localAddress(socket.rawValue) }

  /// Lets so many connections wait in the kernel's queue.
  func setBacklog(_ count: Int32) { Socket.setBacklog(socket.rawValue, count) }

  /// Whether connections are taken at present; else they wait in the kernel's queue.
  func setAccepting(_ on: Bool) {
    isAccepting = on
    update()
  }

  /// A descriptor has become free.
  func retry() {
    guard isStarved else { return }
    isStarved = false
    update()
  }

  /// Ends it; the socket closes with the last reference.
  func stop() {
    timer?.cancel()
    watch?.cancel()
    watch = nil
    isAccepting = false
  }

  private func update() {
    let interest: Readiness = isAccepting && !isStarved ? .readable : []
    if let watch {
      watch.change(to: interest)
    } else if isAccepting {
      watch = try? MainLoop.watch(socket.rawValue, interest) { [weak self] _ in self?.accept() }
    }
  }

  private func accept() {
    for _ in 0..<ConnectionListener.turnLimit {
      guard isAccepting, !isStarved else { return }
      let client: FileDescriptor
      do throws(SystemError) { client = try Socket.accept(socket.rawValue) } catch {
        switch error.code {
        case EMFILE, ENFILE, ENOBUFS, ENOMEM:
          if error.code != EMFILE || !Descriptors.raiseLimit() { starve() }
        case ECONNABORTED, EINTR: continue
        default: break
        }
        return
      }
      onConnection(client)
    }
  }

  private func starve() {
    isStarved = true
    update()
    let timer =
      timer
      ?? MainLoop.timers.makeTimer { [weak self] in MainLoop.assumeIsolated { self?.retry() } }
    self.timer = timer
    timer.arm(at: HostClock.monotonic &+ ConnectionListener.pause)
  }
}
