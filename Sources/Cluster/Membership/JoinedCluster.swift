import Host
import Synchronization

/// This node's membership in a cluster: start, heartbeats and leases, time, operations of all nodes, end.
///
/// Threads: `cluster-beat` sends heartbeats and watches leases, `cluster-time` exchanges TIME, `cluster` tells the delegate events, `cluster-op`
/// runs its part of operations; frames are taken on the receiving threads, which only note what they say.
package final class JoinedCluster: FrameHandler {
  package let configuration: ClusterConfiguration
  /// How the other modules speak to the other nodes.
  package let transport: any ClusterTransport
  /// Cluster time.
  package let clock: ClusterClock
  package var node: NodeID { configuration.node }

  struct State {
    var phase = ClusterStatus.State.joining
    var vcpuOwners: [NodeID] = []
    var instance: UInt64 = 0
    var offers: [[UInt8]] = []
    var agreement: [UInt8] = []
    /// Node 0: whose machines are made.
    var ready: Set<NodeID> = []
    /// What node 0 hands to all at START.
    var startPayload: [UInt8]?
    var failure: ClusterError?
    /// What nodes said before they went.
    var told: [NodeID: ClusterError] = [:]
    var watches: [PeerWatch] = []
    var lease: Lease?
    var frozenBecause: String?
    /// Nodes that are declared lost, and those that node 0 was told about.
    var declared: Set<NodeID> = []
    var reported: Set<NodeID> = []
    var peers: [PeerFacts] = []
    var coordinator = OperationCoordinator(limit: 10_000_000_000)
    var participant = OperationParticipant()
    /// Node 0: the operation that is under way, and how the last ones ended.
    var operation: ClusterOperation?
    var results: [UInt32: String] = [:]
    var events: [ClusterEvent] = []
  }
  /// What is known of a node beside its liveness.
  struct PeerFacts {
    var roundTrip: Int64?
    var clockError: Int64?
    var heard: Int64?
    var isFrozen = false
    /// Bytes that waited for this node's own threads when it last looked, because it heard nothing.
    var waiting: Int?
  }
  let state: Mutex<State>
  /// Advances when something changes that a thread may wait for.
  let word = WaitWord()
  let events = SerialThread(name: "cluster")
  let operations = SerialThread(name: "cluster-op")
  let requests = SerialThread(name: "cluster-ask")
  private let delegate = Mutex<(any ClusterDelegate)?>(nil)
  let times: LeaseTimes
  let isEnding = Atomic<Bool>(false)
  let beats = Atomic<UInt64>(0)
  private let threads = Mutex<[HostThread]>([])

  static let types: [FrameType] = [
    .ready, .start, .heartbeat, .time, .prepare, .prepared, .commit, .committed, .abort, .nodeLost,
    .goodbye, .error, .marker, .memMarker,
  ]

  /// The membership over links that are there or will be. `joined` begins it.
  ///
  /// - Parameter operationSeconds: how long each step of an operation may take.
  package init(
    _ configuration: ClusterConfiguration, _ transport: any ClusterTransport,
    operationSeconds: Double = 10
  ) {
    self.configuration = configuration
    self.transport = transport
    clock = ClusterClock(isReference: configuration.node == .devices)
    times = LeaseTimes(configuration)
    let now = HostClock.monotonic
    var state = State()
    state.coordinator = OperationCoordinator(limit: Int64(operationSeconds * 1_000_000_000))
    let count = configuration.addresses.count
    let times = times
    state.watches = (0..<count).map { _ in PeerWatch(times, now: now) }
    state.peers = Array(repeating: PeerFacts(), count: count)
    self.state = Mutex(state)
    transport.setHandler(self, for: JoinedCluster.types)
  }

  // MARK: - Facts

  /// The node of each vCPU of the machine.
  package var vcpuOwners: [NodeID] { state.withLock { $0.vcpuOwners } }
  /// What each node offered to node 0; empty on the others.
  package var offers: [[UInt8]] { state.withLock { $0.offers } }
  /// What node 0 made of them, on every node.
  package var agreement: [UInt8] { state.withLock { $0.agreement } }
  /// Node 0's random number for this start.
  package var instance: UInt64 { state.withLock { $0.instance } }

  /// Who hears of events and takes part in operations. Before `ready`.
  package func setDelegate(_ delegate: any ClusterDelegate) {
    self.delegate.withLock { $0 = delegate }
  }
  var currentDelegate: (any ClusterDelegate)? { delegate.withLock { $0 } }

  /// All nodes but this one.
  package var others: [NodeID] {
    configuration.addresses.indices.map { NodeID(rawValue: UInt8(truncatingIfNeeded: $0)) }
      .filter { $0 != node }
  }

  /// The others that are not lost and have not left.
  func living(_ state: State) -> [NodeID] {
    others.filter { node in
      let known = state.watches[node.index].state
      return known == .alive || known == .suspect
    }
  }

  func tell(_ event: ClusterEvent) {
    events.post { [weak self] in self?.currentDelegate?.clusterEvent(event) }
  }

  // MARK: - Start

  /// The links are there: what came of joining.
  package func joined(
    vcpuOwners: [NodeID], instance: UInt64, offers: [[UInt8]], agreement: [UInt8] = []
  ) {
    state.withLock { state in
      state.agreement = agreement
      state.vcpuOwners = vcpuOwners
      state.instance = instance
      state.offers = offers
      if state.phase == .joining { state.phase = .joined }
    }
    transport.setLinkObserver { [weak self] node, end in self?.linkEnded(node, end) }
    run("cluster-beat") { $0.beatLoop() }
    run("cluster-time") { $0.timeLoop() }
  }

  private func run(_ name: String, _ body: @escaping @Sendable (JoinedCluster) -> Void) {
    guard let thread = try? HostThread(name: name, { [self] in body(self) }) else {
      return state.withLock { $0.failure = ClusterError(.network, "no thread for \(name)") }
    }
    threads.withLock { $0.append(thread) }
  }

  /// This node's machine is made and its handlers are set: frames of the machine may come. Once.
  package func ready() {
    if node == .devices { return }
    transport.send(FrameHeader(.ready), to: .devices)
  }

  /// Waits until all nodes are ready, and for node 0's word. Not on the main loop.
  ///
  /// - Parameter payload: node 0: what it hands to all nodes, at most 60 KiB.
  /// - Returns: node 0's payload, on every node.
  ///
  /// Throws `ClusterError` when a node is lost before.
  package func waitForStart(payload: [UInt8] = []) throws(ClusterError) -> [UInt8] {
    while true {
      let seen = word.value
      let (result, failure): ([UInt8]?, ClusterError?) = state.withLock { state in
        if let failure = state.failure { return (nil, failure) }
        if let payload = state.startPayload { return (payload, nil) }
        guard node == .devices, state.ready.count == configuration.addresses.count - 1 else {
          return (nil, nil)
        }
        begin(&state, payload)
        return (payload, nil)
      }
      if let failure { throw failure }
      if let result {
        if node == .devices { sendStart(payload) }
        return result
      }
      word.wait(while: seen)
    }
  }

  private func begin(_ state: inout State, _ payload: [UInt8]) {
    let now = HostClock.monotonic
    state.startPayload = payload
    state.phase = .running
    for index in state.watches.indices { state.watches[index] = PeerWatch(times, now: now) }
    if node != .devices { state.lease = Lease(times, now: now) }
  }

  private func sendStart(_ payload: [UInt8]) {
    var writer = MessageWriter()
    let (instance, owners) = state.withLock { ($0.instance, $0.vcpuOwners) }
    writer.append(transport.epoch)
    writer.append(instance)
    writer.append(counted: owners.map(\.rawValue))
    writer.append(counted: payload)
    transport.broadcast(FrameHeader(.start), bytes: writer.bytes)
    tell(.joined)
  }

  private func receivedStart(_ bytes: [UInt8]) -> String? {
    var reader = MessageReader(bytes)
    guard let epoch = reader.integer(UInt32.self), let instance = reader.integer(UInt64.self),
      let owners = reader.counted(), let payload = reader.counted()
    else { return "START is not complete" }
    let isSame = state.withLock { state in
      guard state.startPayload == nil,
        state.vcpuOwners.isEmpty || state.vcpuOwners.map(\.rawValue) == owners,
        state.instance == instance || state.instance == 0
      else { return false }
      state.instance = instance
      begin(&state, payload)
      return true
    }
    guard isSame else { return "START is not for this start of the cluster" }
    transport.advanceEpoch(to: epoch)
    word.advance()
    tell(.joined)
    return nil
  }

  // MARK: - End

  /// Says goodbye to all, waits a second at most until they have heard it, and ends all links. Nodes leave in order, node 0 last. Not on a
  /// thread that receives, nor on the main loop.
  package func leave() {
    let living: [NodeID] = state.withLock { state in
      state.phase = .left
      return self.living(state)
    }
    isEnding.store(true, ordering: .sequentiallyConsistent)
    let heard = CounterTable(count: 1)
    let transport = transport
    let word = word
    let waiting = living.compactMap { node in
      try? HostThread(name: "goodbye/\(node.rawValue)") {
        _ = try? transport.request(FrameHeader(.goodbye), body: IOVector(), to: node)
        heard.add(to: 0)
        word.advance()
      }
    }
    let deadline = HostClock.monotonic &+ 1_000_000_000
    while heard[0] < UInt64(waiting.count), HostClock.monotonic < deadline {
      let seen = word.value
      if heard[0] < UInt64(waiting.count) { word.wait(while: seen, nanoseconds: 100_000_000) }
    }
    end()
    for thread in waiting { thread.join() }
  }

  /// Tells all why this node gives up, and ends all links.
  func breakOff(_ error: ClusterError) {
    transport.broadcast(
      FrameHeader(.error, argument: error.number), bytes: Array(error.message.utf8.prefix(4096)))
    end()
  }

  private func end() {
    isEnding.store(true, ordering: .sequentiallyConsistent)
    word.advance()
    transport.shutDown()
    let all = threads.withLock { threads in
      let all = threads
      threads = []
      return all
    }
    for thread in all { thread.join() }
    operations.end()
    requests.end()
    events.end()
  }

  /// What a node said before its link ended.
  func reasonTold(by node: NodeID) -> ClusterError? { state.withLock { $0.told[node] } }

  // MARK: - Frames

  package func received(_ header: FrameHeader, from node: NodeID, _ body: any FrameBody) {
    let bytes = body.remaining > 0 ? body.read(body.remaining) ?? [] : []
    switch header.type {
    case .heartbeat: receivedHeartbeat(header, node, bytes)
    case .time where header.request != 0:
      transport.reply(
        to: header, of: node, argument: UInt64(bitPattern: clock.now), body: IOVector())
    case .ready where self.node == .devices:
      state.withLock { _ = $0.ready.insert(node) }
      word.advance()
    case .start where node == .devices:
      if let reason = receivedStart(bytes) { violation(node, reason) }
    case .nodeLost: receivedLoss(header, node, bytes)
    case .goodbye: receivedGoodbye(header, node)
    case .error:
      let error = ClusterError(number: header.argument, String(decoding: bytes, as: UTF8.self))
      state.withLock { $0.told[node] = error }
    case .prepare, .prepared, .commit, .committed, .abort, .marker, .memMarker:
      receivedOperation(header, node, bytes)
    default: violation(node, "\(header.type) makes no sense here")
    }
  }

  /// A node broke the protocol above frames: it is told why, and lost, and `protocolError` comes before that. Any thread.
  package func violation(_ node: NodeID, _ reason: String) {
    transport.send(FrameHeader(.error), bytes: Array(reason.utf8.prefix(1024)), to: node)
    transport.disconnect(node)
    linkEnded(node, LinkEnd("a frame of \(node): \(reason)", isViolation: true))
  }

  private func receivedGoodbye(_ header: FrameHeader, _ node: NodeID) {
    let isNews = state.withLock { state in
      let isNews = state.watches[node.index].state != .left
      state.watches[node.index].leave()
      if state.startPayload == nil, state.failure == nil {
        state.failure = ClusterError(.lost, "\(node) left before the start")
      }
      return isNews
    }
    if header.request != 0 { transport.reply(to: header, of: node) }
    word.advance()
    if isNews { tell(.left(node)) }
  }

  package func lost(_ node: NodeID) {}
}
