import Testing
import goliath_img

@Suite struct CommandLineTests {
  private static let table = [
    OptionEntry("-q --quiet", nil, ""), OptionEntry("-f --format", "F", ""),
    OptionEntry("--output", "FORM", ""),
    OptionEntry("--progress", "FORM", "", isValueOptional: true),
    OptionEntry("-p", nil, ""), OptionEntry("--preallocation", "MODE", ""),
  ]

  @Test func lettersJoinAndOptionsMayFollowOperands() throws {
    let read = try Arguments(["-qp", "a", "-fraw", "--output=json", "b", "--", "-x"], Self.table)
    #expect(read.operands == ["a", "b", "-x"])
    #expect(read.has("q") && read.has("p"))
    #expect(read.value("f") == "raw" && read.value("output") == "json")
  }

  @Test func longNamesMayBeCutShort() throws {
    #expect(try Arguments(["--outp", "json"], Self.table).value("output") == "json")
    #expect(throws: ToolError.self) { try Arguments(["--pr=x"], Self.table) }
  }

  @Test func aProgressFormComesOnlyAfterTheSign() throws {
    let read = try Arguments(["--progress", "a"], Self.table)
    #expect(read.operands == ["a"] && read.value("progress") == "")
    #expect(try Arguments(["--progress=json"], Self.table).value("progress") == "json")
  }

  @Test(arguments: [["-Z"], ["--zzz"], ["-f"], ["--output"], ["--quiet=1"]])
  func mistakesAreUsageErrors(words: [String]) {
    #expect(throws: ToolError.self) { try Arguments(words, Self.table) }
  }

  @Test func optionsOfImagesKeepTheirCommas() throws {
    var options = try #require(CreateOptions(format: "qcow2"))
    try options.parse("backing_file=a,,b,cluster_size=4k,lazy_refcounts")
    #expect(options["backing_file"] == "a,b")
    #expect(options.number("cluster_size") == 4096)
    #expect(options.flag("lazy_refcounts") == true)
    #expect(options.summary.contains("backing_file=a,,b"))
    #expect(throws: ToolError.self) { try options.parse("nosuch=1") }
    #expect(throws: ToolError.self) { try options.parse("cluster_size=4k", forAmending: true) }
  }

  @Test func everyVerbHasAPageOfHelp() {
    for verb in Verb.all {
      let page = HelpPage.page(of: verb)
      #expect(page.contains("Usage: goliath-img \(verb.name)"))
      for entry in verb.options { #expect(page.contains(entry.names[0])) }
    }
    #expect(HelpPage.all.contains("Supported formats:"))
  }
}
