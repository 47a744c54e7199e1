/// What the CPU of one host can give to a guest that runs on several.
package struct CPUOffer: Equatable, Sendable {
  /// Whether the host's own CPU runs the guest.
  package var isHardware: Bool
  /// Vendor of the host's CPU, as CPUID tells it.
  package var vendor: String
  package var features: FeatureSet
  /// What the time-stamp counter counts in a millisecond where the guest reads the host's own; 0: the guest's is made by software.
  package var counterKilohertz: UInt64

  package init(
    isHardware: Bool, vendor: String, features: FeatureSet, counterKilohertz: UInt64 = 0
  ) {
    self.isHardware = isHardware
    self.vendor = vendor
    self.features = features
    self.counterKilohertz = counterKilohertz
  }

  package init(_ capabilities: CPUCapabilities) {
    self.init(
      isHardware: capabilities.kind == .kvm, vendor: capabilities.host.vendor,
      features: capabilities.features)
  }
}

/// The CPU that a guest gets on all hosts: what the model asks for and all of them have.
package struct CPUAgreement: Equatable, Sendable {
  /// The guest's CPUID, the same everywhere.
  package var table: CPUIDTable
  /// What all hosts can give.
  package var common: FeatureSet
  /// Of each host, what the model asks for, another has, and it has not.
  package var missing: [FeatureSet]

  package init(table: CPUIDTable, common: FeatureSet, missing: [FeatureSet]) {
    self.table = table
    self.common = common
    self.missing = missing
  }

  /// Intersects what hosts offer, in the words of `capabilities`, which are those of the first of them.
  ///
  /// Throws when the model says `enforce` and a host lacks something, when vendors or counters of CPUs that run the guest themselves
  /// differ, and what `cpuidTable` throws.
  package init(
    _ model: CPUModel, _ offers: [CPUOffer], _ capabilities: CPUCapabilities, topology: CPUTopology
  ) throws(CPUModelError) {
    let vendors = offers.map(\.vendor)
    if capabilities.kind == .kvm, Set(vendors).count > 1 {
      let parts = vendors.enumerated().map { "node \($0) has \($1)" }.joined(separator: ", ")
      throw CPUModelError(message: "CPU vendor differs: \(parts)")
    }
    if let text = CPUAgreement.counters(
      offers.enumerated().map { (node: $0, kilohertz: $1.counterKilohertz) })
    {
      throw CPUModelError(message: text)
    }
    common = offers.reduce(capabilities.features) { $0.intersection($1.features) }
    let union = offers.reduce(capabilities.features) { $0.union($1.features) }
    let ideal = FeatureSet(
      table: try model.cpuidTable(capabilities.offering(union), topology: topology).table)
    missing = offers.map { ideal.intersection(union.subtracting($0.features)) }
    if model.enforces, let reason = CPUAgreement.text(missing) {
      throw CPUModelError(message: reason)
    }
    table = try model.cpuidTable(capabilities.offering(common), topology: topology).table
  }

  /// `TSC frequency differs: node 0 has 3000.000 MHz, node 1 has 2500.000 MHz`; nil when no counters are too far apart to be one guest's,
  /// whose timers and delays all go by the frequency that it measured on one node. KVM takes so much for the same as well (250 ppm).
  package static func counters(_ nodes: [(node: Int, kilohertz: UInt64)]) -> String? {
    let known = nodes.filter { $0.kilohertz != 0 }
    guard let least = known.map(\.kilohertz).min(), let most = known.map(\.kilohertz).max(),
      most - least > most / 4000
    else { return nil }
    let parts = known.map { node in
      let rest = String(1000 + node.kilohertz % 1000).dropFirst()
      return "node \(node.node) has \(node.kilohertz / 1000).\(rest) MHz"
    }
    return "TSC frequency differs: " + parts.joined(separator: ", ")
  }

  /// `CPU features differ: node 1 lacks avx avx2`; nil when no host lacks anything.
  package static func text(_ missing: [FeatureSet]) -> String? {
    let parts = missing.enumerated().compactMap { index, set in
      let names = set.names
      return names.isEmpty ? nil : "node \(index) lacks \(names.joined(separator: " "))"
    }
    return parts.isEmpty ? nil : "CPU features differ: " + parts.joined(separator: ", ")
  }
}

extension CPUIDTable {
  /// The vendor's twelve letters, as leaf 0 has them.
  package var vendor: String {
    let leaf = entry(0)
    var letters: [UInt8] = []
    for word in [leaf.ebx, leaf.edx, leaf.ecx] {
      for shift in [0, 8, 16, 24] as [UInt32] {
        letters.append(UInt8(truncatingIfNeeded: word >> shift))
      }
    }
    return String(decoding: letters, as: UTF8.self)
  }
}
