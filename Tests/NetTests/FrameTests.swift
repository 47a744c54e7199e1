import Host
import Net
import Support
import Testing

/// What a cable does with frames: checksums, cutting, joining, waiting.
@Suite struct FrameTests {
  init() { MainLoopThread.start() }

  @MainLoop @Test func aPartialChecksumIsCompletedForAPeerThatWantsIt() {
    let (sender, peer) = (Listener("a"), Listener("b"))
    sender.port.connect(to: peer.port)
    var bytes = Sample.tcp(payload: Sample.payload(501))
    let whole = bytes
    var offload = Sample.large(&bytes, size: 1460)
    offload.segmentation = .none
    sender.port.send(Frame(bytes, offload))
    #expect(peer.frames == [whole])
    #expect(peer.offloads.first?.needsChecksum == false)
  }

  @MainLoop @Test func aPeerThatTakesPartialChecksumsGetsThem() {
    let (sender, peer) = (Listener("a"), Listener("b", accepts: [.checksum]))
    sender.port.connect(to: peer.port)
    var bytes = Sample.tcp(payload: Sample.payload(500))
    var offload = Sample.large(&bytes, size: 1460)
    offload.segmentation = .none
    sender.port.send(Frame(bytes, offload))
    #expect(peer.frames == [bytes])
    #expect(peer.offloads == [offload])
  }

  @MainLoop @Test(arguments: [1, 1459, 1460, 1461, 14_601, 65_000])
  func largeFramesAreCutIntoSegmentsWithRightChecksums(_ count: Int) {
    let (sender, peer) = (Listener("a"), Listener("b"))
    sender.port.connect(to: peer.port)
    var bytes = Sample.tcp(flags: 0x99, payload: Sample.payload(count))
    let offload = Sample.large(&bytes, size: 1460)
    sender.port.send(Frame(bytes, offload))
    #expect(peer.frames.count == (count + 1459) / 1460)
    var payload: [UInt8] = []
    for (index, frame) in peer.frames.enumerated() {
      #expect(Sample.isIntact(frame))
      let sequence =
        Int(frame[38]) << 24 | Int(frame[39]) << 16 | Int(frame[40]) << 8 | Int(frame[41])
      #expect(sequence == 1000 + payload.count)
      let isLast = index == peer.frames.count - 1
      // CWR only with the first, FIN and PSH only with the last.
      #expect(frame[47] == 0x10 | (index == 0 ? 0x80 : 0) | (isLast ? 0x09 : 0))
      payload += frame[54...]
    }
    #expect(payload == Sample.payload(count))
  }

  @MainLoop @Test func largeDatagramsBecomeFragments() {
    let (sender, peer) = (Listener("a"), Listener("b"))
    sender.port.connect(to: peer.port)
    let bytes = Sample.udp(payload: Sample.payload(4000))
    var offload = Offload()
    offload.needsChecksum = true
    offload.segmentation = .udp
    offload.segmentSize = 1480
    offload.checksumStart = 34
    offload.checksumOffset = 6
    sender.port.send(Frame(bytes, offload))
    #expect(peer.frames.count == 3)
    var body: [UInt8] = []
    for (index, frame) in peer.frames.enumerated() {
      let place = (Int(frame[20]) << 8 | Int(frame[21])) & 0x1FFF
      #expect(place * 8 == body.count)
      #expect((frame[20] & 0x20 != 0) == (index < 2))
      #expect(Sample.sum(frame[14..<34]) == 0xFFFF)
      body += frame[34...]
    }
    #expect(body == Array(bytes[34...]))
  }

  @MainLoop @Test func segmentsOfOneConnectionAreJoinedForAPeerThatTakesLargeFrames() {
    let peer = Listener("b", accepts: .all)
    let sender = Listener("a")
    sender.port.joinsSegments = true
    sender.port.connect(to: peer.port)
    let payload = Sample.payload(1460 * 4 + 300)
    for start in stride(from: 0, to: payload.count, by: 1460) {
      let part = Array(payload[start..<min(start + 1460, payload.count)])
      sender.port.send(Frame(Sample.tcp(sequence: 1000 + start, payload: part)))
    }
    sender.port.endBurst()
    #expect(peer.frames.count == 1)
    #expect(peer.offloads.first?.segmentation == .tcp4)
    #expect(peer.offloads.first?.segmentSize == 1460)
    #expect(peer.frames.first.map { Array($0[54...]) } == payload)
    // And it can be cut again.
    let last = Listener("c")
    let middle = Listener("d")
    middle.port.connect(to: last.port)
    if let bytes = peer.frames.first, let offload = peer.offloads.first {
      middle.port.send(Frame(bytes, offload))
    }
    #expect(last.frames.count == 5)
    #expect(last.frames.allSatisfy(Sample.isIntact))
  }

  @MainLoop @Test func whatDoesNotBelongTogetherIsNotJoinedAndKeepsItsOrder() {
    let peer = Listener("b", accepts: .all)
    let sender = Listener("a")
    sender.port.joinsSegments = true
    sender.port.connect(to: peer.port)
    let payload = Sample.payload(100)
    var broken = Sample.tcp(sequence: 1400, payload: payload)
    broken[60] ^= 1
    let frames = [
      Sample.tcp(sequence: 1000, payload: payload), Sample.tcp(sequence: 1200, payload: payload),
      Sample.tcp(sequence: 1300, payload: payload, port: 81),
      Sample.tcp(sequence: 1400, flags: 0x11, payload: payload), broken,
      Sample.udp(payload: payload), Sample.tcp(sequence: 1500, flags: 0x10, payload: []),
    ]
    for frame in frames { sender.port.send(Frame(frame)) }
    sender.port.endBurst()
    #expect(peer.frames == frames)
    #expect(peer.offloads.allSatisfy { $0.segmentation == .none })
  }

  @MainLoop @Test func aSlowPeerMakesTheSenderWaitAndNothingIsLost() {
    let (sender, peer) = (Listener("a"), Listener("b"))
    sender.port.connect(to: peer.port)
    peer.hasRoom = false
    let frames = (0..<20).map { Sample.udp(payload: [UInt8]($0...$0)) }
    #expect(!sender.port.send(Frame(frames[0])))
    for frame in frames.dropFirst() { sender.port.send(Frame(frame)) }
    #expect(peer.frames.isEmpty && sender.resumed == 0)
    peer.hasRoom = true
    peer.port.becomesReady()
    #expect(peer.frames == frames)
    #expect(sender.resumed == 1)
    #expect(sender.port.send(Frame(frames[0])))
    #expect(sender.port.dropped == 0)
  }

  @MainLoop @Test func aSenderThatCannotWaitLosesFramesAndTheyAreCounted() {
    let (sender, peer) = (Listener("a"), Listener("b"))
    sender.port.connect(to: peer.port)
    peer.hasRoom = false
    let frame = Frame([UInt8](repeating: 1, count: 60_000))
    for _ in 0..<100 { sender.port.send(frame) }
    peer.hasRoom = true
    peer.port.becomesReady()
    #expect(sender.port.dropped > 0)
    #expect(UInt64(peer.frames.count) + sender.port.dropped == 100)
  }

  @MainLoop @Test func nothingPassesALinkThatIsDown() throws {
    let network = Network()
    let (sender, peer) = (Listener("a"), Listener("b"))
    sender.port.connect(to: peer.port)
    peer.port.isLinkUp = false
    sender.port.send(Frame(Sample.udp(payload: [1])))
    #expect(peer.frames.isEmpty && sender.port.dropped == 1)
    #expect(throws: NetError("Device 'x' not found", isNotFound: true)) {
      try network.setLink("x", up: true)
    }
  }

  /// Whatever a guest writes into headers and frames: no trap, and no bytes but its own.
  @MainLoop @Test func hostileHeadersAndFramesAreHarmless() {
    var generator = SystemRandomNumberGenerator()
    let peer = Listener("b")
    let taker = Listener("c", accepts: .all)
    let sender = Listener("a")
    let joiner = Listener("d")
    joiner.port.joinsSegments = true
    sender.port.connect(to: peer.port)
    joiner.port.connect(to: taker.port)
    for round in 0..<3000 {
      var bytes = Sample.tcp(payload: Sample.payload(Int.random(in: 0..<3000, using: &generator)))
      for _ in 0..<Int.random(in: 0..<6, using: &generator) {
        bytes[Int.random(in: 0..<min(60, bytes.count), using: &generator)] = UInt8.random(
          in: 0...255, using: &generator)
      }
      bytes = Array(bytes.prefix(Int.random(in: 0...bytes.count, using: &generator)))
      let header = IOBuffer(count: 12)
      for at in 0..<12 {
        header.storeLittleEndian(UInt8.random(in: 0...255, using: &generator), at: at)
      }
      header.storeLittleEndian(UInt8(round % 5), at: 1)
      if round % 2 == 0 { header.storeLittleEndian(UInt8(1), at: 0) }
      guard let offload = Offload(from: header, at: 0) else { continue }
      sender.port.send(Frame(bytes, offload))
      joiner.port.send(Frame(bytes))
      joiner.port.send(Frame(bytes, offload))
      peer.frames = []
      taker.frames = []
    }
    joiner.port.endBurst()
  }
}
