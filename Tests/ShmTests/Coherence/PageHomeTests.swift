import Cluster
import Shm
import Testing

/// The home's rules of distributed.md, section 5.
@Suite struct PageHomeTests {
  private static let home = NodeID(rawValue: 0)
  private static let a = NodeID(rawValue: 1)
  private static let b = NodeID(rawValue: 2)
  private static let c = NodeID(rawValue: 3)

  /// A home with what it sent.
  private struct Desk {
    var page: PageHome
    var pool = WaiterPool()
    var manners = PageHome.Manners()
    init(owner: NodeID?) { page = PageHome(owner: owner) }

    mutating func ask(_ kind: PageMessage.Kind, _ node: NodeID, have: UInt64? = nil)
      -> PageHome.Outcome?
    {
      page.enqueue(
        PageMessage(kind, page: 7, dep: have ?? PageMessage.noGeneration), from: node, in: &pool)
      return next()
    }
    mutating func next() -> PageHome.Outcome? {
      page.next(page: 7, me: PageHomeTests.home, manners, in: &pool)
    }
    mutating func acknowledge(_ node: NodeID, data: Bool, gen: UInt64? = nil) -> PageHome.Outcome {
      page.acknowledged(
        PageMessage(.acknowledge, page: 7, gen: gen ?? page.gen, carriesData: data), from: node)
    }
  }

  /// What is sent: kind, generation, dep and receivers.
  private func sent(
    _ outcome: PageHome.Outcome?, _ kind: PageMessage.Kind, gen: UInt64, dep: UInt64 = 0,
    to nodes: NodeSet, target: NodeID = home, _ location: SourceLocation = #_sourceLocation
  ) {
    guard case .send(let step) = outcome else {
      Issue.record("nothing sent: \(String(describing: outcome))", sourceLocation: location)
      return
    }
    #expect(
      step.message == PageMessage(kind, page: 7, gen: gen, dep: dep, target: target),
      sourceLocation: location)
    #expect(step.receivers == nodes, sourceLocation: location)
  }

  @Test func readerOfAnUnownedPageGetsTheHomesBytes() {
    var desk = Desk(owner: nil)
    sent(desk.ask(.getS, Self.a), .dataS, gen: 1, to: NodeSet(Self.a))
    #expect(desk.page.sharers == NodeSet(Self.a) && !desk.page.isBusy)
    sent(desk.ask(.getS, Self.b), .dataS, gen: 2, to: NodeSet(Self.b))
    #expect(desk.page.sharers == [NodeSet(Self.a), NodeSet(Self.b)])
  }

  @Test func readerOfAnOwnedPageWaitsForTheOwnersBytes() {
    var desk = Desk(owner: Self.a)
    sent(desk.ask(.getS, Self.b), .fetchS, gen: 1, to: NodeSet(Self.a))
    #expect(desk.page.isBusy)
    #expect(desk.ask(.getS, Self.c) == nil, "answered while it waits")
    sent(desk.acknowledge(Self.a, data: true), .dataS, gen: 1, to: NodeSet(Self.b))
    #expect(desk.page.owner == nil)
    #expect(desk.page.sharers == [NodeSet(Self.a), NodeSet(Self.b)])
    sent(desk.next(), .dataS, gen: 2, to: NodeSet(Self.c))
    #expect(desk.next() == nil && desk.pool.count == 0)
  }

  @Test func writerGetsThePageFromAThirdOwnerDirectly() {
    var desk = Desk(owner: Self.a)
    sent(desk.ask(.getM, Self.b), .forwardM, gen: 1, to: NodeSet(Self.a), target: Self.b)
    #expect(desk.acknowledge(Self.a, data: false) == .none)
    #expect(desk.page.owner == Self.b && desk.page.writeGen == 1)
    // The next one names the generation under which the owner got it.
    sent(desk.ask(.getM, Self.c), .forwardM, gen: 2, dep: 1, to: NodeSet(Self.b), target: Self.c)
  }

  @Test func withoutForwardingThePageGoesByWayOfTheHome() {
    var desk = Desk(owner: Self.a)
    desk.manners.forwards = false
    sent(desk.ask(.getM, Self.b), .fetchM, gen: 1, to: NodeSet(Self.a))
    sent(desk.acknowledge(Self.a, data: true), .dataM, gen: 1, to: NodeSet(Self.b))
    #expect(desk.page.owner == Self.b)
  }

  @Test func homeThatOwnsOrAsksIsNotForwardedTo() {
    var desk = Desk(owner: Self.home)
    sent(desk.ask(.getM, Self.b), .fetchM, gen: 1, to: NodeSet(Self.home))
    var other = Desk(owner: Self.a)
    sent(other.ask(.getM, Self.home), .fetchM, gen: 1, to: NodeSet(Self.a))
  }

  @Test func writerWaitsForAllReadersAtOnce() {
    var desk = Desk(owner: nil)
    for node in [Self.a, Self.b, Self.c] { _ = desk.ask(.getS, node) }
    sent(
      desk.ask(.getM, Self.a, have: 1), .invalidate, gen: 4,
      to: [NodeSet(Self.b), NodeSet(Self.c)])
    #expect(desk.acknowledge(Self.c, data: false) == .none)
    #expect(desk.page.owner == nil, "granted before all acknowledgements")
    sent(desk.acknowledge(Self.b, data: false), .grant, gen: 4, to: NodeSet(Self.a))
    #expect(desk.page.owner == Self.a && desk.page.sharers.isEmpty)
  }

  @Test func staleOrMissingCopyIsNotGrantedButSent() {
    // A reader that lost its copy since, or holds none.
    var desk = Desk(owner: nil)
    _ = desk.ask(.getS, Self.a)
    sent(desk.ask(.getM, Self.a), .dataM, gen: 2, to: NodeSet(Self.a))
    // Its generation is older than the last write.
    var other = Desk(owner: Self.b)
    _ = other.ask(.getM, Self.c)
    _ = other.acknowledge(Self.b, data: false)
    sent(other.ask(.getS, Self.a), .fetchS, gen: 2, dep: 1, to: NodeSet(Self.c))
    _ = other.acknowledge(Self.c, data: true)
    sent(other.ask(.getM, Self.a, have: 0), .invalidate, gen: 3, dep: 1, to: NodeSet(Self.c))
    sent(other.acknowledge(Self.c, data: false), .dataM, gen: 3, to: NodeSet(Self.a))
  }

  @Test func requestsAreServedInTheOrderOfTheirComing() {
    var desk = Desk(owner: Self.a)
    _ = desk.ask(.getM, Self.b)
    #expect(desk.ask(.getM, Self.c) == nil)
    #expect(desk.ask(.getS, Self.a) == nil, "a request of the one that is waited for is queued too")
    _ = desk.acknowledge(Self.a, data: false)
    sent(desk.next(), .forwardM, gen: 2, dep: 1, to: NodeSet(Self.b), target: Self.c)
    #expect(desk.next() == nil)
    _ = desk.acknowledge(Self.b, data: false)
    sent(desk.next(), .fetchS, gen: 3, dep: 2, to: NodeSet(Self.c))
  }

  @Test func pagePutBackBelongsToNobody() {
    var desk = Desk(owner: Self.a)
    sent(desk.ask(.put, Self.a), .fetchM, gen: 1, to: NodeSet(Self.a))
    #expect(desk.acknowledge(Self.a, data: true) == .none)
    #expect(desk.page.owner == nil && desk.page.sharers.isEmpty)
    sent(desk.ask(.getM, Self.b), .dataM, gen: 2, to: NodeSet(Self.b))
    // Too late: it has gone elsewhere.
    #expect(desk.ask(.put, Self.a) == PageHome.Outcome.none)
    #expect(desk.page.owner == Self.b)
  }

  /// A page that is read and then written by one node after the other.
  private func migrating() -> Desk {
    var desk = Desk(owner: Self.a)
    desk.manners.followsMigration = true
    _ = desk.ask(.getS, Self.b)
    _ = desk.acknowledge(Self.a, data: true)
    _ = desk.ask(.getM, Self.b, have: 1)
    sent(desk.acknowledge(Self.a, data: false), .grant, gen: 2, to: NodeSet(Self.b))
    return desk
  }

  @Test func readerOfAMigratingPageGetsItWritable() {
    var desk = migrating()
    sent(desk.ask(.getS, Self.c), .forwardM, gen: 3, dep: 2, to: NodeSet(Self.b), target: Self.c)
    #expect(desk.acknowledge(Self.b, data: false) == .none)
    #expect(desk.page.owner == Self.c)
    // Every now and then one gets it only to read, and if it does not write, so do those after it.
    var nodes = [Self.a, Self.b]
    for _ in 0..<14 {
      guard let node = nodes.first, case .send = desk.ask(.getS, node) else {
        Issue.record("nothing sent")
        return
      }
      #expect(desk.page.phase == .forwarding)
      _ = desk.acknowledge(desk.page.owner ?? Self.home, data: false)
      nodes.reverse()
    }
    sent(desk.ask(.getS, Self.c), .fetchS, gen: 18, dep: 17, to: NodeSet(Self.b))
    _ = desk.acknowledge(Self.b, data: true)
    sent(desk.ask(.getS, Self.a), .dataS, gen: 19, to: NodeSet(Self.a))
  }

  @Test func pageThatOneNodeWritesAndOthersReadDoesNotMigrate() {
    var desk = Desk(owner: Self.a)
    desk.manners.followsMigration = true
    for round in 0..<4 {
      let gen = UInt64(round * 2)
      sent(desk.ask(.getS, Self.b), .fetchS, gen: gen + 1, dep: gen, to: NodeSet(Self.a))
      _ = desk.acknowledge(Self.a, data: true)
      sent(
        desk.ask(.getM, Self.a, have: gen), .invalidate, gen: gen + 2, dep: gen, to: NodeSet(Self.b)
      )
      sent(desk.acknowledge(Self.b, data: false), .grant, gen: gen + 2, to: NodeSet(Self.a))
    }
  }

  @Test func migratingPageThatSeveralReadIsShared() {
    var desk = migrating()
    desk.manners.followsMigration = false
    _ = desk.ask(.getS, Self.c)
    _ = desk.acknowledge(Self.b, data: true)
    desk.manners.followsMigration = true
    sent(desk.ask(.getS, Self.a), .dataS, gen: 4, to: NodeSet(Self.a))
  }

  @Test func surprisesAreErrors() {
    var desk = Desk(owner: Self.a)
    #expect(desk.ask(.getS, Self.a) == .error(.ownerAsks))
    #expect(desk.ask(.getM, Self.a) == .error(.ownerAsks))
    #expect(desk.acknowledge(Self.a, data: true) == .error(.acknowledgement))
    _ = desk.ask(.getS, Self.b)
    #expect(desk.acknowledge(Self.b, data: true) == .error(.acknowledgement))
    #expect(desk.acknowledge(Self.a, data: false) == .error(.acknowledgement))
    #expect(desk.acknowledge(Self.a, data: true, gen: 0) == .error(.acknowledgement))
    #expect(desk.page.expects(from: Self.b) == nil)
    #expect(desk.page.expects(from: Self.a)?.data == true)
    sent(desk.acknowledge(Self.a, data: true), .dataS, gen: 1, to: NodeSet(Self.b))
  }

  @Test func unaskedCopyMakesASharer() {
    var desk = Desk(owner: nil)
    let step = desk.page.push(page: 7, to: Self.a)
    #expect(step?.message.kind == .push && desk.page.sharers == NodeSet(Self.a))
    #expect(desk.page.push(page: 7, to: Self.a) == nil)
    // It may have ignored the copy: what it says it holds decides.
    sent(desk.ask(.getM, Self.a), .dataM, gen: 1, to: NodeSet(Self.a))
    #expect(desk.page.push(page: 7, to: Self.b) == nil)
  }

  /// The pool's places are used again.
  @Test func queuesOfManyPagesShareOnePool() {
    var pool = WaiterPool()
    var pages = (0..<50).map { _ in PageHome(owner: Self.a) }
    for round in 0..<3 {
      for node in 1..<20 {
        for index in pages.indices {
          pages[index].enqueue(
            PageMessage(.put, page: UInt64(index)), from: NodeID(rawValue: UInt8(node + 20)),
            in: &pool)
        }
      }
      #expect(pool.count == 950, "round \(round)")
      for index in pages.indices {
        var served = 0
        while pages[index].next(page: 0, me: Self.home, PageHome.Manners(), in: &pool) != nil {
          served += 1
        }
        #expect(served == 19)
      }
      #expect(pool.count == 0)
    }
  }
}
