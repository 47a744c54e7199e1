/// The frames of a websocket connection, the server's side (RFC 6455, 5). A pure model.
///
/// Data passes as it comes, also from the middle of a frame: nothing is kept but a frame's head and a control frame, so lengths that
/// a peer claims cost no memory. Texts of refusals are QEMU's.
package struct WebSocketFrames: Equatable {
  private enum Opcode: UInt8 { case continuation = 0, text, binary, close = 8, ping, pong }

  /// What follows from received bytes.
  package struct Step: Equatable {
    /// What the peer sent.
    package var data: [UInt8] = []
    /// Frames for the peer.
    package var outgoing: [UInt8] = []
    /// The connection is over, after `outgoing`.
    package var isOver = false
    /// How the peer broke the protocol, if it did.
    package var reason: String?
  }

  /// The most bytes of a control frame (RFC 6455, 5.5).
  static let controlLimit = 125

  private var head: [UInt8] = []
  private var headSize = 2
  /// The present frame: nil between frames.
  private var opcode: Opcode?
  private var remaining: UInt64 = 0
  private var mask: [UInt8] = [0, 0, 0, 0]
  private var position = 0
  private var control: [UInt8] = []
  /// A message has begun whose last frame has not come.
  private var isFragmented = false
  private var isOver = false

  package init() {}

  /// Takes bytes of the connection. Nothing more comes after a step that says `isOver`.
  package mutating func receive(_ bytes: [UInt8]) -> Step {
    var step = Step()
    var index = 0
    while index < bytes.count, !isOver {
      if opcode == nil {
        head.append(bytes[index])
        index += 1
        if head.count == 2 { headSize = WebSocketFrames.headSize(head[1]) }
        if head.count == headSize { begin(&step) }
      } else {
        let left = bytes.count - index
        let count = remaining < UInt64(left) ? Int(remaining) : left
        take(bytes[index..<index + count], &step)
        index += count
      }
      if opcode != nil, remaining == 0, !isOver { end(&step) }
    }
    step.isOver = isOver
    return step
  }

  /// Data as one binary frame.
  static func data(_ bytes: [UInt8]) -> [UInt8] { frame(.binary, bytes) }

  /// A close frame with a status code and a text.
  static func close(_ code: UInt16, _ text: String) -> [UInt8] {
    let status = [UInt8(truncatingIfNeeded: code >> 8), UInt8(truncatingIfNeeded: code)]
    return frame(.close, status + Array(text.utf8.prefix(controlLimit - 2)))
  }

  // MARK: -

  private static func frame(_ opcode: Opcode, _ payload: [UInt8]) -> [UInt8] {
    let count = payload.count
    var frame: [UInt8] = []
    frame.reserveCapacity(count + 10)
    frame.append(0x80 | opcode.rawValue)
    var lengthSize = 0
    switch count {
    case ..<126: frame.append(UInt8(count))
    case ..<65536:
      frame.append(126)
      lengthSize = 2
    default:
      frame.append(127)
      lengthSize = 8
    }
    for index in (0..<lengthSize).reversed() {
      frame.append(UInt8(truncatingIfNeeded: count >> (8 * index)))
    }
    return frame + payload
  }

  private static func headSize(_ second: UInt8) -> Int {
    let length = second & 0x7F
    let lengthSize = length == 126 ? 2 : length == 127 ? 8 : 0
    return 2 + lengthSize + (second & 0x80 != 0 ? 4 : 0)
  }

  /// The head is there.
  private mutating func begin(_ step: inout Step) {
    let first = head[0]
    let isLast = first & 0x80 != 0
    let isMasked = head[1] & 0x80 != 0
    let end = headSize - (isMasked ? 4 : 0)
    var length = UInt64(head[1] & 0x7F)
    if length >= 126 { length = head[2..<end].reduce(0) { $0 << 8 | UInt64($1) } }
    if isMasked { mask = Array(head[end...]) }
    let kind = Opcode(rawValue: first & 0x0F)
    head = []
    headSize = 2
    position = 0
    control = []

    guard let kind, kind != .text, kind != .continuation || isFragmented else {
      return fail(1003, "only binary, close, ping, and pong frames are supported", &step)
    }
    guard first & 0x70 == 0 else { return fail(1002, "reserved bits are set", &step) }
    guard isMasked else { return fail(1002, "client frames must be masked", &step) }
    guard length >> 63 == 0 else { return fail(1002, "frame length is out of range", &step) }
    switch kind {
    case .close, .ping, .pong:
      guard isLast else { return fail(1008, "only binary frames may be fragmented", &step) }
      guard length <= WebSocketFrames.controlLimit else {
        return fail(1002, "control frame is too large", &step)
      }
    case .text, .binary, .continuation: isFragmented = !isLast
    }
    opcode = kind
    remaining = length
  }

  private mutating func take(_ bytes: ArraySlice<UInt8>, _ step: inout Step) {
    remaining &-= UInt64(bytes.count)
    let isControl = opcode != .binary && opcode != .continuation
    if !isControl { step.data.reserveCapacity(step.data.count + bytes.count) }
    let (m0, m1, m2, m3) = (mask[0], mask[1], mask[2], mask[3])
    for byte in bytes {
      let key = position & 2 == 0 ? (position & 1 == 0 ? m0 : m1) : position & 1 == 0 ? m2 : m3
      position = (position + 1) & 3
      if isControl { control.append(byte ^ key) } else { step.data.append(byte ^ key) }
    }
  }

  /// The frame is whole.
  private mutating func end(_ step: inout Step) {
    switch opcode {
    case .ping: step.outgoing += WebSocketFrames.frame(.pong, control)
    case .close:
      step.outgoing += WebSocketFrames.close(1000, "peer requested close")
      isOver = true
    case .pong, .binary, .continuation, .text, nil: break
    }
    opcode = nil
    control = []
  }

  private mutating func fail(_ code: UInt16, _ text: String, _ step: inout Step) {
    step.outgoing += WebSocketFrames.close(code, text)
    step.reason = "Websocket: \(text)"
    isOver = true
  }
}
