/// One number of the limits, by the name that users give it: `iops-total`, `bps-read-max-length`…
package struct ThrottleField: Sendable {
  private enum Part: String, Sendable, CaseIterable {
    case average = ""
    case maximum = "-max"
    case burstLength = "-max-length"
  }

  package let name: String
  private let bucket: (any WritableKeyPath<ThrottleLimits, ThrottleBucket> & Sendable)?
  private let part: Part

  /// All, in the schema's order.
  package static var all: [ThrottleField] {
    let buckets: [(String, any WritableKeyPath<ThrottleLimits, ThrottleBucket> & Sendable)] = [
      ("iops-total", \.operationsTotal), ("iops-read", \.operationsRead),
      ("iops-write", \.operationsWrite), ("bps-total", \.bytesTotal), ("bps-read", \.bytesRead),
      ("bps-write", \.bytesWrite),
    ]
    return buckets.flatMap { name, bucket in
      Part.allCases.map { ThrottleField(name: name + $0.rawValue, bucket: bucket, part: $0) }
    } + [ThrottleField(name: "iops-size", bucket: nil, part: .average)]
  }

  package func load(from limits: ThrottleLimits) -> UInt64 {
    guard let bucket else { return limits.operationSize }
    switch part {
    case .average: return limits[keyPath: bucket].average
    case .maximum: return limits[keyPath: bucket].maximum
    case .burstLength: return limits[keyPath: bucket].burstLength
    }
  }

  package func store(_ value: UInt64, in limits: inout ThrottleLimits) {
    guard let bucket else {
      limits.operationSize = value
      return
    }
    switch part {
    case .average: limits[keyPath: bucket].average = value
    case .maximum: limits[keyPath: bucket].maximum = value
    case .burstLength: limits[keyPath: bucket].burstLength = value
    }
  }
}
