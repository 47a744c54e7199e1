import Block
import Glibc
import Host
import Testing

/// What is left of an image when the machine stops in the middle: the log of writes is done again up to each of them, the last one torn; the image
/// opens, has leaks at worst, and what was flushed is there.
@Suite struct Qcow2CrashTests {
  /// What the image held at a flush, and where it has been written since.
  private struct Promise {
    var content: [UInt8]
    var touched: [Range<Int>] = []
  }

  private static let size = 1 << 20

  /// Checks the image that a crash left. Returns what is wrong, or nil.
  private static func verdict(
    _ disk: MemoryDisk, _ allowed: [[UInt8]], _ touched: [Range<Int>]
  ) throws -> String? {
    let header: Qcow2Header
    do { header = try Qcow2Header.read(from: disk) } catch { return "does not open: \(error)" }
    var lines: [String] = []
    let dirty = header.incompatible.contains(.dirty)
    let report = try Qcow2Check.run(on: disk, repair: dirty ? .all : .nothing) {
      lines.append($0)
    }
    if report.corruptions > 0 || report.checkErrors > 0 {
      return "\(dirty ? "dirty, " : "")check finds \(lines.prefix(6))"
    }
    let node: Qcow2Node
    do {
      node = try Qcow2Node.open(
        name: "crashed", file: disk, backing: nil, dataFile: nil, options: Qcow2Options())
    } catch { return "does not open for writing: \(error)" }
    let found = try node.bytes(0, size)
    return mismatch(found, allowed, touched)
  }

  private static func mismatch(
    _ found: [UInt8], _ allowed: [[UInt8]], _ touched: [Range<Int>]
  ) -> String? {
    if allowed.contains(found) { return nil }
    guard let promised = allowed.first else { return nil }
    var open = [Bool](repeating: false, count: size / 512)
    for range in touched where !range.isEmpty {
      for sector in range.lowerBound / 512...(range.upperBound - 1) / 512 { open[sector] = true }
    }
    for sector in 0..<size / 512 where !open[sector] {
      let range = sector * 512..<(sector + 1) * 512
      if found[range] != promised[range] {
        return "flushed data at \(sector * 512) is \(found[range.lowerBound])"
      }
    }
    return nil
  }

  /// Goes through all crashes of a log.
  private func crash(
    _ base: MemoryDisk, _ log: [MemoryDisk.Event], _ random: inout SeededRandom, _ told: String,
    every step: Int = 1, _ judge: (MemoryDisk, Int) throws -> String?
  ) throws {
    var mark = 0
    var pending: [MemoryDisk.Event] = []
    let durable = base.copy()
    for (number, event) in log.enumerated() {
      switch event {
      case .mark(let value): mark = value
      case .flush:
        for event in pending { try durable.replay(event) }
        pending = []
      default:
        if number % step == 0 {
          // In order, the last one torn.
          let disk = durable.copy()
          for event in pending { try disk.replay(event) }
          let cut = Int.random(in: 0...8, using: &random)
          try disk.replay(event) { sector in sector < cut }
          if let wrong = try judge(disk, mark) {
            Issue.record("\(told): stopped in write \(number) of \(log.count): \(wrong)")
            return
          }
        }
        if number % (step * 3) == 0 {
          // In any order since the last flush: some of them have not arrived.
          let disk = durable.copy()
          for event in pending + [event] where random.chance(50) { try disk.replay(event) }
          if let wrong = try judge(disk, mark) {
            Issue.record("\(told): some writes up to \(number) of \(log.count): \(wrong)")
            return
          }
        }
        pending.append(event)
      }
    }
  }

  @Test(arguments: 0..<8) func whatWasFlushedIsThereAfterACrash(_ round: Int) throws {
    var random = SeededRandom()
    var options = Qcow2CreateOptions(size: UInt64(Self.size))
    options.clusterSize = [512, 4096, 16384, 65536][round % 4]
    options.lazyRefcounts = round >= 4
    options.extendedL2 = round == 2 || round == 7
    if round == 7 { options.clusterSize = 16384 }
    let disk = MemoryDisk()
    try Qcow2Image.create(on: disk, options)
    let base = disk.copy()
    disk.record()
    let node = try Qcow2Node.open(
      name: "image", file: disk, backing: nil, dataFile: nil, options: Qcow2Options())
    var model = [UInt8](repeating: 0, count: Self.size)
    var promises = [Promise(content: model)]
    for _ in 0..<60 {
      if random.chance(15) {
        try node.flush()
        promises.append(Promise(content: model))
        disk.mark(promises.count - 1)
        continue
      }
      let at = Int.random(in: 0..<Self.size / 512, using: &random) * 512
      let count = min(Self.size - at, Int.random(in: 1...80, using: &random) * 512)
      promises[promises.count - 1].touched.append(at..<at + count)
      if random.chance(70) {
        let value = UInt8.random(in: 1...255, using: &random)
        try node.write(UInt64(at), [UInt8](repeating: value, count: count))
        model.replaceSubrange(at..<at + count, with: repeatElement(value, count: count))
      } else {
        try node.writeZeroes(UInt64(at), UInt64(count), .mayUnmap)
        model.replaceSubrange(at..<at + count, with: repeatElement(0, count: count))
      }
    }
    try node.close()
    let told = "seed \(random.seed) round \(round)"
    try crash(base, disk.log, &random, told, every: 2) { disk, mark in
      // A flush is promised when it has returned; what it wrote may be there before.
      var touched = promises[mark].touched
      if mark + 1 < promises.count { touched += promises[mark + 1].touched }
      return try Self.verdict(disk, [promises[mark].content], touched)
    }
  }

  @Test(arguments: ["create", "apply", "delete", "refcounts", "shrink", "header"])
  func maintenanceThatIsCutOffLeavesTheOldOrTheNew(_ what: String) throws {
    var random = SeededRandom()
    let disk = MemoryDisk()
    var options = Qcow2CreateOptions(size: UInt64(Self.size))
    options.clusterSize = 4096
    try Qcow2Image.create(on: disk, options)
    func fill(_ value: UInt8) throws -> [UInt8] {
      let node = try Qcow2Node.open(
        name: "image", file: disk, backing: nil, dataFile: nil, options: Qcow2Options())
      for part in 0..<20 where part % Int(value + 1) != 0 {
        try node.write(UInt64(part * 50_000 / 512 * 512), [UInt8](repeating: value, count: 20480))
      }
      let content = try node.bytes(0, Self.size)
      try node.close()
      return content
    }
    let first = try fill(1)
    var image = try Qcow2Maintenance(file: disk)
    let name = Qcow2Maintenance.NewSnapshot(name: "one", seconds: 1, nanoseconds: 2)
    _ = try image.createSnapshot(name)
    let second = try fill(2)
    let base = disk.copy()
    disk.record()
    image = try Qcow2Maintenance(file: disk)
    switch what {
    case "create": _ = try image.createSnapshot(name)
    case "apply": try image.applySnapshot(0)
    case "delete": try image.deleteSnapshot(0)
    case "refcounts":
      var amended = Qcow2AmendOptions()
      amended.refcountBits = 32
      try image.amend(amended)
    case "header": try image.setBackingFile(nil, format: nil)
    default:
      try image.deleteSnapshot(0)
      let node = try Qcow2Node.open(
        name: "image", file: disk, backing: nil, dataFile: nil, options: Qcow2Options())
      try node.truncate(to: UInt64(Self.size / 2), .off)
      try node.truncate(to: UInt64(Self.size), .off)
      try node.close()
    }
    let log = disk.log
    try crash(base, log, &random, "\(what), seed \(random.seed)") { disk, _ in
      // Cutting off is allowed to have cut off.
      let touched = what == "shrink" ? [Self.size / 2..<Self.size] : []
      return try Self.verdict(disk, what == "apply" ? [second, first] : [second], touched)
    }
    let end = base.copy()
    for event in log { try end.replay(event) }
    let expected = what == "apply" ? first : second
    let report = try Qcow2Check.run(on: end) { _ in }
    #expect(report.leaks == 0 && report.corruptions == 0)
    #expect(
      try Self.verdict(end, [expected], what == "shrink" ? [Self.size / 2..<Self.size] : []) == nil)
  }
}
