import Cluster
import Host
import Synchronization
import Testing

/// Nodes of one process, linked by pairs of sockets.
final class LinkedNodes: Sendable {
  let nodes: [LinkTransport]

  init(_ count: Int, prepare: ([LinkTransport]) -> Void) throws {
    nodes = (0..<count).map {
      LinkTransport(node: NodeID(rawValue: UInt8($0)), nodeCount: count)
    }
    prepare(nodes)
    for a in 0..<count {
      for b in a + 1..<count {
        for stream in StreamKind.allCases {
          let (one, other) = try StreamSocket.pair()
          let isFirst = try nodes[a].attach(NodeConnection(one), to: nodes[b].node, stream)
          let isSecond = try nodes[b].attach(NodeConnection(other), to: nodes[a].node, stream)
          #expect(isFirst && isSecond)
        }
      }
    }
  }

  func shutDown() { for node in nodes { node.shutDown() } }
}

@Suite struct LinkTransportTests {
  private func node(_ number: UInt8) -> NodeID { NodeID(rawValue: number) }

  @Test func requestsOfManyThreadsGetTheirOwnAnswers() throws {
    let linked = try LinkedNodes(2) { nodes in
      let server = nodes[0]
      server.setHandler(
        Recorder { header, from, bytes in
          server.reply(to: header, of: from, argument: header.argument + 1, bytes: bytes)
        }, for: [.portRead])
    }
    defer { linked.shutDown() }
    let client = linked.nodes[1]
    let wrong = CounterTable(count: 1)
    let threads = try (0..<6).map { thread in
      try HostThread(name: "asker") {
        for number in 0..<300 {
          let argument = UInt64(thread * 1000 + number)
          let bytes = [UInt8](repeating: UInt8(thread), count: number)
          let reply = try? client.request(
            FrameHeader(.portRead, argument: argument), bytes: bytes, to: NodeID(rawValue: 0))
          if reply != FrameReply(argument: argument + 1, body: bytes) { wrong.add(to: 0) }
        }
      }
    }
    for thread in threads { thread.join() }
    #expect(wrong[0] == 0)
    #expect(client.counters.frames(.sent, .portRead) == 1800)
    #expect(client.counters.frames(.received, .portRead) == 1800)
  }

  @Test func refusalsCarryTheirReason() throws {
    let linked = try LinkedNodes(2) { nodes in
      let server = nodes[0]
      server.setHandler(
        Recorder { header, from, _ in server.refuse(header, of: from, "no such port") },
        for: [.portRead])
    }
    defer { linked.shutDown() }
    #expect(throws: TransportError.refused("no such port")) {
      try linked.nodes[1].request(FrameHeader(.portRead), to: node(0))
    }
  }

  @Test func bodiesOfEveryKindOfLengthArriveWhole() throws {
    let recorder = Recorder()
    let linked = try LinkedNodes(2) { $0[0].setHandler(recorder, for: [.dataS, .dataM]) }
    defer { linked.shutDown() }
    var sent: [[UInt8]] = []
    var random = SystemRandomNumberGenerator()
    for length in [0, 1, 31, 32, 33, 4095, 4096, 4097, 8191, 65536, 300_000, (1 << 20) + 4096] {
      let bytes = (0..<length).map { _ in UInt8.random(in: 0...255, using: &random) }
      sent.append(bytes)
      linked.nodes[1].send(FrameHeader(.dataS, argument: UInt64(length)), bytes: bytes, to: node(0))
    }
    #expect(recorder.wait { $0.frames.count == sent.count })
    #expect(recorder.frames.map(\.body) == sent)
  }

  @Test func pagesGoStraightToTheirPlace() throws {
    final class Pages: FrameHandler {
      let target = IOBuffer(count: 64 * 4096)
      let waiter = FrameWaiter()
      func received(_ header: FrameHeader, from node: NodeID, _ body: any FrameBody) {
        let start = Int(header.argument)
        // In two pieces, and what is left over is passed over.
        let half = (body.remaining - 7) / 2
        let first = body.read(into: target.vector(start..<start + half))
        let second = body.read(into: target.vector(start + half..<start + half * 2))
        if first, second, header.flags.contains(.more) { waiter.finish() }
      }
      func lost(_ node: NodeID) { waiter.finish() }
    }
    let pages = Pages()
    let linked = try LinkedNodes(2) { $0[0].setHandler(pages, for: [.dataM]) }
    defer { linked.shutDown() }
    let source = (0..<64 * 4096).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }
    final class Source: FrameHandler {
      let start = WaitWord()
      func received(_ header: FrameHeader, from node: NodeID, _ body: any FrameBody) {
        start.advance()
      }
      func lost(_ node: NodeID) {}
    }
    let asked = Source()
    linked.nodes[1].setHandler(asked, for: [.getM])
    let waiting = try HostThread(name: "waiting") {
      linked.nodes[0].send(
        FrameHeader(.getM), body: IOVector(), to: NodeID(rawValue: 1), waiting: pages.waiter)
    }
    while asked.start.value == 0 { asked.start.wait(while: 0) }
    for page in 0..<64 {
      let bytes = Array(source[page * 4096..<page * 4096 + 4096]) + [1, 2, 3, 4, 5, 6, 7]
      linked.nodes[1].send(
        FrameHeader(.dataM, flags: page == 63 ? .more : [], argument: UInt64(page * 4096)),
        bytes: bytes, to: node(0))
    }
    waiting.join()
    #expect(pages.target.bytes == source)
  }

  @Test func waiterIsWokenByAnotherStreamThanItReceivesFrom() throws {
    final class Finisher: FrameHandler {
      let waiter = FrameWaiter()
      let seen = Mutex<[NodeID]>([])
      func received(_ header: FrameHeader, from node: NodeID, _ body: any FrameBody) {
        seen.withLock { $0.append(node) }
        if node.rawValue == 2 { waiter.finish() }
      }
      func lost(_ node: NodeID) { waiter.finish() }
    }
    let finisher = Finisher()
    let linked = try LinkedNodes(3) {
      $0[0].setHandler(finisher, for: [.grant])
      $0[1].setHandler(Recorder(), for: [.put])
    }
    defer { linked.shutDown() }
    for round in 1...50 {
      let waiting = try HostThread(name: "waiting") {
        linked.nodes[0].send(
          FrameHeader(.put), body: IOVector(), to: NodeID(rawValue: 1), waiting: finisher.waiter)
      }
      linked.nodes[1].send(FrameHeader(.grant), to: node(0))
      linked.nodes[2].send(FrameHeader(.grant), to: node(0))
      waiting.join()
      #expect(finisher.seen.withLock { $0.filter { $0.rawValue == 2 }.count } == round)
      finisher.waiter.reset()
    }
    // The link's own thread goes on where the waiting one stopped.
    linked.nodes[1].send(FrameHeader(.grant), to: node(0))
    while finisher.seen.withLock({ $0.count }) < 101 { HostClock.sleep(nanoseconds: 1_000_000) }
  }

  @Test func receiversThatAnswerMuchNeverBlockEachOther() throws {
    // Both nodes ask for far more than the sockets hold, and both answer on the threads that receive.
    final class Answerer: FrameHandler {
      let transport: LinkTransport
      let page = IOBuffer(count: 256 << 10)
      let got = CounterTable(count: 1)
      init(_ transport: LinkTransport) { self.transport = transport }
      func received(_ header: FrameHeader, from node: NodeID, _ body: any FrameBody) {
        if header.type == .getS {
          transport.send(FrameHeader(.dataS), body: page.vector, to: node)
        } else {
          got.add(to: 0)
        }
      }
      func lost(_ node: NodeID) {}
    }
    let answerers = Mutex<[Answerer]>([])
    let linked = try LinkedNodes(2) { nodes in
      for transport in nodes {
        let answerer = Answerer(transport)
        transport.setHandler(answerer, for: [.getS, .dataS])
        answerers.withLock { $0.append(answerer) }
      }
    }
    defer { linked.shutDown() }
    for _ in 0..<40 {
      linked.nodes[0].send(FrameHeader(.getS), to: node(1))
      linked.nodes[1].send(FrameHeader(.getS), to: node(0))
    }
    let all = answerers.withLock { $0 }
    let end = HostClock.monotonic + 20_000_000_000
    // The last bytes may be there before who sent them has counted that.
    while all.contains(where: { $0.got[0] < 40 })
      || linked.nodes.contains(where: { $0.counters.queueDepth(.mem) > 0 }),
      HostClock.monotonic < end
    {
      HostClock.sleep(nanoseconds: 1_000_000)
    }
    #expect(all.map { $0.got[0] } == [40, 40])
    #expect(linked.nodes.map { $0.counters.queueDepth(.mem) } == [0, 0])
  }

  @Test func senderWaitsWhileThePeerTakesNothing() throws {
    let (one, other) = try StreamSocket.pair()
    let transport = LinkTransport(node: node(0), nodeCount: 2)
    #expect(try transport.attach(NodeConnection(one), to: node(1), .mem))
    let sent = CounterTable(count: 1)
    let sender = try HostThread(name: "sender") {
      let page = IOBuffer(count: 64 << 10)
      for _ in 0..<200 {
        transport.send(FrameHeader(.dataS), body: page.vector, to: NodeID(rawValue: 1))
        sent.add(to: 0)
      }
    }
    // More than socket and queue hold is never under way.
    HostClock.sleep(nanoseconds: 300_000_000)
    let before = sent[0]
    #expect(before > 0 && before < 100)
    let buffer = IOBuffer(count: 1 << 20)
    var left = 200 * ((64 << 10) + 32)
    while left > 0 {
      let got = other.receive(into: buffer, 0..<buffer.count, waits: true)
      #expect(got > 0)
      if got <= 0 { break }
      left -= got
    }
    sender.join()
    #expect(sent[0] == 200)
    transport.shutDown()
  }

  @Test func requestFailsWhenTheConnectionEnds() throws {
    let (one, other) = try StreamSocket.pair()
    let transport = LinkTransport(node: node(0), nodeCount: 2)
    let recorder = Recorder()
    let reasons = Mutex<[String]>([])
    transport.setHandler(recorder, for: [.interrupt, .getS])
    transport.setLinkObserver { _, end in reasons.withLock { $0.append(end.reason) } }
    #expect(try transport.attach(NodeConnection(one), to: node(1), .ctl))
    let asker = try HostThread(name: "asker") {
      #expect(throws: TransportError.lost(NodeID(rawValue: 1))) {
        try transport.request(FrameHeader(.portRead), to: NodeID(rawValue: 1))
      }
    }
    // The request has come; nobody answers it.
    let asked = IOBuffer(count: FrameHeader.size)
    #expect(other.receive(into: asked, 0..<asked.count, waits: true) == FrameHeader.size)
    other.shutDown()
    asker.join()
    #expect(recorder.wait { $0.lostNodes == [NodeID(rawValue: 1)] })
    #expect(reasons.withLock { $0 } == ["node 1 closed the connection"])
    transport.shutDown()
    #expect(recorder.lostNodes.count == 1)
  }

  @Test func secondConnectionForAStreamIsRefused() throws {
    let transport = LinkTransport(node: node(0), nodeCount: 2)
    let first = try StreamSocket.pair()
    let second = try StreamSocket.pair()
    #expect(try transport.attach(NodeConnection(first.0), to: node(1), .ctl))
    #expect(try !transport.attach(NodeConnection(second.0), to: node(1), .ctl))
    #expect(try !transport.attach(NodeConnection(second.1), to: node(5), .ctl))
    transport.shutDown()
  }

  /// Every frame that is wrong ends the link, is counted, and is answered with an ERROR.
  @Test(arguments: 0..<6) func wrongFrameEndsTheLink(_ kind: Int) throws {
    let (one, other) = try StreamSocket.pair()
    let transport = LinkTransport(node: node(0), nodeCount: 2)
    let recorder = Recorder()
    transport.setHandler(recorder, for: [.interrupt])
    #expect(try transport.attach(NodeConnection(one), to: node(1), .ctl))
    var header = FrameHeader(.interrupt)
    header.source = node(1)
    header.epoch = 1
    _ = other.send(header.encoded(), IOVector())
    #expect(recorder.wait { $0.frames.count == 1 })
    var words = header.encoded()
    switch kind {
    case 0: words[0] ^= 1
    case 1: words[3] ^= 1
    case 2:
      header.length = 0x1_0001
      words = header.encoded()
    case 3:
      header.request = 77
      header.flags = .reply
      words = header.encoded()
    case 4:
      header.type = .doorbell
      words = header.encoded()
    default:
      header.source = node(3)
      words = header.encoded()
    }
    _ = other.send(words, IOVector())
    let answer = IOBuffer(count: 2048)
    var count = 0
    while true {
      let got = other.receive(into: answer, count..<2048, waits: true)
      if got <= 0 { break }
      count += got
    }
    let parsed = try FrameHeader.parse(answer.words(at: 0), from: node(0), on: .ctl)
    guard case .frame(let error) = parsed else {
      Issue.record("no frame")
      return
    }
    #expect(error.type == .error && count == 32 + Int(error.length))
    #expect(recorder.wait { $0.lostNodes == [NodeID(rawValue: 1)] })
    #expect(transport.counters.protocolErrors == 1)
    transport.shutDown()
  }

  @Test func randomBytesEndTheLinkAndNothingElse() throws {
    var random = SystemRandomNumberGenerator()
    for stream in [StreamKind.ctl, .mem, .ctl, .mem] {
      let (one, other) = try StreamSocket.pair()
      let transport = LinkTransport(node: node(0), nodeCount: 2)
      let recorder = Recorder()
      transport.setHandler(recorder, for: FrameType.allCases)
      #expect(try transport.attach(NodeConnection(one), to: node(1), stream))
      let bytes = (0..<4096).map { _ in UInt8.random(in: 0...255, using: &random) }
      _ = other.send(bytes, from: 0)
      #expect(recorder.wait { $0.lostNodes.count == 1 })
      #expect(recorder.frames.isEmpty)
      transport.shutDown()
    }
  }

  @Test(arguments: [0, 1, 31, 32, 40, 4096]) func truncatedStreamIsALoss(_ length: Int) throws {
    let (one, other) = try StreamSocket.pair()
    let transport = LinkTransport(node: node(0), nodeCount: 2)
    let recorder = Recorder()
    transport.setHandler(recorder, for: [.dataS])
    #expect(try transport.attach(NodeConnection(one), to: node(1), .mem))
    var header = FrameHeader(.dataS)
    header.source = node(1)
    header.epoch = 1
    header.length = 4096
    let bytes = FrameHeader.bytes(header.encoded()) + [UInt8](repeating: 9, count: 4096)
    _ = other.send(Array(bytes[..<length]), from: 0)
    other.shutDown()
    #expect(recorder.wait { $0.lostNodes.count == 1 })
    // A header may be handed on before its body; the body then reads as nothing.
    #expect(recorder.frames.allSatisfy { $0.body.isEmpty })
    #expect(recorder.frames.count == (length < 32 ? 0 : 1))
    #expect(transport.counters.protocolErrors == 0)
    transport.shutDown()
  }

  @Test func framesCutAnywhereAreTheSame() throws {
    let (one, other) = try StreamSocket.pair()
    let transport = LinkTransport(node: node(0), nodeCount: 2)
    let recorder = Recorder()
    transport.setHandler(recorder, for: [.dataS])
    #expect(try transport.attach(NodeConnection(one), to: node(1), .mem))
    var stream: [UInt8] = []
    var bodies: [[UInt8]] = []
    for length in [0, 5, 100, 9000, 0, 0, 33] {
      var header = FrameHeader(.dataS)
      header.source = node(1)
      header.epoch = 1
      header.length = UInt32(length)
      let body = (0..<length).map { UInt8(truncatingIfNeeded: $0) }
      bodies.append(body)
      stream += FrameHeader.bytes(header.encoded()) + body
    }
    var position = 0
    var step = 1
    while position < stream.count {
      let end = min(position + step, stream.count)
      _ = other.send(Array(stream[position..<end]), from: 0)
      position = end
      step = step % 97 + 13
    }
    #expect(recorder.wait { $0.frames.count == bodies.count })
    #expect(recorder.frames.map(\.body) == bodies)
    transport.shutDown()
  }
}
