/// One word of a line, with quotes resolved.
package struct Word: Equatable, Sendable {
  /// What it says.
  package var text: String
  /// Where it begins and ends in the line's UTF-8.
  package var range: Range<Int>
  /// Where in `text` (UTF-8) the first quoted character is; nil when nothing was quoted.
  package var firstQuoted: Int?
}

/// A line cut into words as a shell does: blanks separate, `"…"` (with `\` escapes) and `'…'` keep them, and a JSON object or list
/// is one word with its blanks and quotes as they are. `#` at the start of a word begins a comment.
package struct Words: Equatable, Sendable {
  package var list: [Word] = []
  /// What is open at the end of the line, when it is not complete.
  package var open: OpenPart?

  /// Something that lacks its end.
  package enum OpenPart: Equatable, Sendable { case quote, bracket }

  package init(_ line: String) {
    var scanner = Scanner(bytes: Array(line.utf8))
    scanner.run()
    list = scanner.words
    open = scanner.open
  }
}

private struct Scanner {
  let bytes: [UInt8]
  var at = 0
  var words: [Word] = []
  var open: Words.OpenPart?

  init(bytes: [UInt8]) { self.bytes = bytes }

  mutating func run() {
    while true {
      while at < bytes.count, Scanner.isBlank(bytes[at]) { at += 1 }
      guard at < bytes.count, bytes[at] != UInt8(ascii: "#") else { return }
      word()
    }
  }

  private static func isBlank(_ byte: UInt8) -> Bool { byte == 32 || (9...13).contains(byte) }

  private mutating func word() {
    let start = at
    var text: [UInt8] = []
    var firstQuoted: Int?
    while at < bytes.count, !Scanner.isBlank(bytes[at]) {
      let byte = bytes[at]
      switch byte {
      case UInt8(ascii: "\""), UInt8(ascii: "'"):
        if firstQuoted == nil { firstQuoted = text.count }
        quoted(byte, &text)
      case UInt8(ascii: "\\") where at + 1 < bytes.count:
        text.append(bytes[at + 1])
        at += 2
      case UInt8(ascii: "{"), UInt8(ascii: "["):
        if text.isEmpty || text.last == UInt8(ascii: "=") {
          json(&text)
        } else {
          text.append(byte)
          at += 1
        }
      default:
        text.append(byte)
        at += 1
      }
    }
    words.append(
      Word(
        text: String(decoding: text, as: UTF8.self), range: start..<at, firstQuoted: firstQuoted))
  }

  /// Takes a quoted part. In double quotes, `\` escapes as in JSON where it is one of its letters.
  private mutating func quoted(_ quote: UInt8, _ text: inout [UInt8]) {
    at += 1
    while at < bytes.count {
      let byte = bytes[at]
      at += 1
      if byte == quote { return }
      guard byte == UInt8(ascii: "\\"), quote == UInt8(ascii: "\""), at < bytes.count else {
        text.append(byte)
        continue
      }
      let escaped = bytes[at]
      at += 1
      switch escaped {
      case UInt8(ascii: "n"): text.append(10)
      case UInt8(ascii: "r"): text.append(13)
      case UInt8(ascii: "t"): text.append(9)
      default: text.append(escaped)
      }
    }
    open = .quote
  }

  /// Takes a JSON object or list as it stands.
  private mutating func json(_ text: inout [UInt8]) {
    var depth = 0
    var quote: UInt8?
    while at < bytes.count {
      let byte = bytes[at]
      text.append(byte)
      at += 1
      if let inside = quote {
        if byte == UInt8(ascii: "\\"), at < bytes.count {
          text.append(bytes[at])
          at += 1
        } else if byte == inside {
          quote = nil
        }
        continue
      }
      switch byte {
      case UInt8(ascii: "\""), UInt8(ascii: "'"): quote = byte
      case UInt8(ascii: "{"), UInt8(ascii: "["): depth += 1
      case UInt8(ascii: "}"), UInt8(ascii: "]"):
        depth -= 1
        if depth == 0 { return }
      default: break
      }
    }
    open = .bracket
  }
}
