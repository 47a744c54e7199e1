import DeviceModel
import Foundation
import Host
import JSON
import Machine
import Options
import QAPI
import Shm
import Support
import Testing

@MainLoop
private func registry() -> ObjectRegistry {
  ObjectRegistry(make: ObjectFactory(MachineConfiguration(type: "none"), cpus: 2).make)
}

private func options(_ text: String) throws -> ObjectOptions {
  try ObjectOptions(decoding: try JSONValue(parsing: text))
}

@Suite struct ObjectTests {
  init() { MainLoopThread.start() }

  @Test @MainLoop func memoryIsPrivateSharedOrAFile() throws {
    let registry = registry()
    let folder = Goliath.temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try registry.add(try options(#"{"qom-type":"memory-backend-ram","id":"r","size":8192}"#))
    try registry.add(
      try options(
        #"{"qom-type":"memory-backend-memfd","id":"m","size":8192,"prealloc":true,"prealloc-threads":4}"#
      ))
    try registry.add(
      try options(
        #"{"qom-type":"memory-backend-file","id":"f","size":8192,"mem-path":"\#(folder)/ram","share":true}"#
      ))
    for id in ["r", "m", "f"] {
      let backend = try #require(registry.find(id, MemoryBackend.self))
      let block = try #require(backend.block)
      #expect(block.size == 8192)
      let memory = GuestMemory()
      memory.setSlots([
        MemorySlot(guest: GuestAddress(0), size: 8192, block: block, offset: 0, isReadOnly: false)
      ])
      memory.write(GuestAddress(4096), [1, 2, 3], toROM: false)
      #expect(memory.read(GuestAddress(4096), count: 3) == [1, 2, 3])
    }
    let file = try Data(contentsOf: URL(filePath: "\(folder)/ram"))
    #expect(file.count == 8192)
    #expect(Array(file[4096..<4099]) == [1, 2, 3])
    let list = registry.all(MemoryBackend.self).map(\.object.info)
    #expect(list.map(\.id) == ["r", "m", "f"])
    #expect(list.map(\.share) == [false, true, true])
    #expect(list.map(\.prealloc) == [false, true, false])
  }

  @Test @MainLoop func memoryThatCannotBeIsRefusedAsInQEMU() throws {
    let folder = Goliath.temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try Data(count: 4096).write(to: URL(filePath: "\(folder)/small"))
    let cases: [(String, String)] = [
      (
        #""qom-type":"memory-backend-ram","size":0"#,
        "property 'size' of memory-backend-ram doesn't take value '0'"
      ),
      (
        #""qom-type":"memory-backend-ram","size":4096,"prealloc-threads":0"#,
        "property 'prealloc-threads' of memory-backend-ram doesn't take value '0'"
      ),
      (
        #""qom-type":"memory-backend-ram","size":4096,"policy":"bind""#,
        "host-nodes must be set for policy bind"
      ),
      (
        #""qom-type":"memory-backend-ram","size":4096,"host-nodes":[200]"#,
        "Invalid host-nodes value: 200"
      ),
      (
        #""qom-type":"memory-backend-ram","size":4096,"prealloc":true,"reserve":false"#,
        "'prealloc=on' and 'reserve=off' are incompatible"
      ),
      (
        #""qom-type":"memory-backend-ram","size":4611686018427387904"#,
        "cannot set up guest memory 'x': Cannot allocate memory"
      ),
      (
        #""qom-type":"memory-backend-ram","size":18446744073709551615"#,
        "cannot set up guest memory 'x': Cannot allocate memory"
      ),
      (
        #""qom-type":"memory-backend-file","size":8192,"mem-path":"\#(folder)/small""#,
        "backing store size 0x1000 does not match 'size' option 0x2000"
      ),
      (
        #""qom-type":"memory-backend-file","size":8192,"mem-path":"\#(folder)/no/such""#,
        "can't open backing store \(folder)/no/such for guest RAM: No such file or directory"
      ),
      (
        #""qom-type":"rng-random","filename":"\#(folder)/nothing""#,
        "Could not open '\(folder)/nothing': No such file or directory"
      ),
      (#""qom-type":"rng-builtin","opened":true"#, "Property 'rng-builtin.opened' is not writable"),
    ]
    let registry = registry()
    for (text, reason) in cases {
      let wanted = try options(#"{\#(text),"id":"x"}"#)
      #expect(throws: QAPIError(reason)) { try registry.add(wanted) }
      #expect(registry["x"] == nil)
    }
    #expect(!FileManager.default.fileExists(atPath: "\(folder)/no"))
  }

  @Test @MainLoop func memoryOfAMachineStays() throws {
    let registry = registry()
    try registry.add(try options(#"{"qom-type":"memory-backend-ram","id":"r","size":8192}"#))
    registry.find("r", MemoryBackend.self)?.isMapped = true
    #expect(throws: QAPIError("object 'r' is in use, can not be deleted")) {
      try registry.delete("r")
    }
  }

  @Test(arguments: ["rng-builtin", "rng-random"])
  @MainLoop func randomBytesComeInOrder(type: String) async throws {
    let registry = registry()
    try registry.add(try options(#"{"qom-type":"\#(type)","id":"g"}"#))
    let source = try #require(registry["g"] as? any RandomSource)
    var answers: [[UInt8]] = []
    await withCheckedContinuation { continuation in
      source.request(64) { answers.append($0) }
      source.request(16) { bytes in
        answers.append(bytes)
        continuation.resume()
      }
      // Never in the midst of the request.
      #expect(answers.isEmpty)
    }
    #expect(answers.map(\.count) == [64, 16])
    #expect(Set(answers[0]).count > 8)
  }

  /// A source that has nothing yet makes nobody wait, and gives what comes later.
  @Test @MainLoop func aSlowSourceIsWaitedFor() async throws {
    let folder = Goliath.temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = "\(folder)/fifo"
    #expect(mkfifo(path, 0o600) == 0)
    let registry = registry()
    try registry.add(
      try options(#"{"qom-type":"rng-random","id":"g","filename":"\#(path)"}"#))
    let source = try #require(registry["g"] as? any RandomSource)
    let writer = try FileDescriptor.open(path, O_WRONLY)
    let bytes: [UInt8] = await withCheckedContinuation { continuation in
      source.request(3) { continuation.resume(returning: $0) }
      MainLoop.post { MainLoop.post { _ = try? writer.write([7, 8, 9]) } }
    }
    #expect(bytes == [7, 8, 9])
  }
}
