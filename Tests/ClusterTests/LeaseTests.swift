import Cluster
import Testing

/// The transitions of model/lease.pml, taken at random by the real state machines: node 0 (`PeerWatch`) and two others (`Lease`).
@Suite struct LeaseTests {
  // The model's ticks: a lease of 4, a delay of at most 1.
  private static let lease: Int64 = 4
  private static let delay: Int64 = 1

  private struct Random {
    var state: UInt64
    mutating func below(_ limit: Int) -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(state >> 33) % limit
    }
  }

  private struct Flight {
    var sent: Int64
    var revives: Bool
  }

  /// A walk of so many steps; the first moment at which a node runs that node 0 counts as fenced, if there is one.
  private func walk(_ seed: UInt64, steps: Int, _ times: LeaseTimes, revives: Bool) -> Int64? {
    var random = Random(state: seed)
    var now: Int64 = 0
    var watch = [PeerWatch](repeating: PeerWatch(times, now: 0), count: 3)
    var lease = [Lease](repeating: Lease(times, now: 0), count: 3)
    var flight = [Flight?](repeating: nil, count: 3)
    for _ in 0..<steps {
      let node = 1 + random.below(2)
      switch random.below(8) {
      case 0, 1:
        // Node 0 renews.
        if watch[node].isRenewed, flight[node] == nil {
          watch[node].renewing(now: now)
          flight[node] = Flight(sent: now, revives: revives && lease[node].hasExpired)
        }
      case 2: if random.below(3) == 0 { _ = watch[node].heard(now: now) }
      case 3:
        if let one = flight[node] {
          flight[node] = nil
          // Node 0 may not have heard the node for a while: then it has less time.
          _ = lease[node].renewed(
            age: now - one.sent, silence: Int64(random.below(4)), revives: one.revives, now: now)
        }
      case 4: if random.below(4) == 0 { flight[node] = nil }
      default:
        now += 1
        for other in 1...2 {
          _ = lease[other].tick(now: now)
          _ = watch[other].tick(now: now)
          let runs = !lease[other].hasExpired
          if watch[other].state == .fenced, runs { return now }
        }
      }
    }
    return nil
  }

  private func times(margin: Int64, delay: Int64) -> LeaseTimes {
    LeaseTimes(heartbeat: 1, lease: LeaseTests.lease, longestDelay: delay, margin: margin)
  }

  @Test(arguments: [false, true]) func nobodyRunsThatIsFenced(_ revives: Bool) {
    for seed in 1...2000 {
      let found = walk(
        UInt64(seed), steps: 300, times(margin: 1, delay: LeaseTests.delay), revives: revives)
      #expect(found == nil, "seed \(seed)")
    }
  }

  @Test func withoutTheMarginTheModelFails() {
    // Node 0 waits for the lease only (NOMARGIN): the renewal that was still under way lets the node run on.
    var broken = times(margin: 0, delay: LeaseTests.delay)
    broken.longestDelay = 0
    var found = 0
    for seed in 1...2000 {
      var random = Random(state: UInt64(seed))
      var now: Int64 = 0
      var watch = PeerWatch(broken, now: 0)
      // The node takes renewals that were under way for a tick.
      var lease = Lease(times(margin: 0, delay: LeaseTests.delay), now: 0)
      var flight: Int64?
      for _ in 0..<200 {
        switch random.below(5) {
        case 0 where watch.isRenewed && flight == nil:
          watch.renewing(now: now)
          flight = now
        case 1:
          if let sent = flight {
            flight = nil
            _ = lease.renewed(age: now - sent, revives: false, now: now)
          }
        case 2, 3:
          now += 1
          _ = watch.tick(now: now)
          _ = lease.tick(now: now)
          if watch.state == .fenced, !lease.hasExpired { found += 1 }
        default: break
        }
      }
    }
    #expect(found > 0)
  }

  @Test func nodeIsSuspectAfterThreeHeartbeatsAndLostAfterALease() {
    let times = LeaseTimes(heartbeat: 200, lease: 1500, longestDelay: 500, margin: 50)
    var watch = PeerWatch(times, now: 0)
    check(watch.tick(now: 600), nil)
    check(watch.tick(now: 601), .suspect)
    #expect(!watch.isRenewed)
    check(watch.heard(now: 700), .recovered)
    #expect(watch.isRenewed)
    check(watch.tick(now: 1400), .suspect)
    check(watch.tick(now: 2199), nil)
    check(watch.tick(now: 2200), .lost)
    check(watch.heard(now: 2201), nil)
    #expect(watch.state == .lost)
  }

  @Test func lostNodeIsFencedOnceItsLastRenewalIsVoid() {
    let times = LeaseTimes(heartbeat: 200, lease: 1500, longestDelay: 500, margin: 50)
    var watch = PeerWatch(times, now: 0)
    watch.renewing(now: 400)
    watch.lose()
    check(watch.tick(now: 2449), nil)
    check(watch.tick(now: 2450), .fenced)
    check(watch.tick(now: 9000), nil)
  }

  @Test func lateRenewalIsIgnoredAndADeadLeaseStaysDead() {
    let times = LeaseTimes(heartbeat: 200, lease: 1500, longestDelay: 500, margin: 50)
    var lease = Lease(times, now: 0)
    _ = lease.renewed(age: 501, revives: false, now: 1000)
    #expect(lease.end == 1500)
    _ = lease.renewed(age: 500, revives: false, now: 1000)
    #expect(lease.end == 2500)
    check(lease.tick(now: 2499), false)
    check(lease.tick(now: 2500), true)
    check(lease.tick(now: 2501), false)
    check(lease.renewed(age: 0, revives: false, now: 2600), false)
    #expect(lease.hasExpired)
    // Node 0 has seen that it stands, and lets it go on.
    check(lease.renewed(age: 10, revives: true, now: 2700), true)
    #expect(!lease.hasExpired && lease.end == 4200)
  }

  @Test func leaseOfANodeThatIsNotHeardIsFromWhenItWas() {
    let times = LeaseTimes(heartbeat: 200, lease: 1500, longestDelay: 500, margin: 50)
    var lease = Lease(times, now: 0)
    // As long as heartbeats come apart: nothing of it.
    _ = lease.renewed(age: 10, silence: 100, revives: false, now: 200)
    #expect(lease.end == 1700)
    _ = lease.renewed(age: 10, silence: 200, revives: false, now: 400)
    #expect(lease.end == 400 + 1500 - 110)
    // It was heard last at 400, as node 0 says again and again.
    for now in stride(from: Int64(600), through: 1800, by: 200) {
      _ = lease.renewed(age: 0, silence: now - 400, revives: false, now: now)
      #expect(lease.end == 400 + 100 + 1500)
    }
    check(lease.tick(now: 1999), false)
    check(lease.tick(now: 2000), true)
    // Nor does it go on before it is heard.
    check(lease.renewed(age: 0, silence: 1700, revives: true, now: 2100), false)
    check(lease.renewed(age: 0, silence: 10, revives: true, now: 2300), true)
    #expect(lease.end == 3800)
  }

  @Test func nodeThatDoesNotHearIsLostAsOneThatIsNotHeard() {
    let times = LeaseTimes(heartbeat: 200, lease: 1500, longestDelay: 500, margin: 50)
    var watch = PeerWatch(times, now: 0)
    check(watch.heard(now: 200, silence: 200), nil)
    // It has heard nothing since 200, and says so.
    for now in stride(from: Int64(400), through: 800, by: 200) {
      check(watch.heard(now: now, silence: now - 200), nil)
    }
    check(watch.tick(now: 900), nil)
    check(watch.tick(now: 901), .suspect)
    #expect(!watch.isRenewed)
    check(watch.heard(now: 1000, silence: 800), nil)
    #expect(watch.state == .suspect)
    check(watch.tick(now: 1799), nil)
    var other = watch
    check(watch.tick(now: 1800), .lost)
    // It hears again.
    check(other.heard(now: 1799, silence: 0), .recovered)
    check(other.tick(now: 2000), nil)
  }

  @Test func ownStandstillIsNotHeldAgainstOthers() {
    let times = LeaseTimes(heartbeat: 200, lease: 1500, longestDelay: 500, margin: 50)
    var watch = PeerWatch(times, now: 0)
    watch.pause(2000)
    check(watch.tick(now: 2100), nil)
    check(watch.tick(now: 2000 + 1500), .lost)
  }
}
