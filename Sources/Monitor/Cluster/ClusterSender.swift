import Cluster
import Host
import Synchronization

/// Sends the monitors' frames in order on a thread of its own, since a connection may make its sender wait.
final class ClusterSender: Sendable {
  private struct Item: Sendable {
    let header: FrameHeader
    let body: [UInt8]
    let node: NodeID
  }
  private struct State {
    var items: [Item] = []
    var isOver = false
  }

  private let transport: any FrameTransport
  private let state = Mutex(State())
  private let word = WaitWord()

  init(_ transport: any FrameTransport) throws(SystemError) {
    self.transport = transport
    try HostThread(name: "monitors") { [self] in run() }.detach()
  }

  /// Sends a frame after those before.
  func send(_ header: FrameHeader, _ body: [UInt8], to node: NodeID) {
    state.withLock { $0.items.append(Item(header: header, body: body, node: node)) }
    word.advanceOne()
  }

  /// Ends the thread, once what waits is sent.
  func close() {
    state.withLock { $0.isOver = true }
    word.advanceOne()
  }

  private func run() {
    while true {
      let seen = word.value
      let (items, isOver) = state.withLock { state in
        defer { state.items = [] }
        return (state.items, state.isOver)
      }
      for item in items { transport.send(item.header, bytes: item.body, to: item.node) }
      if items.isEmpty {
        if isOver { return }
        word.wait(while: seen)
      }
    }
  }
}
