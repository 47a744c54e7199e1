import Glibc
import Host
import Testing

@Suite struct BlockFileTests {
  let folder = TemporaryFolder()

  private func open(
    _ name: String = "file", isDirect: Bool = false
  ) throws -> BlockFile {
    var options = BlockFile.Options(isWritable: true)
    options.creates = true
    options.isDirect = isDirect
    return try BlockFile(folder.file(name), options)
  }

  @Test func readsBeyondTheEndAreZeros() throws {
    let file = try open()
    try file.write(5, from: IOBuffer([1, 2, 3]).vector)
    #expect(file.length == 8)
    let buffer = IOBuffer([UInt8](repeating: 9, count: 6))
    try file.read(4, into: buffer.vector)
    #expect(buffer.bytes == [0, 1, 2, 3, 0, 0])
    buffer.fill(9, 0..<6)
    if try file.readNow(4, into: buffer.vector) { #expect(buffer.bytes == [0, 1, 2, 3, 0, 0]) }
    try file.read(1000, into: buffer.vector)
    #expect(buffer.bytes == [0, 0, 0, 0, 0, 0])
    #expect(throws: SystemError(call: "pread", code: EINVAL)) {
      try file.read(UInt64.max - 2, into: buffer.vector)
    }
  }

  /// Random requests of any alignment through O_DIRECT leave what they leave in plain memory.
  @Test func directRequestsMayHaveAnyAlignment() throws {
    let file: BlockFile
    do { file = try open("direct", isDirect: true) } catch let error as SystemError {
      // A file system without it.
      #expect(error.code == EINVAL)
      return
    }
    #expect(file.alignment >= 512)
    var generator = SystemRandomNumberGenerator()
    var model: [UInt8] = []
    for round in 0..<200 {
      let offset = Int.random(in: 0..<100_000, using: &generator)
      let count = Int.random(in: 1..<20_000, using: &generator)
      if round % 2 == 0 {
        let bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
        if model.count < offset + count {
          model += [UInt8](repeating: 0, count: offset + count - model.count)
        }
        model.replaceSubrange(offset..<offset + count, with: bytes)
        let buffer = IOBuffer(count: count + 3)
        buffer.store(bytes, at: 3)
        try file.write(UInt64(offset), from: buffer.vector(3..<count + 3))
      } else {
        let buffer = IOBuffer(count: count + 1)
        try file.read(UInt64(offset), into: buffer.vector(1..<count + 1))
        let padded = model + [UInt8](repeating: 0, count: 120_000)
        #expect(buffer.bytes(1..<count + 1) == Array(padded[offset..<offset + count]))
      }
      #expect(try file.refreshLength() == UInt64(model.count))
    }
  }

  @Test func zeroingKeepsTheRestAndMayGrow() throws {
    let file = try open()
    try file.write(0, from: IOBuffer([UInt8](repeating: 1, count: 65536)).vector)
    for mayUnmap in [true, false] {
      guard try file.zero(4096, 8192, mayUnmap: mayUnmap) else { continue }
      let buffer = IOBuffer(count: 65536)
      try file.read(0, into: buffer.vector)
      #expect(buffer.bytes(0..<4096).allSatisfy { $0 == 1 })
      #expect(buffer.bytes(4096..<12288).allSatisfy { $0 == 0 })
      #expect(buffer.bytes(12288..<65536).allSatisfy { $0 == 1 })
      #expect(try file.zero(65536, 4096, mayUnmap: mayUnmap))
      #expect(file.length == 69632)
      try file.resize(to: 65536)
    }
  }

  @Test func holesAreFound() throws {
    let file = try open()
    try file.resize(to: 1 << 20)
    try file.write(1 << 19, from: IOBuffer([UInt8](repeating: 1, count: 65536)).vector)
    let extent = file.extent(0, 1 << 20)
    // A file system that cannot tell says that all is data.
    if extent.isHole {
      #expect(extent.length == 1 << 19)
      let data = file.extent(1 << 19, 1 << 19)
      #expect(!data.isHole)
      #expect(data.length == 65536)
    } else {
      #expect(extent.length <= 1 << 20)
    }
  }

  @Test func locksOfTwoOpeningsOfOneFileConflict() throws {
    let first = try open()
    let second = try open()
    try first.setLocks(used: 2, denied: 2)
    do {
      try second.setLocks(used: 2, denied: 0)
      Issue.record("both write")
    } catch {
      #expect(error.bit == 1)
      #expect(error.isDenied)
    }
    do {
      try second.setLocks(used: 1, denied: 2)
      Issue.record("nobody was to write")
    } catch {
      #expect(!error.isDenied)
    }
    try second.setLocks(used: 1, denied: 0)
    try first.setLocks(used: 0, denied: 0)
    try second.setLocks(used: 3, denied: 2)
  }
}
