import Chardev
import Glibc
package import Host
import JSON
import QAPI
import Synchronization

/// Notes who ran which command of a monitor, with what result: one JSON object a line (`-mon …,x-audit=FILE`).
///
/// A thread of its own writes, so no client ever waits for the file. When the file cannot keep up, lines are left out and the
/// next one that fits says how many (`dropped`). Secrets are not noted.
package final class AuditLog: Sendable {
  private struct Queue {
    var bytes: [UInt8] = []
    var dropped = 0
  }

  private let path: String
  private let file: FileDescriptor
  private let queue = Mutex(Queue())
  private let signal = WaitWord()

  /// So many bytes wait at most.
  private static let limit = 4 << 20

  /// Opens the file for appending. Throws `SystemError` when that or the thread is refused.
  package init(_ path: String) throws(SystemError) {
    self.path = path
    file = try FileDescriptor.open(
      path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, mode: 0o600)
    try file.setNonBlocking(false)
    _ = try HostThread(name: "audit") { [self] in write() }
  }

  // MARK: - Lines

  /// Notes a request of QMP; `failure` is nil when it succeeded.
  @MainLoop
  func record(
    _ client: MonitorClient, _ request: QMPRequest, _ failure: QAPIError?, since start: Int64
  ) {
    var line = begin(client, since: start)
    if let name = request.commandName { line["command"] = .string(name) }
    if let arguments = request.arguments, !arguments.isEmpty {
      line["arguments"] = .object(Redaction.redacted(arguments))
    }
    line["id"] = request.id
    line["result"] = .string(failure == nil ? "ok" : "error")
    if let failure { line["error"] = failure.encoded }
    append(line)
  }

  /// Notes a line of a human monitor.
  @MainLoop
  func record(_ client: MonitorClient, line text: String, since start: Int64) {
    var line = begin(client, since: start)
    line["command-line"] = .string(Redaction.redacted(line: text))
    append(line)
  }

  @MainLoop
  private func begin(_ client: MonitorClient, since start: Int64) -> JSONObject {
    let duration = HostClock.monotonic - start
    let time = HostClock.realtime / 1000 - duration / 1000
    var line: JSONObject = [
      "time": [
        "seconds": .int(time / 1_000_000), "microseconds": .int(time % 1_000_000),
      ],
      "monitor": .string(client.monitor), "client": JSONValue(client.number),
      "peer": .string(client.peer.address), "duration-us": .int(duration / 1000),
    ]
    if let process = client.peer.process { line["pid"] = JSONValue(Int(process)) }
    if let user = client.peer.user { line["uid"] = JSONValue(Int(user)) }
    if let identity = client.peer.identity { line["identity"] = .string(identity) }
    return line
  }

  private func append(_ line: JSONObject) {
    queue.withLock { queue in
      guard queue.bytes.count < Self.limit else {
        queue.dropped += 1
        return
      }
      var line = line
      if queue.dropped > 0 {
        line["dropped"] = JSONValue(queue.dropped)
        queue.dropped = 0
      }
      queue.bytes += JSONValue.object(line).printed()
      queue.bytes.append(UInt8(ascii: "\n"))
    }
    signal.advance()
  }

  // MARK: - The thread

  private func write() {
    while true {
      let seen = signal.value
      let bytes = queue.withLock { queue in
        let bytes = queue.bytes
        queue.bytes = []
        return bytes
      }
      if bytes.isEmpty {
        signal.wait(while: seen)
        continue
      }
      var done = 0
      while done < bytes.count, let count = try? file.write(bytes, from: done), count > 0 {
        done += count
      }
    }
  }

  /// Waits up to a second until everything is written; for the end of the process.
  package func drain() {
    let end = HostClock.monotonic + 1_000_000_000
    while HostClock.monotonic < end, queue.withLock({ !$0.bytes.isEmpty }) { usleep(1000) }
  }
}

/// Takes secrets out of what is noted.
enum Redaction {
  /// What stands in place of a secret.
  static let mark = "<redacted>"
  private static let secretNames: Set<String> = [
    "password", "passwd", "secret", "passphrase", "encryption-key",
  ]
  /// Members that hold a secret where the object is made for keeping one.
  private static let secretTypes: Set<String> = ["secret", "secret_keyring"]

  /// Arguments without their secrets.
  static func redacted(_ arguments: JSONObject) -> JSONObject {
    var result = JSONObject()
    let type = arguments["qom-type"]?.stringValue ?? ""
    for (name, value) in arguments {
      if secretNames.contains(name) || (name == "data" && secretTypes.contains(type)) {
        result[name] = .string(mark)
      } else if name == "command-line", case .string(let line) = value {
        result[name] = .string(redacted(line: line))
      } else {
        result[name] = redacted(value)
      }
    }
    return result
  }

  private static func redacted(_ value: JSONValue) -> JSONValue {
    switch value {
    case .object(let object): .object(redacted(object))
    case .array(let elements): .array(elements.map { redacted($0) })
    default: value
    }
  }

  /// A line of the human monitor without its secrets.
  static func redacted(line: String) -> String {
    let words = line.split(separator: " ", omittingEmptySubsequences: true)
    switch words.first {
    case "set_password" where words.count > 2, "change" where words.count > 3,
      "block_set_key" where words.count > 1:
      let kept = words[0] == "set_password" ? 2 : words[0] == "change" ? 3 : 1
      return words[..<kept].joined(separator: " ") + " " + mark
    default: break
    }
    return line.split(separator: ",", omittingEmptySubsequences: false).map { part in
      guard let equals = part.firstIndex(of: "=") else { return String(part) }
      let name = part[..<equals].split(separator: " ").last.map(String.init) ?? ""
      let isSecret =
        secretNames.contains(name) || (name == "data" && line.contains("secret"))
      return isSecret ? part[...equals] + mark : String(part)
    }.joined(separator: ",")
  }
}
