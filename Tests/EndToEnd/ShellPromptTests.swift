import Glibc
import Host
import Support
import Testing

/// goliath-shell at a terminal: a pseudo-terminal made by script(1).
@Suite(.serialized) struct ShellPromptTests {
  final class Prompt {
    let process: Process
    let folder = Goliath.temporaryFolder()
    private var seen = 0

    init(_ arguments: [String]) throws {
      let line = (["exec", ShellTests.path] + arguments).joined(separator: " ")
      process = try Process([
        "env", "TERM=xterm", "XDG_STATE_HOME=\(folder)/state", "NO_COLOR=1", "HOME=\(folder)",
        "script", "-qec", line, "/dev/null",
      ])
    }

    deinit {
      process.kill(signal: SIGKILL)
      _ = process.wait(seconds: 5)
      _ = try? Process.output(["rm", "-rf", folder])
    }

    /// Presses Control-D until the shell ends; its status. Between two lines the terminal itself takes the key, so it is repeated, on a
    /// new line.
    func end() -> Int32? {
      for attempt in 0..<60 {
        process.send(attempt == 0 ? "\u{4}" : "\n\u{4}")
        if let status = process.wait(seconds: 0.5) { return status }
      }
      return nil
    }

    /// Waits for a text behind the one that was waited for last.
    func expect(_ part: String, _ location: SourceLocation = #_sourceLocation) {
      let start = seen
      let found = process.readUntil(seconds: 30) { text in
        String(decoding: Array(text.utf8).dropFirst(start), as: UTF8.self).contains(part)
      }
      let rest = String(decoding: Array(process.text.utf8).dropFirst(start), as: UTF8.self)
      #expect(found, "'\(part)' is not in: \(rest)", sourceLocation: location)
      if let range = rest.firstRange(of: part) { seen += rest[..<range.upperBound].utf8.count }
    }
  }

  @Test(.enabled(if: Process.find("script") != nil))
  func tabCompletesAndEventsComeInAboveTheLine() throws {
    let running = try ShellTests.Running(.goliath)
    let prompt = try Prompt(["--retry", running.qmp])
    prompt.expect("(goliath) ")
    prompt.process.send("ringbuf-r\t")
    prompt.expect("ead ")
    prompt.process.send("\t")
    prompt.expect("optional utf8|base64")
    prompt.expect("ringbuf-read ")
    // An event while the line is edited; the line is drawn again, and can be gone on with.
    #expect(try ShellTests.shell([running.second, "-c", "cont"]).status == 0)
    prompt.expect("RESUME")
    prompt.expect("(goliath) ringbuf-read ")
    prompt.process.send("device=nosuch size=1\n")
    prompt.expect("error: Device 'nosuch' not found")
    prompt.process.send("query-status\n")
    prompt.expect("status      running")
    prompt.expect("(goliath) ")
    #expect(prompt.end() == 0, "\(prompt.process.text.suffix(600).debugDescription)")
  }

  @Test(.enabled(if: Process.find("script") != nil))
  func ctrlCEndsTheWaitAndTheLineButNotTheShell() throws {
    let running = try ShellTests.Running(.goliath)
    let prompt = try Prompt(["--retry", running.qmp])
    prompt.expect("(goliath) ")
    prompt.process.send("half a line\u{3}")
    prompt.expect("^C")
    prompt.expect("(goliath) ")
    prompt.process.send("wait NOSUCH\n")
    prompt.expect("wait NOSUCH")
    // The next prompt shows that the wait has ended; the key may come before it has begun, so it is repeated.
    var tries = 0
    while !prompt.process.readUntil(seconds: 0.5, { $0.hasSuffix("(goliath) ") }), tries < 40 {
      prompt.process.send("\u{3}")
      tries += 1
    }
    prompt.process.send("query-name\n")
    prompt.expect("ok")
    prompt.process.send("exit\n")
    #expect(prompt.process.wait(seconds: 30) == 0)
  }

  @Test(.enabled(if: Process.find("script") != nil))
  func theHistoryIsKeptForItsUserAlone() throws {
    let running = try ShellTests.Running(.goliath)
    let prompt = try Prompt(["--retry", running.qmp])
    prompt.expect("(goliath) ")
    prompt.process.send("query-name\n")
    prompt.expect("ok")
    prompt.process.send(" query-status\n")
    prompt.expect("prelaunch")
    prompt.expect("(goliath) ")
    prompt.process.send("history\n")
    prompt.expect("(goliath) ")
    #expect(prompt.end() == 0, "\(prompt.process.text.suffix(600).debugDescription)")
    let path = prompt.folder + "/state/goliath/shell-history"
    let text = String(decoding: try FileDescriptor.contents(of: path), as: UTF8.self)
    #expect(text == "query-name\nhistory\n")
    let mode = try Process.output(["stat", "-c", "%a", path]).text
    #expect(mode == "600\n")
  }

  @Test(.enabled(if: Process.find("script") != nil))
  func aLostConnectionIsMadeAgain() throws {
    let running = try ShellTests.Running(.goliath)
    let prompt = try Prompt(["--retry", "a=\(running.qmp)", "b=\(running.second)"])
    prompt.expect("(2 nodes) ")
    prompt.process.send("@a quit\n")
    prompt.expect("closed the connection")
    prompt.process.send("nodes\n")
    prompt.expect("down: ")
    prompt.process.send("exit\n")
    #expect(prompt.process.wait(seconds: 30) == 0)
  }
}
