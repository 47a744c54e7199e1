import Foundation
import Host
import JSON
import Monitor
import Options
import QAPI
import Support
import Testing

/// What the monitors do that QEMU's do not.
@Suite struct QMPBeyondQEMUTests {
  @Test func thirtyTwoClientsAreServedAtOnceAndOneMayLeave() async throws {
    try await MonitoredMachine.run { machine in
      var clients = try (0..<32).map { _ in try QMPClient(path: machine.path()) }
      for (number, client) in clients.enumerated() {
        try client.send(#"{"execute":"query-name","id":\#(number)}"#)
      }
      for (number, client) in clients.enumerated() {
        #expect(try client.receive()["id"] == JSONValue(number))
      }
      clients.remove(at: 7)
      _ = try clients[0].run("system_powerdown")
      for client in clients { #expect(try client.event("POWERDOWN")["event"] == "POWERDOWN") }
    }
  }

  @Test func eventsThatWereMissedCanBeAskedFor() async throws {
    try await MonitoredMachine.run { machine in
      await machine.emit([.powerdown, .stop, .resume])
      let client = try QMPClient(path: machine.path())
      let all = try client.run("x-events-since")["return"]
      #expect(all?["last"] == 3 && all?["lost"] == 0)
      #expect(all?["events"]?[0]?["event"] == "POWERDOWN")
      let some = try client.run("x-events-since", #"{"since":2}"#)["return"]
      #expect(some?["events"]?.arrayValue?.count == 1)
      #expect(some?["events"]?[0]?["event"] == "RESUME")
      #expect(some?["events"]?[0]?["sequence"] == 3)
      let none = try client.run("x-events-since", #"{"since":3}"#)["return"]
      #expect(none == ["events": [], "last": 3, "lost": 0])
    }
  }

  @Test func onlyTheLastThousandEventsAreRemembered() async throws {
    try await MonitoredMachine.run { machine in
      await machine.emit([Event](repeating: .powerdown, count: 1500))
      let client = try QMPClient(path: machine.path())
      let reply = try client.run("x-events-since", #"{"since":100}"#)["return"]
      #expect(reply?["events"]?.arrayValue?.count == 1000)
      #expect(reply?["events"]?[0]?["sequence"] == 501)
      #expect(reply?["lost"] == 400 && reply?["last"] == 1500)
    }
  }

  @Test func waitingForAnEventHoldsUpNobodyElse() async throws {
    try await MonitoredMachine.run { machine in
      let waiting = try QMPClient(path: machine.path())
      try waiting.send(
        #"{"execute":"x-wait-event","arguments":{"names":["RESET"],"filter":{"guest":true}},"id":1}"#
          + #"{"execute":"query-name","id":2}"#)
      let other = try QMPClient(path: machine.path())
      while try other.run("x-commands-in-flight")["return"]?[0]?["id"] != 1 {}
      await machine.emit([
        .stop, .reset(guest: false, reason: .hostQmpSystemReset),
        .reset(guest: true, reason: .guestReset),
      ])
      var message = try waiting.receive()
      while message["event"] != nil { message = try waiting.receive() }
      #expect(message["id"] == 1)
      #expect(message["return"]?["event"]?["data"]?["reason"] == "guest-reset")
      #expect(message["return"]?["event"]?["sequence"] == 3)
      #expect(try waiting.receive()["id"] == 2)
      #expect(try other.run("x-commands-in-flight")["return"] == [])
    }
  }

  @Test func waitingEndsInTimeAndKnowsThePast() async throws {
    try await MonitoredMachine.run { machine in
      let client = try QMPClient(path: machine.path())
      #expect(try client.run("x-wait-event", #"{"timeout":1}"#)["return"] == ["last": 0])
      await machine.emit([.powerdown])
      let past = try client.run("x-wait-event", #"{"since":0,"timeout":0}"#)["return"]
      #expect(past?["event"]?["event"] == "POWERDOWN")
      #expect(
        try client.run("x-wait-event", #"{"filter":1}"#)["error"]?["desc"]
          == "Invalid parameter type for 'filter', expected: object")
    }
  }

  @Test func aClientThatLeavesNoLongerWaits() async throws {
    try await MonitoredMachine.run { machine in
      do {
        let waiting = try QMPClient(path: machine.path())
        try waiting.send(#"{"execute":"x-wait-event"}"#)
        let other = try QMPClient(path: machine.path())
        while try other.run("x-commands-in-flight")["return"] == [] {}
      }
      let client = try QMPClient(path: machine.path())
      while try client.run("x-commands-in-flight")["return"] != [] {}
    }
  }

  @Test func whoDoesNotReadMissesEventsAndIsToldSo() async throws {
    try await MonitoredMachine.run { machine in
      let silent = try QMPClient(path: machine.path())
      let other = try QMPClient(path: machine.path())
      let count = 30_000
      for _ in 0..<30 {
        await machine.emit([Event](repeating: .powerdown, count: count / 30))
        for _ in 0..<count / 30 { _ = try other.receive() }
      }
      var seen = 0
      while seen < count {
        let message = try silent.receive()
        guard message["event"] == "X_EVENTS_DROPPED" else {
          seen += 1
          continue
        }
        seen += message["data"]?["count"]?.intValue ?? 0
        break
      }
      #expect(seen == count)
      #expect(try silent.run("query-name")["return"] == ["name": "guest"])
    }
  }

  @Test func whoDoesNotReadIsNotReadFrom() async throws {
    try await MonitoredMachine.run { machine in
      let silent = try QMPClient(path: machine.path())
      let request = #"{"execute":"query-qmp-schema"}"#
      // Far more replies than the sockets and the queue hold; every one comes when they are read.
      try silent.send(String(repeating: request, count: 50))
      let other = try QMPClient(path: machine.path())
      #expect(try other.run("query-name")["return"] == ["name": "guest"])
      for _ in 0..<50 { #expect(try silent.receive()["return"]?.arrayValue?.isEmpty == false) }
    }
  }

  @Test func aHugeRequestHoldsUpNobodyElse() async throws {
    try await MonitoredMachine.run { machine in
      let large = try QMPClient(path: machine.path())
      let other = try QMPClient(path: machine.path())
      let piece = String(repeating: "x", count: 1 << 16)
      try large.send(#"{"execute":"query-name","arguments":{"a":""#)
      for _ in 0..<160 {
        try large.send(piece)
        #expect(try other.run("query-name")["return"] == ["name": "guest"])
      }
      try large.send(#""}}"#)
      #expect(try large.receive()["error"]?["desc"] == "Parameter 'a' is unexpected")
    }
  }

  @Test func limitedMonitorsRefuseWhatIsNotAllowed() async throws {
    let access = try MonitorAccess("read-only+sto*")
    try await MonitoredMachine.run(access: access) { machine in
      let client = try QMPClient(path: machine.path())
      #expect(try client.run("stop")["return"] == [:])
      #expect(try client.run("x-events-since")["return"] != nil)
      #expect(
        try client.run("cont")["error"]?["desc"]
          == "The command cont is not allowed on this monitor")
      #expect(try client.run("nope")["error"]?["class"] == "CommandNotFound")
    }
  }

  @Test func accessListsAreReadAsTheyAreWritten() throws {
    #expect(throws: QAPIError.self) { try MonitorAccess("") }
    #expect(throws: QAPIError.self) { try MonitorAccess("stop+") }
    #expect(try MonitorAccess("full").isUnlimited)
    let list = try MonitorAccess("query-*+cont")
    #expect(list.allowsHuman("cont", looks: false))
    #expect(!list.allowsHuman("info", looks: true))
    #expect(throws: QAPIError.self) { try list.check(.stop) }
    try list.check(.queryStatus)
    try list.check(.qmpCapabilities)
  }

  @Test func auditSaysWhoRanWhatWithoutSecrets() async throws {
    let path = Goliath.temporaryFolder() + "/audit"
    let log = try AuditLog(path)
    try await MonitoredMachine.run(audit: log) { machine in
      let client = try QMPClient(path: machine.path())
      _ = try client.run("stop")
      _ = try client.run("query-name", #"{"password":"hidden","x":{"secret":"hidden"}}"#)
      try client.send(#"{"execute":"nope","id":"mine"}"#)
      _ = try client.receive()
    }
    log.drain()
    let text = String(decoding: FileManager.default.contents(atPath: path) ?? Data(), as: UTF8.self)
    let lines = try text.split(separator: "\n").map { try JSONValue(parsing: String($0)) }
    #expect(lines.map { $0["command"] } == ["qmp_capabilities", "stop", "query-name", "nope"])
    #expect(lines.map { $0["result"] } == ["ok", "ok", "error", "error"])
    #expect(lines.allSatisfy { $0["pid"]?.intValue == Int(getpid()) && $0["client"] == 1 })
    #expect(lines[2]["arguments"]?["password"] == "<redacted>")
    #expect(!text.contains("hidden"))
    #expect(lines[3]["id"] == "mine" && lines[3]["error"]?["class"] == "CommandNotFound")
  }

  @Test func everythingInTheSchemaHasADocument() async throws {
    try await MonitoredMachine.run { machine in
      let client = try QMPClient(path: machine.path())
      for command in Command.allCases {
        let reply = try client.run("x-schema", #"{"name":"\#(command.rawValue)"}"#)["return"]
        #expect(reply?["kind"] == "command", "\(command)")
        #expect(reply?["description"]?.stringValue?.isEmpty == false, "\(command)")
      }
      #expect(try client.run("x-schema", #"{"name":"RESET"}"#)["return"]?["kind"] == "event")
      let type = try client.run("x-schema", #"{"name":"StatusInfo"}"#)["return"]
      #expect(type?["kind"] == "type" && type?["schema"]?["properties"]?["status"] != nil)
    }
  }

  @Test func whyTheStartFailedIsSaidToThoseWhoNegotiated() async throws {
    try await MonitoredMachine.run(started: false) { machine in
      let early = try QMPClient(path: machine.path(), negotiate: false)
      try early.send(#"{"execute":"qmp_capabilities"}{"execute":"query-status"}"#)
      await machine.context.failStart(option: "-m", value: "1x", reason: "no")
      #expect(try early.receive() == ["return": [:]])
      let event = try early.receive()
      #expect(event["event"] == "X_START_FAILED")
      #expect(event["data"] == ["option": "-m", "value": "1x", "reason": "no"])
      #expect(
        try early.receive()["error"]?["desc"] == "The machine is not initialized yet")
      let silent = try QMPClient(path: machine.path(), negotiate: false)
      await machine.context.endFailedStart()
      #expect(try silent.receive()["event"] == "X_START_FAILED")
    }
  }
}
