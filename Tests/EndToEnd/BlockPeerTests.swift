import Glibc
import Host
import JSON
import Support
import Testing

/// What monitors tell of disks, and what becomes of commands about them, compared with QEMU on equal images.
@Suite(.serialized) struct BlockPeerTests {
  private static let drives = [
    "-drive", "if=none,id=d0,file=top.qcow2", "-drive",
    "if=none,id=vd,file=plain.raw,format=raw,cache=none,throttling.bps-total=1000,"
      + "throttling.iops-total=5,throttling.iops-total-max=10",
    "-drive", "if=none,id=ro,file=base.qcow2,readonly=on,file.locking=off,werror=stop", "-drive",
    "if=none,id=empty,media=cdrom", "-blockdev", "null-co,node-name=n0,size=1048576", "-blockdev",
    #"{"driver":"raw","node-name":"r0","read-only":true,"file":{"driver":"null-co","size":4096}}"#,
  ]

  /// Lines of the human monitor, in order.
  private static let lines = [
    "info block", "info block -v", "info block vd", "info block nope",
    "info blockstats", "info block-jobs", "eject nope", "eject ro", "info block ro",
    "block_resize vd 1", "block_resize nope 1", "block_resize vd 16M", "block_resize ro 1",
    "drive_del nope", "drive_del ro", "drive_add 0 if=none,id=zz,file=plain2.raw,format=raw",
    "drive_add 0 if=none,id=zz,file=plain2.raw,format=raw", "drive_add 0 if=none,id=q,file=nope",
    "drive_add 0 if=nope,id=q,file=nope", "drive_add -n 0 driver=null-co,node-name=n9",
    "drive_add -n 0 driver=null-co", "drive_del n9", "info block zz", "snapshot_blkdev d0",
    "snapshot_blkdev nope FOLDER/s.qcow2", "snapshot_blkdev empty FOLDER/s.qcow2",
    "snapshot_blkdev d0 FOLDER/s1.qcow2 nope", "snapshot_blkdev d0 FOLDER/s1.qcow2",
    "info block d0", "snapshot_blkdev_internal d0 first", "snapshot_blkdev_internal d0 first",
    "snapshot_blkdev_internal vd first", "snapshot_blkdev_internal nope first",
    "snapshot_delete_blkdev_internal d0 first 7", "snapshot_delete_blkdev_internal d0 nope",
    "snapshot_delete_blkdev_internal d0 first", "snapshot_delete_blkdev_internal vd first",
    "block_set_io_throttle d0 100 0 0 0 0 0", "block_set_io_throttle d0 1 2 0 0 0 0",
    "block_set_io_throttle nope 1 2 0 0 0 0", "block_set_io_throttle empty 1 0 0 0 0 0",
    "info block d0", "block_set_io_throttle d0 0 0 0 0 0 0", "info block d0",
    "change empty FOLDER/base.qcow2", "info block empty", "eject empty", "change empty nope",
    "change empty plain2.raw raw read-only-ish", "drive_del vd", "info block",
  ]

  /// Commands of QMP with their arguments, in order.
  private static let commands: [(String, String)] = [
    ("query-block", "{}"), ("query-blockstats", "{}"),
    ("query-named-block-nodes", #"{"flat":true}"#),
    ("blockdev-add", #"{"driver":"null-co","node-name":"n0"}"#),
    ("blockdev-add", #"{"driver":"null-co","node-name":"1x"}"#),
    ("blockdev-add", #"{"driver":"null-co"}"#), ("blockdev-add", #"{"driver":"nope"}"#),
    ("blockdev-add", #"{"driver":"null-co","node-name":"d0"}"#),
    ("blockdev-add", #"{"driver":"file","node-name":"f","filename":"nope"}"#),
    ("blockdev-add", #"{"driver":"qcow2","node-name":"f","file":"n0"}"#),
    ("blockdev-add", #"{"driver":"qcow2","node-name":"f","file":"nope"}"#),
    ("blockdev-add", #"{"driver":"raw","node-name":"r1","file":"n0"}"#),
    ("blockdev-del", #"{"node-name":"n0"}"#), ("blockdev-del", #"{"node-name":"nope"}"#),
    ("blockdev-del", #"{"node-name":"r1"}"#), ("blockdev-del", #"{"node-name":"n0"}"#),
    ("block_resize", #"{"size":1}"#), ("block_resize", #"{"device":"d0","size":-1}"#),
    ("block_resize", #"{"node-name":"r0","size":512}"#),
    ("blockdev-snapshot", #"{"node":"d0","overlay":"nope"}"#),
    ("blockdev-snapshot", #"{"node":"d0","overlay":"r0"}"#),
    ("blockdev-snapshot-sync", #"{"snapshot-file":"x"}"#),
    ("blockdev-snapshot-internal-sync", #"{"device":"d0","name":""}"#),
    ("blockdev-snapshot-delete-internal-sync", #"{"device":"d0"}"#),
    ("transaction", #"{"actions":[]}"#),
    ("transaction", #"{"actions":[{"type":"abort","data":{}}]}"#),
    (
      "transaction",
      #"{"actions":[{"type":"blockdev-snapshot-internal-sync","data":{"device":"d0","name":"t"}},"#
        + #"{"type":"abort","data":{}}]}"#
    ),
    (
      "transaction",
      #"{"actions":[{"type":"blockdev-snapshot-sync","data":{"device":"d0","snapshot-file":"#
        + #""FOLDER/t.qcow2"}},{"type":"abort","data":{}}]}"#
    ), ("query-block", "{}"), ("eject", "{}"), ("eject", #"{"id":"nope"}"#),
    ("eject", #"{"id":"a","device":"d0"}"#),
    ("blockdev-insert-medium", #"{"id":"nope","node-name":"r0"}"#),
    ("blockdev-remove-medium", #"{"id":"nope"}"#), ("blockdev-open-tray", #"{"id":"nope"}"#),
    ("blockdev-close-tray", #"{"device":"nope"}"#),
    ("block-latency-histogram-set", #"{"id":"nope"}"#),
    (
      "block_set_io_throttle",
      #"{"device":"d0","bps":-1,"bps_rd":0,"bps_wr":0,"iops":0,"iops_rd":0,"iops_wr":0}"#
    ),
    (
      "block_set_io_throttle",
      #"{"device":"d0","bps":9,"bps_rd":0,"bps_wr":0,"iops":0,"iops_rd":0,"iops_wr":0,"#
        + #""bps_max":20,"bps_max_length":3,"group":"g"}"#
    ), ("query-block", "{}"),
  ]

  /// What is no other's in the two programs: made-up names, bytes on the host.
  private static func normalized(_ value: JSONValue) -> JSONValue {
    switch value {
    case .object(let object):
      var result = JSONObject()
      for (name, member) in object {
        if ["actual-size", "date-sec", "date-nsec", "vm-clock-nsec"].contains(name) { continue }
        result[name] = normalized(member)
      }
      return .object(result)
    case .array(let elements): return .array(elements.map(normalized))
    case .string(let text): return .string(normalized(text))
    default: return value
    }
  }

  private static func normalized(_ text: String) -> String {
    // A node that has no file is named by its options in QEMU.
    if text.hasPrefix("json:{") || text == "null-co://" { return "a node without a file" }
    return text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).filter {
      !$0.hasPrefix("disk size:")
    }.map { line in
      line.split(separator: "#block", omittingEmptySubsequences: false).enumerated().map {
        $0.offset == 0 ? String($0.element) : "#block" + $0.element.drop { $0.isNumber }
      }.joined()
    }.joined(separator: "\n")
  }

  /// Runs all lines and commands in a folder with images of its own; answers the replies.
  private static func replies(
    of program: String, in folder: String, _ tool: String
  ) throws -> [(String, JSONValue)] {
    for arguments in [
      ["create", "-q", "-f", "qcow2", "base.qcow2", "64M"],
      ["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"],
      ["create", "-q", "-f", "raw", "plain.raw", "8M"],
      ["create", "-q", "-f", "raw", "plain2.raw", "8M"],
    ] {
      let command = "cd \(folder) && exec \(tool) \(arguments.joined(separator: " "))"
      #expect(try Process.output(["sh", "-c", command]).status == 0)
    }
    let socket = folder + "/qmp"
    let options = drives.map { "'\($0)'" }.joined(separator: " ")
    let process = try Process([
      "sh", "-c",
      "cd \(folder) && exec \(program) -machine none -nodefaults -display none \(options)"
        + " -qmp unix:\(socket),server=on,wait=off",
    ])
    defer { process.kill(signal: SIGKILL) }
    let client = try QMPClient(path: socket)
    var result: [(String, JSONValue)] = []
    for (command, arguments) in commands {
      var reply = try client.run(command, arguments.replacing("FOLDER", with: folder))
      // Nodes that were opened with one image may be listed in another order.
      if command == "query-named-block-nodes", let nodes = reply["return"]?.arrayValue {
        func key(_ node: JSONValue) -> String {
          (node["drv"]?.text ?? "") + (node["image"]?["virtual-size"]?.text ?? "")
            + normalized(node["file"]?.stringValue ?? "")
        }
        reply = .array(nodes.sorted { key($0) < key($1) })
      }
      result.append(("\(command) \(arguments)", normalized(reply)))
    }
    for line in lines {
      let command = line.replacing("FOLDER", with: folder)
      let reply = try client.run("human-monitor-command", "{\"command-line\": \"\(command)\"}")
      result.append((line, normalized(reply)))
    }
    _ = try client.run("quit")
    #expect(process.wait(seconds: 20) == 0)
    return result
  }

  @Test func whatMonitorsSayOfDisksIsQEMUs() throws {
    guard let qemu = Process.find("qemu-system-x86_64"), let tool = Process.find("qemu-img") else {
      print("SKIPPED: comparison of disks: QEMU is not installed")
      return
    }
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    // One after the other in the same place, so that all names are the same.
    let expected = try Self.replies(of: qemu, in: folder, tool)
    _ = try Process.output(["sh", "-c", "rm -f \(folder)/*"])
    let got = try Self.replies(of: Goliath.path, in: folder, tool)
    for (own, peer) in zip(got, expected) {
      #expect(own.1 == peer.1, "\(own.0)\nours:   \(own.1.text)\ntheirs: \(peer.1.text)")
    }
    #expect(got.count == expected.count)
  }
}
