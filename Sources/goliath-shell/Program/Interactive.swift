import Glibc
import Host
import JSON

/// The prompt: lines edited with libedit while events come in above, or plain lines where there is no libedit.
final class Interactive {
  private let session: Session
  private let output: Output
  private let editor: LineEditor?
  private var history: History
  private var humanCommands: [String]?
  private var isTerminated = false

  init(_ session: Session, _ output: Output, keepsHistory: Bool) {
    self.session = session
    self.output = output
    history = History(path: keepsHistory ? History.usualPath : nil)
    editor = LineEditor(program: "goliath-shell")
    output.editor = editor
    editor?.setHistorySize(Int32(History.limit))
    for line in history.lines { editor?.remember(line) }
  }

  /// Runs lines until `exit`, the end of input or a signal. The status is that of the last line.
  func run() -> ExitStatus {
    guard let editor else {
      output.complain(["goliath-shell: libedit is not installed: no editing, no completion"])
      return plainRun()
    }
    session.history = { [weak self] in self?.history.lines ?? [] }
    editor.onWait = { [weak self] in self?.waitForKey() ?? .end }
    editor.onComplete = { [weak self] line, cursor in self?.complete(line, cursor) }
    var line = ""
    var status = ExitStatus.success
    while !session.isOver, !isTerminated {
      switch editor.readLine(prompt: prompt(continues: !line.isEmpty)) {
      case .end:
        output.print([""])
        return status
      case .interrupted:
        output.print(["^C"])
        line = ""
        session.cancelLine()
      case .text(let text):
        line += line.isEmpty ? text : "\n" + text
        guard LineParser.isComplete(line) else { continue }
        if history.add(line), let last = history.lines.last { editor.remember(last) }
        status = session.run(line)
        line = ""
      }
    }
    return isTerminated ? .interrupted : status
  }

  // MARK: -

  private func prompt(continues: Bool) -> String {
    let nodes = session.fleet.nodes
    let ready = nodes.filter { $0.state == .ready }.count
    let own = session.options.mode == .qmp ? "goliath" : "hmp"
    var name = nodes.count == 1 ? own : "\(nodes.count) nodes"
    if nodes.count == 1, ready == 0 { name = "disconnected" }
    if nodes.count > 1, ready < nodes.count { name = "\(ready) of \(nodes.count) nodes" }
    if session.parser.isInTransaction { name = "transaction" }
    let text = continues ? "..." : "(\(name))"
    guard session.style.isColoured else { return text + " " }
    // libedit takes what stands between \u{1} for no columns, and drops it at the end of the prompt.
    return "\u{1}\u{1B}[1m\u{1}" + text + "\u{1}\u{1B}[0m\u{1} "
  }

  private func waitForKey() -> LineEditor.Wait {
    while true {
      switch session.fleet.wait(input: true) {
      case .input: return .ready
      case .interrupted: return .interrupted
      case .terminated:
        isTerminated = true
        return .end
      case .resized: editor?.resize()
      case .news, .deadline: break
      }
    }
  }

  private func plainRun() -> ExitStatus {
    var lines = ScriptLines()
    var status = ExitStatus.success
    var buffer = [UInt8](repeating: 0, count: 4096)
    while !session.isOver {
      switch session.fleet.wait(input: true) {
      case .input:
        let input = FileDescriptor(owning: 0)
        let count = (try? input.read(into: &buffer)) ?? 0
        _ = input.release()
        if count == 0 { return status }
        for line in lines.take(buffer[..<count]) where !session.isOver {
          status = session.run(line)
        }
      case .terminated, .interrupted: return .interrupted
      default: break
      }
    }
    return status
  }

  // MARK: - Completion

  private func complete(_ line: String, _ cursor: Int) {
    guard let editor else { return }
    let schema = session.options.mode == .human ? nil : session.askSchema()
    let needsHuman =
      session.options.mode != .qmp || line.hasPrefix("!") || line.contains("hmp ")
    if needsHuman, humanCommands == nil { humanCommands = askHumanCommands() }
    let completer = Completer(
      schema: schema, mode: session.options.mode, nodes: session.fleet.nodes.map(\.name),
      humanCommands: humanCommands ?? [], files: FileNames.completions,
      values: { [session] in ServerValues(session).values($0, $1, $2) })
    let result = completer.complete(line, cursor: cursor)
    let bytes = Array(line.utf8).prefix(cursor)
    let typed = String(decoding: bytes.dropFirst(result.start), as: UTF8.self)
    let insertion = result.insertion(typed: typed)
    if !insertion.isEmpty { editor.insert(insertion) }
    if result.candidates.count > 1, insertion.isEmpty { list(result.candidates) }
  }

  /// The candidates in columns; with notes, one in a line.
  private func list(_ candidates: [Completer.Candidate]) {
    let width = Terminal.columns(1) ?? 80
    let shown = candidates.map { Style.harmless($0.text) }
    let longest = shown.map(\.count).max() ?? 0
    if candidates.count <= 40, candidates.contains(where: { !$0.note.isEmpty }) {
      output.print(
        zip(candidates, shown).map { candidate, text in
          let note = String(candidate.note.prefix(max(0, width - longest - 5)))
          let padding = String(repeating: " ", count: longest - text.count + 2)
          return "  " + text + (note.isEmpty ? "" : padding + session.style.paint(note, .faint))
        })
      return
    }
    let columns = max(1, (width - 1) / (longest + 2))
    let rows = (shown.count + columns - 1) / columns
    output.print(
      (0..<rows).map { row in
        stride(from: row, to: shown.count, by: rows).map { index in
          shown[index] + String(repeating: " ", count: longest - shown[index].count + 2)
        }.joined()
      })
  }

  /// The first words of the lines that `help` prints.
  private func askHumanCommands() -> [String]? {
    guard let text = session.askHuman("help") else { return nil }
    return Array(
      Set(
        text.split(separator: "\n").flatMap { line -> [String] in
          let names = line.split(separator: " ").first.map(String.init) ?? ""
          return names.split(separator: "|").map(String.init)
        }))
  }
}
