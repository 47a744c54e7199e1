package import Host

/// Who stands behind a port: a network card, a backend, or a hub.
@MainLoop
package protocol NetPortOwner: AnyObject {
  /// A frame for it. False: there is no room; the frame is kept, and `NetPort.becomesReady` asks for it again.
  func receive(_ frame: Frame, on port: NetPort) -> Bool
  /// The peer takes frames again, after a `send` that answered false.
  func resumeSending(on port: NetPort)
  /// The link of this port's peer went up or down, or the peer came or went.
  func linkChanged(on port: NetPort)
}

/// Something that looks at the frames of a port, in the order of both directions.
@MainLoop
package protocol FrameObserver: AnyObject {
  func observe(_ frame: Frame, isSentByPort: Bool)
}

/// One end of a cable, with a queue for what the other end does not take at once.
///
/// Nothing is lost without being counted (`dropped`): frames go nowhere while the link is down, when there is no peer, and when a sender that
/// cannot wait has filled the queue.
@MainLoop
package final class NetPort {
  /// As `info network` names it.
  package var name: String
  /// Number among the queues of one card or backend.
  package let index: Int
  /// `user`, `nic`, … and what follows in `info network`.
  package let kind: String
  package var details: String
  private unowned let owner: any NetPortOwner
  package private(set) var peer: NetPort?
  /// Whether the cable is plugged in at this end.
  package var isLinkUp = true
  /// What the owner takes unfinished.
  package var accepts: OffloadSet = []
  /// Segments from the owner may be joined for a peer that takes large frames; it calls `endBurst` when it stops sending for a while.
  package var joinsSegments = false
  /// Checksums of what the owner sends are right.
  package var isTrusted = false
  /// Frames that were lost here.
  package private(set) var dropped: UInt64 = 0
  package private(set) var observers: [any FrameObserver] = []

  private var pending = FrameQueue()
  private var coalescer: Coalescer?
  private var segmenter: Segmenter?
  private var isDraining = false
  /// The sender was told to wait.
  private var isBlocked = false
  /// Bytes that wait for the peer at most.
  private static let limit = 4 << 20

  package init(
    _ name: String, kind: String, index: Int = 0, details: String = "", owner: any NetPortOwner
  ) {
    self.name = name
    self.kind = kind
    self.index = index
    self.details = details
    self.owner = owner
  }

  /// The owner, when it is a backend.
  package var backend: (any NetBackend)? { owner as? any NetBackend }

  /// What `info network` says of it.
  package var text: String { "\(name): index=\(index),type=\(kind),\(details)" }

  // MARK: - Cable

  package func connect(to other: NetPort) {
    peer = other
    other.peer = self
    owner.linkChanged(on: self)
    other.owner.linkChanged(on: other)
  }

  /// Pulls the cable; what waits is lost.
  package func disconnect() {
    guard let other = peer else { return }
    peer = nil
    other.peer = nil
    forget()
    other.forget()
    owner.linkChanged(on: self)
    other.owner.linkChanged(on: other)
  }

  /// Tells the peer's owner that this end's link changed.
  package func announceLink() {
    if let peer { peer.owner.linkChanged(on: peer) }
  }

  /// Tells this end's owner that its own link changed.
  package func linkTold() { owner.linkChanged(on: self) }

  /// Throws away what waits to be sent from here, or for this end.
  package func forget() {
    dropped &+= UInt64(pending.count)
    pending.removeAll()
    _ = coalescer?.take()
    wake()
  }

  package func add(_ observer: any FrameObserver) { observers.append(observer) }
  package func remove(_ observer: any FrameObserver) { observers.removeAll { $0 === observer } }

  // MARK: - Frames

  /// Sends a frame to the peer. False: send no more before `resumeSending`; this frame is not lost.
  @discardableResult
  package func send(_ frame: Frame) -> Bool {
    guard let peer, isLinkUp, peer.isLinkUp else {
      dropped &+= 1
      return true
    }
    if !observers.isEmpty {
      for observer in observers { observer.observe(frame, isSentByPort: true) }
    }
    if !peer.observers.isEmpty {
      for observer in peer.observers { observer.observe(frame, isSentByPort: false) }
    }
    if joinsSegments, frame.offload == .none, !peer.accepts.isDisjoint(with: [.tcp4, .tcp6]) {
      if join(frame, peer) { return !isBlocked }
    }
    deliver(frame, peer)
    return !isBlocked
  }

  /// Ends what `joinsSegments` holds back.
  package func endBurst() {
    guard let coalescer, let frame = coalescer.take(), let peer else { return }
    deliver(frame, peer)
  }

  /// This end takes frames again.
  package func becomesReady() { peer?.drain() }

  /// Whether the peer is slower than this end.
  package var isWaiting: Bool { isBlocked }
  /// Bytes that wait for the peer.
  package var waitingSize: Int { pending.size }

  private func join(_ frame: Frame, _ peer: NetPort) -> Bool {
    let coalescer = coalescer ?? Coalescer()
    self.coalescer = coalescer
    if coalescer.add(frame, isTrusted: isTrusted) { return true }
    guard let held = coalescer.take() else { return false }
    deliver(held, peer)
    return coalescer.add(frame, isTrusted: isTrusted)
  }

  /// Gives the peer what it takes: as it is, with its checksum complete, or cut.
  private func deliver(_ frame: Frame, _ peer: NetPort) {
    var frame = frame
    if isTrusted, frame.offload == .none { frame.offload.isChecked = true }
    if frame.offload.segmentation != .none, !peer.accepts.takes(frame.offload) {
      let segmenter = segmenter ?? Segmenter()
      self.segmenter = segmenter
      if !segmenter.segment(frame, { put($0, peer) }) { dropped &+= 1 }
      return
    }
    if frame.offload.needsChecksum, !peer.accepts.contains(.checksum), !Checksum.finish(&frame) {
      dropped &+= 1
      return
    }
    put(frame, peer)
  }

  private func put(_ frame: Frame, _ peer: NetPort) {
    if pending.isEmpty, peer.owner.receive(frame, on: peer) { return }
    isBlocked = true
    guard pending.size + frame.count <= NetPort.limit else {
      dropped &+= 1
      return
    }
    pending.append(frame)
  }

  private func drain() {
    guard !isDraining, let peer else { return }
    isDraining = true
    while let frame = pending.head {
      guard peer.owner.receive(frame, on: peer) else {
        isDraining = false
        return
      }
      pending.removeFirst()
    }
    isDraining = false
    wake()
  }

  private func wake() {
    guard isBlocked, pending.isEmpty else { return }
    isBlocked = false
    owner.resumeSending(on: self)
  }
}
