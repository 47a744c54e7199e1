import CPU
import DeviceModel
import DistIRQ
import Support
import Synchronization
import Testing

@Suite struct InterruptFabricTests {
  @Test func lineReachesTheVCPUAndKicksIt() {
    let bench = Bench(2)
    bench.route(pin: 4, 0x34, destination: 1)
    let line = bench.fabric.line(GSI(4))
    line.raise()
    #expect(bench.apic(1).pending.vector == 0x34)
    #expect(bench.kicks.map(\.value) == [0, 1])
    #expect(bench.apic(1).acknowledge() == 0x34)
    #expect(bench.apic(1).pending.isEmpty)
    #expect(bench.apic(1).acknowledge() == nil)
  }

  @Test func interruptZeroArrivesAtPinTwo() {
    let bench = Bench(1)
    bench.route(pin: 0, 0x40)
    bench.route(pin: 2, 0x42)
    bench.fabric.line(GSI(0)).pulse()
    #expect(bench.pending(0x42) == [0] && bench.pending(0x40) == [])
  }

  @Test func levelsOfSeveralSourcesAreORed() {
    let bench = Bench(1)
    bench.route(pin: 11, 0x8050)
    let first = bench.fabric.line(GSI(11))
    let second = bench.fabric.line(GSI(11))
    first.raise()
    first.raise()
    second.raise()
    first.lower()
    let apic = bench.apic(0)
    #expect(apic.acknowledge() == 0x50)
    apic.write(offset: 0xB0, width: 4, 0)
    #expect(apic.pending.vector == 0x50, "the second source still holds the line")
    second.lower()
    second.lower()
    #expect(apic.acknowledge() == 0x50)
    apic.write(offset: 0xB0, width: 4, 0)
    #expect(apic.pending.isEmpty)
    #expect(bench.fabric.ioapicState.raised[11] == 1)
    first.raise()
    #expect(apic.pending.vector == 0x50)
  }

  @Test func levelInterruptStaysPendingUntilEOI() {
    let bench = Bench(1)
    bench.route(pin: 16, 0x8060)
    let line = bench.fabric.line(GSI(16))
    let apic = bench.apic(0)
    line.raise()
    #expect(apic.acknowledge() == 0x60)
    line.lower()
    line.raise()
    #expect(apic.pending.isEmpty)
    apic.write(offset: 0xB0, width: 4, 0)
    #expect(apic.acknowledge() == 0x60)
  }

  @Test func suppressedBroadcastIsEndedAtTheIOAPIC() {
    let bench = Bench(1, configure: { $0.features = [.eoiBroadcastSuppression] })
    bench.route(pin: 16, 0x8060)
    let apic = bench.apic(0)
    apic.write(offset: 0xF0, width: 4, 0x11FF)
    bench.fabric.line(GSI(16)).raise()
    #expect(apic.acknowledge() == 0x60)
    apic.write(offset: 0xB0, width: 4, 0)
    #expect(apic.pending.isEmpty)
    bench.memory.write(0xFEC0_0040, width: 4, 0x60, vcpu: VCPUID(0))
    #expect(apic.pending.vector == 0x60)
  }

  @Test func picReachesTheBootProcessorOverTheVirtualWire() {
    let bench = Bench(2, enabled: false)
    bench.initialisePIC()
    let line = bench.fabric.line(GSI(9))
    line.raise()
    #expect(bench.apic(0).pending.external)
    #expect(!bench.apic(1).pending.hasInterrupt)
    #expect(bench.kicks.map(\.value) == [1, 0])
    #expect(bench.apic(0).acknowledge() == 0x29)
    #expect(!bench.apic(0).pending.hasInterrupt)
    #expect(bench.fabric.picState.raised[9] == 1)
  }

  @Test func maskedLINT0CutsTheVirtualWire() {
    let bench = Bench(1)
    bench.initialisePIC()
    bench.apic(0).write(offset: 0x350, width: 4, 0x1_0700)
    bench.fabric.line(GSI(4)).raise()
    #expect(!bench.apic(0).pending.hasInterrupt)
    #expect(bench.apic(0).acknowledge() == nil)
    bench.apic(0).write(offset: 0x350, width: 4, 0x700)
    #expect(bench.apic(0).acknowledge() == 0x24)
  }

  @Test func externalModePinAsksThePIC() {
    let bench = Bench(2)
    bench.initialisePIC()
    bench.apic(0).write(offset: 0x350, width: 4, 0x1_0000)
    bench.route(pin: 4, 0x700, destination: 1)
    bench.fabric.line(GSI(4)).raise()
    #expect(bench.apic(1).pending.external)
    #expect(bench.apic(1).acknowledge() == 0x24)
    #expect(bench.apic(1).pending.isEmpty)
  }

  @Test func messageSignalledInterruptArrives() {
    let bench = Bench(3)
    bench.fabric.signalMSI(address: 0xFEE0_2000, data: 0x55)
    #expect(bench.pending(0x55) == [2])
    bench.fabric.signalMSI(address: 0xFEEF_F000, data: 0x56)
    #expect(bench.pending(0x56) == [0, 1, 2])
    bench.fabric.signalMSI(address: 0xFED0_2000, data: 0x57)
    #expect(bench.pending(0x57) == [])
  }

  // MARK: - IPIs

  static let shorthands: [(UInt32, [Int])] = [
    (0, []), (1, [1]), (2, [0, 1, 2, 3]), (3, [0, 2, 3]),
  ]

  @Test(arguments: shorthands)
  func shorthandsAddressWhomTheySay(shorthand: UInt32, targets: [Int]) {
    for vector in [UInt8(0x41), 0xF3] {
      let bench = Bench(4)
      let sender = bench.apic(1)
      sender.write(offset: 0x310, width: 4, 0x0900_0000)
      sender.write(offset: 0x300, width: 4, UInt64(shorthand << 18) | UInt64(vector))
      #expect(bench.pending(vector) == targets)
      #expect(
        bench.kicks.indices.filter { bench.kicks[$0].value > 0 } == targets.filter { $0 != 1 })
    }
  }

  @Test func shorthandsWorkInX2APICMode() {
    let bench = Bench(3)
    for index in 0..<3 {
      let unit = bench.apic(index)
      let base = unit.readMSR(0x1B) ?? 0
      #expect(unit.writeMSR(0x1B, base | 0xC00) == true)
    }
    #expect(bench.apic(0).writeMSR(0x830, 0xC_0041) == true)
    #expect(bench.pending(0x41) == [1, 2])
    #expect(bench.apic(2).writeMSR(0x83F, 0x42) == true)
    #expect(bench.pending(0x42) == [2])
    #expect(bench.apic(0).writeMSR(0x830, 0x2_0000_0043) == true)
    #expect(bench.pending(0x43) == [2])
    #expect(bench.apic(0).writeMSR(0x830, 0x0000_0005_0000_0844) == true)
    #expect(bench.pending(0x44) == [0, 2])
    #expect(bench.apic(0).claims(address: 0xFEE0_0080) == false)
  }

  @Test func bootSequenceStartsAnApplicationProcessor() {
    let bench = Bench(2, enabled: false)
    let boot = bench.apic(0)
    let application = bench.apic(1)
    #expect(application.isWaitingForStartUp && !boot.isWaitingForStartUp)
    boot.write(offset: 0x310, width: 4, 0x0100_0000)
    boot.write(offset: 0x300, width: 4, 0xC500)
    #expect(application.takeEvents().events == .initialize)
    boot.write(offset: 0x300, width: 4, 0x8500)
    #expect(application.pending.isEmpty)
    boot.write(offset: 0x300, width: 4, 0x069A)
    let taken = application.takeEvents()
    #expect(taken.events == .startUp && taken.startUpVector == 0x9A)
    boot.write(offset: 0x300, width: 4, 0x069A)
    #expect(application.pending.isEmpty)
    #expect(!application.isWaitingForStartUp)
  }

  @Test func logicalFlatAndClusterDestinations() {
    let bench = Bench(4)
    for index in 0..<4 { bench.apic(index).write(offset: 0xD0, width: 4, 1 << UInt64(24 + index)) }
    bench.route(pin: 5, 0x0845, destination: 0b0101)
    bench.fabric.line(GSI(5)).pulse()
    #expect(bench.pending(0x45) == [0, 2])
    for index in 0..<4 {
      let unit = bench.apic(index)
      unit.write(offset: 0xE0, width: 4, 0x0FFF_FFFF)
      unit.write(
        offset: 0xD0, width: 4, UInt64(index / 2) << 28 | 1 << UInt64(24 + index % 2))
    }
    bench.route(pin: 6, 0x0846, destination: 0x13)
    bench.fabric.line(GSI(6)).pulse()
    #expect(bench.pending(0x46) == [2, 3])
  }

  @Test func lowestPriorityRotatesAmongTheEnabledMatches() {
    let bench = Bench(4)
    for index in 0..<4 { bench.apic(index).write(offset: 0xD0, width: 4, 1 << UInt64(24 + index)) }
    bench.apic(2).write(offset: 0xF0, width: 4, 0xFF)
    var served = [Int](repeating: 0, count: 4)
    bench.route(pin: 5, 0x0945, destination: 0x0F)
    let line = bench.fabric.line(GSI(5))
    for _ in 0..<30 {
      line.pulse()
      let chosen = bench.pending(0x45)
      #expect(chosen.count == 1)
      for index in chosen {
        served[index] += 1
        _ = bench.apic(index).acknowledge()
        bench.apic(index).write(offset: 0xB0, width: 4, 0)
      }
    }
    #expect(served == [10, 10, 0, 10])
  }

  @Test func physicalDestinationFollowsARewrittenID() {
    let bench = Bench(3, ids: { UInt32($0 * 2) })
    bench.fabric.signalMSI(address: 0xFEE0_4000, data: 0x41)
    #expect(bench.pending(0x41) == [2])
    bench.apic(0).write(offset: 0x20, width: 4, 0x0700_0000)
    bench.fabric.signalMSI(address: 0xFEE0_7000, data: 0x42)
    #expect(bench.pending(0x42) == [0])
    bench.fabric.signalMSI(address: 0xFEE0_0000, data: 0x43)
    #expect(bench.pending(0x43) == [])
    bench.apic(0).write(offset: 0x20, width: 4, 0)
    bench.fabric.signalMSI(address: 0xFEE0_0000, data: 0x44)
    #expect(bench.pending(0x44) == [0])
  }

  @Test func nmiWireArrivesWhereLINT1IsOpen() {
    let bench = Bench(2)
    bench.apic(0).write(offset: 0x360, width: 4, 0x400)
    bench.fabric.pulseNMI()
    #expect(bench.apic(0).pending.events == .nmi)
    #expect(bench.apic(1).pending.isEmpty)
    #expect(bench.kicks.map(\.value) == [1, 0])
    #expect(bench.apic(0).takeEvents().events == .nmi)
    bench.fabric.pulseNMI()
    #expect(bench.apic(0).pending.events == .nmi)
  }

  @Test func heldBackInterruptDoesNotKick() {
    let bench = Bench(2)
    bench.apic(1).taskPriority = 0xF0
    bench.fabric.signalMSI(address: 0xFEE0_1000, data: 0x41)
    #expect(bench.apic(1).pending.isEmpty)
    #expect(bench.kicks[1].value == 0)
    bench.apic(1).taskPriority = 0
    #expect(bench.apic(1).pending.vector == 0x41)
    #expect(bench.apic(1).taskPriority == 0)
    bench.apic(1).write(offset: 0x80, width: 4, 0x35)
    #expect(bench.apic(1).taskPriority == 0x35)
  }

  @Test func registerPageMovesWithTheBase() {
    let bench = Bench(1)
    let unit = bench.apic(0)
    #expect(unit.claims(address: 0xFEE0_0FF0) && !unit.claims(address: 0xFEE0_1000))
    #expect(unit.writeMSR(0x1B, 0xFEC8_0900) == true)
    #expect(unit.claims(address: 0xFEC8_0000) && !unit.claims(address: 0xFEE0_0000))
    #expect(unit.writeMSR(0x1B, 0xFEC8_0100) == true)
    #expect(!unit.claims(address: 0xFEC8_0000))
    #expect(unit.writeMSR(0x1B, 0xFEC8_0D00) == false)
  }

  @Test func resetRestoresThePowerOnState() {
    let bench = Bench(2)
    bench.initialisePIC()
    bench.route(pin: 4, 0x34)
    bench.fabric.line(GSI(4)).raise()
    bench.fabric.reset()
    #expect(bench.apic(0).pending.isEmpty)
    #expect(bench.fabric.ioapicState.model.entries[4] == .reset)
    #expect(!bench.fabric.picState.model.output)
    #expect(bench.apic(1).isWaitingForStartUp)
  }

  @Test func savedLocalAPICIsRestored() {
    let bench = Bench(1)
    let unit = bench.apic(0)
    bench.fabric.signalMSI(address: 0xFEE0_0000, data: 0x61)
    let saved = unit.snapshot
    unit.reset()
    #expect(unit.pending.isEmpty)
    unit.restore(saved)
    #expect(unit.snapshot == saved)
    #expect(unit.acknowledge() == 0x61)
  }

  // MARK: - Timer

  @Test func timerFiresThroughTheMachinesClock() {
    let bench = Bench(1)
    let unit = bench.apic(0)
    unit.write(offset: 0x3E0, width: 4, 0xB)
    unit.write(offset: 0x320, width: 4, 0x2_0040)
    unit.write(offset: 0x380, width: 4, 1_000_000)
    #expect(unit.nextDeadline == 1_000_000)
    bench.clock.advance(by: 999_999)
    #expect(unit.pending.isEmpty)
    bench.clock.advance(by: 1)
    #expect(unit.pending.vector == 0x40)
    #expect(bench.kicks[0].value == 1)
    #expect(unit.nextDeadline == 2_000_000)
    #expect(unit.acknowledge() == 0x40)
    unit.write(offset: 0xB0, width: 4, 0)
    bench.clock.advance(by: 3_000_000)
    #expect(unit.acknowledge() == 0x40)
    unit.write(offset: 0x380, width: 4, 0)
    #expect(unit.nextDeadline == Int64.max && bench.clock.nextDeadline == nil)
  }

  @Test func tscDeadlineIsConvertedWithTheCountersFrequency() {
    let bench = Bench(1)
    let unit = bench.apic(0)
    let clock = bench.clock
    let box = Box(offset: 1_000)
    unit.connect(
      VCPUHooks(
        kick: {}, tscFrequency: 2_000_000_000,
        timeStampCounter: { UInt64(clock.now) * 2 &+ box.offset.load(ordering: .relaxed) }))
    unit.write(offset: 0x320, width: 4, 0x4_0040)
    #expect(unit.writeMSR(0x6E0, 1_000 + 2_000_000) == true)
    bench.clock.advance(by: 999_999)
    #expect(unit.pending.isEmpty)
    bench.clock.advance(by: 2)
    #expect(unit.pending.vector == 0x40)
    #expect(unit.readMSR(0x6E0) == 0)
    _ = unit.acknowledge()
    unit.write(offset: 0xB0, width: 4, 0)
    // Setting the counter back moves the deadline.
    #expect(unit.writeMSR(0x6E0, 1_000 + 4_000_000) == true)
    box.offset.store(0, ordering: .relaxed)
    unit.timeStampCounterChanged()
    bench.clock.advance(to: 2_000_001)
    #expect(unit.pending.isEmpty)
    bench.clock.advance(to: 2_000_502)
    #expect(unit.pending.vector == 0x40)
    // What another thread sees of the counter at expiry does not count.
    _ = unit.acknowledge()
    unit.write(offset: 0xB0, width: 4, 0)
    #expect(unit.writeMSR(0x6E0, UInt64(bench.clock.now) * 2 + 2_000) == true)
    let armed = bench.clock.now
    box.offset.store(UInt64.max - (1 << 40), ordering: .relaxed)
    bench.clock.advance(to: armed + 999)
    #expect(unit.pending.isEmpty)
    bench.clock.advance(to: armed + 1_001)
    #expect(unit.pending.vector == 0x40)
    box.offset.store(0, ordering: .relaxed)
    // A deadline beyond all time is no arithmetic trap.
    #expect(unit.writeMSR(0x6E0, UInt64.max) == true)
    #expect(unit.nextDeadline > 1 << 60)
  }

  final class Box: Sendable {
    let offset: Atomic<UInt64>
    init(offset: UInt64) { self.offset = Atomic(offset) }
  }

  // MARK: - Threads

  /// Senders, line changes and acknowledging vCPUs at once: nothing is lost, nothing is stuck.
  @Test func concurrentTrafficLosesNothing() async {
    let bench = Bench(4)
    for index in 0..<4 { bench.apic(index).write(offset: 0xD0, width: 4, 1 << UInt64(24 + index)) }
    bench.route(pin: 10, 0x80E0, destination: 0)
    bench.route(pin: 11, 0x08D0, destination: 0xF)
    let level = bench.fabric.line(GSI(10))
    let edge = bench.fabric.line(GSI(11))
    let served = (0..<4).map { _ in Bench.Counter() }
    let rounds = 3_000
    await withTaskGroup(of: Void.self) { group in
      for index in 0..<4 {
        group.addTask {
          let unit = bench.apic(index)
          for round in 0..<rounds {
            // To the next vCPU, to all, with varying priority.
            unit.write(offset: 0x310, width: 4, UInt64((index + 1) % 4) << 24)
            unit.write(offset: 0x300, width: 4, UInt64(0x40 + round % 0x40))
            if round % 16 == 0 { unit.write(offset: 0x300, width: 4, 0x8_0090) }
            unit.taskPriority = UInt8(round % 3) << 4
            for _ in 0..<4 {
              guard let vector = unit.acknowledge() else { break }
              served[index].count.add(1, ordering: .relaxed)
              if vector == 0xE0 { level.lower() }
              unit.write(offset: 0xB0, width: 4, 0)
            }
          }
        }
      }
      group.addTask {
        for round in 0..<rounds {
          level.raise()
          edge.pulse()
          bench.fabric.signalMSI(address: 0xFEE0_0000 | UInt64(round % 4) << 12, data: 0xC1)
          bench.fabric.send(
            InterruptMessage(
              destination: 0xF, destinationMode: .logical, deliveryMode: .lowestPriority,
              vector: 0xB5))
        }
      }
    }
    // Drain: afterwards everything is quiet, and the words without lock agree with the models.
    level.lower()
    for index in 0..<4 {
      let unit = bench.apic(index)
      unit.taskPriority = 0
      for _ in 0..<512 where unit.pending.hasInterrupt {
        _ = unit.acknowledge()
        unit.write(offset: 0xB0, width: 4, 0)
      }
      let apic = unit.snapshot
      #expect(unit.pending.isEmpty)
      #expect(apic.irr.isEmpty && apic.isr.isEmpty)
      #expect(served[index].value > 0)
    }
    #expect(bench.fabric.ioapicState.model.remoteIRR == [])
    level.raise()
    #expect(bench.apic(0).acknowledge() == 0xE0)
  }

  /// A vCPU arms its timer again and again while another thread fires it: no deadline gets lost between the two.
  @Test func timerArmedWhileItFiresIsNotLost() async {
    let bench = Bench(1)
    let unit = bench.apic(0)
    unit.write(offset: 0x3E0, width: 4, 0xB)
    unit.write(offset: 0x320, width: 4, 0x40)
    let isDone = Bench.Counter()
    let rounds = 150
    let expired = await withTaskGroup(of: Int.self) { group in
      group.addTask {
        // Time goes on in small steps until the vCPU has seen all interrupts or missed one.
        while isDone.value == 0 { bench.clock.advance(by: 97) }
        return 0
      }
      group.addTask {
        defer { isDone.count.store(1, ordering: .relaxed) }
        for round in 0..<rounds {
          unit.write(offset: 0x380, width: 4, UInt64(100 + round % 400))
          // Now and then a deadline is replaced before it is reached.
          if round % 3 == 0 { unit.write(offset: 0x380, width: 4, UInt64(50 + round % 90)) }
          let limit = bench.clock.now + 500_000
          while unit.pending.vector == nil {
            // Looked at again: the thread may have slept between the two.
            if bench.clock.now > limit, unit.pending.vector == nil { return round }
          }
          _ = unit.acknowledge()
          unit.write(offset: 0xB0, width: 4, 0)
        }
        return rounds
      }
      return await group.reduce(0, +)
    }
    #expect(expired == rounds)
  }
}
