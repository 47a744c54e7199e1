import Cluster
import DeviceModel
import Guests
import Host
import Machine
import QAPI
import Shm
import Testing

/// What a monitor asks of all nodes happens on all or on none (distributed.md, section 9).
@Suite struct TwoPhaseTests {
  private static let started = CountingGuest.started
  private static let boots = CountingGuest.boots
  private static let progress = CountingGuest.progress

  private static func goesOn(_ nodes: FlatNodes) async -> Bool {
    await CountingGuest.goesOn(nodes, 3)
  }

  /// Three vCPUs on three nodes, each counts.
  private static func run(
    isRunning: Bool = true, _ body: @Sendable (FlatNodes, [Machine]) async throws -> Void
  ) async throws {
    try await FlatNodes.run(
      CountingGuest.make(3), FlatNodes.Layout(placement: [0, 1, 2]), isRunning: isRunning
    ) { nodes in
      let machines = await nodes.cluster.machines
      if isRunning { #expect(await goesOn(nodes)) }
      await machines[0].setOperationLimit(seconds: 5)
      try await body(nodes, machines)
    }
  }

  private enum Wish { case stop, go, reset }

  /// Asks, and waits for what comes of it, as monitors do: at once.
  @MainLoop
  private static func ask(_ machine: Machine, _ wish: Wish) async throws -> String? {
    switch wish {
    case .stop: machine.stop()
    case .go: try machine.resume()
    case .reset: machine.reset()
    }
    return await machine.settle()
  }

  private static func stops(_ nodes: FlatNodes) async -> Int {
    await nodes.cluster.events[0].count { if case .stop = $0 { true } else { false } }
  }

  /// Whoever asks, node 0 or another, is told who does not answer, and the guest runs on everywhere.
  @Test(arguments: [0, 1]) func stopThatANodeDoesNotAnswerIsGivenUp(_ asked: Int) async throws {
    try await Self.run { nodes, machines in
      nodes.cluster.network.cut(0, 2)
      let reason = try await Self.ask(machines[asked], .stop)
      // Node 1 waits for what node 2 may have sent it.
      #expect(reason == "node 1, node 2 did not prepare within 5 s")
      #expect(await machines[0].state == .running)
      #expect(await Self.stops(nodes) == 0)
      nodes.cluster.network.join(0, 2)
      #expect(await nodes.become(.running, seconds: 300))
      #expect(await Self.goesOn(nodes))
      // All of them answer now.
      await machines[0].setOperationLimit(seconds: 60)
      let next = try await Self.ask(machines[asked], .stop)
      #expect(next == nil)
      #expect(await nodes.become(.paused, seconds: 300))
      #expect(await Self.stops(nodes) == 1)
      let last = try await Self.ask(machines[2], .go)
      #expect(last == nil)
      #expect(await Self.goesOn(nodes))
    }
  }

  /// vCPUs that wait for a page of the node that does not answer stand all the same, and the main loop waits for none of them.
  @Test(arguments: [0, 1])
  func stopIsGivenUpWhileVCPUsWaitForPagesOfTheNode(_ asked: Int) async throws {
    let guest = FlatGuest(
      (0..<3).map { vcpu in
        { guest in
          if vcpu == 0 {
            guest.startOthers(3, started: Self.started)
          } else {
            guest.store(Self.started + UInt32(vcpu) * 4, 1)
          }
          let again = guest.a.freshLabel()
          guest.a.label(again)
          // All want the same page.
          guest.increment(Self.progress + UInt32(vcpu) * 4)
          guest.a.jump(again)
        }
      })
    let layout = FlatNodes.Layout(placement: [0, 1, 2], memory: .coherent)
    try await FlatNodes.run(guest, layout) { nodes in
      let machines = await nodes.cluster.machines
      func counts() async -> [UInt32] {
        var values: [UInt32] = []
        for vcpu in 0..<3 { values.append(await nodes.word(Self.progress + UInt32(vcpu) * 4)) }
        return values
      }
      func allGoOn() async -> Bool {
        let before = await counts()
        return await nodes.cluster.until(seconds: 300) {
          zip(await counts(), before).allSatisfy { $0 != $1 }
        }
      }
      #expect(await allGoOn())
      await machines[0].setOperationLimit(seconds: 2)
      nodes.cluster.network.cut(0, 2)
      nodes.cluster.network.cut(1, 2)
      // Until the page is on its way to node 2, or wanted of it.
      try? await Task.sleep(nanoseconds: 200_000_000)
      let reason = try await Self.ask(machines[asked], .stop)
      #expect(reason == "node 1, node 2 did not prepare within 2 s")
      nodes.cluster.network.join(0, 2)
      nodes.cluster.network.join(1, 2)
      #expect(await nodes.become(.running, seconds: 300))
      #expect(await allGoOn())
      await machines[0].setOperationLimit(seconds: 60)
      let next = try await Self.ask(machines[asked], .stop)
      #expect(next == nil)
      #expect(await nodes.become(.paused, seconds: 300))
      let before = await counts()
      try? await Task.sleep(nanoseconds: 20_000_000)
      #expect(await counts() == before)
    }
  }

  @Test func resetThatANodeDoesNotAnswerIsGivenUp() async throws {
    try await Self.run { nodes, machines in
      nodes.cluster.network.cut(0, 1)
      async let first = Self.ask(machines[2], .reset)
      async let second = Self.ask(machines[0], .reset)
      // What is asked behind it goes with it, unless it comes later by itself.
      let (reason, behind) = try await (first, second)
      #expect(reason == "node 1, node 2 did not prepare within 5 s" && behind == reason)
      nodes.cluster.network.join(0, 1)
      #expect(await nodes.become(.running, seconds: 300))
      #expect(await Self.goesOn(nodes))
      #expect(await nodes.word(Self.boots) == 1)
      await machines[0].setOperationLimit(seconds: 60)
      let next = try await Self.ask(machines[1], .reset)
      #expect(next == nil)
      await nodes.expect(Self.boots, is: 2)
    }
  }

  @Test func continueThatANodeDoesNotAnswerLeavesAllStanding() async throws {
    try await Self.run { nodes, machines in
      await machines[0].setOperationLimit(seconds: 60)
      _ = try await Self.ask(machines[0], .stop)
      await machines[0].setOperationLimit(seconds: 5)
      nodes.cluster.network.cut(0, 2)
      let reason = try await Self.ask(machines[1], .go)
      #expect(reason == "node 2 did not prepare within 5 s")
      nodes.cluster.network.join(0, 2)
      #expect(await nodes.become(.paused, seconds: 300))
      for machine in machines { #expect(await !machine.clock.isRunning) }
      await machines[0].setOperationLimit(seconds: 60)
      let next = try await Self.ask(machines[1], .go)
      #expect(next == nil)
      #expect(await Self.goesOn(nodes))
    }
  }

  /// The end waits for nobody who does not answer.
  @Test func quitEndsAllTheSame() async throws {
    try await Self.run { nodes, machines in
      nodes.cluster.network.cut(0, 2)
      await machines[1].quit(.hostQmpQuit)
      #expect(
        await nodes.cluster.until(seconds: 300) {
          let statuses = await nodes.cluster.statuses
          return statuses[0] == 0 && statuses[1] == 0
        })
      nodes.cluster.network.join(0, 2)
      #expect(await nodes.cluster.until(seconds: 300) { await nodes.cluster.statuses[2] == 0 })
    }
  }

  /// What the guest itself has brought about has nobody to tell: it waits.
  @Test func guestWaitsForTheNode() async throws {
    let guest = FlatGuest(
      (0..<2).map { vcpu in
        { guest in
          if vcpu == 0 {
            guest.increment(Self.boots)
            guest.store(Self.started + 4, 0)
            guest.startOthers(2, started: Self.started)
            // The second time there is nothing more to do.
            guest.a.emit(0x83, 0x3D)  // cmp dword [boots], 1
            guest.a.emit32(Self.boots)
            guest.a.emit(1)
            let again = guest.a.freshLabel()
            guest.a.jump(if: .notEqual, again)
            guest.wait(Self.progress, is: 1)
            guest.out(0xCF9, 6)
            guest.increment(Self.progress)
            guest.a.label(again)
          } else {
            guest.store(Self.started + 4, 1)
          }
        }
      })
    try await FlatNodes.run(guest, FlatNodes.Layout(placement: [0, 1])) { nodes in
      let machines = await nodes.cluster.machines
      await nodes.expect(Self.started + 4, is: 1)
      await machines[0].setOperationLimit(seconds: 0.1)
      nodes.cluster.network.cut(0, 1)
      await machines[0].memory.store(GuestAddress(UInt64(Self.progress)), UInt32(1))
      try? await Task.sleep(nanoseconds: 700_000_000)
      #expect(await nodes.word(Self.boots) == 1)
      nodes.cluster.network.join(0, 1)
      await nodes.expect(Self.boots, is: 2)
      // Nothing ran on behind the reset.
      #expect(await nodes.word(Self.progress) == 1)
    }
  }
}
