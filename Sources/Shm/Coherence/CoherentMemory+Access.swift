package import Cluster
import Host
import Synchronization

/// Accesses of this node: asking for pages and waiting for them.
extension CoherentMemory {
  package func acquire(page address: GuestAddress, _ right: PageRight) -> PageAccess {
    guard let page = page(at: address) else {
      memory.grant(address, right)
      return .granted
    }
    return acquire(page, right)
  }

  /// How a thread is entered as waiting for a page.
  private enum Wait {
    case none
    /// It asked, and has a place in the table of waiters.
    case asked(UInt16)
    /// Somebody else did.
    case joined
  }

  /// What a look at a page came to.
  private enum Look {
    case done(PageAccess)
    /// Wait for an answer that `node` begins.
    case ask(from: NodeID)
    case join(seen: UInt32)
  }

  private enum Fault { case read, write, upgrade }

  /// Obtains the right to a page below `pageCount`.
  func acquire(_ page: UInt64, _ right: PageRight) -> PageAccess {
    let shard = shard(of: page)
    // Taken before the lock, in case that this thread has to ask.
    guard let place = freeSeats.withLock({ $0.popLast() }) else {
      return acquire(page, right, shard, nil, Seat())
    }
    let access = seats.with(Int(place)) { acquire(page, right, shard, place, $0) }
    freeSeats.withLock { $0.append(place) }
    return access
  }

  private func acquire(
    _ page: UInt64, _ right: PageRight, _ shard: PageShard, _ place: UInt16?, _ seat: Seat
  ) -> PageAccess {
    let work = seat.work
    var wait = Wait.none
    var fault: Fault?
    let start = HostClock.monotonic
    while true {
      let look = shard.withLock { state -> Look in
        let entry = unsafe entry(page)
        unsafe leave(entry, &wait)
        if unsafe entry.pointee.bits & PageEntry.lost != 0 { return .done(.lost) }
        let before = unsafe entry.pointee.agent.state
        if !letsWait {
          let isMine = right == .write ? before == .modified : before != .invalid
          if !isMine { return .done(.frozen) }
        }
        let access = unsafe entry.pointee.agent.access(right, page: page)
        switch access {
        case .hit:
          unsafe open(entry, page, &state)
          if let fault {
            note(fault, nanoseconds: HostClock.monotonic &- start, &state.statistics)
          }
          return .done(.granted)
        case .wait:
          unsafe entry.pointee.waiters &+= 1
          wait = .joined
          if fault == nil { fault = right == .read ? .read : before == .shared ? .upgrade : .write }
          return .join(seen: shard.word.value)
        case .request(let message):
          if fault == nil { fault = right == .read ? .read : before == .shared ? .upgrade : .write }
          unsafe entry.pointee.waiters &+= 1
          if let place {
            seat.waiter.reset()
            wait = .asked(place)
            unsafe entry.pointee.waiter = place + 1
          } else {
            wait = .joined
          }
          let seen = shard.word.value
          let from = request(message, &state, work)
          askEarly(page, right, shard, &state, work)
          // A home of our own may have answered at once.
          let now = unsafe entry.pointee.agent.state
          if right == .write ? now == .modified : now != .invalid {
            unsafe leave(entry, &wait)
            unsafe open(entry, page, &state)
            note(fault ?? .read, nanoseconds: HostClock.monotonic &- start, &state.statistics)
            return .done(.granted)
          }
          if case .joined = wait { return .join(seen: seen) }
          return .ask(from: from)
        }
      }
      // The thread that asks and then receives the answer itself sends in the transport's `wait`.
      if case .ask(let from) = look { finish(work, but: from) } else { finish(work) }
      switch look {
      case .done(let access): return access
      case .join(let seen):
        // Frozen in between, or soon: the word advances after the flag is set.
        if letsWait { shard.word.wait(while: seen) }
      case .ask(let from):
        guard case .asked = wait, letsWait else {
          flush(Int(from.rawValue))
          continue
        }
        transport.wait(seat.waiter, receivingFrom: from, .mem) {
          flush(Int(from.rawValue))
        }
      }
    }
  }

  /// The thread no longer waits for the page. Under the shard's lock.
  private func leave(_ entry: UnsafeMutablePointer<PageEntry>, _ wait: inout Wait) {
    switch wait {
    case .none: return
    case .joined: unsafe entry.pointee.waiters &-= 1
    case .asked(let place):
      unsafe entry.pointee.waiters &-= 1
      if unsafe entry.pointee.waiter == place + 1 { unsafe entry.pointee.waiter = 0 }
    }
    wait = .none
  }

  /// Opens a page to the engines that came before its use. Under the shard's lock.
  private func open(
    _ entry: UnsafeMutablePointer<PageEntry>, _ page: UInt64, _ state: inout PageShard.State
  ) {
    guard unsafe entry.pointee.bits & PageEntry.early != 0 else { return }
    unsafe entry.pointee.bits &= ~PageEntry.early
    state.statistics.prefetchesUsed &+= 1
    unsafe clearFlags(page, entry.pointee.agent.state)
  }

  func clearFlags(_ page: UInt64, _ state: PageAgent.State) {
    let open: PageFlags =
      switch state {
      case .invalid: []
      case .shared: .noRead
      case .modified: [.noRead, .noWrite]
      }
    unsafe flags(of: page).pointee.bitwiseAnd(~open.rawValue, ordering: .sequentiallyConsistent)
  }

  private func note(_ fault: Fault, nanoseconds: Int64, _ statistics: inout DSMStatistics) {
    let length = UInt64(max(nanoseconds, 0))
    switch fault {
    case .read:
      statistics.readFaults &+= 1
      statistics.readNanoseconds &+= length
      statistics.readHistogram.note(nanoseconds: nanoseconds)
    case .write:
      statistics.writeFaults &+= 1
      statistics.writeNanoseconds &+= length
      statistics.writeHistogram.note(nanoseconds: nanoseconds)
    case .upgrade:
      statistics.upgradeFaults &+= 1
      statistics.upgradeNanoseconds &+= length
      statistics.upgradeHistogram.note(nanoseconds: nanoseconds)
    }
  }

  // MARK: - Asking

  /// Brings a request to the page's home. Answers on whose stream the answer begins. Under the shard's lock.
  private func request(
    _ message: PageMessage, _ state: inout PageShard.State, _ work: PageWork
  ) -> NodeID {
    let home = home(of: message.page)
    unsafe state.log.note(
      message, entry(message.page).pointee.agent, node: home.rawValue, isSent: true)
    if home != node {
      post(message, to: home, work)
      return home
    }
    serve(message, from: node, &state, work)
    let entry = unsafe homeEntry(message.page)
    return unsafe entry.pointee.awaited.first ?? node
  }

  /// When accesses go from page to page: asks for what comes next too. Under the shard's lock.
  private func askEarly(
    _ page: UInt64, _ right: PageRight, _ shard: PageShard, _ state: inout PageShard.State,
    _ work: PageWork
  ) {
    guard tuning.longestRun > 1 else { return }
    let group = page / PageFrame.groupPages
    let hint = shard.hint
    let isHinted = hint >> 8 == group && page % PageFrame.groupPages == 0
    let wanted = state.streams.miss(
      page, hint: isHinted ? hint & 0xFF : 0, longest: min(tuning.longestRun, 64))
    let end = min((group + 1) * PageFrame.groupPages, pageCount)
    let run = min(wanted, end - page)
    state.streams.asked(page, run, wanted: wanted)
    if page + run == end, wanted > 1 {
      shards[Int(truncatingIfNeeded: group &+ 1)].hint = (group + 1) << 8 | wanted
    }
    guard run > 1 else { return }
    let home = home(of: page)
    for next in (page + 1)..<(page + run) {
      guard self.home(of: next) == home else { return }
      let entry = unsafe entry(next)
      guard
        unsafe entry.pointee.agent.state == .invalid && entry.pointee.agent.pending == .invalid
          && entry.pointee.bits & PageEntry.lost == 0,
        case .request(let message) = unsafe entry.pointee.agent.access(right, page: next)
      else { continue }
      unsafe entry.pointee.bits |= PageEntry.early
      state.statistics.prefetches &+= 1
      _ = request(message, &state, work)
    }
  }

  /// Asks for all pages of a range that are not there, without waiting.
  private func ask(_ range: Range<UInt64>, _ right: PageRight) {
    var page = range.lowerBound
    while page < range.upperBound {
      let end = min((page / PageFrame.groupPages + 1) * PageFrame.groupPages, range.upperBound)
      let work = takeWork()
      shard(of: page).withLock { state in
        for one in page..<end {
          let entry = unsafe entry(one)
          guard unsafe entry.pointee.bits & PageEntry.lost == 0,
            case .request(let message) = unsafe entry.pointee.agent.access(right, page: one)
          else { continue }
          _ = request(message, &state, work)
        }
      }
      finish(work)
      giveBack(work)
      page = end
    }
  }

  // MARK: - Pins

  package func settle(page address: GuestAddress) {
    guard let page = page(at: address) else { return }
    if !hasSettled.load(ordering: .relaxed) { hasSettled.store(true, ordering: .relaxed) }
    let isAwaited = shard(of: page).withLock { _ in
      let entry = unsafe entry(page)
      unsafe entry.pointee.pinnedUntil = 0
      unsafe entry.pointee.failures = 0
      return unsafe entry.pointee.agent.isHolding
    }
    if isAwaited { held.hurry(page) }
  }

  package func opened(page address: GuestAddress) {
    guard let page = page(at: address) else { return }
    shard(of: page).withLock { _ in
      unsafe entry(page).pointee.pinnedUntil = HostClock.monotonic &+ CoherentMemory.observedPin
    }
  }

  /// Longest that an engine which is asked keeps a page.
  static let observedPin: Int64 = 50_000_000

  /// The pages of a range of addresses; nil when some are not in one region.
  private func pages(_ address: GuestAddress, _ count: UInt64) -> Range<UInt64>? {
    guard count > 0, let first = page(at: address),
      let last = page(at: address + (count - 1)), last >= first,
      self.address(of: last).rawValue &- self.address(of: first).rawValue
        == (last - first) * GuestAddress.pageSize
    else { return nil }
    return first..<last + 1
  }

  package func acquire(
    _ address: GuestAddress, count: UInt64, _ right: PageRight
  ) -> PageAccess {
    // What is no RAM of the cluster is nobody else's.
    guard let range = pages(address, count) else { return .granted }
    ask(range, right)
    var page = range.lowerBound
    while page < range.upperBound {
      page = firstMissing(page..<range.upperBound, right)
      if page == range.upperBound { break }
      let access = acquire(page, right)
      if access != .granted { return access }
      page += 1
    }
    return .granted
  }

  /// The first page of a range to which this node has not the right now, or the range's end.
  private func firstMissing(_ range: Range<UInt64>, _ right: PageRight) -> UInt64 {
    let wanted: PageAgent.State = right == .write ? .modified : .shared
    var page = range.lowerBound
    while page < range.upperBound {
      let end = min((page / PageFrame.groupPages + 1) * PageFrame.groupPages, range.upperBound)
      let found: UInt64? = shard(of: page).withLock { state in
        for one in page..<end {
          let entry = unsafe entry(one)
          guard unsafe entry.pointee.agent.state >= wanted else { return one }
          guard unsafe entry.pointee.bits & PageEntry.lost == 0 else { return one }
          unsafe open(entry, one, &state)
        }
        return nil
      }
      if let found { return found }
      page = end
    }
    return range.upperBound
  }

  package func tryPin(_ address: GuestAddress, count: UInt64, _ right: PageRight) -> Bool {
    guard let range = pages(address, count) else { return true }
    return pinAll(range, right)
  }

  /// Pins all pages, or none when one is missing.
  private func pinAll(_ range: Range<UInt64>, _ right: PageRight) -> Bool {
    for page in range {
      let isPinned = shard(of: page).withLock { state in
        let entry = unsafe entry(page)
        let state = unsafe entry.pointee.agent.state
        guard right == .write ? state == .modified : state != .invalid else { return false }
        unsafe entry.pointee.pinnedUntil = 0
        unsafe entry.pointee.failures = 0
        if right == .write {
          unsafe entry.pointee.writers &+= 1
        } else {
          unsafe entry.pointee.readers &+= 1
        }
        return true
      }
      if !isPinned {
        unpin(range.lowerBound..<page, right)
        return false
      }
    }
    return true
  }

  package func unpin(_ address: GuestAddress, count: UInt64, _ right: PageRight) {
    guard let range = pages(address, count) else { return }
    unpin(range, right)
  }

  private func unpin(_ range: Range<UInt64>, _ right: PageRight) {
    for page in range {
      let isAwaited = shard(of: page).withLock { _ in
        let entry = unsafe entry(page)
        if right == .write {
          unsafe entry.pointee.writers &-= 1
        } else {
          unsafe entry.pointee.readers &-= 1
        }
        return unsafe entry.pointee.agent.isHolding
      }
      if isAwaited { held.hurry(page) }
    }
  }

  // MARK: - Giving back

  /// Asks the homes to take pages back that this node has and others may want: before it leaves.
  package func put(_ range: Range<UInt64>) {
    for page in range.clamped(to: 0..<pageCount) {
      let work = takeWork()
      shard(of: page).withLock { state in
        guard unsafe entry(page).pointee.agent.state == .modified, home(of: page) != node else {
          return
        }
        _ = request(PageMessage(.put, page: page), &state, work)
      }
      finish(work)
      giveBack(work)
    }
  }

  /// Sends `target` a readable copy of a page whose home this node is and that nobody may write now; false when that is not so.
  package func push(_ page: UInt64, to target: NodeID) -> Bool {
    guard page < pageCount, target != node, home(of: page) == node else { return false }
    let work = takeWork()
    let isSent = shard(of: page).withLock { state in
      guard let step = unsafe homeEntry(page).pointee.push(page: page, to: target) else {
        return false
      }
      state.statistics.pushes &+= 1
      post(step.message, to: target, work)
      return true
    }
    finish(work)
    giveBack(work)
    return isSent
  }
}
