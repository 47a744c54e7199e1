import Host
import QAPI

/// What TAB was pressed on.
struct HMPCompletionRequest {
  /// The arguments before the one to complete; flags among them.
  let before: [String]
  /// What is typed of the argument. A completer that completes only the end of it keeps only that end here.
  var word: String
  /// 1 for the first argument.
  var position: Int { before.count + 1 }
}

/// Candidates for one argument: whole words, filtered and sorted by others.
typealias HMPCompleter = @MainLoop @Sendable (HMPSession, inout HMPCompletionRequest) -> [String]

/// What TAB offers.
extension HMPSession {
  /// QEMU's limits: so many words are looked at, so many candidates offered.
  private static let wordLimit = 16
  private static let candidateLimit = 256

  /// Candidates for the last word of `line` (the text up to the cursor), and how many bytes of it were typed.
  package func completions(for line: [UInt8]) -> (candidates: [String], typed: Int) {
    var parser = HMPArgumentParser(
      commandName: "", text: line, position: 0, register: { _ in nil }, lastFormat: HMPFormat())
    guard var words = parser.words(limit: HMPSession.wordLimit) else { return ([], 0) }
    if words.isEmpty || line.last.map(isBlank) == true {
      if words.count == HMPSession.wordLimit { return ([], 0) }
      words.append("")
    }
    var request = HMPCompletionRequest(before: Array(words.dropLast()), word: words.last ?? "")
    let all = candidates(HMPCommandTable.commands, &request)
    let typed = request.word.utf8
    let fitting = all.lazy.filter { $0.utf8.starts(with: typed) }.prefix(HMPSession.candidateLimit)
    return (Array(fitting), typed.count)
  }

  private func candidates(
    _ table: [HMPCommand], _ request: inout HMPCompletionRequest
  ) -> [String] {
    let table = table.filter(isAvailable)
    guard let first = request.before.first else { return table.flatMap(\.names) }
    guard let command = table.first(where: { $0.names.contains(first) }) else { return [] }
    var inner = HMPCompletionRequest(
      before: Array(request.before.dropFirst()), word: request.word)
    defer { request.word = inner.word }
    if !command.subcommands.isEmpty { return candidates(command.subcommands, &inner) }
    if command.names[0] == "help" { return candidates(HMPCommandTable.commands, &inner) }
    if let completer = command.completion { return completer(self, &inner) }
    return HMPSession.expectsFile(command, at: inner.position)
      ? FileNames.completions(of: inner.word) : []
  }

  /// Whether the argument at that position is the name of a file. Flags may stand in front of it: they are looked
  /// for from the parameter of the same number on. Arguments beyond the last are taken for more of it.
  private static func expectsFile(_ command: HMPCommand, at position: Int) -> Bool {
    let rest = command.parameters.dropFirst(position - 1)
    let parameter =
      rest.isEmpty ? command.parameters.last : rest.first { $0.kind.letter == nil }
    return parameter?.kind == .file
  }
}
