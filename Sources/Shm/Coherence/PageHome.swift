package import Cluster

/// The directory entry of one page at its home, which orders all transactions of the page (distributed.md, section 5, "Home").
///
/// A pure model: one request is served at a time, the others wait in the order of their coming. Each method answers with at most one
/// message, for one node or several; the caller sends it and then, when the entry is idle, calls `next` until there is none.
package struct PageHome: Equatable, Sendable, BitwiseCopyable {
  /// What the request being served waits for.
  package enum Phase: UInt8, Sendable, BitwiseCopyable {
    case idle
    /// The owner's bytes, which stays a reader.
    case fetchingS
    /// The owner's bytes, for the next owner.
    case fetchingM
    /// The owner's word that it has sent the page on.
    case forwarding
    /// Readers' word that they have dropped their copies.
    case invalidating
    /// The owner's bytes, for nobody.
    case takingBack
  }

  /// Who may write; 0xFF: nobody, and the home's bytes are valid.
  package private(set) var ownerNumber: UInt8
  package private(set) var phase: Phase
  private var requester: UInt8
  private var isGrant: Bool
  /// How many more readers get it writable at once: it moves from writer to writer (section 12, 5).
  private var migrations: UInt8
  /// Who was given it to write last; 0xFF: nobody yet.
  private var lastWriter: UInt8
  /// Who may read, when nobody may write.
  package private(set) var sharers: NodeSet
  /// Who has not answered yet.
  package private(set) var awaited: NodeSet
  /// Number of the last transaction.
  package private(set) var gen: UInt64
  /// Number of the last one that made an owner.
  package private(set) var writeGen: UInt64
  private var first: UInt32
  private var last: UInt32

  /// A page that `owner` may write and nobody else has.
  package init(owner: NodeID?) {
    ownerNumber = owner?.rawValue ?? PageHome.nobody
    phase = .idle
    requester = 0
    isGrant = false
    migrations = 0
    lastWriter = owner?.rawValue ?? PageHome.nobody
    sharers = []
    awaited = []
    gen = 0
    writeGen = 0
    first = WaiterPool.none
    last = WaiterPool.none
  }

  private static let nobody: UInt8 = 0xFF
  /// So many readers in a row get a migrating page writable; the next one only to read, which shows whether it still migrates.
  private static let migrationsFollowed: UInt8 = 15

  package var owner: NodeID? {
    ownerNumber == PageHome.nobody ? nil : NodeID(rawValue: ownerNumber)
  }
  package var isBusy: Bool { phase != .idle }
  package var hasWaiters: Bool { first != WaiterPool.none }

  /// The home's own bytes are those of the last write.
  package var isHomeValid: Bool { owner == nil && (phase == .idle || phase == .invalidating) }

  /// After a loss: `node` has said that it may write, or read.
  package mutating func claim(_ node: NodeID, isWritable: Bool) {
    if isWritable { ownerNumber = node.rawValue } else { sharers.insert(NodeSet(node)) }
  }

  /// A message and its receivers, all of whom get the same.
  package struct Step: Equatable, Sendable {
    package var message: PageMessage
    package var receivers: NodeSet

    init(_ message: PageMessage, _ receivers: NodeSet) {
      self.message = message
      self.receivers = receivers
    }
  }

  /// What serving or acknowledging led to.
  package enum Outcome: Equatable, Sendable {
    /// Nothing is to be sent: still waiting for others, or done without a message.
    case none
    case send(Step)
    case error(PageProtocolError.Kind)
  }

  /// How a page is given.
  package struct Manners: Sendable {
    /// The owner sends the page to the next one itself.
    package var forwards = true
    /// Who reads a page that moves from writer to writer gets it writable at once.
    package var followsMigration = false
    package init() {}
  }

  // MARK: - Requests

  /// Takes a request (`getS`, `getM`, `put`) of `node` into the queue. Then call `next`.
  package mutating func enqueue(
    _ message: PageMessage, from node: NodeID, in pool: inout WaiterPool
  ) {
    let slot = pool.take(
      Waiter(kind: message.kind, node: node.rawValue, have: message.dep, next: WaiterPool.none))
    if last == WaiterPool.none { first = slot } else { pool[last].next = slot }
    last = slot
  }

  /// Begins with the next request, if the entry is idle and there is one; nil otherwise. `me` is the home. `.none` says that there was one
  /// and that it needed nothing.
  package mutating func next(
    page: UInt64, me: NodeID, _ manners: Manners, in pool: inout WaiterPool
  ) -> Outcome? {
    guard phase == .idle, first != WaiterPool.none else { return nil }
    let waiter = pool[first]
    pool.give(first)
    first = waiter.next
    if first == WaiterPool.none { last = WaiterPool.none }
    let node = NodeID(rawValue: waiter.node)
    switch waiter.kind {
    case .put: return takeBack(page, node)
    case .getS: return read(page, node, manners, me)
    default: return write(page, node, waiter.have, manners, me)
    }
  }

  private mutating func read(
    _ page: UInt64, _ node: NodeID, _ manners: Manners, _ me: NodeID
  ) -> Outcome {
    if owner == node { return .error(.ownerAsks) }
    if manners.followsMigration, migrations > 0 {
      if owner != nil || sharers.isSubset(of: NodeSet(node)) {
        let left = migrations &- 1
        let outcome = write(page, node, PageMessage.noGeneration, manners, me)
        migrations = left
        return outcome
      }
      // Several read it now.
      migrations = 0
    }
    gen &+= 1
    requester = node.rawValue
    guard let owner else {
      sharers.insert(NodeSet(node))
      return send(.dataS, page, to: node)
    }
    phase = .fetchingS
    awaited = NodeSet(owner)
    return .send(Step(PageMessage(.fetchS, page: page, gen: gen, dep: writeGen), awaited))
  }

  private mutating func write(
    _ page: UInt64, _ node: NodeID, _ have: UInt64, _ manners: Manners, _ me: NodeID
  ) -> Outcome {
    if owner == node { return .error(.ownerAsks) }
    gen &+= 1
    requester = node.rawValue
    if let owner {
      awaited = NodeSet(owner)
      let isForwarded = manners.forwards && me != owner && me != node
      phase = isForwarded ? .forwarding : .fetchingM
      return .send(
        Step(
          PageMessage(
            isForwarded ? .forwardM : .fetchM, page: page, gen: gen, dep: writeGen,
            target: isForwarded ? node : NodeID(rawValue: 0)), awaited))
    }
    let others = sharers.subtracting(NodeSet(node))
    isGrant =
      sharers.contains(node) && have != PageMessage.noGeneration && have >= writeGen
    // Read and then written by one node after another: the readers are the new writer and, if he still has it, the last one.
    let isMigratory =
      isGrant && lastWriter != PageHome.nobody && lastWriter != node.rawValue
      && others.isSubset(of: NodeSet(NodeID(rawValue: lastWriter)))
    migrations = isMigratory ? PageHome.migrationsFollowed : 0
    if others.isEmpty { return giveWritable(page) }
    phase = .invalidating
    awaited = others
    return .send(Step(PageMessage(.invalidate, page: page, gen: gen, dep: writeGen), others))
  }

  private mutating func takeBack(_ page: UInt64, _ node: NodeID) -> Outcome {
    // It may have gone elsewhere in between.
    guard owner == node else { return .none }
    gen &+= 1
    phase = .takingBack
    awaited = NodeSet(node)
    return .send(Step(PageMessage(.fetchM, page: page, gen: gen, dep: writeGen), awaited))
  }

  // MARK: - Acknowledgements

  /// Whether an acknowledgement of `node` is due, and whether with the page's bytes; nil when it is not. Bytes are put in place before
  /// `acknowledged` is called.
  package func expects(from node: NodeID) -> (data: Bool, Void)? {
    guard awaited.contains(node) else { return nil }
    switch phase {
    case .idle: return nil
    case .fetchingS, .fetchingM, .takingBack: return (true, ())
    case .forwarding, .invalidating: return (false, ())
    }
  }

  /// `node` has obeyed; its bytes, if any were due, are in place.
  package mutating func acknowledged(_ message: PageMessage, from node: NodeID) -> Outcome {
    guard let due = expects(from: node), due.data == message.carriesData, message.gen == gen else {
      return .error(.acknowledgement)
    }
    awaited.remove(NodeSet(node))
    guard awaited.isEmpty else { return .none }
    let requesting = NodeID(rawValue: requester)
    let ended = phase
    phase = .idle
    switch ended {
    case .idle: return .none
    case .fetchingS:
      sharers = [NodeSet(node), NodeSet(requesting)]
      ownerNumber = PageHome.nobody
      return send(.dataS, message.page, to: requesting)
    case .fetchingM:
      isGrant = false
      return giveWritable(message.page)
    case .forwarding:
      own()
      return .none
    case .invalidating: return giveWritable(message.page)
    case .takingBack:
      ownerNumber = PageHome.nobody
      sharers = []
      return .none
    }
  }

  private mutating func own() {
    ownerNumber = requester
    lastWriter = requester
    writeGen = gen
    sharers = []
  }

  private mutating func giveWritable(_ page: UInt64) -> Outcome {
    own()
    return send(isGrant ? .grant : .dataM, page, to: NodeID(rawValue: requester))
  }

  private func send(_ kind: PageMessage.Kind, _ page: UInt64, to node: NodeID) -> Outcome {
    .send(Step(PageMessage(kind, page: page, gen: gen), NodeSet(node)))
  }

  // MARK: - Unasked copies

  /// A readable copy for `node`, without a request; nil when the home's bytes are not valid or the node has one.
  package mutating func push(page: UInt64, to node: NodeID) -> Step? {
    guard phase == .idle, owner == nil, !sharers.contains(node) else { return nil }
    sharers.insert(NodeSet(node))
    return Step(PageMessage(.push, page: page, gen: gen), NodeSet(node))
  }

  /// The entry for people: `owner 2 gen 9 idle`.
  package var text: String {
    let who =
      owner.map { "owner \($0.rawValue)" } ?? "sharers 0x" + String(sharers.rawValue, radix: 16)
    return "\(who) gen \(gen) \(phase)"
  }
}

/// A request that waits at the home.
struct Waiter: BitwiseCopyable {
  var kind: PageMessage.Kind
  var node: UInt8
  var have: UInt64
  var next: UInt32
}

/// Room for the waiting requests of many pages: their queues are lists through it. It grows to what was ever needed at a time.
package struct WaiterPool: Sendable {
  static let none = UInt32.max
  private var waiters: [Waiter] = []
  private var free = WaiterPool.none
  /// Requests that wait.
  package private(set) var count = 0

  package init() { waiters.reserveCapacity(64) }

  mutating func take(_ waiter: Waiter) -> UInt32 {
    count += 1
    if free != WaiterPool.none {
      let slot = free
      free = waiters[Int(slot)].next
      waiters[Int(slot)] = waiter
      return slot
    }
    waiters.append(waiter)
    return UInt32(waiters.count - 1)
  }

  mutating func give(_ slot: UInt32) {
    count -= 1
    waiters[Int(slot)].next = free
    free = slot
  }

  subscript(slot: UInt32) -> Waiter {
    get { waiters[Int(slot)] }
    set { waiters[Int(slot)] = newValue }
  }
}
