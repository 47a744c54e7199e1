/// The client's side of a human monitor (telnet or plain): prompts, echoed lines, answers. Pure model.
package struct HumanClientModel {
  /// What came.
  package enum Item: Equatable, Sendable {
    /// The first prompt; with what stood before it.
    case ready(banner: String)
    /// The answer to the request with this token, or nil when nobody waits for it any more.
    case answer(Int?, String)
    /// Text that no line asked for.
    case text(String)
    case broken(String)
  }

  /// What QEMU 7.2 and Goliath print when they want a line.
  package static let prompt = "(qemu) "
  /// A banner or an answer ends within this many bytes.
  package static let limit = 16 << 20

  private enum Phase { case banner, idle, echo, answer, broken }
  private var phase = Phase.banner
  private var text: [UInt8] = []
  private var telnet = TelnetReader()
  private var pending: [(token: Int, isAbandoned: Bool)] = []

  package init() {}

  /// The bytes of a line whose answer will carry `token`. One line at a time.
  package mutating func send(_ line: String, token: Int) -> [UInt8] {
    pending.append((token, false))
    if phase == .idle { phase = .echo }
    // Other control characters would be keys of the monitor's line editor.
    return line.utf8.filter { $0 >= 0x20 && $0 != 0x7F } + [10]
  }

  /// Nobody waits for this answer any more.
  package mutating func abandon(_ token: Int) {
    for index in pending.indices where pending[index].token == token {
      pending[index].isAbandoned = true
    }
  }

  /// Takes bytes of the server.
  package mutating func receive(_ bytes: some Collection<UInt8>) -> [Item] {
    var items: [Item] = []
    for byte in bytes {
      guard phase != .broken, let byte = telnet.take(byte) else { continue }
      text.append(byte)
      if phase == .echo {
        // The line editor's echo ends with the line.
        if byte == 10 {
          text = []
          phase = .answer
        }
      } else if byte == UInt8(ascii: " "),
        text.suffix(Self.prompt.utf8.count).elementsEqual(Self.prompt.utf8)
      {
        if let item = endOfText() { items.append(item) }
      }
      if text.count > Self.limit {
        phase = .broken
        items.append(.broken("it sent \(text.count) bytes and no prompt"))
      }
    }
    if phase == .idle, text.last == 10 {
      items.append(.text(Self.plain(text)))
      text = []
    }
    return items
  }

  // MARK: -

  private mutating func endOfText() -> Item? {
    let before = Self.plain(Array(text.dropLast(Self.prompt.utf8.count)))
    text = []
    switch phase {
    case .banner:
      phase = pending.isEmpty ? .idle : .echo
      return .ready(banner: before)
    case .answer:
      let request = pending.isEmpty ? nil : pending.removeFirst()
      phase = pending.isEmpty ? .idle : .echo
      return .answer(request.flatMap { $0.isAbandoned ? nil : $0.token }, before)
    default: return before.isEmpty ? nil : .text(before)
    }
  }

  /// Lines end with LF; escape sequences of line editing are left out.
  static func plain(_ bytes: [UInt8]) -> String {
    var result: [UInt8] = []
    var position = 0
    while position < bytes.count {
      let byte = bytes[position]
      position += 1
      if byte == 0x1B, position < bytes.count, bytes[position] == UInt8(ascii: "[") {
        position += 1
        while position < bytes.count, !(0x40...0x7E).contains(bytes[position]) { position += 1 }
        position += 1
      } else if byte != 13 {
        result.append(byte)
      }
    }
    return String(decoding: result, as: UTF8.self)
  }
}

/// Takes telnet's commands (RFC 854) out of a stream. On a plain stream nothing is taken: text has no byte 255.
struct TelnetReader {
  private enum Phase { case data, command, option, subnegotiation, subnegotiationCommand }
  private var phase = Phase.data

  /// The byte when it is data.
  mutating func take(_ byte: UInt8) -> UInt8? {
    switch phase {
    case .data:
      if byte != 255 { return byte == 0 ? nil : byte }
      phase = .command
    case .command:
      switch byte {
      case 255:
        phase = .data
        return 255
      case 250: phase = .subnegotiation
      case 251...254: phase = .option
      default: phase = .data
      }
    case .option: phase = .data
    case .subnegotiation: if byte == 255 { phase = .subnegotiationCommand }
    case .subnegotiationCommand: phase = byte == 240 ? .data : .subnegotiation
    }
    return nil
  }
}
