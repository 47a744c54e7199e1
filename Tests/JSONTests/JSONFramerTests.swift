import JSON
import Testing

/// Everything a stream gives when it arrives in the given pieces: values as text, errors as `!text`.
private func items(_ pieces: [[UInt8]]) -> [String] {
  var framer = JSONFramer()
  var found: [String] = []
  for piece in pieces {
    framer.feed(piece)
    while let item = framer.nextValue() {
      switch item {
      case .success(let value): found.append(value.text)
      case .failure(let error): found.append("!" + error.text)
      }
    }
  }
  return found
}

private func items(_ text: String) -> [String] { items([Array(text.utf8)]) }

@Suite struct JSONFramerTests {
  @Test func valueEndsWhereItsBracketsClose() {
    #expect(items(#"{"a":1}{"b":[2]} [3]"#) == [#"{"a": 1}"#, #"{"b": [2]}"#, "[3]"])
    #expect(items(#"{"a":{"b":"}"}"#) == [])
  }

  /// Whole, a plain object goes another way than in pieces.
  @Test func piecesMakeNoDifference() {
    let tokens = [
      "{", "}", "[", "]", ":", ",", " ", "\n", #""a""#, #""b""#, #""execute""#, "1", "-0", "01",
      "1.5", "1e3",
      "999999999999999999", "9999999999999999999", "true", "false", "null", "nul", #""\n""#,
      #""é""#, "'c'", "@",
      #"{"a":1}"#, #"{"a":[1,2,{"b":null}]}"#, #"{"a":1,"a":2}"#, #"{"execute":"x","id":-7}"#,
    ]
    var random = SystemRandomNumberGenerator()
    for _ in 0..<3000 {
      let count = Int.random(in: 1...12, using: &random)
      let text =
        (0..<count).map { _ in tokens.randomElement(using: &random) ?? "" }.joined() + "\u{1} "
      let bytes = Array(text.utf8)
      #expect(items([bytes]) == items(bytes.map { [$0] }), "\(text)")
    }
  }

  @Test func scalarNeedsOneFollowingByte() {
    #expect(items("12") == [])
    #expect(items("12 ") == ["12"])
    #expect(items("true{}") == ["true", "{}"])
    #expect(items(#""x""#) == [#""x""#])
  }

  /// Texts recorded from QEMU 7.2 (each is followed by `{}` to show that the stream goes on).
  @Test(arguments: [
    (#"{"a":1,}"#, ["expecting value"]),
    ("[1,]", ["expecting value"]),
    (#"{"a":}"#, ["expecting value"]),
    ("]", ["expecting value"]),
    (",", ["expecting value"]),
    (#"{"a" 1}"#, ["missing : in object pair"]),
    (#"{"a":1 "b":2}"#, ["expected separator in dict"]),
    ("[1 2]", ["expected separator in list"]),
    ("{1:2}", ["key is not a string in object"]),
    ("{execute:1}", ["invalid keyword 'execute'"]),
    ("nul ", ["invalid keyword 'nul'"]),
    (#"{"a":1,"a":2}"#, ["duplicate key"]),
    (#"["\x"]"#, ["invalid escape sequence in string"]),
    (#"["\ud800"]"#, [#"\ud800 is not a valid Unicode character"#]),
    (#"["\udc00"]"#, [#"\udc00 is not a valid Unicode character"#]),
    (#"["\ud800\u0041"]"#, [#"\ud800 is not a valid Unicode character"#]),
    (#"["\uffff"]"#, [#"\uffff is not a valid Unicode character"#]),
    (#"["\uFDD0"]"#, [#"\uFDD0 is not a valid Unicode character"#]),
    (#"["\u12"]"#, [#"\u12" is not a valid Unicode character"#]),
    (#"["\u1g34"]"#, [#"\u1g34 is not a valid Unicode character"#]),
    (#"["\ud800\uzzzz"]"#, [#"\ud800 is not a valid Unicode character"#]),
    (#"["\q\ud800"]"#, ["invalid escape sequence in string"]),
    ("[1}", ["expected separator in list"]),
    ("{]", ["expecting value"]),
    (#"{"a":@}"#, ["stray '@'", "expecting value"]),
    ("[01]", ["stray '01'", "expecting value"]),
    ("[1.]", ["stray '1.]'"]),
    ("[+1]", ["stray '+'", "expecting value"]),
    ("[True]", ["stray 'T'", "expecting value"]),
    ("[0e1]", ["expected separator in list"]),
    ("[1-2]", ["expected separator in list"]),
    ("[1]]", ["", "expecting value"]),
  ]) func grammarErrorsReadAsInQEMU(text: String, errors: [String]) {
    let expected = errors.map { $0.isEmpty ? "[1]" : "!JSON parse error, " + $0 }
    #expect(items(text + "{}") == expected + ["{}"])
  }

  @Test func invalidUTF8IsRefusedInStrings() {
    for bytes in [[0xFC], [0xC1, 0x80], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80]] as [[UInt8]] {
      let text = Array("[\"".utf8) + bytes + Array("\"]".utf8)
      #expect(items([text]) == ["!JSON parse error, invalid UTF-8 sequence in string"])
    }
  }

  @Test func byteFFResynchronises() {
    let bytes = Array(#"{"execute":"quer"#.utf8) + [0xFF] + Array(#"{"a":1}"#.utf8)
    #expect(
      items([bytes]) == [#"!JSON parse error, stray '"quer\#u{FFFD}'"#, #"{"a": 1}"#])
  }

  @Test func newlineInsideAStringResynchronises() {
    #expect(items("[\"abc\n{}") == ["!JSON parse error, stray '\"abc\n'", "{}"])
  }

  @Test func byteBehindAScalarDoesNotBelongToIt() {
    let stray = "!JSON parse error, stray '\u{FFFD}'"
    for (text, first) in [("12", "12"), ("tr", "!JSON parse error, invalid keyword 'tr'")] {
      #expect(items([Array(text.utf8) + [0xC3] + Array(" []".utf8)]) == [first, stray, "[]"])
    }
    #expect(items([Array("{ ".utf8) + [0xFF] + Array("{}".utf8)]) == [stray, "{}"])
  }

  @Test func byteOrderMarkIsOneErrorThenReadingGoesOn() {
    let bytes: [UInt8] = [0xEF, 0xBB, 0xBF] + Array("{}".utf8)
    #expect(items([bytes]) == ["!JSON parse error, stray '\u{FFFD}'", "{}"])
  }

  @Test func singleQuotesAreAccepted() {
    #expect(items(#"{'a':'it\'s "x"'}"#) == [#"{"a": "it's \"x\""}"#])
  }

  @Test func numbersKeepTheirKind() {
    let text =
      "[0, -0, 9223372036854775807, 9223372036854775808, 18446744073709551615, "
      + "18446744073709551616, 0.1, 1E2, -9223372036854775808, 1e400]"
    #expect(
      items(text) == [
        "[0, 0, 9223372036854775807, 9223372036854775808, 18446744073709551615, "
          + "1.8446744073709552e+19, 0.10000000000000001, 100, -9223372036854775808, inf]"
      ])
  }

  @Test func nestingLimitCountsFromTheStart() {
    let deep = { (depth: Int) in
      String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
    }
    #expect(items(deep(1024)).count == 1)
    #expect(items(deep(1024)).first?.hasPrefix("[[") == true)
    let over = items(deep(1025))
    #expect(over.first == "!JSON nesting depth limit exceeded")
    #expect(over.dropFirst().allSatisfy { $0 == "!JSON parse error, expecting value" })
    #expect(over.count == 1 + 1025)
  }

  @Test func tokenLimitIsTwoToThe21() {
    var text = [UInt8](repeating: UInt8(ascii: "["), count: 1)
    for _ in 0..<(1 << 20) - 1 { text += [UInt8(ascii: "1"), UInt8(ascii: ",")] }
    // 1 + 2 * (2^20 - 1) tokens; the closing number and bracket make 2^21 + 1.
    #expect(items([text + Array("1]".utf8)]) == ["!JSON token count limit exceeded"])
  }

  /// A stream gives the same items however it is cut.
  @Test func anySplitGivesTheSameItems() {
    let stream =
      Array(
        (#"{"execute":"query-status","id":1}{'a':'x\u00e9\ud83d\ude00'}  12 nul true[1 2]"#
          + "\r\n" + #"{"a":@}  {"a":[1,2.5e3,-0,{"b":null}],"c":"d\\\"e"}"quer"#).utf8)
      + [0xFF] + Array("[\"é\u{1F600}\"]\t7 ]{\"k\":18446744073709551615}".utf8)
    let whole = items([stream])
    #expect(whole.count > 10)
    #expect(items(stream.map { [$0] }) == whole)
    for cut in 0...stream.count {
      #expect(items([Array(stream[..<cut]), Array(stream[cut...])]) == whole)
    }
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SplitMix(state: seed)
    for _ in 0..<300 {
      var pieces: [[UInt8]] = []
      var rest = stream[...]
      while !rest.isEmpty {
        let length = Int(random.next() % UInt64(min(9, rest.count))) + 1
        pieces.append(Array(rest.prefix(length)))
        rest = rest.dropFirst(length)
      }
      #expect(items(pieces) == whole, "seed \(seed)")
    }
  }

  /// Random bytes of the characters that matter never stop the framer, and cuts do not change it.
  @Test func randomInputIsSplitIndependent() {
    let alphabet =
      Array("{}[]:,\"'\\ue01-.+ntrlfasx \n\t@".utf8) + [0, 0x7F, 0x80, 0xC3, 0xA9, 0xFF]
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SplitMix(state: seed)
    for _ in 0..<2000 {
      let length = Int(random.next() % 40)
      let stream = (0..<length).map { _ in alphabet[Int(random.next() % UInt64(alphabet.count))] }
      #expect(items([stream]) == items(stream.map { [$0] }), "seed \(seed) \(stream)")
    }
  }

  @Test func readingStopsBetweenValues() {
    var framer = JSONFramer()
    framer.feed(Array("{}{}".utf8))
    #expect(framer.next() != nil)
    #expect(framer.hasUnread)
    #expect(framer.next() != nil)
    #expect(!framer.hasUnread)
  }
}

/// A small random sequence for reproducible tests.
struct SplitMix {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
    return mixed ^ (mixed >> 31)
  }
}
