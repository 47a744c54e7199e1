import Host

/// Microseconds by name, in the order in which the names came.
package struct Figures {
  package private(set) var names: [String] = []
  private var values: [String: [Double]] = [:]

  package init() {}

  package mutating func add(_ name: String, _ microseconds: [Double]) {
    if values[name] == nil { names.append(name) }
    values[name, default: []] += microseconds
  }

  /// Forgets what came so far, but for the order of the names.
  package mutating func clear() { for name in names { values[name] = [] } }

  /// How long each of so many calls takes.
  package static func times(_ count: Int, _ body: () -> Void) -> [Double] {
    (0..<count).map { _ in
      let start = HostClock.monotonic
      body()
      return Double(HostClock.monotonic - start) / 1000
    }
  }

  /// The value that so many of ten are not above; 0: the least, nothing when there is none.
  private func rank(_ tenths: Int, _ name: String) -> Double {
    let sorted = (values[name] ?? []).sorted()
    return sorted.isEmpty ? 0 : sorted[sorted.count * tenths / 10]
  }
  package func least(_ name: String) -> Double { rank(0, name) }
  package func median(_ name: String) -> Double { rank(5, name) }

  /// Least, median and 90th percentile of all in one JSON object.
  package var json: String {
    let fields = names.map { name in
      "\"\(name)\": {\"min\": \(least(name)), \"median\": \(median(name)), \"p90\": \(rank(9, name))}"
    }
    return "{" + fields.joined(separator: ", ") + "}"
  }

  /// The same of one for people.
  package func line(_ name: String) -> String {
    "  \(name): min \(Figures.text(least(name))), median \(Figures.text(median(name))),"
      + " p90 \(Figures.text(rank(9, name)))"
  }

  package static func text(_ value: Double) -> String {
    String((value * 100).rounded() / 100)
  }
}
