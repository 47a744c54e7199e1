import Glibc
import Support
import Testing

/// Random sequences of instructions on the host CPU, in the interpreter and in the translator's forced modes (docs/testing.md).
///
/// They run in a program of their own, `cpu-oracle`: what crashes there is a finding, not the end of the tests.
/// `GOLIATH_ORACLE_CASES` sets the number of cases (otherwise a few seconds' worth), `GOLIATH_ORACLE_SEED` the seed.
@Suite(.serialized) struct SequenceTests {
  private static let isBounded = Process.environment("GOLIATH_ORACLE_CASES") == nil
  private static let seed =
    Process.environment("GOLIATH_ORACLE_SEED") ?? "\(UInt32.random(in: 1...999_999))"

  private func run(_ options: [String]) throws {
    let folder = Goliath.path.split(separator: "/").dropLast().map { "/\($0)" }.joined()
    let result = try Process.output([folder + "/cpu-oracle"] + options, seconds: 3600)
    print(result.text)
    #expect(result.status == 0, "\(result.text)")
  }

  @Test(arguments: ["host", "machine"])
  func hostInterpreterAndTranslatorAgree(kind: String) throws {
    try run(
      ["--seed", Self.seed, "--kind", kind]
        + (Self.isBounded
          ? ["--seconds", "4", "--cases", "1000000"] : ["--seconds", "40", "--cases", "12000"]))
  }

  /// Redundant and forbidden prefixes, all lengths, wild and wrapped addresses, jumps into instructions, code at the end of its page.
  @Test func unusualEncodingsAndAddressesEndAsOnTheHost() throws {
    try run(["--crafted", "--seconds", Self.isBounded ? "6" : "30"])
  }

  /// Guests that change their page tables, with their own exception handler: the same memory and registers at the end in every mode.
  @Test func wholeGuestsEndTheSameInEveryMode() throws {
    try run(["--seed", Self.seed, "--guests", "2", "--rounds", "150"])
  }
}
