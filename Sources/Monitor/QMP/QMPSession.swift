import JSON
package import QAPI

/// One connection of a QMP client: negotiation, requests in, text out (QMP of QEMU 7.2).
///
/// Pure model. Bytes go in with `receive`; `takeOutOfBand` and `nextRequest` give what is to be run;
/// `reply` makes the text for the client. Requests are parsed no further ahead than the rules allow
/// (one without out-of-band execution, eight with it), so a caller that stops reading while
/// `wantsInput` is false gives a client the same back pressure as QEMU does.
package struct QMPSession: Sendable {
  /// How many requests wait at most when out-of-band execution is on.
  package static let queueLimit = 8

  /// Whether `qmp_capabilities` has succeeded; events are sent from then on.
  package private(set) var isNegotiated = false
  /// Whether `exec-oob` was enabled.
  package private(set) var isOutOfBandEnabled = false

  private let isPretty: Bool
  private let version: VersionInfo
  private var framer = JSONFramer()
  private var queue: [Waiting] = []
  /// A request that `nextRequest` gave has not been replied to.
  package private(set) var isRunning = false

  private typealias Waiting = Result<JSONValue, JSONError>

  /// A new connection. `isPretty`: one member per line in everything that is sent.
  package init(version: VersionInfo, isPretty: Bool) {
    self.version = version
    self.isPretty = isPretty
  }

  // MARK: - Input

  /// Whether more bytes should be read from the client now.
  package var wantsInput: Bool { !isSuspended && !framer.hasUnread }

  /// Takes bytes from the client.
  package mutating func receive(_ bytes: some Collection<UInt8>) { framer.feed(bytes) }

  /// Parses as far as may be. Gives the next request that overtakes those that wait, to be run at
  /// once; nil when there is none in what may be parsed now.
  package mutating func takeOutOfBand() -> QMPRequest? {
    while !isSuspended, let item = framer.nextValue() {
      if case .success(let value) = item, QMPRequest.isOutOfBand(value) { return request(item) }
      queue.append(item)
    }
    return nil
  }

  /// The next request to run, after which `reply` must be called; nil while one runs or none waits.
  package mutating func nextRequest() -> QMPRequest? {
    guard !isRunning, !queue.isEmpty else { return nil }
    isRunning = true
    return request(queue.removeFirst())
  }

  /// Whether `nextRequest` would give one.
  package var hasRequest: Bool { !isRunning && !queue.isEmpty }

  // MARK: - Negotiation

  /// The text that a client reads first.
  package func greeting() -> [UInt8] {
    let capabilities = QMPCapability.allCases.map { JSONValue.string($0.rawValue) }
    return line([
      "QMP": ["version": version.encoded, "capabilities": .array(capabilities)]
    ])
  }

  /// Runs `qmp_capabilities`. Throws CommandNotFound when negotiation is over.
  package mutating func negotiate(_ capabilities: [QMPCapability]) throws(QAPIError) {
    if isNegotiated {
      throw QAPIError(
        .commandNotFound, "Capabilities negotiation is already complete, command ignored")
    }
    isOutOfBandEnabled = capabilities.contains(.oob)
    isNegotiated = true
  }

  // MARK: - Output

  /// The reply to a request. `isOutOfBand`: it came from `takeOutOfBand`.
  package mutating func reply(
    to request: QMPRequest, _ result: Result<CommandResult, QAPIError>, isOutOfBand: Bool = false
  ) -> [UInt8] {
    if !isOutOfBand { isRunning = false }
    switch result {
    case .success(.value(let value)): return line(with(request.id, ["return": value]))
    case .success(.encoded(let text)): return encodedReply(text, id: request.id)
    case .failure(let error):
      return line(with(request.id, ["error": reworded(error).encoded]))
    }
  }

  /// The text of an event, or nil when this client gets none yet.
  package func text(of event: TimedEvent) -> [UInt8]? {
    isNegotiated ? line(event.encoded) : nil
  }

  // MARK: -

  private var isSuspended: Bool {
    isOutOfBandEnabled ? queue.count >= Self.queueLimit : isRunning || !queue.isEmpty
  }

  private func request(_ item: Waiting) -> QMPRequest {
    switch item {
    case .failure(let error): QMPRequest(error)
    case .success(let value):
      QMPRequest(value, outOfBandEnabled: isOutOfBandEnabled) { name in
        guard let command = CommandTable.command(named: name) else { return nil }
        return isNegotiated || command == .qmpCapabilities ? command : nil
      }
    }
  }

  /// While negotiating, the error for an unknown command says what is expected instead.
  private func reworded(_ error: QAPIError) -> QAPIError {
    if isNegotiated || error.errorClass != .commandNotFound { return error }
    return QAPIError(
      .commandNotFound, "Expecting capabilities negotiation with 'qmp_capabilities'")
  }

  private func with(_ id: JSONValue?, _ reply: JSONObject) -> JSONObject {
    var reply = reply
    reply["id"] = id
    return reply
  }

  private func encodedReply(_ text: StaticString, id: JSONValue?) -> [UInt8] {
    if isPretty, let value = try? JSONValue(parsing: "\(text)") {
      return line(with(id, ["return": value]))
    }
    var bytes = Array(#"{"return": "#.utf8)
    bytes.append(contentsOf: "\(text)".utf8)
    if let id {
      bytes.append(contentsOf: #", "id": "#.utf8)
      bytes.append(contentsOf: id.printed())
    }
    bytes.append(contentsOf: "}\r\n".utf8)
    return bytes
  }

  /// One message as it is written: printed, every line ending in CR LF.
  private func line(_ object: JSONObject) -> [UInt8] {
    var text = JSONValue.object(object).printed(pretty: isPretty)
    text.append(UInt8(ascii: "\n"))
    var bytes: [UInt8] = []
    bytes.reserveCapacity(text.count + 1)
    for byte in text {
      if byte == UInt8(ascii: "\n") { bytes.append(UInt8(ascii: "\r")) }
      bytes.append(byte)
    }
    return bytes
  }
}

/// Commands by name.
enum CommandTable {
  private static let commands = Dictionary(
    uniqueKeysWithValues: Command.allCases.map { ($0.rawValue, $0) })

  static func command(named name: String) -> Command? { commands[name] }
}
