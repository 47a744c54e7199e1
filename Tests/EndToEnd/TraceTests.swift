import Foundation
import Host
import JSON
import Support
import Testing

/// Trace events from the command line and over QMP, and the watchdog, in the real program.
@Suite struct TraceTests {
  private static let machine = ["-M", "none", "-nodefaults"]

  @Test func helpListsTheEvents() throws {
    let result = try Process.output([Goliath.path, "-trace", "help"])
    #expect(result.status == 0)
    let names = result.text.split(separator: "\n").map(String.init)
    #expect(names == TraceEvent.allCases.map(\.name))
  }

  @Test func eventsAreWrittenToTheLog() throws {
    let folder = Goliath.temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try "# comment\nmonitor_qmp_*\n-monitor_qmp_respond\n".write(
      toFile: folder + "/events", atomically: true, encoding: .utf8)
    let log = folder + "/log"
    let run = try Goliath(
      Self.machine + [
        "-trace", "runstate_set,file=\(log)", "-trace", "events=\(folder)/events", "-d",
        "trace:vm_state*",
      ])
    let client = try run.connect()
    _ = try client.run("stop")
    let set = try client.run("trace-event-set-state", #"{"name":"handle_qmp*","enable":true}"#)
    #expect(set["return"] != nil)
    _ = try client.run("query-name")
    let state = try client.run("trace-event-get-state", #"{"name":"handle_qmp_command"}"#)
    #expect(
      state["return"]?.text
        == #"[{"name": "handle_qmp_command", "vcpu": false, "state": "enabled"}]"#
        || state["return"]?[0]?["state"] == "enabled")
    _ = try client.run("quit")
    _ = run.process.readUntil(seconds: 20) { _ in false }
    #expect(run.process.wait(seconds: 20) == 0)
    let text = try String(contentsOfFile: log, encoding: .utf8)
    #expect(text.contains("runstate_set current_run_state 6 (prelaunch) new_state 9 (running)\n"))
    #expect(text.contains("runstate_set current_run_state 9 (running) new_state 4 (paused)\n"))
    #expect(text.contains("vm_state_notify running 1 reason 9 (running)\n"))
    #expect(text.contains("monitor_qmp_cmd_in_band id: \n"))
    #expect(text.contains("handle_qmp_command req: query-name {}\n"))
    #expect(!text.contains("handle_qmp_command req: stop") && !text.contains("monitor_qmp_respond"))
  }

  @Test func unknownEventsAreNamed() throws {
    let run = try Goliath(Self.machine + ["-trace", "nonexist"])
    let client = try run.connect()
    let cases = [
      (#"{"name":"nope"}"#, "unknown event \"nope\""),
      (#"{"name":"guest_*","vcpu":9}"#, "invalid vCPU index 9"),
    ]
    for (arguments, text) in cases {
      let reply = try client.run("trace-event-get-state", arguments)
      #expect(reply["error"]?["desc"] == .string(text), "\(reply.text)")
    }
    let empty = try client.run("trace-event-get-state", #"{"name":"nope*"}"#)
    #expect(empty["return"]?.arrayValue?.isEmpty == true)
    _ = try client.run("quit")
    _ = run.process.readUntil(seconds: 20) { _ in false }
    #expect(run.process.wait(seconds: 20) == 0)
    #expect(run.process.text.contains("warning: trace event 'nonexist' does not exist"))
  }

  @Test func switchingForOneProcessorTakesAnEventOfProcessors() throws {
    let run = try Goliath([
      "-S", "-accel", "tcg", "-m", "32", "-smp", "2", "-nodefaults", "-display", "none",
    ])
    let client = try run.connect()
    let refused = try client.run(
      "trace-event-set-state", #"{"name":"runstate_set","enable":true,"vcpu":0}"#)
    #expect(refused["error"]?["desc"] == "event \"runstate_set\" is not vCPU-specific")
    _ = try client.run(
      "trace-event-set-state", #"{"name":"guest_cpu_reset","enable":true,"vcpu":1}"#)
    for (vcpu, state) in [(0, "disabled"), (1, "enabled")] {
      let reply = try client.run(
        "trace-event-get-state", "{\"name\":\"guest_cpu_reset\",\"vcpu\":\(vcpu)}")
      #expect(reply["return"]?[0]?["state"] == .string(state))
    }
    _ = try client.run("system_reset")
    _ = try client.run("quit")
    _ = run.process.readUntil(seconds: 20) { _ in false }
    #expect(run.process.wait(seconds: 20) == 0)
    #expect(run.process.text.split(separator: "\n").count { $0 == "guest_cpu_reset cpu=1" } == 1)
    #expect(!run.process.text.contains("guest_cpu_reset cpu=0"))
  }

  /// HMP's `o` stands for a guest that starts the watchdog and forgets it: value 14 is two seconds.
  @Test func aForgottenWatchdogPausesTheGuest() throws {
    let run = try Goliath([
      "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none", "-device", "ib700",
      "-watchdog-action", "none",
    ])
    let client = try run.connect()
    #expect(try client.run("watchdog-set-action", #"{"action":"pause"}"#)["return"] != nil)
    _ = try client.run("human-monitor-command", #"{"command-line":"o/b 0x443 14"}"#)
    let event = try client.event("WATCHDOG")
    #expect(event["data"]?["action"] == "pause")
    _ = try client.event("STOP")
    #expect(try client.run("query-status")["return"]?["status"] == "watchdog")
  }
}
