import CPU
import Cluster
import DeviceModel
import DistIRQ
import Host
import Machine
import Monitor
import Options
import QAPI
import Security
import Shm
import Synchronization

/// This process as one node of a machine on several: joining, RAM, what monitors ask of the cluster, the end.
@MainLoop
final class ClusterNode: Monitor.ClusterControl {
  nonisolated let joined: JoinedCluster
  nonisolated let seat: ClusterSeat
  /// The machine's RAM.
  let memory: NodeMemory
  private let object: SharedObject?
  private let delegate: Delegate
  private weak var context: MonitorContext?
  /// Why the cluster stands, if it does.
  private var lostReason: String?
  /// The pages' service of the machine, once it is made.
  private var coherent: CoherentMemory?
  private var homePages: UInt64?
  private(set) weak var machineParts: InterruptFabric?
  /// Why nodes are lost.
  private var lossReasons: [NodeID: String] = [:]

  /// What joining gives, off the main loop.
  struct Link: Sendable {
    let joined: JoinedCluster
    let object: SharedObject?
  }

  /// What joining needs to know.
  struct Terms: Sendable {
    var configuration: ClusterConfiguration
    var ram: UInt64
    var items: [ConfigurationItem]
    /// What this host's CPU can do, and what node 0 makes of what all can.
    var offer: [UInt8]
    var agree: @Sendable ([[UInt8]]) throws(ClusterError) -> [UInt8]
    var credentials: ClusterCredentials?
    var progress: JoinProgress
  }

  /// Joins the cluster; node 0 has made the RAM by then. Waits for the other nodes: not on the main loop.
  ///
  /// Throws `ClusterError`, `SharedObjectError`.
  nonisolated static func join(_ terms: Terms) throws -> Link {
    func meet() throws(ClusterError) -> JoinedCluster {
      try ClusterMembership.join(
        terms.configuration, items: terms.items, offer: terms.offer,
        credentials: terms.credentials, agree: terms.agree, progress: terms.progress)
    }
    guard terms.configuration.memory == .shm, let name = terms.configuration.sharedMemoryName
    else { return Link(joined: try meet(), object: nil) }
    guard
      let layout = SharedLayout(blocks: [terms.ram], vcpuCount: terms.configuration.vcpuCount)
    else { throw SharedObjectError.differs }
    if terms.configuration.node == .devices {
      let object = try SharedObject.create(name: name, layout: layout)
      do {
        return Link(joined: try meet(), object: object)
      } catch {
        object.unlink()
        throw error
      }
    }
    let joined = try meet()
    do {
      // Node 0 made it before it joined.
      return Link(joined: joined, object: try SharedObject.open(name: name, layout: layout))
    } catch {
      joined.leave()
      throw error
    }
  }

  /// Takes back what joining made, when it is not wanted any more. Waits: not on the main loop.
  nonisolated static func discard(_ link: Link) {
    if link.joined.node == .devices { link.object?.unlink() }
    link.joined.leave()
  }

  /// What the command line says that this node proves itself with. Throws `QAPIError`, `TLSError`.
  static func credentials(
    _ configuration: ClusterConfiguration, in objects: ObjectRegistry
  ) throws -> ClusterCredentials? {
    let id: String
    switch configuration.credentials {
    case .insecure: return nil
    case .x509(let object), .psk(let object): id = object
    }
    let ends = try CredentialsObject.bothEnds(
      id, in: objects,
      user: ClusterCredentials.identity(configuration.id, configuration.node),
      priority: ClusterCredentials.priority)
    return ClusterCredentials(server: ends.server, client: ends.client)
  }

  /// The node in the cluster that it has joined, before its machine is made. Throws `SystemError`.
  init(_ link: Link, ram: UInt64, context: MonitorContext) throws {
    joined = link.joined
    object = link.object
    self.context = context
    seat = ClusterSeat(
      joined.transport, placement: joined.vcpuOwners,
      lossPolicy: joined.configuration.lossPolicy)
    let joined = link.joined
    let clock = joined.clock
    seat.followClock { clock.currentOffset }
    seat.onViolation { [weak joined] node, reason in joined?.violation(node, reason) }
    if let object {
      memory = try NodeMemory(object)
    } else {
      memory = try NodeMemory(size: ram, homes: joined.configuration.homePolicy)
    }
    delegate = Delegate(seat, joined)
    delegate.observe { [weak self, joined] event in
      // As it was then.
      let status = joined.status
      MainLoop.post { [weak self] in self?.tell(event, status) }
    }
    joined.setDelegate(delegate)
    _ = try ClusterMonitors(self, transport: joined.transport, context: context)
  }

  /// `machine` is made: waits for the others' and goes on with `body` on the main loop.
  func start(
    _ machine: Machine, _ body: @escaping @MainLoop (Result<Void, any Error>) -> Void
  ) {
    let joined = joined
    coherent = machine.coherent
    machineParts = machine.fabric
    coherent?.onProtocolError { [weak self] error, history in
      let reason = "a message broke the memory protocol: \(error)"
      MainLoop.post { [weak self] in
        guard let self else { return }
        lostReason = reason
        context?.events.emit(
          .clusterProtocolError(
            peer: Int(error.node.rawValue), reason: "\(error)", history: history))
      }
      // Nobody computes with what may be wrong. What is wrong here all others are told by this node's end.
      for node in joined.others where error.node == node || error.node == joined.node {
        joined.expel(node, reason)
      }
    }
    joined.ready()
    Task { @MainLoop in
      do {
        _ = try await HostThread.value(name: "cluster-start") { try joined.waitForStart() }
        // Everybody has mapped it: with the last of them it is gone.
        if seat.node == .devices { object?.unlink() }
        body(.success(()))
      } catch {
        body(.failure(error))
      }
    }
  }

  /// What the guest is told of which memory is near which vCPUs; nil where all of it is equally near.
  func numa(ramSize: UInt64) -> NUMATopology? {
    guard memory.homes == .numa else { return nil }
    let vcpus = (0..<joined.configuration.addresses.count).map { number in
      seat.vcpus(of: NodeID(rawValue: UInt8(truncatingIfNeeded: number))).map(Int.init)
    }
    return NUMATopology(vcpus: vcpus, ramSize: ramSize)
  }

  /// The machine is gone, and so is the node.
  nonisolated func leave() {
    joined.leave()
  }

  /// When the start fails after joining.
  func giveUp() {
    if seat.node == .devices { object?.unlink() }
  }

  // MARK: - Events

  /// What the membership tells, off the main loop.
  private final class Delegate: ClusterDelegate {
    private let seat: ClusterSeat
    private let joined: JoinedCluster
    private struct Observer: Sendable { let call: @Sendable (ClusterEvent) -> Void }
    private let observer = Mutex<Observer?>(nil)

    init(_ seat: ClusterSeat, _ joined: JoinedCluster) {
      self.seat = seat
      self.joined = joined
    }

    func observe(_ call: @escaping @Sendable (ClusterEvent) -> Void) {
      observer.withLock { $0 = Observer(call: call) }
    }

    func clusterEvent(_ event: ClusterEvent) {
      switch event {
      case .frozen: seat.setStanding(true)
      case .resumed: seat.setStanding(false)
      case .lost(let node, _, let reason): seat.lost(node, because: reason)
      case .joined, .suspect, .recovered, .left, .protocolError: break
      }
      observer.withLock { $0 }?.call(event)
    }

    func prepare(_ operation: ClusterOperation) -> Bool { operation.kind == .continueAfterLoss }
    func commit(_ operation: ClusterOperation) {
      guard operation.kind == .continueAfterLoss, joined.acceptLoss() else { return }
      seat.recover()
    }
    func finish(_ operation: ClusterOperation) { seat.goOn() }
    func abort(_ operation: ClusterOperation) {}
  }

  private func tell(_ event: ClusterEvent, _ status: ClusterStatus) {
    guard let context else { return }
    let events = context.events
    let epoch = Int(status.epoch)
    func facts(_ node: NodeID) -> ClusterStatus.Node? {
      status.nodes.first { $0.node == node }
    }
    switch event {
    case .joined:
      for node in status.nodes where node.node != joined.node {
        events.emit(
          .clusterNodeJoined(
            peer: Int(node.node.rawValue), address: node.address, vcpus: node.vcpus.map(Int.init)))
      }
    case .suspect(let node):
      events.emit(
        .clusterNodeSuspect(
          peer: Int(node.rawValue),
          lastHeartbeatMs: Int(clamping: facts(node)?.lastHeartbeatMilliseconds ?? 0)))
    case .lost(let node, let epoch, let reason):
      lostReason = reason
      lossReasons[node] = reason
      events.emit(
        .clusterNodeLost(
          peer: Int(node.rawValue), reason: reason, epoch: Int(epoch),
          vcpus: seat.vcpus(of: node).map(Int.init), pages: nil))
    case .frozen(let reason):
      lostReason = reason
      events.emit(.clusterFrozen(reason: reason, epoch: epoch))
    case .resumed: events.emit(.clusterResumed(epoch: epoch))
    case .protocolError(let node, let reason):
      events.emit(
        .clusterProtocolError(peer: Int(node.rawValue), reason: reason, history: nil))
    case .recovered, .left: break
    }
  }

  // MARK: - Monitor.ClusterControl

  var status: ClusterInfo {
    let known = joined.status
    let configuration = joined.configuration
    return ClusterInfo(
      id: known.id, node: Int(known.node.rawValue), state: ClusterState(known.state),
      epoch: Int(known.epoch),
      nodes: known.nodes.map { node in
        var entry = ClusterNodeInfo(
          node: Int(node.node.rawValue), address: node.address,
          state: ClusterNodeState(
            node.state, isStarted: ![.joining, .joined].contains(known.state)),
          vcpus: seat.vcpus(of: node.node).map(Int.init), tls: node.isProtected)
        entry.rttUs = node.roundTripNanoseconds.map { Double($0) / 1000 }
        entry.clockErrorNs = node.clockErrorNanoseconds.map { Int(clamping: $0) }
        entry.lastHeartbeatMs = node.lastHeartbeatMilliseconds.map { Int(clamping: $0) }
        if entry.state == .lost || entry.state == .left { entry.reason = lossReasons[node.node] }
        return entry
      }, memory: configuration.memory == .shm ? .shm : .dsm,
      home: ClusterHomePolicy(configuration.homePolicy),
      onNodeLoss: QAPI.ClusterLossPolicy(configuration.lossPolicy),
      reason: known.state == .frozen ? lostReason : nil)
  }

  var frameCounters: FrameCounters? { joined.transport.counters }

  var memoryStatus: DsmInfo? {
    guard let coherent else { return nil }
    let homes = homePages ?? coherent.homePageCount
    homePages = homes
    return DsmInfo(Int(joined.node.rawValue), coherent.statistics, homePages: UInt64(homes))
  }

  var memoryCounters: DSMStatistics? { coherent?.statistics }

  func hotPages(_ limit: Int) -> [DsmHotPage] {
    (coherent?.hotPages(limit: limit) ?? []).filter { $0.home == joined.node }.map {
      DsmHotPage($0, node: joined.node)
    }
  }

  func goOnWithLoss() async throws(QAPIError) {
    let joined = joined
    guard joined.status.state == .frozen else { throw QAPIError("The cluster is not frozen") }
    do {
      try await HostThread.value(name: "cluster-continue") {
        try joined.perform(ClusterOperation(.continueAfterLoss))
      }
    } catch {
      throw QAPIError("\(error)")
    }
  }
}

extension ClusterInfo {
  /// What is known while the nodes join.
  init(_ configuration: ClusterConfiguration, _ progress: JoinProgress) {
    let peers = progress.peers
    let own = Int(configuration.node.rawValue)
    let nodes = configuration.addresses.enumerated().map { number, address in
      let peer = number < peers.count ? peers[number] : nil
      let vcpus = number == own ? configuration.vcpus : peer?.vcpus ?? []
      var entry = ClusterNodeInfo(
        node: number, address: address.text,
        state: number == own || peer?.isLinked == true ? .joined : .joining,
        vcpus: vcpus.map(Int.init), tls: false)
      entry.reason = peer?.trouble
      return entry
    }
    self.init(
      id: configuration.id, node: own, state: .joining, epoch: 0, nodes: nodes,
      memory: configuration.memory == .shm ? .shm : .dsm,
      home: ClusterHomePolicy(configuration.homePolicy),
      onNodeLoss: QAPI.ClusterLossPolicy(configuration.lossPolicy))
  }
}

extension ClusterState {
  init(_ state: ClusterStatus.State) {
    self =
      switch state {
      case .joining, .joined: .joining
      case .running: .running
      case .frozen: .frozen
      case .left: .ended
      }
  }
}

extension ClusterNodeState {
  init(_ state: ClusterStatus.NodeState, isStarted: Bool) {
    self =
      switch state {
      case .alive: isStarted ? .joined : .joining
      case .suspect: .suspect
      case .lost: .lost
      case .left: .left
      }
  }
}

extension ClusterHomePolicy {
  init(_ policy: ClusterConfiguration.HomePolicy) {
    self =
      switch policy {
      case .numa: .numa
      case .block: .block
      case .node0: .node0
      }
  }
}

extension QAPI.ClusterLossPolicy {
  init(_ policy: ClusterConfiguration.LossPolicy) {
    self =
      switch policy {
      case .pause: .pause
      case .shutdown: .shutdown
      case .restore: .restore
      }
  }
}
