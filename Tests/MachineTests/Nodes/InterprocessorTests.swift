import DeviceModel
import DistIRQ
import Guests
import Host
import Machine
import Testing

/// Interrupts from vCPU to vCPU of any node, in every mode (distributed.md, section 6; Intel SDM vol. 3A, 11.6).
@Suite struct InterprocessorTests {
  private static let token = FlatGuest.words
  private static let started = FlatGuest.words + 0x100
  private static let mode = FlatGuest.words + 0x200

  /// vCPUs take turns as the sender; those who wait serve interrupts, asleep. `body` is one turn.
  private static func turns(
    _ count: Int, hooks: [UInt8: (inout FlatGuest) -> Void] = [:],
    isX2APIC: Bool = false, _ body: @escaping (inout FlatGuest, Int) -> Void
  ) -> FlatGuest {
    FlatGuest(
      hooks: hooks,
      (0..<count).map { vcpu in
        { guest in
          if vcpu == 0 {
            guest.startOthers(count, started: started)
          } else {
            guest.store(started + UInt32(vcpu) * 4, 1)
          }
          if vcpu > 0 { idle(&guest, until: UInt32(vcpu)) }
          guest.a.sti()
          body(&guest, vcpu)
          // The next one sleeps: vector 0x30 is for that.
          guest.a.cli()
          guest.store(token, UInt32(vcpu + 1))
          if vcpu + 1 == count {
            guest.say("Z")
          } else if isX2APIC {
            guest.a.wrmsr(0x830, UInt64(vcpu + 1) << 32 | 0x4030)
          } else {
            guest.command(0x4030, to: UInt8(vcpu + 1))
          }
          guest.a.sti()
        }
      })
  }

  /// Sleeps, with interrupts, until the token is this one.
  private static func idle(_ guest: inout FlatGuest, until value: UInt32) {
    let again = guest.a.freshLabel()
    let done = guest.a.freshLabel()
    guest.a.label(again)
    guest.a.cli()
    guest.a.emit(0x81, 0x3D)  // cmp dword [token], value
    guest.a.emit32(token)
    guest.a.emit32(value)
    guest.a.jump(if: .equal, done)
    guest.a.sti()
    guest.a.hlt()
    guest.a.jump(again)
    guest.a.label(done)
  }

  private static func all(_ count: Int, _ vector: Int) -> [UInt32] {
    (0..<count).map { FlatGuest.counter($0, vector) }
  }

  @Test(arguments: FlatNodes.Layout.three)
  func everyKindArrivesOnceAndNowhereElse(_ layout: FlatNodes.Layout) async throws {
    let count = 3
    let guest = Self.turns(count) { guest, me in
      let others = (0..<count).filter { $0 != me }
      // Fixed, physical, to each.
      for other in others {
        guest.command(0x4040 + UInt32(me), to: UInt8(other))
        guest.wait(FlatGuest.counter(other, 0x40 + me), is: 1)
      }
      // Shorthands: self, all, all others; broadcast by its number.
      guest.command(0x4_4044 + UInt32(me))
      guest.wait(FlatGuest.counter(me, 0x44 + me), is: 1)
      guest.command(0x8_4048 + UInt32(me))
      guest.wait(sumOf: Self.all(count, 0x48 + me), is: 3)
      guest.command(0xC_404C + UInt32(me))
      guest.wait(sumOf: Self.all(count, 0x4C + me), is: 2)
      guest.command(0x4050 + UInt32(me), to: 0xFF)
      guest.wait(sumOf: Self.all(count, 0x50 + me), is: 3)
      // Logical, flat: the others.
      let mask = others.reduce(0) { $0 | 1 << $1 }
      guest.command(0x4854 + UInt32(me), to: UInt8(mask))
      guest.wait(sumOf: Self.all(count, 0x54 + me), is: 2)
      // Lowest priority: one of all, six times.
      for round in 1...6 {
        guest.command(0x4958 + UInt32(me), to: 7)
        guest.wait(sumOf: Self.all(count, 0x58 + me), is: UInt32(round))
      }
      // Lowest priority to one that is elsewhere.
      for other in others {
        guest.command(0x495C + UInt32(me), to: 1 << UInt8(other))
        guest.wait(FlatGuest.counter(other, 0x5C + me), is: 1)
      }
      // NMI to each.
      for other in others {
        guest.store(Self.mode, 0)
        guest.command(0x4400, to: UInt8(other))
        let before = (0..<me).filter { $0 != other }.count
        guest.wait(FlatGuest.counter(other, 2), is: UInt32(before + 1))
      }
    }
    try await FlatNodes.run(guest, layout) { nodes in
      await nodes.expect("Z")
      var expected: [[Int]] = []
      for vcpu in 0..<count {
        var vectors: [Int: Int] = [2: count - 1]
        if vcpu > 0 { vectors[0x30] = 1 }
        for sender in 0..<count {
          let isMe = sender == vcpu
          vectors[0x40 + sender] = isMe ? 0 : 1
          vectors[0x44 + sender] = isMe ? 1 : 0
          vectors[0x48 + sender] = 1
          vectors[0x4C + sender] = isMe ? 0 : 1
          vectors[0x50 + sender] = 1
          vectors[0x54 + sender] = isMe ? 0 : 1
          vectors[0x5C + sender] = isMe ? 0 : 1
        }
        for (vector, times) in vectors.sorted(by: { $0.key < $1.key }) where times > 0 {
          expected.append([vcpu, vector, times])
        }
      }
      // Who got those of lowest priority is not fixed.
      let seen = await nodes.counts(count)
      #expect(seen.filter { !(0x58..<0x5C).contains($0[1]) } == expected)
      #expect(seen.filter { (0x58..<0x5C).contains($0[1]) }.reduce(0) { $0 + $1[2] } == 18)
    }
  }

  /// Logical destinations in clusters; what a vCPU changes of its identification is known everywhere when the write is done.
  @Test(arguments: FlatNodes.Layout.three)
  func whatAVCPUChangesOfItsAPICIsFollowed(_ layout: FlatNodes.Layout) async throws {
    let count = 3
    let vector = 0x60
    let guest = FlatGuest(
      (0..<count).map { vcpu in
        { guest in
          let go = Self.mode
          let ready = Self.mode + 0x40
          func phase(_ number: UInt32, _ change: (inout FlatGuest) -> Void) {
            // Everybody changes, then vCPU 1 sends.
            if vcpu == 0 { guest.store(go, number) } else { guest.wait(go, isAtLeast: number) }
            change(&guest)
            guest.increment(ready)
            guest.wait(ready, isAtLeast: number * UInt32(count))
          }
          func send(_ low: UInt32, to destination: UInt8, arrives vcpus: [Int], _ vector: Int) {
            if vcpu == 1 {
              guest.command(low | 0x4000 | UInt32(vector), to: destination)
              guest.wait(
                sumOf: (0..<count).map { FlatGuest.counter($0, vector) }, is: UInt32(vcpus.count))
            } else {
              guest.wait(
                sumOf: (0..<count).map { FlatGuest.counter($0, vector) }, is: UInt32(vcpus.count))
            }
          }
          if vcpu == 0 {
            guest.startOthers(count, started: Self.started)
          } else {
            guest.store(Self.started + UInt32(vcpu) * 4, 1)
          }
          guest.a.sti()
          // Clusters: vCPUs 0 and 1 are members 1 and 2 of cluster 3, vCPU 2 is member 1 of cluster 5.
          phase(1) { guest in
            guest.store(FlatGuest.apic + FlatGuest.APICRegister.destinationFormat, 0x0FFF_FFFF)
            let logical: UInt32 = [0x31, 0x32, 0x51][vcpu]
            guest.store(
              FlatGuest.apic + FlatGuest.APICRegister.logicalDestination, logical << 24)
          }
          send(0x800, to: 0x33, arrives: [0, 1], vector)
          send(0x800, to: 0x51, arrives: [2], vector + 1)
          send(0x800, to: 0x31, arrives: [0], vector + 2)
          // Flat again, with each other's bits.
          phase(2) { guest in
            guest.store(FlatGuest.apic + FlatGuest.APICRegister.destinationFormat, 0xFFFF_FFFF)
            guest.store(
              FlatGuest.apic + FlatGuest.APICRegister.logicalDestination,
              0x1000_0000 << UInt32(count - 1 - vcpu))
          }
          send(0x800, to: 0x10, arrives: [2], vector + 3)
          send(0x900, to: 0x40, arrives: [0], vector + 4)
          // New physical identifications.
          phase(3) { guest in
            guest.store(
              FlatGuest.apic + FlatGuest.APICRegister.id, UInt32(0x20 + vcpu) << 24)
          }
          send(0, to: 0x22, arrives: [2], vector + 5)
          send(0, to: 0x20, arrives: [0], vector + 6)
          // Switched off by software: no candidate for lowest priority, and takes nothing.
          phase(4) { guest in
            if vcpu == 2 {
              guest.store(FlatGuest.apic + FlatGuest.APICRegister.spurious, 0xFF)
            }
          }
          for round in 0..<4 { send(0x900, to: 0x50, arrives: [0], vector + 8 + round) }
          phase(5) { guest in
            if vcpu == 2 {
              guest.store(FlatGuest.apic + FlatGuest.APICRegister.spurious, 0x1FF)
            }
          }
          send(0, to: 0x22, arrives: [2], vector + 12)
          // Task priority holds interrupts back on any node, and lets them through later.
          phase(6) { guest in
            if vcpu == 2 {
              guest.store(FlatGuest.apic + FlatGuest.APICRegister.taskPriority, 0x80)
            }
          }
          if vcpu == 1 {
            guest.command(0x4000 | UInt32(vector + 13), to: 0x22)
            // Of a higher class: comes at once, so the other one has come and waits.
            guest.command(0x4000 | 0x90, to: 0x22)
            guest.wait(FlatGuest.counter(2, 0x90), is: 1)
          }
          phase(7) { _ in }
          if vcpu == 2 {
            guest.load(from: FlatGuest.counter(2, vector + 13))
            guest.store(to: Self.mode + 0x80)
            guest.store(FlatGuest.apic + FlatGuest.APICRegister.taskPriority, 0)
            guest.wait(FlatGuest.counter(2, vector + 13), is: 1)
            guest.say("Z")
          }
        }
      })
    try await FlatNodes.run(guest, layout) { nodes in
      await nodes.expect("Z")
      #expect(await nodes.word(Self.mode + 0x80) == 0, "held back by task priority")
      let expected: [[Int]] =
        [0x60, 0x62, 0x64, 0x66, 0x68, 0x69, 0x6A, 0x6B].map { [0, $0, 1] } + [[1, 0x60, 1]]
        + [0x61, 0x63, 0x65, 0x6C, 0x6D, 0x90].map { [2, $0, 1] }
      #expect(await nodes.counts(count) == expected)
    }
  }

  /// x2APIC mode: 32-bit destinations, logical ones by cluster, self IPI.
  @Test(arguments: FlatNodes.Layout.three)
  func x2APICDestinations(_ layout: FlatNodes.Layout) async throws {
    let count = 3
    let hook: (inout FlatGuest) -> Void = { guest in
      guest.a.rdmsr(0x1B)
      guest.a.emit(0x80, 0xCC, 0x0C)  // or ah, 0x0C: enabled, x2APIC
      guest.a.emit(0x0F, 0x30)
      guest.increment(Self.mode)
    }
    let guest = Self.turns(count, hooks: [0x31: hook], isX2APIC: true) { guest, me in
      // Everybody changes the mode first, when the first one says so: itself last.
      if me == 0 {
        for other in (0..<count).reversed() { guest.command(0x4031, to: UInt8(other)) }
        guest.wait(Self.mode, is: UInt32(count))
      }
      func command(_ low: UInt32, to destination: UInt32 = 0) {
        guest.a.wrmsr(0x830, UInt64(destination) << 32 | UInt64(low))
      }
      func all(_ vector: Int, is value: UInt32) {
        guest.wait(sumOf: Self.all(count, vector), is: value)
      }
      for other in 0..<count where other != me {
        command(0x4040 + UInt32(me), to: UInt32(other))
        guest.wait(FlatGuest.counter(other, 0x40 + me), is: 1)
      }
      guest.a.wrmsr(0x83F, UInt64(0x44 + me))
      guest.wait(FlatGuest.counter(me, 0x44 + me), is: 1)
      command(0x4048 + UInt32(me), to: 0xFFFF_FFFF)
      all(0x48 + me, is: 3)
      // Logical: cluster 0, members 0 and 2.
      command(0x484C + UInt32(me), to: 5)
      all(0x4C + me, is: 2)
      command(0xC_4050 + UInt32(me))
      all(0x50 + me, is: 2)
      for round in 1...4 {
        command(0x4954 + UInt32(me), to: 7)
        all(0x54 + me, is: UInt32(round))
      }
    }
    try await FlatNodes.run(guest, layout) { nodes in
      await nodes.expect("Z")
      let seen = await nodes.counts(count)
      var expected: [[Int]] = []
      for vcpu in 0..<count {
        if vcpu > 0 { expected.append([vcpu, 0x30, 1]) }
        expected.append([vcpu, 0x31, 1])
        expected += (0..<count).filter { $0 != vcpu }.map { [vcpu, 0x40 + $0, 1] }
        expected.append([vcpu, 0x44 + vcpu, 1])
        expected += (0..<count).map { [vcpu, 0x48 + $0, 1] }
        if vcpu != 1 { expected += (0..<count).map { [vcpu, 0x4C + $0, 1] } }
        expected += (0..<count).filter { $0 != vcpu }.map { [vcpu, 0x50 + $0, 1] }
      }
      #expect(seen.filter { $0[1] < 0x54 } == expected)
      #expect(seen.filter { $0[1] >= 0x54 }.reduce(0) { $0 + $1[2] } == 12)
    }
  }

  /// INIT and start-up again and again, of vCPUs of other nodes; INIT has happened when the sender goes on, so that another processor may
  /// send what follows.
  @Test(arguments: FlatNodes.Layout.three)
  func processorsAreStartedAgainAndAgain(_ layout: FlatNodes.Layout) async throws {
    let rounds: UInt32 = 25
    let starts = Self.mode
    let asked = Self.mode + 0x40
    let guest = FlatGuest([
      { guest in
        // Starts vCPU 1 once, and sends the start-up to vCPU 2 whenever vCPU 1 has sent the INIT.
        guest.command(0x4500, to: 1)
        guest.command(0x4600 | UInt32(FlatGuest.startPage), to: 1)
        for round in 1...rounds {
          guest.wait(asked, is: round)
          guest.command(0x4600 | UInt32(FlatGuest.startPage), to: 2)
        }
        guest.wait(Self.started, is: 1)
        guest.say("Z")
      },
      { guest in
        for round in 1...rounds {
          guest.command(0x4500, to: 2)
          guest.store(asked, round)
          guest.wait(starts, is: round)
        }
        // A start-up without INIT is nothing to one that runs.
        guest.command(0x4600 | UInt32(FlatGuest.startPage), to: 2)
        guest.command(0x4040, to: 2)
        guest.wait(FlatGuest.counter(2, 0x40), is: 1)
        guest.store(Self.started, 1)
      },
      { guest in
        // Half of the times it is caught asleep.
        guest.increment(starts)
        guest.a.sti()
        guest.load(from: starts)
        guest.a.emit(0xA8, 0x01)  // test al, 1
        let awake = guest.a.freshLabel()
        guest.a.jump(if: .equal, awake)
        guest.halt()
        guest.a.label(awake)
        guest.a.jump(awake)
      },
    ])
    try await FlatNodes.run(guest, layout) { nodes in
      await nodes.expect("Z")
      #expect(await nodes.word(starts) == rounds)
      #expect(await nodes.counts(3) == [[2, 0x40, 1]])
    }
  }
}
