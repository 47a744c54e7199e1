/// The first thing that each side of a connection says: who it is, and which stream this is to be (distributed.md, section 3).
package struct Hello: Equatable, Sendable {
  /// Minor version: what is new in it is asked for by features.
  package static let minorVersion: UInt16 = 0

  package var node: NodeID
  package var stream: StreamKind
  package var nodeCount: Int
  /// Bits of what may be used between the two; none yet.
  package var features: UInt64 = 0
  /// The cluster's name.
  package var id: String
  /// Node 0's random number for this start of the cluster; 0 while a node does not know it.
  package var instance: UInt64
  /// vCPUs of the whole machine, and those of the node.
  package var vcpuCount: Int
  package var vcpus: [UInt32]
  /// The program's version, for messages.
  package var program: String

  /// What a node says of itself.
  package init(
    _ configuration: ClusterConfiguration, _ stream: StreamKind, instance: UInt64,
    program: String = "goliath"
  ) {
    node = configuration.node
    self.stream = stream
    nodeCount = configuration.addresses.count
    id = configuration.id
    self.instance = instance
    vcpuCount = configuration.vcpuCount
    vcpus = configuration.vcpus
    self.program = program
  }

  /// The body of the frame. Its header's argument is the stream.
  package var bytes: [UInt8] {
    var writer = MessageWriter()
    writer.append(Hello.minorVersion)
    writer.append(node.rawValue)
    writer.append(UInt8(clamping: nodeCount))
    writer.append(features)
    writer.append(instance)
    writer.append(UInt32(clamping: vcpuCount))
    writer.append(UInt32(clamping: vcpus.count))
    for vcpu in vcpus { writer.append(vcpu) }
    writer.append(id)
    writer.append(program)
    return writer.bytes
  }

  /// Nil unless the body is complete and makes sense by itself. What a later minor version adds behind it is passed over.
  package init?(_ bytes: [UInt8], argument: UInt64) {
    var reader = MessageReader(bytes)
    guard reader.integer(UInt16.self) != nil, let node = reader.integer(UInt8.self),
      let count = reader.integer(UInt8.self), node < count, count <= UInt8(NodeID.limit),
      let features = reader.integer(UInt64.self), let instance = reader.integer(UInt64.self),
      let vcpuCount = reader.integer(UInt32.self), let own = reader.count(elementSize: 4),
      own <= vcpuCount, let stream = UInt8(exactly: argument).flatMap(StreamKind.init)
    else { return nil }
    var vcpus: [UInt32] = []
    for _ in 0..<own {
      guard let vcpu = reader.integer(UInt32.self), vcpu < vcpuCount,
        vcpus.last.map({ $0 < vcpu }) ?? true
      else { return nil }
      vcpus.append(vcpu)
    }
    guard let id = reader.text(), let program = reader.text() else { return nil }
    self.node = NodeID(rawValue: node)
    self.stream = stream
    self.nodeCount = Int(count)
    self.features = features
    self.id = id
    self.instance = instance
    self.vcpuCount = Int(vcpuCount)
    self.vcpus = vcpus
    self.program = program
  }
}
