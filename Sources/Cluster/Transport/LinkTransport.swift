package import Host
import Synchronization

/// A connection to a node whose handshake is done: what `LinkTransport.attach` takes.
package struct NodeConnection: ~Copyable {
  /// The socket.
  let socket: StreamSocket
  /// Its TLS session, if it has one.
  let protection: LinkProtection?
  /// Bytes that came behind the handshake.
  let first: [UInt8]

  /// A connection without encryption.
  package init(_ socket: StreamSocket, first: [UInt8] = []) {
    self.socket = socket
    self.first = first
    protection = nil
  }

  /// A connection whose TLS handshake is done.
  package init(_ socket: StreamSocket, _ session: sending TLSSession, first: [UInt8]) {
    self.socket = socket
    self.first = first
    protection = LinkProtection(session)
  }

  init(_ socket: StreamSocket, _ protection: LinkProtection?, first: [UInt8]) {
    self.socket = socket
    self.protection = protection
    self.first = first
  }
}

/// Frames over sockets: to each node one connection for `ctl` and one for `mem`.
package final class LinkTransport: ClusterTransport {
  package var node: NodeID { dispatcher.node }
  package var nodeCount: Int { dispatcher.nodeCount }
  package var epoch: UInt32 { dispatcher.epoch }
  package var counters: FrameCounters { dispatcher.counters }

  private let dispatcher: FrameDispatcher

  /// The links to one node.
  private final class Peer: Sendable {
    let ctl = Mutex<SocketLink?>(nil)
    let mem = Mutex<SocketLink?>(nil)
    let isDown = Atomic<Bool>(false)
    /// Why it is down, unless this node wanted it.
    let end = Mutex<LinkEnd?>(nil)
    /// Receiving threads that run.
    let receivers = Atomic<Int>(0)

    func link(_ stream: StreamKind) -> SocketLink? {
      stream == .ctl ? ctl.withLock { $0 } : mem.withLock { $0 }
    }

    /// False when there is one already.
    func keep(_ link: SocketLink, _ stream: StreamKind) -> Bool {
      func put(_ place: inout SocketLink?) -> Bool {
        if place != nil { return false }
        place = link
        return true
      }
      return stream == .ctl ? ctl.withLock { put(&$0) } : mem.withLock { put(&$0) }
    }
  }
  private let peers: [Peer]
  private let observer = Mutex<(@Sendable (NodeID, LinkEnd) -> Void)?>(nil)
  private let threads = Mutex<[HostThread]>([])

  /// A transport without links yet.
  package init(node: NodeID, nodeCount: Int) {
    dispatcher = FrameDispatcher(node: node, nodeCount: min(nodeCount, NodeID.limit))
    peers = (0..<nodeCount).map { _ in Peer() }
  }

  /// Takes over a connection as the stream of a node, and starts to receive from it. False when the node has such a stream already, or
  /// is down. Throws `SystemError` when the kernel has no threads or descriptors left.
  package func attach(
    _ connection: consuming NodeConnection, to node: NodeID, _ stream: StreamKind
  ) throws(SystemError) -> Bool {
    guard node.index < peers.count, node != self.node else { return false }
    let peer = peers[node.index]
    guard !peer.isDown.load(ordering: .acquiring), peer.link(stream) == nil else { return false }
    let made = try SocketLink(
      connection.socket, connection.protection, peer: node, stream: stream,
      first: connection.first, dispatcher
    ) { [weak self] end in self?.linkDown(node, end) }
    guard peer.keep(made, stream) else { return false }
    peer.receivers.add(1, ordering: .acquiringAndReleasing)
    let name = stream == .ctl ? "link/\(node.rawValue)" : "shm/\(node.rawValue)"
    let receiver = try HostThread(name: name) { [self] in
      made.receiveLoop()
      receiverEnded(node)
    }
    threads.withLock { $0.append(receiver) }
    return true
  }

  /// Whether both streams to a node are there and work.
  package func isUp(_ node: NodeID) -> Bool {
    guard node.index < peers.count else { return false }
    let peer = peers[node.index]
    return !peer.isDown.load(ordering: .acquiring) && peer.link(.ctl) != nil
      && peer.link(.mem) != nil
  }

  /// Whether the frames to and from a node are encrypted.
  package func isProtected(_ node: NodeID) -> Bool {
    node.index < peers.count && peers[node.index].link(.ctl)?.isProtected == true
  }

  /// Ends all links and waits for their threads, so that no handler runs afterwards. Not on a receiving thread.
  package func shutDown() {
    for number in peers.indices {
      disconnect(NodeID(rawValue: UInt8(truncatingIfNeeded: number)))
    }
    let all = threads.withLock { threads in
      let all = threads
      threads = []
      return all
    }
    for thread in all { thread.join() }
    for peer in peers { for stream in StreamKind.allCases { peer.link(stream)?.join() } }
  }

  private func linkDown(_ node: NodeID, _ end: LinkEnd) {
    let peer = peers[node.index]
    guard !peer.isDown.exchange(true, ordering: .acquiringAndReleasing) else { return }
    peer.end.withLock { $0 = end }
    // What has arrived on the other stream is still taken, such as a goodbye.
    for stream in StreamKind.allCases { peer.link(stream)?.close(discards: end.isViolation) }
  }

  private func receiverEnded(_ node: NodeID) {
    let left = peers[node.index].receivers.subtract(1, ordering: .acquiringAndReleasing).newValue
    guard left == 0 else { return }
    let end = peers[node.index].end.withLock { $0.take() }
    if let end { observer.withLock { $0 }?(node, end) }
    dispatcher.lost(node)
  }

  // MARK: - ClusterTransport

  package func advanceEpoch(to epoch: UInt32) { dispatcher.advanceEpoch(to: epoch) }

  package func disconnect(_ node: NodeID) {
    guard node.index < peers.count else { return }
    let peer = peers[node.index]
    peer.isDown.store(true, ordering: .releasing)
    for stream in StreamKind.allCases { peer.link(stream)?.close(discards: true) }
  }

  package func bytesWaiting(from node: NodeID) -> Int? {
    guard node.index < peers.count else { return nil }
    return peers[node.index].link(.ctl)?.bytesWaiting
  }

  package func setLinkObserver(_ observer: @escaping @Sendable (NodeID, LinkEnd) -> Void) {
    self.observer.withLock { $0 = observer }
  }

  // MARK: - FrameTransport

  package func setHandler(_ handler: any FrameHandler, for types: [FrameType]) {
    dispatcher.setHandler(handler, for: types)
  }

  package func send(_ header: FrameHeader, body: IOVector, to node: NodeID) {
    put(header, body, to: node)
  }

  package func post(_ header: FrameHeader, body: IOVector, to node: NodeID) {
    put(header, body, to: node, mayWait: false)
  }

  package func waitForRoom(to node: NodeID, _ stream: StreamKind) {
    guard node.index < peers.count else { return }
    peers[node.index].link(stream)?.waitForRoom()
  }

  package func send(_ header: FrameHeader, pieces: IOPieces, to node: NodeID) {
    guard node.index < peers.count else { return }
    let stream = header.type.stream
    let header = completed(header, pieces.count, on: stream)
    peers[node.index].link(stream)?.send(header, pieces)
  }

  /// The header as it goes out, in front of a body of so many bytes.
  @inline(__always)
  private func completed(
    _ header: FrameHeader, _ count: Int, on stream: StreamKind
  ) -> FrameHeader {
    precondition(count <= FrameHeader.longestBody(stream), "a body of \(count) bytes")
    var header = header
    header.source = node
    header.epoch = dispatcher.epoch
    header.length = UInt32(truncatingIfNeeded: count)
    return header
  }

  @inline(__always)
  private func put(
    _ header: FrameHeader, _ body: IOVector, to node: NodeID, mayWait: Bool = true
  ) {
    guard node.index < peers.count else { return }
    let stream = header.type.stream
    let header = completed(header, body.count, on: stream)
    peers[node.index].link(stream)?.send(header, body, mayWait: mayWait)
  }

  package func request(
    _ header: FrameHeader, body: IOVector, to node: NodeID
  ) throws(TransportError) -> FrameReply {
    guard node.index < peers.count, let link = peers[node.index].link(.ctl) else {
      throw .lost(node)
    }
    let (slot, number) = try dispatcher.requests.begin(node)
    var header = header
    header.request = number
    link.send(completed(header, body.count, on: .ctl), body, waiting: slot.waiter)
    return try dispatcher.requests.end(slot)
  }

  package func send(
    _ header: FrameHeader, body: IOVector, to node: NodeID, waiting waiter: FrameWaiter
  ) {
    guard node.index < peers.count, let link = peers[node.index].link(header.type.stream) else {
      waiter.sleep()
      return
    }
    link.wait(waiter) { put(header, body, to: node) }
  }

  package func wait(
    _ waiter: FrameWaiter, receivingFrom node: NodeID, _ stream: StreamKind, after send: () -> Void
  ) {
    guard node.index < peers.count, let link = peers[node.index].link(stream) else {
      send()
      waiter.sleep()
      return
    }
    link.wait(waiter, after: send)
  }

  package func reply(to header: FrameHeader, of node: NodeID, argument: UInt64, body: IOVector) {
    var answer = FrameHeader(header.type, flags: .reply, argument: argument)
    answer.request = header.request
    put(answer, body, to: node)
  }

  package func refuse(_ header: FrameHeader, of node: NodeID, _ reason: String) {
    var answer = FrameHeader(header.type, flags: [.reply, .error])
    answer.request = header.request
    put(answer, IOBuffer(Array(reason.utf8.prefix(1024))).vector, to: node)
  }
}
