import JSON
import Testing
import goliath_shell

@Suite struct CompleterTests {
  static func texts(
    _ line: String, qemu: Bool = false, mode: LineParser.Mode = .qmp
  ) -> [String] {
    var completer = Completer(
      schema: qemu ? Golden.qemu : Golden.schema, mode: mode, nodes: ["left", "right"],
      humanCommands: ["info", "stop", "system_reset"], files: { [$0 + "file", $0 + "folder/"] })
    completer.values = { command, path, typed in
      command == "chardev-remove" && path == ["id"] ? ["serial0", "mon"] : []
    }
    return completer.complete(line, cursor: line.utf8.count).candidates.map(\.text)
  }

  @Test func commandsComeFromTheSchema() {
    #expect(Self.texts("query-sta").contains("query-status"))
    #expect(Self.texts("chardev-a").contains("chardev-add"))
    #expect(Self.texts("wat") == ["watch", "watchdog-set-action"])
    #expect(Self.texts("@le") == ["@left"])
    #expect(Self.texts("@left query-statu") == ["query-status"])
    #expect(Self.texts("blockdev-sn", qemu: true).contains("blockdev-snapshot"))
    #expect(Self.texts("/he") == ["/help"])
  }

  @Test func argumentsAreNamedAndNotOfferedTwice() {
    #expect(Self.texts("ringbuf-read ") == ["device", "format", "size"])
    #expect(Self.texts("ringbuf-read size=1 ") == ["device", "format"])
    #expect(Self.texts("ringbuf-read f") == ["format"])
  }

  @Test func aUnionsTagDecidesWhichMembersAreOffered() {
    #expect(Self.texts("chardev-add backend.") == ["backend.type"])
    #expect(Self.texts("chardev-add backend.type=ringbuf backend.") == ["backend.data"])
    #expect(
      Self.texts("chardev-add backend.type=ringbuf backend.data.") == [
        "backend.data.logappend", "backend.data.logfile", "backend.data.size",
      ])
  }

  @Test func valuesComeFromTheSchemaOrTheServer() {
    #expect(Self.texts("ringbuf-read format=") == ["utf8", "base64"])
    #expect(Self.texts("ringbuf-read format=b") == ["base64"])
    #expect(Self.texts("chardev-remove id=") == ["serial0", "mon"])
    #expect(Self.texts("chardev-add backend.type=ring") == ["ringbuf"])
    #expect(Self.texts("blockdev-add read-only=", qemu: true) == ["true", "false"])
  }

  @Test func theShellsWordsCompleteTheirOwn() {
    #expect(Self.texts("wait STO") == ["STOP"])
    #expect(Self.texts("help query-statu") == ["query-status"])
    #expect(Self.texts("set ") == ["events", "json", "timing"])
    #expect(Self.texts("set json o") == ["off", "on"])
    #expect(Self.texts("watch -n 1 query-statu") == ["query-status"])
    #expect(Self.texts("select a query-statu") == ["query-status"])
    #expect(Self.texts("source /tmp/") == ["/tmp/file", "/tmp/folder/"])
    #expect(Self.texts("!sys") == ["!system_reset"])
    #expect(Self.texts("hmp st") == ["stop"])
    #expect(Self.texts("in", mode: .human) == ["info"])
  }

  @Test func whatAllCandidatesShareIsInserted() {
    let one = Completer.Result(start: 0, candidates: [.init("query-status")])
    #expect(one.insertion(typed: "query-st") == "atus ")
    let two = Completer.Result(
      start: 0, candidates: [.init("query-status"), .init("query-stats")])
    #expect(two.insertion(typed: "que") == "ry-stat")
    #expect(two.insertion(typed: "query-stat") == "")
    let member = Completer.Result(start: 0, candidates: [.init("backend", suffix: ".")])
    #expect(member.insertion(typed: "b") == "ackend.")
    let halves = Completer.Result(start: 0, candidates: [.init("aé"), .init("aè")])
    #expect(halves.insertion(typed: "") == "a")
  }

  @Test func completionStandsAtTheCursor() {
    let completer = Completer(schema: Golden.schema)
    let result = completer.complete("query-statu rest", cursor: 11)
    #expect(result == .init(start: 0, candidates: [.init("query-status")]))
  }

  @Test func helpTellsArgumentsAndAnswer() throws {
    let page = HelpPage(try #require(Golden.schema))
    let lines = try #require(page.lines(about: "ringbuf-read"))
    #expect(lines[0] == "ringbuf-read device=… size=… [format=…]")
    #expect(lines.contains("  format  utf8|base64, optional"))
    #expect(lines.contains("answer: str"))
    #expect(page.lines(about: "STOP")?.first == "STOP: an event")
    #expect(page.lines(about: "nosuch") == nil)
  }

  @Test func helpShowsTheServersDocumentation() throws {
    let entry: JSONValue = [
      "name": "ringbuf-read", "kind": "command", "description": "Reads a ring.",
      "schema": ["arguments": ["$ref": "#/$defs/Arguments"], "returns": ["type": "string"]],
    ]
    let arguments: JSONValue = [
      "schema": [
        "allOf": [["$ref": "#/$defs/Arguments"]],
        "properties": ["size": ["description": "how many bytes"]],
      ]
    ]
    let documentation = Documentation(entry) { $0 == "Arguments" ? arguments : nil }
    let page = HelpPage(try #require(Golden.schema), documentation: documentation)
    let lines = try #require(page.lines(about: "ringbuf-read"))
    #expect(lines.contains("  Reads a ring."))
    #expect(lines.contains("  size    int: how many bytes"))
  }

  @Test func everyCommandOfQEMUHasAPage() throws {
    let schema = try #require(Golden.qemu)
    let page = HelpPage(schema)
    for name in schema.commands.keys {
      #expect(page.lines(about: name)?.first?.hasPrefix(name) ?? false, "\(name)")
    }
    #expect(schema.commands.count > 200)
  }
}
