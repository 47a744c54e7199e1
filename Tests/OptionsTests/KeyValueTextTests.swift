import Options
import Support
import Testing

@Suite struct KeyValueTextTests {
  @Test func splitsAndJoins() {
    #expect(
      KeyValueText.split("a,,b,c=d=e,,f,flag,noflag,", impliedKey: "first") == [
        KeyValuePair("first", "a,b"), KeyValuePair("c", "d=e,f"),
        KeyValuePair("flag", "on", shortForm: "flag"),
        KeyValuePair("flag", "off", shortForm: "noflag"),
      ])
    #expect(KeyValueText.split("", impliedKey: "first").isEmpty)
    #expect(KeyValueText.split("x=", impliedKey: "first") == [KeyValuePair("x", "")])
    #expect(KeyValueText.join([KeyValuePair("a", ",,"), KeyValuePair("b", "")]) == "a=,,,,,b=")
  }

  @Test func joiningThenSplittingChangesNothing() {
    var generator = SystemRandomNumberGenerator()
    let seed = UInt64.random(in: 0 ... .max, using: &generator)
    print("joiningThenSplittingChangesNothing: seed \(seed)")
    var random = SplitMix(state: seed)
    let letters = Array("ab-.,=,\"' é\n0")
    for _ in 0..<2000 {
      let pairs = (0..<Int.random(in: 0...5, using: &random)).map { index in
        KeyValuePair(
          "key\(index)",
          String(
            (0..<Int.random(in: 0...8, using: &random)).map { _ in
              letters[Int.random(in: 0..<letters.count, using: &random)]
            }))
      }
      #expect(KeyValueText.split(KeyValueText.join(pairs), impliedKey: "first") == pairs)
    }
  }

  @Test func arbitraryArgumentsNeverTrap() {
    var random = SplitMix(state: 42)
    let pieces = [
      "-m", "-smp", "-machine", "-chardev", "-device", "-serial", "-mon", "-rtc", "-set", "-global",
      "-boot", "-fw_cfg", "-accel", "-nographic", ",", "=", ".", "1", "99999999999999999999", "0x",
      "-", "socket", "id=", "path=", "tcp:", "[", "]", ":", "{", "\"", "smp.", "k", "é", "", "on",
      "vc:", "x", "udp:", "@", "mon:", "-uuid", "base=", "T", "'",
    ]
    for _ in 0..<20_000 {
      let arguments = (0..<Int.random(in: 1...4, using: &random)).map { _ in
        (0..<Int.random(in: 1...5, using: &random)).map { _ in
          pieces[Int.random(in: 0..<pieces.count, using: &random)]
        }.joined()
      }
      _ = errorLines(arguments)
      _ = errorLines([pieces[Int.random(in: 0..<14, using: &random)]] + arguments)
    }
  }
}

/// A small generator that a seed repeats (SplitMix64).
struct SplitMix: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
    return mixed ^ (mixed >> 31)
  }
}
