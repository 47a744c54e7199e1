import Host

/// An item that two nodes do not have alike.
package struct ConfigurationDifference: Equatable, Sendable {
  package var name: String
  /// Node 0's value; nil when it has no such item.
  package var first: String?
  /// The other node's.
  package var other: String?

  /// `-m differs: node 1 has 2G, node 0 has 4G`.
  package func text(_ node: NodeID) -> String {
    "\(name) differs: \(node) has \(other ?? "none"), node 0 has \(first ?? "none")"
  }
}

/// What a node tells node 0 when it joins: the items that must be alike with their digest, and what it offers.
package struct ConfigurationOffer: Equatable, Sendable {
  package var items: [ConfigurationItem]
  /// For node 0's machine: what this host's CPU can do.
  package var offer: [UInt8]

  package init(items: [ConfigurationItem], offer: [UInt8]) {
    self.items = items
    self.offer = offer
  }

  /// SHA-256 over the items in their order, names and values with their lengths.
  package static func digest(_ items: [ConfigurationItem]) -> [UInt8] {
    var writer = MessageWriter()
    for item in items {
      writer.append(item.name)
      writer.append(item.value)
    }
    return SHA256.hash(writer.bytes)
  }

  package var bytes: [UInt8] {
    var writer = MessageWriter()
    writer.append(counted: ConfigurationOffer.digest(items))
    writer.append(UInt32(clamping: items.count))
    for item in items {
      writer.append(item.name)
      writer.append(item.value)
    }
    writer.append(counted: offer)
    return writer.bytes
  }

  /// Nil unless the body is complete, and its digest is that of its items.
  package init?(_ bytes: [UInt8]) {
    var reader = MessageReader(bytes)
    guard let digest = reader.counted(), let count = reader.count(elementSize: 8) else {
      return nil
    }
    items = []
    for _ in 0..<count {
      guard let name = reader.text(), let value = reader.text() else { return nil }
      items.append(ConfigurationItem(name, value))
    }
    guard let offer = reader.counted(), digest == ConfigurationOffer.digest(items) else {
      return nil
    }
    self.offer = offer
  }

  /// What node 0 (`first`) and another node have differently, in node 0's order.
  package static func differences(
    _ first: [ConfigurationItem], _ other: [ConfigurationItem]
  ) -> [ConfigurationDifference] {
    var left = other
    var found: [ConfigurationDifference] = []
    for item in first {
      let place = left.firstIndex { $0.name == item.name }
      let value = place.map { left.remove(at: $0).value }
      if value != item.value {
        found.append(ConfigurationDifference(name: item.name, first: item.value, other: value))
      }
    }
    return found + left.map { ConfigurationDifference(name: $0.name, first: nil, other: $0.value) }
  }

  /// The answer's body: the lines for the user.
  package static func text(_ differences: [ConfigurationDifference], _ node: NodeID) -> String {
    differences.map { $0.text(node) }.joined(separator: "; ")
  }
}
