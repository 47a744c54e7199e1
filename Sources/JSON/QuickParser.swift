/// Reads values in the form that nearly all clients send, in one pass over the bytes as they came: ASCII without escapes,
/// integers of up to 18 digits, no two members of one name.
///
/// It answers nil for everything else, be it valid or not; the framer and the exact parser then say what it is. So it has no
/// errors of its own, and what it does answer is what they would have answered.
@safe
struct QuickParser {
  // SAFETY: valid for `count` bytes while the parser lives, which is within `withUnsafeBufferPointer`.
  private let bytes: UnsafePointer<UInt8>
  private let count: Int
  private var position: Int
  private var depth = 0

  /// Deeper values are left to the framer, which knows the limit.
  private static let nestingLimit = 200

  /// The value of a text that holds exactly one.
  static func parse(_ bytes: [UInt8]) -> JSONValue? {
    // SAFETY: the parser does not outlive the closure.
    unsafe bytes.withUnsafeBufferPointer { buffer in
      guard let start = buffer.baseAddress else { return nil }
      var parser = unsafe QuickParser(start, buffer.count, at: 0)
      guard let value = parser.value() else { return nil }
      parser.skipBlanks()
      return parser.position == parser.count ? value : nil
    }
  }

  /// The object that begins at `position`, white space aside, and where it ends.
  static func object(in bytes: [UInt8], at position: Int) -> (value: JSONValue, end: Int)? {
    // SAFETY: the parser does not outlive the closure.
    unsafe bytes.withUnsafeBufferPointer { buffer in
      guard let start = buffer.baseAddress else { return nil }
      var parser = unsafe QuickParser(start, buffer.count, at: position)
      parser.skipBlanks()
      guard parser.isAt(UInt8(ascii: "{")), let value = parser.value() else { return nil }
      return (value, parser.position)
    }
  }

  // SAFETY: `bytes` must be valid for `count` bytes while the parser lives.
  private init(_ bytes: UnsafePointer<UInt8>, _ count: Int, at position: Int) {
    unsafe self.bytes = unsafe bytes
    self.count = count
    self.position = position
  }

  // MARK: - Grammar

  private mutating func value() -> JSONValue? {
    skipBlanks()
    guard position < count else { return nil }
    switch byte {
    case UInt8(ascii: "{"): return object()
    case UInt8(ascii: "["): return array()
    case UInt8(ascii: "\""): return string().map { .string($0) }
    case UInt8(ascii: "t"): return word("true") ? .bool(true) : nil
    case UInt8(ascii: "f"): return word("false") ? .bool(false) : nil
    case UInt8(ascii: "n"): return word("null") ? .null : nil
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return integer()
    default: return nil
    }
  }

  private mutating func object() -> JSONValue? {
    guard open() else { return nil }
    var members = JSONObject()
    skipBlanks()
    if take(UInt8(ascii: "}")) { return close(.object(members)) }
    while true {
      skipBlanks()
      guard let name = string() else { return nil }
      skipBlanks()
      guard take(UInt8(ascii: ":")), let content = value(), members.insertNew(name, content)
      else { return nil }
      skipBlanks()
      if take(UInt8(ascii: "}")) { return close(.object(members)) }
      guard take(UInt8(ascii: ",")) else { return nil }
    }
  }

  private mutating func array() -> JSONValue? {
    guard open() else { return nil }
    var elements: [JSONValue] = []
    skipBlanks()
    if take(UInt8(ascii: "]")) { return close(.array(elements)) }
    while true {
      guard let element = value() else { return nil }
      elements.append(element)
      skipBlanks()
      if take(UInt8(ascii: "]")) { return close(.array(elements)) }
      guard take(UInt8(ascii: ",")) else { return nil }
    }
  }

  private mutating func open() -> Bool {
    position += 1
    depth += 1
    return depth <= Self.nestingLimit
  }

  private mutating func close(_ value: JSONValue) -> JSONValue {
    depth -= 1
    return value
  }

  // MARK: - Tokens

  /// The byte at `position`, which is below `count`.
  // SAFETY: every caller has checked that.
  private var byte: UInt8 { unsafe bytes[position] }

  private func isAt(_ expected: UInt8) -> Bool { position < count && byte == expected }

  private mutating func take(_ expected: UInt8) -> Bool {
    guard isAt(expected) else { return false }
    position += 1
    return true
  }

  private mutating func skipBlanks() {
    while position < count {
      switch byte {
      case UInt8(ascii: " "), UInt8(ascii: "\n"), UInt8(ascii: "\r"), UInt8(ascii: "\t"):
        position += 1
      default: return
      }
    }
  }

  private mutating func string() -> String? {
    guard take(UInt8(ascii: "\"")) else { return nil }
    let start = position
    while position < count {
      let byte = byte
      if byte == UInt8(ascii: "\"") {
        // SAFETY: within the bytes; they are copied.
        let text = unsafe UnsafeBufferPointer(start: bytes + start, count: position - start)
        position += 1
        return unsafe String(decoding: text, as: UTF8.self)
      }
      guard byte >= 0x20, byte < 0x7F, byte != UInt8(ascii: "\\") else { return nil }
      position += 1
    }
    return nil
  }

  private mutating func integer() -> JSONValue? {
    let isNegative = take(UInt8(ascii: "-"))
    let start = position
    var number: Int64 = 0
    while position < count, byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") {
      number = number &* 10 &+ Int64(byte &- UInt8(ascii: "0"))
      position += 1
    }
    let digits = position - start
    // What follows must end the number; the last byte of the input might not be its end.
    guard digits > 0, digits <= 18, position < count else { return nil }
    // SAFETY: `start` is below `position`.
    if digits > 1, unsafe bytes[start] == UInt8(ascii: "0") { return nil }
    switch byte {
    case UInt8(ascii: ","), UInt8(ascii: "}"), UInt8(ascii: "]"), UInt8(ascii: " "),
      UInt8(ascii: "\n"), UInt8(ascii: "\r"), UInt8(ascii: "\t"):
      return .int(isNegative ? -number : number)
    default: return nil
    }
  }

  private mutating func word(_ word: StaticString) -> Bool {
    let length = word.utf8CodeUnitCount
    guard position + length < count else { return false }
    // SAFETY: both reach for `length` bytes, and one more is below `count`.
    for index in 0..<length where unsafe bytes[position + index] != word.utf8Start[index] {
      return false
    }
    switch unsafe bytes[position + length] {
    case UInt8(ascii: "a")...UInt8(ascii: "z"): return false
    default:
      position += length
      return true
    }
  }
}
