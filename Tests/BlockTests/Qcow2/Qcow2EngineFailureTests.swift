import Block
import Glibc
import Host
import Synchronization
import Testing

/// A disk whose writes and flushes fail now and then.
private final class FailingDisk: BlockNode {
  let driver = "failing"
  let name = "failing"
  let disk: MemoryDisk
  private let random: Mutex<SeededRandom>
  /// Of 100.
  let failures = Atomic<Int>(0)

  init(_ disk: MemoryDisk, seed: UInt64) {
    self.disk = disk
    random = Mutex(SeededRandom(seed))
  }

  private func fail() throws(BlockError) {
    let chance = failures.load(ordering: .relaxed)
    if chance > 0, random.withLock({ $0.chance(chance) }) { throw BlockError(ENOSPC, "No space") }
  }

  var length: UInt64 { disk.length }
  func read(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    try disk.read(offset, into: target)
  }
  func write(_ offset: UInt64, from source: IOVector, _ flags: WriteFlags) throws(BlockError) {
    try fail()
    try disk.write(offset, from: source, flags)
  }
  func writeZeroes(_ offset: UInt64, _ count: UInt64, _ flags: WriteFlags) throws(BlockError) {
    try fail()
    try disk.writeZeroes(offset, count, flags)
  }
  func discard(_ offset: UInt64, _ count: UInt64) throws(BlockError) {
    try fail()
    try disk.discard(offset, count)
  }
  func flush() throws(BlockError) {
    try fail()
    try disk.flush()
  }
  func truncate(to length: UInt64, _ preallocation: Preallocation) throws(BlockError) {
    try fail()
    try disk.truncate(to: length, preallocation)
  }
  func status(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> BlockStatus {
    try disk.status(offset, count)
  }
}

@Suite struct Qcow2EngineFailureTests {
  /// A full disk: requests fail, what succeeded is there, and when there is room again everything can be flushed.
  @Test(arguments: 1...8) func aFullDiskLosesNothingThatWasWritten(seed: Int) throws {
    var random = SeededRandom(UInt64(seed))
    var options = Qcow2CreateOptions(size: 512 << 10)
    options.clusterSize = [512, 4096, 65536][seed % 3]
    options.extendedL2 = seed % 3 == 2
    let memory = MemoryDisk()
    try Qcow2Image.create(on: memory, options)
    let disk = FailingDisk(memory, seed: UInt64(seed))
    var opening = Qcow2Options()
    opening.l2CacheSize = 1
    let node = try Qcow2Node.open(
      name: "n", file: disk, backing: nil, dataFile: nil, options: opening)
    var model = [UInt8](repeating: 0, count: 512 << 10)
    var failed = 0
    for step in 0..<300 {
      disk.failures.store(step / 30 % 2 == 0 ? 0 : 30, ordering: .relaxed)
      let start = Int.random(in: 0..<1024, using: &random) * 512
      let end = min(model.count, start + 512 * Int.random(in: 1...20, using: &random))
      let bytes = [UInt8](repeating: UInt8.random(in: 1...255, using: &random), count: end - start)
      do throws(BlockError) {
        switch Int.random(in: 0..<10, using: &random) {
        case 0..<6:
          try node.write(UInt64(start), bytes)
          model.replaceSubrange(start..<end, with: bytes)
        case 6..<8:
          try node.writeZeroes(UInt64(start), UInt64(end - start), .mayUnmap)
          model.replaceSubrange(start..<end, with: repeatElement(0, count: end - start))
        default: try node.flush()
        }
      } catch {
        #expect(error.code == ENOSPC)
        failed += 1
        // Some of it may have been done.
        model.replaceSubrange(start..<end, with: try node.bytes(UInt64(start), end - start))
      }
    }
    #expect(failed > 5)
    disk.failures.store(0, ordering: .relaxed)
    #expect(try node.bytes(0, model.count) == model)
    try node.close()
    var findings: [String] = []
    let report = try Qcow2Check.run(on: memory) { findings.append($0) }
    #expect(report.corruptions == 0 && report.checkErrors == 0, "\(findings)")
    let again = try Qcow2Node.open(
      name: "n", file: memory, backing: nil, dataFile: nil, options: opening)
    #expect(try again.bytes(0, model.count) == model)
  }
}
