import JSON
import Testing

@Suite struct JSONValueTests {
  /// Both ways of parsing agree on texts that libjansson reads: an escape forces the exact parser.
  @Test(arguments: [
    "{}", "[]", "[1,2,3]", #"{"a":{"b":[true,false,null]},"c":"text"}"#, "[-1,0.5,1e3,-2.5E-3]",
    #"["a\\b\"c\/d\b\f\n\r\t"]"#,
  ]) func parsersAgree(text: String) throws {
    let plain = try JSONValue(parsing: "[\(text),\"A\"]")
    let exact = try JSONValue(parsing: "[\(text),\"\\u0041\"]")
    #expect(plain == exact)
  }

  @Test func integersKeepAllBits() throws {
    #expect(try JSONValue(parsing: "[9223372036854775807]") == [.int(.max)])
    #expect(try JSONValue(parsing: "[18446744073709551615]") == [.uint(.max)])
    #expect(JSONValue(UInt64(7)) == .int(7))
  }

  @Test func wholeTextIsOneValue() {
    #expect(throws: JSONError(text: "Expecting a JSON value")) { try JSONValue(parsing: " ") }
    #expect(throws: JSONError(text: "Expecting at most one JSON value")) {
      try JSONValue(parsing: "{}{}")
    }
    #expect(throws: JSONError(text: "JSON parse error, premature EOI")) {
      try JSONValue(parsing: #"{"a":"#)
    }
    #expect(throws: Never.self) { try JSONValue(parsing: "12") }
  }

  @Test func nulIsAcceptedAsAnEscape() throws {
    #expect(try JSONValue(parsing: #""\u0000x""#) == "\0x")
    #expect(try JSONValue(parsing: #""\u0000x""#).text == #""\u0000x""#)
  }

  @Test func stringsPrintAsASCII() {
    let value: JSONValue = "a\"\\/\u{7F}\u{1}\u{8}\u{C}\n\r\té\u{1F600}"
    #expect(value.text == #""a\"\\/\u007F\u0001\b\f\n\r\t\u00E9\uD83D\uDE00""#)
  }

  @Test func membersPrintInHashOrder() {
    let reply: JSONValue = ["id": 1, "return": [:]]
    #expect(reply.text == #"{"return": {}, "id": 1}"#)
    let error: JSONValue = ["error": ["desc": "d", "class": "c"], "id": 1]
    #expect(error.text == #"{"id": 1, "error": {"class": "c", "desc": "d"}}"#)
    let event: JSONValue = [
      "event": "STOP", "data": [:], "timestamp": ["microseconds": 2, "seconds": 1],
    ]
    #expect(
      event.text
        == #"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP", "data": {}}"#)
  }

  @Test func prettyFormHasOneMemberPerLine() {
    let value: JSONValue = ["return": [:], "id": [1, "x"]]
    let expected = """
      {
          "return": {
          },
          "id": [
              1,
              "x"
          ]
      }
      """
    #expect(String(decoding: value.printed(pretty: true), as: UTF8.self) == expected)
  }

  @Test func largeObjectsKeepOrderAndFindMembers() {
    var object = JSONObject()
    for number in 0..<1000 { object["k\(number)"] = JSONValue(number) }
    #expect(object["k999"] == 999)
    #expect(object.keys.first == "k0")
    object["k0"] = nil
    #expect(object["k0"] == nil)
    #expect(object["k1"] == 1)
    #expect(object.count == 999)
  }

  @Test func namesAreComparedByBytes() {
    var object = JSONObject()
    object["\u{E9}"] = 1
    object["e\u{301}"] = 2
    #expect(object.count == 2)
  }
}
