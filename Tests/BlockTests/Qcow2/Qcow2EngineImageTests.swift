import Block
import Glibc
import Host
import Support
import Synchronization
import Testing

/// Images that `qemu-img` has made, and images with damage.
@Suite struct Qcow2EngineImageTests {
  private static func content(_ size: Int) -> [UInt8] {
    // Text-like, noise and zeros, by turns.
    var random = SeededRandom(11)
    var bytes = [UInt8](repeating: 0, count: size)
    for start in stride(from: 0, to: size, by: 24 * 1024) {
      let kind = start / (24 * 1024) % 3
      if kind == 2 { continue }
      for index in start..<min(size, start + 24 * 1024) {
        bytes[index] =
          kind == 0
          ? UInt8(97 + index * index / 7 % 13)
          : UInt8(truncatingIfNeeded: random.next())
      }
    }
    return bytes
  }

  @Test(
    .enabled(if: QemuImg.isThere),
    arguments: [
      "", "compat=0.10", "cluster_size=512", "cluster_size=4k,refcount_bits=8",
      "cluster_size=2M", "extended_l2=on", "extended_l2=on,cluster_size=16k",
      "refcount_bits=64,lazy_refcounts=on", "compression_type=zstd",
    ]
  ) func imagesOfQemuAreReadAndWritten(features: String) throws {
    let folder = ScratchFolder()
    let bytes = Self.content(900 * 1024 + 512)
    let raw = MemoryDisk()
    try raw.write(0, bytes)
    raw.save(folder.file("raw"))
    for compressed in [false, true] {
      var arguments = ["convert", "-f", "raw", "-O", "qcow2"]
      if compressed { arguments.append("-c") }
      if !features.isEmpty { arguments += ["-o", features] }
      arguments += [folder.file("raw"), folder.file("image")]
      let made = try QemuImg.run(arguments)
      try #require(made.status == 0, "\(made.text)")
      let snapshot = try QemuImg.run("snapshot", "-c", "before", folder.file("image"))
      try #require(snapshot.status == 0, "\(snapshot.text)")
      let file = MemoryDisk.load(folder.file("image"))
      let node = try Qcow2Node.open(
        name: "n", file: file, backing: nil, dataFile: nil, options: Qcow2Options())
      #expect(try node.bytes(0, bytes.count) == bytes)
      // Everything is shared with the snapshot, which must stay as it is.
      var model = bytes
      var random = SeededRandom(5)
      for _ in 0..<60 {
        let start = Int.random(in: 0..<bytes.count, using: &random)
        let count = min(bytes.count - start, Int.random(in: 1...30_000, using: &random))
        if random.chance(20) {
          try node.writeZeroes(UInt64(start), UInt64(count), .mayUnmap)
          model.replaceSubrange(start..<start + count, with: repeatElement(0, count: count))
        } else {
          let new = [UInt8](repeating: UInt8.random(in: 0...255, using: &random), count: count)
          try node.write(UInt64(start), new)
          model.replaceSubrange(start..<start + count, with: new)
        }
      }
      #expect(try node.bytes(0, bytes.count) == model)
      try node.close()
      file.save(folder.file("image"))
      let flat = MemoryDisk()
      try flat.write(0, model)
      flat.save(folder.file("flat"))
      let check = try QemuImg.run("check", folder.file("image"))
      #expect(check.status == 0, "\(features) \(check.text)")
      let now = try QemuImg.run(
        "compare", "-f", "qcow2", "-F", "raw", folder.file("image"), folder.file("flat"))
      #expect(now.status == 0, "\(features) \(now.text)")
      let back = try QemuImg.run("snapshot", "-a", "before", folder.file("image"))
      #expect(back.status == 0, "\(back.text)")
      let before = try QemuImg.run(
        "compare", "-f", "qcow2", "-F", "raw", folder.file("image"), folder.file("raw"))
      #expect(before.status == 0, "\(features) \(before.text)")
    }
  }

  private func damaged(_ damage: (MemoryDisk, UInt64) throws -> Void) throws
    -> (MemoryDisk, Qcow2Node, () -> [Qcow2Corruption])
  {
    let file = MemoryDisk()
    try Qcow2Image.create(on: file, Qcow2CreateOptions(size: 4 << 20))
    let first = try Qcow2Node.open(
      name: "n", file: file, backing: nil, dataFile: nil, options: Qcow2Options())
    try first.write(0, [UInt8](repeating: 1, count: 65536))
    try first.close()
    let l1 = first.header.l1TableOffset
    let table = Fields(try file.bytes(l1, 8)).u64(0) & Qcow2Entry.offsetMask
    try damage(file, table)
    let seen = Collected()
    var options = Qcow2Options()
    options.onCorrupt = { seen.add($0) }
    let node = try Qcow2Node.open(
      name: "n", file: file, backing: nil, dataFile: nil, options: options)
    return (file, node, { seen.all })
  }

  private final class Collected: Sendable {
    private let items = Mutex<[Qcow2Corruption]>([])
    func add(_ item: Qcow2Corruption) { items.withLock { $0.append(item) } }
    var all: [Qcow2Corruption] { items.withLock { $0 } }
  }

  private func entry(_ value: UInt64) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64(56 - 8 * $0)) }
  }

  private func expectRefused(_ file: MemoryDisk, _ node: Qcow2Node, _ write: () throws -> Void)
    throws
  {
    let before = file.copy()
    #expect(throws: BlockError.self) { try write() }
    #expect(throws: BlockError.self) { try node.write(2 << 20, [1, 2, 3]) }
    #expect(node.isCorrupt)
    try? node.close()
    let header = try Qcow2Header.read(from: file)
    #expect(header.incompatible.contains(.corrupt))
    // Nothing but the mark was written.
    let size = Int(before.length) - 512
    #expect(try file.bytes(512, size) == before.bytes(512, size))
    #expect(throws: BlockError.self) {
      try Qcow2Node.open(
        name: "n", file: file, backing: nil, dataFile: nil, options: Qcow2Options())
    }
  }

  @Test func writesOverMetadataAreRefusedAndTheImageMarked() throws {
    // The first cluster's data lies where the refcount table is.
    let (file, node, seen) = try damaged { file, table in
      try file.write(table, self.entry(0x1_0000 | Qcow2Entry.copied))
    }
    try expectRefused(file, node) { try node.write(0, [9]) }
    #expect(seen().count == 1)
    #expect(
      seen().first?.message == "Preventing invalid write on data (overlaps with refcount table)")
    #expect(seen().first?.isFatal == true)
  }

  @Test func clustersThatMetadataUsesAreNotAllocated() throws {
    // No refcounts at all: everything looks free.
    let (file, node, seen) = try damaged { file, _ in
      try file.write(2 * 65536, [UInt8](repeating: 0, count: 64))
    }
    try expectRefused(file, node) { try node.write(1 << 20, [9]) }
    #expect(seen().count == 1)
  }

  @Test func unalignedEntriesAreRefused() throws {
    let (file, node, seen) = try damaged { file, table in
      try file.write(table, self.entry((table + 65536 + 512) | Qcow2Entry.copied))
    }
    #expect(throws: BlockError.self) { try node.bytes(0, 512) }
    #expect(seen().first?.message.contains("unaligned") == true)
    try expectRefused(file, node) { try node.write(0, [9]) }
    #expect(seen().count == 1)
  }

  @Test func discardsReachTheFileWhenTheyMay() throws {
    for isPassed in [false, true] {
      let file = MemoryDisk()
      try Qcow2Image.create(on: file, Qcow2CreateOptions(size: 4 << 20))
      var options = Qcow2Options()
      options.discard = isPassed
      let node = try Qcow2Node.open(
        name: "n", file: file, backing: nil, dataFile: nil, options: options)
      try node.write(0, [UInt8](repeating: 1, count: 1 << 20))
      let place = try #require(try node.status(0, 65536).hostOffset)
      try node.discard(0, 1 << 20)
      try node.flush()
      #expect(try node.bytes(0, 65536).allSatisfy { $0 == 0 })
      #expect(try file.bytes(place, 512).allSatisfy { $0 == 0 } == isPassed)
      // The place is used again.
      try node.write(2 << 20, [UInt8](repeating: 2, count: 1 << 20))
      #expect(try node.status(2 << 20, 65536).hostOffset == place)
      try node.close()
    }
  }

  @Test(.enabled(if: QemuImg.isThere)) func aShrunkImageKeepsItsSnapshotAndGrowsWithZeros() throws {
    let folder = ScratchFolder()
    let file = MemoryDisk()
    var options = Qcow2CreateOptions(size: 1 << 20)
    options.clusterSize = 4096
    try Qcow2Image.create(on: file, options)
    var node = try Qcow2Node.open(
      name: "n", file: file, backing: nil, dataFile: nil, options: Qcow2Options())
    let bytes = Self.content(1 << 20)
    try node.write(0, bytes)
    try node.close()
    file.save(folder.file("image"))
    #expect(try QemuImg.run("snapshot", "-c", "before", folder.file("image")).status == 0)
    let image = MemoryDisk.load(folder.file("image"))
    node = try Qcow2Node.open(
      name: "n", file: image, backing: nil, dataFile: nil, options: Qcow2Options())
    try node.write(300_000, [1, 2, 3])
    try node.truncate(to: 100_352, .off)
    #expect(try node.bytes(0, 100_352) == Array(bytes[..<100_352]))
    try node.truncate(to: 2 << 20, .off)
    let all = try node.bytes(0, 2 << 20)
    #expect(Array(all[..<100_352]) == Array(bytes[..<100_352]))
    #expect(all[100_352...].allSatisfy { $0 == 0 })
    try node.close()
    image.save(folder.file("image"))
    let check = try QemuImg.run("check", folder.file("image"))
    #expect(check.status == 0, "\(check.text)")
    let raw = MemoryDisk()
    try raw.write(0, bytes)
    raw.save(folder.file("raw"))
    #expect(try QemuImg.run("snapshot", "-a", "before", folder.file("image")).status == 0)
    let compare = try QemuImg.run(
      "compare", "-f", "qcow2", "-F", "raw", folder.file("image"), folder.file("raw"))
    #expect(compare.status == 0, "\(compare.text)")
  }

  @Test func aSmallerBackingFileEndsInZeros() throws {
    let base = MemoryDisk()
    try base.write(0, [UInt8](repeating: 7, count: 100_000))
    let file = MemoryDisk()
    var options = Qcow2CreateOptions(size: 1 << 20)
    options.backingFile = "base"
    options.backingFormat = "raw"
    try Qcow2Image.create(on: file, options)
    let node = try Qcow2Node.open(
      name: "n", file: file, backing: base, dataFile: nil, options: Qcow2Options())
    try node.write(99_999, [1, 2, 3])
    let read = try node.bytes(99_990, 40)
    #expect(read == [UInt8](repeating: 7, count: 9) + [1, 2, 3] + [UInt8](repeating: 0, count: 28))
    let status = try node.status(512 << 10, 512 << 10)
    #expect(!status.isAllocated && status.isZero && status.length == 512 << 10)
  }

  @Test func imagesThatCannotBeKeptAreNotWritten() throws {
    let file = MemoryDisk()
    try Qcow2Image.create(on: file, Qcow2CreateOptions(size: 1 << 20))
    // LUKS.
    try file.write(32, [0, 0, 0, 2])
    var options = Qcow2Options()
    #expect(throws: BlockError.self) {
      try Qcow2Node.open(name: "n", file: file, backing: nil, dataFile: nil, options: options)
    }
    options.readOnly = true
    let node = try? Qcow2Node.open(
      name: "n", file: file, backing: nil, dataFile: nil, options: options)
    if let node {
      #expect(throws: BlockError.self) { try node.bytes(0, 512) }
    }
  }

  /// Whatever is damaged, requests end, with an error or without; nothing crashes.
  @Test(arguments: 1...8) func anyDamageIsSurvived(seed: Int) throws {
    let rounds = getenv("GOLIATH_ROUNDS").flatMap { Int(String(cString: $0)) } ?? 6
    for round in 0..<rounds {
      var trial = try Qcow2Trial(seed: UInt64(seed * 1_000_000 + round))
      for _ in 0..<25 { try trial.step() }
      try trial.node.close()
      var random = trial.random
      for isReadOnly in [true, false] {
        let file = trial.file.copy()
        for _ in 0..<Int.random(in: 1...12, using: &random) {
          // Mostly tables, whose places are small multiples of a cluster.
          let cluster = UInt64.random(in: 0..<8, using: &random) * trial.options.clusterSize
          let place = cluster + UInt64.random(in: 0..<64, using: &random) * 8
          let special: [UInt64] = [
            0, 1, 0x8000, 0x10000 | Qcow2Entry.copied, 0x20000 | Qcow2Entry.copied, UInt64.max,
            UInt64(Int64.max), Qcow2Entry.compressed | 0x30005, 0xFFFF_FFFF_FFFF_0000,
          ]
          let word = random.chance(60) ? special.randomElement(using: &random) ?? 0 : random.next()
          // The header's size stays small, or the test would read for long.
          try file.write(cluster == 0 && place < 104 ? place + 128 : place, entry(word))
        }
        var opening = trial.opening
        opening.readOnly = isReadOnly
        guard
          let node = try? Qcow2Node.open(
            name: "n", file: file, backing: trial.backing, dataFile: trial.dataFile,
            options: opening)
        else { continue }
        for _ in 0..<40 {
          let start = UInt64.random(in: 0..<node.length, using: &random)
          let count = min(node.length - start, UInt64.random(in: 1...70_000, using: &random))
          switch Int.random(in: 0..<8, using: &random) {
          case 0, 1: _ = try? node.bytes(start, Int(count))
          case 2, 3:
            try? node.write(start, [UInt8](repeating: 3, count: Int(count)))
          case 4: try? node.writeZeroes(start, count, .mayUnmap)
          case 5: try? node.discard(start, count)
          case 6: _ = try? node.status(start, count)
          default: try? node.flush()
          }
        }
        try? node.truncate(to: node.length / 512 * 512 + 65536, .metadata)
        try? node.close()
      }
    }
  }
}
