import Host
import QAPI

/// What TAB offers.
extension HMPSession {
  /// Candidates for the last word of `line` (the text up to the cursor), and how many bytes of it were typed.
  package func completions(for line: [UInt8]) -> (candidates: [String], typed: Int) {
    var words = line.split(omittingEmptySubsequences: true, whereSeparator: isBlank)
      .map { String(decoding: $0, as: UTF8.self) }
    if words.isEmpty || line.last.map(isBlank) == true { words.append("") }
    let last = words.removeLast()
    return (
      candidates(after: words, HMPCommandTable.commands, last).filter { $0.hasPrefix(last) },
      last.utf8.count
    )
  }

  private func candidates(
    after words: [String], _ table: [HMPCommand], _ last: String
  ) -> [String] {
    guard let first = words.first else { return table.flatMap(\.names) }
    guard let command = table.first(where: { $0.names.contains(first) }) else { return [] }
    let rest = Array(words.dropFirst())
    if !command.subcommands.isEmpty { return candidates(after: rest, command.subcommands, last) }
    switch command.completion {
    case .commandName:
      return candidates(after: rest, HMPCommandTable.commands, isHelp: true)
    case .file: return rest.isEmpty ? FileNames.completions(of: last) : []
    case .none: return []
    }
  }

  /// For `help`: names only, no arguments.
  private func candidates(
    after words: [String], _ table: [HMPCommand], isHelp: Bool
  ) -> [String] {
    guard let first = words.first else { return table.flatMap(\.names) }
    guard let command = table.first(where: { $0.names.contains(first) }),
      !command.subcommands.isEmpty
    else { return [] }
    return candidates(after: Array(words.dropFirst()), command.subcommands, isHelp: true)
  }
}
