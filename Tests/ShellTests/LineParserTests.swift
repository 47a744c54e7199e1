import JSON
import Testing
import goliath_shell

@Suite struct LineParserTests {
  static func request(
    _ line: String, schema: APISchema? = nil
  ) throws -> QMPRequest {
    var parser = LineParser(schema: { _ in schema })
    guard case .request(let request) = try parser.parse(line).action else {
      Issue.record("\(line) is no request")
      return QMPRequest("")
    }
    return request
  }

  /// Lines of the prompt and the JSON that is sent.
  @Test(arguments: [
    ("query-status", #"{"execute": "query-status"}"#),
    (
      "device_add driver=e1000 id=net1",
      #"{"execute": "device_add", "arguments": {"driver": "e1000", "id": "net1"}}"#
    ),
    (
      "chardev-add id=c0 backend.type=ringbuf backend.data.size=4096",
      #"{"execute": "chardev-add", "arguments": {"id": "c0", "backend": {"type": "ringbuf", "data": {"size": 4096}}}}"#
    ),
    (
      "a x=1 y=-2 z=1.5 t=true f=False n=null h=0x10 s=abc w=01",
      #"{"execute": "a", "arguments": {"x": 1, "y": -2, "z": 1.5, "t": true, "f": false, "n": null, "h": 16, "s": "abc", "w": "01"}}"#
    ),
    (
      #"a x="1" y='two words' z=two\ words q="a \"b\"""#,
      #"{"execute": "a", "arguments": {"x": "1", "y": "two words", "z": "two words", "q": "a \"b\""}}"#
    ),
    (
      #"a list:=[1, "two"] object={"k": "v w"} deep.0=x deep.1=y"#,
      #"{"execute": "a", "arguments": {"list": [1, "two"], "object": {"k": "v w"}, "deep": ["x", "y"]}}"#
    ),
    (
      #"device_add {"driver": "e1000", 'id': "n"}"#,
      #"{"execute": "device_add", "arguments": {"driver": "e1000", "id": "n"}}"#
    ),
    ("oob query-yank", #"{"exec-oob": "query-yank"}"#),
    (
      "a big=18446744073709551615", #"{"execute": "a", "arguments": {"big": 18446744073709551615}}"#
    ),
    ("query-status # and a remark", #"{"execute": "query-status"}"#),
    ("getfd fdname=x", #"{"execute": "getfd", "arguments": {"fdname": "x"}}"#),
  ])
  func linesBecomeRequests(line: String, wanted: String) throws {
    let request = try Self.request(line)
    #expect(String(decoding: request.bytes(id: nil), as: UTF8.self) == wanted + "\n")
  }

  @Test func jsonIsSentAsItWasTyped() throws {
    let line = #"{ "execute":"query-status",  "id": 7 }"#
    let request = try Self.request(line)
    #expect(request.name == "query-status")
    #expect(String(decoding: request.bytes(id: nil), as: UTF8.self) == line + "\n")
  }

  @Test func theSchemaDecidesWhatADigitMeans() throws {
    let schema = try #require(Golden.schema)
    let request = try Self.request("ringbuf-read device=7 size=7 format=utf8", schema: schema)
    #expect(request.arguments == ["device": "7", "size": 7, "format": "utf8"])
    let nested = try Self.request(
      "chardev-add id=1 backend.type=socket backend.data.addr.type=inet "
        + "backend.data.addr.data.host=0 backend.data.addr.data.port=4444 backend.data.server=false",
      schema: schema)
    #expect(
      ValuePath("backend.data.addr.data.port").values(in: .object(nested.arguments)) == ["4444"])
    #expect(ValuePath("backend.data.server").values(in: .object(nested.arguments)) == [false])
  }

  @Test(arguments: [
    "device_add driver", "a x=1 x=2", "a x=1 x.y=2", "a x:=[1", "a =1", "{\"execute\": 1,}",
    "a 'open",
    "wait", "expect status query-status", "sleep soon", "watch -n", "set colours", "@", "/nosuch",
    "a=b", "a x:=nonsense", "select x",
  ])
  func senselessLinesAreRefused(line: String) {
    var parser = LineParser()
    #expect(throws: LineError.self) { try parser.parse(line) }
  }

  @Test func aLineCanNameItsNode() throws {
    var parser = LineParser()
    let statement = try parser.parse(" @left  stop ")
    #expect(statement == Statement(node: "left", .request(QMPRequest("stop"))))
  }

  @Test func theHumanMonitorsLinesAreLeftAlone() throws {
    var parser = LineParser()
    #expect(try parser.parse("!info  status 'x").action == .human("info  status 'x"))
    #expect(try parser.parse("/hmp info  \"a b\"").action == .human("info  \"a b\""))
    parser.mode = .human
    #expect(try parser.parse("help").action == .human("help"))
    #expect(try parser.parse("/help").action == .help(nil))
    parser.mode = .humanOverQMP
    #expect(try parser.parse("/qmp stop").action == .request(QMPRequest("stop")))
  }

  @Test func theShellsOwnWords() throws {
    var parser = LineParser()
    #expect(try parser.parse("query-status ?").action == .help("query-status"))
    #expect(
      try parser.parse("wait STOP RESET reason=x timeout=1.5").action
        == .wait(
          EventFilter(names: ["STOP", "RESET"], members: [.init(path: "reason", text: "x")]),
          seconds: 1.5))
    #expect(
      try parser.parse("watch -n 0.5 -c 3 query-status").action
        == .watch(.request(QMPRequest("query-status")), seconds: 0.5, count: 3))
    #expect(
      try parser.parse("select 0.label query-chardev").action
        == .select("0.label", .request(QMPRequest("query-chardev"))))
    #expect(
      try parser.parse("expect status=running query-status").action
        == .expect("status", value: "running", .request(QMPRequest("query-status"))))
    #expect(
      try parser.parse("getfd net0 /dev/null").action
        == .pass(QMPRequest("getfd", ["fdname": "net0"]), file: "/dev/null"))
    #expect(
      try parser.parse("add-fd /dev/null fdset-id=3").action
        == .pass(QMPRequest("add-fd", ["fdset-id": 3]), file: "/dev/null"))
    #expect(try parser.parse("  # nothing").action == .nothing)
  }

  @Test func transactionsAreCollectedAsInQMPShell() throws {
    var parser = LineParser()
    #expect(try parser.parse("transaction(").action == .nothing)
    #expect(parser.isInTransaction)
    #expect(try parser.parse("blockdev-snapshot-sync device=d0 snapshot-file=f").action == .nothing)
    let wanted: JSONObject = [
      "actions": [
        [
          "type": "blockdev-snapshot-sync",
          "data": ["device": "d0", "snapshot-file": "f"],
        ],
        ["type": "abort", "data": [:]],
      ]
    ]
    let action = try parser.parse("abort )").action
    #expect(action == .request(QMPRequest("transaction", wanted)))
    #expect(!parser.isInTransaction)
  }

  @Test func scriptsAreCutIntoLinesThatCanGoOn() {
    var lines = ScriptLines()
    #expect(lines.take(Array("stop\ncont\na x={\n".utf8)) == ["stop", "cont"])
    #expect(lines.take(Array(" \"k\": 1}\nlast".utf8)) == ["a x={\n \"k\": 1}"])
    #expect(lines.finish() == ["last"])
    #expect(lines.finish() == [])
  }

  @Test func noLineMakesTheParserTrap() {
    var generator = SystemRandomNumberGenerator()
    let pieces = [
      "query-status", " ", "=", ":=", "{", "}", "[", "]", "\"", "'", "\\", ".", "@", "!", "/", "#",
      "?", "1", "-", "wait", "watch -n", "timeout=", "transaction(", ")", "é", "\u{0}", "\n", ",",
    ]
    for _ in 0..<2000 {
      let line = (0..<Int.random(in: 0..<12, using: &generator))
        .compactMap { _ in pieces.randomElement(using: &generator) }.joined()
      var parser = LineParser(schema: { _ in Golden.schema })
      _ = try? parser.parse(line)
      _ = try? parser.parse(line)
      _ = Completer(schema: Golden.schema).complete(
        line, cursor: Int.random(in: 0...line.utf8.count, using: &generator))
    }
  }
}
