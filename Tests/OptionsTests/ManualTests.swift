import Foundation
import Options
import Testing

@Suite struct ManualTests {
  /// The page names every option that -help lists, so neither is forgotten for the other.
  @Test func theManualNamesEveryOption() throws {
    let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .deletingLastPathComponent().deletingLastPathComponent()
    let page = try String(
      contentsOf: root.appendingPathComponent("docs/command-line.md"), encoding: .utf8)
    let help = try HelpText.lines(for: .options, catalog: HelpCatalog())
    let words = help.filter { $0.hasPrefix("-") }.flatMap { line in
      line.split(separator: " ").prefix(3).filter { $0.hasPrefix("-") }
    }
    #expect(words.count > 50)
    for word in Set(words).sorted() {
      #expect(
        page.contains("`\(word)`") || page.contains("`\(word) ") || page.contains("`\(word)["),
        "\(word)")
    }
  }
}
