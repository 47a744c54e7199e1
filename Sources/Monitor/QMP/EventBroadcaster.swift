package import Host
package import QAPI

/// Brings the machine's events to every client that has finished its negotiation.
///
/// `emit` sends before it returns, so an event that a command causes comes before its reply.
@MainLoop
package final class EventBroadcaster {
  private var throttler = EventThrottler()
  private var receivers: [ObjectIdentifier: @MainLoop (TimedEvent) -> Void] = [:]
  private var timer: HostTimer?

  package init() {}

  /// Sends an event now, or later when it comes too often.
  package func emit(_ event: Event) {
    let timed = TimedEvent(event, microseconds: HostClock.realtime / 1000)
    Trace.write(.monitorProtocolEventQueue, "event=\(event.name)")
    if let due = throttler.offer(timed, now: HostClock.monotonic) { send(due) }
    arm()
  }

  /// Sends events to `receiver` from now on, until `unsubscribe` with the same owner.
  func subscribe(_ owner: AnyObject, _ receiver: @escaping @MainLoop (TimedEvent) -> Void) {
    receivers[ObjectIdentifier(owner)] = receiver
  }

  /// Ends `subscribe`.
  func unsubscribe(_ owner: AnyObject) { receivers[ObjectIdentifier(owner)] = nil }

  // MARK: -

  private func send(_ event: TimedEvent) {
    Trace.write(.monitorProtocolEventEmit, "event=\(event.event.name)")
    for receiver in receivers.values { receiver(event) }
  }

  private func expire() {
    for event in throttler.expire(now: HostClock.monotonic) { send(event) }
    arm()
  }

  private func arm() {
    guard let deadline = throttler.deadline else { return }
    if timer == nil {
      timer = MainLoop.timers.makeTimer { [weak self] in
        MainLoop.assumeIsolated { self?.expire() }
      }
    }
    timer?.arm(at: deadline)
  }
}
