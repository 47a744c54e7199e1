package import Cluster
package import Host
import Synchronization

/// Frames of the page protocol, in and out. Receiving: on the transport's threads, one at a time for each peer, which never wait here but for
/// engines of this node to notice a revocation.
extension CoherentMemory {
  // MARK: - Out

  /// Puts a message into a peer's queue; `finish` sends it. Under the shard's lock, so that messages about a page keep their order.
  func post(_ message: PageMessage, to peer: NodeID, _ work: PageWork) {
    guard Int(peer.rawValue) < queues.count, peer != node else { return }
    queues.with(Int(peer.rawValue)) { $0.post(message) }
    work.peers |= 1 << UInt64(peer.rawValue & 63)
  }

  /// Sends what is queued for a peer, unless another thread is at it. Without a lock: this may wait for the connection, on a thread that
  /// does not receive.
  func flush(_ peer: Int) {
    guard peer < queues.count else { return }
    queues.with(peer) { queue in
      while queue.begin() {
        while var frame = queue.next() { send(&frame, queue, to: NodeID(rawValue: UInt8(peer))) }
      }
    }
  }

  private func send(_ frame: inout PageFrame, _ queue: PeerQueue, to peer: NodeID) {
    let count = frame.pages.nonzeroBitCount
    var body = queue.pieces
    // SAFETY (all below): the queue's own buffer, which has room for the descriptions of 64 pages.
    unsafe body.append(
      queue.description, count: PageFrame.fixedSize + count * PageFrame.eachSize)
    var left = frame.pages
    var place = 0
    let hasData = frame.hasData
    while left != 0 {
      let bit = left.trailingZeroBitCount
      left &= left &- 1
      unsafe PageFrame.encode(queue.message(bit), place: place, into: queue.description)
      place += 1
      guard hasData else { continue }
      let bytes = unsafe host(of: frame.first + UInt64(bit))
      let size = Int(GuestAddress.pageSize)
      // SAFETY: a page of RAM, which nobody changes until the receiver has answered (PeerQueue).
      if unsafe UnsafeRawBufferPointer(start: bytes, count: size).isZero {
        frame.zeros |= 1 << UInt64(bit)
      } else {
        unsafe body.append(bytes, count: size)
      }
    }
    unsafe frame.encode(into: queue.description)
    if hasData { pagesSent.wrappingAdd(UInt64(count), ordering: .relaxed) }
    transport.send(
      FrameHeader(PageFrame.type(frame.kind), argument: frame.first), pieces: body, to: peer)
  }

  // MARK: - In

  package func received(_ header: FrameHeader, from peer: NodeID, _ body: any FrameBody) {
    guard Int(peer.rawValue) < inboxes.count, peer != node else { return }
    if header.type == .pageClaims || header.type == .pageVerdicts {
      received(recovery: header, from: peer, body)
      return
    }
    inboxes.with(Int(peer.rawValue)) { received(header, from: peer, body, $0) }
  }

  private func received(
    _ header: FrameHeader, from peer: NodeID, _ body: any FrameBody, _ inbox: PeerInbox
  ) {
    guard let frame = read(header, body, inbox) else {
      if !lostNodes.contains(peer) { malformed(header, peer) }
      return
    }
    let work = inbox.work
    switch frame.kind {
    case .getS, .getM, .put: forEach(frame, inbox) { serveRemote($0, from: peer, &$1, work) }
    case .acknowledge:
      if frame.hasData, !takeReturned(frame, from: peer, body, inbox, work) { break }
      forEach(frame, inbox) { serveRemote($0, from: peer, &$1, work) }
    case .dataS, .dataM, .push, .grant: take(frame, from: peer, body, inbox, work)
    case .fetchS, .fetchM, .forwardM, .invalidate:
      forEach(frame, inbox) { revokeRemote($0, from: peer, &$1, work) }
    }
    finish(work)
  }

  /// The frame up to its pages' bytes; nil when it is malformed or the connection ends.
  private func read(
    _ header: FrameHeader, _ body: any FrameBody, _ inbox: PeerInbox
  ) -> PageFrame? {
    guard header.length >= UInt32(PageFrame.headSize) else { return nil }
    var pieces = inbox.pieces
    // SAFETY (all): the inbox's own buffer, which has room for the descriptions of 64 pages.
    unsafe pieces.append(inbox.description, count: PageFrame.headSize)
    guard body.read(into: pieces),
      let frame = unsafe PageFrame.parse(
        header, head: inbox.description, pageCount: pageCount, nodeCount: queues.count)
    else { return nil }
    let rest = (frame.pages.nonzeroBitCount - 1) * PageFrame.eachSize
    if rest > 0 {
      pieces = inbox.pieces
      unsafe pieces.append(inbox.description + PageFrame.headSize, count: rest)
      guard body.read(into: pieces) else { return nil }
    }
    return frame
  }

  /// Calls `body` for each message of the frame under its pages' lock.
  private func forEach(
    _ frame: PageFrame, _ inbox: PeerInbox,
    _ body: (PageMessage, inout PageShard.State) -> Void
  ) {
    shard(of: frame.first).withLock { state in
      var left = frame.pages
      var place = 0
      while left != 0 {
        let bit = left.trailingZeroBitCount
        left &= left &- 1
        unsafe body(frame.message(bit, place: place, inbox.description), &state)
        place += 1
      }
    }
  }

  private func serveRemote(
    _ message: PageMessage, from peer: NodeID, _ state: inout PageShard.State, _ work: PageWork
  ) {
    unsafe state.log.note(
      message, entry(message.page).pointee.agent, node: peer.rawValue, isSent: false)
    guard home(of: message.page) == node else {
      fail(.malformed, message, from: peer, "the page's home is another", work)
      return
    }
    serve(message, from: peer, &state, work)
  }

  private func revokeRemote(
    _ message: PageMessage, from peer: NodeID, _ state: inout PageShard.State, _ work: PageWork
  ) {
    guard home(of: message.page) == peer, message.kind != .forwardM || message.target != node else {
      fail(.malformed, message, from: peer, "from who is not the page's home", work)
      return
    }
    revoke(message, from: peer, &state, work)
  }

  /// Bytes that an owner returns to this node as the home: puts them in place. False when it may not, or the connection ends.
  private func takeReturned(
    _ frame: PageFrame, from peer: NodeID, _ body: any FrameBody, _ inbox: PeerInbox,
    _ work: PageWork
  ) -> Bool {
    var isWanted = true
    forEach(frame, inbox) { message, _ in
      let isDue: Bool =
        unsafe home(of: message.page) == node
        && homeEntry(message.page).pointee.expects(from: peer)?.data == true
        && homeEntry(message.page).pointee.gen == message.gen
      if !isDue, isWanted {
        isWanted = false
        unsafe fail(
          .acknowledgement, message, from: peer, homeEntry(message.page).pointee.text, work)
      }
    }
    return isWanted && readBytes(frame, of: frame.pages, body, inbox)
  }

  /// Copies that come: those that are wanted go in place, then to the engines.
  private func take(
    _ frame: PageFrame, from peer: NodeID, _ body: any FrameBody, _ inbox: PeerInbox,
    _ work: PageWork
  ) {
    var wanted: UInt64 = 0
    forEach(frame, inbox) { message, state in
      let bit: UInt64 = 1 << (message.page % PageFrame.groupPages)
      let isFromHome = home(of: message.page) == peer
      let entry = unsafe entry(message.page)
      guard isFromHome || frame.kind == .dataM else {
        fail(.malformed, message, from: peer, "from who is not the page's home", work)
        return
      }
      if frame.isLost {
        lose(message.page, &state, work)
        return
      }
      switch unsafe entry.pointee.agent.decide(message) {
      case .install: wanted |= bit
      case .error(let kind):
        unsafe fail(kind, message, from: peer, entry.pointee.agent.text, work)
      default: return
      }
    }
    if frame.isLost || work.failure != nil { return }
    if frame.hasData, !readBytes(frame, of: wanted, body, inbox) { return }
    forEach(frame, inbox) { message, state in
      let bit: UInt64 = 1 << (message.page % PageFrame.groupPages)
      if wanted & bit != 0 { install(message, isZero: frame.zeros & bit != 0, &state, work) }
    }
  }

  /// Takes the frame's bytes into the wanted pages' memory, which no engine of this node uses. False when the connection ends.
  private func readBytes(
    _ frame: PageFrame, of wanted: UInt64, _ body: any FrameBody, _ inbox: PeerInbox
  ) -> Bool {
    let size = Int(GuestAddress.pageSize)
    var pieces = inbox.pieces
    var left = frame.pages
    while left != 0 {
      let bit = left.trailingZeroBitCount
      let one: UInt64 = 1 << UInt64(bit)
      left &= left &- 1
      let isWanted = wanted & one != 0
      // SAFETY: a page of RAM that this node has no right to, or the inbox's own memory.
      let target =
        unsafe isWanted ? host(of: frame.first + UInt64(bit)) : inbox.waste
      if frame.zeros & one == 0 {
        if isWanted {
          unsafe pieces.append(target, count: size)
        } else {
          // Two in a row must not become one piece.
          if pieces.count > 0, !body.read(into: pieces) { return false }
          pieces = inbox.pieces
          unsafe pieces.append(target, count: size)
          if !body.read(into: pieces) { return false }
          pieces = inbox.pieces
        }
      } else if isWanted {
        // Memory that was never touched stays so.
        if unsafe !UnsafeRawBufferPointer(start: target, count: size).isZero {
          unsafe target.initializeMemory(as: UInt8.self, repeating: 0, count: size)
        }
      }
    }
    return pieces.count == 0 || body.read(into: pieces)
  }

  private func malformed(_ header: FrameHeader, _ peer: NodeID) {
    let kind = PageFrame.kind(header.type) ?? .getS
    report(
      PageProtocolError(
        .malformed, PageMessage(kind, page: header.argument), from: peer,
        state: "a body of \(header.length) bytes"))
  }

  // MARK: - Nodes

  package func lost(_ peer: NodeID) {
    // A recovery may be over before the end of the last link is noticed: no reason to freeze again.
    if lostNodes.insert(peer) { freeze() }
  }
}

/// Nodes, from any thread.
final class SharedNodeSet: Sendable {
  private let bits = Atomic<UInt64>(0)
  var value: NodeSet { NodeSet(rawValue: bits.load(ordering: .acquiring)) }
  func contains(_ node: NodeID) -> Bool { value.contains(node) }
  /// True if it was not there.
  @discardableResult func insert(_ node: NodeID) -> Bool {
    let bit = NodeSet(node).rawValue
    return bits.bitwiseOr(bit, ordering: .acquiringAndReleasing).oldValue & bit == 0
  }
}
