import Glibc
import Host
import Synchronization

/// How far a long verb is: on a line that is written over (`-p`), as JSON lines (`--progress=json`), and once on standard error whenever
/// SIGUSR1 comes.
package final class Progress: Sendable {
  package enum Form: Sendable { case none, text, json }

  private let form: Form
  private struct State {
    var total: UInt64 = 0
    var done: UInt64 = 0
    var shown = -1.0
  }
  private let state = Mutex(State())

  /// Set by the signal, taken back by whoever reports.
  private static let isAsked = Atomic<Bool>(false)

  package init(_ arguments: Arguments) throws(ToolError) {
    if let name = arguments.value("progress") {
      switch name {
      case "json": form = .json
      case "", "text": form = .text
      default: throw ToolError("--progress: text or json, not '\(name)'")
      }
    } else {
      form = arguments.has("p") && !arguments.has("q") ? .text : .none
    }
    _ = Progress.isAsked.load(ordering: .relaxed)
    _ = signal(SIGUSR1) { _ in Progress.isAsked.store(true, ordering: .relaxed) }
  }

  /// The work ahead, in bytes.
  package func start(total: UInt64) {
    state.withLock { $0 = State(total: total) }
    report(force: true)
  }

  /// More bytes are done; from any thread.
  package func advance(_ bytes: UInt64) {
    state.withLock { $0.done &+= bytes }
    report(force: false)
  }

  /// Everything is done.
  package func finish() {
    state.withLock { $0.done = $0.total }
    report(force: true)
    if form == .text { Standard.write([UInt8(ascii: "\n")], to: 1) }
  }

  /// After a failure: the line ends where it is.
  package func stop() {
    if form == .text { Standard.write([UInt8(ascii: "\n")], to: 1) }
  }

  private func report(force: Bool) {
    let isAsked =
      Progress.isAsked.load(ordering: .relaxed)
      && Progress.isAsked.exchange(false, ordering: .relaxed)
    if form == .none, !isAsked { return }
    state.withLock { state in
      let percent =
        state.total == 0 ? 100 : min(100, Double(state.done) * 100 / Double(state.total))
      let text = Sizes.fixed(percent, 2)
      if isAsked { Standard.note("    (\(text)/100%)\n") }
      guard form != .none, force || percent - state.shown >= 1 else { return }
      state.shown = percent
      let done = min(state.done, state.total)
      let line =
        form == .json
        ? "{\"percent\": \(text), \"done\": \(done), \"total\": \(state.total)}\n"
        : "    (\(text)/100%)\r"
      Standard.write(Array(line.utf8), to: 1)
    }
  }
}
