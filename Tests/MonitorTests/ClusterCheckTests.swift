import Cluster
import JSON
import Monitor
import Testing

@Suite struct ClusterCheckTests {
  private func facts(
    _ node: Int, memory: String = "512M", cpu: String = "max",
    features: [String] = ["fpu", "sse2"],
    available: Int? = 8 << 30, program: String = "7.2.0"
  ) -> ClusterFacts {
    ClusterFacts(
      node: node, host: "host\(node)", address: "10.0.0.\(node + 1):771\(node)", vcpus: [node],
      items: [
        ConfigurationItem("-m", memory), ConfigurationItem("-cpu", cpu),
        ConfigurationItem("-append", ""),
      ], features: features, available: available, needed: 256 << 20, program: program)
  }

  @Test func factsSurviveTheWay() throws {
    let given = facts(1, available: nil)
    #expect(ClusterFacts(try JSONValue(parsing: given.json.printed())) == given)
    #expect(ClusterFacts(try JSONValue(parsing: facts(0).json.printed())) == facts(0))
    #expect(ClusterFacts(["node": 1]) == nil && ClusterFacts(.null) == nil)
  }

  @Test func nodesThatAgreeSaySo() {
    let check = ClusterCheck(
      id: "c", [facts(1), facts(0)],
      links: [1: .init(roundTripMicroseconds: 45.06, clockErrorNanoseconds: 900, isProtected: true)]
    )
    #expect(
      check.lines == [
        "cluster c: 2 nodes",
        "node 0: host0 at 10.0.0.1:7710, vcpus 0, 8.0 GiB of memory",
        "node 1: host1 at 10.0.0.2:7711, vcpus 1, 8.0 GiB of memory, rtt 45.1 us, clock +/-900 ns, tls",
        "the nodes agree",
      ])
    #expect(check.json["ok"] == true && check.json["nodes"]?[1]?["tls"] == true)
  }

  @Test func everyDifferenceIsNamedAtOnce() {
    let check = ClusterCheck(
      id: "c",
      [
        facts(0, features: ["fpu", "sse2", "avx2"]), facts(1, memory: "1G"), facts(2),
      ], links: [:])
    #expect(check.differences == ["-m: node 0 has 512M, node 1 has 1G, node 2 has 512M"])
    let text = "CPU features differ: node 1 lacks avx2, node 2 lacks avx2"
    #expect(check.warnings == [text + "; the guest does without"])
    #expect(check.lines.last == "the nodes would not start" && check.json["ok"] == false)
    let strict = ClusterCheck(
      id: "c",
      (0...2).map {
        facts(
          $0, cpu: "max,enforce", features: $0 == 0 ? ["fpu", "sse2", "avx2"] : ["fpu", "sse2"])
      }, links: [:])
    #expect(strict.differences == [text])
  }

  @Test func countersOfDifferentSpeedKeepItFromStarting() throws {
    var all = [facts(0), facts(1)]
    all[0].counterKilohertz = 3_000_000
    all[1].counterKilohertz = 2_600_000
    let far = try all.map { try #require(ClusterFacts(JSONValue(parsing: $0.json.printed()))) }
    #expect(
      ClusterCheck(id: "c", far, links: [:]).differences
        == ["TSC frequency differs: node 0 has 3000.000 MHz, node 1 has 2600.000 MHz"])
    all[1].counterKilohertz = 3_000_100
    #expect(ClusterCheck(id: "c", all, links: [:]).differences == [])
  }

  @Test func whatIsMissingIsADifferenceToo() {
    var second = facts(1)
    second.items.removeLast()
    second.items.append(ConfigurationItem("-shm-path", "/x"))
    #expect(
      ClusterCheck(id: "c", [facts(0), second], links: [:]).differences == [
        "-append: node 0 has , node 1 has nothing", "-shm-path: node 0 has nothing, node 1 has /x",
      ])
  }

  @Test func whatWillHurtIsWarnedOf() {
    let check = ClusterCheck(
      id: "c", [facts(0), facts(1, available: 100 << 20, program: "8")],
      links: [
        1: .init(
          roundTripMicroseconds: 2500, clockErrorNanoseconds: 2_000_000, isProtected: false)
      ])
    #expect(
      check.warnings == [
        "node 1: host host1 has 100.0 MiB of memory to give, and the node's part of RAM is 256.0 MiB",
        "node 1 is version 8, node 0 is 7.2.0",
        "node 1: a round trip takes 2.5 ms; the guest waits so long for each page and device access",
        "node 1: its clock is known to 2.0 ms only",
      ])
    #expect(check.differences.isEmpty)
  }
}
