import Cluster
import Host
import JSON
import Monitor
import QAPI
import Support
import Testing

@Suite struct ClusterMonitorsTests {
  @Test func everyNodeTellsOfAllNodes() async throws {
    try await MonitoredCluster.run(3) { cluster in
      for (number, node) in cluster.nodes.enumerated() {
        let client = try QMPClient(path: node.path())
        let info = try client.run("query-cluster")["return"]
        #expect(info?["node"] == JSONValue(number))
        #expect(info?["state"] == "running" && info?["memory"] == "dsm" && info?["epoch"] == 1)
        #expect(info?["nodes"]?.arrayValue?.map { $0["node"]?.intValue } == [0, 1, 2])
        #expect(info?["nodes"]?[2]?["vcpus"] == [4, 5])
        #expect((info?["nodes"]?[number]?["rtt-us"] == nil) == true)
      }
    }
  }

  @Test func aMachineOnOneNodeSaysSo() async throws {
    try await MonitoredMachine.run { machine in
      let client = try QMPClient(path: machine.path())
      for (command, arguments) in [
        ("query-cluster", "{}"), ("query-dsm", "{}"), ("query-dsm-hot-pages", "{}"),
        ("cluster-execute", #"{"node":0,"command":"query-name"}"#),
        ("cluster-continue", #"{"accept-loss":true}"#),
      ] {
        #expect(
          try client.run(command, arguments)["error"]?["desc"] == "This machine runs on one node")
      }
      #expect(try client.run("query-cpus-fast")["return"] == [])
    }
  }

  @Test func commandsAboutTheMachineRunOnNodeZero() async throws {
    try await MonitoredCluster.run { cluster in
      let zero = try QMPClient(path: cluster.nodes[0].path())
      let one = try QMPClient(path: cluster.nodes[1].path())
      // The button of either monitor is node 0's, and everybody hears of it once.
      #expect(try one.run("system_powerdown")["return"] == [:])
      for client in [zero, one] {
        let event = try client.event("POWERDOWN")
        #expect(event["data"]?["node"] == 0)
      }
      let history = try one.run("x-events-since")["return"]?["events"]?.arrayValue ?? []
      #expect(history.filter { $0["event"] == "POWERDOWN" }.count == 1)
      // What fails there fails here, in the same words.
      let failure = try one.run("query-balloon")["error"]
      #expect(failure?["class"] == "DeviceNotActive")
      #expect(failure?["desc"] == "No balloon device has been activated")
    }
  }

  @Test func theEventOfACommandComesBeforeItsReplyOnAnyNode() async throws {
    try await MonitoredCluster.run { cluster in
      let one = try QMPClient(path: cluster.nodes[1].path())
      try one.send(#"{"execute":"system_powerdown","id":7}"#)
      #expect(try one.receive()["event"] == "POWERDOWN")
      #expect(try one.receive()["id"] == 7)
    }
  }

  @Test func anyCommandRunsOnAnyNode() async throws {
    try await MonitoredCluster.run { cluster in
      let zero = try QMPClient(path: cluster.nodes[0].path())
      let there = try zero.run(
        "cluster-execute", #"{"node":1,"command":"query-chardev"}"#)["return"]
      #expect(there?[0]?["filename"]?.stringValue?.contains(cluster.nodes[1].folder) == true)
      // A reply of many frames, and the node's own one too.
      let schema = try zero.run("query-qmp-schema")["return"]
      for node in 0...1 {
        let other = try zero.run(
          "cluster-execute", #"{"node":\#(node),"command":"query-qmp-schema"}"#)["return"]
        #expect(other == schema && schema?.text.utf8.count ?? 0 > 100_000)
      }
      let human = try zero.run(
        "cluster-execute",
        #"{"node":1,"command":"human-monitor-command","arguments":{"command-line":"info name"}}"#)
      #expect(human["error"]?["desc"] != nil || human["return"] != nil)
    }
  }

  @Test func whatCannotBeExecutedIsToldWithASentence() async throws {
    try await MonitoredCluster.run(3) { cluster in
      await cluster.controls[0].set(2, .lost, reason: "no heartbeat for 1500 ms")
      let zero = try QMPClient(path: cluster.nodes[0].path())
      for (arguments, sentence) in [
        (#"{"node":3,"command":"query-name"}"#, "There is no node 3; nodes are 0 to 2"),
        (#"{"node":2,"command":"query-name"}"#, "Node 2 is not there (lost)"),
        (#"{"node":1,"command":"nonsense"}"#, "The command nonsense has not been found"),
        (
          #"{"node":1,"command":"qmp_capabilities"}"#,
          "The command qmp_capabilities has not been found"
        ),
        (
          #"{"node":1,"command":"query-name","arguments":{"x":1}}"#, "Parameter 'x' is unexpected"
        ),
        (
          #"{"node":1,"command":"query-name","arguments":[]}"#,
          "Invalid parameter type for 'arguments', expected: object"
        ),
      ] {
        let error = try zero.run("cluster-execute", arguments)["error"]
        #expect(error?["desc"] == .string(sentence))
      }
    }
  }

  @Test func whoMayNotRunACommandMayNotRunItElsewhere() async throws {
    try await MonitoredCluster.run(access: ["read-only+cluster-execute"]) { cluster in
      let zero = try QMPClient(path: cluster.nodes[0].path())
      let allowed = try zero.run("cluster-execute", #"{"node":1,"command":"query-name"}"#)
      #expect(allowed["return"] == ["name": "guest"])
      let refused = try zero.run("cluster-execute", #"{"node":1,"command":"quit"}"#)
      #expect(refused["error"]?["desc"] == "The command quit is not allowed on this monitor")
    }
  }

  @Test func aCommandOfALostNodeFailsAndOthersGoOn() async throws {
    try await MonitoredCluster.run { cluster in
      let zero = try QMPClient(path: cluster.nodes[0].path())
      try zero.send(
        #"{"execute":"cluster-execute","arguments":{"node":1,"command":"x-wait-event"},"id":1}"#)
      let other = try QMPClient(path: cluster.nodes[0].path())
      while try other.run("x-commands-in-flight")["return"]?[0]?["id"] != 1 {}
      cluster.network.kill(1)
      let reply = try zero.receive()
      #expect(reply["error"]?["desc"] == "Node 1 was lost before it answered")
      #expect(try zero.run("query-name")["return"] == ["name": "guest"])
    }
  }

  @Test func withoutNodeZeroANodeAnswersForItself() async throws {
    try await MonitoredCluster.run { cluster in
      await cluster.controls[1].set(0, .lost, reason: "its connection was closed")
      await cluster.controls[1].set(.frozen, reason: "node 0 is lost")
      let one = try QMPClient(path: cluster.nodes[1].path())
      #expect(try one.run("query-status")["return"]?["running"] != nil)
      #expect(try one.run("query-cluster")["return"]?["reason"] == "node 0 is lost")
      // Nobody else would tell of it now.
      await cluster.nodes[1].emit([.stop])
      #expect(try one.event("STOP")["data"] == ["node": 1])
    }
  }

  @Test func eventsOfEveryNodeReachAllWithTheirNode() async throws {
    try await MonitoredCluster.run(3) { cluster in
      let clients = try cluster.nodes.map { try QMPClient(path: $0.path()) }
      await cluster.nodes[2].emit([
        .stop, .vserportChange(id: "agent", open: true),
        .clusterNodeSuspect(peer: 0, lastHeartbeatMs: 600),
      ])
      for (number, client) in clients.enumerated() {
        // STOP of a node that follows is node 0's to tell; what a node knows of another stays with it.
        let first = try client.receive()
        #expect(first["event"] == "VSERPORT_CHANGE")
        #expect(first["data"] == ["id": "agent", "open": true, "node": 2])
        if number == 2 {
          #expect(
            try client.receive()["data"]
              == ["peer": 0, "last-heartbeat-ms": 600, "node": 2])
        }
      }
      await cluster.nodes[0].emit([.stop])
      for client in clients { #expect(try client.event("STOP")["data"] == ["node": 0]) }
    }
  }

  @Test func memoryBetweenNodesIsToldOfEach() async throws {
    try await MonitoredCluster.run { cluster in
      let zero = try QMPClient(path: cluster.nodes[0].path())
      #expect(try zero.run("query-dsm")["return"]?["faults"]?["read"] == 10)
      let other = try zero.run("query-dsm", #"{"node":1}"#)["return"]
      #expect(other?["node"] == 1 && other?["faults"]?["read"] == 11)
      #expect(other?["fault-mean-us"] == 7.25)
      let pages = try zero.run("query-dsm-hot-pages")["return"]?.arrayValue ?? []
      #expect(pages.map { $0["home"]?.intValue } == [1, 0])
      #expect(pages.first?["address"] == 0x2000)
      #expect(
        try zero.run("query-dsm-hot-pages", #"{"limit":1}"#)["return"]?.arrayValue?.count == 1)
      #expect(
        try zero.run("query-dsm-hot-pages", #"{"node":0}"#)["return"]?[0]?["home"] == 0)
      #expect(
        try zero.run("query-dsm-hot-pages", #"{"limit":0}"#)["error"]?["desc"]
          == "Parameter 'limit' expects a number from 1 to 1024")
    }
  }

  @Test func sharedMemoryHasNoPagesToCount() async throws {
    try await MonitoredCluster.run(memory: .shm) { cluster in
      let zero = try QMPClient(path: cluster.nodes[0].path())
      for command in ["query-dsm", "query-dsm-hot-pages"] {
        #expect(
          try zero.run(command)["error"]?["desc"]
            == "The nodes share RAM through their host (memory=shm); no pages move between them")
      }
    }
  }

  @Test func goingOnWithoutANodeMustBeMeant() async throws {
    try await MonitoredCluster.run { cluster in
      let zero = try QMPClient(path: cluster.nodes[0].path())
      #expect(
        try zero.run("cluster-continue", #"{"accept-loss":false}"#)["error"]?["desc"]
          == "Memory of the lost nodes may be gone; 'accept-loss' must be true")
      #expect(
        try zero.run("cluster-continue", #"{"accept-loss":true}"#)["error"]?["desc"]
          == "The cluster is not frozen")
      await cluster.controls[0].set(.frozen)
      #expect(try zero.run("cluster-continue", #"{"accept-loss":true}"#)["return"] == [:])
      #expect(await cluster.controls[0].continuations == 1)
    }
  }

  @Test func virtualProcessorsOfAllNodesAreListed() async throws {
    try await MonitoredCluster.run { cluster in
      let zero = try QMPClient(path: cluster.nodes[0].path())
      let list = try zero.run("query-cpus-fast")["return"]?.arrayValue ?? []
      // The machines of this test have no vCPUs of their own: only node 1's are known here.
      #expect(list.map { $0["cpu-index"]?.intValue } == [2, 3])
      #expect(list.allSatisfy { $0["node"] == 1 })
      #expect(list.allSatisfy { $0["thread-id"] == JSONValue(HostThread.processID) })
      #expect(list.first?["qom-path"] == "/machine/unattached/device[2]")
    }
  }

  @Test func theHumanMonitorShowsTheCluster() async throws {
    try await MonitoredCluster.run { cluster in
      let text = await Self.lines(
        cluster, ["info cluster", "info dsm", "info dsm 1", "info dsm-hot 1", "cluster_continue"])
      #expect(
        text == [
          """
          cluster paper: running, epoch 1, this is node 0
          memory=dsm home=numa on-node-loss=pause
          node 0: joined at 127.0.0.1:7710, vcpus 0-1
          node 1: joined at 127.0.0.1:7711, vcpus 2-3, rtt 12.3 us, heard 40 ms ago

          """,
          """
          node 0: pages of 4096 bytes: 3 modified, 2 shared, 1 invalid; home of 6
          faults: 10 read, 20 write, 30 upgrade; mean 7.3 us
          transfers: 1 full, 2 zero, 0 diff, 4 grant
          taken away: 5, 1 of them held; waits for devices 0 us
          prefetch: 8 used, 9 wasted; hot pages: 1

          """,
          """
          node 1: pages of 4096 bytes: 3 modified, 2 shared, 1 invalid; home of 6
          faults: 11 read, 20 write, 30 upgrade; mean 7.3 us
          transfers: 1 full, 2 zero, 0 diff, 4 grant
          taken away: 5, 1 of them held; waits for devices 0 us
          prefetch: 8 used, 9 wasted; hot pages: 1

          """,
          "0000000000002000: 301.0/s, 101 transfers, 1 upgrades, 2 writers; home node 1, owner node 1\n",
          "Error: Memory of the lost nodes may be gone; 'accept-loss' must be true\n",
        ])
    }
  }

  @MainLoop
  private static func lines(_ cluster: MonitoredCluster, _ lines: [String]) async -> [String] {
    let monitor = PaperMonitor(cluster.nodes[0])
    var text: [String] = []
    for line in lines { text.append(await monitor.runToEnd(line)) }
    return text
  }
}

@Suite struct ClusterMessageTests {
  private func pass(_ count: Int) -> [UInt8]? {
    let text = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    var assembly = ClusterMessage.Assembly()
    var whole: [UInt8]?
    for frame in ClusterMessage.frames(text, number: 9, isAnswer: true) {
      #expect(frame.body.count <= ClusterMessage.pieceSize && whole == nil)
      if let message = assembly.take(frame.header.argument, frame.body) {
        #expect(message.number == 9 && message.isAnswer)
        whole = message.text
      }
    }
    #expect(whole == text)
    return whole
  }

  @Test func textsOfAnyLengthArriveWhole() {
    let piece = ClusterMessage.pieceSize
    for count in [0, 1, piece - 1, piece, piece + 1, 5 * piece + 3] { #expect(pass(count) != nil) }
  }

  @Test func piecesOfSeveralMessagesDoNotMix() {
    let long = [UInt8](repeating: 1, count: 2 * ClusterMessage.pieceSize)
    let first = ClusterMessage.frames(long, number: 1, isAnswer: false)
    let second = ClusterMessage.frames([2], number: 1, isAnswer: true)
    var assembly = ClusterMessage.Assembly()
    #expect(assembly.take(first[0].header.argument, first[0].body) == nil)
    #expect(assembly.take(second[0].header.argument, second[0].body)?.text == [2])
    #expect(assembly.take(first[1].header.argument, first[1].body)?.text == long)
  }

  @Test func aMessageWithoutEndIsThrownAway() {
    var assembly = ClusterMessage.Assembly()
    let piece = [UInt8](repeating: 0, count: 1 << 20)
    for _ in 0..<64 { #expect(assembly.take(5, piece) == nil) }
    #expect(assembly.take(5, piece) == nil)
    // It starts afresh.
    #expect(assembly.take(5 | 1 << 62, [1])?.text == [1])
  }
}
