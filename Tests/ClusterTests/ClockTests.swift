import Cluster
import Host
import Testing

@Suite struct ClockTests {
  private typealias Sample = ClockEstimator.Sample

  @Test func shortestExchangeCounts() {
    var estimator = ClockEstimator()
    estimator.update(
      [
        Sample(sent: 0, answered: 1000, remote: 5000),
        Sample(sent: 2000, answered: 2100, remote: 7050),
        Sample(sent: 3000, answered: 4000, remote: 8900),
      ], now: 4000)
    #expect(estimator.line.offset(at: 4000) == 5000)
    #expect(estimator.error == 50)
  }

  @Test func estimateIsApproachedByAtMost500PartsPerMillion() {
    var estimator = ClockEstimator()
    estimator.update([Sample(sent: 0, answered: 0, remote: 0)], now: 0)
    let second: Int64 = 1_000_000_000
    // A millisecond away.
    estimator.update(
      [Sample(sent: second, answered: second, remote: second + 1_000_000)], now: second)
    #expect(estimator.line.offset(at: second) == 0)
    #expect(estimator.line.offset(at: 2 * second) == 500_000)
    #expect(estimator.line.offset(at: 5 * second) == 500_000)
    #expect(estimator.error == 1_000_000)
    var last: Int64 = .min
    for step in 0..<3000 {
      let local = second + Int64(step) * 1_000_000
      let time = local + estimator.line.offset(at: local)
      #expect(time > last)
      last = time
    }
    // Back again: time goes slower, never backwards.
    estimator.update(
      [Sample(sent: 3 * second, answered: 3 * second, remote: 3 * second - 1_000_000)],
      now: 3 * second)
    #expect(estimator.line.offset(at: 3 * second) == 500_000)
    #expect(estimator.line.offset(at: 4 * second) == 0)
  }

  @Test func whatAnExchangeCannotTellIsNotChased() {
    var estimator = ClockEstimator()
    estimator.update([Sample(sent: 0, answered: 100, remote: 50)], now: 100)
    estimator.update([Sample(sent: 1000, answered: 1200, remote: 1160)], now: 1200)
    #expect(estimator.line.offset(at: 9999) == 0)
    #expect(estimator.error == 160)
  }

  @Test func firstNodesClockIsTheClusters() {
    let clock = ClusterClock(isReference: true)
    #expect(clock.error == 0 && clock.currentOffset == 0)
    let before = HostClock.monotonic
    let now = clock.now
    #expect(before <= now && now <= HostClock.monotonic)
  }

  @Test func otherClocksAreWrongWithoutBoundAtFirst() {
    let clock = ClusterClock(isReference: false)
    #expect(clock.error == .max)
    let local = HostClock.monotonic
    clock.update([Sample(sent: local - 100, answered: local, remote: local + 950)])
    #expect(clock.currentOffset == 1000 && clock.error == 50)
    #expect(clock.time(at: local) == local + 1000)
  }
}
