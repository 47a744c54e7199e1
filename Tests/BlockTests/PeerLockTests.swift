import Block
import Host
import Support
import Testing

/// Locks beside the real qemu-io and qemu-img.
@Suite(.enabled(if: Process.find("qemu-io") != nil && Process.find("qemu-img") != nil))
struct PeerLockTests {
  let folder = TemporaryFolder()
  let graph = BlockGraph()

  private func readOnly() -> NodeSettings {
    var settings = NodeSettings()
    settings.isReadOnly = true
    return settings
  }

  private func opened(_ path: String, _ format: String, _ settings: NodeSettings = NodeSettings())
    throws -> BlockBackend
  {
    try BlockBackend(graph, tool: graph.open(path, format: format, settings: settings))
  }

  @Test func qemuIsKeptOutWhileWeWrite() throws {
    let path = folder.file("image")
    #expect(
      try Process.output(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"]).status == 0)
    let backend = try opened(path, "qcow2")
    let answer = try Process.output(["qemu-io", "-c", "read 0 512", path])
    #expect(answer.status != 0)
    #expect(answer.text.contains("Failed to get \"write\" lock"))
    let shared = try Process.output(["qemu-img", "info", "-U", path])
    #expect(shared.status == 0)
    #expect(try Process.output(["qemu-img", "info", path]).text.contains("Failed to get shared"))
    try backend.remove()
    #expect(try Process.output(["qemu-io", "-c", "read 0 512", path]).status == 0)
  }

  @Test(arguments: ["raw", "qcow2"])
  func whatIsBelowASnapshotIsClosedForWritingAndOpenedAgain(format: String) throws {
    let base = folder.file("base")
    let top = folder.file("top")
    for (path, kind) in [(base, format), (top, "qcow2")] {
      #expect(try Process.output(["qemu-img", "create", "-q", "-f", kind, path, "1M"]).status == 0)
    }
    // Readers of raw images let others write.
    func infoIsRefused() throws -> Bool {
      try Process.output(["qemu-img", "info", "-f", format, base]).text
        .contains("Failed to get shared \"write\" lock")
    }
    let node = try graph.open(base, format: format)
    let backend = BlockBackend(
      graph, name: "drive", used: [.consistentRead, .write],
      shared: [.consistentRead, .writeUnchanged])
    try graph.add(backend)
    try backend.insert(node)
    try backend.write(0, from: IOBuffer([UInt8](repeating: 5, count: 512)).vector)
    #expect(try infoIsRefused() == (format == "qcow2"))
    let overlay = try graph.insertOverlay(graph.open(top, format: "qcow2"), over: node)
    #expect(node.isReadOnly && node.child("file")?.isReadOnly == true && !backend.isReadOnly)
    #expect(try !infoIsRefused())
    #expect(throws: BlockError.self) { try node.write(0, [1]) }
    try backend.write(0, from: IOBuffer([UInt8](repeating: 6, count: 512)).vector)
    // Others see what was written before, and nothing to repair.
    if format == "qcow2" {
      #expect(try Process.output(["qemu-img", "check", base]).status == 0)
    }
    #expect(
      try Process.output(["qemu-io", "-r", "-f", format, "-c", "read -P 5 0 512", base]).status
        == 0)
    try graph.removeOverlay(overlay.name, over: node)
    #expect(!node.isReadOnly && node.child("file")?.isReadOnly == false)
    #expect(try infoIsRefused() == (format == "qcow2"))
    try backend.write(512, from: IOBuffer([UInt8](repeating: 7, count: 512)).vector)
    try backend.remove()
    #expect(
      try Process.output(["qemu-io", "-r", "-f", format, "-c", "read -P 7 512 512", base]).status
        == 0)
    #expect(graph.entries.isEmpty)
  }

  @Test func weAreKeptOutWhileQEMUWrites() throws {
    let path = folder.file("image")
    #expect(
      try Process.output(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"]).status == 0)
    guard let program = Process.find("qemu-io") else { return }
    let peer = try Process([program, path])
    // It locks before it answers.
    peer.send("length\n")
    #expect(peer.readUntil(seconds: 20) { $0.contains("1 MiB") })
    do {
      _ = try opened(path, "qcow2")
      Issue.record("opened beside a writer")
    } catch let error as BlockError {
      #expect(error.message == "Failed to get \"write\" lock")
      #expect(error.hint?.hasPrefix("Is another process using the image [\(path)]?") == true)
      #expect(error.hint?.contains("Process \(peer.id) (qemu-io)") == true)
    }
    do {
      _ = try opened(path, "qcow2", readOnly())
      Issue.record("opened beside a writer")
    } catch let error as BlockError {
      #expect(error.message == "Failed to get shared \"write\" lock")
    }
    #expect(graph.entries.isEmpty)
  }

  @Test func readersShareAnImageWithQEMU() throws {
    let path = folder.file("image")
    #expect(
      try Process.output(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"]).status == 0)
    let backend = try opened(path, "qcow2", readOnly())
    #expect(try Process.output(["qemu-io", "-r", "-c", "read 0 512", path]).status == 0)
    let writer = try Process.output(["qemu-io", "-c", "write 0 512", path])
    #expect(writer.status != 0)
    #expect(writer.text.contains("Failed to get \"write\" lock"))
    try backend.remove()
  }

  private func machine(_ drive: String) -> [String] {
    [
      "qemu-system-x86_64", "-M", "pc", "-display", "none", "-S", "-nodefaults", "-qmp", "stdio",
      "-drive", drive,
    ]
  }

  /// A disk of a machine: a guest that writes, and lets others read and grow it only.
  @Test(.enabled(if: Process.find("qemu-system-x86_64") != nil))
  func machinesDoNotShareTheirDisks() throws {
    let path = try folder.make("disk", length: 1 << 20)
    let drive = "file=\(path),format=raw,if=virtio"
    let peer = try Process(machine(drive))
    // The greeting comes before the devices; an answer does not.
    peer.send(#"{"execute":"qmp_capabilities"}"#)
    #expect(peer.readUntil(seconds: 30) { $0.contains("return") })
    let node = try graph.open(path, format: "raw")
    let backend = BlockBackend(
      graph, used: [.consistentRead, .write],
      shared: [.consistentRead, .writeUnchanged, .resize])
    let error = #expect(throws: BlockError.self) { try backend.insert(node) }
    #expect(error?.message == "Failed to get \"write\" lock")
    #expect(error?.hint?.contains("(qemu-system-x86") == true)
    peer.kill(signal: 9)
    _ = peer.wait(seconds: 10)
    try backend.insert(node)
    let answer = try Process.output(machine(drive))
    #expect(answer.status == 1)
    #expect(answer.text.contains("Failed to get \"write\" lock"))
    try backend.remove()
  }
}
