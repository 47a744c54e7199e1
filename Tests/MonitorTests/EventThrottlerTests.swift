import Monitor
import QAPI
import Testing

@Suite struct EventThrottlerTests {
  private let second: Int64 = 1_000_000_000

  private func change(_ offset: Int) -> TimedEvent {
    TimedEvent(.rtcChange(offset: offset, qomPath: "/rtc"), microseconds: Int64(offset))
  }

  @Test func unlimitedEventsPass() {
    var throttler = EventThrottler()
    let stop = TimedEvent(.stop, microseconds: 0)
    for _ in 0..<3 { #expect(throttler.offer(stop, now: 0) == stop) }
    #expect(throttler.deadline == nil)
  }

  @Test func firstIsSentAndOnlyTheNewestOfTheRestIsKept() {
    var throttler = EventThrottler()
    #expect(throttler.offer(change(1), now: 100) == change(1))
    #expect(throttler.offer(change(2), now: 200) == nil)
    #expect(throttler.offer(change(3), now: 300) == nil)
    #expect(throttler.deadline == 100 + second)
    #expect(throttler.expire(now: second) == [])
    #expect(throttler.expire(now: 100 + second) == [change(3)])
    // A kept event starts the interval again.
    #expect(throttler.deadline == 100 + 2 * second)
    #expect(throttler.offer(change(4), now: 200 + second) == nil)
    #expect(throttler.expire(now: 100 + 2 * second) == [change(4)])
  }

  @Test func quietIntervalEndsTheThrottle() {
    var throttler = EventThrottler()
    _ = throttler.offer(change(1), now: 0)
    #expect(throttler.expire(now: second) == [])
    #expect(throttler.deadline == nil)
    #expect(throttler.offer(change(2), now: second) == change(2))
  }
}
