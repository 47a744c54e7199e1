/// Cuts a stream of bytes into JSON values by the rules of QEMU 7.2's monitor: no separator is needed
/// between values, a value may arrive in any number of pieces, and after an error the stream is
/// resynchronised at the next bracket, `:`, `,` or control character.
///
/// Pure model: feed bytes, ask for values until `next()` gives nil. A value is found only when it is
/// asked for, so a caller that must not read ahead simply stops asking. Each byte is looked at once;
/// nothing is allocated per byte.
package struct JSONFramer: Sendable {
  /// Deepest nesting of brackets in one value.
  package static let nestingLimit = 1024
  /// Most tokens in one value.
  package static let tokenLimit = 2 << 20
  /// Most bytes of token text in one value.
  package static let sizeLimit = 64 << 20

  private var input: [UInt8] = []
  private var cursor = 0

  private var state = State.start
  /// Tokens of the value so far, with runs of white space shortened to one blank.
  private var text: [UInt8] = []
  /// Where the bytes of `input` begin that belong to `text` and are not copied yet; they end at `cursor`.
  private var runStart = 0
  /// Where the unfinished token begins in the text so far.
  private var tokenStart = 0
  private var tokenCount = 0
  private var tokenBytes = 0
  private var braces = 0
  private var brackets = 0
  /// Something was seen that libjansson reads otherwise than QEMU does, or not at all.
  private var unusual = false

  /// A framer at the start of a stream.
  package init() {}

  /// Whether bytes wait that no call of `next()` has looked at.
  package var hasUnread: Bool { cursor < input.count }

  /// How many bytes of an unfinished value are held.
  package var heldByteCount: Int { text.count }

  /// Forgets the bytes that no call of `next()` has looked at; answers how many they are.
  package mutating func dropUnread() -> Int {
    let count = input.count - cursor
    if count > 0 { input.removeLast(count) }
    return count
  }

  /// Adds bytes behind those that were fed before.
  package mutating func feed(_ bytes: some Collection<UInt8>) {
    if cursor == input.count {
      if input.capacity > 1 << 18 { input = [] } else { input.removeAll(keepingCapacity: true) }
      cursor = 0
    } else if cursor > 65536 {
      input.removeFirst(cursor)
      cursor = 0
    }
    runStart = cursor
    input.append(contentsOf: bytes)
  }

  /// The next complete value or error in the stream; nil when more bytes are needed.
  package mutating func next() -> Result<JSONText, JSONError>? {
    let result = scan()
    flush()
    return result
  }

  private mutating func scan() -> Result<JSONText, JSONError>? {
    while cursor < input.count {
      let byte = input[cursor]
      if state == .doubleQuoted || state == .singleQuoted {
        skipStringBody()
        if cursor == input.count { return tooLongToken() }
        if let result = step(input[cursor]) { return result }
      } else if let result = step(byte) {
        return result
      }
    }
    return tooLongToken()
  }

  /// The next value, parsed, or the error in its place; nil when more bytes are needed.
  package mutating func nextValue() -> Result<JSONValue, JSONError>? {
    if let value = nextPlainObject() { return .success(value) }
    switch next() {
    case nil: return nil
    case .failure(let error)?: return .failure(error)
    case .success(let text)?:
      do throws(JSONError) { return .success(try text.parse()) } catch { return .failure(error) }
    }
  }

  /// The next value when it is a plain object and its end has arrived: the common case, in one pass.
  private mutating func nextPlainObject() -> JSONValue? {
    guard state == .start, text.isEmpty, cursor < input.count,
      let (value, end) = QuickParser.object(in: input, at: cursor)
    else { return nil }
    cursor = end
    // White space between values means nothing.
    while cursor < input.count, Self.isBlank(input[cursor]) { cursor += 1 }
    runStart = cursor
    return value
  }

  private static func isBlank(_ byte: UInt8) -> Bool {
    byte == UInt8(ascii: "\n") || byte == UInt8(ascii: "\r") || byte == UInt8(ascii: " ")
      || byte == UInt8(ascii: "\t")
  }

  /// Ends the stream: gives what the unfinished token or value comes to, then starts afresh.
  /// Call until it gives nil, after `next()` did.
  package mutating func finish() -> Result<JSONText, JSONError>? {
    switch state {
    case .start, .recovery: break
    default:
      // A number or word ends here; anything else is broken by the end.
      if let kind = state.completedToken {
        state = .start
        if let result = endToken(kind) { return result }
      } else {
        return stray()
      }
    }
    state = .start
    guard tokenCount > 0 else { return nil }
    return emit()
  }

  // MARK: - Lexer

  private enum State: UInt8 {
    case start, recovery
    case doubleQuoted, doubleQuotedEscape, singleQuoted, singleQuotedEscape
    case zero, digits, sign, point, fraction, exponentMark, exponentSign, exponent
    case keyword

    /// What the token is when it ends here, or nil when it may not.
    var completedToken: Token? {
      switch self {
      case .zero, .digits, .fraction, .exponent, .keyword: .scalar
      default: nil
      }
    }
  }

  private enum Token { case openBrace, closeBrace, openBracket, closeBracket, scalar, separator }

  /// Takes the byte at the cursor (unless a token ends in front of it).
  private mutating func step(_ byte: UInt8) -> Result<JSONText, JSONError>? {
    switch state {
    case .start: return begin(byte)
    case .recovery:
      if Self.endsRecovery(byte) { state = .start } else { cursor += 1 }
      runStart = cursor
      return nil
    case .doubleQuoted:
      switch byte {
      case UInt8(ascii: "\\"): return take(byte, .doubleQuotedEscape)
      case UInt8(ascii: "\""): return close(byte)
      case 0x20...0xFD: return take(byte, .doubleQuoted)
      default: return takeStray(byte)
      }
    case .singleQuoted:
      switch byte {
      case UInt8(ascii: "\\"): return take(byte, .singleQuotedEscape)
      case UInt8(ascii: "'"): return close(byte)
      case 0x20...0xFD: return take(byte, .singleQuoted)
      default: return takeStray(byte)
      }
    case .doubleQuotedEscape, .singleQuotedEscape:
      if byte == UInt8(ascii: "u") || byte == UInt8(ascii: "'") { unusual = true }
      guard (0x20...0xFD).contains(byte) else { return takeStray(byte) }
      return take(byte, state == .doubleQuotedEscape ? .doubleQuoted : .singleQuoted)
    case .zero:
      switch byte {
      case UInt8(ascii: "."): return take(byte, .point)
      case UInt8(ascii: "0")...UInt8(ascii: "9"): return takeStray(byte)
      default:
        // QEMU has no exponent directly behind a zero; libjansson would read one.
        unusual = unusual || byte == UInt8(ascii: "e") || byte == UInt8(ascii: "E")
        return endScalar()
      }
    case .digits:
      switch byte {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): return take(byte, .digits)
      case UInt8(ascii: "."): return take(byte, .point)
      case UInt8(ascii: "e"), UInt8(ascii: "E"): return take(byte, .exponentMark)
      default: return endScalar()
      }
    case .sign:
      switch byte {
      case UInt8(ascii: "0"): return take(byte, .zero)
      case UInt8(ascii: "1")...UInt8(ascii: "9"): return take(byte, .digits)
      default: return takeStray(byte)
      }
    case .point:
      return Self.isDigit(byte) ? take(byte, .fraction) : takeStray(byte)
    case .fraction:
      switch byte {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): return take(byte, .fraction)
      case UInt8(ascii: "e"), UInt8(ascii: "E"): return take(byte, .exponentMark)
      default: return endScalar()
      }
    case .exponentMark:
      switch byte {
      case UInt8(ascii: "+"), UInt8(ascii: "-"): return take(byte, .exponentSign)
      case UInt8(ascii: "0")...UInt8(ascii: "9"): return take(byte, .exponent)
      default: return takeStray(byte)
      }
    case .exponentSign:
      return Self.isDigit(byte) ? take(byte, .exponent) : takeStray(byte)
    case .exponent:
      return Self.isDigit(byte) ? take(byte, .exponent) : endScalar()
    case .keyword:
      return (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
        ? take(byte, .keyword) : endScalar()
    }
  }

  /// Takes the first byte of a token, or white space.
  private mutating func begin(_ byte: UInt8) -> Result<JSONText, JSONError>? {
    tokenStart = length
    switch byte {
    case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"), UInt8(ascii: "\n"):
      flush()
      cursor += 1
      runStart = cursor
      if let last = text.last, last != UInt8(ascii: " ") { text.append(UInt8(ascii: " ")) }
      return nil
    case UInt8(ascii: "\""): return take(byte, .doubleQuoted)
    case UInt8(ascii: "'"):
      unusual = true
      return take(byte, .singleQuoted)
    case UInt8(ascii: "0"): return take(byte, .zero)
    case UInt8(ascii: "1")...UInt8(ascii: "9"): return take(byte, .digits)
    case UInt8(ascii: "-"): return take(byte, .sign)
    case UInt8(ascii: "a")...UInt8(ascii: "z"): return take(byte, .keyword)
    case UInt8(ascii: "{"): return takeStructural(byte, .openBrace)
    case UInt8(ascii: "}"): return takeStructural(byte, .closeBrace)
    case UInt8(ascii: "["): return takeStructural(byte, .openBracket)
    case UInt8(ascii: "]"): return takeStructural(byte, .closeBracket)
    case UInt8(ascii: ":"), UInt8(ascii: ","): return takeStructural(byte, .separator)
    default: return takeStray(byte)
    }
  }

  /// How long the text is with what is not copied yet.
  private var length: Int { text.count + cursor - runStart }

  /// Copies what was read since the last time.
  private mutating func flush() {
    if runStart < cursor { text.append(contentsOf: input[runStart..<cursor]) }
    runStart = cursor
  }

  /// Skips the plain middle of a string up to a byte that needs a decision, or the end of input.
  private mutating func skipStringBody() {
    let quote: UInt8 =
      state == .doubleQuoted ? UInt8(ascii: "\"") : UInt8(ascii: "'")
    let room = Self.sizeLimit + 1 - (length - tokenStart)
    let limit = min(input.count, cursor + max(room, 0))
    var end = cursor
    var high: UInt8 = 0
    do {
      let bytes = input.span
      while end < limit {
        let byte = bytes[end]
        if byte == quote || byte == UInt8(ascii: "\\") || byte < 0x20 || byte >= 0xFE { break }
        high |= byte
        end += 1
      }
    }
    if high >= 0x80 { unusual = true }
    cursor = end
  }

  private mutating func take(_ byte: UInt8, _ next: State) -> Result<JSONText, JSONError>? {
    cursor += 1
    state = next
    return length - tokenStart > Self.sizeLimit ? tooLongToken() : nil
  }

  private mutating func close(_ quote: UInt8) -> Result<JSONText, JSONError>? {
    cursor += 1
    state = .start
    return endToken(.scalar)
  }

  private mutating func takeStructural(
    _ byte: UInt8, _ token: Token
  ) -> Result<JSONText, JSONError>? {
    cursor += 1
    return endToken(token)
  }

  private mutating func endScalar() -> Result<JSONText, JSONError>? {
    state = .start
    return endToken(.scalar)
  }

  private mutating func takeStray(_ byte: UInt8) -> Result<JSONText, JSONError>? {
    cursor += 1
    return stray()
  }

  private mutating func stray() -> Result<JSONText, JSONError>? {
    flush()
    let error = JSONError.stray(text[tokenStart...])
    state = .recovery
    dropValue()
    return .failure(error)
  }

  private mutating func tooLongToken() -> Result<JSONText, JSONError>? {
    guard length - tokenStart > Self.sizeLimit else { return nil }
    return limitExceeded(.tokenSize)
  }

  private static func isDigit(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
  }

  private static func endsRecovery(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "["), UInt8(ascii: "]"), UInt8(ascii: "{"), UInt8(ascii: "}"),
      UInt8(ascii: ":"), UInt8(ascii: ","):
      true
    case UInt8(ascii: "\t"): false
    default: byte < 0x20 || byte >= 0xFE
    }
  }

  // MARK: - Values

  /// Counts the token that ends at the end of `text`; gives the value when its brackets balance.
  private mutating func endToken(_ token: Token) -> Result<JSONText, JSONError>? {
    let end = length
    let tokenLength = end - tokenStart
    tokenStart = end
    switch token {
    case .openBrace: braces += 1
    case .closeBrace: braces -= 1
    case .openBracket: brackets += 1
    case .closeBracket: brackets -= 1
    case .scalar, .separator: break
    }
    if tokenBytes + tokenLength + 1 > Self.sizeLimit { return limitExceeded(.tokenSize) }
    if tokenCount + 1 > Self.tokenLimit { return limitExceeded(.tokenCount) }
    if braces + brackets > Self.nestingLimit { return limitExceeded(.nesting) }
    tokenBytes += tokenLength
    tokenCount += 1
    if (braces > 0 || brackets > 0) && braces >= 0 && brackets >= 0 { return nil }
    return emit()
  }

  private mutating func emit() -> Result<JSONText, JSONError>? {
    flush()
    let value = JSONText(bytes: text, isPlain: !unusual)
    dropValue()
    return .success(value)
  }

  private mutating func limitExceeded(_ error: JSONError) -> Result<JSONText, JSONError>? {
    state = .start
    dropValue()
    return .failure(error)
  }

  private mutating func dropValue() {
    if text.capacity > 1 << 16 { text = [] } else { text.removeAll(keepingCapacity: true) }
    runStart = cursor
    tokenStart = 0
    tokenCount = 0
    tokenBytes = 0
    braces = 0
    brackets = 0
    unusual = false
  }
}
