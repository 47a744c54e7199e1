/// Colours, or their absence (ECMA-48 SGR). Text of a server passes `Style.harmless` before it reaches a terminal.
package struct Style: Equatable, Sendable {
  /// What a piece of text is.
  package enum Role: String, Sendable {
    case name = "36"
    case string = "32"
    case number = "33"
    case word = "35"
    case error = "1;31"
    case event = "1;33"
    case faint = "2"
    case node = "1;34"
    case heading = "1"
  }

  package let isColoured: Bool

  package init(coloured: Bool) { isColoured = coloured }

  /// The text in the colour of its role.
  package func paint(_ text: String, _ role: Role) -> String {
    isColoured && !text.isEmpty ? "\u{1B}[\(role.rawValue)m\(text)\u{1B}[0m" : text
  }

  /// Text without control characters: a server must not move the cursor or change the terminal. Line ends and tabs stay.
  package static func harmless(_ text: String) -> String {
    if text.utf8.allSatisfy({ ($0 >= 0x20 && $0 < 0x7F) || $0 == 10 || $0 == 9 }) { return text }
    var result = ""
    for scalar in text.unicodeScalars {
      switch scalar.value {
      case 9, 10: result.unicodeScalars.append(scalar)
      case 0..<0x20:
        result += "^" + String(UnicodeScalar(UInt8(scalar.value) + 0x40))
      case 0x7F: result += "^?"
      case 0x80..<0xA0, 0x200E...0x200F, 0x2028...0x202E, 0x2066...0x2069:
        result += "\u{FFFD}"
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result
  }
}
