import Cluster
import DeviceModel
import Host
import Machine
import QAPI
import Synchronization
import Testing

/// What no node may send another (distributed.md, sections 2 and 10): whoever sends it is named to the membership, which expels it; a seat
/// without a membership stands at once. Either way nobody computes on, and no node ends.
@Suite struct ViolationNodesTests {
  /// A frame from node `from` to the other of two; vCPU n is on node n.
  struct Violation: Sendable, CustomTestStringConvertible {
    var testDescription: String
    var from: Int
    var type: FrameType
    var argument: UInt64 = 0
    var body: [UInt8] = []
    /// What is said of it.
    var reason: String
  }

  private static func signal(_ kind: UInt64, number: UInt64 = 0) -> UInt64 { kind | number << 32 }

  static let violations: [Violation] = [
    Violation(
      testDescription: "an interrupt that is none", from: 1, type: .interrupt,
      argument: 0x0000_FF00_0000_0000, reason: "interrupt makes no sense"),
    Violation(
      testDescription: "the route of another's vCPU", from: 1, type: .apicConfiguration,
      argument: 0, reason: "apicConfiguration makes no sense"),
    Violation(
      testDescription: "the route of a vCPU that is none", from: 1, type: .apicConfiguration,
      argument: 77 << 47, reason: "apicConfiguration makes no sense"),
    Violation(
      testDescription: "a wire of the PIC to node 0", from: 1, type: .line, argument: 1,
      reason: "line makes no sense"),
    Violation(
      testDescription: "a map to node 0", from: 1, type: .chipset, argument: 1,
      body: Array(repeating: 0, count: 16), reason: "chipset makes no sense"),
    Violation(
      testDescription: "a signal that is none", from: 1, type: .machineRequest, argument: 0xFF,
      reason: "machineRequest makes no sense"),
    Violation(
      testDescription: "an order to node 0", from: 1, type: .machineRequest,
      argument: signal(20), reason: "the signal pause makes no sense"),
    Violation(
      testDescription: "a triple fault of another's vCPU", from: 1, type: .machineRequest,
      argument: signal(9, number: 0), reason: "the signal tripleFault makes no sense"),
    Violation(
      testDescription: "a map that cannot be read", from: 0, type: .chipset, argument: 1,
      body: Array(repeating: 0xFF, count: 47), reason: "it sent a memory map that cannot be read"),
    Violation(
      testDescription: "a map of no memory", from: 0, type: .chipset, argument: 1,
      // Version 1 << 40, A20 open, one slot of a page of block 9.
      body: [0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0] + Array(repeating: 0, count: 8)
        + [0, 16, 0, 0, 0, 0, 0, 0] + Array(repeating: 0, count: 8) + [9, 0, 0, 0, 0, 0, 0, 0],
      reason: "it sent a memory map with a slot that no memory is behind"),
    Violation(
      testDescription: "a device access at a node without devices", from: 0, type: .doorbell,
      body: Array(repeating: 0, count: 8), reason: "doorbell makes no sense"),
    Violation(
      testDescription: "the end of an interrupt at a node without I/O APIC", from: 0,
      type: .endOfInterrupt, argument: 0x41, reason: "endOfInterrupt makes no sense"),
    Violation(
      testDescription: "a wish of node 0", from: 0, type: .machineRequest, argument: signal(2),
      reason: "the signal askStop makes no sense"),
    Violation(
      testDescription: "a reset without a state", from: 0, type: .machineRequest,
      argument: signal(22), body: [1, 2, 3], reason: "the signal reset makes no sense"),
  ]

  private static func send(_ violation: Violation, _ nodes: FlatNodes) async {
    let network = nodes.cluster.network
    network[violation.from].send(
      FrameHeader(violation.type, argument: violation.argument), bytes: violation.body,
      to: NodeID(rawValue: UInt8(1 - violation.from)))
  }

  /// With a membership, as the program has it: it is told who and why, and expels.
  @Test(arguments: violations) func senderIsNamedAndExpelled(_ violation: Violation) async throws {
    try await FlatNodes.run(CountingGuest.make(2), FlatNodes.Layout(placement: [0, 1])) { nodes in
      #expect(await CountingGuest.goesOn(nodes, 2))
      let victim = 1 - violation.from
      let network = nodes.cluster.network
      let seats = await nodes.cluster.seats
      let accused = Mutex<[(node: NodeID, reason: String)]>([])
      for (number, seat) in seats.enumerated() {
        seat.onViolation { [weak seat] node, reason in
          accused.withLock { $0.append((node, "\(number): \(reason)")) }
          network[number].disconnect(node)
          seat?.lost(node, because: reason)
        }
      }
      await Self.send(violation, nodes)
      let isTold = await nodes.cluster.until(seconds: 120) { !accused.withLock { $0.isEmpty } }
      #expect(isTold, "nobody was accused")
      let (node, reason) = try #require(accused.withLock { $0.first })
      #expect(Int(node.rawValue) == violation.from)
      #expect(
        reason.hasPrefix("\(victim): ") && reason.contains(violation.reason), "\(reason)")
      for machine in await nodes.cluster.machines {
        let stands = await nodes.cluster.until(seconds: 120) { await machine.state != .running }
        #expect(stands)
      }
      // And it stays so.
      let before = await CountingGuest.counts(nodes, 2)
      try? await Task.sleep(nanoseconds: 20_000_000)
      #expect(await CountingGuest.counts(nodes, 2) == before)
    }
  }

  /// Without one, the node that has got the frame stands.
  @Test(arguments: violations) func nobodyComputesOn(_ violation: Violation) async throws {
    try await FlatNodes.run(CountingGuest.make(2), FlatNodes.Layout(placement: [0, 1])) { nodes in
      #expect(await CountingGuest.goesOn(nodes, 2))
      let victim = 1 - violation.from
      let machine = await nodes.cluster.machines[victim]
      await Self.send(violation, nodes)
      let stands = await nodes.cluster.until(seconds: 120) { await machine.state != .running }
      #expect(stands)
      let count = CountingGuest.progress + UInt32(victim) * 0x1000
      let before = await nodes.word(count)
      try? await Task.sleep(nanoseconds: 20_000_000)
      #expect(await nodes.word(count) == before)
    }
  }

  /// Whatever a node sends to another's machine, at random or nearly right, the process lives and its main loop goes on.
  @Test(arguments: 0...7) func randomFramesEndNoProcess(_ seed: UInt64) async throws {
    let types: [FrameType] = [
      .portRead, .portWrite, .memoryRead, .memoryWrite, .doorbell, .interrupt, .nmi,
      .endOfInterrupt, .apicConfiguration, .picAcknowledge, .chipset, .line, .machineRequest,
      .machineRequest, .chipset,
    ]
    try await FlatNodes.run(CountingGuest.make(2), FlatNodes.Layout(placement: [0, 1])) { nodes in
      #expect(await CountingGuest.goesOn(nodes, 2))
      // The sender is not expelled, so that more of it comes.
      let seats = await nodes.cluster.seats
      for seat in seats { seat.onViolation { _, _ in } }
      var random = Numbers(state: seed &* 77 &+ 5)
      let from = Int(seed % 2)
      for _ in 0..<500 {
        let type = types[random.below(types.count)]
        var argument = random.next()
        switch random.below(4) {
        case 0: argument = UInt64(random.below(256))
        case 1: argument = UInt64(random.below(40)) | argument << 32
        case 2: argument &= 0x0003_0003_00FF_FFFF
        default: break
        }
        let sizes = [0, 3, 4, 8, 8, 16, 24, 40, 48, 48, 64, 80, 96, 300]
        var body = (0..<sizes[random.below(sizes.count)]).map { _ in
          UInt8(truncatingIfNeeded: random.next())
        }
        if random.below(2) == 0 {
          for index in body.indices where random.below(8) > 0 {
            body[index] = [0, 0, 1, 0x7F, 0x80, 0xFF][random.below(6)]
          }
        }
        // Not `pause` and `exit`: what comes behind them is taken later, or by nobody any more.
        if type == .machineRequest, [20, 23].contains(argument & 0xFF) { continue }
        nodes.cluster.network[from].send(
          FrameHeader(type, argument: argument), bytes: body,
          to: NodeID(rawValue: UInt8(1 - from)))
      }
      // They are through when one that says nothing is, unless they have ended the cluster before.
      let done = Atomic<Bool>(false)
      seats[1 - from].onViolation { _, reason in
        if reason.contains("line") || reason.contains("endOfInterrupt") {
          done.store(true, ordering: .relaxed)
        }
      }
      nodes.cluster.network[from].send(
        FrameHeader(from == 1 ? .line : .endOfInterrupt, argument: 1), bytes: [],
        to: NodeID(rawValue: UInt8(1 - from)))
      _ = await nodes.cluster.until(seconds: 3) { done.load(ordering: .relaxed) }
      // Its main loop answers.
      #expect(await RunState.allCases.contains(nodes.cluster.machines[1 - from].state))
    }
  }

  /// SplitMix64.
  private struct Numbers {
    var state: UInt64
    mutating func next() -> UInt64 {
      state &+= 0x9E37_79B9_7F4A_7C15
      var z = state
      z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
      z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
      return z ^ z >> 31
    }
    mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }
  }

  /// What nodes do send each other accuses nobody.
  @Test func lawfulFramesAccuseNobody() async throws {
    try await FlatNodes.run(CountingGuest.make(2), FlatNodes.Layout(placement: [0, 1])) { nodes in
      #expect(await CountingGuest.goesOn(nodes, 2))
      let accused = Atomic<Int>(0)
      for seat in await nodes.cluster.seats {
        seat.onViolation { _, _ in accused.wrappingAdd(1, ordering: .relaxed) }
      }
      let machines = await nodes.cluster.machines
      for machine in machines {
        await machine.stop()
        #expect(await machine.settle() == nil)
        #expect(await nodes.become(.paused, seconds: 120))
        try await machine.resume()
        #expect(await CountingGuest.goesOn(nodes, 2))
      }
      await machines[1].reset()
      #expect(await machines[1].settle() == nil)
      #expect(await CountingGuest.goesOn(nodes, 2))
      let count = accused.load(ordering: .relaxed)
      #expect(count == 0)
    }
  }
}
