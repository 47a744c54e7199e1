/// How a link ended.
package struct LinkEnd: Equatable, Sendable {
  /// A sentence.
  package var reason: String
  /// The peer broke the protocol.
  package var isViolation: Bool

  package init(_ reason: String, isViolation: Bool = false) {
    self.reason = reason
    self.isViolation = isViolation
  }
}

/// What the membership asks of a transport beside frames.
package protocol ClusterTransport: FrameTransport {
  /// The incarnation of the cluster that frames are sent with.
  var epoch: UInt32 { get }
  /// Goes on to a later epoch: what older ones say is dropped.
  func advanceEpoch(to epoch: UInt32)
  /// Ends the links to a node. Its handlers are told that it is lost once the last frame was handled.
  func disconnect(_ node: NodeID)
  /// Tells when a link ended by itself, once for each node.
  /// On any thread; it must not wait.
  func setLinkObserver(_ observer: @escaping @Sendable (NodeID, LinkEnd) -> Void)
  /// Bytes of `ctl` that have come from a node and that nobody has taken yet; nil when no more will come. Any thread.
  func bytesWaiting(from node: NodeID) -> Int?
  /// Whether frames to and from a node are encrypted.
  func isProtected(_ node: NodeID) -> Bool
  /// Ends all links and waits for their threads, so that no handler runs afterwards. Not on a thread that receives.
  func shutDown()
  var counters: FrameCounters { get }
}
