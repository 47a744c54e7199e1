import Host
import Synchronization

// Heartbeats, leases, loss (distributed.md, section 10).
//
// A heartbeat's argument is its number. Its body: when it was sent in cluster time (8 bytes), flags (4), the sender's clock error (8), for how
// long the sender has heard nothing of the receiver (8, nanoseconds): both find a link lost that works one way only, at the same time.
extension JoinedCluster {
  private enum BeatFlags {
    /// Of node 0: renews the lease.
    static let renews: UInt32 = 1
    /// Of node 0: and lets the node go on that has frozen itself.
    static let revives: UInt32 = 2
    /// The sender's vCPUs stand for want of a lease.
    static let frozen: UInt32 = 4
  }

  /// The body of the thread `cluster-beat`.
  func beatLoop() {
    // It never waits for a peer that takes nothing.
    ThreadDuty.isServing = true
    ThreadDuty.raisePriority()
    let step = max(1_000_000, min(times.heartbeat / 4, 25_000_000))
    var last = HostClock.monotonic
    var next = last
    while !isEnding.load(ordering: .sequentiallyConsistent) {
      let now = HostClock.monotonic
      let gap = now &- last
      last = now
      if gap > 2 * times.heartbeat {
        // This process stood still, others may have been heard meanwhile: their frames are still to be taken.
        state.withLock { state in
          for index in state.watches.indices {
            state.watches[index].pause(gap)
            state.peers[index].heard = state.peers[index].heard.map { min(now, $0 &+ gap) }
          }
        }
      }
      listen(now)
      if now >= next {
        next = now &+ times.heartbeat
        beat(now)
      }
      tick(now)
      HostClock.sleep(nanoseconds: step)
    }
  }

  private func beat(_ now: Int64) {
    let number = beats.add(1, ordering: .relaxed).newValue
    let targets: [(NodeID, UInt32, Int64)] = state.withLock { state in
      let own: UInt32 = state.lease?.hasExpired == true ? BeatFlags.frozen : 0
      let isRunning = state.startPayload != nil
      return living(state).map { node in
        var flags = own
        if self.node == .devices, isRunning, state.watches[node.index].isRenewed {
          state.watches[node.index].renewing(now: now)
          flags |= BeatFlags.renews
          if state.peers[node.index].isFrozen { flags |= BeatFlags.revives }
        }
        return (node, flags, max(0, now &- (state.peers[node.index].heard ?? now)))
      }
    }
    for (node, flags, silence) in targets {
      var writer = MessageWriter()
      writer.append(clock.now)
      writer.append(flags)
      writer.append(clock.error)
      writer.append(silence)
      transport.send(FrameHeader(.heartbeat, argument: number), bytes: writer.bytes, to: node)
    }
  }

  /// Bytes that a stream holds at least when it may be full, and cannot show any more that its sender lives.
  private static let crowd = 64 << 10

  /// Hears nodes whose frames wait because this node's own thread takes none: it makes an access to a slow device for them, say. What still
  /// comes shows that they live.
  private func listen(_ now: Int64) {
    let quiet: [NodeID] = state.withLock { state in
      guard state.startPayload != nil else { return [] }
      // Also one whose first heartbeat waits behind what this node does for it.
      return living(state).filter { node in
        let heard = state.peers[node.index].heard ?? state.watches[node.index].lastHeard
        return now &- heard > times.heartbeat &* 3 / 2
      }
    }
    for node in quiet {
      let waiting = transport.bytesWaiting(from: node)
      let change: PeerWatch.Change? = state.withLock { state in
        let before = state.peers[node.index].waiting
        state.peers[node.index].waiting = waiting
        guard let waiting, let before, waiting > before || waiting >= JoinedCluster.crowd else {
          return nil
        }
        state.peers[node.index].heard = now
        return state.watches[node.index].heard(now: now)
      }
      if change == .recovered { tell(.recovered(node)) }
    }
  }

  func receivedHeartbeat(_ header: FrameHeader, _ node: NodeID, _ bytes: [UInt8]) {
    var reader = MessageReader(bytes)
    guard let sent = reader.integer(Int64.self), let flags = reader.integer(UInt32.self),
      let error = reader.integer(Int64.self), let silence = reader.integer(Int64.self),
      silence >= 0
    else { return violation(node, "a heartbeat is not complete") }
    let now = HostClock.monotonic
    // What the clock may be wrong by counts as delay.
    let slack = clock.error
    let age = slack == .max ? Int64.max : (clock.time(at: now) &- sent) &+ slack
    var change: PeerWatch.Change?
    var isRevived = false
    state.withLock { state in
      change = state.watches[node.index].heard(now: now, silence: silence)
      state.peers[node.index].heard = now
      state.peers[node.index].waiting = nil
      state.peers[node.index].clockError = error == .max ? nil : error
      state.peers[node.index].isFrozen = flags & BeatFlags.frozen != 0
      if node == .devices, flags & BeatFlags.renews != 0, state.lease != nil {
        isRevived =
          state.lease?.renewed(
            age: age, silence: silence, revives: flags & BeatFlags.revives != 0, now: now) == true
        if isRevived, state.phase == .frozen, state.frozenBecause == nil { state.phase = .running }
      }
    }
    if change == .recovered { tell(.recovered(node)) }
    if isRevived { tell(.resumed) }
  }

  private func tick(_ now: Int64) {
    var suspects: [NodeID] = []
    var lost: [NodeID] = []
    var hasExpired = false
    let step: OperationCoordinator.Step = state.withLock { state in
      guard state.startPayload != nil else { return .wait }
      for node in living(state) {
        switch state.watches[node.index].tick(now: now) {
        case .suspect: suspects.append(node)
        case .lost: lost.append(node)
        default: break
        }
      }
      for index in state.watches.indices where state.watches[index].state == .lost {
        _ = state.watches[index].tick(now: now)
      }
      if state.lease?.tick(now: now) == true {
        hasExpired = true
        state.phase = .frozen
      }
      return state.coordinator.tick(now: now)
    }
    // First of all: nobody runs without a lease.
    if hasExpired {
      tell(
        .frozen(
          reason:
            "node 0 has not renewed the lease of \(node) for \(configuration.leaseMilliseconds) ms")
      )
    }
    for node in suspects { tell(.suspect(node)) }
    for node in lost {
      lose(node, "nothing was heard of it for \(configuration.leaseMilliseconds) ms")
    }
    take(step)
  }

  // MARK: - Loss

  /// A link ended by itself.
  func linkEnded(_ node: NodeID, _ end: LinkEnd) {
    if isEnding.load(ordering: .sequentiallyConsistent) { return }
    if end.isViolation { tell(.protocolError(node, end.reason)) }
    let told = state.withLock { $0.told[node]?.message }
    lose(node, told.map { "it gave up: \($0)" } ?? end.reason)
  }

  /// A node broke the rules of another module, which has told so: it is lost. Any thread.
  package func expel(_ node: NodeID, _ reason: String) {
    transport.send(FrameHeader(.error), bytes: Array(reason.utf8.prefix(1024)), to: node)
    transport.disconnect(node)
    lose(node, reason)
  }

  /// A node is found lost here, or by `finder`. Node 0 declares it, and is declared itself by whoever loses it; another tells node 0.
  private func lose(_ lost: NodeID, by finder: NodeID? = nil, _ reason: String) {
    let decides = node == .devices || lost == .devices
    let isNews = state.withLock { state in
      if state.startPayload == nil, state.failure == nil {
        state.failure = ClusterError(.lost, "\(lost) is lost: \(reason)")
      }
      guard state.watches[lost.index].state != .left, !state.declared.contains(lost) else {
        return false
      }
      return decides || state.reported.insert(lost).inserted
    }
    word.advance()
    guard isNews else { return }
    var writer = MessageWriter()
    if decides {
      guard let epoch = declare(lost, by: finder, epoch: nil, reason), node == .devices else {
        return
      }
      writer.append(epoch)
    } else {
      writer.append(transport.epoch)
    }
    writer.append(reason)
    let header = FrameHeader(.nodeLost, argument: UInt64(lost.rawValue))
    for other in decides ? state.withLock({ living($0) }) : [.devices] {
      transport.send(header, bytes: writer.bytes, to: other)
    }
  }

  /// Makes it true on this node: a new epoch (nil: the next), no frame of the lost node any more, vCPUs stand. Answers the epoch, if it
  /// was not so before. Who is lost finds nobody lost: of two nodes that lose each other one stays.
  @discardableResult
  private func declare(
    _ lost: NodeID, by finder: NodeID? = nil, epoch: UInt32?, _ reason: String
  ) -> UInt32? {
    let epoch: UInt32? = state.withLock { state in
      if let finder, state.declared.contains(finder) { return nil }
      guard state.watches[lost.index].state != .left, state.declared.insert(lost).inserted else {
        return nil
      }
      state.watches[lost.index].lose()
      state.frozenBecause = "\(lost) is lost: \(reason)"
      if state.phase == .running || state.phase == .joined { state.phase = .frozen }
      let next = epoch ?? transport.epoch &+ 1
      transport.advanceEpoch(to: next)
      return next
    }
    guard let epoch else { return nil }
    // Whoever waits for the lost node is let go, so that vCPUs can stand.
    transport.disconnect(lost)
    tell(.frozen(reason: "\(lost) is lost: \(reason)"))
    tell(.lost(lost, epoch: epoch, reason: reason))
    take(state.withLock { $0.coordinator.lost(lost) })
    if lost == .devices { abandonOperation() }
    word.advance()
    return epoch
  }

  func receivedLoss(_ header: FrameHeader, _ node: NodeID, _ bytes: [UInt8]) {
    var reader = MessageReader(bytes)
    guard let number = UInt8(exactly: header.argument), Int(number) < configuration.addresses.count,
      let epoch = reader.integer(UInt32.self), let reason = reader.text()
    else { return violation(node, "NODE_LOST is not complete") }
    let lost = NodeID(rawValue: number)
    if self.node == .devices {
      // Another node cannot reach it: then it is not of this cluster any more.
      if lost == self.node || lost == node { return }
      lose(lost, by: node, "\(node) has lost it: \(reason)")
    } else if node == .devices {
      declare(lost, epoch: epoch, reason)
    }
  }

  /// Whether a lost node's lease has run out for certain, so that the others may go on without it.
  package func isFenced(_ node: NodeID) -> Bool {
    state.withLock { node.index < $0.watches.count && $0.watches[node.index].state == .fenced }
  }

  /// The others go on without the nodes that are lost. Only when they are all fenced; false otherwise. On each node, in the `commit` of
  /// `continueAfterLoss`.
  package func acceptLoss() -> Bool {
    let isPossible = state.withLock { state in
      guard !state.watches.contains(where: { $0.state == .lost }) || self.node != .devices,
        state.watches[0].state != .lost || self.node == .devices
      else { return false }
      state.frozenBecause = nil
      if state.phase == .frozen, state.lease?.hasExpired != true { state.phase = .running }
      return true
    }
    if isPossible { tell(.resumed) }
    return isPossible
  }

  // MARK: - Time

  /// The body of the thread `cluster-time`.
  func timeLoop() {
    while !isEnding.load(ordering: .sequentiallyConsistent) {
      for node in state.withLock({ living($0) }) {
        guard let samples = try? exchange(4, with: node) else { continue }
        if node == .devices { clock.update(samples) }
      }
      var left = 40
      while left > 0, !isEnding.load(ordering: .sequentiallyConsistent) {
        HostClock.sleep(nanoseconds: 25_000_000)
        left -= 1
      }
    }
  }

  /// Relates this node's clock to node 0's, by so many exchanges. Throws `TransportError`.
  func relateClocks(exchanges: Int) throws(TransportError) {
    clock.update(try exchange(exchanges, with: .devices))
  }

  private func exchange(
    _ count: Int, with node: NodeID
  ) throws(TransportError) -> [ClockEstimator.Sample] {
    var samples: [ClockEstimator.Sample] = []
    for _ in 0..<count {
      let sent = HostClock.monotonic
      let reply = try transport.request(FrameHeader(.time), body: IOVector(), to: node)
      samples.append(
        ClockEstimator.Sample(
          sent: sent, answered: HostClock.monotonic, remote: Int64(bitPattern: reply.argument)))
    }
    let best = samples.map(\.roundTrip).min()
    state.withLock { $0.peers[node.index].roundTrip = best }
    return samples
  }

  // MARK: - Status

  /// What this node knows of the cluster now. Any thread.
  package var status: ClusterStatus {
    let now = HostClock.monotonic
    let error = clock.error
    return state.withLock { state in
      let nodes = configuration.addresses.indices.map { index in
        let node = NodeID(rawValue: UInt8(truncatingIfNeeded: index))
        let isSelf = node == self.node
        let facts = state.peers[index]
        let nodeState: ClusterStatus.NodeState =
          switch state.watches[index].state {
          case .alive: .alive
          case .suspect: .suspect
          case .lost, .fenced: .lost
          case .left: .left
          }
        return ClusterStatus.Node(
          node: node, address: configuration.addresses[index].text,
          state: isSelf ? .alive : nodeState,
          vcpus: state.vcpuOwners.indices.filter { state.vcpuOwners[$0] == node }
            .map { UInt32(truncatingIfNeeded: $0) },
          roundTripNanoseconds: isSelf ? nil : facts.roundTrip,
          clockErrorNanoseconds: isSelf ? (error == .max ? nil : error) : facts.clockError,
          isProtected: !isSelf && transport.isProtected(node),
          lastHeartbeatMilliseconds: facts.heard.map { max(0, now &- $0) / 1_000_000 },
          isFrozen: isSelf ? state.phase == .frozen : facts.isFrozen)
      }
      return ClusterStatus(
        id: configuration.id, node: node, state: state.phase, epoch: transport.epoch,
        instance: state.instance, memory: configuration.memory, policy: configuration.lossPolicy,
        nodes: nodes)
    }
  }
}
