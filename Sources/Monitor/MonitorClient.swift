package import Chardev
package import Host
import JSON
package import Options

/// Who sits at a monitor, and what they may do.
@MainLoop
package final class MonitorClient {
  /// Counts the clients of the process.
  let number: Int
  /// Label of the monitor's character device.
  let monitor: String
  let peer: ChardevPeer
  let access: MonitorAccess
  let audit: AuditLog?

  init(
    _ client: ChardevClient, on monitor: String, access: MonitorAccess, audit: AuditLog?,
    context: MonitorContext
  ) {
    number = context.nextClientNumber()
    self.monitor = monitor
    peer = client.peer
    self.access = access
    self.audit = audit
  }
}

/// The commands that have to wait for something, while they do (`x-commands-in-flight`).
@MainLoop
final class CommandsInFlight {
  struct Entry {
    let command: String
    let id: JSONValue?
    let client: MonitorClient
    /// Monotonic nanoseconds.
    let start: Int64
  }

  private var entries: [Int: Entry] = [:]
  private var last = 0

  /// Those that run, oldest first.
  var list: [Entry] { entries.sorted { $0.key < $1.key }.map(\.value) }

  func begin(_ command: String, _ id: JSONValue?, _ client: MonitorClient, at start: Int64) -> Int {
    last += 1
    entries[last] = Entry(command: command, id: id, client: client, start: start)
    return last
  }

  func end(_ number: Int) { entries[number] = nil }
}
