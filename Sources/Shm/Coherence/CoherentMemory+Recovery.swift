package import Cluster
package import Host
import Synchronization

/// After the loss of nodes: what the survivors have is gathered at the homes, which begin anew; what nobody has is lost for good, and never
/// given back as zeros (distributed.md, section 10).
///
/// All survivors do it together, frozen, with no engine running, after the epoch has advanced on all: frames of before are void then, so that
/// a transaction that was under way may have left a page without an owner that nobody but its sender still holds. Such a page is lost, too.
///
/// 1. Every node forgets what it waited for and tells each home which of its pages it may read and write (`pageClaims`).
/// 2. A home that has heard all makes its directory of that. Where it has no valid bytes itself, one of the readers becomes the owner and the
///    others drop their copies (`pageVerdicts`).
/// 3. A node that has heard all verdicts is done.
extension CoherentMemory {
  /// What is under way.
  struct Recovery: Sendable {
    var isUnderWay = false
    /// Who takes part.
    var survivors: NodeSet = []
    /// Whose claims, and verdicts, have not all come.
    var claims: NodeSet = []
    var verdicts: NodeSet = []
    /// Came before this node began.
    var early: [Early] = []
    var done: Done?

    struct Early: Sendable {
      var type: FrameType
      var node: NodeID
      var isLast: Bool
      var bytes: [UInt8]
    }
    struct Done: Sendable {
      let call: @Sendable () -> Void
    }
  }

  /// Begins. `done` is called, on any thread, when this node's part is over; when every survivor's is, `thaw` lets the engines go on.
  ///
  /// - Parameter lost: all nodes that have been lost since the start.
  package func recover(without lost: NodeSet, done: @escaping @Sendable () -> Void) {
    freeze()
    held.clear()
    for queue in queues.all { queue.clear() }
    for shard in shards.all { shard.withLock { $0.pool = WaiterPool() } }
    let all = NodeSet(rawValue: queues.count >= 64 ? UInt64.max : 1 << UInt64(queues.count) - 1)
    let survivors = all.subtracting(lost)
    guard survivors.contains(node), let first = survivors.first else { return }
    for one in lost.nodes { lostNodes.insert(one) }
    for one in lost.nodes { successors[Int(one.rawValue)] = first.rawValue + 1 }
    // The directory's present contents say whether the home's own bytes are valid.
    for page in 0..<pageCount { forget(page) }
    let early = recovery.withLock { recovery -> [Recovery.Early] in
      recovery.isUnderWay = true
      recovery.survivors = survivors
      recovery.claims = survivors
      recovery.verdicts = survivors
      recovery.done = Recovery.Done(call: done)
      defer { recovery.early = [] }
      return recovery.early
    }
    for home in survivors.nodes { claim(from: home) }
    for one in early where survivors.contains(one.node) {
      take(one.type, one.bytes, from: one.node, isLast: one.isLast)
    }
  }

  /// Forgets requests and revocations about a page, and what its directory's entry said but for one thing.
  private func forget(_ page: UInt64) {
    shard(of: page).withLock { _ in
      let entry = unsafe entry(page)
      unsafe entry.pointee.agent = PageAgent(entry.pointee.agent.state)
      unsafe entry.pointee.bits &= ~(PageEntry.homeValid)
      if homes.home(of: page) == node {
        let old = unsafe homeEntry(page).pointee
        if old.isHomeValid { unsafe entry.pointee.bits |= PageEntry.homeValid }
      }
      unsafe entry.pointee.bits |= PageEntry.homeKnown
      unsafe (directory.base + Int(page)).pointee = PageHome(owner: nil)
    }
  }

  // MARK: - Frames: 24 bytes for each group of 64 pages: its number, two masks

  private static let groupsOfFrame = 2000

  /// Sends what `masks` says of each group that has something to say, to a node or to this one itself.
  private func tell(
    _ type: FrameType, _ receiver: NodeID, _ masks: (UInt64) -> (UInt64, UInt64)
  ) {
    var bytes: [UInt8] = []
    func flush(isLast: Bool) {
      if receiver == node {
        take(type, bytes, from: node, isLast: isLast)
      } else {
        transport.send(
          FrameHeader(type, flags: isLast ? [] : .more), bytes: bytes, to: receiver)
      }
      bytes = []
    }
    for group in 0..<(pageCount + PageFrame.groupPages - 1) / PageFrame.groupPages {
      let (first, second) = masks(group)
      if first | second == 0 { continue }
      for word in [group, first, second] {
        for shift in stride(from: UInt64(0), to: 64, by: 8) {
          bytes.append(UInt8(truncatingIfNeeded: word >> shift))
        }
      }
      if bytes.count == CoherentMemory.groupsOfFrame * 24 { flush(isLast: false) }
    }
    flush(isLast: true)
  }

  private func claim(from home: NodeID) {
    tell(.pageClaims, home) { group in
      var readable: UInt64 = 0
      var writable: UInt64 = 0
      forEach(group) { bit, page in
        guard self.home(of: page) == home else { return }
        switch unsafe entry(page).pointee.agent.state {
        case .invalid: return
        case .shared: readable |= bit
        case .modified: writable |= bit
        }
      }
      return (readable, writable)
    }
  }

  /// Calls `body` for each page of a group, under its lock.
  private func forEach(_ group: UInt64, _ body: (UInt64, UInt64) -> Void) {
    let first = group * PageFrame.groupPages
    shard(of: first).withLock { _ in
      for page in first..<min(first + PageFrame.groupPages, pageCount) {
        body(1 << (page - first), page)
      }
    }
  }

  /// A frame of the recovery has come.
  func received(recovery header: FrameHeader, from peer: NodeID, _ body: any FrameBody) {
    guard let bytes = body.read(Int(header.length)), bytes.count % 24 == 0 else { return }
    let isLast = !header.flags.contains(.more)
    let isEarly = recovery.withLock { recovery in
      if recovery.isUnderWay { return false }
      recovery.early.append(
        Recovery.Early(type: header.type, node: peer, isLast: isLast, bytes: bytes))
      return true
    }
    if !isEarly { take(header.type, bytes, from: peer, isLast: isLast) }
  }

  private func take(_ type: FrameType, _ bytes: [UInt8], from peer: NodeID, isLast: Bool) {
    var at = 0
    func word() -> UInt64 {
      defer { at += 8 }
      return (0..<8).reduce(0) { $0 | UInt64(bytes[at + $1]) << UInt64($1 * 8) }
    }
    while at < bytes.count {
      let group = word()
      let first = word()
      let second = word()
      guard group < (pageCount + PageFrame.groupPages - 1) / PageFrame.groupPages else { continue }
      if type == .pageClaims {
        note(claims: group, readable: first, writable: second, peer)
      } else {
        obey(group, drops: first, promotions: second)
      }
    }
    guard isLast else { return }
    let (allClaims, done) = recovery.withLock { recovery -> (Bool, Recovery.Done?) in
      if type == .pageClaims {
        recovery.claims.remove(NodeSet(peer))
        return (recovery.claims.isEmpty, nil)
      }
      recovery.verdicts.remove(NodeSet(peer))
      guard recovery.verdicts.isEmpty else { return (false, nil) }
      recovery.isUnderWay = false
      defer { recovery.done = nil }
      return (false, recovery.done)
    }
    if allClaims { judge() }
    done?.call()
  }

  // MARK: - The home

  private func note(claims group: UInt64, readable: UInt64, writable: UInt64, _ peer: NodeID) {
    forEach(group) { bit, page in
      guard home(of: page) == node else { return }
      let home = unsafe homeEntry(page)
      if writable & bit != 0 { unsafe home.pointee.claim(peer, isWritable: true) }
      if readable & bit != 0 { unsafe home.pointee.claim(peer, isWritable: false) }
    }
  }

  /// All claims are there: decides about each page.
  private func judge() {
    let groups = (pageCount + PageFrame.groupPages - 1) / PageFrame.groupPages
    var drops = [[UInt64]](repeating: [], count: queues.count)
    var promotions = drops
    let survivors = recovery.withLock { $0.survivors }
    for one in survivors.nodes {
      drops[Int(one.rawValue)] = [UInt64](repeating: 0, count: Int(groups))
      promotions[Int(one.rawValue)] = drops[Int(one.rawValue)]
    }
    for group in 0..<groups {
      forEach(group) { bit, page in
        guard home(of: page) == node else { return }
        let entry = unsafe entry(page)
        let home = unsafe homeEntry(page)
        let sharers = unsafe home.pointee.sharers
        if let owner = unsafe home.pointee.owner {
          unsafe home.pointee = PageHome(owner: owner)
          for other in sharers.nodes { drops[Int(other.rawValue)][Int(group)] |= bit }
          return
        }
        if unsafe entry.pointee.bits & PageEntry.homeValid != 0 || sharers.contains(node) { return }
        guard let heir = sharers.first else {
          unsafe entry.pointee.bits |= PageEntry.lost
          return
        }
        promotions[Int(heir.rawValue)][Int(group)] |= bit
        for other in sharers.nodes where other != heir {
          drops[Int(other.rawValue)][Int(group)] |= bit
        }
        unsafe home.pointee = PageHome(owner: heir)
      }
    }
    for one in survivors.nodes {
      tell(.pageVerdicts, one) {
        (drops[Int(one.rawValue)][Int($0)], promotions[Int(one.rawValue)][Int($0)])
      }
    }
    countAll()
  }

  /// The home's word about this node's copies.
  private func obey(_ group: UInt64, drops: UInt64, promotions: UInt64) {
    forEach(group) { bit, page in
      let entry = unsafe entry(page)
      if drops & bit != 0 {
        unsafe entry.pointee.agent = PageAgent(.invalid)
        let closed = PageFlags([.noRead, .noWrite]).rawValue
        unsafe flags(of: page).pointee.bitwiseOr(closed, ordering: .sequentiallyConsistent)
      }
      if promotions & bit != 0 {
        unsafe entry.pointee.agent = PageAgent(.modified)
        if unsafe entry.pointee.bits & PageEntry.early == 0 { clearFlags(page, .modified) }
      }
    }
    if drops == 0 { return }
    let first = group * PageFrame.groupPages
    for page in first..<min(first + PageFrame.groupPages, pageCount)
    where drops & 1 << (page - first) != 0 {
      memory.withdraw(address(of: page), count: 1, .read)
    }
    countAll()
  }

  /// Counts the pages by their states anew.
  private func countAll() {
    for shard in shards.all {
      shard.withLock { state in
        state.statistics.sharedPages = 0
        state.statistics.modifiedPages = 0
        state.statistics.lostPages = 0
      }
    }
    for page in 0..<pageCount {
      shard(of: page).withLock { state in
        let entry = unsafe entry(page)
        unsafe count(.invalid, entry.pointee.agent.state, &state.statistics)
        if unsafe entry.pointee.bits & PageEntry.lost != 0 { state.statistics.lostPages += 1 }
      }
    }
  }
}
