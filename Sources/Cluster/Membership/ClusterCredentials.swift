package import Host

/// What a node proves itself with, towards nodes that connect to it and nodes that it connects to (distributed.md, section 11).
package struct ClusterCredentials: Sendable {
  /// For connections that come.
  package let server: TLSCredentials
  /// For connections that this node makes.
  package let client: TLSCredentials

  /// TLS 1.3 only.
  package static let priority = "NORMAL:-VERS-ALL:+VERS-TLS1.3"

  package init(server: TLSCredentials, client: TLSCredentials) {
    self.server = server
    self.client = client
  }

  /// The name that a node's certificate must carry.
  package static func certificateName(_ cluster: String, _ node: NodeID) -> String {
    "\(cluster)-node-\(node.rawValue)"
  }

  /// The identity that a node's key belongs to.
  package static func identity(_ cluster: String, _ node: NodeID) -> String {
    "\(cluster)/\(node.rawValue)"
  }

  /// Certificates in a folder: `ca-cert.pem`, and as server and as client `server-cert.pem`, `server-key.pem`, `client-cert.pem`,
  /// `client-key.pem`, which may be the same. Throws `TLSError`.
  package static func x509(
    folder: String?, priority: String? = nil, checksSanity: Bool = true,
    password: () throws(TLSError) -> String? = { nil }
  ) throws(TLSError) -> ClusterCredentials {
    ClusterCredentials(
      server: try TLSCredentials.x509(
        folder: folder, endpoint: .server, verifiesPeer: true, checksSanity: checksSanity,
        priority: priority ?? ClusterCredentials.priority, password: password),
      client: try TLSCredentials.x509(
        folder: folder, endpoint: .client, verifiesPeer: true, checksSanity: checksSanity,
        priority: priority ?? ClusterCredentials.priority, password: password))
  }

  /// Keys in a folder's `keys.psk`: a line `CLUSTER/NODE:KEY` for each node. Throws `TLSError`.
  package static func psk(
    folder: String?, cluster: String, node: NodeID, priority: String? = nil
  ) throws(TLSError) -> ClusterCredentials {
    ClusterCredentials(
      server: try TLSCredentials.psk(
        folder: folder, endpoint: .server, priority: priority ?? ClusterCredentials.priority),
      client: try TLSCredentials.psk(
        folder: folder, endpoint: .client, user: identity(cluster, node),
        priority: priority ?? ClusterCredentials.priority))
  }

  /// Whether the peer of a session may call itself by that number. Nil: it may.
  static func refusal(
    _ session: TLSSession, _ kind: TLSCredentials.Kind, isServer: Bool, _ cluster: String,
    _ node: NodeID
  ) -> String? {
    switch kind {
    case .x509:
      let name = certificateName(cluster, node)
      return session.peerHas(name: name)
        ? nil
        : "the certificate of \(node) is not for '\(name)' but for '\(session.peerName ?? "")'"
    case .psk:
      // A server proves with the client's key that it is of the cluster.
      guard isServer else { return nil }
      let wanted = identity(cluster, node)
      return session.peerName == wanted
        ? nil : "\(node) has the key of '\(session.peerName ?? "")', not of '\(wanted)'"
    case .anonymous: return "anonymous credentials prove nothing"
    }
  }
}
