/// Who may run (distributed.md, section 10; model/lease.pml): node 0 grants time, the others run only while theirs lasts. Rules only; all times
/// in nanoseconds of the caller's clock.

/// The times that leases go by.
package struct LeaseTimes: Equatable, Sendable {
  /// Between two heartbeats.
  package var heartbeat: Int64
  /// For how long a renewal lets a node run.
  package var lease: Int64
  /// A renewal that was under way for longer says nothing.
  package var longestDelay: Int64
  /// How exactly the clocks of two nodes go together, and how late a tick may be.
  package var margin: Int64

  package init(heartbeat: Int64, lease: Int64, longestDelay: Int64, margin: Int64) {
    self.heartbeat = heartbeat
    self.lease = lease
    self.longestDelay = longestDelay
    self.margin = margin
  }

  /// Those of a configuration: a renewal may take 500 ms, but not longer than a third of the lease.
  package init(_ configuration: ClusterConfiguration) {
    heartbeat = Int64(configuration.heartbeatMilliseconds) * 1_000_000
    lease = Int64(configuration.leaseMilliseconds) * 1_000_000
    longestDelay = min(500_000_000, lease / 3)
    margin = 50_000_000
  }

  /// A silence that is shorter says nothing: heartbeats come apart from each other.
  var phase: Int64 { heartbeat / 2 }
}

/// A node's right to run, as it sees it itself. Node 0 has no need of one.
package struct Lease: Equatable, Sendable {
  private let times: LeaseTimes
  /// Until when it may run.
  package private(set) var end: Int64
  /// Whether it ran out; only a revival by node 0 changes that.
  package private(set) var hasExpired = false

  /// A lease that begins now.
  package init(_ times: LeaseTimes, now: Int64) {
    self.times = times
    end = now &+ times.lease
  }

  /// A renewal has come that was sent `age` ago, when node 0 had heard nothing of this node for `silence`. A late one changes nothing; nor does
  /// one that comes after the end, unless it is the answer to that (`revives`). Who hears, but is not heard, has the lease from when it was: node 0
  /// finds it lost by then.
  ///
  /// Answers whether the node may go on that could not before.
  package mutating func renewed(
    age: Int64, silence: Int64 = 0, revives: Bool, now: Int64
  ) -> Bool {
    guard age <= times.longestDelay else { return false }
    let since = silence > times.phase ? silence &- times.phase &+ age : 0
    let next = now &+ times.lease &- min(since, times.lease)
    if hasExpired || now >= end {
      guard revives, next > now else {
        hasExpired = true
        return false
      }
      let wasExpired = hasExpired
      hasExpired = false
      end = next
      return wasExpired
    }
    end = max(end, next)
    return false
  }

  /// Time passes. Answers whether the lease has just run out.
  package mutating func tick(now: Int64) -> Bool {
    guard !hasExpired, now >= end else { return false }
    hasExpired = true
    return true
  }
}

/// Another node as it is seen: alive, suspect, lost. Node 0 goes by it; for the others it is for show.
package struct PeerWatch: Equatable, Sendable {
  package enum State: Sendable, Equatable {
    case alive
    /// Three heartbeats were missed: no more renewals.
    case suspect
    /// Not heard of for a lease. Nobody runs.
    case lost
    /// Lost for so long that its lease has run out for certain: the others might go on without it.
    case fenced
    /// It said goodbye.
    case left
  }
  package enum Change: Sendable, Equatable { case suspect, recovered, lost, fenced }

  private let times: LeaseTimes
  package private(set) var state = State.alive
  package private(set) var lastHeard: Int64
  /// When a renewal was sent to it last.
  package private(set) var lastRenewal: Int64

  package init(_ times: LeaseTimes, now: Int64) {
    self.times = times
    lastHeard = now
    lastRenewal = now
  }

  /// Whether it is to get renewals.
  package var isRenewed: Bool { state == .alive }

  /// A renewal is being sent.
  package mutating func renewing(now: Int64) { lastRenewal = now }

  /// A heartbeat of it has come, or something else, sent when it had heard nothing of this node for `silence`: a link that works one way only
  /// is none.
  package mutating func heard(now: Int64, silence: Int64 = 0) -> Change? {
    switch state {
    case .alive, .suspect:
      lastHeard = max(lastHeard, now &- max(0, silence &- times.phase))
      if state == .alive || now &- lastHeard > 3 * times.heartbeat { return nil }
      state = .alive
      return .recovered
    case .lost, .fenced, .left: return nil
    }
  }

  /// It has been found lost by other means.
  package mutating func lose() {
    if state == .alive || state == .suspect { state = .lost }
  }

  /// It has said goodbye.
  package mutating func leave() { state = .left }

  /// This node itself stood still for so long: it cannot judge what it did not hear meanwhile.
  package mutating func pause(_ gap: Int64) {
    if state == .alive || state == .suspect { lastHeard &+= gap }
  }

  /// Time passes.
  package mutating func tick(now: Int64) -> Change? {
    let silence = now &- lastHeard
    switch state {
    case .alive, .suspect:
      if silence >= times.lease {
        state = .lost
        return .lost
      }
      if state == .alive, silence > 3 * times.heartbeat {
        state = .suspect
        return .suspect
      }
      return nil
    case .lost:
      guard now &- lastRenewal >= times.lease &+ times.longestDelay &+ times.margin else {
        return nil
      }
      state = .fenced
      return .fenced
    case .fenced, .left: return nil
    }
  }
}
