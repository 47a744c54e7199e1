import Glibc

/// The host's clocks, in nanoseconds.
package enum HostClock {
  /// Monotonic time; the same epoch as `CLOCK_MONOTONIC`.
  package static var monotonic: Int64 { read(CLOCK_MONOTONIC) }

  /// Time since 1970-01-01 UTC.
  package static var realtime: Int64 { read(CLOCK_REALTIME) }

  /// How far local time is ahead of UTC now, in seconds.
  package static var localOffsetInSeconds: Int64 {
    var now = Glibc.time(nil)
    var local = unsafe tm()
    // SAFETY: both live through the call.
    return unsafe localtime_r(&now, &local) == nil ? 0 : Int64(local.tm_gmtoff)
  }

  private static func read(_ clock: clockid_t) -> Int64 {
    var time = timespec()
    // SAFETY: `time` outlives the call.
    _ = unsafe clock_gettime(clock, &time)
    return Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec)
  }
}
