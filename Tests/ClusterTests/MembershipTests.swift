import Cluster
import Host
import Support
import Synchronization
import Testing

/// A machine that notes what the cluster asks of it.
final class NotingMachine: ClusterDelegate {
  private let notes = Mutex<[String]>([])
  private let times = Mutex<[String: Int64]>([:])
  let word = WaitWord()
  let cannot: Bool
  init(cannot: Bool = false) { self.cannot = cannot }

  private func note(_ text: String) {
    notes.withLock { $0.append(text) }
    times.withLock { $0[text] = HostClock.monotonic }
    word.advance()
  }
  var all: [String] { notes.withLock { $0 } }
  func time(_ prefix: String) -> Int64? {
    times.withLock { $0.first { $0.key.hasPrefix(prefix) }?.value }
  }

  func clusterEvent(_ event: ClusterEvent) {
    switch event {
    case .joined: note("joined")
    case .suspect(let node): note("suspect \(node.rawValue)")
    case .recovered(let node): note("recovered \(node.rawValue)")
    case .lost(let node, let epoch, _): note("lost \(node.rawValue) epoch \(epoch)")
    case .frozen(let reason): note("frozen: \(reason)")
    case .resumed: note("resumed")
    case .left(let node): note("left \(node.rawValue)")
    case .protocolError(let node, let text): note("error \(node.rawValue): \(text)")
    }
  }
  func prepare(_ operation: ClusterOperation) -> Bool {
    note("prepare \(operation.kind) \(operation.payload)")
    return !cannot
  }
  func commit(_ operation: ClusterOperation) { note("commit \(operation.kind)") }
  func finish(_ operation: ClusterOperation) { note("finish \(operation.kind)") }
  func abort(_ operation: ClusterOperation) { note("abort \(operation.kind)") }

  /// Waits until a note begins so, at most ten seconds.
  func wait(_ prefix: String) -> Bool {
    let end = HostClock.monotonic + 10_000_000_000
    while HostClock.monotonic < end {
      let seen = word.value
      if all.contains(where: { $0.hasPrefix(prefix) }) { return true }
      word.wait(while: seen, nanoseconds: 100_000_000)
    }
    return false
  }
}

/// Clusters of one process that have started, over links in memory.
final class RunningNodes: Sendable {
  let network: InMemoryNetwork
  let clusters: [JoinedCluster]
  let machines: [NotingMachine]

  init(
    _ count: Int, cannot: Int? = nil, heartbeat: Int = 40, lease: Int = 400,
    operationSeconds: Double = 10, behaviour: InMemoryNetwork.Behaviour = .init()
  ) throws {
    network = InMemoryNetwork(nodeCount: count, behaviour)
    machines = (0..<count).map { NotingMachine(cannot: $0 == cannot) }
    let addresses = (0..<count).map { SocketAddress.abstract(name: "n\($0)", isTight: true) }
    var clusters: [JoinedCluster] = []
    for node in 0..<count {
      var configuration = JoinFixture.configuration(node, addresses)
      configuration.heartbeatMilliseconds = heartbeat
      configuration.leaseMilliseconds = lease
      let cluster = JoinedCluster(
        configuration, network[node], operationSeconds: operationSeconds)
      cluster.setDelegate(machines[node])
      clusters.append(cluster)
    }
    self.clusters = clusters
    try network.start()
    let owners = (0..<count).map { NodeID(rawValue: UInt8($0)) }
    for cluster in clusters { cluster.joined(vcpuOwners: owners, instance: 42, offers: []) }
    for cluster in clusters { cluster.ready() }
    let starts = try clusters.map { cluster in
      try HostThread(name: "start") { _ = try? cluster.waitForStart(payload: [1]) }
    }
    for start in starts { start.join() }
  }

  func end() {
    let leaving = clusters.compactMap { cluster in
      try? HostThread(name: "leave") { cluster.leave() }
    }
    for thread in leaving { thread.join() }
    network.shutDown()
  }
}

@Suite(.serialized) struct MembershipTests {
  private func node(_ number: UInt8) -> NodeID { NodeID(rawValue: number) }

  @Test func healthyClusterRunsOn() throws {
    // Heartbeats far enough apart for a host that is busy otherwise.
    let nodes = try RunningNodes(
      3, heartbeat: 500, lease: 5000, behaviour: .init(seed: 3, longestDelayMicroseconds: 200))
    HostClock.sleep(nanoseconds: 1_500_000_000)
    for (index, cluster) in nodes.clusters.enumerated() {
      #expect(nodes.machines[index].all == ["joined"])
      let status = cluster.status
      #expect(status.state == .running && status.epoch == 1)
      #expect(status.nodes.map(\.state) == [.alive, .alive, .alive])
      for other in status.nodes where other.node != cluster.node {
        #expect((other.lastHeartbeatMilliseconds ?? 9000) < 1500)
        #expect((other.roundTripNanoseconds ?? 0) > 0)
        #expect(other.vcpus == [UInt32(other.node.rawValue)])
      }
    }
    nodes.end()
  }

  @Test func deadNodeIsLostForAllAndTheClusterStands() throws {
    let nodes = try RunningNodes(4)
    let killed = HostClock.monotonic
    nodes.network.kill(2)
    for index in [0, 1, 3] {
      let machine = nodes.machines[index]
      #expect(machine.wait("lost 2 epoch 2"))
      #expect(machine.wait("frozen: node 2 is lost"))
      #expect(nodes.clusters[index].status.state == .frozen)
      #expect(nodes.clusters[index].status.epoch == 2)
      #expect(nodes.clusters[index].status.nodes[2].state == .lost)
      // Those that live go on speaking with each other.
      #expect((machine.time("lost 2") ?? .max) - killed < 400_000_000)
    }
    #expect(nodes.network[0].epoch == 2)
    nodes.end()
  }

  @Test func partitionIsNoticedWithinTheLeaseAndNobodyRunsInBothHalves() throws {
    let lease = 400
    let nodes = try RunningNodes(4, lease: lease)
    HostClock.sleep(nanoseconds: 200_000_000)
    let cut = HostClock.monotonic
    // 0 and 1 against 2 and 3.
    for (a, b) in [(0, 2), (0, 3), (1, 2), (1, 3)] { nodes.network.cut(a, b) }
    // The half without node 0 stands by itself.
    for index in [2, 3] {
      #expect(nodes.machines[index].wait("frozen: node 0 has not renewed the lease"))
      let frozen = try #require(nodes.machines[index].time("frozen"))
      #expect(frozen - cut <= Int64(lease + 200) * 1_000_000)
    }
    for lost in ["lost 2", "lost 3"] {
      #expect(nodes.machines[0].wait(lost))
      #expect(nodes.machines[1].wait(lost))
      let noticed = try #require(nodes.machines[0].time(lost))
      #expect(noticed - cut <= Int64(lease + 200) * 1_000_000)
      // Before it may be gone on without them, they stand for certain.
      #expect(!nodes.clusters[0].isFenced(node(2)) || nodes.machines[2].time("frozen") != nil)
    }
    #expect(nodes.machines[0].wait("suspect 2"))
    let end = HostClock.monotonic + 5_000_000_000
    while !(nodes.clusters[0].isFenced(node(2)) && nodes.clusters[0].isFenced(node(3))),
      HostClock.monotonic < end
    { HostClock.sleep(nanoseconds: 10_000_000) }
    #expect(nodes.clusters[0].isFenced(node(2)))
    let fenced = HostClock.monotonic
    for index in [2, 3] { #expect((nodes.machines[index].time("frozen") ?? .max) < fenced) }
    #expect(nodes.clusters[0].acceptLoss())
    #expect(nodes.clusters[0].status.state == .running)
    nodes.network.shutDown()
    nodes.end()
  }

  @Test func nodeWhoseLeaseRanOutGoesOnWhenNodeZeroLetsIt() throws {
    // Node 0 hears node 1, but is not heard: node 1 stands. Then it is.
    let nodes = try RunningNodes(2, lease: 300)
    // The link is cut for less than node 0's lease from its last heartbeat, but longer than node 1's from its last renewal: hold back
    // both directions close to the lease several times.
    for _ in 0..<3 {
      nodes.network.cut(0, 1)
      HostClock.sleep(nanoseconds: 230_000_000)
      nodes.network.join(0, 1)
      HostClock.sleep(nanoseconds: 150_000_000)
    }
    #expect(nodes.clusters[0].status.nodes[1].state == .alive)
    #expect(!nodes.machines[0].all.contains { $0.hasPrefix("lost") })
    let text = nodes.machines[1].all.joined(separator: "\n")
    #expect(
      nodes.clusters[1].status.state == .running
        || nodes.machines[1].wait("resumed"), "\(text)")
    nodes.end()
  }

  @Test func linkBetweenTwoOthersThatBreaksCostsOneOfThem() throws {
    let nodes = try RunningNodes(3)
    // Node 1 sends node 2 a frame that nobody handles: node 2 ends the link and tells node 0.
    nodes.network[1].send(FrameHeader(.doorbell), to: node(2))
    #expect(nodes.machines[2].wait("error 1"))
    #expect(nodes.machines[0].wait("lost"))
    #expect(nodes.network[2].counters.protocolErrors == 1)
    nodes.end()
  }

  /// What one sends the other does not get, while it hears it: both find the link lost within the lease.
  @Test(arguments: [0, 1]) func linkThatWorksOneWayIsLostWithinTheLease(_ deaf: Int) throws {
    let lease = 1000
    let nodes = try RunningNodes(2, heartbeat: 100, lease: lease)
    HostClock.sleep(nanoseconds: 300_000_000)
    let cut = HostClock.monotonic
    nodes.network.cut(from: 1 - deaf, to: deaf)
    #expect(nodes.machines[0].wait("lost 1"))
    #expect(nodes.machines[1].wait("frozen"))
    let lost = try #require(nodes.machines[0].time("lost 1"))
    let frozen = try #require(nodes.machines[1].time("frozen"))
    #expect(lost - cut <= Int64(lease + 200) * 1_000_000)
    #expect(frozen - cut <= Int64(lease + 200) * 1_000_000)
    nodes.network.shutDown()
    nodes.end()
  }

  @Test func operationIsDoneByAllInTwoSteps() throws {
    let nodes = try RunningNodes(3, behaviour: .init(seed: 9, longestDelayMicroseconds: 300))
    try nodes.clusters[0].perform(ClusterOperation(.stop, payload: [7]))
    // Any node may ask.
    try nodes.clusters[2].perform(ClusterOperation(.cont))
    try nodes.clusters[1].perform(ClusterOperation(.reset))
    for machine in nodes.machines {
      #expect(machine.wait("finish reset"))
      #expect(
        machine.all.filter { $0 != "joined" } == [
          "prepare stop [7]", "commit stop", "finish stop", "prepare cont []", "commit cont",
          "finish cont", "prepare reset []", "commit reset", "finish reset",
        ])
    }
    // No node committed before all were prepared, none finished before all had committed.
    let prepared = nodes.machines.compactMap { $0.time("prepare stop") }.max() ?? .max
    let committed = nodes.machines.compactMap { $0.time("commit stop") }
    #expect(prepared <= committed.min() ?? 0)
    #expect(
      (committed.max() ?? .max) <= (nodes.machines.compactMap { $0.time("finish stop") }.min() ?? 0)
    )
    nodes.end()
  }

  @Test func operationThatANodeCannotDoIsAborted() throws {
    let nodes = try RunningNodes(3, cannot: 2)
    #expect(throws: ClusterError(.aborted, "node 2 cannot")) {
      try nodes.clusters[0].perform(ClusterOperation(.reset))
    }
    #expect(throws: ClusterError(.aborted, "node 2 cannot")) {
      try nodes.clusters[1].perform(ClusterOperation(.stop))
    }
    for machine in nodes.machines {
      #expect(!machine.all.contains { $0.hasPrefix("commit") || $0.hasPrefix("finish") })
    }
    for machine in nodes.machines[0...1] {
      // Who was asked before the refusal came is told that it does not happen; who was not is never asked.
      for kind in ["reset", "stop"]
      where machine.all.contains(where: { $0.hasPrefix("prepare \(kind)") }) {
        #expect(machine.wait("abort \(kind)"))
      }
      #expect(!machine.all.contains { $0.hasPrefix("commit") || $0.hasPrefix("finish") })
    }
    // Nobody is left in the midst of one: each is asked again.
    for _ in 0..<50 {
      #expect(throws: ClusterError(.aborted, "node 2 cannot")) {
        try nodes.clusters[0].perform(ClusterOperation(.cont))
      }
    }
    nodes.end()
  }

  @Test func operationThatANodeDoesNotAnswerIsAborted() throws {
    // A cut that is shorter than the lease: the node lives, but does not prepare.
    let nodes = try RunningNodes(3, lease: 3000, operationSeconds: 0.3)
    nodes.network.cut(0, 2)
    #expect(throws: ClusterError(.aborted, "node 0, node 1, node 2 did not prepare within 0 s")) {
      try nodes.clusters[0].perform(ClusterOperation(.stop))
    }
    nodes.network.join(0, 2)
    #expect(nodes.machines[1].wait("abort stop"))
    try nodes.clusters[0].perform(ClusterOperation(.stop))
    #expect(nodes.machines[2].wait("finish stop"))
    nodes.end()
  }

  @Test func lostNodeEndsAnOperation() throws {
    let nodes = try RunningNodes(3)
    nodes.network.cut(0, 2)
    #expect(throws: ClusterError.self) { try nodes.clusters[0].perform(ClusterOperation(.stop)) }
    #expect(nodes.machines[0].wait("lost 2"))
    nodes.network.shutDown()
    nodes.end()
  }

  @Test func nodeThatLeavesIsNotLost() throws {
    let nodes = try RunningNodes(3)
    nodes.clusters[2].leave()
    #expect(nodes.machines[0].wait("left 2"))
    #expect(nodes.machines[1].wait("left 2"))
    HostClock.sleep(nanoseconds: 600_000_000)
    for index in 0...1 {
      #expect(
        !nodes.machines[index].all.contains { $0.hasPrefix("lost") || $0.hasPrefix("frozen") })
      #expect(nodes.clusters[index].status.state == .running)
      #expect(nodes.clusters[index].status.nodes[2].state == .left)
    }
    nodes.end()
  }

  @Test func framesOfTheClusterThatMakeNoSenseCostTheirSender() throws {
    for (type, body) in [
      (FrameType.heartbeat, [UInt8](repeating: 0, count: 3)), (.start, []), (.nodeLost, [1]),
      (.prepare, []), (.commit, []),
    ] {
      let nodes = try RunningNodes(2)
      nodes.network[1].send(FrameHeader(type, argument: 0xFFFF), bytes: body, to: node(0))
      #expect(nodes.machines[0].wait("error 1"), "\(type)")
      #expect(nodes.machines[0].wait("lost 1"), "\(type)")
      nodes.network.shutDown()
      nodes.end()
    }
  }
}

/// A device whose accesses take their time, on the thread that serves the node that makes them.
final class SlowDevice: FrameHandler {
  let transport: any FrameTransport
  let seconds: Double
  let word = WaitWord()
  private let isServing = Mutex(false)

  init(_ transport: any FrameTransport, seconds: Double) {
    self.transport = transport
    self.seconds = seconds
  }

  func received(_ header: FrameHeader, from node: NodeID, _ body: any FrameBody) {
    isServing.withLock { $0 = true }
    word.advance()
    HostClock.sleep(nanoseconds: Int64(seconds * 1e9))
    transport.reply(to: header, of: node, argument: 42, body: IOVector())
  }
  func lost(_ node: NodeID) {}

  func waitUntilServing() {
    while true {
      let seen = word.value
      if isServing.withLock({ $0 }) { return }
      word.wait(while: seen)
    }
  }
}

/// A node whose access to a device of node 0 takes longer than its lease is not lost; one that ends meanwhile is.
@Suite(.serialized) struct SlowDeviceTests {
  /// The lease is long enough for a host that is busy otherwise.
  private func start(
    _ addresses: [SocketAddress], seconds: Double
  ) throws -> (JoinResults, [NotingMachine], SlowDevice) {
    let results = try JoinFixture.join(
      [0, 1], addresses,
      change: { _, configuration in
        configuration.leaseMilliseconds = 3000
      })
    let machines = try SocketMembershipTests.start(results, 2)
    let zero = try #require(results[0])
    let device = SlowDevice(zero.transport, seconds: seconds)
    zero.transport.setHandler(device, for: [.portRead])
    return (results, machines, device)
  }

  @Test(arguments: [nil, "127.0.0.1"])
  func accessThatTakesLongerThanTheLeaseLosesNobody(_ host: String?) throws {
    let (results, machines, _) = try start(try JoinFixture.addresses(2, host), seconds: 7)
    let one = try #require(results[1])
    let reply = try one.transport.request(
      FrameHeader(.portRead), body: IOVector(), to: .devices)
    #expect(reply.argument == 42)
    for machine in machines {
      #expect(!machine.all.contains { $0.hasPrefix("lost") || $0.hasPrefix("frozen") })
    }
    results.leave()
  }

  @Test func nodeThatEndsWhileItIsServedIsLost() throws {
    let (results, machines, device) = try start(
      try JoinFixture.addresses(2, "127.0.0.1"), seconds: 4)
    let one = try #require(results[1])
    let asking = try HostThread(name: "ask") {
      _ = try? one.transport.request(FrameHeader(.portRead), body: IOVector(), to: .devices)
    }
    device.waitUntilServing()
    let end = HostClock.monotonic
    one.transport.shutDown()
    asking.join()
    #expect(machines[0].wait("lost 1"))
    #expect((machines[0].time("lost 1") ?? .max) - end < 6_000_000_000)
    results.leave()
  }
}

/// The same over sockets: who ends, how it is noticed.
@Suite(.serialized) struct SocketMembershipTests {
  static func start(_ results: JoinResults, _ count: Int) throws -> [NotingMachine] {
    let machines = (0..<count).map { _ in NotingMachine() }
    let threads = try (0..<count).map { node in
      let cluster = try #require(results[node], "\(String(describing: results.error(node)))")
      cluster.setDelegate(machines[node])
      return try HostThread(name: "start") {
        cluster.ready()
        _ = try? cluster.waitForStart(payload: [])
      }
    }
    for thread in threads { thread.join() }
    return machines
  }

  @Test func closedConnectionIsALossAtOnce() throws {
    let results = try JoinFixture.join([0, 1, 2], try JoinFixture.addresses(3))
    let machines = try Self.start(results, 3)
    let cluster = try #require(results[2])
    let begin = HostClock.monotonic
    // As when the process ends: no goodbye.
    cluster.transport.shutDown()
    for index in 0...1 {
      #expect(machines[index].wait("lost 2"))
      #expect((machines[index].time("lost 2") ?? .max) - begin < 1_000_000_000)
      #expect(machines[index].wait("frozen: node 2 is lost"))
    }
    results.leave()
  }

  @Test func lossOfNodeZeroFreezesTheOthers() throws {
    let results = try JoinFixture.join([0, 1, 2], try JoinFixture.addresses(3))
    let machines = try Self.start(results, 3)
    try #require(results[0]).transport.shutDown()
    for index in 1...2 {
      #expect(machines[index].wait("lost 0"))
      #expect(machines[index].wait("frozen: node 0 is lost"))
    }
    results.leave()
  }

  @Test func nodesLeaveInOrderWithoutALoss() throws {
    let results = try JoinFixture.join([0, 1, 2], try JoinFixture.addresses(3, "127.0.0.1"))
    let machines = try Self.start(results, 3)
    for node in [2, 1, 0] { try #require(results[node]).leave() }
    #expect(machines[0].all.filter { $0 != "joined" } == ["left 2", "left 1"])
    #expect(machines[1].all.filter { $0 != "joined" } == ["left 2"])
  }

  @Test func clocksOfTheNodesGoTogether() throws {
    let results = try JoinFixture.join([0, 1], try JoinFixture.addresses(2))
    _ = try Self.start(results, 2)
    let first = try #require(results[0]).clock
    let second = try #require(results[1]).clock
    for _ in 0..<30 {
      let before = first.now
      let reading = second.now
      let after = first.now
      #expect(reading >= before - second.error && reading <= after + second.error)
      HostClock.sleep(nanoseconds: 50_000_000)
    }
    results.leave()
  }
}
