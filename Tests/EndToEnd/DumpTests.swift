import Foundation
import Host
import JSON
import Support
import Testing

/// Dumps of a running SeaBIOS, and what else goes on meanwhile.
@Suite(.serialized) struct DumpTests {
  private static let machine = [
    "-accel", "tcg", "-m", "64", "-smp", "2", "-nodefaults", "-display", "none",
  ]

  private func dump(_ client: QMPClient, _ arguments: String) throws -> JSONValue {
    try client.run("dump-guest-memory", "{\"paging\":false,\(arguments)}")
  }

  private func read(_ path: String) throws -> (about: JSONValue, memory: String) {
    let raw = path + ".raw"
    let result = try Process.output([
      "python3", Checkout.root + "/Tests/Support/read-dump.py", path, raw,
    ])
    try #require(result.status == 0, "\(result.text)")
    return (try JSONValue(parsing: result.text), raw)
  }

  /// Both formats hold what `pmemsave` saves.
  @Test(arguments: ["elf", "kdump-zlib"])
  func aDumpIsTheGuestsMemory(_ format: String) throws {
    let run = try Goliath(Self.machine)
    let client = try run.connect()
    _ = try client.run("stop")
    let path = run.folder + "/dump"
    let reply = try dump(client, "\"protocol\":\"file:\(path)\",\"format\":\"\(format)\"")
    #expect(reply["return"] != nil, "\(reply.text)")
    let ended = try client.event("DUMP_COMPLETED")
    #expect(ended["data"]?["result"]?["status"] == "completed")
    #expect(try client.run("query-dump")["return"]?.text == ended["data"]?["result"]?.text)
    _ = try client.run(
      "pmemsave", "{\"val\":1048576,\"size\":66060288,\"filename\":\"\(run.folder)/saved\"}")
    let dump = try read(path)
    #expect(dump.about["notes"]?.arrayValue?.count == 4)
    let same = try Process.output([
      "cmp", "-n", "66060288", "-i", "1048576:0", dump.memory, run.folder + "/saved",
    ])
    #expect(same.status == 0, "\(same.text)")
  }

  @Test func aRunningGuestIsStoppedMeanwhile() throws {
    let run = try Goliath(Self.machine)
    let client = try run.connect()
    let reply = try dump(client, "\"protocol\":\"file:\(run.folder)/dump\"")
    #expect(reply["return"] != nil)
    var order: [String] = []
    for name in ["STOP", "DUMP_COMPLETED", "RESUME"] {
      order.append(try client.event(name)["timestamp"]?["microseconds"]?.text ?? "")
    }
    #expect(order.allSatisfy { !$0.isEmpty })
    #expect(try client.run("query-status")["return"]?["status"] == "running")
  }

  /// The dump waits for a pipe that nobody reads; everything else goes on.
  @Test func nothingWaitsForADump() throws {
    let run = try Goliath(Self.machine)
    let client = try run.connect()
    let pipe = run.folder + "/pipe"
    #expect(mkfifo(pipe, 0o600) == 0)
    // Without a reader it is refused.
    let refused = try dump(client, "\"protocol\":\"file:\(pipe)\"")
    #expect(refused["error"]?["desc"]?.text.contains("Could not open") == true)
    let reader = open(pipe, O_RDONLY | O_NONBLOCK)
    #expect(reader >= 0)
    defer { close(reader) }
    let started = try dump(
      client, "\"protocol\":\"file:\(pipe)\",\"detach\":true,\"x-job-id\":\"d0\"")
    #expect(started["return"] != nil, "\(started.text)")
    let before = HostClock.monotonic
    #expect(try client.run("query-status")["return"]?["status"] == "save-vm")
    #expect(HostClock.monotonic - before < 1_000_000_000)
    #expect(try client.run("query-dump")["return"]?["status"] == "active")
    for command in ["stop", "cont"] {
      #expect(
        try client.run(command)["error"]?["desc"]
          == "There is a dump in process, please wait.")
    }
    let second = try dump(client, "\"protocol\":\"file:\(run.folder)/other\"")
    #expect(second["error"]?["desc"] == "There is a dump in process, please wait.")
    let jobs = try client.run("query-jobs")["return"]?.arrayValue ?? []
    #expect(jobs.count == 1 && jobs[0]["id"] == "d0" && jobs[0]["type"] == "x-dump")
    #expect(try client.run("job-cancel", "{\"id\":\"d0\"}")["return"] != nil)
    let ended = try client.event("DUMP_COMPLETED")
    #expect(ended["data"]?["result"]?["status"] == "failed")
    #expect(ended["data"]?["error"]?.text.contains("canceled") == true)
    _ = try client.event("RESUME")
    #expect(try client.run("query-jobs")["return"]?.arrayValue?.isEmpty == true)
  }

  @Test func quitEndsADumpAndSaysSo() throws {
    let run = try Goliath(Self.machine)
    let client = try run.connect()
    let pipe = run.folder + "/pipe"
    #expect(mkfifo(pipe, 0o600) == 0)
    let reader = open(pipe, O_RDONLY | O_NONBLOCK)
    defer { close(reader) }
    _ = try dump(client, "\"protocol\":\"file:\(pipe)\",\"detach\":true")
    _ = try client.run("quit")
    #expect(
      run.process.readUntil(seconds: 20) { $0.contains("is incomplete") }, "\(run.process.text)")
    #expect(run.process.wait(seconds: 20) == 0)
  }

  /// A real guest's core is one that debuggers understand.
  @Test func gdbReadsTheProcessors() throws {
    guard Process.find("gdb") != nil else { return }
    let run = try Goliath(Self.machine)
    let client = try run.connect()
    _ = try client.run("stop")
    let path = run.folder + "/dump"
    _ = try dump(client, "\"protocol\":\"file:\(path)\"")
    let registers = try Process.output([
      "gdb", "-batch", "-ex", "set architecture i386", "-ex", "core-file \(path)",
      "-ex", "info threads", "-ex", "x/2xb 0xfffffff0",
    ])
    // The reset vector of SeaBIOS: a far jump.
    #expect(registers.text.contains("0xea\t0x5b"), "\(registers.text)")
  }
}
