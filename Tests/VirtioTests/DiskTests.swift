import Block
import Host
import Shm
import Support
import Synchronization
import Testing
import Virtio

@Suite struct DiskTests {
  @Test(arguments: [false, true])
  func dataGoesBothWaysAtOnceOrLater(isSlow: Bool) throws {
    let bench = try DiskBench(isSlow: isSlow)
    bench.start()
    let bytes = (0..<4096).map { UInt8(truncatingIfNeeded: $0 / 7) }
    #expect(bench.run(1, sector: 8, out: bytes) == (0, 1))
    #expect(bench.node.bytes(4096..<8192) == bytes)
    #expect(bench.run(0, sector: 8, into: 4096) == (0, 4097))
    #expect(bench.data(4096) == bytes)
    #expect(bench.run(4) == (0, 1))
    #expect(bench.node.calls.withLock { $0 } == ["write", "read", "flush"])
    #expect(bench.line.level)
  }

  @Test func theRestOfTheCommands() throws {
    let bench = try DiskBench()
    bench.start()
    #expect(bench.run(8, into: 20) == (0, 21))
    #expect(String(decoding: bench.data(20), as: UTF8.self) == "SERIAL-0123456789-01")
    func segment(_ sector: UInt64, _ count: UInt32, _ flags: UInt32) -> [UInt8] {
      (0..<8).map { UInt8(truncatingIfNeeded: sector >> UInt64($0 * 8)) }
        + (0..<4).map { UInt8(truncatingIfNeeded: count >> UInt32($0 * 8)) }
        + (0..<4).map { UInt8(truncatingIfNeeded: flags >> UInt32($0 * 8)) }
    }
    bench.node.fill([UInt8](repeating: 1, count: 8192), at: 0)
    #expect(bench.run(13, out: segment(2, 4, 1)).status == 0)
    #expect(bench.node.bytes(1024..<3072).count { $0 != 0 } == 0)
    #expect(bench.node.bytes(0..<1024).count { $0 != 1 } == 0)
    #expect(bench.run(13, out: segment(2, 4, 0)).status == 0)
    #expect(bench.run(11, out: segment(0, 8, 0)).status == 0)
    #expect(bench.node.calls.withLock { $0 } == ["zero-unmap", "zero", "discard"])
    // What they do not allow: flags of a discard, the end of the disk, two segments, unknown kinds.
    #expect(bench.run(11, out: segment(0, 8, 1)).status == 2)
    #expect(bench.run(11, out: segment(2047, 2, 0)).status == 1)
    #expect(bench.run(13, out: segment(UInt64.max, 2, 0)).status == 1)
    #expect(bench.run(11, out: segment(0, 1, 0) + segment(8, 1, 0)).status == 2)
    #expect(bench.run(77).status == 2)
    #expect(bench.read(0x14, 1) == 15)
  }

  @Test func whatIsNotOnTheDiskFailsAndIsCounted() throws {
    let bench = try DiskBench()
    bench.start()
    for (sector, count) in [(2048, 512), (2047, 1024), (UInt64.max, 512), (0, 100)]
      as [(UInt64, Int)]
    {
      #expect(bench.run(0, sector: sector, into: count).status == 1, "\(sector) \(count)")
    }
    #expect(bench.backend.statistics.reads.invalid == 4)
    bench.node.failure.withLock { $0 = BlockError(5, "no") }
    #expect(bench.run(0, into: 512) == (1, 1))
    #expect(bench.run(4).status == 1)
  }

  @Test func aStopKeepsTheRequestUntilTheMachineGoesOn() throws {
    let bench = try DiskBench()
    bench.backend.setErrorPolicy(read: .report, write: .stop)
    bench.start()
    bench.node.failure.withLock { $0 = BlockError(28, "No space left on device") }
    bench.offer(1, sector: 0, out: [UInt8](repeating: 9, count: 512))
    #expect(bench.memory.load(GuestAddress(DiskBench.used + 2), as: UInt16.self) == 0)
    #expect(bench.backend.parkedCount == 1)
    bench.node.failure.withLock { $0 = nil }
    bench.backend.resume()
    #expect(bench.take()?.status == 0)
    #expect(bench.node.bytes(0..<512).count { $0 != 9 } == 0)
    // A reset forgets what is parked.
    bench.node.failure.withLock { $0 = BlockError(28, "No space left on device") }
    bench.offer(1, sector: 0, out: [UInt8](repeating: 7, count: 512))
    #expect(bench.backend.parkedCount == 1)
    bench.write(0x14, 1, 0)
    #expect(bench.backend.parkedCount == 0)
    bench.node.failure.withLock { $0 = nil }
    bench.start()
    #expect(bench.run(0, into: 512).status == 0)
  }

  @Test func configurationAndCacheMode() throws {
    var settings = DiskSettings()
    settings.physicalBlockSize = 4096
    settings.queueCount = 3
    let bench = try DiskBench(settings: settings)
    func field(_ offset: UInt64, _ width: Int) -> UInt64 { bench.read(0x2000 + offset, width) }
    #expect(field(0, 4) == 2048 && field(12, 4) == 6 && field(20, 4) == 512)
    #expect(field(24, 1) == 3 && field(32, 1) == 1 && field(34, 2) == 3)
    #expect(field(36, 4) == 4_194_303 && field(40, 4) == 1 && field(56, 1) == 1)
    bench.start()
    bench.write(0x2000 + 32, 1, 0)
    #expect(!bench.backend.hasWriteCache)
    #expect(bench.run(1, out: [UInt8](repeating: 1, count: 512)).status == 0)
    #expect(bench.node.calls.withLock { $0 } == ["write-through"])
    // A driver that cannot flush gets no cache; the next one finds it as the user had it.
    bench.write(0x14, 1, 0)
    #expect(bench.backend.hasWriteCache)
    bench.start(features: 0)
    #expect(!bench.backend.hasWriteCache)
    let generation = bench.read(0x15, 1)
    bench.disk.resized()
    #expect(bench.read(0x15, 1) != generation)
  }

  @Test func aReadOnlyDiskRefusesWrites() throws {
    let bench = try DiskBench(isReadOnly: true)
    bench.write(0x00, 4, 0)
    #expect(bench.read(0x04, 4) & 1 << 5 != 0)
    bench.start()
    #expect(bench.run(1, out: [UInt8](repeating: 1, count: 512)).status == 1)
    #expect(bench.node.calls.withLock { $0 }.isEmpty)
  }

  @Test func brokenRequestsBreakTheDeviceOnly() throws {
    for (length, address) in [(8, 0x8000), (16, 0xFFFF_0000_0000)] as [(UInt32, UInt64)] {
      let bench = try DiskBench()
      bench.start()
      _ = bench.memory.store(GuestAddress(DiskBench.descriptors), address)
      _ = bench.memory.store(GuestAddress(DiskBench.descriptors + 8), length)
      _ = bench.memory.store(GuestAddress(DiskBench.descriptors + 12), UInt32(1 | 1 << 16))
      _ = bench.memory.store(GuestAddress(DiskBench.descriptors + 16), UInt64(0x9000))
      _ = bench.memory.store(GuestAddress(DiskBench.descriptors + 24), UInt64(1) | 2 << 32)
      _ = bench.memory.store(GuestAddress(DiskBench.available + 2), UInt16(1))
      bench.write(0x3000, 2, 0)
      #expect(bench.read(0x14, 1) & 0x40 != 0)
      bench.start()
      #expect(bench.run(0, into: 512).status == 0)
    }
  }

  @Test func randomRequestsNeverTrap() throws {
    var random = SeededGenerator(seed: 0xD15C)
    for round in 0..<60 {
      let bench = try DiskBench(isSlow: round % 2 == 0)
      bench.start(features: random.next() & (1 << 28 | 1 << 29 | 1 << 9 | 1 << 11))
      var index: UInt16 = 0
      for _ in 0..<30 {
        for entry in UInt64(0)..<8 {
          let at = GuestAddress(DiskBench.descriptors + entry * 16)
          let wild = random.next() & 15 == 0
          _ = bench.memory.store(at, wild ? random.next() : random.next() & 0xF_FFFF)
          _ = bench.memory.store(at + 8, UInt32(truncatingIfNeeded: random.next() & 0x1FFF))
          _ = bench.memory.store(
            at + 12, UInt32(truncatingIfNeeded: random.next() & 3 | (random.next() & 7) << 16))
        }
        let base = UInt64(random.next() & 0xF_FFF0)
        _ = bench.memory.store(GuestAddress(DiskBench.descriptors), base)
        _ = bench.memory.store(GuestAddress(DiskBench.descriptors + 8), UInt32(16))
        _ = bench.memory.store(GuestAddress(DiskBench.descriptors + 12), UInt16(1))
        _ = bench.memory.store(GuestAddress(base), UInt32(truncatingIfNeeded: random.next() % 14))
        _ = bench.memory.store(GuestAddress(base + 8), random.next() & 0xFFF)
        _ = bench.memory.store(
          GuestAddress(DiskBench.available + 4 + 2 * UInt64(index % 8)), UInt16(0))
        index &+= 1
        _ = bench.memory.store(GuestAddress(DiskBench.available + 2), index)
        bench.write(0x3000, 2, 0)
        if bench.read(0x14, 1) & 0x40 != 0 || random.next() & 15 == 0 {
          bench.start(features: random.next() & (1 << 28 | 1 << 29 | 1 << 9 | 1 << 11))
          for at in stride(from: UInt64(0), to: 64, by: 8) {
            _ = bench.memory.store(GuestAddress(DiskBench.available + at), UInt64(0))
          }
          index = 0
          bench.start(features: 1 << 9)
        }
      }
      bench.write(0x14, 1, 0)
    }
  }
}
