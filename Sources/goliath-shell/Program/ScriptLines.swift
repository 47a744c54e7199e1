/// Cuts the bytes of a script into lines; one goes on in the next while a quote or bracket is open. Pure model.
package struct ScriptLines {
  private var rest: [UInt8] = []
  private var unfinished = ""

  package init() {}

  /// The complete lines after these bytes.
  package mutating func take(_ bytes: some Collection<UInt8>) -> [String] {
    rest += bytes
    var lines: [String] = []
    while let end = rest.firstIndex(of: 10) {
      let line = String(decoding: rest[..<end], as: UTF8.self)
      rest.removeSubrange(...end)
      lines += add(line)
    }
    return lines
  }

  /// The last line, when it has no end.
  package mutating func finish() -> [String] {
    var lines = rest.isEmpty ? [] : add(String(decoding: rest, as: UTF8.self))
    rest = []
    if !unfinished.isEmpty {
      lines.append(unfinished)
      unfinished = ""
    }
    return lines
  }

  private mutating func add(_ line: String) -> [String] {
    let whole = unfinished.isEmpty ? line : unfinished + "\n" + line
    guard LineParser.isComplete(whole) else {
      unfinished = whole
      return []
    }
    unfinished = ""
    return [whole]
  }
}
