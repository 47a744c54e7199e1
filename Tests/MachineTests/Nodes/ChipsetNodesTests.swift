import Cluster
import DeviceModel
import Guests
import Host
import Machine
import Testing

/// The memory map of node 0 on all nodes (distributed.md, section 4, CHIPSET): in place before the instruction that changed it is over.
@Suite struct ChipsetNodesTests {
  private static let started = FlatGuest.words + 0x100
  private static let turn = FlatGuest.words + 0x200
  private static let seen = FlatGuest.words + 0x300
  /// Shadow RAM for an option ROM, and the register that decodes it (bits 4 and 5 of PAM1... for 0xC4000).
  private static let shadow: UInt32 = 0xC_4000
  private static let shadowRegister: UInt32 = 0x5A

  private static func begin(_ guest: inout FlatGuest, _ vcpu: Int, of count: Int) {
    if vcpu == 0 {
      guest.startOthers(count, started: started)
      guest.store(turn, 1)
    } else {
      guest.store(started + UInt32(vcpu) * 4, 1)
      guest.wait(turn, is: 1)
    }
  }

  /// Adds one to `seen + vcpu` unless the byte at `address` is `value`.
  private static func check(
    _ guest: inout FlatGuest, _ vcpu: Int, _ address: UInt32, is value: UInt8
  ) {
    let right = guest.a.freshLabel()
    guest.a.emit(0x80, 0x3D)  // cmp byte [address], value
    guest.a.emit32(address)
    guest.a.emit(value)
    guest.a.jump(if: .equal, right)
    guest.increment(seen + UInt32(vcpu) * 4)
    guest.a.label(right)
  }

  /// In turns, each vCPU opens and closes shadow RAM, and all see the same.
  @Test(arguments: FlatNodes.Layout.three)
  func shadowRAMIsTheSameForAllBeforeTheWriteIsOver(_ layout: FlatNodes.Layout) async throws {
    let count = 3
    let rounds = 4
    let guest = FlatGuest(
      (0..<count).map { vcpu in
        { guest in
          Self.begin(&guest, vcpu, of: count)
          var step: UInt32 = 1
          func together() {
            step += 1
            guest.increment(Self.seen + 0x40)
            guest.wait(Self.seen + 0x40, isAtLeast: (step - 1) * UInt32(count))
          }
          for round in 0..<rounds {
            for writer in 0..<count {
              let value = UInt8(0x10 + round * count + writer)
              let isMine = writer == vcpu
              // Open for both: what is written is read.
              if isMine {
                guest.configure(0, Self.shadowRegister, 0x30, width: 1)
                guest.store8(Self.shadow + 5, value)
              }
              together()
              Self.check(&guest, vcpu, Self.shadow + 5, is: value)
              together()
              // For reading only: writes are lost, on every node.
              if isMine { guest.configure(0, Self.shadowRegister, 0x10, width: 1) }
              together()
              guest.store8(Self.shadow + 5, 0xEE)
              Self.check(&guest, vcpu, Self.shadow + 5, is: value)
              together()
              // Closed: nobody is there.
              if isMine { guest.configure(0, Self.shadowRegister, 0x00, width: 1) }
              together()
              Self.check(&guest, vcpu, Self.shadow + 5, is: 0xFF)
              together()
            }
          }
          // The firmware's end, from the ROM, whoever reads it; writes to it are lost.
          Self.check(&guest, vcpu, 0xF_FFF0, is: 0xEA)
          guest.store8(0xF_FFF0, 0)
          Self.check(&guest, vcpu, 0xFFFF_FFF0, is: 0xEA)
          together()
          if vcpu == 0 { guest.say("Z") }
        }
      })
    try await FlatNodes.run(guest, layout) { nodes in
      await nodes.expect("Z")
      for vcpu in 0..<count {
        #expect(await nodes.word(Self.seen + UInt32(vcpu) * 4) == 0, "vCPU \(vcpu)")
      }
    }
  }

  /// Changes by vCPUs of all nodes at the same time, while others read configuration space: nobody waits for ever.
  @Test(arguments: FlatNodes.Layout.three)
  func changesAtTheSameTimeDoNotWaitForEachOther(_ layout: FlatNodes.Layout) async throws {
    let count = 3
    let rounds: UInt32 = 60
    let guest = FlatGuest(
      (0..<count).map { vcpu in
        { guest in
          Self.begin(&guest, vcpu, of: count)
          // Port 0xCF8 is one for all, so only two of them go there, by way of a lock.
          guest.times(rounds) { guest in
            if vcpu == 2 {
              // A20: closed and open.
              guest.out(0x92, 0)
              guest.out(0x92, 2)
              return
            }
            let again = guest.a.freshLabel()
            guest.a.label(again)
            guest.a.emit(0xF3, 0x90, 0xB8)  // pause; mov eax, 1
            guest.a.emit32(1)
            guest.a.emit(0x87, 0x05)  // xchg [lock], eax
            guest.a.emit32(Self.turn + 0x40)
            guest.a.emit(0x85, 0xC0)  // test eax, eax
            guest.a.jump(if: .notEqual, again)
            guest.configure(0, UInt32(0x5B + vcpu), 0x33, width: 1)
            guest.configure(0, UInt32(0x5B + vcpu), 0x11, width: 1)
            guest.store(Self.turn + 0x40, 0)
          }
          guest.increment(Self.turn + 0x80)
        }
      })
    try await FlatNodes.run(guest, layout) { nodes in
      await nodes.expect(Self.turn + 0x80, is: UInt32(count))
    }
  }

  /// A virtio device that a vCPU of any node sets up and moves: where it was, nobody answers any more, for all. Doorbells come before what
  /// is asked behind them, and a device's data before its interrupt.
  @Test(arguments: FlatNodes.Layout.two)
  func virtioDeviceIsUsedAndMovedFromAnyNode(_ layout: FlatNodes.Layout) async throws {
    let rounds: UInt32 = 10
    let device: UInt32 = 4
    let bars: [UInt32] = [0xE000_0000, 0xE010_0000]
    let vectors: UInt32 = 0xE020_0000
    let ring: UInt32 = 0x20_0000
    let buffer: UInt32 = 0x21_0000
    func setUp(_ guest: inout FlatGuest, at bar: UInt32, for vcpu: Int) {
      guest.configure(device, 0x04, 0, width: 2)
      guest.configure(device, 0x20, bar, width: 4)
      guest.configure(device, 0x24, 0, width: 4)
      guest.configure(device, 0x14, vectors, width: 4)
      guest.configure(device, 0x04, 0x406, width: 2)
      // The first vector.
      guest.store(vectors, FlatGuest.apic | UInt32(vcpu) << 12)
      guest.store(vectors + 4, 0)
      guest.store(vectors + 8, 0x40)
      guest.store(vectors + 12, 0)
      // Virtio: reset, acknowledge, driver, version 1, features, queue 0.
      guest.store8(bar + 0x14, 0)
      for index in 0..<UInt32(4) {
        guest.store(ring + 0x1000 + index * 4, 0)
        guest.store(ring + 0x2000 + index * 4, 0)
      }
      for status in [1, 3] as [UInt8] { guest.store8(bar + 0x14, status) }
      guest.store(bar + 0x08, 1)
      guest.store(bar + 0x0C, 1)
      guest.store8(bar + 0x14, 0x0B)
      guest.store16(bar + 0x16, 0)
      guest.store16(bar + 0x18, 8)
      guest.store16(bar + 0x1A, 0)
      for (offset, address) in [(0x20, ring), (0x28, ring + 0x1000), (0x30, ring + 0x2000)]
        as [(UInt32, UInt32)]
      {
        guest.store(bar + offset, address)
        guest.store(bar + offset + 4, 0)
      }
      guest.store16(bar + 0x1C, 1)
      guest.store8(bar + 0x14, 0x0F)
    }
    /// One request of 64 bytes: a doorbell, and a wait for its interrupt.
    func use(_ guest: inout FlatGuest, at bar: UInt32, _ vcpu: Int) {
      guest.store(FlatGuest.counter(vcpu, 0x40), 0)
      guest.store(ring, buffer)
      guest.store(ring + 4, 0)
      guest.store(ring + 8, 64)
      guest.store(ring + 12, 2)
      guest.times(rounds) { guest in
        for index in 0..<UInt32(16) { guest.store(buffer + index * 4, 0) }
        guest.a.emit(0x66, 0xFF, 0x05)  // inc word [available index]
        guest.a.emit32(ring + 0x1002)
        guest.store16(bar + 0x3000, 0)
        // Interrupts are in the order of requests; data are there with them.
        guest.a.emit(0xB8)  // mov eax, rounds + 1
        guest.a.emit32(rounds + 1)
        guest.a.emit(0x29, 0xF0)  // sub eax, esi
        let again = guest.a.freshLabel()
        guest.a.label(again)
        guest.a.emit(0xF3, 0x90, 0x39, 0x05)  // pause; cmp [counter], eax
        guest.a.emit32(FlatGuest.counter(vcpu, 0x40))
        guest.a.jump(if: .notEqual, again)
        guest.a.emit(0x31, 0xC9)  // xor ecx, ecx
        for index in 0..<UInt32(16) {
          guest.a.emit(0x0B, 0x0D)  // or ecx, [buffer]
          guest.a.emit32(buffer + index * 4)
        }
        let right = guest.a.freshLabel()
        guest.a.emit(0x85, 0xC9)  // test ecx, ecx
        guest.a.jump(if: .notEqual, right)
        guest.increment(Self.seen)
        guest.a.label(right)
      }
    }
    let guest = FlatGuest(
      (0..<2).map { vcpu in
        { guest in
          if vcpu == 0 {
            guest.startOthers(2, started: Self.started)
            // Vectors instead of the pin: its first capability.
            guest.configure(device, 0x42, 0x8000, width: 2)
          } else {
            guest.store(Self.started + 4, 1)
            guest.wait(Self.turn, is: 1)
          }
          guest.a.sti()
          setUp(&guest, at: bars[vcpu], for: vcpu)
          use(&guest, at: bars[vcpu], vcpu)
          if vcpu == 0 {
            guest.store(Self.turn, 1)
            guest.wait(Self.turn, is: 2)
            // It was moved by the other one.
            guest.load(from: bars[0] + 0x14)
            guest.store(to: Self.seen + 4)
            guest.load(from: bars[1] + 0x14)
            guest.store(to: Self.seen + 8)
            guest.say("Z")
          } else {
            guest.load(from: bars[0] + 0x14)
            guest.store(to: Self.seen + 12)
            guest.store(Self.turn, 2)
          }
        }
      })
    try await FlatNodes.run(
      guest, layout,
      [
        "-device", "virtio-rng-pci,addr=04.0,disable-legacy=on",
      ]
    ) { nodes in
      await nodes.expect("Z")
      #expect(await nodes.word(Self.seen) == 0, "data came behind their interrupt")
      #expect(await nodes.word(Self.seen + 4) == 0xFFFF_FFFF)
      #expect(await nodes.word(Self.seen + 12) == 0xFFFF_FFFF)
      #expect(await nodes.word(Self.seen + 8) & 0xFF == 0x0F)
      for vcpu in 0..<2 {
        let count = await nodes.count(vcpu, 0x40)
        let available = await nodes.word(ring + 0x1000) >> 16
        let used = await nodes.word(ring + 0x2000) >> 16
        #expect(count == rounds, "vCPU \(vcpu), available \(available), used \(used)")
      }
      // Those of the vCPU that is not on node 0 were posted.
      let far = layout.placement.firstIndex(of: 1) ?? 1
      let posted = nodes.cluster.network[layout.placement[far]].counters.frames(
        .sent, .doorbell)
      #expect(posted == UInt64(rounds))
    }
  }
}
