import Host
import Synchronization

/// One stream to one node, over a socket.
///
/// Frames are sent by the threads that want to, in one call of the kernel each; what the socket does not take waits in `overflow`, which a
/// thread of the link sends on. Frames are received by the link's thread, or by a thread that waits for an answer: it takes over for so
/// long, which saves the way from one thread to the other (a third of a small round trip).
final class SocketLink: Sendable {
  let peer: NodeID
  let stream: StreamKind
  private let socket: StreamSocket
  private let protection: LinkProtection?
  private let signal: ReadSignal
  private let dispatcher: FrameDispatcher
  /// What is told when the link is over, and why. Any thread, once or more.
  private let ended: @Sendable (LinkEnd) -> Void

  private struct Overflow {
    var bytes: [UInt8] = []
    var sent = 0
    var isBroken = false
    /// A thread is in the kernel with bytes that come before all that is here.
    var isSending = false
    var count: Int { bytes.count - sent }
  }
  private let overflow = Mutex(Overflow())
  /// Nothing waits: what senders look at before they take the lock.
  private let isRoomy = Atomic<Bool>(true)
  /// Advances when there is something for the thread that sends on.
  private let overflowWord = WaitWord()
  /// Advances when there is more room.
  private let roomWord = WaitWord()
  private let flusher = Mutex<HostThread?>(nil)

  private struct Receiving {
    let reader: FrameReader
    var handlers: FrameDispatcher.Handlers
    var isOver = false
  }
  private let receiving: Mutex<Receiving>
  private let isClosed = Atomic<Bool>(false)

  /// Bytes that may wait before a sender waits.
  private static let overflowLimit = 256 << 10

  /// Throws `SystemError` when the kernel has no descriptors left.
  init(
    _ socket: StreamSocket, _ protection: LinkProtection?, peer: NodeID, stream: StreamKind,
    first: [UInt8], _ dispatcher: FrameDispatcher, ended: @escaping @Sendable (LinkEnd) -> Void
  ) throws(SystemError) {
    self.peer = peer
    self.stream = stream
    self.socket = socket
    self.protection = protection
    self.dispatcher = dispatcher
    self.ended = ended
    signal = try ReadSignal(socket)
    receiving = Mutex(
      Receiving(
        reader: FrameReader(socket, protection, from: peer, on: stream, first: first),
        handlers: dispatcher.handlers))
  }

  /// Whether frames are encrypted.
  var isProtected: Bool { protection != nil }

  /// Bytes that have come and that nobody has taken yet; nil when no more will come.
  var bytesWaiting: Int? { socket.bytesWaiting }

  /// Ends the link: who sends or receives is woken. `discards`: what has arrived already is not taken any more.
  func close(discards: Bool) {
    if discards { isClosed.store(true, ordering: .releasing) }
    socket.shutDown()
    overflow.withLock { $0.isBroken = true }
    overflowWord.advance()
    roomWord.advance()
  }

  /// Waits for the thread that sends on, if there is one. After `close`.
  func join() { flusher.withLock { $0.take() }?.join() }

  // MARK: - Sending

  /// Sends a frame. Then waits while too much waits already, if it may; never on a thread that serves a peer, nor on the main loop.
  func send(_ header: FrameHeader, _ body: IOVector, mayWait: Bool = true) {
    send(header, mayWait, { body }) { socket.send($0, body) }
  }

  /// The same without an allocation, unless the socket does not take all of it.
  func send(_ header: FrameHeader, _ body: IOPieces) {
    send(header, true, { body.vector }) { socket.send($0, body) }
  }

  /// `now` gives header and body to the socket; `body` is asked for when that is not all.
  @inline(__always)
  private func send(
    _ header: FrameHeader, _ mayWait: Bool, _ body: () -> IOVector,
    _ now: (SIMD4<UInt64>) -> Int
  ) {
    guard protection == nil else { return sendProtected(header, body(), mayWait: mayWait) }
    let words = header.encoded()
    let start = begin { SocketLink.tail(words, body(), from: 0) }
    guard start == .own else { return sent(header, start == .broken ? .done : .queued, mayWait) }
    let outcome = end(now(words), of: FrameHeader.size + Int(header.length)) {
      SocketLink.tail(words, body(), from: $0)
    }
    sent(header, outcome, mayWait)
  }

  private func sendProtected(_ header: FrameHeader, _ body: IOVector, mayWait: Bool) {
    let words = header.encoded(isProtected: true)
    let outcome = overflow.withLock { overflow -> Outcome in
      if overflow.isBroken { return .done }
      // Encrypted under the lock: in the order in which it is sent.
      let now = overflow.count == 0 && !overflow.isSending ? socket : nil
      guard let bytes = protection?.send(words, body, now) else {
        overflow.isBroken = true
        return .broken
      }
      add(bytes, &overflow)
      return overflow.count > 0 ? .left : .done
    }
    sent(header, outcome, mayWait)
  }

  private enum Start { case own, queued, broken }
  private enum Outcome {
    case done
    /// It will go with what another thread sends.
    case queued
    /// The socket takes no more now.
    case left
    case broken
  }

  /// Makes the caller the one that sends. If another is at it, that one sends the frame too: a thread that loses the processor inside the
  /// kernel's `send`, to the very thread that it has woken, keeps nobody waiting.
  @inline(__always)
  private func begin(_ bytes: () -> [UInt8]) -> Start {
    overflow.withLock { overflow in
      if overflow.isBroken { return .broken }
      if overflow.isSending || overflow.count > 0 {
        add(bytes(), &overflow)
        return .queued
      }
      overflow.isSending = true
      return .own
    }
  }

  /// The one that sends has sent so much of its frame. What others have queued meanwhile goes next.
  @inline(__always)
  private func end(_ count: Int, of total: Int, _ rest: (Int) -> [UInt8]) -> Outcome {
    let outcome: Outcome? = overflow.withLock { overflow in
      if count == total {
        if overflow.count > 0, !overflow.isBroken { return nil }
        overflow.isSending = false
        return .done
      }
      overflow.isSending = false
      if count < 0, !StreamSocket.isAgain(count) {
        overflow.isBroken = true
        return .broken
      }
      putBack(rest(max(count, 0)), &overflow)
      return .left
    }
    return outcome ?? sendQueued()
  }

  /// What follows when a frame was sent or queued.
  private func sent(_ header: FrameHeader, _ outcome: Outcome, _ mayWait: Bool) {
    dispatcher.counters.count(.sent, header)
    switch outcome {
    case .done: return
    case .broken: ended(LinkEnd("the connection to \(peer) broke"))
    case .left:
      startFlusher()
      overflowWord.advance()
      if mayWait { waitForRoom() }
    case .queued: if mayWait { waitForRoom() }
    }
  }

  /// Sends what is queued, as the one that sends, and is it no longer when this returns.
  private func sendQueued() -> Outcome {
    var round = 0
    while true {
      round += 1
      let next: (bytes: [UInt8], start: Int)? = overflow.withLock { overflow in
        if overflow.isBroken || overflow.count == 0 {
          overflow.isSending = false
          if !overflow.isBroken { isRoomy.store(true, ordering: .relaxed) }
          return nil
        }
        let next = (overflow.bytes, overflow.sent)
        overflow.bytes = []
        overflow.sent = 0
        return next
      }
      guard let next else {
        roomWord.advance()
        return .done
      }
      let count = socket.send(next.bytes, from: next.start)
      let isBroken = count < 0 && !StreamSocket.isAgain(count)
      if count > 0 { dispatcher.counters.unqueued(stream, bytes: count) }
      let left = next.bytes.count - next.start - max(count, 0)
      // A thread with other things to do leaves the rest to the link's own when there is no end.
      if isBroken || left > 0 || round == SocketLink.longestHelp {
        overflow.withLock { overflow in
          overflow.isSending = false
          if isBroken { overflow.isBroken = true }
          if left > 0 {
            overflow.bytes.insert(contentsOf: next.bytes[(next.bytes.count - left)...], at: 0)
          }
        }
        roomWord.advance()
        return isBroken ? .broken : .left
      }
    }
  }

  /// So often a thread sends what others have queued meanwhile.
  private static let longestHelp = 32

  private static func tail(_ words: SIMD4<UInt64>, _ body: IOVector, from start: Int) -> [UInt8] {
    var bytes = start < FrameHeader.size ? Array(FrameHeader.bytes(words)[start...]) : []
    if body.count > 0 { bytes += body.bytes(max(0, start - FrameHeader.size)) }
    return bytes
  }

  private func add(_ bytes: [UInt8], _ overflow: inout Overflow) {
    if bytes.isEmpty { return }
    if overflow.sent > 0, overflow.sent == overflow.bytes.count {
      overflow.bytes.removeAll(keepingCapacity: true)
      overflow.sent = 0
    }
    overflow.bytes += bytes
    noteQueued(bytes.count)
  }

  /// What stands before all that others have queued.
  private func putBack(_ bytes: [UInt8], _ overflow: inout Overflow) {
    overflow.bytes.insert(contentsOf: bytes, at: overflow.sent)
    noteQueued(bytes.count)
  }

  private func noteQueued(_ count: Int) {
    isRoomy.store(false, ordering: .relaxed)
    dispatcher.counters.queued(stream, bytes: count)
  }

  /// Waits while too much waits already.
  func waitForRoom() {
    if isRoomy.load(ordering: .relaxed) || ThreadDuty.isServing || MainLoop.isCurrent { return }
    while true {
      let seen = roomWord.value
      let isFull = overflow.withLock { !$0.isBroken && $0.count > SocketLink.overflowLimit }
      if !isFull { return }
      roomWord.wait(while: seen)
    }
  }

  private func startFlusher() {
    var isFailed = false
    flusher.withLock { flusher in
      guard flusher == nil else { return }
      do throws(SystemError) {
        flusher = try HostThread(name: "send/\(peer.rawValue)") { [self] in flushLoop() }
      } catch { isFailed = true }
    }
    if isFailed { ended(LinkEnd("no thread for sending to \(peer)")) }
  }

  /// The body of the thread that sends what the socket did not take at once.
  private func flushLoop() {
    while true {
      let seen = overflowWord.value
      let (isOwn, isBroken) = overflow.withLock { overflow -> (Bool, Bool) in
        if overflow.isBroken || overflow.isSending || overflow.count == 0 {
          return (false, overflow.isBroken)
        }
        overflow.isSending = true
        return (true, false)
      }
      var outcome = Outcome.done
      if isOwn { outcome = sendQueued() }
      if isBroken || outcome == .broken {
        roomWord.advance()
        ended(LinkEnd("the connection to \(peer) broke"))
        return
      }
      if outcome == .left {
        socket.waitWritable(milliseconds: 1000)
      } else {
        overflowWord.wait(while: seen)
      }
    }
  }

  // MARK: - Receiving

  /// The body of the link's thread: returns when the link is over.
  func receiveLoop() {
    ThreadDuty.raisePriority()
    ThreadDuty.preferShortTurns()
    while !receiving.withLock({ receive(&$0) }) { signal.wait() }
  }

  /// Sends a frame and waits until `waiter` is finished.
  func send(_ header: FrameHeader, _ body: IOVector, waiting waiter: FrameWaiter) {
    wait(waiter) { send(header, body) }
  }

  /// Calls `body`, which sends something, waits until `waiter` is finished, and receives meanwhile if nobody else does.
  func wait(_ waiter: FrameWaiter, after body: () -> Void) {
    let isTaken: Void? = receiving.withLockIfAvailable { receiving in
      if receiving.isOver { return }
      // Before anything is sent: the answer may come at once, and would wake the link's own thread.
      signal.close()
      waiter.begin(at: signal)
      body()
      // It may be there already, where the peer runs on this processor.
      while !receive(&receiving), !waiter.isDone { waiter.wait(at: signal) }
      signal.open()
    }
    if isTaken == nil { body() }
    waiter.sleep()
  }

  /// Takes frames until there is nothing more. Answers whether the link is over.
  private func receive(_ receiving: inout Receiving) -> Bool {
    let served = ThreadDuty.isServing
    ThreadDuty.isServing = true
    defer { ThreadDuty.isServing = served }
    receiving.reader.look()
    while !receiving.isOver {
      do throws(FrameError) {
        switch try receiving.reader.next(waits: false) {
        case .nothing: return false
        case .ended(let reason):
          receiving.isOver = true
          ended(LinkEnd(reason))
        case .frame(let header):
          if isClosed.load(ordering: .acquiring) {
            receiving.isOver = true
            break
          }
          if !dispatcher.isCurrent(receiving.handlers) {
            receiving.handlers = dispatcher.handlers
          }
          try dispatcher.dispatch(header, from: peer, receiving.reader, receiving.handlers)
        }
      } catch {
        receiving.isOver = true
        refuse(error)
      }
    }
    return true
  }

  /// What a frame that is wrong leads to: the peer and the user are told, the link ends.
  private func refuse(_ error: FrameError) {
    dispatcher.counters.countProtocolError()
    let text = "a frame of \(peer) on stream \(stream) \(error)"
    Log.error("cluster: \(text)")
    if stream == .ctl {
      var header = FrameHeader(.error)
      header.source = dispatcher.node
      header.epoch = dispatcher.epoch
      let body = IOBuffer(Array(text.utf8.prefix(1024))).vector
      header.length = UInt32(clamping: body.count)
      send(header, body)
    }
    ended(LinkEnd(text, isViolation: true))
  }
}
