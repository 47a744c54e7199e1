/// One counter of an accelerator, for `query-stats`.
package struct AcceleratorStatistic: Equatable, Sendable {
  /// What the value tells.
  package enum Kind: Equatable, Sendable {
    case cumulative, instant, peak, linearHistogram, logarithmicHistogram
  }
  /// In what it is measured; `none` for plain counts.
  package enum Unit: Equatable, Sendable { case none, bytes, seconds, cycles, boolean }

  package let name: String
  package let kind: Kind
  package let unit: Unit
  /// The value is scaled by `base` to the power of `exponent`; base is 2 or 10.
  package let base: Int8
  package let exponent: Int16
  /// Width of the ranges of a linear histogram; else 0.
  package let bucketSize: UInt32
  /// One value, or the counts of a histogram.
  package let values: [UInt64]

  package init(
    name: String, kind: Kind, unit: Unit, base: Int8, exponent: Int16, bucketSize: UInt32,
    values: [UInt64]
  ) {
    self.name = name
    self.kind = kind
    self.unit = unit
    self.base = base
    self.exponent = exponent
    self.bucketSize = bucketSize
    self.values = values
  }

  /// The same counter with other values.
  package func with(_ values: [UInt64]) -> AcceleratorStatistic {
    AcceleratorStatistic(
      name: name, kind: kind, unit: unit, base: base, exponent: exponent, bucketSize: bucketSize,
      values: values)
  }
}

extension VirtualMachine {
  /// Most accelerators count nothing.
  package var counters: [AcceleratorStatistic]? { nil }
}

extension VCPU {
  /// Most accelerators count nothing.
  package var counters: [AcceleratorStatistic]? { nil }
}
