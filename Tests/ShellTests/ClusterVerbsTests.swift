import JSON
import Testing
import goliath_shell

@Suite struct ClusterVerbsTests {
  private func complaint(_ arguments: [String]) -> String? {
    do throws(LineError) {
      _ = try ClusterCommandLine(arguments)
      return nil
    } catch { return error.description }
  }

  @Test func checkPutsItsWordBehindTheProgramsOptions() throws {
    #expect(
      try ClusterCommandLine(["check", "--", "goliath", "-smp", "2"])
        == .check(program: "goliath", arguments: ["-smp", "2", "-cluster", "check=on"]))
    #expect(
      try ClusterCommandLine(["check", "--json", "/bin/goliath"])
        == .check(program: "/bin/goliath", arguments: ["-cluster", "check=json"]))
    // Options of the program are its own, also those that look like ours.
    #expect(
      try ClusterCommandLine(["check", "goliath", "--json"])
        == .check(program: "goliath", arguments: ["--json", "-cluster", "check=on"]))
  }

  @Test func topHasAnAddressAndItsPace() throws {
    var wanted = ClusterCommandLine.TopOptions(address: "/run/vm.qmp")
    #expect(try ClusterCommandLine(["top", "/run/vm.qmp"]) == .top(wanted))
    wanted.interval = 0.5
    wanted.count = 3
    wanted.pages = 20
    #expect(
      try ClusterCommandLine(["top", "-d", "0.5", "/run/vm.qmp", "-n", "3", "-p", "20"])
        == .top(wanted))
  }

  @Test func mistakesAreToldWithASentence() {
    #expect(complaint(["chek"]) == "cluster: there is no 'chek'; it is check or top")
    #expect(complaint(["top"]) == "cluster top: the address of a QMP monitor is missing")
    #expect(complaint(["top", "a", "b"]) == "cluster top: one address only")
    #expect(complaint(["top", "a", "-n"]) == "option '-n' needs a value")
    #expect(complaint(["top", "a", "-n", "0"]) == "option '-n' takes a number from 1, not '0'")
    #expect(complaint(["top", "-x", "a"]) == "cluster top: unknown option '-x'; see --help")
    #expect(complaint(["check", "-x"]) == "cluster check: unknown option '-x'; see --help")
    #expect(
      complaint(["check", "--"])?.hasPrefix("cluster check: what to start is missing") == true)
    #expect(complaint([]) == nil && complaint(["--help"]) == nil)
  }
}

@Suite struct ClusterScreenTests {
  private static let cluster: JSONValue = [
    "id": "c", "node": 0, "state": "running", "epoch": 2, "memory": "dsm",
    "nodes": [
      ["node": 0, "address": "a", "state": "joined", "vcpus": [0, 1], "tls": false],
      [
        "node": 1, "address": "b", "state": "lost", "vcpus": [2], "tls": true, "rtt-us": 45.06,
        "last-heartbeat-ms": 1700, "clock-error-ns": 900, "reason": "no heartbeat",
      ],
    ],
  ]

  private func memory(_ reads: Int) -> JSONValue {
    [
      "faults": ["read": JSONValue(reads), "write": 5, "upgrade": 0], "invalidations": 7,
      "fault-mean-us": 33, "pages": ["modified": 10, "shared": 20, "invalid": 30], "hot-pages": 1,
    ]
  }

  @Test func ratesAreWhatGrewASecond() {
    var first = ClusterSample(time: 1_000_000_000, cluster: Self.cluster)
    first.memory = [0: memory(100)]
    var second = ClusterSample(time: 3_000_000_000, cluster: Self.cluster)
    second.memory = [0: memory(5100)]
    second.status = ["status": "running", "running": true]
    second.hotPages = [
      [
        "address": 0x1000, "home": 0, "transfers": 500, "transfers-per-second": 250.5,
        "upgrades": 3,
      ]
    ]
    #expect(
      ClusterScreen.lines(second, since: first) == [
        "cluster c: running, guest running, epoch 2, memory dsm, seen from node 0",
        "NODE  STATE   VCPUS  RTT us  HEARD ms  CLOCK ns  READ/s  WRITE/s  UPGR/s  INVAL/s  MEAN us   M   S  HOT",
        "0     joined    0-1       -         -         -    2500        0       0        0     33.0  10  20    1",
        "1     lost        2    45.1      1700       900       -        -       -        -        -   -   -    -",
        "node 1: no heartbeat", "",
        "PAGE    MOVES/s  MOVES  UPGRADES  HOME  OWNER",
        "0x1000  250.5      500         3     0      -",
      ])
    // Nothing to compare with yet.
    #expect(ClusterScreen.lines(first, since: nil)[2].contains("-       -        -       -"))
  }

  @Test func aCounterThatBeganAnewIsNoNegativeRate() {
    var first = ClusterSample(time: 0, cluster: Self.cluster)
    first.memory = [0: memory(1000)]
    var second = ClusterSample(time: 1_000_000_000, cluster: Self.cluster)
    second.memory = [0: memory(10)]
    #expect(ClusterScreen.lines(second, since: first)[2].contains("      10        0"))
  }

  @Test func sharedMemoryHasNoColumnsOfPages() {
    let cluster: JSONValue = [
      "id": "c", "node": 1, "state": "frozen", "epoch": 1, "memory": "shm", "reason": "node 0 lost",
      "nodes": [["node": 0, "state": "joined", "vcpus": [0]]],
    ]
    let lines = ClusterScreen.lines(ClusterSample(time: 0, cluster: cluster), since: nil)
    #expect(lines[1] == "reason: node 0 lost")
    #expect(lines[2] == "NODE  STATE   VCPUS  RTT us  HEARD ms  CLOCK ns")
  }

  @Test func nonsenseOfAServerDoesNoHarm() {
    let odd: JSONValue = ["nodes": [[:], 1, "x"], "memory": "dsm"]
    var sample = ClusterSample(time: 0, cluster: odd)
    sample.hotPages = [1, [:], ["address": -1]]
    #expect(ClusterScreen.lines(sample, since: sample).count > 3)
  }
}
