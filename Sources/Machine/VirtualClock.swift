package import DeviceModel
package import Host
import Synchronization

/// Where the guest's wall clock comes from (`-rtc base=,clock=`).
package struct WallClock: Equatable, Sendable {
  package enum Source: Equatable, Sendable {
    /// The host's real-time clock, adjustments included.
    case host
    /// The host's monotonic clock: runs on while the machine is paused.
    case monotonic
    /// Virtual time: stands still with the machine.
    case virtual
  }
  package var source: Source
  /// Added to the host's UTC time, in seconds: `base=localtime` or a start date.
  package var offsetInSeconds: Int64

  package init(source: Source = .host, offsetInSeconds: Int64 = 0) {
    self.source = source
    self.offsetInSeconds = offsetInSeconds
  }
}

/// The machine's clock over the host's monotonic clock; stands still while the machine is paused.
package final class VirtualClock: MachineClock {
  private let wall: WallClock
  /// Host time at which virtual time was zero.
  private let zero: Atomic<Int64>
  /// Virtual time at which the machine stands, or -1 when it runs.
  private let frozen = Atomic<Int64>(0)
  private let startWall = HostClock.realtime
  private let startMonotonic = HostClock.monotonic
  private let queue: TimerQueue
  private let timers = Mutex<[WeakTimer]>([])

  private struct WeakTimer: Sendable { weak var timer: VirtualTimer? }

  /// A clock that stands at zero until `resume`.
  package init(wall: WallClock = WallClock(), queue: TimerQueue = MainLoop.timers) {
    self.wall = wall
    self.queue = queue
    zero = Atomic(HostClock.monotonic)
  }

  package var isRunning: Bool { frozen.load(ordering: .acquiring) < 0 }

  package var now: Int64 {
    let standing = frozen.load(ordering: .acquiring)
    if standing >= 0 { return standing }
    return HostClock.monotonic &- zero.load(ordering: .acquiring)
  }

  /// Host time at which virtual time was zero.
  package var origin: Int64 { zero.load(ordering: .acquiring) }

  package var wallClock: Int64 {
    let offset = wall.offsetInSeconds &* 1_000_000_000
    switch wall.source {
    case .host: return HostClock.realtime &+ offset
    case .monotonic: return startWall &+ (HostClock.monotonic &- startMonotonic) &+ offset
    case .virtual: return startWall &+ now &+ offset
    }
  }

  package func makeTimer(_ fire: @escaping @Sendable () -> Void) -> any MachineTimer {
    let timer = VirtualTimer(clock: self, queue: queue, fire: fire)
    timers.withLock { list in
      list.removeAll { $0.timer == nil }
      list.append(WeakTimer(timer: timer))
    }
    return timer
  }

  /// Stops virtual time. Main loop.
  package func pause() {
    guard isRunning else { return }
    frozen.store(now, ordering: .releasing)
    for timer in live { timer.suspend() }
  }

  /// Moves time that stands, to where the clocks of all nodes go on. Main loop.
  package func stand(at time: Int64) {
    guard !isRunning, time >= 0 else { return }
    frozen.store(time, ordering: .releasing)
  }

  /// Lets virtual time go on from where it stood; with an `origin`, so that it was zero at that host time. Main loop.
  package func resume(origin: Int64? = nil) {
    let standing = frozen.load(ordering: .acquiring)
    guard standing >= 0 else { return }
    zero.store(origin ?? HostClock.monotonic &- standing, ordering: .releasing)
    frozen.store(-1, ordering: .releasing)
    for timer in live { timer.program() }
  }

  private var live: [VirtualTimer] { timers.withLock { $0.compactMap(\.timer) } }

  fileprivate func hostTime(_ deadline: Int64) -> Int64? {
    guard isRunning else { return nil }
    let (sum, overflow) = deadline.addingReportingOverflow(zero.load(ordering: .acquiring))
    return overflow ? TimerQueue.never &- 1 : sum
  }
}

/// A timer of `VirtualClock`: a host timer that is armed only while virtual time runs.
private final class VirtualTimer: MachineTimer {
  private unowned let clock: VirtualClock
  private let deadline: Deadline
  private let host: HostTimer

  /// Apart from the timer, so that the host timer's closure does not keep the timer alive.
  private final class Deadline: Sendable {
    let value = Atomic<Int64>(TimerQueue.never)
  }

  init(clock: VirtualClock, queue: TimerQueue, fire: @escaping @Sendable () -> Void) {
    let deadline = Deadline()
    self.clock = clock
    self.deadline = deadline
    host = queue.makeTimer { [unowned clock] in
      let due = deadline.value.load(ordering: .acquiring)
      // Armed anew meanwhile, or paused: the other arming fires it.
      guard clock.isRunning, due != TimerQueue.never, due <= clock.now else { return }
      let (won, _) = deadline.value.compareExchange(
        expected: due, desired: TimerQueue.never, ordering: .acquiringAndReleasing)
      if won { fire() }
    }
  }

  func arm(at deadline: Int64) {
    self.deadline.value.store(deadline, ordering: .releasing)
    program()
  }

  func cancel() {
    deadline.value.store(TimerQueue.never, ordering: .releasing)
    host.cancel()
  }

  func program() {
    let due = deadline.value.load(ordering: .acquiring)
    if due != TimerQueue.never, let at = clock.hostTime(due) { host.arm(at: at) }
  }

  func suspend() { host.cancel() }
}
