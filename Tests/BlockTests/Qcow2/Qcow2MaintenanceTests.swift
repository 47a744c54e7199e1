import Block
import Glibc
import Support
import Testing

/// Whole images changed by ours and judged by the real tools.
@Suite(.enabled(if: QemuImg.isThere)) struct Qcow2MaintenanceTests {
  private func snapshot(_ name: String) -> Qcow2Maintenance.NewSnapshot {
    Qcow2Maintenance.NewSnapshot(name: name, seconds: 1_700_000_000, nanoseconds: 5)
  }

  private func content(_ path: String, _ folder: ScratchFolder) throws -> MemoryDisk {
    let raw = folder.file("content.raw")
    let converted = try QemuImg.run("convert", "-f", "qcow2", "-O", "raw", path, raw)
    #expect(converted.status == 0, "\(converted.text)")
    return MemoryDisk.load(raw)
  }

  private func expectClean(_ path: String, _ told: Comment) throws {
    let checked = try QemuImg.run("check", path)
    #expect(checked.status == 0, "\(checked.text)\(told)")
  }

  @Test(arguments: 0..<8) func snapshotsAreTakenAppliedAndDeletedAsQemuReadsThem(_ round: Int)
    throws
  {
    var random = SeededRandom()
    let folder = ScratchFolder()
    let path = folder.file("image.qcow2")
    let told: Comment =
      "seed \(random.seed) \(try Qcow2CheckTests.makeImage(path, &random))"
    var disk = MemoryDisk.load(path)
    if try Qcow2Header.read(from: disk).maximumRefcount < 40 { return }
    let before = try content(path, folder)

    var image = try Qcow2Maintenance(file: disk)
    let first = try image.createSnapshot(snapshot("first"))
    disk.save(path)
    try expectClean(path, told)
    #expect(try content(path, folder).firstDifference(from: before) == nil, told)
    let listed = try QemuImg.run("snapshot", "-l", path)
    #expect(listed.text.contains("first"), told)

    // They write; we take another one; then back to the first.
    _ = try Support.Process.output([
      "qemu-io", "-f", "qcow2", "-c", "write -P 77 1M 3M", "-c", "discard 8M 1M", path,
    ])
    let written = try content(path, folder)
    disk = MemoryDisk.load(path)
    image = try Qcow2Maintenance(file: disk)
    _ = try image.createSnapshot(snapshot("second"))
    var table = try image.snapshots()
    try image.applySnapshot(try #require(table.index(id: first.id, name: nil)))
    disk.save(path)
    try expectClean(path, told)
    #expect(try content(path, folder).firstDifference(from: before) == nil, told)

    // They apply the second one of ours, and write again.
    let applied = try QemuImg.run("snapshot", "-a", "second", path)
    #expect(applied.status == 0, "\(applied.text)\(told)")
    #expect(try content(path, folder).firstDifference(from: written) == nil, told)
    _ = try Support.Process.output([
      "qemu-io", "-f", "qcow2", "-c", "write -P 78 0 2M", path,
    ])
    let last = try content(path, folder)
    disk = MemoryDisk.load(path)
    image = try Qcow2Maintenance(file: disk)
    while true {
      table = try image.snapshots()
      if table.snapshots.isEmpty { break }
      try image.deleteSnapshot(Int.random(in: 0..<table.snapshots.count, using: &random))
    }
    disk.save(path)
    try expectClean(path, told)
    #expect(try content(path, folder).firstDifference(from: last) == nil, told)
  }

  @Test func aSnapshotThatTheRefcountsCannotHoldLeavesTheImageAsItWas() throws {
    let folder = ScratchFolder()
    let path = folder.file("image.qcow2")
    _ = try QemuImg.run("create", "-q", "-f", "qcow2", "-o", "refcount_bits=1", path, "16M")
    _ = try Support.Process.output(["qemu-io", "-c", "write 0 10M", path])
    let disk = MemoryDisk.load(path)
    var image = try Qcow2Maintenance(file: disk)
    #expect(throws: BlockError.self) { try image.createSnapshot(snapshot("no")) }
    #expect(try Qcow2Header.read(from: disk).incompatible == [])
    let report = try Qcow2Check.run(on: disk) { _ in }
    #expect(report.corruptions == 0 && report.leaks == 0)
  }

  @Test func extraDataOfSnapshotsIsKept() throws {
    var table = Qcow2SnapshotTable()
    var one = Qcow2Snapshot()
    one.id = "7"
    one.name = "näme"
    one.vmStateSize = 1 << 33
    one.diskSize = 12345
    one.instructionCount = 99
    one.unknownExtra = [1, 2, 3]
    table.snapshots = [one, one]
    let bytes = try table.serialize()
    let disk = MemoryDisk()
    try disk.write(65536, bytes)
    var header = Qcow2Header()
    header.snapshotCount = 2
    header.snapshotsOffset = 65536
    var read = try Qcow2SnapshotTable(reading: disk, header: header)
    #expect(read.byteCount == UInt64(bytes.count))
    #expect(try read.serialize() == bytes)
    #expect(read.snapshots[1].unknownExtra == [1, 2, 3])
    #expect(read.index(idOrName: "näme") == 0)
  }

  @Test(arguments: 0..<6) func imagesAreAmended(_ round: Int) throws {
    var random = SeededRandom()
    let folder = ScratchFolder()
    let path = folder.file("image.qcow2")
    _ = try QemuImg.run("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "16M")
    _ = try Support.Process.output([
      "qemu-io", "-f", "qcow2", "-c", "write -P 5 0 3M", "-c", "write -z 1M 100k", "-c",
      "write -z 10M 100k", "-c", "write -P 6 9M 64k", path,
    ])
    if round % 2 == 0 {
      _ = try QemuImg.run("snapshot", "-c", "one", path)
      _ = try Support.Process.output([
        "qemu-io", "-f", "qcow2", "-c", "write -z 9M 32k", "-c", "write -P 1 0 100k", path,
      ])
    }
    let before = try content(path, folder)
    let disk = MemoryDisk.load(path)
    for step in 0..<6 {
      var options = Qcow2AmendOptions()
      switch Int.random(in: 0..<3, using: &random) {
      case 0:
        options.refcountBits = [2, 4, 8, 16, 32, 64][Int.random(in: 0..<6, using: &random)]
        options.version = 3
      case 1:
        options.version = 2
        options.refcountBits = 16
      default:
        options.version = 3
        options.lazyRefcounts = random.chance(50)
      }
      var image = try Qcow2Maintenance(file: disk)
      try image.amend(options)
      disk.save(path)
      let told: Comment = "seed \(random.seed) step \(step) \(options)"
      try expectClean(path, told)
      #expect(try content(path, folder).firstDifference(from: before) == nil, told)
      let header = try Qcow2Header.read(from: disk)
      if let version = options.version { #expect(header.version == version) }
      if let bits = options.refcountBits { #expect(header.refcountBits == Int(bits)) }
      if let lazy = options.lazyRefcounts {
        #expect(header.compatible.contains(.lazyRefcounts) == lazy)
      }
    }
  }

  @Test func theBackingFileIsChangedInTheHeader() throws {
    let disk = MemoryDisk()
    try Qcow2Image.create(on: disk, Qcow2CreateOptions(size: 1 << 20))
    var image = try Qcow2Maintenance(file: disk)
    try image.setBackingFile("other.img", format: "raw")
    var header = try Qcow2Header.read(from: disk)
    #expect(header.backingFile == "other.img")
    #expect(header.extensions.backingFormat == "raw")
    try image.setBackingFile(nil, format: nil)
    header = try Qcow2Header.read(from: disk)
    #expect(header.backingFile == nil && header.extensions.backingFormat == nil)
  }
}
