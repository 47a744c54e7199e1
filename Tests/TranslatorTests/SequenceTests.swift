import Glibc
import Support
import Testing

/// Random sequences of instructions on the host CPU, in the interpreter and in the translator's forced modes (docs/testing.md).
///
/// They run in a program of their own, `cpu-oracle`: what crashes there is a finding, not the end of the tests.
/// `GOLIATH_ORACLE_CASES` sets the number of cases (otherwise a few seconds' worth), `GOLIATH_ORACLE_SEED` the seed.
@Suite(.serialized) struct SequenceTests {
  @Test(arguments: ["host", "machine"])
  func hostInterpreterAndTranslatorAgree(kind: String) throws {
    let folder = Goliath.path.split(separator: "/").dropLast().map { "/\($0)" }.joined()
    let seed = Process.environment("GOLIATH_ORACLE_SEED") ?? "\(UInt32.random(in: 1...999_999))"
    var command = [folder + "/cpu-oracle", "--seed", seed, "--kind", kind]
    if Process.environment("GOLIATH_ORACLE_CASES") == nil {
      command += ["--seconds", "4", "--cases", "1000000"]
    }
    let result = try Process.output(command, seconds: 3600)
    print(result.text)
    #expect(result.status == 0, "\(result.text)")
  }
}
