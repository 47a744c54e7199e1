package import Host

/// The body of a frame that arrives: still in the connection, for its handler to take where it wants it.
///
/// Valid during `FrameHandler.received` only. What is not read is passed over.
package protocol FrameBody: AnyObject {
  /// Bytes not read yet.
  var remaining: Int { get }
  /// Fills `target` with the next bytes; false, and the node is lost, when the connection ends before.
  func read(into target: IOVector) -> Bool
  /// The same without an allocation; the list of `target` is of no use afterwards.
  func read(into target: IOPieces) -> Bool
  /// The next `count` bytes; nil when there are not so many, or the connection ends before.
  func read(_ count: Int) -> [UInt8]?
}

extension FrameBody {
  package func read(into target: IOPieces) -> Bool { read(into: target.vector) }
}

/// Takes the frames of some types. Called on the thread that receives from that node: it must not wait for another node, nor for the main
/// loop, nor for a vCPU's own request.
package protocol FrameHandler: AnyObject, Sendable {
  /// A frame has come. A request (`header.request` is not 0) is answered with `FrameTransport.reply`, now or later.
  func received(_ header: FrameHeader, from node: NodeID, _ body: any FrameBody)
  /// No frame of `node` will come any more in this epoch.
  func lost(_ node: NodeID)
}

/// Why a request to another node had no answer.
package enum TransportError: Error, Equatable, Sendable {
  /// The node is lost, or was before.
  case lost(NodeID)
  /// The node refused, and why.
  case refused(String)
}

/// The answer to a request on `ctl`.
package struct FrameReply: Equatable, Sendable {
  /// What the reply's header says.
  package var argument: UInt64
  /// Empty, without an allocation, for most.
  package var body: [UInt8]

  package init(argument: UInt64, body: [UInt8] = []) {
    self.argument = argument
    self.body = body
  }
}

/// How a node speaks to the others, by frames: over sockets, or within a process in tests.
///
/// Frames of one stream to one node arrive in the order in which they were sent; between streams there is no order. All methods: any
/// thread. A frame's fields `source`, `length`, `request` and `epoch` are the transport's.
package protocol FrameTransport: AnyObject, Sendable {
  /// This node.
  var node: NodeID { get }
  /// Number of nodes of the cluster, lost ones too.
  var nodeCount: Int { get }

  /// Sends a frame that has no answer. The body's memory is the caller's again when this returns. Waits while the connection takes no
  /// more (back-pressure), but on the main loop and on a thread that receives, where it is queued. To a lost node: nothing.
  func send(_ header: FrameHeader, body: IOVector, to node: NodeID)

  /// The same for who holds a lock that a thread that receives may want: never waits, so the frame may be queued. Who sends much calls
  /// `waitForRoom` when it holds no lock any more.
  func post(_ header: FrameHeader, body: IOVector, to node: NodeID)

  /// Waits while the connection takes no more, as `send` does.
  func waitForRoom(to node: NodeID, _ stream: StreamKind)

  /// The same without an allocation.
  func send(_ header: FrameHeader, pieces: IOPieces, to node: NodeID)

  /// Sends a request on `ctl` and waits for its reply. Not on a thread that receives, nor on the main loop. The calling thread may
  /// receive what comes on that stream meanwhile, and call its handlers: it must hold no lock that a handler takes.
  func request(
    _ header: FrameHeader, body: IOVector, to node: NodeID
  ) throws(TransportError) -> FrameReply

  /// Answers the request `header` of `node`.
  func reply(to header: FrameHeader, of node: NodeID, argument: UInt64, body: IOVector)
  /// Refuses the request `header` of `node`, with a sentence.
  func refuse(_ header: FrameHeader, of node: NodeID, _ reason: String)

  /// Sends a frame and waits until `waiter` is finished, by a handler or another thread. The answer is expected on the same stream of the
  /// same node: the calling thread may receive from it meanwhile, and call its handlers, which is a third faster than waiting for another
  /// thread, so it must hold no lock that a handler takes. Whoever uses it finishes the waiter when the node is lost, too
  /// (`FrameHandler.lost`). Not on a thread that receives, nor on the main loop.
  func send(_ header: FrameHeader, body: IOVector, to node: NodeID, waiting waiter: FrameWaiter)

  /// The same for who sends by itself: calls `send`, which sends something to `node` on that stream, and waits.
  func wait(
    _ waiter: FrameWaiter, receivingFrom node: NodeID, _ stream: StreamKind, after send: () -> Void)

  /// Makes `handler` responsible for frames of these types; before the cluster starts.
  func setHandler(_ handler: any FrameHandler, for types: [FrameType])
}

extension FrameTransport {
  /// For transports whose `send` never waits.
  package func post(_ header: FrameHeader, body: IOVector, to node: NodeID) {
    send(header, body: body, to: node)
  }
  package func waitForRoom(to node: NodeID, _ stream: StreamKind) {}

  /// Posts a frame whose body is small and made for it.
  package func post(_ header: FrameHeader, bytes: [UInt8] = [], to node: NodeID) {
    post(header, body: bytes.isEmpty ? IOVector() : IOBuffer(bytes).vector, to: node)
  }

  package func send(_ header: FrameHeader, pieces: IOPieces, to node: NodeID) {
    send(header, body: pieces.vector, to: node)
  }

  package func send(
    _ header: FrameHeader, body: IOVector, to node: NodeID, waiting waiter: FrameWaiter
  ) {
    send(header, body: body, to: node)
    waiter.sleep()
  }

  package func wait(
    _ waiter: FrameWaiter, receivingFrom node: NodeID, _ stream: StreamKind, after send: () -> Void
  ) {
    send()
    waiter.sleep()
  }

  /// Sends a frame whose body is small and made for it.
  package func send(_ header: FrameHeader, bytes: [UInt8] = [], to node: NodeID) {
    send(header, body: bytes.isEmpty ? IOVector() : IOBuffer(bytes).vector, to: node)
  }

  /// Sends a request whose body is small and made for it.
  package func request(
    _ header: FrameHeader, bytes: [UInt8] = [], to node: NodeID
  ) throws(TransportError) -> FrameReply {
    try request(header, body: bytes.isEmpty ? IOVector() : IOBuffer(bytes).vector, to: node)
  }

  /// Answers a request with an argument and a small body.
  package func reply(
    to header: FrameHeader, of node: NodeID, argument: UInt64 = 0, bytes: [UInt8] = []
  ) {
    reply(
      to: header, of: node, argument: argument,
      body: bytes.isEmpty ? IOVector() : IOBuffer(bytes).vector)
  }

  /// Sends a frame to every other node.
  package func broadcast(_ header: FrameHeader, bytes: [UInt8] = []) {
    for number in 0..<nodeCount where number != Int(node.rawValue) {
      send(header, bytes: bytes, to: NodeID(rawValue: UInt8(truncatingIfNeeded: number)))
    }
  }
}
