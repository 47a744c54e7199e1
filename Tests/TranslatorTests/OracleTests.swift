import COracle
import Glibc
import Oracle
import Testing

/// The host CPU is the judge: random instructions run natively in a child process and in the interpreter's user mode, and must
/// leave the same registers, defined flags, vector and x87 state, memory, and the same exception at the same place.
///
/// `GOLIATH_ORACLE_CASES` sets the number of cases of each set (otherwise a few seconds' worth), `GOLIATH_ORACLE_SEED` the seed.
@Suite(.serialized) struct OracleTests {
  @Test(arguments: OracleSet.allCases)
  func interpreterAgreesWithTheHost(_ set: OracleSet) throws {
    let seed = environment("GOLIATH_ORACLE_SEED") ?? UInt64(time(nil)) &* 0x9E37_79B9
    let cases = environment("GOLIATH_ORACLE_CASES").map { Int($0) }
    let limit = environment("GOLIATH_ORACLE_FAILURES").map { Int($0) } ?? 8
    if set == .avx, oracle_components() & 4 == 0 { return }
    let oracle = try OracleRun(set: set, seed: seed)
    let failures = try oracle.run(
      cases: cases ?? Int.max, seconds: cases == nil ? 4 : 3600, limit: limit)
    print("oracle \(set.rawValue): seed \(seed), \(oracle.count) cases, \(failures.count) failures")
    for failure in failures { Issue.record("\(failure)") }
    #expect(oracle.count > 100)
  }

  private func environment(_ name: String) -> UInt64? {
    guard let text = unsafe getenv(name) else { return nil }
    return UInt64(unsafe String(cString: text))
  }
}
