import Chardev
import Host
package import JSON
package import QAPI

// schemas/x-monitor.json

extension MonitorCommands: @MainLoop XMonitorCommands {
  package func xEventsSince(since: Int?) throws(QAPIError) -> XEventHistory {
    let (events, lost) = context.events.events(since: since ?? 0)
    return XEventHistory(
      events: events.map(XRecordedEvent.init), last: context.events.sequence,
      lost: since == nil ? 0 : lost)
  }

  @MainLoop
  package func xWaitEvent(
    names: [String]?, filter: JSONValue?, since: Int?, timeout: Int?
  ) async throws(QAPIError) -> XAwaitedEvent {
    var wanted: JSONObject = [:]
    if let filter {
      guard case .object(let object) = filter else {
        throw .wrongType("filter", expected: "object")
      }
      wanted = object
    }
    if let timeout, timeout < 0 { throw .expects("timeout", "a number that is not negative") }
    let matches: @MainLoop (TimedEvent) -> Bool = { event in
      if let names, !names.contains(event.name) { return false }
      return wanted.isEmpty || event.data?.holds(wanted) == true
    }
    let events = context.events
    var found: EventMessage?
    if let since { found = events.events(since: since).events.first { matches($0.event) } }
    if found == nil, timeout != 0 {
      let deadline = timeout.map { HostClock.monotonic &+ Int64(min($0, 1 << 40)) &* 1_000_000 }
      found = await events.next(before: deadline, where: matches)
    }
    return XAwaitedEvent(event: found.map(XRecordedEvent.init), last: events.sequence)
  }

  package func xCommandsInFlight() throws(QAPIError) -> [XCommandInFlight] {
    let now = HostClock.monotonic
    return context.inFlight.list.map { entry in
      XCommandInFlight(
        command: entry.command, id: entry.id, milliseconds: Int((now - entry.start) / 1_000_000),
        client: entry.client.number, monitor: entry.client.monitor,
        peer: entry.client.peer.address, pid: entry.client.peer.process.map(Int.init))
    }
  }

  package func xSchema(name: String) throws(QAPIError) -> XSchemaEntry {
    guard let (kindName, document) = SchemaDocuments.document(name),
      let kind = XSchemaKind(rawValue: kindName),
      let schema = try? JSONValue(parsing: "\(document)")
    else { throw QAPIError("The schema has no command, event or type '\(name)'") }
    return XSchemaEntry(
      name: name, kind: kind, description: schema["description"]?.stringValue ?? "",
      schema: schema)
  }
}

extension XRecordedEvent {
  @MainLoop
  fileprivate init(_ message: EventMessage) {
    let (seconds, rest) = message.event.microseconds.quotientAndRemainder(dividingBy: 1_000_000)
    self.init(
      sequence: message.sequence, event: message.event.name,
      timestamp: XTimestamp(seconds: Int(seconds), microseconds: Int(rest)),
      data: message.event.data.map { .object($0) })
  }
}

extension JSONObject {
  /// Whether every member of `wanted` is here with the same value; of objects only the members that are asked for.
  fileprivate func holds(_ wanted: JSONObject) -> Bool {
    wanted.allSatisfy { name, value in
      guard let own = self[name] else { return false }
      if case .object(let inner) = value, case .object(let members) = own {
        return members.holds(inner)
      }
      return own == value
    }
  }
}
