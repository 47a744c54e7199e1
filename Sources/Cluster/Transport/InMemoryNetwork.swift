package import Host
import Synchronization

/// A cluster's links within one process, for tests: frames in order on each stream between two nodes, with delays that a seed chooses.
package final class InMemoryNetwork: Sendable {
  /// How the links behave.
  package struct Behaviour: Sendable {
    /// Chooses delays.
    package var seed: UInt64 = 1
    /// Every frame takes between nothing and so long.
    package var longestDelayNanoseconds: Int64 = 0
    /// One frame in so many takes `stallNanoseconds` more, and all behind it: what a lost packet does to a stream. 0: none.
    package var stallEvery: Int = 0
    package var stallNanoseconds: Int64 = 0
    /// Bytes that a stream holds before its sender waits.
    package var capacity = 4 << 20

    /// Links without delay.
    package init() {}
    /// Links whose frames take up to so long.
    package init(seed: UInt64, longestDelayMicroseconds: Int) {
      self.seed = seed
      longestDelayNanoseconds = Int64(longestDelayMicroseconds) * 1000
    }
  }

  private let transports: [InMemoryTransport]
  private let threads = Mutex<[HostThread]>([])

  /// A network of so many nodes. Frames wait until `start`.
  package init(nodeCount: Int, _ behaviour: Behaviour = Behaviour()) {
    let count = min(max(nodeCount, 1), NodeID.limit)
    transports = (0..<count).map {
      InMemoryTransport(
        node: NodeID(rawValue: UInt8(truncatingIfNeeded: $0)), nodeCount: count, behaviour)
    }
    for one in transports {
      one.outgoing.withLock { outgoing in
        for other in transports {
          outgoing.append(
            StreamKind.allCases.map { other.incoming[one.node.index * 2 + Int($0.rawValue)] })
        }
      }
    }
  }

  deinit { for transport in transports { transport.closeAll() } }

  /// The transport of a node, below `nodeCount`.
  package subscript(_ node: Int) -> InMemoryTransport { transports[node] }

  /// Starts the receivers: one thread for each node, peer and stream. Throws `SystemError` for `pthread_create`.
  package func start() throws(SystemError) {
    for transport in transports { try transport.start(threads) }
  }

  /// Holds back all frames from `a` to `b` until `join`.
  package func cut(from a: Int, to b: Int) {
    for stream in StreamKind.allCases {
      transports[b].incoming[a * 2 + Int(stream.rawValue)].setCut(true)
    }
  }
  /// Holds back all frames between two nodes until `join`.
  package func cut(_ a: Int, _ b: Int) { setCut(a, b, true) }
  /// Lets the frames between two nodes go on.
  package func join(_ a: Int, _ b: Int) { setCut(a, b, false) }

  private func setCut(_ a: Int, _ b: Int, _ isCut: Bool) {
    for stream in StreamKind.allCases {
      transports[a].incoming[b * 2 + Int(stream.rawValue)].setCut(isCut)
      transports[b].incoming[a * 2 + Int(stream.rawValue)].setCut(isCut)
    }
  }

  /// Ends a node as a crash would: what is under way is lost, the others' handlers are told.
  package func kill(_ node: Int) {
    for other in transports where other.node.index != node {
      other.closeLink(NodeID(rawValue: UInt8(truncatingIfNeeded: node)), LinkEnd("the node ended"))
    }
    transports[node].closeAll()
  }

  /// Ends all nodes and waits for their threads, so that no handler runs afterwards.
  package func shutDown() {
    for transport in transports { transport.closeAll() }
    let all = threads.withLock { threads in
      let all = threads
      threads = []
      return all
    }
    for thread in all { thread.join() }
  }
}

extension NodeID {
  /// The number as an index.
  var index: Int { Int(rawValue) }
}

/// A node's end of an `InMemoryNetwork`.
package final class InMemoryTransport: ClusterTransport {
  package var node: NodeID { dispatcher.node }
  package var nodeCount: Int { dispatcher.nodeCount }
  package var epoch: UInt32 { dispatcher.epoch }
  package var counters: FrameCounters { dispatcher.counters }

  let dispatcher: FrameDispatcher
  /// What comes from each node on each stream, by node * 2 + stream.
  let incoming: [InMemoryStream]
  /// Where each node's streams from here end; set once.
  let outgoing = Mutex<[[InMemoryStream]]>([])
  /// For each peer, receivers that have not ended.
  private let receivers: Mutex<[Int]>
  /// Nodes whose links are down, as bits.
  private let closed = Mutex<UInt64>(0)
  private let observer = Mutex<(@Sendable (NodeID, LinkEnd) -> Void)?>(nil)

  init(node: NodeID, nodeCount: Int, _ behaviour: InMemoryNetwork.Behaviour) {
    dispatcher = FrameDispatcher(node: node, nodeCount: nodeCount)
    incoming = (0..<nodeCount * 2).map {
      InMemoryStream(behaviour, salt: UInt64(node.index << 16 | $0))
    }
    receivers = Mutex(Array(repeating: 2, count: nodeCount))
  }

  func start(_ threads: borrowing Mutex<[HostThread]>) throws(SystemError) {
    for peer in 0..<nodeCount where peer != node.index {
      for stream in StreamKind.allCases {
        let name = stream == .ctl ? "link/\(peer)" : "shm/\(peer)"
        let from = NodeID(rawValue: UInt8(truncatingIfNeeded: peer))
        let thread = try HostThread(name: name) { [self] in receive(from, stream) }
        threads.withLock { $0.append(thread) }
      }
    }
  }

  private func receive(_ peer: NodeID, _ stream: StreamKind) {
    let source = incoming[peer.index * 2 + Int(stream.rawValue)]
    var handlers = dispatcher.handlers
    ThreadDuty.isServing = true
    while let message = source.next() {
      if !dispatcher.isCurrent(handlers) { handlers = dispatcher.handlers }
      do throws(FrameError) {
        // Frames go through their encoded form, as on any other link.
        switch try FrameHeader.parse(message.words, from: peer, on: stream) {
        case .skipped: break
        case .frame(let header):
          try dispatcher.dispatch(header, from: peer, ArrayBody(message.body), handlers)
        }
      } catch {
        dispatcher.counters.countProtocolError()
        closeLink(peer, LinkEnd("a frame of \(peer) \(error)", isViolation: true))
        break
      }
    }
    closeLink(peer, LinkEnd("\(peer) closed the connection"))
    let isLast = receivers.withLock { receivers in
      receivers[peer.index] -= 1
      return receivers[peer.index] == 0
    }
    if isLast { dispatcher.lost(peer) }
  }

  /// Ends the link with a peer, and tells the observer unless it knows or has asked for it.
  func closeLink(_ peer: NodeID, _ end: LinkEnd) {
    let isNews = markClosed(peer)
    closeStreams(peer)
    if isNews { observer.withLock { $0 }?(peer, end) }
  }

  /// Ends all links without telling this node's observer.
  func closeAll() {
    for peer in 0..<nodeCount { disconnect(NodeID(rawValue: UInt8(truncatingIfNeeded: peer))) }
  }

  private func markClosed(_ peer: NodeID) -> Bool {
    let bit: UInt64 = 1 << UInt64(peer.rawValue & 63)
    return closed.withLock { closed in
      defer { closed |= bit }
      return closed & bit == 0
    }
  }

  private func closeStreams(_ peer: NodeID) {
    for stream in StreamKind.allCases {
      incoming[peer.index * 2 + Int(stream.rawValue)].close()
    }
    for stream in outgoing.withLock({ $0[peer.index] }) { stream.close() }
  }

  // MARK: - ClusterTransport

  package func isProtected(_ node: NodeID) -> Bool { false }

  /// Ends this node's links; its threads end when the whole network is shut down.
  package func shutDown() { closeAll() }

  package func advanceEpoch(to epoch: UInt32) { dispatcher.advanceEpoch(to: epoch) }

  package func disconnect(_ node: NodeID) {
    guard node.index < nodeCount else { return }
    _ = markClosed(node)
    closeStreams(node)
  }

  package func bytesWaiting(from node: NodeID) -> Int? {
    guard node.index < nodeCount else { return nil }
    return incoming[node.index * 2 + Int(StreamKind.ctl.rawValue)].bytesWaiting
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
    guard node.index < nodeCount, node != self.node else { return }
    outgoing.withLock { $0[node.index][Int(stream.rawValue)] }.waitForRoom()
  }

  private func put(
    _ header: FrameHeader, _ body: IOVector, to node: NodeID, mayWait: Bool = true
  ) {
    guard node.index < nodeCount, node != self.node else { return }
    var header = header
    header.source = self.node
    header.epoch = epoch
    header.length = UInt32(clamping: body.count)
    let stream = header.type.stream
    precondition(body.count <= FrameHeader.longestBody(stream), "a body of \(body.count) bytes")
    let target = outgoing.withLock { $0[node.index][Int(stream.rawValue)] }
    dispatcher.counters.queued(stream, bytes: body.count)
    let message = InMemoryStream.Message(words: header.encoded(), body: body.bytes())
    if target.put(message, mayWait: mayWait) {
      dispatcher.counters.count(.sent, header)
    }
    dispatcher.counters.unqueued(stream, bytes: body.count)
  }

  package func request(
    _ header: FrameHeader, body: IOVector, to node: NodeID
  ) throws(TransportError) -> FrameReply {
    guard node.index < nodeCount, node != self.node else { throw .lost(node) }
    let (slot, number) = try dispatcher.requests.begin(node)
    var header = header
    header.request = number
    put(header, body, to: node)
    slot.waiter.sleep()
    return try dispatcher.requests.end(slot)
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

/// One direction of one stream between two nodes of a process.
final class InMemoryStream: Sendable {
  struct Message: Sendable {
    var words: SIMD4<UInt64>
    var body: [UInt8]
    /// When it may arrive, in monotonic time.
    var due: Int64 = 0
  }

  private struct State {
    var messages: [Message] = []
    /// The first that was not taken.
    var head = 0
    var bytes = 0
    var isCut = false
    var isClosed = false
    var random: UInt64
    var lastDue: Int64 = 0

    /// SplitMix64.
    mutating func next() -> UInt64 {
      random &+= 0x9E37_79B9_7F4A_7C15
      var z = random
      z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
      z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
      return z ^ z >> 31
    }
  }
  private let behaviour: InMemoryNetwork.Behaviour
  private let state: Mutex<State>
  private let word = WaitWord()

  init(_ behaviour: InMemoryNetwork.Behaviour, salt: UInt64) {
    self.behaviour = behaviour
    state = Mutex(
      State(random: behaviour.seed &* 0x9E37_79B9_7F4A_7C15 ^ salt &* 0xD134_2543_DE82_EF95))
  }

  var isClosed: Bool { state.withLock { $0.isClosed } }

  /// What has come and was not taken; nil when nothing comes any more.
  var bytesWaiting: Int? {
    state.withLock { state in
      if state.isClosed { return nil }
      // What a cut holds back has not come.
      return state.isCut ? 0 : state.bytes
    }
  }

  /// Waits while the stream holds too much, unless the thread serves a peer.
  func waitForRoom() {
    if ThreadDuty.isServing || MainLoop.isCurrent { return }
    while true {
      let seen = word.value
      if state.withLock({ $0.isClosed || $0.bytes <= behaviour.capacity }) { return }
      word.wait(while: seen)
    }
  }

  /// Appends, after waiting for room if it may, unless the thread serves a peer. False when the stream is closed.
  func put(_ message: Message, mayWait: Bool = true) -> Bool {
    let waits = mayWait && !ThreadDuty.isServing && !MainLoop.isCurrent
    while true {
      let seen = word.value
      let done: Bool? = state.withLock { state in
        if state.isClosed { return false }
        if waits, state.bytes > 0, state.bytes + message.body.count > behaviour.capacity {
          return nil
        }
        var message = message
        if behaviour.longestDelayNanoseconds > 0 || behaviour.stallEvery > 0 {
          var delay: Int64 = 0
          if behaviour.longestDelayNanoseconds > 0 {
            delay = Int64(state.next() % UInt64(behaviour.longestDelayNanoseconds))
          }
          if behaviour.stallEvery > 0, state.next() % UInt64(behaviour.stallEvery) == 0 {
            delay += behaviour.stallNanoseconds
          }
          state.lastDue = max(state.lastDue, HostClock.monotonic &+ delay)
          message.due = state.lastDue
        }
        state.bytes += message.body.count + FrameHeader.size
        state.messages.append(message)
        return true
      }
      if let done {
        if done { word.advance() }
        return done
      }
      word.wait(while: seen)
    }
  }

  /// The next that has arrived, after waiting for it; nil when the stream is closed.
  func next() -> Message? {
    while true {
      let seen = word.value
      var wait: Int64?
      var wasCrowded = false
      let message: Message? = state.withLock { state in
        guard !state.isClosed, !state.isCut, state.head < state.messages.count else { return nil }
        let due = state.messages[state.head].due
        if due > 0 {
          let left = due &- HostClock.monotonic
          if left > 0 {
            wait = left
            return nil
          }
        }
        let message = state.messages[state.head]
        state.messages[state.head].body = []
        state.head += 1
        if state.head == state.messages.count || state.head > 1024 {
          state.messages.removeFirst(state.head)
          state.head = 0
        }
        wasCrowded = state.bytes >= behaviour.capacity
        state.bytes -= message.body.count + FrameHeader.size
        return message
      }
      if let message {
        if wasCrowded || message.body.count > 0 { word.advance() }
        return message
      }
      if isClosed { return nil }
      word.wait(while: seen, nanoseconds: wait)
    }
  }

  func setCut(_ isCut: Bool) {
    state.withLock { $0.isCut = isCut }
    word.advance()
  }

  /// Throws away what is under way.
  func close() {
    state.withLock { state in
      state.isClosed = true
      state.messages = []
      state.head = 0
      state.bytes = 0
    }
    word.advance()
  }
}

/// A body that has come whole.
package final class ArrayBody: FrameBody {
  private let bytes: [UInt8]
  private var position = 0

  package init(_ bytes: [UInt8]) { self.bytes = bytes }

  package var remaining: Int { bytes.count - position }

  package func read(into target: IOVector) -> Bool {
    guard target.count <= remaining else { return false }
    target.store(Array(bytes[position..<position + target.count]))
    position += target.count
    return true
  }

  package func read(_ count: Int) -> [UInt8]? {
    guard count >= 0, count <= remaining else { return nil }
    defer { position += count }
    return Array(bytes[position..<position + count])
  }
}
