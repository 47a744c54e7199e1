import Block
import Host
import JSON
import Machine
import Monitor
import Options
import QAPI
import Support
import Synchronization
import Testing

/// Commands about disks on drives of the tests' own.
@Suite(.timeLimit(.minutes(15)), .serialized) struct BlockCommandsTests {
  /// An optical drive.
  private final class Drive: BlockDeviceOperations {
    private struct State {
      var isOpen = false
      var isLocked = false
      var requests: [Bool] = []
    }
    private let state = Mutex(State())

    var hasRemovableMedium: Bool { true }
    var isTrayOpen: Bool { state.withLock { $0.isOpen } }
    var isMediumLocked: Bool { state.withLock { $0.isLocked } }
    /// Whether each request to eject was forced.
    var requests: [Bool] { state.withLock { $0.requests } }

    func lock(_ isLocked: Bool) { state.withLock { $0.isLocked = isLocked } }
    func mediumChanged(isLoaded: Bool) { state.withLock { $0.isOpen = !isLoaded } }
    func requestEject(isForced: Bool) { state.withLock { $0.requests.append(isForced) } }
  }

  /// A machine, its graph with a drive `cd` that has a device, and a client.
  private func withDrive(
    _ body: @Sendable (MonitoredMachine, BlockGraph, Drive, QMPClient) async throws -> Void
  ) async throws {
    try await MonitoredMachine.run { monitored in
      let graph = await monitored.context.blocks
      let drive = Drive()
      let backend = BlockBackend(graph, name: "cd", used: .consistentRead)
      backend.attach(drive, id: "dev", path: "/machine/peripheral/dev")
      try graph.add(backend)
      let client = try QMPClient(path: monitored.path())
      try await body(monitored, graph, drive, client)
      Machine.closeDisks(graph)
    }
  }

  private func description(_ reply: JSONValue) -> String? { reply["error"]?["desc"]?.stringValue }

  private func image(_ path: String, _ graph: BlockGraph) throws {
    try graph.createFile(path, size: 0)
    let file = try graph.openFile(path)
    try Qcow2Image.create(on: file, Qcow2CreateOptions(size: 1 << 20))
    try graph.releaseIfUnused(file.name)
  }

  @Test func mediaGoInAndOutThroughTheTray() async throws {
    try await withDrive { _, _, drive, client in
      #expect(
        try client.run("blockdev-add", #"{"driver":"null-co","node-name":"disc","size":4096}"#)
          == ["return": [:]])
      let insert = #"{"id":"dev","node-name":"disc"}"#
      #expect(
        description(try client.run("blockdev-insert-medium", insert))
          == "Tray of device 'dev' is not open")
      #expect(try client.run("blockdev-open-tray", #"{"id":"dev"}"#)["error"] == nil)
      let moved = try client.event("DEVICE_TRAY_MOVED")
      #expect(moved["data"] == ["device": "cd", "id": "dev", "tray-open": true])
      #expect(try client.run("blockdev-insert-medium", insert)["error"] == nil)
      #expect(
        description(try client.run("blockdev-insert-medium", insert))
          == "Node 'disc' is already in use")
      #expect(try client.run("blockdev-close-tray", #"{"device":"cd"}"#)["error"] == nil)
      #expect(try client.event("DEVICE_TRAY_MOVED")["data"]?["tray-open"] == false)
      let info = try client.run("query-block")["return"]?.arrayValue?.first
      #expect(info?["inserted"]?["node-name"] == "disc")
      #expect(info?["qdev"] == "dev" && info?["tray_open"] == false)
      #expect(
        description(try client.run("blockdev-remove-medium", #"{"id":"dev"}"#))
          == "Tray of device 'dev' is not open")
      // The guest holds it: it is asked, and nothing happens; force does.
      drive.lock(true)
      #expect(
        description(try client.run("eject", #"{"id":"dev"}"#))?.hasPrefix(
          "Device 'dev' is locked and force was not specified") == true)
      #expect(drive.requests == [false])
      #expect(try client.run("eject", #"{"id":"dev","force":true}"#)["error"] == nil)
      #expect(drive.requests == [false, true] && drive.isTrayOpen)
      #expect(try client.run("query-block")["return"]?.arrayValue?.first?["inserted"] == nil)
      // The node is its maker's again.
      #expect(try client.run("blockdev-del", #"{"node-name":"disc"}"#)["error"] == nil)
    }
  }

  @Test func aTransactionThatFailsLeavesNothingBehind() async throws {
    try await withDrive { monitored, graph, _, client in
      let path = monitored.folder + "/disk.qcow2"
      try image(path, graph)
      let backend = BlockBackend(graph, name: "d", used: [.consistentRead, .write])
      try backend.insert(try graph.open(path, format: "qcow2"))
      try graph.add(backend)
      let before = try client.run("query-block")
      let nodes = graph.entries.count
      let overlay = monitored.folder + "/overlay.qcow2"
      let reply = try client.run(
        "transaction",
        #"{"actions":[{"type":"blockdev-snapshot-internal-sync","data":{"device":"d","name":"s"}},"#
          + #"{"type":"blockdev-snapshot-sync","data":{"device":"d","snapshot-file":"\#(overlay)"}},"#
          + #"{"type":"abort","data":{}}]}"#)
      #expect(description(reply) == "Transaction aborted using Abort action")
      let after = try client.run("query-block")
      #expect(
        after["return"]?.arrayValue?.last?["inserted"]?["node-name"]
          == before["return"]?.arrayValue?.last?["inserted"]?["node-name"])
      #expect(after["return"]?.arrayValue?.last?["inserted"]?["image"]?["snapshots"] == nil)
      #expect(graph.entries.count == nodes)
      // Requests go through again.
      try backend.writeZeroes(0, 4096)
    }
  }

  @Test func whatIsWrittenAfterASnapshotIsInTheOverlayOnly() async throws {
    try await withDrive { monitored, graph, _, client in
      let path = monitored.folder + "/disk.qcow2"
      try image(path, graph)
      let backend = BlockBackend(graph, name: "d", used: [.consistentRead, .write])
      let base = try graph.open(path, format: "qcow2")
      try backend.insert(base)
      try graph.add(backend)
      try backend.write(0, from: IOBuffer([UInt8](repeating: 1, count: 65536)).vector)
      let overlay = monitored.folder + "/overlay.qcow2"
      #expect(
        try client.run(
          "blockdev-snapshot-sync", #"{"device":"d","snapshot-file":"\#(overlay)"}"#)["error"]
          == nil)
      try backend.write(0, from: IOBuffer([UInt8](repeating: 2, count: 512)).vector)
      #expect(try base.bytes(0, 1) == [1])
      #expect(try backend.node?.bytes(0, 1) == [2])
      #expect(try backend.node?.bytes(512, 1) == [1])
      let info = try client.run("query-block")["return"]?.arrayValue?.last?["inserted"]
      #expect(info?["backing_file_depth"] == 1 && info?["file"]?.stringValue == overlay)
      #expect(
        description(try client.run("blockdev-del", #"{"node-name":"\#(base.name)"}"#))?
          .contains("busy") == true)
    }
  }

  @Test func anImageIsMadeByAJob() async throws {
    try await withDrive { monitored, graph, _, client in
      let path = monitored.folder + "/new.qcow2"
      try graph.createFile(path, size: 0)
      #expect(
        try client.run(
          "blockdev-add", #"{"driver":"file","node-name":"f","filename":"\#(path)"}"#)["error"]
          == nil)
      #expect(
        try client.run(
          "blockdev-create",
          #"{"job-id":"j","options":{"driver":"qcow2","file":"f","size":1048576}}"#)["error"] == nil
      )
      while try client.event("JOB_STATUS_CHANGE")["data"]?["status"] != "concluded" {}
      #expect(try client.run("query-jobs")["return"]?.arrayValue?.first?["error"] == nil)
      #expect(try client.run("job-dismiss", #"{"id":"j"}"#)["error"] == nil)
      #expect(
        try client.run(
          "blockdev-add", #"{"driver":"qcow2","node-name":"q","file":"f","backing":null}"#)["error"]
          == nil)
      #expect(graph.node(named: "q")?.length == 1 << 20)
    }
  }

  @Test func drivesOfTheCommandLineAreOpenedWithWhatBelongsToThem() async throws {
    try await withDrive { monitored, graph, _, _ in
      let path = monitored.folder + "/disk.qcow2"
      try image(path, graph)
      let plan = try CommandLineParser().parse([
        "-M", "none", "-drive",
        "if=none,id=x,file=\(path),snapshot=on,werror=report,throttling.iops-total=9", "-drive",
        "if=none,id=e,media=cdrom",
      ])
      guard case .run(let configuration) = plan.action else {
        Issue.record("no run")
        return
      }
      try DriveOpener.open(configuration, in: graph)
      let drive = try #require(graph.backend(named: "x"))
      #expect(drive.onWriteError == .report && drive.throttleGroup?.name == "x")
      try drive.write(0, from: IOBuffer([UInt8](repeating: 7, count: 512)).vector)
      #expect(drive.node?.child("backing") != nil)
      #expect(try drive.node?.child("backing")?.bytes(0, 1) == [0])
      #expect(graph.backend(named: "e")?.isInserted == false)
    }
  }

  @Test func whoElseHasAnImageIsSaidBesideTheErrorOfTheLock() async throws {
    try await withDrive { monitored, graph, _, _ in
      let path = monitored.folder + "/held.qcow2"
      try image(path, graph)
      let option = "if=none,id=x,format=qcow2,file=\(path)"
      let plan = try CommandLineParser().parse(["-M", "none", "-drive", option])
      guard case .run(let configuration) = plan.action else {
        Issue.record("no run")
        return
      }
      let other = BlockGraph()
      try DriveOpener.open(configuration, in: other)
      let error = #expect(throws: OptionError.self) {
        try DriveOpener.open(configuration, in: graph)
      }
      let lines = error?.lines(program: "p") ?? []
      #expect(lines.first == "p: -drive \(option): Failed to get \"write\" lock")
      #expect(lines.dropFirst().first == "Is another process using the image [\(path)]?")
      try other.closeAll()
    }
  }
}
