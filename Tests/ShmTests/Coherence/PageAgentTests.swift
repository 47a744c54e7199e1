import Cluster
import Shm
import Testing

/// The requester's table of distributed.md, section 5, cell by cell.
@Suite struct PageAgentTests {
  /// A row of the table.
  enum Row: CaseIterable {
    case invalid, invalidPendingS, invalidPendingM, shared, sharedPendingM, modified

    /// A page in that state, which got its copy (if any) in transaction 5.
    var agent: PageAgent {
      var agent: PageAgent
      switch self {
      case .invalid, .invalidPendingS, .invalidPendingM: agent = PageAgent(.invalid, gen: 5)
      case .shared, .sharedPendingM: agent = PageAgent(.shared, gen: 5)
      case .modified: agent = PageAgent(.modified, gen: 5)
      }
      switch self {
      case .invalidPendingS: _ = agent.access(.read, page: 9)
      case .invalidPendingM, .sharedPendingM: _ = agent.access(.write, page: 9)
      default: break
      }
      return agent
    }
  }

  private static let third = NodeID(rawValue: 3)

  private func access(_ row: Row, _ right: PageRight) -> (PageAgent.Access, PageAgent) {
    var agent = row.agent
    let result = agent.access(right, page: 9)
    return (result, agent)
  }

  @Test func readsAskWaitOrHit() {
    let expected: [Row: PageAgent.Access] = [
      .invalid: .request(PageMessage(.getS, page: 9)),
      .invalidPendingS: .wait, .invalidPendingM: .wait,
      .shared: .hit, .sharedPendingM: .hit, .modified: .hit,
    ]
    for row in Row.allCases {
      let (result, agent) = access(row, .read)
      #expect(result == expected[row], "\(row)")
      #expect(agent.pending == (row == .invalid ? .shared : row.agent.pending), "\(row)")
    }
  }

  @Test func writesAskWaitOrHit() {
    let none = PageMessage.noGeneration
    let expected: [Row: PageAgent.Access] = [
      .invalid: .request(PageMessage(.getM, page: 9, dep: none)),
      .invalidPendingS: .wait, .invalidPendingM: .wait,
      .shared: .request(PageMessage(.getM, page: 9, dep: 5)), .sharedPendingM: .wait,
      .modified: .hit,
    ]
    for row in Row.allCases {
      #expect(access(row, .write).0 == expected[row], "\(row)")
    }
  }

  /// What the row says, and the state and the wait afterwards.
  private typealias Cell = (
    action: PageAgent.Action, state: PageAgent.State, pending: PageAgent.State
  )

  private func check(
    _ message: PageMessage, _ cells: [Row: Cell], _ apply: (inout PageAgent) -> PageAgent.Action
  ) {
    for row in Row.allCases {
      var agent = row.agent
      let action = apply(&agent)
      guard let cell = cells[row] else {
        // "error": nothing else is said of the state then, as the cluster freezes.
        #expect(action == .error(.unexpected), "\(message.kind) in \(row)")
        continue
      }
      #expect(action == cell.action, "\(message.kind) in \(row)")
      #expect(agent.state == cell.state, "\(message.kind) in \(row)")
      #expect(agent.pending == cell.pending, "\(message.kind) in \(row)")
    }
  }

  @Test func invalidationIsObeyedInAnyStateButM() {
    let message = PageMessage(.invalidate, page: 9, gen: 8, dep: 2)
    check(
      message,
      [
        .invalid: (.acknowledge, .invalid, .invalid),
        .invalidPendingS: (.acknowledge, .invalid, .shared),
        .invalidPendingM: (.acknowledge, .invalid, .modified),
        .shared: (.drop, .invalid, .invalid),
        .sharedPendingM: (.drop, .invalid, .modified),
      ]
    ) { $0.revoked(message) }
  }

  @Test(arguments: [PageMessage.Kind.fetchS, .fetchM, .forwardM])
  func ownersGiveThePageAndWaitersHoldTheRevocation(_ kind: PageMessage.Kind) {
    let message = PageMessage(kind, page: 9, gen: 8, dep: 5, target: Self.third)
    let action: PageAgent.Action =
      kind == .fetchS ? .downgrade : kind == .fetchM ? .surrender : .forward(Self.third)
    check(
      message,
      [
        .invalidPendingS: (.hold, .invalid, .shared),
        .invalidPendingM: (.hold, .invalid, .modified),
        .sharedPendingM: (.hold, .shared, .modified),
        .modified: (action, kind == .fetchS ? .shared : .invalid, .invalid),
      ]
    ) { $0.revoked(message) }
  }

  private func receive(_ message: PageMessage, _ agent: inout PageAgent) -> PageAgent.Action {
    let action = agent.decide(message)
    if action == .install { agent.install(message) }
    return action
  }

  @Test func readableCopiesAreTakenByWhoAskedToRead() {
    let message = PageMessage(.dataS, page: 9, gen: 8)
    check(message, [.invalidPendingS: (.install, .shared, .invalid)]) { receive(message, &$0) }
  }

  @Test func writableCopiesAreTakenByWhoAsked() {
    let message = PageMessage(.dataM, page: 9, gen: 8)
    check(
      message,
      [
        .invalidPendingS: (.install, .modified, .invalid),
        .invalidPendingM: (.install, .modified, .invalid),
        .sharedPendingM: (.install, .modified, .invalid),
      ]
    ) { receive(message, &$0) }
  }

  @Test func grantsNeedAReadableCopy() {
    let message = PageMessage(.grant, page: 9, gen: 8)
    check(message, [.sharedPendingM: (.install, .modified, .invalid)]) { receive(message, &$0) }
  }

  @Test func copiesThatNobodyAskedForAreTakenWhereThereIsNone() {
    let message = PageMessage(.push, page: 9, gen: 8)
    check(
      message,
      [
        .invalid: (.install, .shared, .invalid),
        .invalidPendingS: (.none, .invalid, .shared),
        .invalidPendingM: (.none, .invalid, .modified),
        .shared: (.none, .shared, .invalid),
        .sharedPendingM: (.none, .shared, .modified),
        .modified: (.none, .modified, .invalid),
      ]
    ) { receive(message, &$0) }
  }

  @Test func oldAndWrongGenerationsAreErrors() {
    for kind in [PageMessage.Kind.fetchS, .fetchM, .forwardM, .invalidate] {
      for row in Row.allCases {
        var agent = row.agent
        #expect(agent.revoked(PageMessage(kind, page: 9, gen: 4, dep: 5)) == .error(.oldGeneration))
      }
    }
    for kind in [PageMessage.Kind.dataS, .dataM, .grant, .push] {
      for row in Row.allCases {
        #expect(row.agent.decide(PageMessage(kind, page: 9, gen: 4)) == .error(.oldGeneration))
      }
    }
    var owner = Row.modified.agent
    #expect(
      owner.revoked(PageMessage(.fetchM, page: 9, gen: 8, dep: 4)) == .error(.wrongGeneration))
    #expect(owner.state == .modified)
  }

  /// A revocation that overtook its data (on another connection) waits for exactly that generation.
  @Test func heldRevocationIsObeyedAfterTheDataThatItNames() {
    var agent = Row.invalidPendingM.agent
    #expect(
      agent.revoked(PageMessage(.forwardM, page: 9, gen: 8, dep: 7, target: Self.third)) == .hold)
    #expect(agent.isHolding)
    #expect(agent.takeHeld(page: 9) == nil)
    #expect(
      agent.revoked(PageMessage(.fetchS, page: 9, gen: 9, dep: 7)) == .error(.heldTwice))
    #expect(receive(PageMessage(.dataM, page: 9, gen: 7), &agent) == .install)
    guard let held = agent.takeHeld(page: 9) else {
      Issue.record("nothing was held")
      return
    }
    #expect(held == PageMessage(.forwardM, page: 9, gen: 8, dep: 7, target: Self.third))
    #expect(agent.revoked(held) == .forward(Self.third))
    #expect(!agent.isHolding && agent.state == .invalid)
    #expect(agent.takeHeld(page: 9) == nil)
  }

  /// A pinned reader keeps an invalidation; it can be obeyed at any time.
  @Test func keptInvalidationIsGivenBackAtOnce() {
    var agent = Row.shared.agent
    let message = PageMessage(.invalidate, page: 9, gen: 8, dep: 5)
    let isKept = agent.hold(message)
    #expect(isKept)
    #expect(agent.takeHeld(page: 9) == message)
  }
}
