package import Host
import JSON
package import QAPI

/// An event as it is written, printed once for all clients.
@MainLoop
final class EventMessage {
  let event: TimedEvent
  /// Its place among all events of the process, from 1; 0 for one that only a client gets.
  let sequence: Int
  private(set) lazy var plain = event.printed(pretty: false)
  private(set) lazy var pretty = event.printed(pretty: true)

  init(_ event: TimedEvent, sequence: Int = 0) {
    self.event = event
    self.sequence = sequence
  }
}

/// Brings the machine's events to every client that has finished its negotiation, and remembers the last ones.
///
/// `emit` sends before it returns, so an event that a command causes comes before its reply.
@MainLoop
package final class EventBroadcaster {
  /// How many events are remembered.
  static let historyLimit = 1000

  private var throttler = EventThrottler()
  private var receivers: [ObjectIdentifier: QMPConnection] = [:]
  private var timer: HostTimer?
  /// The last events, a ring: number N is at (N - 1) % historyLimit.
  private var history: [EventMessage] = []
  /// How many events there were.
  private(set) var sequence = 0
  private var waiters: [EventWaiter] = []
  /// This node's number, where the machine runs on several.
  private var node: Int?
  /// Tells the other nodes.
  private var share: (@MainLoop (TimedEvent) -> Void)?
  /// Whether an event is left to another node to tell.
  var isLeft: (@MainLoop (String) -> Bool)?

  package init() {}

  /// From now on events say that they are node `node`'s, and `share` tells the other nodes.
  func joinCluster(node: Int, share: @escaping @MainLoop (TimedEvent) -> Void) {
    self.node = node
    self.share = share
  }

  /// Sends an event of another node.
  func relay(_ event: TimedEvent) { send(event) }

  /// Sends an event now, or later when it comes too often.
  package func emit(_ event: Event) {
    if let isLeft, isLeft(event.name) { return }
    let timed = timed(event)
    Trace.write(.monitorProtocolEventQueue, "event=\(event.name)")
    if let due = throttler.offer(timed, now: HostClock.monotonic) { tell(due) }
    arm()
  }

  /// An event of this moment.
  func timed(_ event: Event) -> TimedEvent {
    TimedEvent(event, microseconds: HostClock.realtime / 1000, node: node)
  }

  /// Sends events to `connection` from now on, until `unsubscribe`.
  func subscribe(_ connection: QMPConnection) {
    receivers[ObjectIdentifier(connection)] = connection
  }

  /// Ends `subscribe`.
  func unsubscribe(_ connection: QMPConnection) { receivers[ObjectIdentifier(connection)] = nil }

  // MARK: - History

  /// The events after number `since` that are remembered, oldest first, and how many are not any more.
  func events(since: Int) -> (events: [EventMessage], lost: Int) {
    let first = max(since, 0) + 1
    let oldest = sequence - history.count + 1
    guard first <= sequence else { return ([], 0) }
    let found = (max(first, oldest)...sequence).map { history[($0 - 1) % Self.historyLimit] }
    return (found, max(oldest - first, 0))
  }

  /// The next event that `matches`, if it comes before `deadline` (monotonic nanoseconds; nil: whenever it comes).
  /// Nil too when the task is cancelled.
  func next(
    before deadline: Int64?, where matches: @escaping @MainLoop (TimedEvent) -> Bool
  ) async -> EventMessage? {
    let waiter = EventWaiter(matches)
    return await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        waiters.append(waiter)
        waiter.start(continuation, before: deadline) { [self] in
          waiters.removeAll { $0 === waiter }
        }
      }
    } onCancel: {
      MainLoop.post { waiter.finish(nil) }
    }
  }

  // MARK: -

  /// Sends an event of this node to everyone.
  private func tell(_ event: TimedEvent) {
    send(event)
    share?(event)
  }

  private func send(_ event: TimedEvent) {
    Trace.write(.monitorProtocolEventEmit, "event=\(event.name)")
    sequence += 1
    let message = EventMessage(event, sequence: sequence)
    if history.count < Self.historyLimit {
      history.append(message)
    } else {
      history[(sequence - 1) % Self.historyLimit] = message
    }
    for receiver in receivers.values { receiver.send(message) }
    for waiter in waiters { waiter.offer(message) }
  }

  private func expire() {
    for event in throttler.expire(now: HostClock.monotonic) { tell(event) }
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

/// Someone who waits for an event.
@MainLoop
private final class EventWaiter {
  private let matches: @MainLoop (TimedEvent) -> Bool
  private var continuation: CheckedContinuation<EventMessage?, Never>?
  private var timer: HostTimer?
  private var onEnd: @MainLoop () -> Void = {}
  private var isOver = false

  init(_ matches: @escaping @MainLoop (TimedEvent) -> Bool) { self.matches = matches }

  func start(
    _ continuation: CheckedContinuation<EventMessage?, Never>, before deadline: Int64?,
    onEnd: @escaping @MainLoop () -> Void
  ) {
    self.continuation = continuation
    self.onEnd = onEnd
    if isOver { return finish(nil) }
    guard let deadline else { return }
    timer = MainLoop.timers.makeTimer { [weak self] in
      MainLoop.assumeIsolated { self?.finish(nil) }
    }
    timer?.arm(at: deadline)
  }

  func offer(_ message: EventMessage) {
    if matches(message.event) { finish(message) }
  }

  func finish(_ message: EventMessage?) {
    isOver = true
    guard let continuation else { return }
    self.continuation = nil
    timer = nil
    onEnd()
    continuation.resume(returning: message)
  }
}
