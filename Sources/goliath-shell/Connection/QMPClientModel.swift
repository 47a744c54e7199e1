package import JSON

/// The client's side of a QMP connection (QMP specification, 2): greeting, negotiation, replies matched to requests, events.
/// Pure model: bytes in, items out.
package struct QMPClientModel {
  /// What came.
  package enum Item: Equatable, Sendable {
    /// The server speaks QMP: send `negotiation`.
    case greeting(JSONValue)
    /// Negotiation succeeded: requests may be sent.
    case ready
    /// The reply to the request with this token, or nil when nobody waits for it any more.
    case reply(Int?, Reply)
    case event(JSONValue, raw: [UInt8])
    /// The peer does not keep to QMP; the connection is of no more use.
    case broken(String)
  }

  /// A reply: what was returned, or class and text of the error; and the server's own bytes.
  package struct Reply: Equatable, Sendable {
    package let result: Result<JSONValue, Failure>
    package let raw: [UInt8]

    package init(_ result: Result<JSONValue, Failure>, raw: [UInt8] = []) {
      self.result = result
      self.raw = raw
    }
  }

  /// A QMP error.
  package struct Failure: Error, Equatable, Sendable {
    package let errorClass: String
    package let text: String

    package init(errorClass: String, text: String) {
      self.errorClass = errorClass
      self.text = text
    }
  }

  private enum Phase { case greeting, negotiating, ready, broken }
  private struct Pending {
    let token: Int
    let id: JSONValue?
    var isAbandoned = false
  }

  /// The greeting comes within this many bytes.
  package static let greetingLimit = 65536

  private var framer = JSONFramer()
  private var phase = Phase.greeting
  private var pending: [Pending] = []
  private var bytesBeforeGreeting: [UInt8] = []
  private let wantsOutOfBand: Bool
  private var hasOutOfBand = false

  package init(outOfBand: Bool) { wantsOutOfBand = outOfBand }

  /// Whether out-of-band requests may be sent.
  package var allowsOutOfBand: Bool { phase == .ready && hasOutOfBand }

  /// The request that ends negotiation.
  package var negotiation: [UInt8] {
    let arguments: JSONObject = hasOutOfBand ? ["enable": ["oob"]] : [:]
    return QMPRequest("qmp_capabilities", arguments).bytes(id: nil)
  }

  /// The bytes of a request whose reply will carry `token`.
  package mutating func send(_ request: QMPRequest, token: Int) -> [UInt8] {
    // Only out-of-band replies overtake others; a request that the user typed keeps its own id.
    let id: JSONValue? =
      request.isOutOfBand && request.verbatim == nil ? .string("goliath-shell-\(token)") : nil
    pending.append(Pending(token: token, id: id))
    return request.bytes(id: id)
  }

  /// Nobody waits for this reply any more; it is recognised when it comes.
  package mutating func abandon(_ token: Int) {
    for index in pending.indices where pending[index].token == token {
      pending[index].isAbandoned = true
    }
  }

  /// Takes bytes of the server.
  package mutating func receive(_ bytes: some Collection<UInt8>) -> [Item] {
    if phase == .broken { return [] }
    if phase == .greeting { bytesBeforeGreeting += bytes }
    framer.feed(bytes)
    var items: [Item] = []
    while phase != .broken, let next = framer.next() { items.append(contentsOf: take(next)) }
    if phase == .greeting, bytesBeforeGreeting.count > Self.greetingLimit {
      items.append(fail("it sent \(bytesBeforeGreeting.count) bytes and no greeting"))
    }
    return items
  }

  // MARK: -

  private mutating func fail(_ reason: String) -> Item {
    phase = .broken
    return .broken(reason)
  }

  private mutating func take(_ item: Result<JSONText, JSONError>) -> [Item] {
    let text: JSONText
    let value: JSONValue
    do {
      text = try item.get()
      value = try text.parse()
    } catch {
      return [phase == .greeting ? noGreeting() : fail("it sent what is no JSON (\(error.text))")]
    }
    guard value.objectValue != nil else {
      return [phase == .greeting ? noGreeting() : fail("it sent a message that is no object")]
    }
    if value["event"]?.stringValue != nil, phase != .greeting {
      return [.event(value, raw: text.bytes)]
    }
    switch phase {
    case .greeting:
      guard let greeting = value["QMP"] else { return [noGreeting()] }
      bytesBeforeGreeting = []
      let offers = greeting["capabilities"]?.arrayValue ?? []
      hasOutOfBand = wantsOutOfBand && offers.contains("oob")
      phase = .negotiating
      return [.greeting(greeting)]
    case .negotiating:
      guard value["return"] != nil else {
        let reason = value["error"]?["desc"]?.stringValue ?? "no reply"
        return [fail("negotiation failed: \(reason)")]
      }
      phase = .ready
      return [.ready]
    case .ready:
      guard let reply = Self.reply(value, raw: text.bytes) else {
        return [fail("it sent a message that is neither reply nor event")]
      }
      return [.reply(match(value["id"]), reply)]
    case .broken: return []
    }
  }

  private mutating func noGreeting() -> Item {
    let text = String(decoding: bytesBeforeGreeting.prefix(60), as: UTF8.self)
    let line = text.split(whereSeparator: \.isNewline).first.map(String.init) ?? ""
    let isHuman = text.contains("monitor - type 'help'")
    return fail(
      "it does not speak QMP (it said '\(Style.harmless(line))')"
        + (isHuman ? "; for a human monitor use --hmp" : ""))
  }

  private static func reply(_ value: JSONValue, raw: [UInt8]) -> Reply? {
    if let result = value["return"] { return Reply(.success(result), raw: raw) }
    guard let error = value["error"] else { return nil }
    return Reply(
      .failure(
        Failure(
          errorClass: error["class"]?.stringValue ?? "GenericError",
          text: error["desc"]?.stringValue ?? error.text)), raw: raw)
  }

  /// The token that a reply belongs to: by id when it is one of ours, else the oldest request without one.
  private mutating func match(_ id: JSONValue?) -> Int? {
    let index =
      pending.firstIndex { $0.id != nil && $0.id == id }
      ?? pending.firstIndex { $0.id == nil }
    guard let index else { return nil }
    let found = pending.remove(at: index)
    return found.isAbandoned ? nil : found.token
  }
}
