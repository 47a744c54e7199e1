package import Host

/// One guest on several nodes, as a node's command line describes it (distributed.md, section 1).
package struct ClusterConfiguration: Equatable, Sendable {
  /// How the guest's RAM is shared.
  package enum Memory: String, Sendable, CaseIterable {
    /// One shared-memory object on one host.
    case shm
    /// Coherent memory between hosts.
    case dsm
  }

  /// Who may join.
  package enum Credentials: Equatable, Sendable {
    /// No authentication.
    case insecure
    /// The object `tls-creds-x509` of that name: certificates named `<cluster>-node-<n>`.
    case x509(String)
    /// The object `tls-creds-psk` of that name: identities `<cluster>/<n>`.
    case psk(String)
  }

  /// What happens when a node is lost (distributed.md, section 10).
  package enum LossPolicy: String, Sendable, CaseIterable {
    case pause, shutdown, restore
  }

  /// Which node orders the transactions of a page.
  package enum HomePolicy: String, Sendable, CaseIterable {
    /// One slice of RAM for each node, told to the guest as NUMA nodes.
    case numa
    /// Blocks of 2 MiB in turn.
    case block
    /// Node 0.
    case node0
  }

  /// Name of the cluster: only nodes of the same name join.
  package var id: String
  /// This node.
  package var node: NodeID
  /// Where each node listens, by number; this node's too.
  package var addresses: [SocketAddress]
  /// vCPUs of this node; those of the others are told when they join.
  package var vcpus: [UInt32]
  /// vCPUs of the whole machine (`-smp`).
  package var vcpuCount: Int
  package var memory: Memory
  /// The POSIX shared-memory object (`/NAME`) that holds RAM, in `shm` mode.
  package var sharedMemoryName: String?
  package var credentials: Credentials
  package var lossPolicy: LossPolicy
  package var homePolicy: HomePolicy
  package var heartbeatMilliseconds: Int
  package var leaseMilliseconds: Int
  package var joinTimeoutSeconds: Int

  /// A cluster with the defaults of distributed.md.
  package init(
    id: String, node: NodeID, addresses: [SocketAddress], vcpus: [UInt32], vcpuCount: Int,
    memory: Memory
  ) {
    self.id = id
    self.node = node
    self.addresses = addresses
    self.vcpus = vcpus
    self.vcpuCount = vcpuCount
    self.memory = memory
    credentials = .insecure
    lossPolicy = .pause
    homePolicy = .numa
    heartbeatMilliseconds = 200
    leaseMilliseconds = 1500
    joinTimeoutSeconds = 60
  }
}

/// One item of what must be equal on all nodes, by the name that a user knows (`-m`, `-smp`, `kernel`).
package struct ConfigurationItem: Equatable, Sendable {
  package var name: String
  package var value: String

  package init(_ name: String, _ value: String) {
    self.name = name
    self.value = value
  }
}
