import Block
import Host
import Shm
import Support
import Synchronization
import Testing
import Virtio

/// Requests of one notification that continue each other are one request to the disk, and each has its own end.
@Suite struct DiskMergeTests {
  private typealias Transfer = MemoryNode.Transfer
  private static func sector(_ value: UInt8) -> [UInt8] { [UInt8](repeating: value, count: 512) }

  /// Offers writes of a sector each, filled with 1 for the first sector, and so on.
  private func offerWrites(_ bench: DiskBench, _ sectors: [UInt64]) {
    for sector in sectors {
      bench.offer(
        1, sector: sector, out: Self.sector(UInt8(truncatingIfNeeded: sector + 1)), notify: false)
    }
    bench.notify()
  }

  @Test(arguments: [false, true])
  func neighboursAreOneRequest(isSlow: Bool) throws {
    let bench = try DiskBench(isSlow: isSlow, slots: 32)
    bench.start()
    offerWrites(bench, [4, 5, 6, 7, 8])
    #expect(bench.statuses(5) == [0, 0, 0, 0, 0])
    for sector in 4..<9 {
      #expect(
        bench.node.bytes(sector * 512..<(sector + 1) * 512) == Self.sector(UInt8(sector + 1)))
    }
    bench.start()
    for sector in UInt64(4)..<9 { bench.offer(0, sector: sector, into: 512, notify: false) }
    bench.notify()
    #expect(bench.statuses(5) == [0, 0, 0, 0, 0])
    for slot in 0..<5 { #expect(bench.data(ofSlot: slot, 512) == Self.sector(UInt8(slot + 5))) }
    #expect(
      bench.node.transfers.withLock { $0 } == [
        Transfer(isWrite: true, offset: 2048, count: 2560),
        Transfer(isWrite: false, offset: 2048, count: 2560),
      ])
    let statistics = bench.backend.statistics
    #expect(statistics.writes.operations == 5 && statistics.writes.merged == 4)
    #expect(statistics.reads.operations == 5 && statistics.reads.merged == 4)
    #expect(statistics.writes.bytes == 2560 && statistics.reads.bytes == 2560)
    #expect(bench.backend.inFlight == 0)
  }

  @Test func whatDoesNotContinueStaysAlone() throws {
    let bench = try DiskBench(slots: 32)
    bench.start()
    // A gap, a step back, the same again, another direction, a flush between.
    for (kind, sector) in [(1, 0), (1, 2), (1, 1), (1, 1), (0, 2), (0, 3), (1, 4), (4, 0), (1, 5)]
      as [(UInt32, UInt64)]
    {
      bench.offer(
        kind, sector: sector, out: kind == 1 ? Self.sector(3) : [], into: kind == 0 ? 512 : 0,
        notify: false)
    }
    bench.notify()
    #expect(bench.statuses(9) == [UInt8](repeating: 0, count: 9))
    // What is under way at a time has no order: the flush may end after the write that was offered behind it.
    let calls = bench.node.calls.withLock { $0 }
    #expect(
      calls.filter { $0 != "flush" } == [
        "write", "write", "write", "write", "read", "write", "write",
      ])
    #expect(calls.count == 8)
    #expect(
      bench.node.transfers.withLock { $0.map(\.offset) } == [0, 1024, 512, 512, 1024, 2048, 2560])
    #expect(bench.backend.statistics.writes.merged == 0)
    #expect(bench.backend.statistics.reads.merged == 1)
  }

  @Test func theUserMayNotWantIt() throws {
    var settings = DiskSettings()
    settings.mergesRequests = false
    let bench = try DiskBench(settings: settings, slots: 32)
    bench.start()
    offerWrites(bench, [0, 1, 2])
    #expect(bench.statuses(3) == [0, 0, 0])
    #expect(bench.node.transfers.withLock { $0.count } == 3)
  }

  @Test func moreThanTheMostAreTwoRequests() throws {
    let bench = try DiskBench(slots: 40)
    bench.start()
    offerWrites(bench, Array(0..<40))
    #expect(bench.statuses(40) == [UInt8](repeating: 0, count: 40))
    #expect(bench.node.transfers.withLock { $0.map(\.count) } == [32 * 512, 8 * 512])
    #expect(bench.node.bytes(0..<40 * 512) == (0..<40).flatMap { Self.sector(UInt8($0 + 1)) })
  }

  @Test func aRunHasLimits() {
    let memory = IOBuffer(count: 2 << 20)
    func write(_ offset: UInt64, _ count: Int) -> BlockRequest {
      .write(offset, from: memory.vector(0..<count))
    }
    var run = DiskRun(write(0, 1 << 20), 7)
    func adds(_ next: BlockRequest, _ number: Int) -> Bool { run.add(next, number) }
    #expect(adds(write(1 << 20, (1 << 20) - 512), 9))
    #expect(run.head == 7 && run.last == 9)
    #expect(!adds(write((2 << 20) - 512, 1024), 1))
    #expect(adds(write((2 << 20) - 512, 512), 2))
    #expect(!adds(write(2 << 20, 512), 3))
    #expect(run.last == 2 && run.request.parts == 3 && run.request.count == 2 << 20)

    // Pieces that do not touch: the most that the host takes at once, and one more.
    func scattered(_ offset: UInt64, _ pieces: Int) -> BlockRequest {
      var vector = IOVector()
      for piece in 0..<pieces {
        vector.append(contentsOf: memory.vector(piece * 1024..<piece * 1024 + 512))
      }
      return .read(offset, into: vector)
    }
    run = DiskRun(scattered(0, 1000), 0)
    #expect(!adds(scattered(512_000, 25), 1))
    #expect(adds(scattered(512_000, 24), 1))
    #expect(!adds(scattered(524_288, 1), 2))
    // Nothing continues an empty request, and no offset is beyond the last.
    run = DiskRun(write(0, 0), 0)
    #expect(!adds(write(0, 512), 1))
    run = DiskRun(write(UInt64.max - 511, 512), 0)
    #expect(!adds(write(0, 512), 1))
  }

  @Test(arguments: [false, true])
  func oneBadSectorFailsAlone(isSlow: Bool) throws {
    let bench = try DiskBench(isSlow: isSlow, slots: 32)
    let told = Mutex(0)
    bench.backend.onError { _ in told.withLock { $0 += 1 } }
    bench.backend.setErrorPolicy(read: .report, write: .report)
    bench.node.badByte.withLock { $0 = 5 * 512 }
    for kind in [UInt32(1), 0] {
      bench.start()
      for sector in UInt64(3)..<8 {
        bench.offer(
          kind, sector: sector, out: kind == 1 ? Self.sector(UInt8(sector)) : [],
          into: kind == 0 ? 512 : 0, notify: false)
      }
      bench.notify()
      #expect(bench.statuses(5) == [0, 0, 1, 0, 0])
    }
    for sector in [3, 4, 6, 7] {
      #expect(bench.node.bytes(sector * 512..<(sector + 1) * 512) == Self.sector(UInt8(sector)))
      #expect(bench.data(ofSlot: sector - 3, 512) == Self.sector(UInt8(sector)))
    }
    let statistics = bench.backend.statistics
    #expect(statistics.writes.operations == 4 && statistics.writes.failed == 1)
    #expect(statistics.reads.operations == 4 && statistics.reads.failed == 1)
    #expect(statistics.writes.merged == 0 && statistics.writes.bytes == 2048)
    #expect(told.withLock { $0 } == 2)
    #expect(bench.backend.inFlight == 0)
  }

  @Test func aStopKeepsOnlyWhatFailed() throws {
    let bench = try DiskBench(slots: 32)
    bench.backend.setErrorPolicy(read: .report, write: .stop)
    bench.start()
    bench.node.badByte.withLock { $0 = 512 }
    offerWrites(bench, [0, 1, 2])
    var ended: [UInt8] = []
    for _ in 0..<2 { if let one = bench.take() { ended.append(one.status) } }
    #expect(ended == [0, 0])
    while bench.backend.inFlight > 0 {}
    #expect(bench.backend.parkedCount == 1)
    bench.node.badByte.withLock { $0 = nil }
    bench.backend.resume()
    #expect(bench.take()?.status == 0)
    #expect(bench.node.bytes(512..<1024) == Self.sector(2))
    #expect(bench.backend.inFlight == 0 && bench.backend.parkedCount == 0)
  }

  @Test func aDrainHoldsThemAndAResetForgetsThem() throws {
    let bench = try DiskBench(slots: 32)
    bench.start()
    bench.backend.beginDrain()
    offerWrites(bench, [0, 1, 2])
    #expect(bench.node.transfers.withLock { $0.isEmpty })
    bench.backend.endDrain()
    #expect(bench.statuses(3) == [0, 0, 0])
    #expect(bench.node.transfers.withLock { $0.map(\.count) } == [1536])

    bench.start()
    bench.backend.beginDrain()
    offerWrites(bench, [8, 9])
    bench.write(0x14, 1, 0)
    bench.backend.endDrain()
    #expect(bench.node.transfers.withLock { $0.count } == 1)
    // The next driver finds all as it was.
    bench.start()
    offerWrites(bench, [3, 4])
    #expect(bench.statuses(2) == [0, 0])
    #expect(bench.node.transfers.withLock { $0.map(\.count) } == [1536, 1024])
  }

  @Test func aDiskThatShrankFailsOnlyWhatIsBehindItsEnd() throws {
    let bench = try DiskBench(slots: 32)
    bench.start()
    // Two are on the disk, and one is not: it is refused before it is merged.
    offerWrites(bench, [2046, 2047, 2048])
    #expect(bench.statuses(3) == [0, 0, 1])
    #expect(bench.backend.statistics.writes.invalid == 1)
    #expect(bench.backend.statistics.writes.merged == 1)
  }
}
