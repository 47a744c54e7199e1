import Block
import Support
import Testing

/// Images made by the real tools, whole and damaged: our check finds what theirs finds, repairs what theirs repairs, and theirs finds nothing afterwards.
@Suite(.enabled(if: QemuImg.isThere)) struct Qcow2CheckTests {
  private struct Outcome: Equatable {
    var corruptions: UInt64
    var leaks: UInt64
    var checkErrors: UInt64
    var end: UInt64
    var allocated: UInt64
    var fragmented: UInt64
    var compressed: UInt64

    init(_ report: ImageCheckReport) {
      corruptions = report.corruptions
      leaks = report.leaks
      checkErrors = report.checkErrors
      end = report.imageEndOffset
      allocated = report.allocatedClusters
      fragmented = report.fragmentedClusters
      compressed = report.compressedClusters
    }

    /// From `qemu-img check --output=json`; members that are 0 are left out there.
    init(json text: String) {
      func field(_ name: String) -> UInt64 {
        guard let line = text.split(separator: "\n").first(where: { $0.contains("\"\(name)\":") })
        else { return 0 }
        return UInt64(line.drop { $0 != ":" }.filter { $0.isNumber }) ?? 0
      }
      corruptions = field("corruptions")
      leaks = field("leaks")
      checkErrors = field("check-errors")
      end = field("image-end-offset")
      allocated = field("allocated-clusters")
      fragmented = field("fragmented-clusters")
      compressed = field("compressed-clusters")
    }
  }

  /// A random image of random features, made by `qemu-img` and `qemu-io`.
  static func makeImage(_ path: String, _ random: inout SeededRandom) throws -> String {
    var options: [String] = []
    let isOld = random.chance(15)
    if isOld { options.append("compat=0.10") }
    var bits = Int.random(in: 9...17, using: &random)
    if !isOld {
      options.append("refcount_bits=\(1 << Int.random(in: 1...6, using: &random))")
      if random.chance(20) {
        options.append("extended_l2=on")
        bits = max(bits, 14)
      }
      if random.chance(30) { options.append("lazy_refcounts=on") }
      if random.chance(30) { options.append("compression_type=zstd") }
    }
    options.append("cluster_size=\(1 << bits)")
    let text = options.joined(separator: ",")
    let made = try QemuImg.run("create", "-q", "-f", "qcow2", "-o", text, path, "16M")
    #expect(made.status == 0, "\(made.text)")
    for _ in 0..<Int.random(in: 1...3, using: &random) {
      var commands: [String] = []
      for _ in 0..<Int.random(in: 1...25, using: &random) {
        let at = Int.random(in: 0..<16 << 20, using: &random) / 512 * 512
        let count = min(16 << 20 - at, Int.random(in: 512...200_000, using: &random) / 512 * 512)
        let verbs = ["write -P 7", "write -P 9", "write -z", "discard", "write -c"]
        let verb = verbs[Int.random(in: 0..<5, using: &random)]
        if verb == "write -c" {
          commands += ["-c", "write -c -P 3 \((at >> bits) << bits) \(1 << bits)"]
        } else {
          commands += ["-c", "\(verb) \(at) \(count)"]
        }
      }
      _ = try Support.Process.output(["qemu-io", "-f", "qcow2"] + commands + [path])
      if random.chance(40), !text.contains("refcount_bits=2,") {
        _ = try QemuImg.run("snapshot", "-c", "s\(Int.random(in: 0...999, using: &random))", path)
      }
    }
    return text
  }

  @Test(arguments: 0..<12) func whatQemuWroteIsFoundInOrder(_ round: Int) throws {
    var random = SeededRandom()
    let folder = ScratchFolder()
    let path = folder.file("image.qcow2")
    let options = try Self.makeImage(path, &random)
    var lines: [String] = []
    let report = try Qcow2Check.run(on: MemoryDisk.load(path)) { lines.append($0) }
    let theirs = try QemuImg.run("check", "--output=json", path)
    #expect(
      Outcome(report) == Outcome(json: theirs.text),
      "seed \(random.seed) \(options)\n\(lines)\n\(theirs.text)")
  }

  /// Changes bytes of metadata: the refcount table, blocks, L1, L2 tables.
  private static func damage(_ disk: MemoryDisk, _ random: inout SeededRandom) throws -> String {
    let header = try Qcow2Header.read(from: disk)
    let table = try disk.bytes(header.refcountTableOffset, 8)
    let l1 = try disk.bytes(header.l1TableOffset, Int(header.l1Size) * 8)
    var places = [(header.refcountTableOffset, 8), (header.l1TableOffset, l1.count)]
    let block = Fields(table).u64(0)
    places += [(block, 512), (block, 512), (block, 512)]
    for index in 0..<Int(header.l1Size) {
      let l2 = Fields(l1).u64(index * 8) & 0x00FF_FFFF_FFFF_FE00
      if l2 != 0 { places += [(l2, header.clusterSize), (l2, header.clusterSize)] }
    }
    var done = ""
    for _ in 0..<Int.random(in: 1...3, using: &random) {
      let (start, count) = places[Int.random(in: 0..<places.count, using: &random)]
      let at = start + UInt64(Int.random(in: 0..<max(1, count), using: &random))
      let value = random.chance(50) ? 0 : UInt8.random(in: 0...255, using: &random)
      try disk.write(at, [value])
      done += " \(at)=\(value)"
    }
    return done
  }

  @Test(arguments: 0..<30) func damageIsFoundAndRepairedAsByQemu(_ round: Int) throws {
    var random = SeededRandom()
    let folder = ScratchFolder()
    let path = folder.file("image.qcow2")
    let options = try Self.makeImage(path, &random)
    let disk = MemoryDisk.load(path)
    let damage = try Self.damage(disk, &random)
    disk.save(path)
    var lines: [String] = []
    let theirs = try QemuImg.run("check", "--output=json", path)
    let report = try Qcow2Check.run(on: disk) { lines.append($0) }
    let told: Comment =
      "seed \(random.seed) \(options)\(damage)\n\(lines.joined(separator: "\n"))\n\(theirs.text)"
    #expect(Outcome(report) == Outcome(json: theirs.text), told)

    // Repaired by both: what is left is the same.
    _ = try Qcow2Check.run(on: disk, repair: .all) { lines.append($0) }
    let ours = folder.file("ours.qcow2")
    disk.save(ours)
    _ = try QemuImg.run("check", "-r", "all", path)
    let left = Outcome(json: try QemuImg.run("check", "--output=json", ours).text)
    let leftTheirs = Outcome(json: try QemuImg.run("check", "--output=json", path).text)
    // QEMU makes a file longer for a refcount block outside, which makes other references right that were not. And each has its own way
    // to go on when an L2 table is the image's header.
    if !lines.contains(where: { $0.contains("outside image") || $0.contains("check failed") }) {
      #expect(left.corruptions <= leftTheirs.corruptions, told)
      #expect(left.leaks <= leftTheirs.leaks, told)
    }
    let again = try Qcow2Check.run(on: disk) { _ in }
    #expect(Outcome(again) == left, told)
    // What can be read is the same.
    let compared = try QemuImg.run("compare", "-f", "qcow2", "-F", "qcow2", ours, path)
    if left.corruptions == 0, leftTheirs.corruptions == 0 {
      // 1 is a difference; damage may have hit a compressed cluster, which neither can read.
      #expect(compared.status != 1, "\(compared.text)\(told)")
    }
  }

  @Test func leaksAreRepairedWithoutTouchingAnythingElse() throws {
    let folder = ScratchFolder()
    let path = folder.file("image.qcow2")
    _ = try QemuImg.run("create", "-q", "-f", "qcow2", path, "64M")
    _ = try Support.Process.output(["qemu-io", "-c", "write 0 10M", path])
    let disk = MemoryDisk.load(path)
    // The L1 entry goes: its table and all its clusters leak.
    let header = try Qcow2Header.read(from: disk)
    try disk.write(header.l1TableOffset, [UInt8](repeating: 0, count: 8))
    let report = try Qcow2Check.run(on: disk, repair: .leaks) { _ in }
    #expect(report.leaksFixed == 161)
    #expect(report.leaks == 0 && report.corruptions == 0)
    let again = try Qcow2Check.run(on: disk) { _ in }
    #expect(again.leaks == 0 && again.corruptions == 0)
  }
}
