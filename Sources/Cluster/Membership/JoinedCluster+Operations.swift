import Host
import Synchronization

// Operations of all nodes in two steps (distributed.md, section 9).
//
// PREPARE, COMMIT, COMMITTED and ABORT carry the operation's number in bits 32 to 63 of the argument; PREPARE its kind in bits 0 to 7 and the
// payload as body, PREPARED in bit 0 whether the node can. Node 0's COMMITTED says that all have. A PREPARE of another node, with a request's
// number, asks node 0 to do it.
extension JoinedCluster {
  /// Does something on all nodes, and returns when all have done it. Any node; not on the main loop, nor on a thread that receives.
  ///
  /// Throws `ClusterError` when a node cannot, or takes longer than ten seconds: then all go on as before.
  package func perform(_ operation: ClusterOperation) throws(ClusterError) {
    guard node == .devices else { return try ask(operation) }
    if operation.kind == .continueAfterLoss,
      let reason = state.withLock({ reasonAgainstGoingOn($0) })
    {
      throw ClusterError(.aborted, reason)
    }
    let number: UInt32
    let deadline = HostClock.monotonic &+ 30_000_000_000
    while true {
      // One after the other.
      let seen = word.value
      let begun: UInt32? = state.withLock { state in
        guard state.phase == .running || state.phase == .frozen else { return 0 }
        let all = Set(living(state) + [node])
        guard state.participant.isIdle,
          let number = state.coordinator.begin(all, now: HostClock.monotonic)
        else { return nil }
        // Before any answer can come: another node's refusal must find this node's part.
        _ = state.participant.begin(number, operation)
        state.operation = operation
        return number
      }
      if begun == 0 {
        throw ClusterError(.aborted, "the cluster has not started, or this node has left")
      }
      if let begun {
        number = begun
        break
      }
      guard HostClock.monotonic < deadline else {
        throw ClusterError(.aborted, "another operation of all nodes does not end")
      }
      word.wait(while: seen, nanoseconds: 1_000_000_000)
    }
    var header = FrameHeader(.prepare)
    header.argument = UInt64(number) << 32 | UInt64(operation.kind.rawValue)
    for other in state.withLock({ living($0) }) {
      transport.send(header, bytes: operation.payload, to: other)
    }
    askMachine(number, operation)
    while true {
      let seen = word.value
      if let result = state.withLock({ $0.results.removeValue(forKey: number) }) {
        if !result.isEmpty { throw ClusterError(.aborted, result) }
        return
      }
      word.wait(while: seen, nanoseconds: 1_000_000_000)
    }
  }

  /// Node 0: why the others may not go on without the nodes that are lost; nil when they may.
  private func reasonAgainstGoingOn(_ state: State) -> String? {
    guard state.phase == .frozen else { return "The cluster is not frozen" }
    let times = times
    for index in state.watches.indices where state.watches[index].state == .lost {
      let end =
        state.watches[index].lastRenewal &+ times.lease &+ times.longestDelay &+ times.margin
      let left = max(0, end &- HostClock.monotonic) / 1_000_000
      return
        "node \(index) was lost so lately that it may still run; its lease ends in \(left) ms"
    }
    return nil
  }

  private func ask(_ operation: ClusterOperation) throws(ClusterError) {
    do throws(TransportError) {
      _ = try transport.request(
        FrameHeader(.prepare, argument: UInt64(operation.kind.rawValue)), bytes: operation.payload,
        to: .devices)
    } catch {
      switch error {
      case .lost(let node): throw ClusterError(.lost, "\(node) is lost")
      case .refused(let reason): throw ClusterError(.aborted, reason)
      }
    }
  }

  // MARK: - Frames

  func receivedOperation(_ header: FrameHeader, _ from: NodeID, _ bytes: [UInt8]) {
    let number = UInt32(truncatingIfNeeded: header.argument >> 32)
    switch header.type {
    case .prepare where header.request != 0 && node == .devices:
      guard let kind = ClusterOperation.Kind(rawValue: UInt8(truncatingIfNeeded: header.argument))
      else { return transport.refuse(header, of: from, "there is no such operation") }
      requests.post { [self] in
        do throws(ClusterError) {
          try perform(ClusterOperation(kind, payload: bytes))
          transport.reply(to: header, of: from)
        } catch { transport.refuse(header, of: from, error.message) }
      }
    case .prepare where from == .devices:
      guard let kind = ClusterOperation.Kind(rawValue: UInt8(truncatingIfNeeded: header.argument))
      else { return violation(from, "PREPARE of no operation") }
      prepareHere(number, ClusterOperation(kind, payload: bytes))
    case .prepared where node == .devices:
      prepared(from, number, isReady: header.argument & 1 != 0)
    case .commit where from == .devices: commitHere(number)
    case .committed where node == .devices: committed(from, number)
    case .committed where from == .devices: finishHere(number)
    case .abort where from == .devices: abortHere(number)
    case .marker, .memMarker:
      state.withLock { $0.participant.marker(from, header.type.stream, number) }
      checkFlushed()
    default: violation(from, "\(header.type) makes no sense here")
    }
  }

  private func send(_ type: FrameType, _ number: UInt32, _ low: UInt64 = 0, to node: NodeID) {
    transport.send(
      FrameHeader(type, argument: UInt64(number) << 32 | low), body: IOVector(), to: node)
  }

  // MARK: - This node's part

  private func prepareHere(_ number: UInt32, _ operation: ClusterOperation) {
    let isPossible = state.withLock { $0.participant.begin(number, operation) }
    guard isPossible else { return answer(number, isReady: false) }
    askMachine(number, operation)
  }

  private func askMachine(_ number: UInt32, _ operation: ClusterOperation) {
    operations.post { [self] in
      guard state.withLock({ $0.participant.asks(number) }) else { return }
      guard currentDelegate?.prepare(operation) ?? true else {
        // The machine goes on by itself; the others are told by node 0.
        _ = state.withLock { $0.participant.abort(number) }
        return answer(number, isReady: false)
      }
      let (isCurrent, others) = state.withLock { state in
        (state.participant.preparedHere(number), living(state))
      }
      guard isCurrent else { return }
      for node in others {
        send(.marker, number, to: node)
        send(.memMarker, number, to: node)
      }
      checkFlushed()
    }
  }

  private func checkFlushed() {
    let number: UInt32? = state.withLock { state in
      state.participant.isFlushed(from: Set(living(state))) ? state.participant.number : nil
    }
    if let number { answer(number, isReady: true) }
  }

  private func answer(_ number: UInt32, isReady: Bool) {
    if node == .devices {
      prepared(node, number, isReady: isReady)
    } else {
      send(.prepared, number, isReady ? 1 : 0, to: .devices)
    }
  }

  private func commitHere(_ number: UInt32) {
    guard let operation = state.withLock({ $0.participant.commit(number) }) else { return }
    operations.post { [self] in
      currentDelegate?.commit(operation)
      if node == .devices {
        committed(node, number)
      } else {
        send(.committed, number, to: .devices)
      }
    }
  }

  private func finishHere(_ number: UInt32) {
    guard let operation = state.withLock({ $0.participant.finish(number) }) else { return }
    operations.post { [self] in currentDelegate?.finish(operation) }
  }

  private func abortHere(_ number: UInt32) {
    guard let operation = state.withLock({ $0.participant.abort(number) }) else { return }
    operations.post { [self] in currentDelegate?.abort(operation) }
  }

  /// Node 0 is lost: what it began does not happen.
  func abandonOperation() { abortHere(state.withLock { $0.participant.number }) }

  // MARK: - Node 0's part

  private func prepared(_ from: NodeID, _ number: UInt32, isReady: Bool) {
    let now = HostClock.monotonic
    take(
      state.withLock { state in
        let step = state.coordinator.prepared(from, number, isReady: isReady, now: now)
        if step != .wait { return step }
        return state.coordinator.commitIfPrepared(Set(living(state) + [node]), now: now)
      })
  }

  private func committed(_ from: NodeID, _ number: UInt32) {
    take(state.withLock { $0.coordinator.committed(from, number) })
  }

  /// Does what the coordinator says.
  func take(_ step: OperationCoordinator.Step) {
    let (number, others) = state.withLock { ($0.coordinator.number, living($0)) }
    switch step {
    case .wait: return
    case .commit:
      for node in others { send(.commit, number, to: node) }
      commitHere(number)
    case .finish:
      for node in others { send(.committed, number, to: node) }
      finishHere(number)
      conclude(number, "")
    case .abort(let reason):
      for node in others { send(.abort, number, to: node) }
      abortHere(number)
      conclude(number, reason)
    }
  }

  private func conclude(_ number: UInt32, _ result: String) {
    state.withLock { state in
      state.operation = nil
      state.results[number] = result
    }
    word.advance()
  }
}
