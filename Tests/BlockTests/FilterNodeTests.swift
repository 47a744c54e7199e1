import Block
import Glibc
import Host
import JSON
import Support
import Testing

@Suite struct FilterNodeTests {
  let folder = TemporaryFolder()
  let graph = BlockGraph()

  private func code(_ body: () throws -> Void) -> Int32 {
    do {
      try body()
      return 0
    } catch { return (error as? BlockError)?.code ?? -1 }
  }

  @Test func rulesFailOnceByPlaceAndByState() throws {
    let path = try folder.make("disk", length: 65536)
    let node = try graph.add([
      "driver": "blkdebug", "node-name": "d",
      "image": ["driver": "file", "filename": .string(path)],
      "inject-error": [
        ["event": "none", "iotype": "write", "sector": 2, "errno": 28, "once": true],
        ["event": "read_aio", "state": 2, "errno": 5],
      ],
      "set-state": [["event": "flush_to_disk", "state": 1, "new_state": 2]],
    ])
    let buffer = IOBuffer(count: 512)
    #expect(code { try node.write(0, from: buffer.vector, []) } == 0)
    #expect(code { try node.write(1024, from: buffer.vector, []) } == ENOSPC)
    #expect(code { try node.write(1024, from: buffer.vector, []) } == 0)
    #expect(code { try node.read(0, into: buffer.vector) } == 0)
    try node.flush()
    #expect(code { try node.read(0, into: buffer.vector) } == EIO)
    try graph.delete("d")
    #expect(graph.entries.isEmpty)
  }

  @Test func rulesMayComeFromAFileNamedInTheImagesName() throws {
    let path = try folder.make("disk", length: 65536)
    let rules = """
      # comment
      [inject-error]
      event = "write_aio"
      errno = "28"
      iotype = "write"
      """
    let config = try folder.make("rules", Array(rules.utf8))
    let node = try graph.open("blkdebug:\(config):\(path)", format: "raw")
    #expect(node.child("file")?.driver == "blkdebug")
    #expect(code { try node.write(0, from: IOBuffer([1]).vector, []) } == ENOSPC)
    #expect(try node.bytes(0, 1) == [0])
    try graph.releaseIfUnused(node.name)
    #expect(graph.entries.isEmpty)
  }

  @Test func aPartOfAFileIsADisk() throws {
    let path = try folder.make("disk", (0..<8192).map { UInt8($0 / 512) })
    let file = try graph.openFile(path)
    let part = try RawNode(name: "part", file: file, offset: 1024, size: 1024)
    #expect(part.length == 1024)
    #expect(try part.bytes(0, 1) == [2])
    #expect(try part.bytes(1020, 8) == [3, 3, 3, 3, 0, 0, 0, 0])
    #expect(code { try part.write(1020, from: IOBuffer(count: 8).vector, []) } == EIO)
    #expect(try file.bytes(2048, 1) == [4])
    #expect(code { try part.truncate(to: 512, .off) } == ENOTSUP)
    #expect(throws: BlockError.self) {
      try RawNode(name: "bad", file: file, offset: 8000, size: 512)
    }
    #expect(throws: BlockError.self) { try RawNode(name: "bad", file: file, offset: 8193) }
  }

  @Test func descriptorsOfSetsAreFiles() throws {
    let path = try folder.make("disk", length: 65536)
    let set = DescriptorSets.shared.add(
      try FileDescriptor.open(path, O_RDWR), to: nil, note: nil)
    let node = try graph.open("/dev/fdset/\(set)", format: "raw")
    try node.write(0, from: IOBuffer([7]).vector, [])
    #expect(try node.bytes(0, 1) == [7])
    #expect(node.length == 65536)
  }

  @Test func aReadOnlyFileIsOpenedForReadingWhenThatMayBe() throws {
    guard getuid() != 0 else { return }
    let path = try folder.make("disk", length: 65536)
    chmod(path, 0o400)
    #expect(throws: BlockError(EACCES, "Could not open '\(path)': Permission denied")) {
      _ = try graph.open(path, format: "raw")
    }
    let node = try graph.open(path, format: "raw", options: ["auto-read-only": true])
    #expect(node.isReadOnly)
  }

  @Test func nullDisksHoldNothing() throws {
    let node = try graph.add([
      "driver": "null-aio", "node-name": "n", "size": 4096, "read-zeroes": true,
      "latency-ns": 1000,
    ])
    let buffer = IOBuffer([UInt8](repeating: 9, count: 16))
    #expect(try !node.readNow(0, into: buffer.vector))
    try node.read(0, into: buffer.vector)
    #expect(buffer.bytes == [UInt8](repeating: 0, count: 16))
    #expect(try node.status(0, 8192).length == 4096)
  }

  /// With a loop device, where the host lets us make one.
  @Test func blockDevicesAreDisks() throws {
    let path = try folder.make("device", length: 1 << 20)
    guard let tool = Process.find("losetup"), getuid() == 0 else { return }
    let made = try Process.output([tool, "-f", "--show", path])
    guard made.status == 0, made.text.hasPrefix("/dev/loop") else { return }
    let device = String(made.text.prefix { $0 != "\n" })
    defer { _ = try? Process.output([tool, "-d", device]) }
    for isDirect in [false, true] {
      let node = try graph.open(
        device, format: "raw", options: ["cache": ["direct": .bool(isDirect)], "discard": "unmap"])
      let file = try #require(node.child("file"))
      #expect(file.driver == "host_device")
      #expect(node.length == 1 << 20)
      let data = IOBuffer([UInt8](repeating: 7, count: 10_000))
      try node.write(100, from: data.vector, .forceUnitAccess)
      #expect(try node.bytes(99, 10_002) == [0] + data.bytes + [0])
      try node.writeZeroes(100, 5000, [])
      #expect(try node.bytes(100, 5000) == [UInt8](repeating: 0, count: 5000))
      #expect(try node.bytes(5100, 1) == [7])
      try node.writeZeroes(0, 1 << 20, .mayUnmap)
      #expect(try node.bytes(5100, 1) == [0])
      try? node.discard(0, 1 << 20)
      try node.flush()
      #expect(throws: BlockError(EINVAL, "Cannot grow device files")) {
        try node.truncate(to: 1 << 21, .off)
      }
      #expect(try !node.status(0, 1 << 20).isZero)
      try graph.releaseIfUnused(node.name)
    }
    #expect(
      throws: BlockError(EINVAL, "'file' driver requires '\(device)' to be a regular file")
    ) { _ = try graph.open("file:\(device)", format: "raw") }
  }
}
