/// The server's opening of a websocket connection (RFC 6455, 4.2): an HTTP request in, an answer out. A pure model.
///
/// Checks and answers are QEMU's; every request that is not exactly ours ends the connection.
package struct WebSocketHandshake: Equatable {
  /// What became of the request.
  package enum Outcome: Equatable {
    /// More bytes are needed.
    case incomplete
    /// Good: send `answer`; `rest` came after the request.
    case accepted(answer: String, rest: [UInt8])
    /// Bad: send `answer` and close.
    case refused(answer: String, reason: String)
  }

  /// The most bytes of a request, and the most header fields.
  static let sizeLimit = 4096
  static let fieldLimit = 32

  private var request: [UInt8] = []

  package init() {}

  /// Takes bytes of the connection. `date` is the present as HTTP writes it (RFC 9110, 5.6.7).
  package mutating func receive(_ bytes: [UInt8], date: String) -> Outcome {
    let known = max(0, request.count - 3)
    let taken = WebSocketHandshake.sizeLimit - request.count
    request += bytes.prefix(taken)
    let rest = bytes.dropFirst(taken)
    guard let end = WebSocketHandshake.end(of: request, from: known) else {
      guard request.count >= WebSocketHandshake.sizeLimit else { return .incomplete }
      return refuse("403 Request Entity Too Large", "", date, "the request is too long")
    }
    let text = String(decoding: request[..<end], as: UTF8.self)
    let after = Array(request[(end + 4)...]) + rest
    request = []
    do throws(Refusal) {
      return .accepted(answer: try accept(text, date), rest: after)
    } catch {
      let version = error.status.hasPrefix("400") ? "Sec-WebSocket-Version: 13\r\n" : "\r\n"
      return refuse(error.status, version, date, error.reason)
    }
  }

  // MARK: -

  private struct Refusal: Error {
    var status = "400 Bad Request"
    let reason: String
  }

  /// Where the empty line begins, with the line end before it.
  private static func end(of request: [UInt8], from start: Int) -> Int? {
    var index = start
    while index + 3 < request.count {
      if request[index] == 13, request[index + 1] == 10, request[index + 2] == 13,
        request[index + 3] == 10
      {
        return index
      }
      index += 1
    }
    return nil
  }

  private func refuse(
    _ status: String, _ more: String, _ date: String, _ reason: String
  ) -> Outcome {
    let more = more.isEmpty ? "\r\n" : more
    return .refused(
      answer:
        "HTTP/1.1 \(status)\r\nServer: QEMU VNC\r\nDate: \(date)\r\nConnection: close\r\n\(more)",
      reason: "Websocket handshake failed: \(reason)")
  }

  private func accept(_ text: String, _ date: String) throws(Refusal) -> String {
    var lines: [Substring] = []
    var rest = text.unicodeScalars[...]
    // Scalars, as CR LF is one character.
    while let index = rest.firstIndex(of: "\r") {
      lines.append(Substring(rest[..<index]))
      rest = rest[rest.index(after: index)...]
      guard rest.first == "\n" else { throw Refusal(reason: "a line ends without a line feed") }
      rest = rest.dropFirst()
    }
    lines.append(Substring(rest))
    let words = (lines.first ?? "").split(separator: " ", omittingEmptySubsequences: false)
    guard words.count == 3 else { throw Refusal(reason: "no HTTP request") }
    guard words[0] == "GET" else { throw Refusal(reason: "unsupported method \(words[0])") }
    guard words[1] == "/" else {
      throw Refusal(status: "404 Not Found", reason: "unexpected path \(words[1])")
    }
    guard words[2] == "HTTP/1.1" else { throw Refusal(reason: "unsupported version \(words[2])") }
    let fields = try WebSocketHandshake.fields(lines.dropFirst())
    func required(_ name: String) throws(Refusal) -> String {
      guard let value = fields.first(where: { $0.name == name })?.value else {
        throw Refusal(reason: "missing field \(name)")
      }
      return value
    }
    let protocols = fields.first { $0.name == "sec-websocket-protocol" }?.value
    let version = try required("sec-websocket-version")
    let key = try required("sec-websocket-key")
    _ = try required("host")
    let connection = try required("connection")
    let upgrade = try required("upgrade")
    if let protocols, !WebSocketHandshake.list(protocols).contains("binary") {
      throw Refusal(reason: "no 'binary' protocol is supported by client '\(protocols)'")
    }
    guard version == "13" else { throw Refusal(reason: "version '\(version)' is not supported") }
    guard key.utf8.count == 24 else { throw Refusal(reason: "key length is not 24") }
    guard WebSocketHandshake.list(connection.lowercased()).contains("upgrade") else {
      throw Refusal(reason: "connection '\(connection)' is not an upgrade")
    }
    guard upgrade.lowercased() == "websocket" else {
      throw Refusal(reason: "upgrade to '\(upgrade)' is not supported")
    }
    let agreed = protocols == nil ? "" : "Sec-WebSocket-Protocol: binary\r\n"
    return "HTTP/1.1 101 Switching Protocols\r\nServer: QEMU VNC\r\nDate: \(date)\r\n"
      + "Upgrade: websocket\r\nConnection: Upgrade\r\n"
      + "Sec-WebSocket-Accept: \(WebSocketHandshake.answer(to: key))\r\n\(agreed)\r\n"
  }

  private static func fields(
    _ lines: ArraySlice<Substring>
  ) throws(Refusal) -> [(name: String, value: String)] {
    guard lines.count <= fieldLimit else { throw Refusal(reason: "too many fields") }
    var result: [(name: String, value: String)] = []
    for line in lines {
      guard let colon = line.firstIndex(of: ":") else {
        throw Refusal(reason: "a field without a colon")
      }
      result.append((line[..<colon].lowercased(), trimmed(line[line.index(after: colon)...])))
    }
    return result
  }

  private static func list(_ text: String) -> [String] {
    text.split(separator: ",").map { trimmed($0) }
  }

  private static func trimmed(_ text: Substring) -> String {
    var text = text
    while let first = text.first, first == " " || first == "\t" { text = text.dropFirst() }
    while let last = text.last, last == " " || last == "\t" { text = text.dropLast() }
    return String(text)
  }
}
