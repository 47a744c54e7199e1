import CPU
package import Cluster
package import JSON

/// What a node tells of itself when nodes are checked before a start (`-cluster check=on`).
package struct ClusterFacts: Equatable, Sendable {
  package var node: Int
  /// Name of its host.
  package var host: String
  /// Where it listens.
  package var address: String
  package var vcpus: [Int]
  /// What must be the same everywhere.
  package var items: [ConfigurationItem]
  /// CPU features that the guest would have on it alone, by name.
  package var features: [String]
  /// Bytes of memory that its host has to give; nil when that is not known.
  package var available: Int?
  /// Bytes of the guest's RAM that it must be able to hold.
  package var needed: Int
  package var program: String
  /// What its guests' time-stamp counters count in a millisecond; 0: they are made by software.
  package var counterKilohertz: UInt64

  package init(
    node: Int, host: String, address: String, vcpus: [Int], items: [ConfigurationItem],
    features: [String], available: Int?, needed: Int, program: String, counterKilohertz: UInt64 = 0
  ) {
    self.node = node
    self.host = host
    self.address = address
    self.vcpus = vcpus
    self.items = items
    self.features = features
    self.available = available
    self.needed = needed
    self.program = program
    self.counterKilohertz = counterKilohertz
  }

  /// As it goes to node 0.
  package var json: JSONValue {
    var object: JSONObject = [
      "node": JSONValue(node), "host": .string(host), "address": .string(address),
      "vcpus": .array(vcpus.map { JSONValue($0) }),
      "items": .array(items.map { [.string($0.name), .string($0.value)] }),
      "features": .array(features.map { .string($0) }), "needed": JSONValue(needed),
      "program": .string(program), "tsc-khz": JSONValue(Int(clamping: counterKilohertz)),
    ]
    object["available"] = available.map { JSONValue($0) }
    return .object(object)
  }

  /// Nil when a member is missing.
  package init?(_ value: JSONValue) {
    guard let node = value["node"]?.intValue, let host = value["host"]?.stringValue,
      let address = value["address"]?.stringValue, let vcpus = value["vcpus"]?.arrayValue,
      let items = value["items"]?.arrayValue, let features = value["features"]?.arrayValue,
      let needed = value["needed"]?.intValue, let program = value["program"]?.stringValue
    else { return nil }
    self.init(
      node: node, host: host, address: address, vcpus: vcpus.compactMap(\.intValue),
      items: items.compactMap { item in
        guard let name = item[0]?.stringValue, let value = item[1]?.stringValue else { return nil }
        return ConfigurationItem(name, value)
      }, features: features.compactMap(\.stringValue), available: value["available"]?.intValue,
      needed: needed, program: program,
      counterKilohertz: UInt64(clamping: value["tsc-khz"]?.intValue ?? 0))
  }
}

/// What came of comparing all nodes.
package struct ClusterCheck: Equatable, Sendable {
  /// What node 0 measured of another node.
  package struct Link: Equatable, Sendable {
    package var roundTripMicroseconds: Double?
    package var clockErrorNanoseconds: Int?
    package var isProtected: Bool

    package init(
      roundTripMicroseconds: Double? = nil, clockErrorNanoseconds: Int? = nil, isProtected: Bool
    ) {
      self.roundTripMicroseconds = roundTripMicroseconds
      self.clockErrorNanoseconds = clockErrorNanoseconds
      self.isProtected = isProtected
    }
  }

  package let id: String
  package let facts: [ClusterFacts]
  package let links: [Int: Link]
  /// What keeps the machine from starting, a sentence each.
  package private(set) var differences: [String] = []
  /// What will make it slow, or may end it.
  package private(set) var warnings: [String] = []

  /// Compares; `links` by node.
  package init(id: String, _ facts: [ClusterFacts], links: [Int: Link]) {
    self.id = id
    self.facts = facts.sorted { $0.node < $1.node }
    self.links = links
    compareItems()
    compareFeatures()
    if let text = CPUAgreement.counters(
      self.facts.map { (node: $0.node, kilohertz: $0.counterKilohertz) })
    {
      differences.append(text)
    }
    checkHosts()
  }

  private mutating func compareItems() {
    guard let first = facts.first else { return }
    var names = first.items.map(\.name)
    for other in facts.dropFirst() {
      names += other.items.map(\.name).filter { !names.contains($0) }
    }
    for name in names {
      let values = facts.map { node in
        node.items.first { $0.name == name }?.value ?? "nothing"
      }
      guard Set(values).count > 1 else { continue }
      let parts = zip(facts, values).map { "node \($0.node) has \($1)" }
      differences.append("\(name): " + parts.joined(separator: ", "))
    }
  }

  /// What one host lacks the guest lacks on all, unless `enforce` says that it must not.
  private mutating func compareFeatures() {
    let all = facts.reduce(into: Set<String>()) { $0.formUnion($1.features) }
    let parts = facts.compactMap { node in
      let missing = all.subtracting(node.features).sorted()
      return missing.isEmpty ? nil : "node \(node.node) lacks \(missing.joined(separator: " "))"
    }
    if parts.isEmpty { return }
    let text = "CPU features differ: " + parts.joined(separator: ", ")
    let model = facts.first?.items.first { $0.name == "-cpu" }?.value ?? ""
    let enforces = model.split(separator: ",").contains { $0 == "enforce" || $0 == "enforce=on" }
    if enforces {
      differences.append(text)
    } else {
      warnings.append("\(text); the guest does without")
    }
  }

  private mutating func checkHosts() {
    for node in facts {
      if let available = node.available, available < node.needed {
        warnings.append(
          "node \(node.node): host \(node.host) has \(Self.size(available)) of memory to give, and"
            + " the node's part of RAM is \(Self.size(node.needed))")
      }
      if let first = facts.first, node.program != first.program {
        warnings.append(
          "node \(node.node) is version \(node.program), node \(first.node) is \(first.program)")
      }
    }
    for (node, link) in links.sorted(by: { $0.key < $1.key }) {
      if let rtt = link.roundTripMicroseconds, rtt > 1000 {
        warnings.append(
          "node \(node): a round trip takes \(ClusterText.tenths(rtt / 1000)) ms; the guest waits so"
            + " long for each page and device access")
      }
      if let error = link.clockErrorNanoseconds, error > 1_000_000 {
        warnings.append(
          "node \(node): its clock is known to \(ClusterText.tenths(Double(error) / 1e6)) ms only")
      }
    }
  }

  /// For people.
  package var lines: [String] {
    var lines = ["cluster \(id): \(facts.count) nodes"]
    for node in facts {
      var line = "node \(node.node): \(node.host) at \(node.address)"
      line += ", vcpus \(ClusterText.ranges(node.vcpus))"
      if let available = node.available { line += ", \(Self.size(available)) of memory" }
      if let link = links[node.node] {
        if let rtt = link.roundTripMicroseconds { line += ", rtt \(ClusterText.tenths(rtt)) us" }
        if let error = link.clockErrorNanoseconds { line += ", clock +/-\(error) ns" }
        line += link.isProtected ? ", tls" : ", not encrypted"
      }
      lines.append(line)
    }
    lines += differences.map { "differs: \($0)" }
    lines += warnings.map { "warning: \($0)" }
    lines.append(differences.isEmpty ? "the nodes agree" : "the nodes would not start")
    return lines
  }

  /// For programs.
  package var json: JSONValue {
    let nodes: [JSONValue] = facts.map { node in
      var object: JSONObject = [
        "node": JSONValue(node.node), "host": .string(node.host),
        "address": .string(node.address), "vcpus": .array(node.vcpus.map { JSONValue($0) }),
        "memory-needed": JSONValue(node.needed), "program": .string(node.program),
      ]
      object["memory-available"] = node.available.map { JSONValue($0) }
      if let link = links[node.node] {
        object["rtt-us"] = link.roundTripMicroseconds.map { .double($0) }
        object["clock-error-ns"] = link.clockErrorNanoseconds.map { JSONValue($0) }
        object["tls"] = .bool(link.isProtected)
      }
      return .object(object)
    }
    return [
      "ok": .bool(differences.isEmpty), "id": .string(id), "nodes": .array(nodes),
      "differences": .array(differences.map { .string($0) }),
      "warnings": .array(warnings.map { .string($0) }),
      "text": .array(lines.map { .string($0) }),
    ]
  }

  private static func size(_ bytes: Int) -> String {
    bytes >= 1 << 30
      ? "\(ClusterText.tenths(Double(bytes) / Double(1 << 30))) GiB"
      : "\(ClusterText.tenths(Double(bytes) / Double(1 << 20))) MiB"
  }
}
