import Host

/// How far a node's joining is, and what is to be made of what others say: rules only, no sockets, no clock (distributed.md, section 3).
package struct JoinModel: Sendable {
  /// What becomes of a connection.
  package enum Admission: Equatable, Sendable {
    case welcome
    /// The connection is refused; whoever it was is told why.
    case refuse(String)
    /// As well, and this node cannot become part of the cluster either.
    case fail(ClusterError)
  }
  /// Where it stands.
  package enum Outcome: Equatable, Sendable {
    case waiting
    case joined
    case failed(ClusterError)
  }

  private struct Peer: Sendable {
    var hello: Hello?
    var streams: Set<StreamKind> = []
    /// Its items are like node 0's.
    var isConfigured = false
    var offer: [UInt8] = []
    /// Its clock and ours are related; with node 0 only.
    var isTimed = false
    /// What went wrong last.
    var trouble: String?
  }

  package let configuration: ClusterConfiguration
  private let items: [ConfigurationItem]
  private var peers: [Peer]
  private var failure: ClusterError?
  /// What node 0 made of all offers; nil while it has not.
  package private(set) var agreement: [UInt8]?
  /// Node 0's random number for this start; 0 while it is not known.
  package private(set) var instance: UInt64

  /// - Parameter instance: node 0: a random number, not 0; others: 0.
  package init(
    _ configuration: ClusterConfiguration, items: [ConfigurationItem], instance: UInt64
  ) {
    self.configuration = configuration
    self.items = items
    self.instance = instance
    peers = Array(repeating: Peer(), count: configuration.addresses.count)
  }

  private var node: NodeID { configuration.node }
  private var isFirst: Bool { node == .devices }

  /// Nodes that this one connects to: those before it.
  package var targets: [NodeID] { (0..<node.rawValue).map { NodeID(rawValue: $0) } }

  // MARK: - Connections

  /// What this node says of itself.
  package func hello(_ stream: StreamKind) -> Hello {
    Hello(configuration, stream, instance: instance)
  }

  /// A node has said who it is. `expected`: whom this node connected to, nil when it was connected to.
  package mutating func admit(_ hello: Hello, expected: NodeID?) -> Admission {
    let who = hello.node
    guard hello.id == configuration.id else {
      return .refuse(
        "node \(who.rawValue) belongs to cluster '\(hello.id)', not to '\(configuration.id)'")
    }
    guard hello.nodeCount == peers.count else {
      return fail(
        .configuration,
        "the number of nodes differs: \(who) has \(hello.nodeCount), \(node) has \(peers.count)")
    }
    if let expected {
      guard who == expected else {
        return .refuse("\(who) answered where \(expected) should be; check the order of the peers")
      }
    } else {
      guard who != node else { return .refuse("there are two nodes \(node.rawValue)") }
      guard who > node else { return .refuse("\(who) must wait until \(node) connects to it") }
    }
    guard hello.vcpuCount == configuration.vcpuCount else {
      return fail(
        .configuration,
        "-smp differs: \(who) has \(hello.vcpuCount), \(node) has \(configuration.vcpuCount)")
    }
    if instance != 0, hello.instance != 0, hello.instance != instance {
      return .refuse("\(who) is part of another start of cluster '\(configuration.id)'")
    }
    if let known = peers[who.index].hello, known.vcpus != hello.vcpus {
      return .refuse("there are two nodes \(who.rawValue)")
    }
    guard !peers[who.index].streams.contains(hello.stream) else {
      return .refuse("\(who) has a connection for \(hello.stream) already")
    }
    if let text = overlap(hello) { return fail(.configuration, text) }
    peers[who.index].hello = hello
    if who == .devices, instance == 0 { instance = hello.instance }
    if let text = uncovered() { return fail(.configuration, text) }
    return .welcome
  }

  private mutating func fail(_ kind: ClusterError.Kind, _ text: String) -> Admission {
    let error = ClusterError(kind, text)
    if failure == nil { failure = error }
    return .fail(error)
  }

  /// A connection works.
  package mutating func attached(_ node: NodeID, _ stream: StreamKind) {
    peers[node.index].streams.insert(stream)
  }

  /// A connection did not come about; it is tried again.
  package mutating func trouble(_ node: NodeID, _ reason: String) {
    guard node.index < peers.count else { return }
    peers[node.index].trouble = reason
  }

  /// It cannot come about.
  package mutating func failed(_ error: ClusterError) {
    if failure == nil { failure = error }
  }

  // MARK: - Configuration and time

  /// Node 0: what it has to say against a node's configuration; nil when all is well.
  package func complaint(_ other: NodeID, _ offer: ConfigurationOffer) -> String? {
    let differences = ConfigurationOffer.differences(items, offer.items)
    return differences.isEmpty ? nil : ConfigurationOffer.text(differences, other)
  }

  /// Node 0: a node's configuration is accepted.
  package mutating func configured(_ other: NodeID, _ offer: ConfigurationOffer) {
    peers[other.index].isConfigured = true
    peers[other.index].offer = offer.offer
  }

  /// Node 0: whether all configurations are there.
  package var hasAllOffers: Bool { peers.dropFirst().allSatisfy(\.isConfigured) }

  /// Node 0: all have been told this.
  package mutating func agreed(_ agreement: [UInt8]) { self.agreement = agreement }

  /// Another node: node 0 has accepted all configurations and said what follows from them, and the clocks are related.
  package mutating func settled(_ agreement: [UInt8] = []) {
    self.agreement = agreement
    peers[0].isConfigured = true
    peers[0].isTimed = true
  }

  // MARK: - Where it stands

  package var outcome: Outcome {
    if let failure { return .failed(failure) }
    for (index, peer) in peers.enumerated() where index != node.index {
      if peer.streams.count < StreamKind.allCases.count { return .waiting }
      if isFirst, !peer.isConfigured { return .waiting }
    }
    if isFirst ? agreement == nil : !peers[0].isTimed { return .waiting }
    return .joined
  }

  /// The line for the user when time is up.
  package var timeout: ClusterError {
    let missing = peers.indices.filter { index in
      index != node.index
        && (peers[index].streams.count < 2 || (isFirst && !peers[index].isConfigured))
    }
    let texts = missing.map { index in
      let trouble = peers[index].trouble.map { ": \($0)" } ?? ""
      return "node \(index) (\(configuration.addresses[index].text)\(trouble))"
    }
    let seconds = configuration.joinTimeoutSeconds
    return ClusterError(
      .timeout,
      texts.isEmpty
        ? "cluster '\(configuration.id)': node 0 did not answer within \(seconds) s"
        : "cluster '\(configuration.id)': not joined within \(seconds) s: "
          + texts.joined(separator: ", "))
  }

  /// All nodes, for those who look on.
  package var progress: [JoinProgress.Peer] {
    peers.enumerated().map { index, peer in
      let isSelf = index == node.index
      return JoinProgress.Peer(
        isLinked: isSelf || peer.streams.count == StreamKind.allCases.count,
        vcpus: isSelf ? configuration.vcpus : peer.hello?.vcpus ?? [], trouble: peer.trouble)
    }
  }

  /// What each node offered; empty for those that are not node 0's to know.
  package var offers: [[UInt8]] { peers.map(\.offer) }

  /// The node of each vCPU; nil for those whose node has not said so.
  package var vcpuOwners: [NodeID?] {
    var owners = [NodeID?](repeating: nil, count: configuration.vcpuCount)
    for (index, vcpus) in vcpuSets.enumerated() {
      for vcpu in vcpus ?? [] where vcpu < owners.count {
        owners[Int(vcpu)] = NodeID(rawValue: UInt8(truncatingIfNeeded: index))
      }
    }
    return owners
  }

  // MARK: -

  private var vcpuSets: [[UInt32]?] {
    peers.indices.map { $0 == node.index ? configuration.vcpus : peers[$0].hello?.vcpus }
  }

  private func overlap(_ hello: Hello) -> String? {
    for (index, vcpus) in vcpuSets.enumerated() where index != hello.node.index {
      if let both = vcpus?.first(where: { hello.vcpus.contains($0) }) {
        let nodes = [index, hello.node.index].sorted()
        return "vCPU \(both) is on node \(nodes[0]) and on node \(nodes[1])"
      }
    }
    return nil
  }

  private func uncovered() -> String? {
    guard vcpuSets.allSatisfy({ $0 != nil }) else { return nil }
    return vcpuOwners.firstIndex { $0 == nil }.map { "vCPU \($0) is on no node" }
  }
}
