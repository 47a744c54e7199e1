import Chardev
import Glibc
import Host
import JSON
import Monitor
import QAPI
import Support
import Testing

/// Descriptors that come with requests, and what commands do with them.
@Suite(.timeLimit(.minutes(15)), .serialized) struct DescriptorCommandsTests {
  /// A raw client: replies in the order of requests, events left out.
  private final class Raw {
    let socket: FileDescriptor
    private var text: [UInt8] = []

    init(path: String) throws {
      socket = try Socket.connect(.unix(path: path))
      _ = try line()
      _ = try run(#"{"execute":"qmp_capabilities"}"#)
    }

    /// Sends a request, with a descriptor if given; answers its reply.
    func run(_ request: String, passing file: Int32? = nil) throws -> JSONValue {
      let bytes = Array(request.utf8)
      if let file {
        #expect(try Socket.send(socket.rawValue, bytes, passing: file) == bytes.count)
      } else {
        #expect(try Socket.send(socket.rawValue, bytes, from: 0) == bytes.count)
      }
      while true {
        let reply = try line()
        if reply["event"] == nil { return reply }
      }
    }

    private func line() throws -> JSONValue {
      var buffer = [UInt8](repeating: 0, count: 65536)
      while true {
        if let end = text.firstIndex(of: 10) {
          let line = String(decoding: text[...end], as: UTF8.self)
          text.removeSubrange(...end)
          return try JSONValue(parsing: line)
        }
        var entry = pollfd(fd: socket.rawValue, events: Int16(POLLIN), revents: 0)
        guard poll(&entry, 1, 60_000) == 1,
          let got = try Socket.receive(socket.rawValue, into: &buffer), got.count > 0
        else { throw SystemError(call: "recv", code: ETIMEDOUT) }
        text += buffer[..<got.count]
      }
    }
  }

  private func description(_ reply: JSONValue) -> String? { reply["error"]?["desc"]?.stringValue }

  @Test func setsAreFilledListedAndEmptied() async throws {
    try await MonitoredMachine.run { monitored in
      await MainLoop.query { DescriptorSets.shared.setMachineProbe { true } }
      let client = try Raw(path: monitored.path())
      #expect(
        description(try client.run(#"{"execute":"add-fd"}"#))
          == "No file descriptor supplied via SCM_RIGHTS")
      let null = try FileDescriptor.open("/dev/null", O_RDWR)
      let number = null.rawValue
      let negative = #"{"execute":"add-fd","arguments":{"fdset-id":-1}}"#
      #expect(
        description(try client.run(negative, passing: number))
          == "Parameter 'fdset-id' expects a non-negative value")
      let add = #"{"execute":"add-fd","arguments":{"fdset-id":2000001,"opaque":"why"}}"#
      let added = try client.run(add, passing: number)["return"]
      #expect(added?["fdset-id"] == 2_000_001)
      let own = try #require(added?["fd"])
      let listed = try client.run(#"{"execute":"query-fdsets"}"#)["return"]
      let expected: JSONValue = [
        "fdset-id": 2_000_001, "fds": [["fd": own, "opaque": "why"]],
      ]
      #expect(listed?.arrayValue?.contains(expected) == true)
      for (arguments, name) in [
        (#""fdset-id":2000099"#, "fdset-id:2000099"),
        (#""fdset-id":2000001,"fd":0"#, "fdset-id:2000001, fd:0"),
      ] {
        let reply = try client.run(#"{"execute":"remove-fd","arguments":{\#(arguments)}}"#)
        #expect(description(reply) == "File descriptor named '\(name)' not found")
      }
      let remove = #"{"execute":"remove-fd","arguments":{"fdset-id":2000001}}"#
      #expect(try client.run(remove)["return"] == [:])
      let rest = try client.run(#"{"execute":"query-fdsets"}"#)["return"]?.arrayValue
      #expect(rest?.contains { $0["fdset-id"] == 2_000_001 } == false)
    }
  }

  @Test func connectedSocketsGoToTheDeviceThatIsNamed() async throws {
    try await MonitoredMachine.run { monitored in
      let client = try Raw(path: monitored.path())
      var pair: [Int32] = [0, 0]
      #expect(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair) == 0)
      let mine = FileDescriptor(owning: pair[0])
      let theirs = FileDescriptor(owning: pair[1])
      let get = #"{"execute":"getfd","arguments":{"fdname":"c"}}"#
      func add(_ name: String) -> String {
        #"{"execute":"add_client","arguments":{"protocol":"\#(name)","fdname":"c"}}"#
      }
      #expect(
        description(try client.run(add("m0")))
          == "File descriptor named 'c' has not been found")
      for (name, sentence) in [
        ("spice", "SPICE is not in use"), ("@dbus-display", "D-Bus display is not in use"),
        ("vnc", "protocol 'vnc' is invalid"),
      ] {
        #expect(try client.run(get, passing: theirs.rawValue)["return"] == [:])
        #expect(description(try client.run(add(name))) == sentence)
      }
      // The monitor itself takes one more client so.
      #expect(try client.run(get, passing: theirs.rawValue)["return"] == [:])
      #expect(try client.run(add("m0"))["return"] == [:])
      var entry = pollfd(fd: mine.rawValue, events: Int16(POLLIN), revents: 0)
      #expect(poll(&entry, 1, 60_000) == 1)
      var buffer = [UInt8](repeating: 0, count: 1000)
      let greeting = try #require(try Socket.receive(mine.rawValue, into: &buffer))
      #expect(buffer[..<greeting.count].starts(with: Array(#"{"QMP": "#.utf8)))
    }
  }

  @Test func devicesChangeByCommand() async throws {
    try await MonitoredMachine.run { monitored in
      let client = try Raw(path: monitored.path())
      func change(_ id: String) -> String {
        #"{"execute":"chardev-change","arguments":{"id":"\#(id)","backend":{"type":"null","data":{}}}}"#
      }
      #expect(description(try client.run(change("nope"))) == "Chardev 'nope' does not exist")
      #expect(
        description(try client.run(change("m0")))
          == "Chardev user does not support chardev hotswap")
      let add =
        #"{"execute":"chardev-add","arguments":{"id":"r","backend":{"type":"ringbuf","data":{}}}}"#
      #expect(try client.run(add)["return"] == [:])
      #expect(try client.run(change("r"))["return"] == [:])
      let listed = try client.run(#"{"execute":"query-chardev"}"#)["return"]?.arrayValue
      #expect(
        listed?.contains(["frontend-open": false, "filename": "null", "label": "r"]) == true)
    }
  }
}

extension MainLoop {
  @MainLoop
  fileprivate static func query<T: Sendable>(_ body: @MainLoop () -> T) async -> T { body() }
}
