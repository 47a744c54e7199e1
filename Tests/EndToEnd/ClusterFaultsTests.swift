import Support
import Testing

/// A machine on several nodes when things go wrong, in network namespaces, with the whole program: `faults.py` has the scenarios, each of
/// which can be run alone. The bound that a loss is noticed within is strict only without GOLIATH_TEST_SLACK.
@Suite(.serialized, .timeLimit(.minutes(10)), .enabled(if: Namespace.isUsable))
struct ClusterFaultsTests {
  private func run(_ scenarios: [String], seconds: Double = 300) throws {
    let python = try #require(Process.find("python3"))
    let script = Checkout.root + "/Tests/EndToEnd/faults.py"
    let result = try Process.output(
      [
        "unshare", "-rnm", "env", "GOLIATH_TEST_SLACK=5", python, script, "--shell",
        Goliath.program("goliath-shell"), Goliath.path,
      ] + scenarios, seconds: seconds)
    #expect(result.status == 0, "\(result.text)")
    for scenario in scenarios {
      #expect(result.text.contains("\(scenario): held"), "\(result.text)")
    }
  }

  @Test func nodesThatDifferAreRefusedByName() throws { try run(["refusals", "cpus"]) }

  /// kill -9 of any node under each policy; what it leaves stops no new start.
  @Test func aKilledNode() throws { try run(["kills", "again"]) }

  @Test func aCutLink() throws { try run(["cut"]) }

  /// 1|02 and 1|2, and going on without the lost node.
  @Test func aPartition() throws { try run(["partition"]) }

  /// SIGSTOP for less and for more than the lease.
  @Test func aNodeThatStandsStill() throws { try run(["stopped"]) }

  @Test func delayLossAndDamage() throws { try run(["weather", "damage"]) }

  /// `stop`, `cont` and a reset while a node stands still, for less and for more than they wait, or is killed in their midst.
  @Test func operationsWhileANodeStandsStillOrDies() throws { try run(["operations"]) }

  /// Certificates, keys, garbage, a flood of connections.
  @Test(.enabled(if: Process.find("certtool") != nil)) func whoMayJoin() throws {
    try run(["credentials"])
  }

  @Test func monitorsWhileNodesJoin() throws { try run(["joining"]) }

  /// Commands and events of any node, metrics, the shell's `cluster check` and `cluster top`.
  @Test func theAPIOfACluster() throws { try run(["api", "check"]) }
}
