package import Cluster
import Host
import Synchronization

/// What messages lead to: between the state machines, the engines and the queues. Methods of the first part run under the shard's lock.
extension CoherentMemory {
  // MARK: - The home

  /// A message for this node as the page's home.
  func serve(
    _ message: PageMessage, from peer: NodeID, _ state: inout PageShard.State, _ work: PageWork
  ) {
    let home = unsafe homeEntry(message.page)
    if message.kind == .acknowledge {
      let outcome = unsafe home.pointee.acknowledged(message, from: peer)
      follow(outcome, message, from: peer, &state, work)
    } else {
      if unsafe entry(message.page).pointee.bits & PageEntry.lost != 0 {
        refuseLost(message, peer, &state, work)
        return
      }
      unsafe home.pointee.enqueue(message, from: peer, in: &state.pool)
    }
    while let outcome = unsafe home.pointee.next(
      page: message.page, me: node, manners, in: &state.pool)
    {
      state.statistics.transactions &+= 1
      follow(outcome, message, from: peer, &state, work)
    }
  }

  private func follow(
    _ outcome: PageHome.Outcome, _ cause: PageMessage, from peer: NodeID,
    _ state: inout PageShard.State, _ work: PageWork
  ) {
    switch outcome {
    case .none: return
    case .error(let kind):
      unsafe fail(kind, cause, from: peer, homeEntry(cause.page).pointee.text, work)
    case .send(let step):
      for receiver in step.receivers.nodes {
        if receiver == node {
          deliver(step.message, &state, work)
        } else {
          post(step.message, to: receiver, work)
        }
      }
    }
  }

  /// A request for a page whose bytes nobody has any more.
  private func refuseLost(
    _ message: PageMessage, _ peer: NodeID, _ state: inout PageShard.State, _ work: PageWork
  ) {
    guard message.kind != .put else { return }
    var answer = PageMessage(message.kind == .getS ? .dataS : .dataM, page: message.page)
    answer.isLost = true
    if peer == node {
      lose(message.page, &state, work)
    } else {
      post(answer, to: peer, work)
    }
  }

  /// A message of this node's own home: the bytes that belong to it are in place.
  private func deliver(
    _ message: PageMessage, _ state: inout PageShard.State, _ work: PageWork
  ) {
    if message.isRevocation {
      revoke(message, from: node, &state, work)
      return
    }
    switch unsafe entry(message.page).pointee.agent.decide(message) {
    case .install: install(message, isZero: false, &state, work)
    case .error(let kind):
      unsafe fail(kind, message, from: node, entry(message.page).pointee.agent.text, work)
    default: return
    }
  }

  // MARK: - Taking

  /// The bytes are in place, and the state machine has said that they are wanted.
  func install(
    _ message: PageMessage, isZero: Bool, _ state: inout PageShard.State, _ work: PageWork
  ) {
    let page = message.page
    let entry = unsafe entry(page)
    let before = unsafe entry.pointee.agent.state
    unsafe entry.pointee.agent.install(message)
    let after = unsafe entry.pointee.agent.state
    unsafe state.log.note(message, entry.pointee.agent, node: node.rawValue, isSent: false)
    if let tracer {
      unsafe tracer.note(
        after == .modified ? .gotM : .gotS, page, node, gen: message.gen, host(of: page))
    }
    count(before, after, &state.statistics)
    if message.kind == .grant {
      state.statistics.grants &+= 1
      unsafe entry.pointee.upgrades &+= 1
    } else if isZero {
      state.statistics.zeroTransfers &+= 1
    } else {
      state.statistics.fullTransfers &+= 1
    }
    let isWanted = unsafe entry.pointee.waiters > 0
    if message.kind == .push { unsafe entry.pointee.bits |= PageEntry.early }
    let now = HostClock.monotonic
    unsafe transferred(entry, page, now, &state)
    if isWanted {
      let failures = unsafe Int64(min(entry.pointee.failures, 6))
      // An engine that is asked has it until it has opened the page and used it.
      let length =
        memory.isObserved.load(ordering: .relaxed)
        ? CoherentMemory.observedPin : tuning.pinNanoseconds << failures
      unsafe entry.pointee.pinnedUntil = now &+ length
      if unsafe entry.pointee.bits & PageEntry.early != 0 {
        unsafe entry.pointee.bits &= ~PageEntry.early
        state.statistics.prefetchesUsed &+= 1
      }
    }
    if after == .modified, tuning.hotSliceNanoseconds > 0,
      unsafe entry.pointee.bits & PageEntry.hot != 0
    {
      unsafe entry.pointee.sliceUntil = now &+ tuning.hotSliceNanoseconds
    }
    if unsafe entry.pointee.bits & PageEntry.early == 0 || tuning.opensEarlyPages {
      clearFlags(page, after)
    }
    if isWanted { unsafe wake(entry: entry, page, work) }
    guard unsafe entry.pointee.agent.isHolding else { return }
    if isWanted {
      let isObserved = memory.isObserved.load(ordering: .relaxed)
      unsafe held.add(page, due: isObserved ? now : entry.pointee.pinnedUntil)
    } else if let message = unsafe entry.pointee.agent.takeHeld(page: page) {
      revoke(message, from: node, &state, work)
    }
  }

  private func wake(entry: UnsafeMutablePointer<PageEntry>, _ page: UInt64, _ work: PageWork) {
    let waiter = unsafe entry.pointee.waiter
    if waiter > 0 {
      work.waiters.append(waiter - 1)
      unsafe entry.pointee.waiter = 0
    }
    if unsafe entry.pointee.waiters > (waiter > 0 ? 1 : 0) { work.shards |= shardBit(of: page) }
  }

  /// The home says that the page's bytes are lost, or this node has found out.
  func lose(_ page: UInt64, _ state: inout PageShard.State, _ work: PageWork) {
    let entry = unsafe entry(page)
    guard unsafe entry.pointee.bits & PageEntry.lost == 0 else { return }
    unsafe entry.pointee.bits |= PageEntry.lost
    unsafe entry.pointee.agent.pending = .invalid
    state.statistics.lostPages &+= 1
    unsafe wake(entry: entry, page, work)
  }

  func count(
    _ before: PageAgent.State, _ after: PageAgent.State, _ statistics: inout DSMStatistics
  ) {
    switch before {
    case .invalid: break
    case .shared: statistics.sharedPages &-= 1
    case .modified: statistics.modifiedPages &-= 1
    }
    switch after {
    case .invalid: break
    case .shared: statistics.sharedPages &+= 1
    case .modified: statistics.modifiedPages &+= 1
    }
  }

  /// Counts a page that came or went: in windows of 67 ms.
  private func transferred(
    _ entry: UnsafeMutablePointer<PageEntry>, _ page: UInt64, _ now: Int64,
    _ state: inout PageShard.State
  ) {
    unsafe entry.pointee.transfers &+= 1
    let window = UInt32(truncatingIfNeeded: now >> 26)
    if unsafe entry.pointee.window != window {
      // What the last window had, if it was the one before this.
      let isNext = unsafe entry.pointee.window &+ 1 == window
      let rate = unsafe isNext ? Int(entry.pointee.windowCount) * 15 : 0
      unsafe entry.pointee.rate = UInt16(clamping: rate)
      unsafe entry.pointee.window = window
      unsafe entry.pointee.windowCount = 0
      let isHot = rate > CoherentMemory.hotRate
      let wasHot = unsafe entry.pointee.bits & PageEntry.hot != 0
      if isHot, !wasHot {
        unsafe entry.pointee.bits |= PageEntry.hot
        state.hot.note(page)
      } else if wasHot, !isHot {
        unsafe entry.pointee.bits &= ~PageEntry.hot
      }
    }
    unsafe entry.pointee.windowCount &+= 1
  }

  /// More transfers a second make a page hot (distributed.md, section 12).
  static let hotRate = 200

  // MARK: - Giving

  /// A revocation has come, or is tried again.
  func revoke(
    _ message: PageMessage, from peer: NodeID, _ state: inout PageShard.State, _ work: PageWork
  ) {
    let page = message.page
    let entry = unsafe entry(page)
    let before = unsafe entry.pointee.agent.state
    if before != .invalid, unsafe !entry.pointee.agent.isHolding,
      let due = unsafe pinned(entry, page, message.kind)
    {
      if unsafe entry.pointee.agent.hold(message) {
        if unsafe entry.pointee.heldSince == 0 {
          unsafe entry.pointee.heldSince = HostClock.monotonic
          state.statistics.pinWaits &+= 1
        }
        held.add(page, due: due)
        return
      }
    }
    let wasUnsettled = unsafe entry.pointee.pinnedUntil != 0
    let action = unsafe entry.pointee.agent.revoked(message)
    unsafe state.log.note(message, entry.pointee.agent, node: peer.rawValue, isSent: false)
    let kind: PageWork.Revocation.Kind
    var target = node
    switch action {
    case .acknowledge:
      acknowledge(message, carriesData: false, &state, work)
      return
    case .hold:
      state.statistics.heldRevocations &+= 1
      return
    case .drop: kind = .drop
    case .downgrade: kind = .downgrade
    case .surrender: kind = .surrender
    case .forward(let to):
      kind = .forward
      target = to
    case .error(let error):
      unsafe fail(error, message, from: peer, entry.pointee.agent.text, work)
      return
    case .none, .install: return
    }
    let after = unsafe entry.pointee.agent.state
    count(before, after, &state.statistics)
    if unsafe entry.pointee.heldSince != 0 {
      let length = unsafe HostClock.monotonic &- entry.pointee.heldSince
      state.statistics.pinWaitNanoseconds &+= UInt64(max(length, 0))
      if length > CoherentMemory.longPin { state.statistics.longPinWaits &+= 1 }
      unsafe entry.pointee.heldSince = 0
    }
    if wasUnsettled {
      unsafe entry.pointee.pinnedUntil = 0
      if hasSettled.load(ordering: .relaxed), !memory.isObserved.load(ordering: .relaxed) {
        state.statistics.unsettledRevocations &+= 1
        unsafe entry.pointee.failures = min(entry.pointee.failures &+ 1, 100)
      }
    }
    if after == .invalid {
      state.statistics.invalidations &+= 1
      if unsafe entry.pointee.bits & PageEntry.early != 0 {
        unsafe entry.pointee.bits &= ~PageEntry.early
        state.statistics.prefetchesWasted &+= 1
      }
    } else {
      state.statistics.downgrades &+= 1
    }
    work.revocations.append(
      PageWork.Revocation(
        kind: kind, target: target, wasModified: before == .modified, page: page, gen: message.gen))
  }

  /// A device that takes longer with a page is counted.
  private static let longPin: Int64 = 2_000_000

  /// When a revocation of this kind may be tried again; nil: now.
  private func pinned(
    _ entry: UnsafeMutablePointer<PageEntry>, _ page: UInt64, _ kind: PageMessage.Kind
  ) -> Int64? {
    let writers = unsafe entry.pointee.writers
    let users = unsafe kind == .fetchS ? writers : writers | entry.pointee.readers
    let isObserved = memory.isObserved.load(ordering: .relaxed)
    // Whoever asks for more has done what the page came for.
    if isObserved, unsafe entry.pointee.agent.pending != .invalid {
      unsafe entry.pointee.pinnedUntil = 0
    }
    let until = unsafe max(entry.pointee.pinnedUntil, entry.pointee.sliceUntil)
    if users == 0, until == 0 { return nil }
    let now = HostClock.monotonic
    if users > 0 { return now &+ CoherentMemory.longPin }
    if now < until {
      if unsafe !isObserved || now < entry.pointee.sliceUntil { return until }
      switch memory.progress(of: address(of: page)) {
      case .unused(let wait): return min(now &+ wait, until)
      case .used: break
      case .contested: if let end = turnEnd(now) { return min(end, until) }
      case .unknown:
        // It came for a device, which settles.
        let pin = tuning.pinNanoseconds << Int64(min(unsafe entry.pointee.failures, 6))
        let due = unsafe entry.pointee.pinnedUntil &- CoherentMemory.observedPin &+ pin
        if now < due { return due }
      }
    }
    unsafe entry.pointee.sliceUntil = 0
    return nil
  }

  /// When this node's turn ends, in monotonic time; nil when it is another's. By the clock of the cluster, so that one node has it at any time. Nodes that
  /// each hold half of what both need would wait for each other for ever, and nodes that give it all would take it from each other for ever.
  private func turnEnd(_ now: Int64) -> Int64? {
    let time = max(now &+ clock.withLock { $0 }.offset(), 0)
    guard time / tuning.turnNanoseconds % Int64(transport.nodeCount) == Int64(node.rawValue) else {
      return nil
    }
    return now &+ tuning.turnNanoseconds &- time % tuning.turnNanoseconds
  }

  /// A revocation has been obeyed: tells the home, which may be here.
  private func acknowledge(
    _ message: PageMessage, carriesData: Bool, _ state: inout PageShard.State, _ work: PageWork
  ) {
    let answer = PageMessage(
      .acknowledge, page: message.page, gen: message.gen, carriesData: carriesData)
    let home = home(of: message.page)
    if home == node {
      serve(answer, from: node, &state, work)
    } else {
      post(answer, to: home, work)
    }
  }

  /// A held revocation may be due. On the thread of `HeldPages`.
  func retry(_ page: UInt64) {
    let work = takeWork()
    shard(of: page).withLock { state in
      let entry = unsafe entry(page)
      guard let message = unsafe entry.pointee.agent.takeHeld(page: page) else { return }
      revoke(message, from: home(of: page), &state, work)
    }
    finish(work)
    giveBack(work)
  }

  // MARK: - Without a lock

  /// Does what is left: engines, bytes, answers, waiters, frames. Leaves it to the caller to `flush` what is for `excepted`.
  func finish(_ work: PageWork, but excepted: NodeID? = nil) {
    while !work.revocations.isEmpty {
      swap(&work.revocations, &work.current)
      closeToEngines(work.current)
      give(work)
      work.current.removeAll(keepingCapacity: true)
    }
    for waiter in work.waiters { seats.with(Int(waiter)) { $0.waiter.finish() } }
    work.waiters.removeAll(keepingCapacity: true)
    var left = work.shards
    work.shards = 0
    while left != 0 {
      shards[left.trailingZeroBitCount].word.advance()
      left &= left &- 1
    }
    left = work.peers
    if let excepted { left &= ~NodeSet(excepted).rawValue }
    work.peers = 0
    while left != 0 {
      flush(Int(left.trailingZeroBitCount))
      left &= left &- 1
    }
    if let failure = work.failure {
      work.failure = nil
      report(failure)
    }
  }

  /// Makes it impossible for engines and devices to use the pages that way; returns when it is.
  private func closeToEngines(_ revocations: [PageWork.Revocation]) {
    for one in revocations {
      let flags: PageFlags = one.right == .read ? [.noRead, .noWrite] : .noWrite
      unsafe self.flags(of: one.page).pointee.bitwiseOr(
        flags.rawValue, ordering: .sequentiallyConsistent)
    }
    var index = 0
    while index < revocations.count {
      let first = revocations[index]
      let start = address(of: first.page)
      var count = 1
      while index + count < revocations.count {
        let next = revocations[index + count]
        guard next.right == first.right,
          address(of: next.page).rawValue &- start.rawValue
            == UInt64(count) * GuestAddress.pageSize
        else { break }
        count += 1
      }
      memory.withdraw(start, count: count, first.right)
      index += count
    }
  }

  /// The engines have let go of the pages: says so, with their bytes. Those of one group under one lock.
  private func give(_ work: PageWork) {
    let now = HostClock.monotonic
    var index = 0
    while index < work.current.count {
      let group = work.current[index].page / PageFrame.groupPages
      shard(of: work.current[index].page).withLock { state in
        while index < work.current.count, work.current[index].page / PageFrame.groupPages == group {
          give(work.current[index], now, &state, work)
          index += 1
        }
      }
    }
  }

  private func give(
    _ revocation: PageWork.Revocation, _ now: Int64, _ state: inout PageShard.State,
    _ work: PageWork
  ) {
    let page = revocation.page
    if let tracer {
      if revocation.wasModified {
        unsafe tracer.note(.wrote, page, node, gen: nil, host(of: page))
      }
      unsafe tracer.note(
        revocation.kind == .downgrade ? .downgraded : .dropped, page, node, gen: revocation.gen,
        host(of: page))
    }
    let message = PageMessage(.acknowledge, page: page, gen: revocation.gen)
    switch revocation.kind {
    case .drop: acknowledge(message, carriesData: false, &state, work)
    case .downgrade, .surrender: acknowledge(message, carriesData: true, &state, work)
    case .forward:
      post(PageMessage(.dataM, page: page, gen: revocation.gen), to: revocation.target, work)
      acknowledge(message, carriesData: false, &state, work)
    }
    unsafe transferred(entry(page), page, now, &state)
  }

  // MARK: - Errors

  /// A message that the protocol does not allow. Under the shard's lock.
  func fail(
    _ kind: PageProtocolError.Kind, _ message: PageMessage, from peer: NodeID, _ state: String,
    _ work: PageWork
  ) {
    if work.failure == nil {
      work.failure = PageProtocolError(kind, message, from: peer, state: state)
    }
  }

  /// Freezes this node's memory and tells who wants to know.
  func report(_ failure: PageProtocolError) {
    let page = failure.message.page
    var lines: [String] = []
    if page < pageCount {
      lines = shard(of: page).withLock { state in
        state.statistics.protocolErrors &+= 1
        return state.log.last(of: page)
      }
    } else {
      shards[0].withLock { $0.statistics.protocolErrors &+= 1 }
    }
    freeze()
    Log.error(
      "shm: page \(page), \(failure.kind.rawValue): \(failure.message.kind) generation "
        + "\(failure.message.gen) from \(failure.node), state \(failure.state)")
    for line in lines { Log.error("shm: page \(page): \(line)") }
    failureHandler.withLock { $0 }?.call(failure, lines)
  }
}
