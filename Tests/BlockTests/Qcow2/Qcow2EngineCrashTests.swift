import Block
import Glibc
import Host
import Testing

/// What an image looks like when the power went off: of all writes since the last flush of the file, any may have arrived, whole or in part.
@Suite struct Qcow2EngineCrashTests {
  private struct Operation {
    /// Events in the log when it began.
    var start: Int
    var range: Range<Int>
  }

  private struct Run {
    var options: Qcow2CreateOptions
    var base: MemoryDisk
    var log: [MemoryDisk.Event] = []
    var operations: [Operation] = []
    /// What had been flushed at each mark.
    var flushed: [[UInt8]]
    var text: String
  }

  @Test(arguments: 1...12) func whatWasFlushedIsThereAndNothingIsCorrupt(seed: Int) throws {
    let rounds = getenv("GOLIATH_ROUNDS").flatMap { Int(String(cString: $0)) } ?? 2
    for round in 0..<rounds {
      var random = SeededRandom(UInt64(seed * 1_000_000 + round))
      let run = try work(&random)
      for _ in 0..<12 { try crash(run, &random) }
    }
  }

  private func work(_ random: inout SeededRandom) throws -> Run {
    let bits = [9, 12, 12, 14, 16].randomElement(using: &random) ?? 12
    let size = Int.random(in: 64...512, using: &random) * 512
    var options = Qcow2CreateOptions(size: UInt64(size))
    options.clusterSize = 1 << UInt64(bits)
    options.extendedL2 = bits >= 14 && random.chance(60)
    options.lazyRefcounts = random.chance(20)
    options.refcountBits = 1 << UInt64.random(in: 0...6, using: &random)
    let file = MemoryDisk()
    try Qcow2Image.create(on: file, options)
    var model = [UInt8](repeating: 0, count: size)
    var run = Run(
      options: options, base: file.copy(), flushed: [model],
      text: "seed \(random.seed): \(options)")
    file.record()
    var opening = Qcow2Options()
    opening.l2CacheSize = 1
    let node = try Qcow2Node.open(
      name: "n", file: file, backing: nil, dataFile: nil, options: opening)
    for _ in 0..<60 {
      let unit = random.chance(50) ? Int(options.clusterSize) : 512
      let start = Int.random(in: 0..<size, using: &random) / unit * unit
      let end = min(size, start + unit * Int.random(in: 1...3, using: &random))
      let range = start..<end
      run.operations.append(Operation(start: file.log.count, range: range))
      let bytes = [UInt8](repeating: UInt8.random(in: 1...255, using: &random), count: range.count)
      switch Int.random(in: 0..<100, using: &random) {
      case 0..<45:
        try node.write(UInt64(start), bytes)
        model.replaceSubrange(range, with: bytes)
      case 45..<58:
        try node.writeZeroes(
          UInt64(start), UInt64(range.count), random.chance(60) ? .mayUnmap : [])
        model.replaceSubrange(range, with: repeatElement(0, count: range.count))
      case 58..<68:
        try node.discard(UInt64(start), UInt64(range.count))
        model.replaceSubrange(range, with: try node.bytes(UInt64(start), range.count))
      case 68..<80 where unit == Int(options.clusterSize):
        try node.write(UInt64(start), from: IOBuffer(bytes).vector, .compressed)
        model.replaceSubrange(range, with: bytes)
      default:
        try node.flush()
        file.mark(run.flushed.count)
        run.flushed.append(model)
      }
    }
    run.log = file.log
    return run
  }

  private func crash(_ run: Run, _ random: inout SeededRandom) throws {
    guard !run.log.isEmpty else { return }
    let end = Int.random(in: 0...run.log.count, using: &random)
    var lastFlush = 0
    var mark = 0
    var markAt = 0
    for (index, event) in run.log[..<end].enumerated() {
      switch event {
      case .flush: lastFlush = index + 1
      case .mark(let number):
        mark = number
        markAt = index
      default: break
      }
    }
    let disk = run.base.copy()
    for event in run.log[..<lastFlush] { try disk.replay(event) }
    let style = Int.random(in: 0..<3, using: &random)
    for event in run.log[lastFlush..<end] {
      if style == 0 || random.chance(50) {
        try disk.replay(event)
      } else if style == 2 {
        let bits = random.next()
        try disk.replay(event) { bits >> UInt64($0 % 64) & 1 != 0 }
      }
    }
    let text = "\(run.text), \(end) of \(run.log.count) events, style \(style)"
    var opening = Qcow2Options()
    if run.options.lazyRefcounts {
      // Counted again when it is opened for writing.
      try Qcow2Node.open(
        name: "n", file: disk, backing: nil, dataFile: nil, options: opening
      ).close()
    }
    var findings: [String] = []
    let report = try Qcow2Check.run(on: disk) { findings.append($0) }
    #expect(report.corruptions == 0 && report.checkErrors == 0, "\(findings) \(text)")
    opening.readOnly = true
    let node = try Qcow2Node.open(
      name: "n", file: disk, backing: nil, dataFile: nil, options: opening)
    var untouched = [Bool](repeating: true, count: run.flushed[mark].count)
    for operation in run.operations where operation.start >= markAt && operation.start <= end {
      for index in operation.range { untouched[index] = false }
    }
    let read = try node.bytes(0, run.flushed[mark].count)
    let lost = read.indices.first { untouched[$0] && read[$0] != run.flushed[mark][$0] }
    #expect(lost == nil, "\(text)")
  }
}
