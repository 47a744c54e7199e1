import Block
import Host
import JSON
import Support
import Testing

@Suite struct ImageChainTests {
  let folder = TemporaryFolder()
  let graph = BlockGraph()

  private func image(
    _ name: String, _ size: UInt64, backing: String? = nil, format: String? = nil
  ) throws -> String {
    let path = folder.file(name)
    try graph.createFile(path, size: 0)
    let file = try graph.openFile(path)
    var options = Qcow2CreateOptions(size: size)
    options.backingFile = backing
    options.backingFormat = format
    try Qcow2Image.create(on: file, options)
    try graph.releaseIfUnused(file.name)
    return path
  }

  private func message(_ body: () throws -> Void) -> String? {
    do {
      try body()
      return nil
    } catch {
      return (error as? BlockError)?.message ?? "\(error)"
    }
  }

  @Test func chainsAreOpenedByRelativeNames() throws {
    try folder.make("base.raw", [UInt8](repeating: 7, count: 65536))
    _ = try image("middle", 1 << 20, backing: "base.raw", format: "raw")
    let top = try image("top", 1 << 20, backing: "middle", format: "qcow2")
    let node = try graph.open(top)
    #expect(node.driver == "qcow2")
    #expect(graph.backingChain(of: node).map(\.driver) == ["qcow2", "qcow2", "raw"])
    #expect(try node.bytes(0, 2) == [7, 7])
    #expect(graph.backingChain(of: node).dropFirst().map(\.isReadOnly) == [true, true])
    try node.write(0, from: IOBuffer([1]).vector, [])
    #expect(try node.bytes(0, 2) == [1, 7])
    try graph.releaseIfUnused(node.name)
    #expect(graph.entries.isEmpty)
  }

  @Test func loopsAndMissingFilesAreRefused() throws {
    let first = try image("first", 1 << 20, backing: "second", format: "qcow2")
    let second = try image("second", 1 << 20, backing: "first", format: "qcow2")
    let sentence = message {
      _ = try graph.open(first, format: "qcow2", settings: readOnly)
    }
    #expect(sentence?.hasSuffix("Backing file '\(first)' creates an infinite loop.") == true)
    _ = second
    let lone = try image("lone", 1 << 20, backing: "gone", format: "raw")
    #expect(
      message { _ = try graph.open(lone) }
        == "Could not open backing file: Could not open '\(folder.file("gone"))': "
        + "No such file or directory")
    #expect(graph.entries.isEmpty)
    let alone = try graph.open(lone, options: ["backing": .null])
    #expect(alone.child("backing") == nil)
  }

  private var readOnly: NodeSettings {
    var settings = NodeSettings()
    settings.isReadOnly = true
    return settings
  }

  @Test func backingNodesMayBeGivenByReferenceOrOptions() throws {
    let base = try folder.make("base", [UInt8](repeating: 3, count: 4096))
    let top = try image("top", 4096)
    try graph.add([
      "driver": "raw", "node-name": "b", "read-only": true, "file.driver": "file",
      "file.filename": .string(base),
    ])
    let node = try graph.add([
      "driver": "qcow2", "node-name": "t", "file": ["driver": "file", "filename": .string(top)],
      "backing": "b",
    ])
    #expect(try node.bytes(4095, 1) == [3])
    #expect(
      message { try graph.delete("b") }
        == "Node 'b' is busy: node is used as backing hd of 't'")
    try graph.delete("t")
    try graph.delete("b")
    #expect(
      message {
        _ = try graph.add([
          "driver": "qcow2", "node-name": "t", "file.driver": "file",
          "file.filename": .string(top), "nonsense": 1,
        ])
      } == "Block format 'qcow2' does not support the option 'nonsense'")
    #expect(graph.entries.isEmpty)
  }

  @Test func namesMayBeJSON() throws {
    let disk = try folder.make("disk", length: 8192)
    let node = try graph.open(
      "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"\(disk)\"}}")
    #expect(node.length == 8192)
    #expect(
      message { _ = try graph.open("json:{nonsense") }
        == "Could not parse the JSON options: JSON parse error, invalid keyword 'nonsense'")
  }

  @Test func guessedRawImagesAreGuarded() throws {
    let disk = try folder.make("disk", length: 8192)
    let node = try graph.open(disk)
    #expect(node.driver == "raw")
    #expect(graph.entry(of: node)?.settings.isProbed == true)
    var header = [UInt8](repeating: 0, count: 512)
    header.replaceSubrange(0..<8, with: [0x51, 0x46, 0x49, 0xFB, 0, 0, 0, 3])
    #expect(message { try node.write(0, from: IOBuffer(header).vector, []) } != nil)
    try node.write(512, from: IOBuffer(header).vector, [])
    header[0] = 0
    try node.write(0, from: IOBuffer(header).vector, [])
  }

  @Test func overlaysTakeTheUsersOfTheirBase() throws {
    let base = try folder.make("base", [UInt8](repeating: 5, count: 65536))
    let node = try graph.open(base, format: "raw")
    let backend = BlockBackend(
      graph, name: "drive", used: [.consistentRead, .write],
      shared: [.consistentRead, .writeUnchanged])
    try graph.add(backend)
    try backend.insert(node)
    let top = try image("top", 65536)
    let overlay = try graph.insertOverlay(graph.open(top, format: "qcow2"), over: node)
    #expect(backend.node?.name == overlay.name)
    try backend.write(0, from: IOBuffer([9]).vector)
    let answer = IOBuffer(count: 2)
    try backend.read(0, into: answer.vector)
    #expect(answer.bytes == [9, 5])
    #expect(try node.bytes(0, 1) == [5])
    #expect(graph.backingChain(of: overlay).count == 2)
    graph.setOwnedByMonitor(overlay.name, true)
    try graph.removeOverlay(overlay.name, over: node)
    #expect(backend.node?.name == node.name)
    #expect(graph.node(named: overlay.name)?.child("backing") == nil)
    try graph.delete(overlay.name)
    try backend.remove()
    #expect(graph.entries.isEmpty)
  }

  @Test func temporaryOverlaysLeaveTheImageAlone() throws {
    let path = try folder.make("base", [UInt8](repeating: 5, count: 65536))
    let base = try graph.open(path, format: "raw", settings: readOnly)
    let overlay = try graph.openTemporaryOverlay(over: base)
    let backend = try BlockBackend(graph, tool: overlay)
    try backend.write(100, from: IOBuffer([1, 2]).vector)
    let answer = IOBuffer(count: 4)
    try backend.read(99, into: answer.vector)
    #expect(answer.bytes == [5, 1, 2, 5])
    #expect(try base.bytes(100, 1) == [5])
    try backend.remove()
    #expect(graph.entries.isEmpty)
  }

  @Test func twoWritersOfOneImageConflict() throws {
    let path = try image("one", 1 << 20)
    let node = try graph.open(path, format: "qcow2")
    let other = BlockGraph()
    let sentence = message { _ = try other.open(path, format: "qcow2") }
    #expect(sentence == "Failed to get \"write\" lock")
    #expect(other.entries.isEmpty)
    // A reader that lets nobody write is in the way of the writer.
    #expect(
      message { _ = try other.open(path, format: "qcow2", settings: readOnly) }
        == "Failed to get shared \"write\" lock")
    var shared = readOnly
    shared.forceShare = true
    let look = try other.open(path, format: "qcow2", settings: shared)
    try other.releaseIfUnused(look.name)
    try graph.releaseIfUnused(node.name)
    let again = try other.open(path, format: "qcow2")
    try other.releaseIfUnused(again.name)
  }

  @Test func usesOfOneNodeConflict() throws {
    let path = try folder.make("disk", length: 65536)
    let node = try graph.open(path, format: "raw")
    let first = BlockBackend(
      graph, name: "a", used: [.consistentRead, .write],
      shared: [.consistentRead, .writeUnchanged])
    try first.insert(node)
    let second = BlockBackend(graph, name: "b", used: [.consistentRead, .write])
    #expect(
      message { try second.insert(node) }
        == "Permission conflict on node '\(node.name)': permissions 'write' are both required by "
        + "block device 'b' (uses node '\(node.name)' as 'root' child) and unshared by block "
        + "device 'a' (uses node '\(node.name)' as 'root' child).")
    #expect(second.node == nil)
    try first.remove()
  }
}
