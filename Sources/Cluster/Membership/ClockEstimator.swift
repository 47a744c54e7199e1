/// How far node 0's clock is ahead of this node's, from exchanges of TIME (distributed.md, section 8): rules only, no clock of its own.
///
/// An exchange that took `rtt` says the difference to within rtt/2: of several, the shortest counts. What was once told runs on without
/// jumps: a new estimate is approached by at most 500 parts per million.
package struct ClockEstimator: Equatable, Sendable {
  /// One exchange, in nanoseconds: when it was sent and answered by this clock, and what node 0's clock said in between.
  package struct Sample: Equatable, Sendable {
    package var sent: Int64
    package var answered: Int64
    package var remote: Int64

    package init(sent: Int64, answered: Int64, remote: Int64) {
      self.sent = sent
      self.answered = answered
      self.remote = remote
    }
    /// Nanoseconds there and back.
    package var roundTrip: Int64 { max(0, answered &- sent) }
    /// Node 0's clock minus this one.
    package var offset: Int64 { remote &- (sent &+ roundTrip / 2) }
  }

  /// A piece of a straight line: node 0's clock minus this one, by this clock.
  package struct Line: Equatable, Sendable {
    /// From when on, by this clock.
    package var anchor: Int64 = 0
    /// The difference then.
    package var offset: Int64 = 0
    /// How it changes, in nanoseconds a second, until `end`.
    package var slope: Int64 = 0
    package var end: Int64 = 0

    package init() {}

    /// The difference at a moment of this clock.
    package func offset(at local: Int64) -> Int64 {
      let run = max(0, min(local, end) &- anchor)
      return offset &+ run / 1000 &* slope / 1_000_000
    }
  }

  /// Most that a clock is slewed, in nanoseconds a second: 500 parts per million.
  package static let largestSlope: Int64 = 500_000
  /// For how long an estimate is approached: until the next.
  private static let interval: Int64 = 1_000_000_000

  package private(set) var line = Line()
  /// What the clock may be wrong by, in nanoseconds.
  package private(set) var error: Int64 = .max
  private var isSet = false

  package init() {}

  /// The clock of node 0 itself: nothing to estimate.
  package static var reference: ClockEstimator {
    var estimator = ClockEstimator()
    estimator.isSet = true
    estimator.error = 0
    return estimator
  }

  /// Takes exchanges made at about `now`, by this clock. The first sets the clock; later ones slew it.
  package mutating func update(_ samples: [Sample], now: Int64) {
    guard let best = samples.min(by: { $0.roundTrip < $1.roundTrip }) else { return }
    let bound = best.roundTrip / 2
    guard isSet else {
      isSet = true
      line = Line()
      line.anchor = now
      line.end = now
      line.offset = best.offset
      error = bound
      return
    }
    let current = line.offset(at: now)
    let away = best.offset &- current
    var next = Line()
    next.anchor = now
    next.offset = current
    // Within what the exchange can tell nothing is wrong.
    if abs(away) > bound {
      let slope = max(-ClockEstimator.largestSlope, min(ClockEstimator.largestSlope, away))
      next.slope = slope
      next.end = now &+ ClockEstimator.interval
    } else {
      next.end = now
    }
    line = next
    // What is followed is `away` from what the exchange says to within `bound`.
    error = bound &+ abs(away)
  }
}
