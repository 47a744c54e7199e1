import JSON
import QAPI
import Testing

/// What a `ChardevBackend` under the argument `backend` gives: nil when it is accepted.
private func fault(_ text: String) throws -> String? {
  let value = try JSONValue(parsing: text)
  do throws(QAPIError) {
    _ = try ChardevBackend(decoding: value, at: .member(.json, "backend"))
    return nil
  } catch {
    #expect(error.errorClass == .generic)
    return error.description
  }
}

@Suite struct DecodingTests {
  /// Sentences recorded from QEMU 7.2's `chardev-add`.
  @Test(arguments: [
    ("[]", "Invalid parameter type for 'backend', expected: object"),
    ("{}", "Parameter 'backend.type' is missing"),
    (#"{"type":"zz"}"#, "Parameter 'type' does not accept value 'zz'"),
    (#"{"type":7}"#, "Invalid parameter type for 'backend.type', expected: string"),
    (#"{"type":"null"}"#, "Parameter 'backend.data' is missing"),
    (#"{"type":"null","data":{"zz":1}}"#, "Parameter 'backend.data.zz' is unexpected"),
    (
      #"{"type":"file","data":{"out":"x","append":1}}"#,
      "Invalid parameter type for 'backend.data.append', expected: boolean"
    ),
    (
      #"{"type":"socket","data":{"addr":{"type":"zz","data":1}}}"#,
      "Parameter 'type' does not accept value 'zz'"
    ),
    (
      #"{"type":"socket","data":{"addr":{"type":"inet","data":{"host":"a","port":"1","to":70000}}}}"#,
      "Parameter 'to' expects uint16_t"
    ),
    (
      #"{"type":"socket","data":{"addr":{"type":"inet","data":{"host":"a","port":"1","to":-1}}}}"#,
      "Parameter 'to' expects uint16_t"
    ),
    (
      #"{"type":"socket","data":{"addr":{"type":"inet","data":{"host":"a","port":"1","to":"1"}}}}"#,
      "Parameter 'backend.data.addr.data.to' expects uint64"
    ),
    (
      #"{"type":"socket","data":{"addr":{"type":"inet","data":{"host":"a","port":"1","x":1}},"z":1},"y":1}"#,
      "Parameter 'backend.data.addr.data.x' is unexpected"
    ),
    (
      #"{"type":"socket","data":{"addr":{"type":"unix","data":{"path":"p"}},"reconnect":1.5}}"#,
      "Invalid parameter type for 'backend.data.reconnect', expected: integer"
    ),
  ]) func faultsReadAsInQEMU(text: String, sentence: String) throws {
    #expect(try fault(text) == sentence)
  }

  @Test func unionsRoundTrip() throws {
    let text =
      #"{"type":"socket","data":{"addr":{"type":"inet","data":{"host":"a","port":"1","ipv4":true}},"server":true,"logfile":"l"}}"#
    let value = try JSONValue(parsing: text)
    let backend = try ChardevBackend(decoding: value)
    guard case .socket(let socket) = backend, case .inet(let address) = socket.addr else {
      Issue.record("not a socket: \(backend)")
      return
    }
    #expect(address.host == "a" && address.ipv4 == true && address.ipv6 == nil)
    #expect(socket.server == true && socket.logfile == "l" && backend.kind == .socket)
    #expect(backend.encoded == value)
  }

  @Test func flatUnionsMixTheirMembers() throws {
    let value = try JSONValue(
      parsing: #"{"type":"s390","core":1,"psw-mask":2,"psw-addr":3,"reason":"unknown"}"#)
    let information = try GuestPanicInformation(decoding: value)
    #expect(
      information
        == .s390(
          GuestPanicInformationS390(core: 1, pswMask: 2, pswAddr: 3, reason: .unknown)))
    #expect(information.encoded == value)
  }

  @Test func unionWithCommonMembersHasABranch() throws {
    let cpu = CpuInfoFast(cpuIndex: 0, qomPath: "/machine/cpu", threadId: 7, branch: .x86_64)
    let value = try JSONValue(
      parsing: #"{"cpu-index":0,"qom-path":"/machine/cpu","thread-id":7,"target":"x86_64"}"#)
    #expect(cpu.encoded == value)
    #expect(try CpuInfoFast(decoding: value) == cpu)
  }

  @Test func unsignedIntegersKeepAllBitsAndWrapNegativeOnes() throws {
    let text = #"{"arg1":18446744073709551615,"arg2":-1,"arg3":0,"arg4":1,"arg5":2}"#
    let registers = try GuestPanicInformationHyperV(decoding: JSONValue(parsing: text))
    #expect(registers.arg1 == .max && registers.arg2 == .max)
    #expect(registers.encoded["arg1"] == .uint(.max))
  }

  @Test func keyValueFormReadsScalarsFromStrings() throws {
    let value: JSONValue = ["path": "p", "abstract": "on"]
    #expect(
      try UnixSocketAddress(decoding: value, at: .keyValue)
        == UnixSocketAddress(path: "p", abstract: true))
    let inet: JSONValue = ["host": "h", "port": "1", "to": "0x10"]
    #expect(try InetSocketAddress(decoding: inet, at: .keyValue).to == 16)
    #expect(throws: QAPIError("Parameter 'abstract' expects 'on' or 'off'")) {
      try UnixSocketAddress(decoding: ["path": "p", "abstract": "x"], at: .keyValue)
    }
  }

  @Test func eventsCarryTheirData() {
    let event = Event.shutdown(guest: true, reason: .guestShutdown)
    #expect(event.name == "SHUTDOWN")
    #expect(event.data == ["guest": true, "reason": "guest-shutdown"])
    #expect(event.throttle == nil)
    #expect(Event.stop.data == nil)
    #expect(Event.guestPanicked(action: .pause).data == ["action": "pause"])
    #expect(
      Event.rtcChange(offset: 1, qomPath: "/rtc").throttle
        == EventThrottle(milliseconds: 1000, key: nil))
  }
}
