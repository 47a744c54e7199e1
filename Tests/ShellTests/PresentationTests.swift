import JSON
import Testing
import goliath_shell

@Suite struct PresentationTests {
  static let plain = Style(coloured: false)

  static func lines(_ value: JSONValue, width: Int = 80) -> [String] {
    ValueText(style: plain, width: width).lines(value)
  }

  @Test func membersStandInColumns() {
    #expect(
      Self.lines(["status": "running", "running": true, "n": 3]) == [
        "n        3", "running  true", "status   running",
      ])
  }

  @Test func fractionsHaveNoMoreDigitsThanTheyNeed() {
    #expect(Self.lines(["rtt-us": 5.32]) == ["rtt-us  5.32"])
    #expect(Self.lines([0.1, 2.0, 1e300]) == ["0.1", "2", "1e+300"])
  }

  @Test func objectsWithinObjectsAreIndented() {
    #expect(
      Self.lines(["qemu": ["major": 7, "minor": 2], "package": "x"])
        == [
          "package  x", "qemu:", "  major  7", "  minor  2",
        ])
  }

  @Test func listsOfFlatObjectsAreTables() {
    let value: JSONValue = [["label": "a", "x": 1], ["label": "long", "y": true]]
    #expect(
      Self.lines(value) == [
        "label  x  y", "a      1  ", "long      true",
      ])
    // Too wide for a table: one block each.
    #expect(Self.lines([["a": .string(String(repeating: "w", count: 90))]]).count == 1)
    #expect(Self.lines([]) == ["(none)"])
    #expect(Self.lines([:]) == [])
    #expect(Self.lines(["a", 2, .null]) == ["a", "2", "null"])
  }

  @Test func serversCannotControlTheTerminal() {
    let text = Style.harmless("a\u{1B}[2J\u{7}b\u{9B}c\r\n\tend\u{202E}")
    #expect(text == "a^[[2J^Gb\u{FFFD}c^M\n\tend\u{FFFD}")
    #expect(!Self.lines(["k\u{1B}": "\u{1B}]0;x"]).joined().contains("\u{1B}"))
  }

  @Test func coloursAreOnlyAddedWhenAskedFor() {
    #expect(Style(coloured: true).paint("x", .error) == "\u{1B}[1;31mx\u{1B}[0m")
    #expect(Self.plain.paint("x", .error) == "x")
  }

  static let event: JSONValue = [
    "timestamp": ["seconds": 3661, "microseconds": 5000], "event": "RESET",
    "data": ["guest": false, "reason": "host qmp"],
  ]

  @Test func eventsAreOneLine() {
    let text = MessageText(style: Self.plain, format: .people, namesNodes: false)
    #expect(
      text.event(Self.event, raw: [], node: "n") == [
        "01:01:01.005 RESET guest=false reason=\"host qmp\""
      ])
    #expect(
      text.event(
        ["event": "STOP", "timestamp": ["seconds": -1, "microseconds": -1]], raw: [], node: "n")
        == ["--:--:--.--- STOP"])
    let two = MessageText(style: Self.plain, format: .people, namesNodes: true)
    #expect(two.event(Self.event, raw: [], node: "n", offset: 3600)[0].hasPrefix("n: 02:01:01.005"))
  }

  @Test func jsonLinesAreTheServersOwn() {
    let raw = Array(#"{"return": {"b": 1, "a": 2.50}}"#.utf8)
    let one = MessageText(style: Self.plain, format: .json, namesNodes: false)
    #expect(one.reply([:], raw: raw, node: "n") == [#"{"return": {"b": 1, "a": 2.50}}"#])
    let two = MessageText(style: Self.plain, format: .json, namesNodes: true)
    #expect(
      two.reply([:], raw: raw, node: "n") == [#"{"node": "n", "return": {"b": 1, "a": 2.50}}"#])
    #expect(two.reply([:], raw: Array("{ }".utf8), node: "n") == [#"{"node": "n"}"#])
  }

  @Test func prettyJSONHasAMemberInALine() {
    let text = MessageText(style: Self.plain, format: .prettyJSON, namesNodes: false)
    let lines = text.reply([:], raw: Array(#"{"return": {"a": 1}}"#.utf8), node: "n")
    #expect(lines == ["{\n    \"return\": {\n        \"a\": 1\n    }\n}"])
  }

  @Test func answersOfSeveralNodesSayWhose() {
    let text = MessageText(style: Self.plain, format: .people, namesNodes: true)
    #expect(text.reply(["a": 1], raw: [], node: "n") == ["n: a  1"])
    #expect(text.reply(["a": 1, "b": 2], raw: [], node: "n") == ["n:", "  a  1", "  b  2"])
    #expect(text.reply([:], raw: [], node: "n") == [])
    #expect(text.reply([:], raw: [], node: "n", says: "ok") == ["n: ok"])
    #expect(
      text.failure(class: "DeviceNotFound", "no x", raw: nil, node: "n") == [
        "n: error: DeviceNotFound: no x"
      ])
    #expect(text.failure(class: "GenericError", "no", raw: nil, node: "n") == ["n: error: no"])
  }

  @Test func pathsFindValues() {
    let value: JSONValue = [["label": "a", "n": ["x": 1]], ["label": "b"]]
    #expect(ValuePath("0.label").values(in: value) == ["a"])
    #expect(ValuePath("[1].label").values(in: value) == ["b"])
    #expect(ValuePath("*.label").values(in: value) == ["a", "b"])
    #expect(ValuePath("0.n.x").values(in: value) == [1])
    #expect(ValuePath("*.n.x").values(in: value) == [1])
    #expect(ValuePath("2.label").values(in: value) == nil)
    #expect(ValuePath("").values(in: value) == [value])
    #expect(JSONValue.string("a").plainText == "a")
    #expect(JSONValue.array([1, "b"]).plainText == #"[1, "b"]"#)
  }

  @Test func eventFilters() {
    #expect(EventFilter().matches(Self.event))
    #expect(EventFilter(names: ["STOP", "RES*"]).matches(Self.event))
    #expect(!EventFilter(names: ["STOP"]).matches(Self.event))
    #expect(
      EventFilter(names: ["RESET"], members: [.init(path: "guest", text: "false")])
        .matches(Self.event))
    #expect(
      !EventFilter(names: ["RESET"], members: [.init(path: "guest", text: "true")])
        .matches(Self.event))
    #expect(!EventFilter(members: [.init(path: "nosuch", text: "1")]).matches(Self.event))
  }
}
