package import Cluster

/// What a node has of one page, and what it does when messages about it come: the requester's table of distributed.md, section 5.
///
/// A pure model: it calls nobody. Revocations change the state at once and answer with what the caller must do, in this order: (1) close the
/// page to the engines, (2) read the bytes, (3) send. Data is first asked about (`decide`), because the bytes have to be put in place before
/// the state says that they are there (`install`).
package struct PageAgent: Equatable, Sendable, BitwiseCopyable {
  /// A node's right to a page.
  package enum State: UInt8, Sendable, Comparable, BitwiseCopyable {
    /// None.
    case invalid = 0
    /// It may read, as others may.
    case shared = 1
    /// It may write; nobody else has a copy.
    case modified = 2

    package static func < (a: State, b: State) -> Bool { a.rawValue < b.rawValue }
  }

  package var state: State
  /// What was asked for and has not come yet; `.invalid`: nothing.
  package var pending: State
  /// A revocation is kept until it can be obeyed.
  package private(set) var isHolding: Bool
  private var heldKind: PageMessage.Kind
  private var heldTarget: NodeID
  /// The transaction by which the node got its copy, also after it is gone.
  package var gen: UInt64
  private var heldGen: UInt64
  private var heldDep: UInt64

  /// A page in its first state.
  package init(_ state: State = .invalid, gen: UInt64 = 0) {
    self.state = state
    pending = .invalid
    isHolding = false
    heldKind = .invalidate
    heldTarget = NodeID(rawValue: 0)
    self.gen = gen
    heldGen = 0
    heldDep = 0
  }

  // MARK: - The engines' side

  /// What an access does.
  package enum Access: Equatable, Sendable {
    /// It may go on.
    case hit
    /// It waits for the request under way.
    case wait
    /// It waits, and this goes to the home.
    case request(PageMessage)
  }

  /// An engine wants to read or write `page`, which is this one's number.
  package mutating func access(_ right: PageRight, page: UInt64) -> Access {
    let wanted: State = right == .write ? .modified : .shared
    if state >= wanted { return .hit }
    if pending != .invalid { return .wait }
    pending = wanted
    if right == .read { return .request(PageMessage(.getS, page: page)) }
    let have = state == .shared ? gen : PageMessage.noGeneration
    return .request(PageMessage(.getM, page: page, dep: have))
  }

  // MARK: - The home's side

  /// What must be done for a message.
  package enum Action: Equatable, Sendable {
    /// Nothing; bytes that come with it are passed over.
    case none
    /// There is no copy: acknowledge at once.
    case acknowledge
    /// The readable copy is gone: close it, acknowledge.
    case drop
    /// The page is only readable now: close it to writers, acknowledge with its bytes.
    case downgrade
    /// The page is gone: close it, acknowledge with its bytes.
    case surrender
    /// The page is gone: close it, send it as `dataM` to the node, acknowledge.
    case forward(NodeID)
    /// Put the bytes in place (unless it is `grant`), then call `install`.
    case install
    /// It is kept; `takeHeld` gives it back when its time has come.
    case hold
    case error(PageProtocolError.Kind)
  }

  /// A revocation came (or one that was held is due): changes the state and says what to do.
  package mutating func revoked(_ message: PageMessage) -> Action {
    if message.gen < gen { return .error(.oldGeneration) }
    switch message.kind {
    case .invalidate:
      switch state {
      case .invalid: return .acknowledge
      case .shared:
        state = .invalid
        return .drop
      case .modified: return .error(.unexpected)
      }
    case .fetchS, .fetchM, .forwardM:
      guard state == .modified else {
        // Only data on its way from another node can make the home believe that this node has the page.
        guard pending != .invalid else { return .error(.unexpected) }
        return hold(message) ? .hold : .error(.heldTwice)
      }
      guard gen == message.dep else { return .error(.wrongGeneration) }
      switch message.kind {
      case .fetchS:
        state = .shared
        return .downgrade
      case .fetchM:
        state = .invalid
        return .surrender
      default:
        state = .invalid
        return .forward(message.target)
      }
    default: return .error(.unexpected)
    }
  }

  /// What is to be done with data, a grant, or a copy that nobody asked for. Changes nothing.
  package func decide(_ message: PageMessage) -> Action {
    if message.gen < gen { return .error(.oldGeneration) }
    switch message.kind {
    case .push:
      // While a request is under way its answer comes too; the home counts this node as a sharer in any case.
      return state == .invalid && pending == .invalid ? .install : .none
    case .dataS: return state == .invalid && pending == .shared ? .install : .error(.unexpected)
    case .dataM:
      let isAskedFor = state == .invalid ? pending != .invalid : pending == .modified
      return isAskedFor && state != .modified ? .install : .error(.unexpected)
    case .grant:
      return state == .shared && pending == .modified ? .install : .error(.unexpected)
    default: return .error(.unexpected)
    }
  }

  /// The bytes are in place: the state follows. Only after `decide` has said `.install`.
  package mutating func install(_ message: PageMessage) {
    switch message.kind {
    case .dataM, .grant: state = .modified
    default: state = .shared
    }
    gen = message.gen
    pending = .invalid
  }

  /// Keeps a revocation for later, as the table says or because the page is pinned; false when one is kept already.
  package mutating func hold(_ message: PageMessage) -> Bool {
    if isHolding { return false }
    isHolding = true
    heldKind = message.kind
    heldTarget = message.target
    heldGen = message.gen
    heldDep = message.dep
    return true
  }

  /// The revocation that is kept, if it can be obeyed now; it is to be given to `revoked`.
  package mutating func takeHeld(page: UInt64) -> PageMessage? {
    guard isHolding else { return nil }
    if heldKind != .invalidate, state != .modified || gen != heldDep { return nil }
    isHolding = false
    return PageMessage(heldKind, page: page, gen: heldGen, dep: heldDep, target: heldTarget)
  }

  /// The state for people: `S pend M gen 7`.
  package var text: String {
    let names = ["I", "S", "M"]
    let wait = pending == .invalid ? "none" : "pend " + names[Int(pending.rawValue)]
    return "\(names[Int(state.rawValue)]) \(wait) gen \(gen)" + (isHolding ? " holding" : "")
  }
}
