package import JSON
package import QAPI

/// An event with the host's real time at which it happened.
package struct TimedEvent: Equatable, Sendable {
  /// Its name on the wire.
  package let name: String
  /// Its data; nil when it has none.
  package let data: JSONObject?
  /// How often it may be sent.
  let throttle: EventThrottle?
  /// Microseconds since 1970-01-01 UTC.
  package let microseconds: Int64

  /// An event of this process; `node` is added to its data where it is given.
  package init(_ event: Event, microseconds: Int64, node: Int? = nil) {
    name = event.name
    var data = event.data
    if let node {
      data = data ?? [:]
      data?["node"] = JSONValue(node)
    }
    self.data = data
    throttle = event.throttle
    self.microseconds = microseconds
  }

  /// An event of another process, which has seen to its not coming too often.
  package init(name: String, data: JSONObject?, microseconds: Int64) {
    self.name = name
    self.data = data
    throttle = nil
    self.microseconds = microseconds
  }

  /// The event message: `timestamp`, `event`, and `data` when there is any.
  package var encoded: JSONObject {
    let (seconds, rest) = microseconds.quotientAndRemainder(dividingBy: 1_000_000)
    var message: JSONObject = [
      "timestamp": ["seconds": .int(seconds), "microseconds": .int(rest)],
      "event": .string(name),
    ]
    if let data { message["data"] = .object(data) }
    return message
  }

  /// The message as it is written.
  func printed(pretty: Bool) -> [UInt8] {
    var printer = JSONPrinter(pretty: pretty, breaksWithCarriageReturn: true)
    printer.print(.object(encoded))
    printer.append("\r\n")
    return printer.output
  }
}

/// Holds back events that come too often: the first of a kind is sent at once, of those that follow
/// within the kind's interval only the newest, when the interval ends.
///
/// Pure model; times are monotonic nanoseconds.
package struct EventThrottler: Sendable {
  private struct Gate {
    let name: String
    let key: JSONValue?
    let interval: Int64
    var opens: Int64
    var kept: TimedEvent?
  }

  private var gates: [Gate] = []

  package init() {}

  /// Takes an event that happens at `now`; gives it back when it is to be sent at once.
  package mutating func offer(_ event: TimedEvent, now: Int64) -> TimedEvent? {
    guard let throttle = event.throttle else { return event }
    let key = throttle.key.flatMap { event.data?[$0] }
    let name = event.name
    if let index = gates.firstIndex(where: { $0.name == name && $0.key == key }) {
      gates[index].kept = event
      return nil
    }
    let interval = Int64(throttle.milliseconds) * 1_000_000
    gates.append(Gate(name: name, key: key, interval: interval, opens: now + interval))
    return event
  }

  /// When `expire` must be called next, or nil.
  package var deadline: Int64? { gates.map(\.opens).min() }

  /// Events that are to be sent because their interval has ended by `now`.
  package mutating func expire(now: Int64) -> [TimedEvent] {
    var due: [TimedEvent] = []
    for index in gates.indices.reversed() where gates[index].opens <= now {
      if let kept = gates[index].kept {
        due.append(kept)
        gates[index].kept = nil
        gates[index].opens = now + gates[index].interval
      } else {
        gates.remove(at: index)
      }
    }
    return due.reversed()
  }
}
