package import JSON
package import QAPI

/// One connection of a QMP client: negotiation, requests in, text out (QMP of QEMU 7.2).
///
/// Pure model. Bytes go in with `receive`; `takeOutOfBand` and `nextRequest` give what is to be run;
/// `reply` makes the text for the client. Requests are parsed no further ahead than the rules allow
/// (one without out-of-band execution, eight with it); what is not parsed is to be given back with
/// `giveBack`, so that a client meets the same back pressure as with QEMU.
package struct QMPSession: Sendable {
  /// How many requests wait at most when out-of-band execution is on.
  package static let queueLimit = 8

  /// Whether `qmp_capabilities` has succeeded; events are sent from then on.
  package private(set) var isNegotiated = false
  /// Whether `exec-oob` was enabled.
  package private(set) var isOutOfBandEnabled = false
  /// Whether each member is on a line of its own.
  package let isPretty: Bool

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

  /// How many bytes, the last that `receive` took, were not looked at; they are forgotten and must come again.
  package mutating func giveBack() -> Int { framer.dropUnread() }

  /// How many bytes of an unfinished request are held.
  package var heldByteCount: Int { framer.heldByteCount }

  /// Parses as far as may be. Gives the next request that overtakes those that wait, to be run at
  /// once; nil when there is none in what may be parsed now.
  package mutating func takeOutOfBand() -> QMPRequest? {
    while !isSuspended, let item = framer.nextValue() {
      if isOutOfBandEnabled, case .success(let value) = item, QMPRequest.isOutOfBand(value) {
        return request(item)
      }
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

  /// What `nextRequest` would give.
  package var peek: QMPRequest? { hasRequest ? queue.first.map { request($0) } : nil }

  /// No request is parsed at present: enough wait already.
  package var isSuspended: Bool {
    isOutOfBandEnabled ? queue.count >= Self.queueLimit : isRunning || !queue.isEmpty
  }

  // MARK: - Negotiation

  /// The text that a client reads first.
  package func greeting() -> [UInt8] {
    let capabilities = QMPCapability.allCases.map { JSONValue.string($0.rawValue) }
    return message([
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

  /// Prints the value of a successful reply; then `reply` finishes it.
  package func beginReply() -> JSONPrinter {
    var printer = JSONPrinter(pretty: isPretty, breaksWithCarriageReturn: true)
    printer.output.reserveCapacity(128)
    printer.beginObject()
    printer.member("\"return\": ")
    return printer
  }

  /// The reply to a request, whose value `printer` has printed. `isOutOfBand`: it came from `takeOutOfBand`.
  package mutating func reply(
    to request: QMPRequest, _ printer: consuming JSONPrinter, isOutOfBand: Bool = false
  ) -> [UInt8] {
    if !isOutOfBand { isRunning = false }
    if let id = request.id {
      printer.member("\"id\": ")
      printer.print(id)
    }
    printer.endObject()
    printer.append("\r\n")
    return printer.output
  }

  /// The reply to a request that failed.
  package mutating func reply(
    to request: QMPRequest, failure: QAPIError, isOutOfBand: Bool = false
  ) -> [UInt8] {
    if !isOutOfBand { isRunning = false }
    var reply: JSONObject = ["error": reworded(failure).encoded]
    reply["id"] = request.id
    return message(reply)
  }

  /// The text of an event, or nil when this client gets none yet.
  package func text(of event: TimedEvent) -> [UInt8]? {
    isNegotiated ? event.printed(pretty: isPretty) : nil
  }

  // MARK: -

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

  /// One message as it is written.
  private func message(_ object: JSONObject) -> [UInt8] {
    var printer = JSONPrinter(pretty: isPretty, breaksWithCarriageReturn: true)
    printer.print(.object(object))
    printer.append("\r\n")
    return printer.output
  }
}

/// Commands by name.
enum CommandTable {
  private static let commands = Dictionary(
    uniqueKeysWithValues: Command.allCases.map { ($0.rawValue, $0) })

  static func command(named name: String) -> Command? { commands[name] }
}
