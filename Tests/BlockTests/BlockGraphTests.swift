import Block
import Host
import JSON
import Testing

@Suite struct BlockGraphTests {
  let folder = TemporaryFolder()
  let graph = BlockGraph()

  private func failure(_ body: () throws -> Void) -> String? {
    do {
      try body()
      return nil
    } catch let error as BlockError {
      return error.message
    } catch {
      return "\(error)"
    }
  }

  @Test func rawOverAFileReadsAndWrites() throws {
    let path = try folder.make("disk", length: 1 << 20)
    let node = try graph.open(path, format: "raw")
    #expect(node.driver == "raw")
    #expect(node.length == 1 << 20)
    try node.write(4096, from: IOBuffer([1, 2, 3]).vector, [])
    #expect(try node.bytes(4095, 5) == [0, 1, 2, 3, 0])
    #expect(node.child("file")?.driver == "file")
    try graph.releaseIfUnused(node.name)
    #expect(graph.entries.isEmpty)
  }

  @Test func blockdevOptionsMayBeObjectsOrDotted() throws {
    let path = try folder.make("disk", length: 65536)
    let nested = try graph.add([
      "driver": "raw", "node-name": "one",
      "file": ["driver": "file", "node-name": "below", "filename": .string(path)],
    ])
    #expect(nested.name == "one")
    #expect(graph.node(named: "below")?.driver == "file")
    try graph.add(["driver": "raw", "node-name": "two", "file": "below", "read-only": true])
    #expect(graph.entry(named: "below")?.users.count == 2)
    try graph.delete("two")
    try graph.delete("one")
    #expect(graph.entries.isEmpty)
    try graph.add([
      "driver": "raw", "node-name": "three", "file.driver": "file",
      "file.filename": .string(path), "offset": "1k", "size": 4096,
    ])
    #expect(graph.node(named: "three")?.length == 4096)
  }

  @Test func mistakesAreToldAsQEMUDoes() throws {
    let path = try folder.make("disk", length: 65536)
    #expect(
      failure { try graph.add(["driver": "nonsense", "node-name": "x"]) }
        == "Unknown driver 'nonsense'")
    #expect(
      failure { try graph.add(["driver": "file", "node-name": "x", "filename": "/nowhere/x"]) }
        == "Could not open '/nowhere/x': No such file or directory")
    #expect(
      failure { try graph.add(["driver": "raw", "node-name": "x", "file": "gone"]) }
        == "Cannot find device='gone' nor node-name='gone'")
    #expect(
      failure {
        try graph.add([
          "driver": "file", "node-name": "x", "filename": .string(path), "bogus": 1,
        ])
      } == "Block protocol 'file' doesn't support the option 'bogus'")
    #expect(
      failure { try graph.add(["driver": "null-co", "node-name": "9x"]) }
        == "Invalid node-name: '9x'")
    try graph.add(["driver": "null-co", "node-name": "n"])
    #expect(
      failure { try graph.add(["driver": "null-co", "node-name": "n"]) }
        == "Duplicate nodes with node-name='n'")
    #expect(failure { try graph.delete("m") } == "Failed to find node with node-name='m'")
    #expect(graph.entries.count == 1)
  }

  @Test func otherKindsOfFilesAreRefused() throws {
    let pipe = folder.file("pipe")
    #expect(FileNames.makePipe(pipe))
    #expect(
      failure { _ = try graph.open(pipe, format: "raw") }
        == "'file' driver requires '\(pipe)' to be a regular file")
    #expect(
      failure { _ = try graph.open(folder.path, format: "raw") }
        == "Could not open '\(folder.path)': Is a directory")
    #expect(failure { _ = try graph.open("foo:bar", format: "raw") } == "Unknown protocol 'foo'")
  }
}
