/// The line editor of the human monitor as a pure model: bytes in, bytes to print and finished lines out.
///
/// The bytes are QEMU's (qmp-wire section 10, Line editing): after each input byte the line is drawn again, moves of the
/// cursor alone send only the move.
package struct LineEditor: Equatable, Sendable {
  /// What became of an input byte, apart from what is to be printed.
  package enum Outcome: Equatable, Sendable {
    case editing
    /// Enter was pressed: the line.
    case line([UInt8])
    /// TAB was pressed: the text up to the cursor. The caller answers with `complete`.
    case completion([UInt8])
  }

  /// A line holds this many bytes; more are ignored.
  package static let lineLimit = 4095
  /// Screen columns, for lists of completions.
  private static let columns = 80

  private enum Escape { case none, escape, csi, ss3 }

  package let prompt: [UInt8]
  /// Finished lines, oldest first.
  package private(set) var history = LineHistory()
  private var line: [UInt8] = []
  private var cursor = 0
  private var drawnLine: [UInt8] = []
  private var drawnCursor = 0
  private var escape = Escape.none
  private var parameter = 0

  /// - Parameter history: lines that were finished before.
  package init(prompt: String, history: LineHistory = LineHistory()) {
    self.prompt = Array(prompt.utf8)
    self.history = history
  }

  /// The prompt, for a line that starts now. Follow it with nothing: the line is empty.
  package mutating func begin() -> [UInt8] {
    line = []
    cursor = 0
    escape = .none
    return showPrompt()
  }

  /// Takes one byte and appends what is to be printed to `output`, with `\n` for a new line.
  package mutating func receive(_ byte: UInt8, into output: inout [UInt8]) -> Outcome {
    switch escape {
    case .none:
      switch byte {
      case 1: cursor = 0
      case 4: deleteForward()
      case 5: cursor = line.count
      case 8, 127: deleteBackward()
      case 9: return .completion(Array(line[..<cursor]))
      case 10, 13:
        output.append(10)
        return .line(finish())
      case 12:
        output += "\u{1B}[2J\u{1B}[1;1H".utf8
        output += showPrompt()
      case 23: deleteWord()
      case 27: escape = .escape
      case 0x9B: escape = .csi
      default: if byte >= 32 { insert(byte) }
      }
    case .escape:
      parameter = 0
      escape = byte == UInt8(ascii: "[") ? .csi : byte == UInt8(ascii: "O") ? .ss3 : .none
    case .csi: receiveControl(byte)
    case .ss3:
      if byte == UInt8(ascii: "F") { cursor = line.count }
      if byte == UInt8(ascii: "H") { cursor = 0 }
      escape = .none
    }
    redraw(into: &output)
    return .editing
  }

  /// Completes the word before the cursor, which began `typed` bytes ago, with one of `candidates` (whole words).
  package mutating func complete(_ candidates: [String], typed: Int) -> [UInt8] {
    let words = Set(candidates).map { Array($0.utf8) }.sorted { $0.lexicographicallyPrecedes($1) }
    guard let first = words.first else { return [] }
    var output: [UInt8] = []
    if words.count == 1 {
      insert(contentsOf: first.dropFirst(typed))
      if let last = first.last, last != UInt8(ascii: "/") { insert(UInt8(ascii: " ")) }
    } else {
      output = [10]
      var common = first.count
      for word in words {
        common = min(common, zip(first, word).prefix { $0 == $1 }.count)
      }
      insert(contentsOf: first.prefix(common).dropFirst(typed))
      let longest = words.map(\.count).max() ?? 0
      let width = min(max(longest + 2, 10), LineEditor.columns)
      let perRow = LineEditor.columns / width
      for (index, word) in words.enumerated() {
        output += word
        output += [UInt8](repeating: 32, count: max(0, width - word.count))
        if (index + 1) % perRow == 0 || index == words.count - 1 { output.append(10) }
      }
      output += showPrompt()
    }
    redraw(into: &output)
    return output
  }

  // MARK: - Keys

  private mutating func receiveControl(_ byte: UInt8) {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"):
      parameter = (parameter &* 10 &+ Int(byte - 48)) & 0xFFFF
      return
    case UInt8(ascii: "A"), UInt8(ascii: "F"): recall(history.older())
    case UInt8(ascii: "B"), UInt8(ascii: "E"): recall(history.newer())
    case UInt8(ascii: "C"): cursor = min(cursor + 1, line.count)
    case UInt8(ascii: "D"): cursor = max(cursor - 1, 0)
    case UInt8(ascii: "~"):
      switch parameter {
      case 1: cursor = 0
      case 3: deleteForward()
      case 4: cursor = line.count
      default: break
      }
    default: break
    }
    escape = .none
  }

  private mutating func finish() -> [UInt8] {
    let finished = line
    history.add(finished)
    line = []
    cursor = 0
    drawnLine = []
    drawnCursor = 0
    return finished
  }

  private mutating func insert(_ byte: UInt8) {
    guard line.count < LineEditor.lineLimit else { return }
    line.insert(byte, at: cursor)
    cursor += 1
  }

  private mutating func insert(contentsOf bytes: some Sequence<UInt8>) {
    for byte in bytes { insert(byte) }
  }

  private mutating func deleteForward() {
    if cursor < line.count { line.remove(at: cursor) }
  }

  private mutating func deleteBackward() {
    if cursor > 0 {
      cursor -= 1
      line.remove(at: cursor)
    }
  }

  /// Removes the word left of the cursor and the blanks between.
  private mutating func deleteWord() {
    guard cursor > 0 else { return }
    var start = cursor - 1
    while start > 0, isBlank(line[start]) { start -= 1 }
    while start > 0 {
      if isBlank(line[start]) {
        start += 1
        break
      }
      start -= 1
    }
    line.removeSubrange(start..<cursor)
    cursor = start
  }

  private mutating func recall(_ entry: [UInt8]?) {
    guard let entry else { return }
    line = entry
    cursor = entry.count
  }

  // MARK: - Drawing

  private mutating func showPrompt() -> [UInt8] {
    drawnLine = []
    drawnCursor = 0
    return prompt
  }

  private mutating func redraw(into output: inout [UInt8]) {
    if line != drawnLine {
      for _ in 0..<drawnCursor { LineEditor.moveLeft(&output) }
      output += line
      output += LineEditor.eraseToEnd
      drawnLine = line
      drawnCursor = line.count
    }
    while drawnCursor < cursor {
      output += LineEditor.right
      drawnCursor += 1
    }
    while drawnCursor > cursor {
      LineEditor.moveLeft(&output)
      drawnCursor -= 1
    }
  }

  private static let right: [UInt8] = [0x1B, 0x5B, 0x43]
  private static let eraseToEnd: [UInt8] = [0x1B, 0x5B, 0x4B]

  private static func moveLeft(_ output: inout [UInt8]) {
    output.append(0x1B)
    output.append(0x5B)
    output.append(0x44)
  }
}

/// The last 64 different lines; a line that comes again moves to the end.
package struct LineHistory: Equatable, Sendable {
  package static let limit = 64
  /// Oldest first.
  package private(set) var lines: [[UInt8]] = []
  /// The entry on the screen, nil when the line is a new one.
  private var position: Int?

  package init() {}

  mutating func add(_ line: [UInt8]) {
    position = nil
    guard !line.isEmpty else { return }
    lines.removeAll { $0 == line }
    if lines.count == LineHistory.limit { lines.removeFirst() }
    lines.append(line)
  }

  /// The entry before the one on the screen; nil when there is none.
  mutating func older() -> [UInt8]? {
    let index = position ?? lines.count
    guard index > 0 else { return nil }
    position = index - 1
    return lines[index - 1]
  }

  /// The entry after the one on the screen, or an empty line after the newest; nil when the line is a new one.
  mutating func newer() -> [UInt8]? {
    guard let index = position else { return nil }
    if index + 1 < lines.count {
      position = index + 1
      return lines[index + 1]
    }
    position = nil
    return []
  }
}

/// Space, tab, CR, LF, VT, FF, as the C library's `isspace` has them.
func isBlank(_ byte: UInt8) -> Bool { byte == 32 || (9...13).contains(byte) }
