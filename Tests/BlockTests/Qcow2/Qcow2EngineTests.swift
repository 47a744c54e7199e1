import Block
import Glibc
import Host
import Support
import Synchronization
import Testing

/// One combination of features, an image of it in memory, and what it must read as.
struct Qcow2Trial {
  var random: SeededRandom
  var options: Qcow2CreateOptions
  let file = MemoryDisk(name: "image")
  let backing: MemoryDisk?
  let dataFile: MemoryDisk?
  var model: [UInt8]
  var opening = Qcow2Options()
  var node: Qcow2Node
  var corruptions = 0

  /// Features by chance.
  init(seed: UInt64) throws {
    var random = SeededRandom(seed)
    let number = seed % 8
    let clusterBits =
      [9, 10, 12, 12, 14, 14, 16, 16, 17, number == 7 ? 21 : 13].randomElement(
        using: &random) ?? 12
    let size = UInt64.random(in: 1...(clusterBits < 12 ? 512 : 2048), using: &random) * 512
    var options = Qcow2CreateOptions(size: size)
    options.clusterSize = 1 << UInt64(clusterBits)
    if random.chance(20) {
      options.version = 2
    } else {
      options.refcountBits = 1 << UInt64.random(in: 0...6, using: &random)
      options.lazyRefcounts = random.chance(20)
      options.extendedL2 = clusterBits >= 14 && random.chance(60)
      if random.chance(30), ClusterCodec.Kind.zstd.isAvailable { options.compressionType = .zstd }
    }
    var backing: MemoryDisk?
    var model = [UInt8](repeating: 0, count: Int(size))
    if options.version == 3, random.chance(15) {
      options.dataFile = "data.raw"
      options.dataFileRaw = random.chance(50)
      options.lazyRefcounts = false
    }
    if random.chance(40), !options.dataFileRaw {
      let disk = MemoryDisk(name: "base")
      let length = Int.random(in: 1...Int(size) / 512 + 300, using: &random) * 512
      var bytes = [UInt8](repeating: 0, count: length)
      for index in 0..<length where index / 8192 % 3 != 0 {
        bytes[index] = UInt8(truncatingIfNeeded: index &* 7 &+ index / 512)
      }
      try disk.write(0, bytes)
      model.replaceSubrange(0..<min(length, model.count), with: bytes.prefix(model.count))
      options.backingFile = "base.raw"
      options.backingFormat = "raw"
      backing = disk
    }
    if options.backingFile == nil || options.extendedL2, random.chance(20) {
      options.preallocation = .metadata
    }
    let dataFile = options.dataFile == nil ? nil : MemoryDisk(name: "data")
    try Qcow2Image.create(on: file, dataFile: dataFile, options)
    opening.discard = random.chance(50)
    if random.chance(50) {
      opening.l2CacheSize = 1
      opening.refcountCacheSize = 1
    }
    node = try Qcow2Node.open(
      name: "image", file: file, backing: backing, dataFile: dataFile, options: opening)
    self.random = random
    self.options = options
    self.backing = backing
    self.dataFile = dataFile
    self.model = model
  }

  var text: String {
    "seed \(random.seed): version \(options.version), clusters of \(options.clusterSize), "
      + "refcounts of \(options.refcountBits), subclusters \(options.extendedL2), "
      + "lazy \(options.lazyRefcounts), \(options.compressionType), "
      + "backing \(backing?.length ?? 0), data file \(options.dataFile ?? "-") "
      + "\(options.dataFileRaw), preallocation \(options.preallocation), size \(model.count)"
  }

  mutating func reopen() throws {
    try node.close()
    node = try Qcow2Node.open(
      name: "image", file: file, backing: backing, dataFile: dataFile, options: opening)
  }

  /// A range, often at clusters' edges.
  mutating func range() -> Range<Int> {
    let unit = random.chance(50) ? Int(options.clusterSize) : 512
    var start = Int.random(in: 0..<model.count, using: &random)
    if random.chance(60) { start = start / unit * unit }
    var count = Int.random(in: 1...max(1, min(model.count / 4, 3 * unit)), using: &random)
    if random.chance(50) { count = (count + unit - 1) / unit * unit }
    return start..<min(model.count, start + count)
  }

  mutating func bytes(_ count: Int) -> [UInt8] {
    if random.chance(20) {
      return [UInt8](repeating: UInt8.random(in: 0...255, using: &random), count: count)
    }
    let seed = random.next()
    return (0..<count).map { UInt8(truncatingIfNeeded: (UInt64($0) &* seed) >> 40) }
  }

  func check(_ range: Range<Int>) throws -> Bool {
    let read = try node.bytes(UInt64(range.lowerBound), range.count)
    return read == Array(model[range])
  }

  mutating func step() throws {
    let range = self.range()
    let offset = UInt64(range.lowerBound)
    switch Int.random(in: 0..<100, using: &random) {
    case 0..<40:
      let bytes = self.bytes(range.count)
      try node.write(offset, bytes)
      model.replaceSubrange(range, with: bytes)
    case 40..<52:
      try node.writeZeroes(offset, UInt64(range.count), random.chance(50) ? .mayUnmap : [])
      model.replaceSubrange(range, with: repeatElement(0, count: range.count))
    case 52..<60:
      do throws(BlockError) {
        try node.discard(offset, UInt64(range.count))
      } catch {
        #expect(error.code == ENOTSUP)
        return
      }
      let read = try node.bytes(offset, range.count)
      for (index, byte) in read.enumerated() where byte != 0 {
        #expect(byte == model[range.lowerBound + index], "\(text)")
      }
      model.replaceSubrange(range, with: read)
    case 60..<72 where dataFile == nil:
      let size = Int(options.clusterSize)
      let start = range.lowerBound / size * size
      let end = min(model.count, start + size * Int.random(in: 1...3, using: &random))
      let bytes = self.bytes(end - start)
      try node.write(UInt64(start), from: IOBuffer(bytes).vector, .compressed)
      model.replaceSubrange(start..<end, with: bytes)
    case 72..<75: try node.flush()
    case 75..<76: try reopen()
    case 76..<77 where model.count < 4 << 20:
      let new = model.count / 512 * 512 + 512 * Int.random(in: 0..<64, using: &random)
      if new > model.count {
        try node.truncate(to: UInt64(new), random.chance(30) ? .metadata : .off)
        model += [UInt8](repeating: 0, count: new - model.count)
      }
    case 77..<85:
      let status = try node.status(offset, UInt64(range.count))
      #expect(status.length > 0 && status.length <= UInt64(range.count))
      if status.isZero {
        let part = range.lowerBound..<range.lowerBound + Int(status.length)
        #expect(model[part].allSatisfy { $0 == 0 }, "\(text)")
      }
    case 85..<92:
      let buffer = IOBuffer(count: range.count)
      if try node.readNow(offset, into: buffer.vector) {
        #expect(buffer.bytes == Array(model[range]), "\(text)")
      }
    default:
      #expect(try check(range), "\(text)")
    }
  }
}

@Suite struct Qcow2EngineTests {
  /// Random operations on random images: contents are those of a plain array; `qemu-img` finds nothing wrong and the same bytes.
  /// (GOLIATH_ROUNDS makes it longer.)
  @Test(arguments: 0..<16) func readsWhatWasWritten(number: Int) throws {
    let rounds = getenv("GOLIATH_ROUNDS").flatMap { Int(String(cString: $0)) } ?? 4
    for round in 0..<rounds {
      let seed = UInt64(number * 1_000_000 + round + 1)
      var trial = try Qcow2Trial(seed: seed)
      do {
        for _ in 0..<120 { try trial.step() }
        #expect(try trial.check(0..<trial.model.count), "\(trial.text)")
        try trial.reopen()
        #expect(try trial.check(0..<trial.model.count), "\(trial.text)")
        try trial.node.close()
      } catch {
        Issue.record("\(error) with \(trial.text)")
        continue
      }
      if round % 50 == 0 { try compareWithQemu(trial) }
    }
  }

  private func compareWithQemu(_ trial: Qcow2Trial) throws {
    guard QemuImg.isThere else { return }
    let folder = ScratchFolder()
    trial.file.save(folder.file("image.qcow2"))
    trial.backing?.save(folder.file("base.raw"))
    trial.dataFile?.save(folder.file("data.raw"))
    let flat = MemoryDisk()
    try flat.write(0, trial.model)
    flat.save(folder.file("flat.raw"))
    var image = "driver=qcow2,file.driver=file,file.filename=\(folder.file("image.qcow2"))"
    if trial.dataFile != nil {
      image += ",data-file.driver=file,data-file.filename=\(folder.file("data.raw"))"
    }
    let check = try QemuImg.run("check", "--image-opts", image)
    #expect(check.status == 0, "\(check.text) with \(trial.text)")
    let compare = try QemuImg.run(
      "compare", "--image-opts", image,
      "driver=raw,file.driver=file,file.filename=\(folder.file("flat.raw"))")
    #expect(compare.status == 0, "\(compare.text) with \(trial.text)")
  }

  /// Several threads write small pieces of the same clusters; each finds its own bytes, and the image is whole.
  @Test(arguments: [9, 12, 16]) func writersShareClusters(clusterBits: Int) throws {
    var options = Qcow2CreateOptions(size: 2 << 20)
    options.clusterSize = 1 << UInt64(clusterBits)
    options.extendedL2 = clusterBits == 16
    let file = MemoryDisk()
    try Qcow2Image.create(on: file, options)
    let node = try Qcow2Node.open(
      name: "n", file: file, backing: nil, dataFile: nil, options: Qcow2Options())
    let failures = Mutex<[String]>([])
    let threads = try (0..<4).map { thread in
      try HostThread(name: "writer") {
        var random = SeededRandom(UInt64(thread + 1))
        do throws(BlockError) {
          for round in 0..<400 {
            // Every fourth piece of 512 bytes is this thread's.
            let piece = Int.random(in: 0..<1024, using: &random) * 4 + thread
            let value = UInt8(truncatingIfNeeded: round &* 4 &+ thread) | 1
            try node.write(UInt64(piece * 512), [UInt8](repeating: value, count: 512))
            let read = try node.bytes(UInt64(piece * 512), 512)
            if read.contains(where: { $0 != value }) {
              failures.withLock { $0.append("piece \(piece)") }
            }
            if round % 40 == 0 { try node.flush() }
            if round % 50 == 7 {
              try node.writeZeroes(UInt64(piece * 512), 512, .mayUnmap)
              let zeros = try node.bytes(UInt64(piece * 512), 512)
              if zeros.contains(where: { $0 != 0 }) {
                failures.withLock { $0.append("zeros \(piece)") }
              }
            }
          }
        } catch {
          failures.withLock { $0.append("\(error)") }
        }
      }
    }
    for thread in threads { thread.join() }
    #expect(failures.withLock { $0 } == [])
    try node.close()
    guard QemuImg.isThere else { return }
    let folder = ScratchFolder()
    file.save(folder.file("image"))
    let check = try QemuImg.run("check", folder.file("image"))
    #expect(check.status == 0, "\(check.text)")
  }
}
