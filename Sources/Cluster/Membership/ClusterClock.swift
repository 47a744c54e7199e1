import Host
import Synchronization

/// Cluster time: node 0's monotonic clock, in nanoseconds, as every node tells it (distributed.md, section 8). Any thread; a reading
/// costs one of the host's clock and takes no lock.
package final class ClusterClock: Sendable {
  // The line of `ClockEstimator`, guarded by a sequence number that is odd while it changes.
  private let sequence = Atomic<UInt64>(0)
  private let anchor = Atomic<Int64>(0)
  private let offset = Atomic<Int64>(0)
  private let slope = Atomic<Int64>(0)
  private let end = Atomic<Int64>(0)
  private let estimator: Mutex<ClockEstimator>

  /// - Parameter isReference: this is node 0's clock.
  package init(isReference: Bool) {
    estimator = Mutex(isReference ? .reference : ClockEstimator())
  }

  /// Cluster time now.
  package var now: Int64 { time(at: HostClock.monotonic) }

  /// Cluster time at a moment of this host's monotonic clock.
  package func time(at local: Int64) -> Int64 { local &+ currentLine.offset(at: local) }

  /// Cluster time minus this host's monotonic clock, now.
  package var currentOffset: Int64 { currentLine.offset(at: HostClock.monotonic) }

  /// What a reading may be wrong by, in nanoseconds: 0 on node 0, `Int64.max` before the first exchange.
  package var error: Int64 { estimator.withLock { $0.error } }

  /// Takes exchanges with node 0.
  package func update(_ samples: [ClockEstimator.Sample]) {
    estimator.withLock { estimator in
      estimator.update(samples, now: HostClock.monotonic)
      let line = estimator.line
      sequence.wrappingAdd(1, ordering: .sequentiallyConsistent)
      anchor.store(line.anchor, ordering: .sequentiallyConsistent)
      offset.store(line.offset, ordering: .sequentiallyConsistent)
      slope.store(line.slope, ordering: .sequentiallyConsistent)
      end.store(line.end, ordering: .sequentiallyConsistent)
      sequence.wrappingAdd(1, ordering: .sequentiallyConsistent)
    }
  }

  private var currentLine: ClockEstimator.Line {
    while true {
      let before = sequence.load(ordering: .sequentiallyConsistent)
      var line = ClockEstimator.Line()
      line.anchor = anchor.load(ordering: .sequentiallyConsistent)
      line.offset = offset.load(ordering: .sequentiallyConsistent)
      line.slope = slope.load(ordering: .sequentiallyConsistent)
      line.end = end.load(ordering: .sequentiallyConsistent)
      if before & 1 == 0, sequence.load(ordering: .sequentiallyConsistent) == before {
        return line
      }
    }
  }
}
