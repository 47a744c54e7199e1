import Monitor
import Testing

/// The editor's bytes, as QEMU 7.2 sends them.
@Suite struct HMPLineEditorTests {
  /// Types keys into an editor; ESC is `^`, output newlines are `/`.
  private struct Typist {
    var editor = LineEditor(prompt: "(qemu) ")
    var lines: [String] = []
    var candidates: [String] = []

    mutating func type(_ keys: String) -> String { type(Array(keys.utf8)) }

    mutating func type(_ keys: [UInt8]) -> String {
      var output: [UInt8] = []
      for key in keys {
        switch editor.receive(key, into: &output) {
        case .editing: break
        case .line(let line):
          lines.append(String(decoding: line, as: UTF8.self))
          output += editor.begin()
        case .completion(let text):
          let word = text.split(separator: 32, omittingEmptySubsequences: false).last ?? []
          let typed = String(decoding: word, as: UTF8.self)
          output += editor.complete(
            candidates.filter { $0.hasPrefix(typed) }, typed: word.count)
        }
      }
      return String(decoding: output, as: UTF8.self)
        .replacing("\u{1B}", with: "^").replacing("\n", with: "/")
    }
  }

  @Test func keysDrawTheBytesThatQEMUDraws() {
    var typist = Typist()
    let table: [(keys: String, output: String)] = [
      ("abc", "a^[K^[Dab^[K^[D^[Dabc^[K"),
      ("\u{1B}[D", "^[D"),
      ("X", "^[D^[DabXc^[K^[D"),
      ("\u{1}", "^[D^[D^[D"),
      ("\u{5}", "^[C^[C^[C^[C"),
      ("\u{1B}[C", ""),
      ("\u{1B}[3~", ""),
      ("\u{8}", "^[D^[D^[D^[DabX^[K"),
      ("\u{7F}", "^[D^[D^[Dab^[K"),
      ("\u{17}", "^[D^[D^[K"),
      ("\u{C}", "^[2J^[1;1H(qemu) "),
      ("p 1\r", "p^[K^[Dp ^[K^[D^[Dp 1^[K/(qemu) "),
      ("\n", "/(qemu) "),
      ("p 2\r\n", "p^[K^[Dp ^[K^[D^[Dp 2^[K/(qemu) /(qemu) "),
      ("\u{1B}[A", "p 2^[K"),
      ("\u{1B}[A", "^[D^[D^[Dp 1^[K"),
      ("\u{1B}[A", ""),
      ("\u{1B}[B", "^[D^[D^[Dp 2^[K"),
      ("\u{1B}[B", "^[D^[D^[D^[K"),
      ("\u{1B}[B", ""),
      ("zz\u{3}\u{B}\u{15}\u{1A}z", "z^[K^[Dzz^[K^[D^[Dzzz^[K"),
      ("\u{17}", "^[D^[D^[D^[K"),
      (
        "stop\u{1}\u{1B}OF\u{1B}OH\u{1B}[4~\u{1B}[1~\u{4}\u{4}",
        "s^[K^[Dst^[K^[D^[Dsto^[K^[D^[D^[Dstop^[K^[D^[D^[D^[D^[C^[C^[C^[C^[D^[D^[D^[D"
          + "^[C^[C^[C^[C^[D^[D^[D^[Dtop^[K^[D^[D^[Dop^[K^[D^[D"
      ),
      ("\u{C}", "^[2J^[1;1H(qemu) op^[K^[D^[D"),
      ("\u{5}\u{17}", "^[C^[C^[D^[D^[K"),
      ("\u{1B}[Z\u{1B}xy", "y^[K"),
      ("\u{17}", "^[D^[K"),
      ("\u{1B}[F\u{17}\u{17}", "p 2^[K^[D^[D^[Dp ^[K^[D^[D^[K"),
    ]
    for (keys, output) in table { #expect(typist.type(keys) == output, "\(keys)") }
    #expect(typist.lines == ["p 1", "", "p 2", ""])
  }

  @Test func aWordIsDeletedFromTheMiddle() {
    var typist = Typist()
    _ = typist.type("abc def ghi\u{1B}[D\u{1B}[D\u{1B}[D\u{1B}[D")
    #expect(typist.type("\u{17}") == "^[D^[D^[D^[D^[D^[D^[Dabc  ghi^[K^[D^[D^[D^[D")
    #expect(typist.type("\u{17}") == "^[D^[D^[D^[D ghi^[K^[D^[D^[D^[D")
    #expect(typist.type("\u{17}") == "")
    #expect(typist.type("\u{5}\u{17}") == "^[C^[C^[C^[C^[D^[D^[D^[D^[K")
    _ = typist.type("  system_")
    #expect(typist.type("\u{17}").hasSuffix("  ^[K"))
  }

  @Test func theEightBitControlIntroducerWorks() {
    var typist = Typist()
    _ = typist.type("p 1\r")
    #expect(typist.type([0x9B, 0x41]) == "p 1^[K")
  }

  @Test func oneMatchIsFilledInAndSeveralAreListed() {
    var typist = Typist()
    typist.candidates = ["sev", "sgx", "snapshots", "spice", "stats", "status", "sync-profile"]
    #expect(
      typist.type("s\t")
        == "s^[K/sev           sgx           snapshots     spice         stats         /"
        + "status        sync-profile  /(qemu) s^[K")
    #expect(
      typist.type("t\t") == "^[Dst^[K/stats     status    /(qemu) stat^[K")
    #expect(typist.type("u\t").hasSuffix("^[D^[D^[D^[D^[Dstatus ^[K"))
    #expect(typist.type("nope\t").hasSuffix("nope^[K"))
    var files = Typist()
    files.candidates = ["/usr/lib/"]
    #expect(files.type("/usr/l\t").hasSuffix("/usr/lib/^[K"))
  }

  @Test func linesEndAt4095Bytes() {
    var editor = LineEditor(prompt: "")
    var drawn: [UInt8] = []
    for _ in 0..<4100 {
      drawn = []
      _ = editor.receive(0x78, into: &drawn)
    }
    #expect(drawn.isEmpty)
    #expect(editor.receive(13, into: &drawn) == .line([UInt8](repeating: 0x78, count: 4095)))
  }

  @Test func historyKeeps64DifferentLines() {
    var typist = Typist()
    for number in 0..<70 { _ = typist.type("line \(number)\r") }
    _ = typist.type("line 30\r")
    let lines = typist.editor.history.lines.map { String(decoding: $0, as: UTF8.self) }
    #expect(lines.count == 64)
    #expect(lines.first == "line 6")
    #expect(lines.suffix(2) == ["line 69", "line 30"])
    #expect(lines.filter { $0 == "line 30" }.count == 1)
  }

  @Test func anyBytesLeaveAUsableEditor() {
    var generator = SystemRandomNumberGenerator()
    var typist = Typist()
    typist.candidates = ["a", "ab", "b"]
    for _ in 0..<20_000 { _ = typist.type([UInt8.random(in: 0...255, using: &generator)]) }
    _ = typist.type([0x1B, 0x78, 0x0D])
    #expect(typist.type("q").hasSuffix("q^[K"))
  }
}
