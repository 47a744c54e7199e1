import JSON
import Monitor
import QAPI
import Testing

private func error(_ sentence: String, _ errorClass: String = "GenericError") -> String {
  let value: JSONValue = [
    "error": ["class": .string(errorClass), "desc": .string(sentence)]
  ]
  return value.text
}

@Suite struct QMPSessionTests {
  @Test func greetingIsOneLine() {
    let text = QMPSession(version: .current, isPretty: false).greeting()
    #expect(
      String(decoding: text, as: UTF8.self)
        == #"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Goliath"}, "capabilities": ["oob"]}}"#
        + "\r\n")
  }

  @Test func nothingWorksBeforeNegotiation() {
    var client = Conversation()
    let expected = error(
      "Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound")
    #expect(client.send(#"{"execute":"query-status"}"#) == [expected])
    #expect(client.send(#"{"execute":"nonsense"}"#) == [expected])
    #expect(client.send("[]") == [error("QMP input must be a JSON object")])
    #expect(client.send(#"{"execute":"qmp_capabilities"}"#) == [#"{"return": {}}"#])
    #expect(client.send(#"{"execute":"query-target"}"#) == [#"{"return": {"arch": "x86_64"}}"#])
  }

  @Test func failedNegotiationMayBeRepeated() {
    var client = Conversation()
    let attempt = { (enable: String) in
      #"{"execute":"qmp_capabilities","arguments":{"enable":\#(enable)}}"#
    }
    #expect(
      client.send(attempt(#"["bogus"]"#))
        == [error("Parameter 'null' does not accept value 'bogus'")])
    #expect(
      client.send(attempt("1"))
        == [error("Invalid parameter type for 'enable', expected: array")])
    #expect(
      client.send(attempt("[1]"))
        == [error("Invalid parameter type for 'enable[0]', expected: string")])
    #expect(!client.session.isNegotiated)
    #expect(client.send(attempt("[]")) == [#"{"return": {}}"#])
    #expect(client.session.isNegotiated && !client.session.isOutOfBandEnabled)
    #expect(
      client.send(#"{"execute":"qmp_capabilities"}"#) == [
        error(
          "Capabilities negotiation is already complete, command ignored", "CommandNotFound")
      ])
    #expect(
      client.send(attempt("[1]"))
        == [error("Invalid parameter type for 'enable[0]', expected: string")])
  }

  /// Requests and answers recorded from QEMU 7.2.
  @Test(arguments: [
    ("[]", "QMP input must be a JSON object"),
    (#""x""#, "QMP input must be a JSON object"),
    ("1 ", "QMP input must be a JSON object"),
    ("true ", "QMP input must be a JSON object"),
    (#"{"execute":1}"#, "QMP input member 'execute' must be a string"),
    (#"{"exec-oob":"query-status"}"#, "QMP input member 'exec-oob' is unexpected"),
    (
      #"{"execute":"query-status","arguments":null}"#,
      "QMP input member 'arguments' must be an object"
    ),
    (#"{"execute":"query-status","extra":1}"#, "QMP input member 'extra' is unexpected"),
    ("{}", "QMP input lacks member 'execute'"),
    (#"{"execute":"query-status","arguments":{"a":1}}"#, "Parameter 'a' is unexpected"),
    (#"{"execute":"pmemsave","arguments":{"size":1.0}}"#, "Parameter 'val' is missing"),
    (
      #"{"execute":"pmemsave","arguments":{"val":18446744073709551615,"size":1,"filename":"f"}}"#,
      "Invalid parameter type for 'val', expected: integer"
    ),
    (
      #"{"execute":"pmemsave","arguments":{"val":-1,"size":1.0,"filename":"f"}}"#,
      "Invalid parameter type for 'size', expected: integer"
    ),
    (
      #"{"execute":"set-action","arguments":{"reboot":"xx"}}"#,
      "Parameter 'reboot' does not accept value 'xx'"
    ),
    (
      #"{"execute":"set-action","arguments":{"reboot":1}}"#,
      "Invalid parameter type for 'reboot', expected: string"
    ),
    ("{'execute':'query-status',}", "JSON parse error, expecting value"),
  ]) func faultyRequestsReadAsInQEMU(request: String, sentence: String) {
    var client = Conversation.ready()
    #expect(client.send(request) == [error(sentence)])
    #expect(client.handlers.calls == [])
    #expect(client.send(#"{"execute":"query-name"}"#) == [#"{"return": {}}"#])
  }

  @Test func unknownCommandHasItsOwnClass() {
    var client = Conversation.ready()
    #expect(
      client.send(#"{"execute":"foo"}"#)
        == [error("The command foo has not been found", "CommandNotFound")])
    #expect(
      client.send(#"{"execute":"query_status"}"#)
        == [error("The command query_status has not been found", "CommandNotFound")])
  }

  @Test func outOfBandRequestsNeedTheFlag() {
    var client = Conversation.ready(outOfBand: true)
    #expect(
      client.send(#"{"exec-oob":"query-status"}"#)
        == [error("The command query-status does not support OOB")])
    #expect(
      client.send(#"{"execute":"query-status","exec-oob":"query-status"}"#)
        == [error("QMP input member 'execute' clashes with 'exec-oob'")])
  }

  @Test func anyIdIsEchoed() {
    var client = Conversation.ready()
    #expect(
      client.send(#"{"execute":"query-name","id":null}"#) == [#"{"return": {}, "id": null}"#])
    #expect(
      client.send(#"{"execute":"a","id":{"b":1,"a":"\u0000","c":2}}"#) == [
        #"{"id": {"a": "\u0000", "b": 1, "c": 2}, "error": {"class": "CommandNotFound", "desc": "The command a has not been found"}}"#
      ])
    #expect(
      client.send(#"{"id":[1.5,"é"],"extra":1,"execute":"a"}"#) == [
        #"{"id": [1.5, "\u00E9"], "error": {"class": "GenericError", "desc": "QMP input member 'extra' is unexpected"}}"#
      ])
  }

  @Test func pipelinedRequestsAreAnsweredInOrder() {
    var client = Conversation()
    let replies = client.send(
      #"{"execute":"qmp_capabilities","id":1}{"execute":"query-name","id":2}@{"execute":"query-kvm","id":3}"#
    )
    #expect(
      replies == [
        #"{"return": {}, "id": 1}"#, #"{"return": {}, "id": 2}"#,
        error("JSON parse error, stray '@'"),
        #"{"return": {"enabled": false, "present": true}, "id": 3}"#,
      ])
  }

  @Test func withoutOutOfBandReadingStopsAtOneRequest() {
    var session = Conversation.ready().session
    session.receive(Array(#"{"execute":"query-name"}{"execute":"query-kvm"}"#.utf8))
    #expect(session.takeOutOfBand() == nil)
    #expect(!session.wantsInput)
    guard let request = session.nextRequest() else {
      Issue.record("no request")
      return
    }
    #expect(session.takeOutOfBand() == nil)
    #expect(session.nextRequest() == nil)
    #expect(!session.wantsInput)
    _ = session.reply(to: request, session.beginReply())
    #expect(session.takeOutOfBand() == nil)
    #expect(session.hasRequest)
  }

  @Test func withOutOfBandEightRequestsWaitBehindTheRunningOne() {
    var session = Conversation.ready(outOfBand: true).session
    let request = Array(#"{"execute":"query-name"}"#.utf8)
    let urgent = Array(#"{"exec-oob":"query-name","id":"u"}"#.utf8)
    session.receive(request)
    #expect(session.takeOutOfBand() == nil)
    let running = session.nextRequest()
    #expect(running != nil)
    for _ in 0..<7 { session.receive(request) }
    #expect(session.takeOutOfBand() == nil)
    // Seven wait: an out-of-band request still gets through.
    session.receive(urgent)
    #expect(session.takeOutOfBand()?.id == "u")
    #expect(session.wantsInput)
    // The eighth stops the reading, also of what overtakes.
    session.receive(request + urgent)
    #expect(session.takeOutOfBand() == nil)
    #expect(!session.wantsInput)
    if let running { _ = session.reply(to: running, session.beginReply()) }
    #expect(session.nextRequest() != nil)
    #expect(session.takeOutOfBand()?.id == "u")
  }

  @Test func introspectionIsSentAsPrinted() throws {
    var client = Conversation.ready()
    let reply = client.send(#"{"execute":"query-commands","id":1}"#)
    #expect(reply.count == 1)
    let value = try JSONValue(parsing: reply.first ?? "")
    #expect(value["id"] == 1)
    #expect(value["return"]?.arrayValue?.contains(["name": "query-qmp-schema"]) == true)
    #expect(value.text == reply.first)
  }

  @Test func prettyFormBreaksEveryLineWithCRLF() {
    var client = Conversation.ready(isPretty: true)
    let expected = [
      "{", "    \"return\": {", "    },", "    \"id\": 1", "}",
    ]
    #expect(client.send(#"{"execute":"query-name","id":1}"#) == expected)
    let commands = client.send(#"{"execute":"query-commands"}"#)
    #expect(
      commands.prefix(4) == [
        "{", "    \"return\": [", "        {", #"            "name": "query-status""#,
      ])
  }

  @Test func eventsWaitForNegotiation() {
    let event = TimedEvent(.powerdown, microseconds: 1_267_041_730_281_295)
    #expect(QMPSession(version: .current, isPretty: false).text(of: event) == nil)
    let text = Conversation.ready().session.text(of: event) ?? []
    #expect(
      String(decoding: text, as: UTF8.self)
        == #"{"timestamp": {"seconds": 1267041730, "microseconds": 281295}, "event": "POWERDOWN"}"#
        + "\r\n")
  }
}
