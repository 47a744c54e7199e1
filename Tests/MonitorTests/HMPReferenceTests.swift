import Foundation
import Host
import Monitor
import Support
import Testing

/// The user's page about the human monitor lists what there is.
@Suite struct HMPReferenceTests {
  private static let page = Checkout.root + "/docs/human-monitor.md"
  private static let marker = "<!-- Below: made from `help` and `info` by HMPReferenceTests. -->\n"

  /// The tables of the page, from what the monitor says of itself.
  @MainLoop
  private static func tables(_ monitor: PaperMonitor) -> String {
    var text = ""
    for (title, line) in [("Commands", "help"), ("What `info` tells", "info")] {
      text += "\n## \(title)\n\n| command | arguments | what it does |\n| --- | --- | --- |\n"
      for entry in monitor.run(line).split(separator: "\n") {
        let (head, help) = split(entry, " -- ")
        var (names, syntax) = split(head.drop { $0 == " " }, " ")
        if names == "info", line == "info" { (names, syntax) = split(Substring(syntax), " ") }
        let name = names.split(separator: "|").map { "`\($0)`" }.joined(separator: ", ")
        let shown = syntax.isEmpty ? "" : "`\(syntax)`".replacing("|", with: "\\|")
        text += "| \(name) | \(shown) | \(help.replacing("|", with: "\\|")) |\n"
      }
    }
    return text
  }

  private static func split(_ text: Substring, _ separator: String) -> (String, String) {
    guard let range = text.firstRange(of: separator) else { return (String(text), "") }
    return (
      text[..<range.lowerBound].trimmingCharacters(in: .whitespaces),
      text[range.upperBound...].trimmingCharacters(in: .whitespaces)
    )
  }

  @Test func thePageListsEveryCommand() async throws {
    try await PaperMonitor.test { monitor in
      let expected = Self.tables(monitor)
      var page = try String(contentsOfFile: Self.page, encoding: .utf8)
      let mark = try #require(page.firstRange(of: Self.marker))
      if ProcessInfo.processInfo.environment["GOLIATH_UPDATE_GOLDEN"] != nil {
        page = page[..<mark.upperBound] + expected
        try page.write(toFile: Self.page, atomically: true, encoding: .utf8)
      }
      #expect(
        page[mark.upperBound...] == expected,
        "commands changed: run this test with GOLIATH_UPDATE_GOLDEN=1 and look at the page")
    }
  }
}
