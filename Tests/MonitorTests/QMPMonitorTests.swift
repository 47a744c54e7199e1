import Foundation
import Host
import JSON
import Machine
import Monitor
import Options
import QAPI
import Support
import Testing

@Suite struct QMPMonitorTests {
  @Test func eventComesBeforeTheReplyThatCausedIt() async throws {
    try await MonitoredMachine.run { machine in
      let client = try QMPClient(path: machine.path())
      try client.send(#"{"execute":"cont"}{"execute":"stop","id":7}{"execute":"stop"}"#)
      #expect(try client.receive()["event"] == "RESUME")
      #expect(try client.receive() == ["return": [:]])
      #expect(try client.receive()["event"] == "STOP")
      #expect(try client.receive() == ["return": [:], "id": 7])
      // Nothing changes: no event.
      #expect(try client.receive() == ["return": [:]])
    }
  }

  @Test func everyNegotiatedClientGetsTheEvents() async throws {
    try await MonitoredMachine.run(monitors: 3) { machine in
      let first = try QMPClient(path: machine.path(0))
      let second = try QMPClient(path: machine.path(1))
      let silent = try QMPClient(path: machine.path(2), negotiate: false)
      _ = try first.run("system_powerdown")
      let event = try second.receive()
      #expect(event["event"] == "POWERDOWN")
      #expect(try first.event("POWERDOWN") == event)
      _ = try silent.run("qmp_capabilities")
      _ = try silent.run("query-status")
      #expect(throws: SystemError.self) { try silent.event("POWERDOWN", seconds: 0) }
    }
  }

  @Test func clientsAreGreetedBeforeTheMachineExistsAndServedWhenItDoes() async throws {
    try await MonitoredMachine.run(started: false) { machine in
      let client = try QMPClient(path: machine.path(), negotiate: false)
      #expect(client.greeting["QMP"]?["capabilities"] == ["oob"])
      try client.send(#"{"execute":"qmp_capabilities"}{"execute":"query-name"}"#)
      try await machine.start()
      #expect(try client.receive() == ["return": [:]])
      #expect(try client.receive() == ["return": ["name": "guest"]])
    }
  }

  @Test func nextClientStartsAfresh() async throws {
    try await MonitoredMachine.run { machine in
      do {
        let client = try QMPClient(path: machine.path())
        try client.send(#"{"execute":"query-na"#)
      }
      let client = try QMPClient(path: machine.path(), negotiate: false)
      let refused = try client.run("query-name")
      #expect(refused["error"]?["class"] == "CommandNotFound")
      #expect(try client.run("qmp_capabilities") == ["return": [:]])
      #expect(try client.run("query-name") == ["return": ["name": "guest"]])
    }
  }

  @Test func thousandsOfPipelinedRequestsAreAnsweredInOrder() async throws {
    try await MonitoredMachine.run { machine in
      let client = try QMPClient(path: machine.path())
      let count = 3000
      let requests = (0..<count).map { #"{"execute":"query-status","id":\#($0)}"# }.joined()
      try client.send(requests)
      for number in 0..<count {
        #expect(try client.receive()["id"] == JSONValue(number))
      }
    }
  }

  @Test func prettyMonitorBreaksLines() async throws {
    try await MonitoredMachine.run(pretty: true) { machine in
      let client = try QMPClient(path: machine.path())
      #expect(try client.run("query-name") == ["return": ["name": "guest"]])
    }
  }

  @Test func quitIsAnnouncedAndAnswered() async throws {
    try await MonitoredMachine.run { machine in
      let client = try QMPClient(path: machine.path())
      try client.send(#"{"execute":"quit"}"#)
      let event = try client.receive()
      #expect(event["event"] == "SHUTDOWN")
      #expect(event["data"] == ["guest": false, "reason": "host-qmp-quit"])
      #expect(try client.receive() == ["return": [:]])
      #expect(await machine.exitStatus == 0)
    }
  }

  @Test func repeatedClockChangesAreHeldBack() async throws {
    try await MonitoredMachine.run { machine in
      let client = try QMPClient(path: machine.path())
      // In one turn of the main loop: all within the interval, however busy this host is.
      await machine.emit((1...5).map { .rtcChange(offset: $0, qomPath: "/rtc") })
      #expect(try client.receive()["data"]?["offset"] == 1)
      #expect(try client.receive()["data"]?["offset"] == 5)
    }
  }

  @Test func queriesDescribeTheMachine() async throws {
    try await MonitoredMachine.run { machine in
      let client = try QMPClient(path: machine.path())
      let result = { (command: String) throws -> JSONValue? in try client.run(command)["return"] }
      #expect(
        try result("query-status")
          == ["status": "prelaunch", "singlestep": false, "running": false])
      #expect(try result("query-version")?["qemu"] == ["major": 7, "minor": 2, "micro": 22])
      #expect(try result("query-kvm") == ["enabled": false, "present": true])
      #expect(try result("query-target") == ["arch": "x86_64"])
      #expect(try result("query-cpus-fast") == [])
      #expect(
        try result("query-uuid") == ["UUID": "00000000-0000-0000-0000-000000000000"])
      let machines = try result("query-machines")?.arrayValue ?? []
      #expect(machines.contains { $0["name"] == "none" })
      #expect(machines.contains { $0["alias"] == "pc" && $0["is-default"] == true })
      let models = try result("query-cpu-definitions")?.arrayValue ?? []
      #expect(models.contains { $0["name"] == "qemu64" && $0["typename"] == "qemu64-x86_64-cpu" })
      let chardevs = try result("query-chardev")?.arrayValue ?? []
      #expect(chardevs.count == 1)
      #expect(chardevs.first?["label"] == "m0" && chardevs.first?["frontend-open"] == true)
    }
  }

  @Test func actionsThatAreLeftOutStay() async throws {
    try await MonitoredMachine.run { machine in
      let client = try QMPClient(path: machine.path())
      _ = try client.run("set-action", #"{"reboot":"shutdown","watchdog":"inject-nmi"}"#)
      _ = try client.run("set-action", #"{"panic":"none"}"#)
      let actions = try await machine.context.machine.actions
      #expect(actions.reboot == .shutdown && actions.panic == .none)
      #expect(actions.watchdog == .injectNMI && actions.shutdown == .poweroff)
    }
  }

  @Test func savedMemoryIsZeroWhereThereIsNone() async throws {
    try await MonitoredMachine.run { machine in
      let client = try QMPClient(path: machine.path())
      let path = machine.folder + "/memory"
      let reply = try client.run("pmemsave", #"{"val":-5,"size":5000,"filename":"\#(path)"}"#)
      #expect(reply == ["return": [:]])
      #expect(FileManager.default.contents(atPath: path) == Data(count: 5000))
    }
  }

  @Test func memoryCannotBeSavedWhereNothingCanBeWritten() async throws {
    try await MonitoredMachine.run { machine in
      let client = try QMPClient(path: machine.path())
      let save = { (path: String) throws -> JSONValue? in
        try client.run("pmemsave", #"{"val":0,"size":10,"filename":"\#(path)"}"#)["error"]?["desc"]
      }
      #expect(
        try save("/nonexistent/x") == "Could not open '/nonexistent/x': No such file or directory")
      #expect(
        try client.run("memsave", #"{"val":0,"size":10,"filename":"x"}"#)["error"]?["desc"]
          == "Parameter 'cpu-index' expects a CPU number")
      #expect(
        try client.run("pmemsave", #"{"val":0,"size":-1,"filename":"x"}"#)["error"] != nil)
    }
  }

  @Test func aFIFOWithoutReaderMakesOnlyItsClientWait() async throws {
    try await MonitoredMachine.run(monitors: 2) { machine in
      let fifo = machine.folder + "/fifo"
      #expect(mkfifo(fifo, 0o600) == 0)
      let client = try QMPClient(path: machine.path())
      try client.send(
        #"{"execute":"pmemsave","arguments":{"val":0,"size":10,"filename":"\#(fifo)"},"id":1}"#
          + #"{"execute":"query-name","id":2}"#)
      let other = try QMPClient(path: machine.path(1))
      #expect(try other.run("query-name") == ["return": ["name": "guest"]])
      let reader = try FileDescriptor.open(fifo, O_RDONLY)
      #expect(try client.receive() == ["return": [:], "id": 1])
      #expect(try client.receive() == ["return": ["name": "guest"], "id": 2])
      var bytes = [UInt8](repeating: 1, count: 100)
      #expect(try reader.read(into: &bytes) == 10)
    }
  }

  @Test func commandsThatTheMachineLacksSaySo() async throws {
    try await MonitoredMachine.run { machine in
      let client = try QMPClient(path: machine.path())
      let fault = { (command: String) throws -> JSONValue? in
        try client.run(command)["error"]?["desc"]
      }
      #expect(
        try fault("system_wakeup") == "wake-up from suspend is not supported by this guest")
      #expect(
        try fault("inject-nmi") == "this feature or command is not currently supported")
    }
  }

  /// Texts recorded from QEMU 7.2.
  @Test func characterDevicesAreAddedUsedAndRemoved() async throws {
    try await MonitoredMachine.run { machine in
      let client = try QMPClient(path: machine.path())
      func run(_ command: String, _ arguments: String) throws -> JSONValue? {
        let reply = try client.run(command, arguments)
        return reply["return"] ?? reply["error"]?["desc"]
      }
      let ring = #"{"id":"r","backend":{"type":"ringbuf","data":{"size":16}}}"#
      #expect(try run("chardev-add", ring) == [:])
      #expect(try run("chardev-add", ring) == "Chardev with id 'r' already exists")
      let write = { (data: String) in #"{"device":"r","data":"\#(data)"}"# }
      #expect(try run("ringbuf-write", write("abc\u{E9}def")) == [:])
      #expect(try run("ringbuf-read", #"{"device":"r","size":4}"#) == "abc\u{FFFD}")
      #expect(
        try run("ringbuf-read", #"{"device":"r","size":100,"format":"base64"}"#) == "qWRlZg==")
      #expect(try run("ringbuf-read", #"{"device":"r","size":100}"#) == "")
      #expect(
        try run("ringbuf-read", #"{"device":"r","size":0}"#) == "size must be greater than zero")
      #expect(try run("ringbuf-write", write("0123456789abcdefghij")) == [:])
      #expect(try run("ringbuf-read", #"{"device":"r","size":100}"#) == "456789abcdefghij")
      #expect(
        try run("ringbuf-write", #"{"device":"r","data":"!!","format":"base64"}"#)
          == "Base64 data contains invalid characters")
      #expect(
        try run("ringbuf-write", #"{"device":"m0","data":""}"#) == "m0 is not a ringbuf device")
      #expect(try run("ringbuf-read", #"{"device":"z","size":1}"#) == "Device 'z' not found")
      #expect(try run("chardev-remove", #"{"id":"m0"}"#) == "Chardev 'm0' is busy")
      #expect(try run("chardev-send-break", #"{"id":"z"}"#) == "Chardev 'z' not found")
      #expect(try run("chardev-remove", #"{"id":"r"}"#) == [:])
      #expect(try run("chardev-remove", #"{"id":"r"}"#) == "Chardev 'r' not found")
      #expect(
        try run("chardev-add", #"{"id":"y","backend":{"type":"console","data":{}}}"#)
          == "Failed to add chardev 'y': 'console' is not a valid char driver name")
      let kinds = try client.run("query-chardev-backends")["return"]?.arrayValue ?? []
      #expect(kinds.contains(["name": "socket"]) && !kinds.contains(["name": "console"]))
    }
  }

  @Test func descriptorsThatDidNotComeAreMissed() async throws {
    try await MonitoredMachine.run { machine in
      let client = try QMPClient(path: machine.path())
      #expect(
        try client.run("getfd", #"{"fdname":"a"}"#)["error"]?["desc"]
          == "No file descriptor supplied via SCM_RIGHTS")
      #expect(
        try client.run("closefd", #"{"fdname":"a"}"#)["error"]?["desc"]
          == "File descriptor named 'a' not found")
    }
  }

  @Test func pythonClientIsServed() async throws {
    try await MonitoredMachine.run { machine in
      let script = Checkout.root + "/Tests/Support/qmp-client.py"
      let result = try Process.output(["/usr/bin/env", "python3", script, machine.path()])
      if result.status == 77 {
        print("skipped: \(result.text)")
        return
      }
      #expect(result.status == 0, "\(result.text)")
    }
  }

  @Test func humanMonitorGetsTheLineAndItsTextComesBack() async throws {
    try await MonitoredMachine.run { machine in
      await HumanMonitorStub.set(machine) { line, _, _ in "line \(line)\r\n" }
      let client = try QMPClient(path: machine.path())
      #expect(
        try client.run("human-monitor-command", #"{"command-line":"info status"}"#)
          == ["return": "line info status\r\n"])
      #expect(
        try client.run("human-monitor-command", #"{"command-line":"x","cpu-index":1}"#)["error"]?[
          "desc"] == "Parameter 'cpu-index' expects a CPU number")
    }
  }
}

private enum HumanMonitorStub {
  @MainLoop
  static func set(_ machine: MonitoredMachine, _ monitor: @escaping MonitorContext.HumanMonitor) {
    machine.context.humanMonitor = monitor
  }
}
