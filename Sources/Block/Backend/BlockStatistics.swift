/// What a request does, for accounting.
package enum BlockAccess: Int, Sendable, CaseIterable {
  case read, write, flush, unmap
}

/// Counts of one kind of request.
package struct AccessCounters: Equatable, Sendable {
  package var bytes: UInt64 = 0
  package var operations: UInt64 = 0
  package var merged: UInt64 = 0
  package var failed: UInt64 = 0
  package var invalid: UInt64 = 0
  /// Nanoseconds from the start to the end of each, in all.
  package var time: UInt64 = 0
  package var histogram: LatencyHistogram?

  package init() {}
}

/// How many requests took how long (`block-latency-histogram-set`).
package struct LatencyHistogram: Equatable, Sendable {
  /// Nanoseconds, rising.
  package let boundaries: [UInt64]
  /// One more than there are boundaries.
  package private(set) var bins: [UInt64]

  /// Nil unless the boundaries rise strictly from above 0.
  package init?(boundaries: [UInt64]) {
    var last: UInt64 = 0
    for boundary in boundaries {
      guard boundary > last else { return nil }
      last = boundary
    }
    self.boundaries = boundaries
    bins = [UInt64](repeating: 0, count: boundaries.count + 1)
  }

  mutating func count(_ nanoseconds: UInt64) {
    var (low, high) = (0, boundaries.count)
    while low < high {
      let middle = (low + high) / 2
      if boundaries[middle] <= nanoseconds { low = middle + 1 } else { high = middle }
    }
    bins[low] &+= 1
  }
}

/// Shortest, longest and mean time of requests over the last interval. Two windows that overlap by half take turns, so that there always is a full one.
package struct TimedAverage: Equatable, Sendable {
  private struct Window: Equatable, Sendable {
    var minimum = UInt64.max
    var maximum: UInt64 = 0
    var sum: UInt64 = 0
    var count: UInt64 = 0
    var end: Int64
  }
  /// Nanoseconds.
  private let period: Int64
  private var windows: (Window, Window)
  private var firstIsCurrent = true

  init(seconds: UInt64, now: Int64) {
    let nanoseconds = Int64(clamping: seconds.multipliedReportingOverflow(by: 1_000_000_000).0)
    period = max(nanoseconds, 2)
    windows = (Window(end: now &+ period / 2), Window(end: now &+ period))
  }

  mutating func add(_ value: UInt64, now: Int64) {
    expire(now)
    TimedAverage.add(&windows.0, value)
    TimedAverage.add(&windows.1, value)
  }

  /// In nanoseconds; zeros when nothing was counted. `elapsed` is how long the window has been counting.
  package func summary(now: Int64) -> (
    minimum: UInt64, maximum: UInt64, average: UInt64, sum: UInt64, elapsed: Int64
  ) {
    var copy = self
    copy.expire(now)
    let window = copy.firstIsCurrent ? copy.windows.0 : copy.windows.1
    let elapsed = period &- (window.end &- now)
    guard window.count > 0 else { return (0, 0, 0, 0, elapsed) }
    return (window.minimum, window.maximum, window.sum / window.count, window.sum, elapsed)
  }

  private mutating func expire(_ now: Int64) {
    if windows.0.end <= now {
      windows.0 = Window(end: TimedAverage.next(windows.0.end, now, period))
    }
    if windows.1.end <= now {
      windows.1 = Window(end: TimedAverage.next(windows.1.end, now, period))
    }
    // The one that ends sooner has counted for longer.
    firstIsCurrent = windows.0.end <= windows.1.end
  }

  private static func next(_ end: Int64, _ now: Int64, _ period: Int64) -> Int64 {
    end &+ ((now &- end) / period &+ 1) &* period
  }

  private static func add(_ window: inout Window, _ value: UInt64) {
    window.minimum = min(window.minimum, value)
    window.maximum = max(window.maximum, value)
    window.sum &+= value
    window.count &+= 1
  }

  package static func == (left: TimedAverage, right: TimedAverage) -> Bool {
    left.period == right.period && left.windows.0 == right.windows.0
      && left.windows.1 == right.windows.1
  }
}

/// What a device has done with its disk (`query-blockstats`).
package struct BlockStatistics: Equatable, Sendable {
  package var reads = AccessCounters()
  package var writes = AccessCounters()
  package var flushes = AccessCounters()
  package var unmaps = AccessCounters()
  /// Monotonic nanoseconds of the last request's end.
  package var lastAccess: Int64
  /// Whether requests that failed (were invalid) count as accesses.
  package var countsFailed = true
  package var countsInvalid = true
  package private(set) var intervals:
    [(seconds: UInt64, reads: TimedAverage, writes: TimedAverage, flushes: TimedAverage)] =
      []

  package init(now: Int64) { lastAccess = now }

  package subscript(access: BlockAccess) -> AccessCounters {
    get {
      switch access {
      case .read: reads
      case .write: writes
      case .flush: flushes
      case .unmap: unmaps
      }
    }
    _modify {
      switch access {
      case .read: yield &reads
      case .write: yield &writes
      case .flush: yield &flushes
      case .unmap: yield &unmaps
      }
    }
  }

  /// Keeps averages over that interval, too.
  package mutating func addInterval(seconds: UInt64, now: Int64) {
    let fresh = TimedAverage(seconds: seconds, now: now)
    intervals.append((seconds, fresh, fresh, fresh))
  }

  /// `parts` requests of the guest, merged into one, are done.
  mutating func done(
    _ access: BlockAccess, bytes: UInt64, parts: Int = 1, started: Int64, now: Int64
  ) {
    let time = UInt64(max(0, now &- started))
    self[access].bytes &+= bytes
    self[access].merged &+= UInt64(parts - 1)
    for _ in 0..<parts {
      self[access].operations &+= 1
      self[access].time &+= time
      self[access].histogram?.count(time)
      countInterval(access, time, now)
    }
    lastAccess = now
  }

  mutating func failed(_ access: BlockAccess, started: Int64, now: Int64) {
    self[access].failed &+= 1
    guard countsFailed else { return }
    let time = UInt64(max(0, now &- started))
    self[access].time &+= time
    self[access].histogram?.count(time)
    lastAccess = now
    countInterval(access, time, now)
  }

  mutating func invalid(_ access: BlockAccess, now: Int64) {
    self[access].invalid &+= 1
    if countsInvalid { lastAccess = now }
  }

  private mutating func countInterval(_ access: BlockAccess, _ time: UInt64, _ now: Int64) {
    for index in intervals.indices {
      switch access {
      case .read: intervals[index].reads.add(time, now: now)
      case .write: intervals[index].writes.add(time, now: now)
      case .flush: intervals[index].flushes.add(time, now: now)
      case .unmap: break
      }
    }
  }

  package static func == (left: BlockStatistics, right: BlockStatistics) -> Bool {
    left.reads == right.reads && left.writes == right.writes && left.flushes == right.flushes
      && left.unmaps == right.unmaps && left.lastAccess == right.lastAccess
  }
}
