import Glibc

/// One limit: an average rate, and how far bursts may go beyond it. QEMU's leaky bucket: what is done raises the level, time lowers it.
package struct ThrottleBucket: Equatable, Sendable {
  /// Units a second; 0 is no limit.
  package var average: UInt64 = 0
  /// Units a second during bursts; 0: a tenth of a second's worth of `average`.
  package var maximum: UInt64 = 0
  /// How long a burst may last, in seconds, at least 1.
  package var burstLength: UInt64 = 1
  private var level = 0.0
  private var burstLevel = 0.0

  package init(average: UInt64 = 0, maximum: UInt64 = 0, burstLength: UInt64 = 1) {
    self.average = average
    self.maximum = maximum
    self.burstLength = burstLength
  }

  mutating func reset() { (level, burstLevel) = (0, 0) }

  mutating func leak(_ nanoseconds: Int64) {
    let seconds = Double(nanoseconds) / 1e9
    level = max(0, level - Double(average) * seconds)
    if burstLength > 1 { burstLevel = max(0, burstLevel - Double(maximum) * seconds) }
  }

  mutating func add(_ units: Double) {
    guard average > 0 else { return }
    level += units
    if burstLength > 1 { burstLevel += units }
  }

  /// Nanoseconds until the next request may start.
  var wait: Int64 {
    guard average > 0 else { return 0 }
    // Without a maximum a tenth of a second's worth goes through at once.
    let size =
      maximum == 0 ? Double(average) / 10 : Double(maximum) * Double(burstLength)
    if level - size > 0 { return ThrottleBucket.time(level - size, at: average) }
    if maximum > 0, burstLength > 1 {
      let extra = burstLevel - Double(maximum) / 10
      if extra > 0 { return ThrottleBucket.time(extra, at: maximum) }
    }
    return 0
  }

  private static func time(_ units: Double, at rate: UInt64) -> Int64 {
    let nanoseconds = units * 1e9 / Double(rate)
    return nanoseconds < 9e18 ? Int64(nanoseconds) : Int64.max
  }
}

/// The limits of a device or a group (`ThrottleLimits`, `block_set_io_throttle`).
package struct ThrottleLimits: Equatable, Sendable {
  /// Bytes a second.
  package var bytesTotal = ThrottleBucket()
  package var bytesRead = ThrottleBucket()
  package var bytesWrite = ThrottleBucket()
  /// Requests a second.
  package var operationsTotal = ThrottleBucket()
  package var operationsRead = ThrottleBucket()
  package var operationsWrite = ThrottleBucket()
  /// Bytes that count as one request; 0: any request is one.
  package var operationSize: UInt64 = 0

  package init() {}

  package static let largest: UInt64 = 1_000_000_000_000_000

  private static let paths: [any WritableKeyPath<ThrottleLimits, ThrottleBucket> & Sendable] = [
    \.bytesTotal, \.bytesRead, \.bytesWrite, \.operationsTotal, \.operationsRead,
    \.operationsWrite,
  ]

  package var isEnabled: Bool {
    ThrottleLimits.paths.contains { self[keyPath: $0].average > 0 }
  }

  /// Throws in QEMU's words when the values contradict each other.
  package func check() throws(BlockError) {
    func refuse(_ message: String) -> BlockError { BlockError(EINVAL, message) }
    func both(_ total: ThrottleBucket, _ read: ThrottleBucket, _ write: ThrottleBucket) -> Bool {
      (total.average > 0 && (read.average > 0 || write.average > 0))
        || (total.maximum > 0 && (read.maximum > 0 || write.maximum > 0))
    }
    if both(bytesTotal, bytesRead, bytesWrite)
      || both(operationsTotal, operationsRead, operationsWrite)
    {
      throw refuse(
        "bps/iops/max total values and read/write values cannot be used at the same time")
    }
    if operationSize > 0, operationsTotal.average == 0, operationsRead.average == 0,
      operationsWrite.average == 0
    {
      throw refuse("iops size requires an iops value to be set")
    }
    for path in ThrottleLimits.paths {
      let bucket = self[keyPath: path]
      if bucket.average > ThrottleLimits.largest || bucket.maximum > ThrottleLimits.largest {
        throw refuse("bps/iops/max values must be within [0, \(ThrottleLimits.largest)]")
      }
      if bucket.burstLength == 0 { throw refuse("the burst length cannot be 0") }
      if bucket.burstLength > 1, bucket.maximum == 0 {
        throw refuse("burst length set without burst rate")
      }
      if bucket.maximum > 0 {
        if bucket.burstLength > ThrottleLimits.largest / bucket.maximum {
          throw refuse("burst length too high for this burst rate")
        }
        if bucket.average == 0 {
          throw refuse("bps_max/iops_max require corresponding bps/iops values")
        }
        if bucket.maximum < bucket.average {
          throw refuse("bps_max/iops_max cannot be lower than bps/iops")
        }
      }
    }
  }
}

/// Decides when requests may start. No clock of its own.
package struct ThrottleModel: Sendable {
  package private(set) var limits: ThrottleLimits
  private var last: Int64

  package init(_ limits: ThrottleLimits = ThrottleLimits(), now: Int64 = 0) {
    self.limits = limits
    last = now
  }

  /// Replaces the limits; the past is forgotten.
  package mutating func configure(_ limits: ThrottleLimits, now: Int64) {
    self.limits = limits
    self.limits.bytesTotal.reset()
    self.limits.bytesRead.reset()
    self.limits.bytesWrite.reset()
    self.limits.operationsTotal.reset()
    self.limits.operationsRead.reset()
    self.limits.operationsWrite.reset()
    last = now
  }

  /// Nanoseconds until the next request of that direction may start; 0: now.
  package mutating func wait(isWrite: Bool, now: Int64) -> Int64 {
    let passed = now &- last
    if passed > 0 {
      last = now
      limits.bytesTotal.leak(passed)
      limits.bytesRead.leak(passed)
      limits.bytesWrite.leak(passed)
      limits.operationsTotal.leak(passed)
      limits.operationsRead.leak(passed)
      limits.operationsWrite.leak(passed)
    }
    return isWrite
      ? max(
        max(limits.bytesTotal.wait, limits.operationsTotal.wait),
        max(limits.bytesWrite.wait, limits.operationsWrite.wait))
      : max(
        max(limits.bytesTotal.wait, limits.operationsTotal.wait),
        max(limits.bytesRead.wait, limits.operationsRead.wait))
  }

  /// A request of so many bytes has started.
  package mutating func account(isWrite: Bool, bytes: UInt64) {
    var operations = 1.0
    if limits.operationSize > 0, bytes > limits.operationSize {
      operations = Double(bytes) / Double(limits.operationSize)
    }
    limits.bytesTotal.add(Double(bytes))
    limits.operationsTotal.add(operations)
    if isWrite {
      limits.bytesWrite.add(Double(bytes))
      limits.operationsWrite.add(operations)
    } else {
      limits.bytesRead.add(Double(bytes))
      limits.operationsRead.add(operations)
    }
  }
}
