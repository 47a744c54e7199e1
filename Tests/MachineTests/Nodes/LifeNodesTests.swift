import Cluster
import DeviceModel
import DistIRQ
import Guests
import Host
import Machine
import Options
import QAPI
import Testing

/// Run state, reset and time of a guest on several nodes (distributed.md, sections 8 and 9).
@Suite struct LifeNodesTests {
  private static let started = CountingGuest.started
  private static let boots = CountingGuest.boots
  private static let ranOn = FlatGuest.words + 0x204
  private static let progress = CountingGuest.progress

  @Test(arguments: FlatNodes.Layout.three)
  func stopFromAnyNodeStopsAllAndContinueContinues(_ layout: FlatNodes.Layout) async throws {
    try await FlatNodes.run(CountingGuest.make(3), layout) { nodes in
      let machines = await nodes.cluster.machines
      #expect(await CountingGuest.goesOn(nodes, 3))
      for (index, machine) in machines.enumerated() {
        await machine.stop()
        #expect(
          await nodes.become(.paused))
        let before = await CountingGuest.counts(nodes, 3)
        let clock = await machines[0].clock.now
        try? await Task.sleep(nanoseconds: 30_000_000)
        #expect(await CountingGuest.counts(nodes, 3) == before)
        #expect(await machines[0].clock.now == clock)
        try await machines[(index + 1) % machines.count].resume()
        #expect(await CountingGuest.goesOn(nodes, 3))
      }
    }
  }

  /// Stop, continue and reset from all nodes at the same time: in the end all agree, and the guest goes on.
  @Test(arguments: FlatNodes.Layout.three)
  func stopsAndResetsFromDifferentNodesMeet(_ layout: FlatNodes.Layout) async throws {
    try await FlatNodes.run(CountingGuest.make(3), layout) { nodes in
      let machines = await nodes.cluster.machines
      let rounds = 6
      for round in 0..<rounds {
        await withTaskGroup(of: Void.self) { group in
          for (index, machine) in machines.enumerated() {
            group.addTask {
              switch (round + index) % 3 {
              case 0:
                await machine.stop()
                await machine.reset()
              case 1:
                await machine.reset()
                try? await machine.resume()
              default:
                try? await machine.resume()
                await machine.stop()
              }
            }
          }
        }
      }
      let asked = (0..<rounds).reduce(0) { sum, round in
        sum + machines.indices.count { (round + $0) % 3 < 2 }
      }
      // What the others have asked for arrives, and all that is under way ends.
      func resets() async -> Int {
        await nodes.cluster.events[0].count { if case .reset = $0 { true } else { false } }
      }
      #expect(await nodes.cluster.until(seconds: 300) { await resets() == asked })
      #expect(
        await nodes.cluster.until(seconds: 300) {
          try? await machines[1].resume()
          return await nodes.areAll(.running)
        })
      #expect(await CountingGuest.goesOn(nodes, 3))
      #expect(await resets() == asked)
      // Monitors see one thing after the other.
      var isRunning = true
      for event in await nodes.cluster.events[0] {
        switch event {
        case .stop:
          #expect(isRunning)
          isRunning = false
        case .resume: isRunning = true
        default: break
        }
      }
      #expect(isRunning)
    }
  }

  /// The guest resets the machine from each vCPU in each way, and nothing of it runs on behind that.
  @Test(arguments: FlatNodes.Layout.three)
  func guestResetsFromAnyVCPU(_ layout: FlatNodes.Layout) async throws {
    let count = 3
    let ways: [(inout FlatGuest) -> Void] = [
      { $0.out(0xCF9, 6) },
      { $0.out(0x64, 0xFE) },
      { guest in
        // Triple fault: no interrupt table.
        guest.store(Self.boots + 0x20, 0)
        guest.store(Self.boots + 0x24, 0)
        guest.a.emit(0x0F, 0x01, 0x1D)  // lidt
        guest.a.emit32(Self.boots + 0x20)
        guest.a.emit(0xCC)
      },
    ]
    let turns = UInt32(count * ways.count)
    let guest = FlatGuest(
      (0..<count).map { vcpu in
        { guest in
          if vcpu == 0 {
            for other in 1..<count { guest.store(Self.started + UInt32(other) * 4, 0) }
            // First: nobody may take the last turn for the present one.
            guest.increment(Self.boots)
            guest.startOthers(count, started: Self.started)
          } else {
            guest.store(Self.started + UInt32(vcpu) * 4, 1)
          }
          // Whose turn it is, and how; boots count from one. All are there before anybody acts.
          for other in 1..<count { guest.wait(Self.started + UInt32(other) * 4, is: 1) }
          let again = guest.a.freshLabel()
          guest.a.label(again)
          for turn in 0..<turns where Int(turn) % count == vcpu {
            let next = guest.a.freshLabel()
            guest.a.emit(0x81, 0x3D)  // cmp dword [boots], turn + 1
            guest.a.emit32(Self.boots)
            guest.a.emit32(turn + 1)
            guest.a.jump(if: .notEqual, next)
            ways[Int(turn) / count](&guest)
            guest.increment(Self.ranOn)
            guest.a.label(next)
          }
          if vcpu == 0 {
            guest.a.emit(0x81, 0x3D)
            guest.a.emit32(Self.boots)
            guest.a.emit32(turns + 1)
            let early = guest.a.freshLabel()
            guest.a.jump(if: .notEqual, early)
            guest.say("Z")
            guest.halt()
            guest.a.label(early)
          }
          guest.a.emit(0xF3, 0x90)
          guest.a.jump(again)
        }
      })
    try await FlatNodes.run(guest, layout) { nodes in
      await nodes.expect("Z")
      #expect(await nodes.word(Self.boots) == turns + 1)
      #expect(await nodes.word(Self.ranOn) == 0)
      let resets = await nodes.cluster.events[0].count {
        if case .reset(guest: true, reason: .guestReset) = $0 { true } else { false }
      }
      #expect(resets == Int(turns))
    }
  }

  /// Time stamp counters of vCPUs of different nodes that speak to each other never go back, also over a stop, which they do not see.
  @Test(arguments: FlatNodes.Layout.two)
  func timeNeverGoesBackAndStandsWhileStopped(_ layout: FlatNodes.Layout) async throws {
    let ball = Self.boots
    let last = Self.boots + 0x10
    let backwards = Self.boots + 0x20
    let guest = FlatGuest(
      (0..<2).map { vcpu in
        { guest in
          if vcpu == 0 {
            guest.startOthers(2, started: Self.started)
          } else {
            guest.store(Self.started + 4, 1)
          }
          let again = guest.a.freshLabel()
          guest.a.label(again)
          guest.a.emit(0xF3, 0x90)
          guest.load(from: ball)
          guest.a.emit(0x24, 0x01, 0x3C, UInt8(vcpu))  // and al, 1; cmp al, vcpu
          guest.a.jump(if: .notEqual, again)
          // The counter may be read before loads that stand before it, but for a fence.
          guest.a.emit(0x0F, 0xAE, 0xE8)
          guest.a.emit(0x0F, 0x31)  // rdtsc
          guest.a.emit(0x89, 0xC3, 0x89, 0xD1)  // mov ebx, eax; mov ecx, edx
          guest.a.emit(0x2B, 0x05)  // sub eax, [last]
          guest.a.emit32(last)
          guest.a.emit(0x1B, 0x15)  // sbb edx, [last + 4]
          guest.a.emit32(last + 4)
          let forward = guest.a.freshLabel()
          guest.a.jump(if: .notBelow, forward)
          guest.increment(backwards)
          guest.a.label(forward)
          guest.a.emit(0x89, 0x1D)  // mov [last], ebx
          guest.a.emit32(last)
          guest.a.emit(0x89, 0x0D)  // mov [last + 4], ecx
          guest.a.emit32(last + 4)
          guest.increment(ball)
          guest.a.jump(again)
        }
      })
    try await FlatNodes.run(guest, layout) { nodes in
      let machines = await nodes.cluster.machines
      // The guest writes one half after the other, and goes on meanwhile.
      func time() async -> UInt64 {
        while true {
          let high = await nodes.word(last + 4)
          let low = await nodes.word(last)
          if await nodes.word(last + 4) == high { return UInt64(high) << 32 | UInt64(low) }
        }
      }
      func play(_ rounds: UInt32) async {
        let start = await nodes.word(ball)
        #expect(
          await nodes.cluster.until(seconds: 300) { await nodes.word(ball) &- start > rounds })
      }
      await play(500)
      let (begin, wall) = (await time(), HostClock.monotonic)
      try? await Task.sleep(nanoseconds: 500_000_000)
      await play(1000)
      let frequency =
        Double(await time() &- begin) / Double(max(1, HostClock.monotonic - wall)) * 1e9
      for machine in machines {
        // A busy host may let vCPUs stand, too, but no longer than it takes the test from one change to the next.
        let before = HostClock.monotonic
        await play(1)
        await machine.stop()
        #expect(await nodes.become(.paused))
        let (stood, paused) = (await time(), HostClock.monotonic)
        try? await Task.sleep(nanoseconds: 1_500_000_000)
        let resumed = HostClock.monotonic
        try await machine.resume()
        #expect(await nodes.cluster.until(seconds: 300) { await time() != stood })
        let step = Double(await time() &- stood) / frequency
        let ran = Double(HostClock.monotonic - resumed + paused - before) / 1e9
        #expect(step < ran + 0.75, "the guest saw \(step) s where it ran for \(ran) s")
        await play(200)
      }
      #expect(await nodes.word(backwards) == 0)
    }
  }

  /// A device comes between the accesses of other nodes' vCPUs: they see none, or all of it.
  @Test(arguments: [FlatNodes.Layout(placement: [0, 1]), FlatNodes.Layout(placement: [1, 0])])
  func deviceComesBetweenAccesses(_ layout: FlatNodes.Layout) async throws {
    let device: UInt32 = 5
    let guest = FlatGuest(
      (0..<2).map { vcpu in
        { guest in
          if vcpu == 0 {
            guest.startOthers(2, started: Self.started)
            guest.say("A")
          } else {
            guest.store(Self.started + 4, 1)
          }
          if layout.placement[vcpu] == 0 { return }
          let again = guest.a.freshLabel()
          let there = guest.a.freshLabel()
          guest.a.label(again)
          guest.increment(Self.progress)
          guest.configuration(device, 0, width: 4)
          guest.a.emit(0x3D)  // cmp eax, all ones
          guest.a.emit32(0xFFFF_FFFF)
          guest.a.jump(if: .equal, again)
          guest.a.label(there)
          guest.store(to: Self.boots)
          guest.configuration(device, 8, width: 4)
          guest.store(to: Self.boots + 4)
          guest.say("Z")
        }
      })
    try await FlatNodes.run(guest, layout) { nodes in
      await nodes.expect("A")
      let before = await nodes.word(Self.progress)
      #expect(await nodes.cluster.until { await nodes.word(Self.progress) > before + 50 })
      let machine = await nodes.cluster.machines[0]
      try await Self.add("virtio-rng-pci,addr=05.0,id=late", to: machine)
      await nodes.expect("Z")
      #expect(await nodes.word(Self.boots) & 0xFFFF == 0x1AF4)
      #expect(await nodes.word(Self.boots + 4) >> 8 == 0x00FF00)
    }
  }

  @MainLoop
  private static func add(_ text: String, to machine: Machine) throws {
    let plan = try CommandLineParser().parse(["-device", text], programName: "test")
    guard case .run(let configuration) = plan.action else { return }
    try machine.addDevice(try #require(configuration.devices.first))
  }

  /// A node that takes nothing for a while keeps nobody waiting who holds a lock: devices of node 0 raise interrupts for it, and others
  /// use the I/O APIC meanwhile. All of it arrives.
  @Test func interruptsForASlowNodeKeepNobodyWaiting() async throws {
    let guest = FlatGuest(
      (0..<2).map { vcpu in
        { guest in
          if vcpu == 1 {
            guest.store(Self.started + 4, 1)
            guest.a.sti()
            return
          }
          guest.startOthers(2, started: Self.started)
          guest.redirect(20, 0x8041, to: 1)
          let again = guest.a.freshLabel()
          guest.a.label(again)
          guest.store(FlatGuest.ioapic, 0x10)
          guest.load(from: FlatGuest.ioapic + 0x10)
          guest.increment(Self.progress)
          guest.a.jump(again)
        }
      })
    var links = InMemoryNetwork.Behaviour()
    links.capacity = 1024
    try await MachinesOfACluster.run(
      ["-m", "4"], placement: [0, 1], links: links, firmware: guest.firmware
    ) { cluster in
      let nodes = FlatNodes(cluster: cluster)
      try await cluster.machines[0].resume()
      #expect(await cluster.until { await nodes.word(Self.progress) > 100 })
      let fabric = await cluster.machines[0].fabric
      let line = fabric.line(GSI(20))
      cluster.network.cut(0, 1)
      let before = await nodes.word(Self.progress)
      for vector in 0x50..<0xF0 {
        for _ in 0..<10 { fabric.signalMSI(address: 0xFEE0_1000, data: UInt32(vector)) }
        line.raise()
        line.lower()
      }
      #expect(await cluster.until { await nodes.word(Self.progress) > before + 100 })
      cluster.network.join(0, 1)
      for vector in 0x50..<0xF0 {
        #expect(await cluster.until { await nodes.count(1, vector) >= 1 }, "vector \(vector)")
      }
      #expect(await nodes.count(1, 0x41) >= 1)
    }
  }
}
