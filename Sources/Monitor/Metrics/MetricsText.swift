/// Numbers as Prometheus reads them: text format 0.0.4.
package struct MetricsText: Sendable {
  package enum Kind: String, Sendable {
    case counter, gauge, histogram, summary
  }
  /// Names with values; in the order in which they are printed.
  package typealias Labels = [(name: StaticString, value: String)]

  /// The text so far; each line is complete.
  package private(set) var text = ""
  private var names: Set<String> = []

  package init() {}

  /// One name with its samples. A name comes once; a second time adds nothing.
  package mutating func family(
    _ name: StaticString, _ kind: Kind, _ help: StaticString, _ samples: (inout Family) -> Void
  ) {
    let key = "\(name)"
    guard names.insert(key).inserted else { return }
    var family = Family(name: key)
    samples(&family)
    guard !family.text.isEmpty else { return }
    text +=
      "# HELP \(name) \(Self.escaped("\(help)", quotes: false))\n# TYPE \(name) \(kind.rawValue)\n"
    text += family.text
  }

  /// One name with one sample.
  package mutating func single(
    _ name: StaticString, _ kind: Kind, _ help: StaticString, _ value: some MetricsValue,
    _ labels: Labels = []
  ) {
    family(name, kind, help) { $0.add(value, labels) }
  }

  /// The samples of a name.
  package struct Family: Sendable {
    let name: String
    fileprivate var text = ""

    fileprivate init(name: String) { self.name = name }

    /// A sample of a counter or a gauge.
    package mutating func add(_ value: some MetricsValue, _ labels: Labels = []) {
      line("", labels, value.metricsText)
    }

    /// A histogram: how many values were at most `bound` (seconds, ascending) and above the bound before, and how many were above all.
    package mutating func addHistogram(
      _ buckets: [(bound: Double, count: UInt64)], above: UInt64, sum: Double, _ labels: Labels = []
    ) {
      var total: UInt64 = 0
      for bucket in buckets {
        total &+= bucket.count
        line("_bucket", labels + [("le", bucket.bound.metricsText)], total.metricsText)
      }
      total &+= above
      line("_bucket", labels + [("le", "+Inf")], total.metricsText)
      line("_sum", labels, sum.metricsText)
      line("_count", labels, total.metricsText)
    }

    /// How many values there were, and what they add up to.
    package mutating func addSummary(sum: Double, count: UInt64, _ labels: Labels = []) {
      line("_sum", labels, sum.metricsText)
      line("_count", labels, count.metricsText)
    }

    private mutating func line(_ suffix: StaticString, _ labels: Labels, _ value: String) {
      text += "\(name)\(suffix)"
      if !labels.isEmpty {
        let parts = labels.map { "\($0.name)=\"\(MetricsText.escaped($0.value, quotes: true))\"" }
        text += "{\(parts.joined(separator: ","))}"
      }
      text += " \(value)\n"
    }
  }

  private static func escaped(_ text: String, quotes: Bool) -> String {
    var result = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\\": result += "\\\\"
      case "\n": result += "\\n"
      case "\"" where quotes: result += "\\\""
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result
  }
}

/// A value of a sample.
package protocol MetricsValue {
  var metricsText: String { get }
}
extension Int: MetricsValue { package var metricsText: String { String(self) } }
extension UInt64: MetricsValue { package var metricsText: String { String(self) } }
extension Bool: MetricsValue { package var metricsText: String { self ? "1" : "0" } }
extension Double: MetricsValue {
  package var metricsText: String {
    if isNaN { return "NaN" }
    if isInfinite { return self < 0 ? "-Inf" : "+Inf" }
    return String(self)
  }
}
