/// The server's side of HTTP/1.1 (RFC 9112) as far as reading metrics needs it: requests without a body, one after the other.
///
/// Pure model.
package struct HTTPExchange: Sendable {
  /// What a client asked for.
  package struct Request: Equatable, Sendable {
    /// The path, without what follows `?`.
    package var path: String
    /// The answer's head only.
    package var isHead: Bool
    /// The connection ends after the answer.
    package var isLast: Bool

    package init(path: String, isHead: Bool, isLast: Bool) {
      self.path = path
      self.isHead = isHead
      self.isLast = isLast
    }
  }
  package enum Outcome: Equatable, Sendable {
    /// More bytes are needed.
    case incomplete
    case request(Request)
    /// To be answered with this status, and the connection closed.
    case refused(Int)
  }

  /// Longest head of a request.
  package static let limit = 8 << 10

  private var bytes: [UInt8] = []

  package init() {}

  package mutating func receive(_ more: [UInt8]) { bytes += more }

  /// The next request.
  package mutating func next() -> Outcome {
    // Empty lines before a request are passed over (RFC 9112, 2.2).
    while bytes.first == 13 || bytes.first == 10 { bytes.removeFirst() }
    guard let end = headEnd else {
      return bytes.count > Self.limit ? .refused(431) : .incomplete
    }
    guard end <= Self.limit else { return .refused(431) }
    // By bytes: to a string, a carriage return and a newline are one character.
    let lines = bytes[..<end].split(separator: 10).map { line in
      String(decoding: line.last == 13 ? line.dropLast() : line, as: UTF8.self)
    }
    bytes.removeFirst(end)
    return Self.read(lines.filter { !$0.isEmpty })
  }

  /// Behind the empty line that ends a head.
  private var headEnd: Int? {
    var lineStart = 0
    for index in bytes.indices where bytes[index] == 10 {
      let length = index - lineStart
      if length == 0 || (length == 1 && bytes[lineStart] == 13) { return index + 1 }
      lineStart = index + 1
    }
    return nil
  }

  private static func read(_ lines: [String]) -> Outcome {
    let words = (lines.first ?? "").split(separator: " ", omittingEmptySubsequences: false)
    guard words.count == 3, words[2].hasPrefix("HTTP/") else { return .refused(400) }
    guard words[2] == "HTTP/1.1" || words[2] == "HTTP/1.0" else { return .refused(505) }
    var isLast = words[2] == "HTTP/1.0"
    for line in lines.dropFirst() {
      guard let colon = line.firstIndex(of: ":") else { return .refused(400) }
      let value = line[line.index(after: colon)...].filter { $0 != " " && $0 != "\t" }.lowercased()
      switch line[..<colon].lowercased() {
      case "connection":
        if value.contains("close") { isLast = true }
        if value.contains("keep-alive") { isLast = false }
      case "content-length": if value != "0" { return .refused(400) }
      case "transfer-encoding": return .refused(400)
      default: break
      }
    }
    guard words[0] == "GET" || words[0] == "HEAD" else { return .refused(405) }
    guard words[1].hasPrefix("/") else { return .refused(400) }
    let path = words[1].prefix { $0 != "?" && $0 != "#" }
    return .request(Request(path: String(path), isHead: words[0] == "HEAD", isLast: isLast))
  }

  /// An answer. `isHead`: without its body; `isLast`: the connection ends.
  package static func answer(
    _ status: Int, _ type: String, _ body: String, isHead: Bool, isLast: Bool
  ) -> [UInt8] {
    var text = "HTTP/1.1 \(status) \(reason(status))\r\nContent-Type: \(type)\r\n"
    text += "Content-Length: \(body.utf8.count)\r\n"
    if status == 405 { text += "Allow: GET, HEAD\r\n" }
    if isLast { text += "Connection: close\r\n" }
    text += "\r\n"
    if !isHead { text += body }
    return [UInt8](text.utf8)
  }

  private static func reason(_ status: Int) -> String {
    switch status {
    case 200: "OK"
    case 400: "Bad Request"
    case 404: "Not Found"
    case 405: "Method Not Allowed"
    case 431: "Request Header Fields Too Large"
    case 505: "HTTP Version Not Supported"
    default: "Error"
    }
  }
}
