import Cluster
import Host
import Synchronization
import Testing

/// Keeps what it receives, answers requests, and lets a test wait.
final class Recorder: FrameHandler {
  struct Frame: Equatable {
    var node: NodeID
    var type: FrameType
    var argument: UInt64
    var body: [UInt8]
  }
  private let state = Mutex<(frames: [Frame], lost: [NodeID])>(([], []))
  private let word = WaitWord()
  private let answer: (@Sendable (FrameHeader, NodeID, [UInt8]) -> Void)?

  init(_ answer: (@Sendable (FrameHeader, NodeID, [UInt8]) -> Void)? = nil) {
    self.answer = answer
  }

  func received(_ header: FrameHeader, from node: NodeID, _ body: any FrameBody) {
    let bytes = body.read(body.remaining) ?? []
    state.withLock {
      $0.frames.append(
        Frame(node: node, type: header.type, argument: header.argument, body: bytes))
    }
    answer?(header, node, bytes)
    word.advance()
  }

  func lost(_ node: NodeID) {
    state.withLock { $0.lost.append(node) }
    word.advance()
  }

  var frames: [Frame] { state.withLock { $0.frames } }
  var lostNodes: [NodeID] { state.withLock { $0.lost } }

  /// Waits until `condition` holds, at most ten seconds.
  func wait(_ condition: (Recorder) -> Bool) -> Bool {
    let end = HostClock.monotonic + 10_000_000_000
    while HostClock.monotonic < end {
      let seen = word.value
      if condition(self) { return true }
      word.wait(while: seen, nanoseconds: 100_000_000)
    }
    return false
  }
}

@Suite struct InMemoryNetworkTests {
  private func node(_ number: UInt8) -> NodeID { NodeID(rawValue: number) }

  @Test func framesOfAStreamStayInOrderUnderDelays() throws {
    let network = InMemoryNetwork(
      nodeCount: 3, .init(seed: 7, longestDelayMicroseconds: 50))
    let recorder = Recorder()
    network[0].setHandler(recorder, for: [.doorbell, .getS])
    try network.start()
    defer { network.shutDown() }
    for number in 0..<200 {
      for sender in 1...2 {
        network[sender].send(
          FrameHeader(.doorbell, argument: UInt64(number)), bytes: [UInt8(sender)], to: node(0))
        network[sender].send(FrameHeader(.getS, argument: UInt64(number)), to: node(0))
      }
    }
    #expect(recorder.wait { $0.frames.count == 800 })
    for sender in 1...2 {
      for type in [FrameType.doorbell, .getS] {
        let some = recorder.frames.filter { $0.node.rawValue == sender && $0.type == type }
        #expect(some.map(\.argument) == (0..<200).map { UInt64($0) })
      }
    }
    #expect(network[0].counters.frames(.received, .doorbell) == 400)
    #expect(network[1].counters.frames(.sent, .doorbell) == 200)
    #expect(network[1].counters.bytes(.sent, .ctl) == 200 * 33)
  }

  @Test func requestsGetTheirAnswers() throws {
    let network = InMemoryNetwork(nodeCount: 2)
    let server = network[0]
    let recorder = Recorder { header, from, bytes in
      if header.argument == 13 {
        server.refuse(header, of: from, "unlucky")
      } else {
        server.reply(to: header, of: from, argument: header.argument * 2, bytes: bytes)
      }
    }
    server.setHandler(recorder, for: [.portRead])
    try network.start()
    defer { network.shutDown() }
    let reply = try network[1].request(
      FrameHeader(.portRead, argument: 21), bytes: [1, 2], to: node(0))
    #expect(reply == FrameReply(argument: 42, body: [1, 2]))
    #expect(throws: TransportError.refused("unlucky")) {
      try network[1].request(FrameHeader(.portRead, argument: 13), to: node(0))
    }
  }

  @Test func requestsOfManyThreadsAreNotMixedUp() throws {
    let network = InMemoryNetwork(nodeCount: 2, .init(seed: 3, longestDelayMicroseconds: 20))
    let server = network[0]
    server.setHandler(
      Recorder { header, from, _ in
        server.reply(to: header, of: from, argument: header.argument + 1)
      }, for: [.portRead])
    try network.start()
    defer { network.shutDown() }
    let client = network[1]
    final class Shared: Sendable {
      let wrong = Atomic<Int>(0)
    }
    let shared = Shared()
    let threads = try (0..<8).map { thread in
      try HostThread(name: "asker") {
        for number in 0..<50 {
          let argument = UInt64(thread * 1000 + number)
          let reply = try? client.request(
            FrameHeader(.portRead, argument: argument), to: NodeID(rawValue: 0))
          if reply?.argument != argument + 1 { shared.wrong.add(1, ordering: .relaxed) }
        }
      }
    }
    for thread in threads { thread.join() }
    #expect(shared.wrong.load(ordering: .relaxed) == 0)
  }

  @Test func deadNodeIsToldToHandlersOnceAndFailsRequests() throws {
    let network = InMemoryNetwork(nodeCount: 3)
    let recorder = Recorder()
    let observed = Mutex<[String]>([])
    network[1].setHandler(recorder, for: [.doorbell, .getS, .portRead])
    network[1].setLinkObserver { node, end in
      observed.withLock { $0.append("\(node): \(end.reason)") }
    }
    network[0].setHandler(Recorder(), for: [.portRead])
    try network.start()
    defer { network.shutDown() }
    let client = network[1]
    let asker = try HostThread(name: "asker") {
      #expect(throws: TransportError.lost(NodeID(rawValue: 0))) {
        try client.request(FrameHeader(.portRead), to: NodeID(rawValue: 0))
      }
    }
    network.kill(0)
    asker.join()
    #expect(recorder.wait { $0.lostNodes == [NodeID(rawValue: 0)] })
    #expect(observed.withLock { $0 } == ["node 0: the node ended"])
    #expect(throws: TransportError.lost(node(0))) {
      try client.request(FrameHeader(.portRead), to: node(0))
    }
    client.send(FrameHeader(.doorbell), to: node(0))
    network[2].send(FrameHeader(.doorbell, argument: 5), to: node(1))
    #expect(recorder.wait { $0.frames.map(\.argument) == [5] })
  }

  @Test func cutLinkHoldsFramesBack() throws {
    let network = InMemoryNetwork(nodeCount: 2)
    let recorder = Recorder()
    network[0].setHandler(recorder, for: [.doorbell])
    try network.start()
    defer { network.shutDown() }
    network.cut(0, 1)
    network[1].send(FrameHeader(.doorbell, argument: 1), to: node(0))
    #expect(recorder.frames.isEmpty)
    network.join(0, 1)
    #expect(recorder.wait { $0.frames.count == 1 })
  }

  @Test func framesOfAnOlderEpochAreDroppedAndCounted() throws {
    let network = InMemoryNetwork(nodeCount: 2)
    let recorder = Recorder()
    network[0].setHandler(recorder, for: [.getS, .heartbeat])
    network[0].advanceEpoch(to: 5)
    try network.start()
    defer { network.shutDown() }
    network[1].send(FrameHeader(.getS, argument: 1), to: node(0))
    network[1].advanceEpoch(to: 5)
    network[1].advanceEpoch(to: 4)
    network[1].send(FrameHeader(.getS, argument: 2), to: node(0))
    #expect(recorder.wait { $0.frames.count == 1 })
    #expect(recorder.frames.map(\.argument) == [2])
    #expect(network[0].counters.oldEpochFrames == 1)
  }

  @Test func frameThatNobodyHandlesEndsTheLink() throws {
    let network = InMemoryNetwork(nodeCount: 2)
    let recorder = Recorder()
    network[0].setHandler(recorder, for: [.doorbell])
    try network.start()
    defer { network.shutDown() }
    network[1].send(FrameHeader(.event, flags: .errorOK), to: node(0))
    network[1].send(FrameHeader(.doorbell), to: node(0))
    #expect(recorder.wait { $0.frames.count == 1 })
    network[1].send(FrameHeader(.event), to: node(0))
    #expect(recorder.wait { $0.lostNodes == [NodeID(rawValue: 1)] })
    #expect(network[0].counters.protocolErrors == 1)
  }

  @Test func bodyIsReadInPiecesAndItsRestIsPassedOver() throws {
    final class Picker: FrameHandler {
      let seen = Mutex<[[UInt8]]>([])
      let word = WaitWord()
      func received(_ header: FrameHeader, from node: NodeID, _ body: any FrameBody) {
        let target = IOBuffer(count: 4)
        let isRead = body.read(into: target.vector)
        seen.withLock { $0.append(isRead ? target.bytes + [UInt8(body.remaining)] : []) }
        word.advance()
      }
      func lost(_ node: NodeID) {}
    }
    let network = InMemoryNetwork(nodeCount: 2)
    let picker = Picker()
    network[0].setHandler(picker, for: [.dataS])
    try network.start()
    defer { network.shutDown() }
    network[1].send(FrameHeader(.dataS), bytes: [1, 2, 3, 4, 5, 6], to: node(0))
    network[1].send(FrameHeader(.dataS), bytes: [7, 8], to: node(0))
    while picker.seen.withLock({ $0.count }) < 2 {
      picker.word.wait(while: picker.word.value, nanoseconds: 10_000_000)
    }
    #expect(picker.seen.withLock { $0 } == [[1, 2, 3, 4, 2], []])
  }
}
