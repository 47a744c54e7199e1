import DeviceModel
import DistIRQ
import Guests
import Host
import Machine
import Testing

/// Interrupts of devices on node 0 to vCPUs of any node, and what comes back (distributed.md, sections 4 and 6).
@Suite struct RemoteInterruptTests {
  private static let started = FlatGuest.words + 0x100
  private static let phase = FlatGuest.words + 0x200
  private static let left = FlatGuest.words + 0x300
  private static let bytes: UInt32 = 40
  private static let serial: UInt16 = 0x3F8

  /// The serial port's line is up while its transmitter is empty and nobody has asked why it interrupts: lets it go down, and up again as
  /// long as there is something left to send.
  private static func sendNext(_ guest: inout FlatGuest) {
    guest.input(serial + 2)
    let done = guest.a.freshLabel()
    guest.a.emit(0x83, 0x3D)  // cmp dword [left], 0
    guest.a.emit32(left)
    guest.a.emit(0)
    guest.a.jump(if: .equal, done)
    guest.a.emit(0xFF, 0x0D)  // dec dword [left]
    guest.a.emit32(left)
    guest.out(serial, 0x55)
    guest.a.label(done)
  }

  private static func beginSending(_ guest: inout FlatGuest) {
    guest.store(left, bytes)
    guest.out(serial + 4, 0x08)
    guest.out(serial + 1, 0x02)
  }
  private static func endSending(_ guest: inout FlatGuest) { guest.out(serial + 1, 0) }

  /// A level-triggered interrupt is sent again when its line is still up, or up again, at its end, wherever that was: none is lost, none is
  /// too many.
  @Test(arguments: FlatNodes.Layout.three)
  func levelsAreAssertedAgainAfterTheirEnd(_ layout: FlatNodes.Layout) async throws {
    let count = 3
    // 0x50: does not let the line go down before it has come ten times.
    let guest = FlatGuest(
      hooks: [
        0x40: { Self.sendNext(&$0) },
        0x50: { guest in
          let early = guest.a.freshLabel()
          guest.a.emit(0xFF, 0x05)  // inc dword [phase + 4]
          guest.a.emit32(Self.phase + 4)
          guest.a.emit(0x83, 0x3D)  // cmp dword [phase + 4], 10
          guest.a.emit32(Self.phase + 4)
          guest.a.emit(10)
          guest.a.jump(if: .below, early)
          guest.input(Self.serial + 2)
          guest.a.label(early)
        },
      ],
      (0..<count).map { vcpu in
        { guest in
          if vcpu > 0 {
            guest.a.sti()
            guest.store(Self.started + UInt32(vcpu) * 4, 1)
            return
          }
          guest.startOthers(count, started: Self.started)
          guest.a.sti()
          for target in 0..<count {
            guest.redirect(4, 0x8040, to: UInt8(target))
            Self.beginSending(&guest)
            guest.wait(FlatGuest.counter(target, 0x40), is: Self.bytes + 1)
            Self.endSending(&guest)
            guest.store(Self.phase + 4, 0)
            guest.redirect(4, 0x8050, to: UInt8(target))
            guest.out(Self.serial + 1, 0x02)
            guest.wait(Self.phase + 4, is: 10)
            Self.endSending(&guest)
            guest.redirect(4, 0x1_8050, to: 0)
          }
          // Logical and lowest priority: one of all takes each.
          guest.redirect(4, 0x8940, to: 7)
          Self.beginSending(&guest)
          guest.wait(
            sumOf: (0..<count).map { FlatGuest.counter($0, 0x40) },
            is: UInt32(count + 1) * (Self.bytes + 1))
          Self.endSending(&guest)
          // An edge for each.
          guest.redirect(4, 0x0040, to: UInt8(count - 1))
          guest.store(FlatGuest.counter(count - 1, 0x40), 0)
          Self.beginSending(&guest)
          guest.wait(FlatGuest.counter(count - 1, 0x40), is: Self.bytes + 1)
          Self.endSending(&guest)
          guest.say("Z")
        }
      })
    try await FlatNodes.run(guest, layout, ["-serial", "null"]) { nodes in
      await nodes.expect("Z")
      let counts = await nodes.counts(count)
      #expect(await nodes.word(Self.left) == 0, "\(counts)")
      for target in 0..<count { #expect(await nodes.count(target, 0x50) == 10) }
      let all = await nodes.counts(count)
      #expect(all.allSatisfy { $0[1] == 0x40 || $0[1] == 0x50 }, "\(all)")
      #expect(await nodes.cluster.machines[0].fabric.ioapicState.model.remoteIRR == [])
    }
  }

  /// The 8259 pair asks the boot processor on its pin, and another by a message of the I/O APIC: both get the vector from the pair.
  @Test(arguments: FlatNodes.Layout.three)
  func vectorsOfThePICAreAskedOfNodeZero(_ layout: FlatNodes.Layout) async throws {
    let count = 3
    let guest = FlatGuest(
      hooks: [
        0x24: { guest in
          Self.sendNext(&guest)
          guest.out(0x20, 0x20)
          // Before this the pair holds back what would come next, and a message for another vCPU would ask in vain.
          guest.increment(Self.phase)
        }
      ],
      (0..<count).map { vcpu in
        { guest in
          if vcpu > 0 {
            guest.a.sti()
            guest.store(Self.started + UInt32(vcpu) * 4, 1)
            return
          }
          guest.startOthers(count, started: Self.started)
          for (port, value) in [
            (0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01), (0x21, 0xEF), (0xA0, 0x11),
            (0xA1, 0x28), (0xA1, 0x02), (0xA1, 0x01), (0xA1, 0xFF),
          ] as [(UInt16, UInt32)] { guest.out(port, value) }
          guest.store(FlatGuest.apic + FlatGuest.APICRegister.lint0, 0x700)
          // Withdrawn before it is taken: nothing comes.
          guest.out(Self.serial + 4, 0x08)
          guest.out(Self.serial + 1, 0x02)
          guest.input(Self.serial + 2)
          guest.out(Self.serial + 1, 0)
          guest.a.sti()
          Self.beginSending(&guest)
          guest.wait(Self.phase, is: Self.bytes + 1)
          Self.endSending(&guest)
          // The pin is masked, and the I/O APIC sends ExtINT messages to each of the others.
          guest.store(FlatGuest.apic + FlatGuest.APICRegister.lint0, 0x1_0700)
          for target in 1..<count {
            guest.redirect(4, 0x0700, to: UInt8(target))
            Self.beginSending(&guest)
            guest.wait(Self.phase, is: UInt32(target + 1) * (Self.bytes + 1))
            Self.endSending(&guest)
          }
          guest.say("Z")
        }
      })
    try await FlatNodes.run(guest, layout, ["-serial", "null"]) { nodes in
      await nodes.expect("Z")
      let expected = (0..<count).map { [$0, 0x24, Int(Self.bytes) + 1] }
      let seen = await nodes.counts(count)
      // The pair may say "IR7" when what it asked for is gone.
      #expect(seen.filter { $0[1] != 0x27 } == expected, "\(seen)")
    }
  }

  /// Messages of devices, in each mode, and the NMI wire, from any node's monitor.
  @Test(arguments: FlatNodes.Layout.three)
  func messagesOfDevicesAndTheNMIWireReachAll(_ layout: FlatNodes.Layout) async throws {
    let count = 3
    let guest = FlatGuest(
      (0..<count).map { vcpu in
        { guest in
          guest.store(FlatGuest.apic + FlatGuest.APICRegister.lint1, 0x400)
          if vcpu > 0 {
            guest.store(Self.started + UInt32(vcpu) * 4, 1)
          } else {
            guest.startOthers(count, started: Self.started)
            guest.say("A")
          }
          guest.a.sti()
        }
      })
    try await FlatNodes.run(guest, layout) { nodes in
      await nodes.expect("A")
      let machines = await nodes.cluster.machines
      let fabric = await machines[0].fabric
      for target in 0..<count {
        for vector in 0x40..<0x48 {
          fabric.signalMSI(
            address: 0xFEE0_0000 | UInt64(target) << 12, data: UInt32(vector))
          await nodes.expect(FlatGuest.counter(target, vector), is: 1)
        }
        // Logical to all but one, level-triggered.
        fabric.signalMSI(
          address: 0xFEE0_0004 | UInt64(7 & ~(1 << target)) << 12, data: 0xC050)
        for other in 0..<count where other != target {
          await nodes.expect(
            FlatGuest.counter(other, 0x50), is: UInt32(target + (other < target ? 0 : 1)))
        }
        fabric.signalMSI(address: 0xFEE0_0000 | UInt64(target) << 12, data: 0x400)
        await nodes.expect(FlatGuest.counter(target, 2), is: 1)
      }
      // To one of all.
      for round in 1...6 {
        fabric.signalMSI(address: 0xFEE0_700C, data: 0x160)
        #expect(
          await nodes.cluster.until {
            var sum: UInt32 = 0
            for vcpu in 0..<count { sum += await nodes.count(vcpu, 0x60) }
            return sum == UInt32(round)
          })
      }
      for (index, machine) in machines.enumerated() {
        await machine.injectNMI()
        for vcpu in 0..<count {
          await nodes.expect(FlatGuest.counter(vcpu, 2), is: UInt32(2 + index))
        }
      }
    }
  }
}
