import Host
import Synchronization

/// What is done with a frame that has come, however it came: the part that all transports share.
final class FrameDispatcher: Sendable {
  /// Who takes the frames of each type. Never changes; a new one takes its place.
  final class Handlers: Sendable {
    private let byType: [(any FrameHandler)?]
    let generation: Int

    init(_ byType: [(any FrameHandler)?], generation: Int) {
      self.byType = byType
      self.generation = generation
    }
    subscript(_ type: FrameType) -> (any FrameHandler)? { byType[Int(type.rawValue & 0xFF)] }

    func setting(_ handler: any FrameHandler, for types: [FrameType]) -> Handlers {
      var all = byType
      for type in types { all[Int(type.rawValue & 0xFF)] = handler }
      return Handlers(all, generation: generation + 1)
    }

    /// Each handler once.
    var all: [any FrameHandler] {
      var seen = Set<ObjectIdentifier>()
      return byType.compactMap { $0 }.filter { seen.insert(ObjectIdentifier($0)).inserted }
    }
  }

  let node: NodeID
  let nodeCount: Int
  let requests = RequestTable()
  let counters = FrameCounters()
  private let currentEpoch = Atomic<UInt32>(1)
  private let table = Mutex(Handlers(Array(repeating: nil, count: 256), generation: 0))
  private let generation = Atomic<Int>(0)

  init(node: NodeID, nodeCount: Int) {
    self.node = node
    self.nodeCount = nodeCount
  }

  /// The cluster's incarnation as this node knows it. Frames are sent with it.
  var epoch: UInt32 { currentEpoch.load(ordering: .acquiring) }

  /// Goes on to a later epoch; an earlier one changes nothing.
  func advanceEpoch(to epoch: UInt32) {
    currentEpoch.max(epoch, ordering: .acquiringAndReleasing)
  }

  func setHandler(_ handler: any FrameHandler, for types: [FrameType]) {
    table.withLock { table in
      table = table.setting(handler, for: types)
      generation.store(table.generation, ordering: .releasing)
    }
  }

  /// The handlers; a receiving thread keeps them until `isCurrent` says that there are new ones.
  var handlers: Handlers { table.withLock { $0 } }
  func isCurrent(_ handlers: Handlers) -> Bool {
    handlers.generation == generation.load(ordering: .acquiring)
  }

  /// What an older epoch says is void, but for the cluster's own frames, which tell of epochs, and what one node asked of another that
  /// both live: it is done once or not at all.
  static func isBoundToEpoch(_ header: FrameHeader) -> Bool {
    header.type.rawValue >= 0x20 && header.request == 0
  }

  /// Hands a frame to who waits for it or handles it. Throws `FrameError` when nobody does.
  func dispatch(
    _ header: FrameHeader, from node: NodeID, _ body: any FrameBody, _ handlers: Handlers
  ) throws(FrameError) {
    counters.count(.received, header)
    if header.flags.contains(.reply) {
      var bytes: [UInt8] = []
      if body.remaining > 0 { bytes = body.read(body.remaining) ?? [] }
      let isWanted = requests.complete(
        header.request, of: node, argument: header.argument, body: bytes,
        isRefusal: header.flags.contains(.error))
      if !isWanted { throw .unexpectedReply(header.request) }
      return
    }
    if header.epoch < epoch, FrameDispatcher.isBoundToEpoch(header) {
      counters.countOldEpoch()
      return
    }
    guard let handler = handlers[header.type] else {
      if header.flags.contains(.errorOK) { return }
      throw .unsupported(header.type)
    }
    handler.received(header, from: node, body)
  }

  /// No frame of `node` will come any more: whoever waits for it or handles its frames is told.
  func lost(_ node: NodeID) {
    requests.lose(node)
    for handler in handlers.all { handler.lost(node) }
  }
}
