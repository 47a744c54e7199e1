import Cluster
import Host
import Support
import Synchronization
import Testing

/// A node whose peer is this test, over sockets: it can send anything.
final class RawPeer {
  let cluster: JoinedCluster
  let machine = NotingMachine()
  let transport: LinkTransport
  private let ctl: StreamSocket
  private let mem: StreamSocket

  /// Node 0, running; the peer is node 1.
  init() throws {
    let (ctl, otherCtl) = try StreamSocket.pair()
    let (mem, otherMem) = try StreamSocket.pair()
    (self.ctl, self.mem) = (otherCtl, otherMem)
    transport = LinkTransport(node: .devices, nodeCount: 2)
    let addresses = (0..<2).map { SocketAddress.abstract(name: "raw\($0)", isTight: true) }
    var configuration = JoinFixture.configuration(0, addresses)
    configuration.leaseMilliseconds = 60_000
    cluster = JoinedCluster(configuration, transport)
    cluster.setDelegate(machine)
    let peer = NodeID(rawValue: 1)
    let isFirst = try transport.attach(NodeConnection(ctl), to: peer, .ctl)
    let isSecond = try transport.attach(NodeConnection(mem), to: peer, .mem)
    #expect(isFirst && isSecond)
    cluster.joined(vcpuOwners: [.devices, peer], instance: 1, offers: [])
    send(header(.ready))
    _ = try cluster.waitForStart()
    #expect(machine.wait("joined"))
  }

  func header(_ type: FrameType, epoch: UInt32 = 1) -> FrameHeader {
    var header = FrameHeader(type)
    header.source = NodeID(rawValue: 1)
    header.epoch = epoch
    header.argument = UInt64(epoch)
    return header
  }

  func send(_ header: FrameHeader) { send(header.encoded(), on: header.type.stream) }

  func send(_ words: SIMD4<UInt64>, on stream: StreamKind = .ctl) {
    _ = (stream == .ctl ? ctl : mem).send(words, IOVector())
  }

  func end() { cluster.leave() }
}

/// No violation goes by in silence: the node that breaks the protocol is lost, and the cluster stands.
@Suite struct ViolationTests {
  enum Violation: String, CaseIterable, CustomTestStringConvertible {
    case magic, version, checksum, reserved, source, length, flags, unknownType, wrongStream,
      replyToNothing, unhandled, incompleteHeartbeat, startOfAnother, commitOfAnother
    var testDescription: String { rawValue }
  }

  @Test(arguments: Violation.allCases) func freezesTheCluster(_ violation: Violation) throws {
    let peer = try RawPeer()
    var header = peer.header(.marker)
    // A word that is changed and has the right checksum, as a peer of another making might send it.
    func changed(_ change: (inout SIMD4<UInt64>) -> Void) -> SIMD4<UInt64> {
      var words = header.encoded()
      change(&words)
      words[2] &= 0xFFFF_FFFF
      words[2] |= UInt64(CRC32C.of(words)) << 32
      return words
    }
    switch violation {
    case .magic: peer.send(changed { $0[0] ^= 0x100 })
    case .version: peer.send(changed { $0[0] ^= 0x7F_0000 })
    case .checksum:
      var words = header.encoded()
      words[3] ^= 1
      peer.send(words)
    case .reserved: peer.send(changed { $0[0] |= 1 << 60 })
    case .source: peer.send(changed { $0[0] ^= 3 << 48 })
    case .length: peer.send(changed { $0[1] |= 0xFFFF_FFFF })
    case .flags: peer.send(changed { $0[0] |= 0x80 << 24 })
    case .unknownType: peer.send(changed { $0[0] |= 0xFFF0 << 32 })
    case .wrongStream: peer.send(header.encoded(), on: .mem)
    case .replyToNothing:
      header.flags = .reply
      header.request = 77
      peer.send(header)
    case .unhandled: peer.send(peer.header(.doorbell))
    case .incompleteHeartbeat: peer.send(peer.header(.heartbeat))
    case .startOfAnother: peer.send(peer.header(.start))
    case .commitOfAnother: peer.send(peer.header(.commit))
    }
    #expect(peer.machine.wait("error 1"))
    #expect(peer.machine.wait("frozen: node 1 is lost"))
    #expect(peer.machine.wait("lost 1 epoch 2"))
    #expect(peer.cluster.status.state == .frozen)
    let notes = peer.machine.all
    #expect(
      (notes.firstIndex { $0.hasPrefix("error") } ?? 99)
        < (notes.firstIndex { $0.hasPrefix("lost") } ?? 0))
    peer.end()
  }

  /// What was sent before a loss that its sender did not know of yet is no violation: it is dropped, and counted.
  @Test func frameOfAnOlderEpochIsDropped() throws {
    let peer = try RawPeer()
    let recorder = Recorder()
    peer.transport.setHandler(recorder, for: [.interrupt, .getS])
    peer.transport.advanceEpoch(to: 3)
    peer.send(peer.header(.interrupt, epoch: 2))
    peer.send(peer.header(.getS, epoch: 1))
    peer.send(peer.header(.interrupt, epoch: 3))
    peer.send(peer.header(.getS, epoch: 3))
    #expect(recorder.wait { $0.frames.count == 2 })
    #expect(recorder.frames.allSatisfy { $0.argument == 3 })
    #expect(peer.transport.counters.oldEpochFrames == 2)
    #expect(peer.cluster.status.state == .running)
    peer.end()
  }

  /// Another module's rules: the same.
  @Test func expelledNodeIsLost() throws {
    let peer = try RawPeer()
    peer.cluster.violation(NodeID(rawValue: 1), "a page that nobody has asked for")
    #expect(peer.machine.wait("error 1: a frame of node 1: a page that nobody has asked for"))
    #expect(peer.machine.wait("lost 1 epoch 2"))
    #expect(peer.cluster.status.state == .frozen)
    peer.end()
  }

  /// Two that lose each other at the same moment: node 0 loses one of them and keeps the other.
  @Test func ofTwoThatLoseEachOtherOneStays() throws {
    for _ in 0..<20 {
      let nodes = try RunningNodes(3)
      let threads = try [1, 2].map { one in
        try HostThread(name: "expel") {
          nodes.clusters[one].expel(NodeID(rawValue: UInt8(3 - one)), "it is not heard")
        }
      }
      for thread in threads { thread.join() }
      #expect(nodes.machines[0].wait("lost"))
      HostClock.sleep(nanoseconds: 10_000_000)
      #expect(nodes.machines[0].all.filter { $0.hasPrefix("lost") }.count == 1)
      nodes.end()
    }
  }
}
