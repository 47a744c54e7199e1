import Glibc

/// The host's clocks, in nanoseconds.
package enum HostClock {
  /// Monotonic time; the same epoch as `CLOCK_MONOTONIC`.
  package static var monotonic: Int64 { read(CLOCK_MONOTONIC) }

  /// Time since 1970-01-01 UTC.
  package static var realtime: Int64 { read(CLOCK_REALTIME) }

  /// How far local time is ahead of UTC now, in seconds.
  package static var localOffsetInSeconds: Int64 { localOffset(at: Int64(Glibc.time(nil))) }

  /// How far local time is ahead of UTC at a moment, given in seconds since 1970 UTC.
  package static func localOffset(at seconds: Int64) -> Int64 {
    var now = time_t(seconds)
    var local = unsafe tm()
    // SAFETY: both live through the call.
    return unsafe localtime_r(&now, &local) == nil ? 0 : Int64(local.tm_gmtoff)
  }

  /// The present moment as ISO 8601 has it, in UTC with microseconds: `2026-11-22T20:24:51.012345Z`.
  package static var timestamp: String {
    let now = realtime
    var seconds = time_t(now / 1_000_000_000)
    var date = unsafe tm()
    // SAFETY: both live through the call.
    guard unsafe gmtime_r(&seconds, &date) != nil else { return "" }
    func digits(_ value: Int, _ count: Int) -> String {
      let text = String(value)
      return String(repeating: "0", count: max(0, count - text.utf8.count)) + text
    }
    let day = [
      digits(Int(unsafe date.tm_year) + 1900, 4), digits(Int(unsafe date.tm_mon) + 1, 2),
      digits(Int(unsafe date.tm_mday), 2),
    ].joined(separator: "-")
    let hour = unsafe [date.tm_hour, date.tm_min, date.tm_sec].map { digits(Int($0), 2) }
    return "\(day)T\(hour.joined(separator: ":")).\(digits(Int(now % 1_000_000_000 / 1000), 6))Z"
  }

  /// A moment in local time: `2026-11-23 05:29:20`.
  package static func localText(seconds: Int64) -> String {
    var seconds = time_t(seconds)
    var date = unsafe tm()
    var text = [CChar](repeating: 0, count: 64)
    // SAFETY: all live through the calls.
    unsafe localtime_r(&seconds, &date)
    let count = unsafe strftime(&text, text.count, "%Y-%m-%d %H:%M:%S", &date)
    return String(decoding: text.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  /// The present moment as HTTP has it (RFC 9110, 5.6.7): `Sun, 22 Nov 2026 20:24:51 GMT`.
  package static var httpDate: String {
    var seconds = time_t(realtime / 1_000_000_000)
    var date = unsafe tm()
    var text = [CChar](repeating: 0, count: 40)
    // SAFETY: all live through the calls; the locale is C's, as nothing sets another.
    unsafe gmtime_r(&seconds, &date)
    let count = unsafe strftime(&text, text.count, "%a, %d %b %Y %H:%M:%S GMT", &date)
    return String(decoding: text.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  /// Lets the calling thread sleep. Never on the main loop.
  package static func sleep(nanoseconds: Int64) {
    guard nanoseconds > 0 else { return }
    let end = monotonic &+ nanoseconds
    var time = timespec()
    time.tv_sec = Int(end / 1_000_000_000)
    time.tv_nsec = Int(end % 1_000_000_000)
    // SAFETY: `time` outlives the call.
    while unsafe clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nil) == EINTR {}
  }

  /// Nanoseconds since the host was started, sleep included.
  package static var boottime: Int64 { read(clockid_t(7)) }

  private static func read(_ clock: clockid_t) -> Int64 {
    var time = timespec()
    // SAFETY: `time` outlives the call.
    _ = unsafe clock_gettime(clock, &time)
    return Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec)
  }
}
