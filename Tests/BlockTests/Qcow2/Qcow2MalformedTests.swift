import Block
import Glibc
import Host
import Testing

/// Images that somebody made to harm: refused or repaired, quickly, within little memory, and never a crash.
@Suite(.serialized) struct Qcow2MalformedTests {
  /// An image with some data.
  static func sample(_ change: (inout Qcow2CreateOptions) -> Void = { _ in }) throws -> MemoryDisk {
    var options = Qcow2CreateOptions(size: 64 << 20)
    change(&options)
    let disk = MemoryDisk()
    try Qcow2Image.create(on: disk, options)
    let node = try Qcow2Node.open(
      name: "image", file: disk, backing: nil, dataFile: nil, options: Qcow2Options())
    for part in 0..<min(40, Int(options.size >> 20)) {
      try node.write(UInt64(part) << 20, [UInt8](repeating: UInt8(part + 1), count: 70_000))
    }
    try node.close()
    return disk
  }

  private func put(_ disk: MemoryDisk, _ at: UInt64, _ value: UInt64) throws {
    var bytes = BigEndianBytes()
    bytes.u64(value)
    try disk.write(at, bytes.bytes)
  }

  /// CPU seconds of this thread.
  private func cpu() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }

  /// Checks, repairs, opens, reads and writes; a debug build may take ten times the second that is allowed.
  private func survive(_ disk: MemoryDisk, _ told: String) throws {
    let start = cpu()
    var lines = 0
    _ = try? Qcow2Check.run(on: disk) { _ in lines += 1 }
    let other = disk.copy()
    _ = try? Qcow2Check.run(on: other, repair: .all) { _ in lines += 1 }
    for image in [disk, other] {
      guard
        let node = try? Qcow2Node.open(
          name: "image", file: image, backing: nil, dataFile: nil, options: Qcow2Options())
      else { continue }
      for at in stride(from: UInt64(0), to: 64 << 20, by: 3 << 20) where at + 4096 <= node.length {
        _ = try? node.bytes(at, 4096)
        try? node.write(at, [UInt8](repeating: 1, count: 4096))
        _ = try? node.status(at, 1 << 20)
      }
      try? node.writeZeroes(0, min(node.length, 1 << 20), .mayUnmap)
      try? node.discard(0, min(node.length, 1 << 20))
      try? node.flush()
      try? node.close()
    }
    if var image = try? Qcow2Maintenance(file: other), image.header.snapshotCount < 100 {
      let name = Qcow2Maintenance.NewSnapshot(name: "x", seconds: 0, nanoseconds: 0)
      _ = try? image.createSnapshot(name)
      try? image.applySnapshot(0)
      try? image.deleteSnapshot(0)
    }
    #expect(cpu() - start < 20, "\(told) took \(cpu() - start) s of CPU")
  }

  @Test func tablesThatReferToThemselvesAreSurvived() throws {
    let disk = try Self.sample()
    let header = try Qcow2Header.read(from: disk)
    let l2 = Fields(try disk.bytes(header.l1TableOffset, 8)).u64(0) & 0x00FF_FFFF_FFFF_FE00
    let block = Fields(try disk.bytes(header.refcountTableOffset, 8)).u64(0)
    let copied: UInt64 = 1 << 63
    for (name, at, value) in [
      ("L1 to L1", header.l1TableOffset, header.l1TableOffset | copied),
      ("L1 to header", header.l1TableOffset, copied),
      ("L2 to itself", l2, l2 | copied), ("L2 to the header", l2, copied),
      ("L2 to the refcounts", l2, block | copied),
      ("refcounts to L2", header.refcountTableOffset, l2),
      ("refcounts to their table", header.refcountTableOffset, header.refcountTableOffset),
      ("the L1 table in the refcounts", 40, block), ("the refcounts in the L1 table", 48, l2),
      ("everything in the header", 40, 0),
    ] {
      let image = disk.copy()
      try put(image, at, value)
      try survive(image, name)
    }
  }

  @Test func oneTableForAllIsCountedOnce() throws {
    // Four million entries, all of one L2 table of a quarter of a million entries that all mean one cluster.
    let disk = MemoryDisk()
    var header = Qcow2Header()
    header.clusterBits = 21
    header.size = 1 << 50
    header.l1Size = UInt32(header.l1Entries(for: header.size))
    header.l1TableOffset = 8 << 21
    header.refcountTableOffset = 1 << 21
    header.refcountTableClusters = 4
    try header.write(to: disk)
    var table = BigEndianBytes()
    for _ in 0..<1 << 18 { table.u64(6 << 21 | 1 << 63) }
    try disk.write(5 << 21, table.bytes)
    var l1 = BigEndianBytes()
    for _ in 0..<header.l1Size { l1.u64(5 << 21 | 1 << 63) }
    try disk.write(header.l1TableOffset, l1.bytes)
    try put(disk, header.refcountTableOffset, 7 << 21)
    let start = cpu()
    var lines = 0
    let report = try Qcow2Check.run(on: disk) { _ in lines += 1 }
    #expect(report.corruptions > 0)
    #expect(cpu() - start < 10)
  }

  @Test func absurdNumbersAreRefusedOrSurvived() throws {
    let disk = try Self.sample()
    var random = SeededRandom(7)
    for field in [8, 16, 20, 24, 32, 36, 40, 48, 56, 60, 64, 72, 80, 88, 96, 100, 104] {
      for value: UInt64 in [
        0xFF, 0xFFFF_FFFF, 0x7FFF_FFFF_FFFF_FE00, 0x8000_0000_0000_0000, 0xFFFF_FFFF_FFFF_FFFF,
        0x0040_0000_0040_0000, UInt64.random(in: 0...UInt64.max, using: &random),
      ] {
        // Of huge snapshot tables one is enough for a debug build.
        if field == 60, value != 0xFF, value != 0xFFFF_FFFF_FFFF_FFFF { continue }
        let image = disk.copy()
        try put(image, UInt64(field), value)
        try survive(image, "field \(field) is \(value)")
      }
    }
  }

  @Test func truncatedImagesAreRefusedOrRepaired() throws {
    let disk = try Self.sample { $0.clusterSize = 4096 }
    for length in [0, 1, 71, 72, 104, 512, 4096, 8192, 12288, 16384, 20480, 100_000, 1_000_000] {
      let image = disk.copy()
      try image.truncate(to: UInt64(length), .off)
      try survive(image, "cut to \(length)")
    }
  }

  @Test func aFileFullOfHolesCostsNothing() throws {
    // As large as a check allows, with tables far apart in it.
    let disk = try Self.sample()
    let header = try Qcow2Header.read(from: disk)
    try disk.truncate(to: UInt64(Int32.max) << 16, .off)
    let l2 = Fields(try disk.bytes(header.l1TableOffset, 8)).u64(0) & 0x00FF_FFFF_FFFF_FE00
    for index in 0..<UInt64(header.l2Entries) {
      try put(disk, l2 + index * 8, (index * 262_144 + 5) << 16 | 1 << 63)
    }
    let start = cpu()
    _ = try? Qcow2Check.run(on: disk) { _ in }
    #expect(cpu() - start < 10)
  }

  @Test func anotherWidthOfRefcountsTakesNoLongerInALongSparseFile() throws {
    let disk = try Self.sample()
    try disk.truncate(to: 1 << 50, .off)
    var options = Qcow2AmendOptions()
    options.refcountBits = 64
    let start = cpu()
    var image = try Qcow2Maintenance(file: disk)
    try image.amend(options)
    #expect(cpu() - start < 10)
    try disk.truncate(to: 64 << 20, .off)
    #expect(try Qcow2Check.run(on: disk) { _ in }.corruptions == 0)
  }

  @Test func anotherWidthOfRefcountsKeepsTablesBehindTheEndOfTheFile() throws {
    // An image without data, whose L1 table is all zeros and not in the file.
    let disk = MemoryDisk()
    var options = Qcow2CreateOptions(size: 256 << 10)
    options.clusterSize = 4096
    try Qcow2Image.create(on: disk, options)
    try disk.truncate(to: try Qcow2Header.read(from: disk).l1TableOffset, .off)
    var amended = Qcow2AmendOptions()
    amended.refcountBits = 8
    var image = try Qcow2Maintenance(file: disk)
    try image.amend(amended)
    let report = try Qcow2Check.run(on: disk) { _ in }
    #expect(report.corruptions == 0 && report.checkErrors == 0)
  }

  @Test func blocksThatTwoEntriesShareAreRefused() throws {
    let disk = try Self.sample()
    let header = try Qcow2Header.read(from: disk)
    let block = Fields(try disk.bytes(header.refcountTableOffset, 8)).u64(0)
    try put(disk, header.refcountTableOffset + 8, block)
    #expect(throws: BlockError.self) { _ = try Qcow2Maintenance(file: disk) }
  }

  @Test func whatCannotBeCountedIsNotCalledRepaired() throws {
    // Refcounts of one bit, a cluster that is used twice, and one that is not counted at all, so that all is counted anew.
    let disk = try Self.sample { $0.refcountBits = 1 }
    let header = try Qcow2Header.read(from: disk)
    let l2 = Fields(try disk.bytes(header.l1TableOffset, 8)).u64(0) & 0x00FF_FFFF_FFFF_FE00
    let entry = Fields(try disk.bytes(l2, 8)).u64(0)
    try put(disk, l2 + 16 * 8, entry)
    let block = Fields(try disk.bytes(header.refcountTableOffset, 8)).u64(0)
    try disk.write(block, [UInt8](repeating: 0, count: 4))
    #expect(try Qcow2Check.run(on: disk, repair: .all) { _ in }.corruptions > 0)
  }

  @Test func manySnapshotsOfOneTableAreNotReadOneByOne() throws {
    let disk = try Self.sample()
    var header = try Qcow2Header.read(from: disk)
    var table = Qcow2SnapshotTable()
    for number in 0..<3_000 {
      var snapshot = Qcow2Snapshot()
      snapshot.id = "\(number)"
      snapshot.l1TableOffset = header.l1TableOffset
      snapshot.l1Size = 1 << 14
      table.snapshots.append(snapshot)
    }
    header.snapshotsOffset = 1 << 30
    header.snapshotCount = UInt32(table.snapshots.count)
    try disk.write(header.snapshotsOffset, try table.serialize())
    try header.write(to: disk)
    let start = cpu()
    let report = try Qcow2Check.run(on: disk) { _ in }
    #expect(report.corruptions > 0)
    #expect(cpu() - start < 10)
  }

  @Test func randomDamageIsSurvived() throws {
    var random = SeededRandom()
    for round in 0..<60 {
      let disk = try Self.sample {
        $0.clusterSize = [512, 4096, 16384, 65536][round % 4]
        $0.size = 8 << 20
        $0.extendedL2 = round % 8 == 2
      }
      let header = try Qcow2Header.read(from: disk)
      for _ in 0..<Int.random(in: 1...20, using: &random) {
        let at = Int.random(in: 0..<12 * header.clusterSize, using: &random)
        try disk.write(UInt64(at), [UInt8.random(in: 0...255, using: &random)])
      }
      try survive(disk, "seed \(random.seed) round \(round)")
    }
  }
}
