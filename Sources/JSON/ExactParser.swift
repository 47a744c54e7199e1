/// Reads the text of one value by QEMU 7.2's grammar, with its error texts: the texts and numbers
/// that libjansson cannot give. The framer has already checked every token.
struct ExactParser {
  private let bytes: [UInt8]
  private var position = 0
  /// The quote that ends the present string.
  private var quote: UInt8 = 0

  /// The value of a framed text.
  static func parse(_ bytes: [UInt8]) throws(JSONError) -> JSONValue {
    var parser = ExactParser(bytes: bytes)
    return try parser.value()
  }

  private init(bytes: [UInt8]) { self.bytes = bytes }

  // MARK: - Grammar

  private mutating func value() throws(JSONError) -> JSONValue {
    guard let byte = peek() else { throw .parse("premature EOI") }
    switch byte {
    case UInt8(ascii: "{"): return try object()
    case UInt8(ascii: "["): return try array()
    case UInt8(ascii: "\""), UInt8(ascii: "'"): return .string(try string())
    case UInt8(ascii: "a")...UInt8(ascii: "z"): return try keyword()
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return number()
    default: throw .parse("expecting value")
    }
  }

  private mutating func object() throws(JSONError) -> JSONValue {
    position += 1
    var members = JSONObject()
    guard let first = peek() else { throw .parse("premature EOI") }
    if first == UInt8(ascii: "}") {
      position += 1
      return .object(members)
    }
    while true {
      try pair(into: &members)
      guard let separator = peek() else { throw .parse("premature EOI") }
      position += 1
      if separator == UInt8(ascii: "}") { return .object(members) }
      guard separator == UInt8(ascii: ",") else { throw .parse("expected separator in dict") }
      if peek() == nil { throw .parse("premature EOI") }
    }
  }

  private mutating func pair(into members: inout JSONObject) throws(JSONError) {
    guard case .string(let name) = try value() else {
      throw .parse("key is not a string in object")
    }
    guard let colon = peek() else { throw .parse("premature EOI") }
    guard colon == UInt8(ascii: ":") else { throw .parse("missing : in object pair") }
    position += 1
    let content = try value()
    guard members.insertNew(name, content) else { throw .parse("duplicate key") }
  }

  private mutating func array() throws(JSONError) -> JSONValue {
    position += 1
    var elements: [JSONValue] = []
    guard let first = peek() else { throw .parse("premature EOI") }
    if first == UInt8(ascii: "]") {
      position += 1
      return .array(elements)
    }
    while true {
      elements.append(try value())
      guard let separator = peek() else { throw .parse("premature EOI") }
      position += 1
      if separator == UInt8(ascii: "]") { return .array(elements) }
      guard separator == UInt8(ascii: ",") else { throw .parse("expected separator in list") }
    }
  }

  // MARK: - Tokens

  /// The first byte of the next token, or nil at the end.
  private mutating func peek() -> UInt8? {
    while position < bytes.count, bytes[position] == UInt8(ascii: " ") { position += 1 }
    return position < bytes.count ? bytes[position] : nil
  }

  private mutating func keyword() throws(JSONError) -> JSONValue {
    let start = position
    while position < bytes.count, (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(bytes[position])
    {
      position += 1
    }
    let word = String(decoding: bytes[start..<position], as: UTF8.self)
    switch word {
    case "true": return .bool(true)
    case "false": return .bool(false)
    case "null": return .null
    default: throw .parse("invalid keyword '\(word)'")
    }
  }

  /// A number, up to where the framer's lexer ended it: `1-2` is two numbers, `0e1` a number and a word.
  private mutating func number() -> JSONValue {
    let start = position
    if bytes[position] == UInt8(ascii: "-") { position += 1 }
    let isZero = at(UInt8(ascii: "0"))
    if isZero { position += 1 } else { skipDigits() }
    var isInteger = true
    if at(UInt8(ascii: ".")) {
      isInteger = false
      position += 1
      skipDigits()
    }
    if !(isZero && isInteger), at(UInt8(ascii: "e")) || at(UInt8(ascii: "E")) {
      isInteger = false
      position += 1
      if at(UInt8(ascii: "+")) || at(UInt8(ascii: "-")) { position += 1 }
      skipDigits()
    }
    let text = String(decoding: bytes[start..<position], as: UTF8.self)
    if isInteger {
      if let small = Int64(text) { return .int(small) }
      if let large = UInt64(text) { return .uint(large) }
    }
    // The lexer accepts nothing else than a number; overflow gives an infinity, as in QEMU.
    return .double(Double(text) ?? .infinity)
  }

  private func at(_ byte: UInt8) -> Bool { position < bytes.count && bytes[position] == byte }

  private mutating func skipDigits() {
    while position < bytes.count, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(bytes[position])
    {
      position += 1
    }
  }

  private mutating func string() throws(JSONError) -> String {
    quote = bytes[position]
    position += 1
    var text = String.UnicodeScalarView()
    while bytes[position] != quote {
      if bytes[position] == UInt8(ascii: "\\") {
        text.append(try escape())
        continue
      }
      let (scalar, end) = ModifiedUTF8.decode(bytes[...], at: position)
      guard let scalar, let character = Unicode.Scalar(scalar) else {
        throw .parse("invalid UTF-8 sequence in string")
      }
      text.append(character)
      position = end
    }
    position += 1
    return String(text)
  }

  private mutating func escape() throws(JSONError) -> Unicode.Scalar {
    let start = position
    let kind = bytes[position + 1]
    position += 2
    switch kind {
    case UInt8(ascii: "\""), UInt8(ascii: "'"), UInt8(ascii: "\\"), UInt8(ascii: "/"):
      return Unicode.Scalar(kind)
    case UInt8(ascii: "b"): return "\u{8}"
    case UInt8(ascii: "f"): return "\u{C}"
    case UInt8(ascii: "n"): return "\n"
    case UInt8(ascii: "r"): return "\r"
    case UInt8(ascii: "t"): return "\t"
    case UInt8(ascii: "u"): break
    default: throw .parse("invalid escape sequence in string")
    }
    var scalar = hexadecimal(at: position)
    position = min(position + 4, stringEnd(from: position))
    if let leading = scalar, (0xD800...0xDBFF).contains(leading),
      position + 1 < bytes.count, bytes[position] == UInt8(ascii: "\\"),
      bytes[position + 1] == UInt8(ascii: "u")
    {
      if let trailing = hexadecimal(at: position + 2), (0xDC00...0xDFFF).contains(trailing) {
        scalar = 0x1_0000 + (leading & 0x3FF) << 10 + (trailing & 0x3FF)
        position += 6
      } else {
        scalar = nil
      }
    }
    guard let scalar, ModifiedUTF8.allows(scalar), let character = Unicode.Scalar(scalar) else {
      let typed = ModifiedUTF8.lossyString(bytes[start..<position])
      throw .parse("\(typed) is not a valid Unicode character")
    }
    return character
  }

  /// Behind the closing quote of the string that goes on at `start`.
  private func stringEnd(from start: Int) -> Int {
    var end = start
    while end < bytes.count, bytes[end] != quote {
      end += bytes[end] == UInt8(ascii: "\\") ? 2 : 1
    }
    return min(end + 1, bytes.count)
  }

  /// Four hexadecimal digits, or nil.
  private func hexadecimal(at start: Int) -> UInt32? {
    guard start + 4 <= bytes.count else { return nil }
    var number: UInt32 = 0
    for byte in bytes[start..<start + 4] {
      guard let digit = Character(Unicode.Scalar(byte)).hexDigitValue, byte < 0x80 else {
        return nil
      }
      number = number << 4 | UInt32(digit)
    }
    return number
  }
}
