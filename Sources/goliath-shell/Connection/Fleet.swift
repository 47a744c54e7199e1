import Glibc
import Host
import JSON

/// All nodes, and the one place where the program waits: for them, for keys and for signals.
final class Fleet {
  /// Why a wait ended.
  enum Wake { case news, input, interrupted, terminated, resized, deadline }

  let nodes: [Node]
  /// Whether lost connections are made again.
  var reconnects = false
  /// Told in the order in which things came.
  var onNews: (Node, Node.News) -> Void = { _, _ in }
  /// Events that came since the last request was sent, for `wait`.
  private(set) var recentEvents: [(node: Node, event: JSONValue)] = []

  private let signals: SignalDescriptor
  private var nextToken = 0
  private static let mostRecentEvents = 1000

  /// Throws `SystemError`.
  init(_ nodes: [Node]) throws(SystemError) {
    self.nodes = nodes
    signals = try SignalDescriptor([SIGINT, SIGTERM, SIGHUP, SIGWINCH])
  }

  /// The nodes meant by `@name`, or all. Throws `LineError` for an unknown name.
  func nodes(named name: String?) throws(LineError) -> [Node] {
    guard let name else { return nodes }
    let found = nodes.filter { $0.name == name }
    if found.isEmpty {
      let names = nodes.map(\.name).joined(separator: ", ")
      throw LineError("there is no node '\(name)' (there are: \(names))")
    }
    return found
  }

  /// Starts to connect every node that is not connected.
  func connect() {
    for node in nodes {
      if case .down = node.state { tell(node, node.connect()) }
    }
  }

  /// Waits once: until something came from a node, a key can be read (`input`), a signal came or the deadline (monotonic) is reached.
  func wait(input: Bool = false, deadline: Int64? = nil) -> Wake {
    let retry = retryDue()
    var entries: [PollEntry] = []
    var polled: [Node] = []
    for node in nodes {
      guard let entry = node.pollEntry else { continue }
      entries.append(entry)
      polled.append(node)
    }
    entries.append(PollEntry(signals.pollDescriptor, .readable))
    if input { entries.append(PollEntry(0, .readable)) }
    let now = HostClock.monotonic
    let until = [deadline, retry].compactMap { $0 }.min()
    // Rounded up, so that a deadline is over when the call returns.
    let milliseconds = until.map { max(0, min(($0 &- now &+ 999_999) / 1_000_000, 3_600_000)) }
    _ = try? PollEntry.wait(
      &entries, milliseconds: Int32(truncatingIfNeeded: milliseconds ?? -1))
    for (node, entry) in zip(polled, entries) { tell(node, node.handle(entry.ready)) }
    if !entries[polled.count].ready.isEmpty, let signal = signals.next() {
      switch signal {
      case SIGINT: return .interrupted
      case SIGWINCH: return .resized
      default: return .terminated
      }
    }
    if input, let last = entries.last, !last.ready.isEmpty { return .input }
    if let deadline, HostClock.monotonic >= deadline { return .deadline }
    return .news
  }

  /// Runs a request or a human monitor's line on nodes and waits for all outcomes, at most until `deadline`.
  func perform(
    _ action: Action, on targets: [Node], passing file: Int32? = nil, deadline: Int64?
  ) -> [(node: Node, outcome: Node.Outcome, nanoseconds: Int64)] {
    recentEvents = []
    var tokens: [Int] = []
    for node in targets {
      nextToken += 1
      tokens.append(nextToken)
      tell(node, node.send(action, token: nextToken, passing: file))
    }
    var outcomes: [Int: (outcome: Node.Outcome, nanoseconds: Int64)] = [:]
    var givenUp: Node.Outcome?
    while true {
      for (node, token) in zip(targets, tokens) where outcomes[token] == nil {
        outcomes[token] = node.takeOutcome(token)
      }
      if outcomes.count == tokens.count { break }
      if let givenUp {
        for (node, token) in zip(targets, tokens) where outcomes[token] == nil {
          node.abandon(token)
          outcomes[token] = (givenUp, 0)
        }
        break
      }
      switch wait(deadline: deadline) {
      case .interrupted, .terminated: givenUp = .interrupted
      case .deadline: givenUp = .timeout
      default: break
      }
    }
    return zip(targets, tokens).map { node, token in
      let found = outcomes[token] ?? (.timeout, 0)
      return (node, found.outcome, found.nanoseconds)
    }
  }

  /// Takes the first recent event of `node` that is meant.
  func takeRecentEvent(_ node: Node, _ filter: EventFilter) -> JSONValue? {
    guard
      let index = recentEvents.firstIndex(where: { $0.node === node && filter.matches($0.event) })
    else { return nil }
    return recentEvents.remove(at: index).event
  }

  /// Puts back the events that a question of the shell's own has displaced, before those that came meanwhile.
  func restoreRecentEvents(_ events: [(node: Node, event: JSONValue)]) {
    recentEvents = events + recentEvents
  }

  // MARK: -

  /// Starts the connections that are due again; when the next one is.
  private func retryDue() -> Int64? {
    guard reconnects else { return nil }
    var next: Int64?
    let now = HostClock.monotonic
    for node in nodes {
      guard case .down(_, let retryAt?) = node.state else { continue }
      if retryAt <= now {
        tell(node, node.connect())
      }
      if case .down(_, let again?) = node.state { next = min(next ?? again, again) }
    }
    return next
  }

  private func tell(_ node: Node, _ news: [Node.News]) {
    for item in news {
      if case .event(let event, _) = item {
        if recentEvents.count >= Self.mostRecentEvents { recentEvents.removeFirst() }
        recentEvents.append((node, event))
      }
      onNews(node, item)
    }
  }
}
