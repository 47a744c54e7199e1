import Glibc
import Host

/// Runs the lines of `-c`, `-f` or standard input, then ends.
struct Script {
  private let session: Session
  private let options: ProgramOptions

  init(_ session: Session, _ options: ProgramOptions) {
    self.session = session
    self.options = options
  }

  /// All steps up to the first that fails (or all of them), then events when they are followed.
  func run() -> ExitStatus {
    var worst = ExitStatus.success
    var steps = options.steps
    // With --follow and a terminal there is nothing to read.
    if steps.isEmpty, !(options.follows && Terminal.isTerminal(0)) { steps = [.file("-")] }
    for step in steps where !session.isOver {
      let status = run(step)
      worst = max(worst, status)
      if status == .interrupted || (status != .success && !options.keepsGoing) { return worst }
    }
    if options.follows, !session.isOver {
      worst = max(
        worst,
        session.follow(EventFilter(), session.fleet.nodes, count: nil, seconds: options.timeout))
    }
    return worst
  }

  private func run(_ step: ProgramOptions.Step) -> ExitStatus {
    switch step {
    case .line(let line): return session.run([line])
    case .file("-"): return runInput()
    case .file(let path): return session.run(["/source '\(path)'"])
    }
  }

  /// Runs lines as they come, so that a program can talk to the shell through pipes.
  private func runInput() -> ExitStatus {
    var lines = ScriptLines()
    var worst = ExitStatus.success
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while !session.isOver {
      switch session.fleet.wait(input: true) {
      case .input:
        let input = FileDescriptor(owning: 0)
        let count = (try? input.read(into: &buffer)) ?? 0
        _ = input.release()
        let complete = count == 0 ? lines.finish() : lines.take(buffer[..<count])
        let status = session.run(complete)
        worst = max(worst, status)
        if status == .interrupted || (status != .success && !options.keepsGoing) { return worst }
        if count == 0 { return worst }
      case .interrupted, .terminated: return .interrupted
      default: break
      }
    }
    return worst
  }
}
