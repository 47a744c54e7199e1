import Glibc
import Host
import JSON
import Support
import Testing

/// Compares what QEMU 7.2 and we answer to the same stream of random input, byte by byte.
@Suite struct QMPPeerTests {
  @Test func randomInputIsAnsweredAsByQEMU() throws {
    guard let program = Process.find("qemu-system-x86_64") else {
      print("skipped: qemu-system-x86_64 is not installed")
      return
    }
    let version = try Process.output([program, "--version"]).text
    guard version.contains("version 7.2.") else {
      print("skipped: the QEMU here is not 7.2")
      return
    }
    var seed = UInt64.random(in: 0...UInt64.max)
    let origin = seed
    var input: [UInt8] = []
    for _ in 0..<2000 { input += Self.snippet(&seed) }
    input += [0xFF] + Array("\n{\"execute\":\"end\"}".utf8)

    var conversation = Conversation.ready()
    let ours = conversation.send(input)
    let theirs = try Self.answers(of: program, to: input)
    #expect(ours.count == theirs.count, "seed \(origin)")
    for (our, their) in zip(ours, theirs) where our != their {
      Issue.record("seed \(origin): \(our) is not \(their)")
      return
    }
  }

  /// QEMU's answers up to the one for the command `end`.
  private static func answers(of program: String, to input: [UInt8]) throws -> [String] {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let process = try Process([
      program, "-machine", "none", "-display", "none", "-qmp",
      "unix:\(folder)/qmp,server=on,wait=off",
    ])
    defer {
      process.kill(signal: SIGKILL)
      _ = process.wait(seconds: 5)
    }
    let address = SocketAddress.unix(path: folder + "/qmp")
    let limit = HostClock.monotonic + 20_000_000_000
    while !Process.isThere(folder + "/qmp"), HostClock.monotonic < limit { usleep(5000) }
    let socket = try Socket.connect(address)
    let negotiation = Array("{\"execute\":\"qmp_capabilities\"}".utf8)
    let output = try exchange(
      socket.rawValue, negotiation + input, until: "The command end has not been found\"}}\r\n")
    // The greeting and the end of the negotiation.
    return output.split(separator: "\r\n").dropFirst(2).map(String.init)
  }

  /// Sends and receives at the same time until what came ends in `end`.
  private static func exchange(
    _ descriptor: Int32, _ input: [UInt8], until end: String
  ) throws -> String {
    var output: [UInt8] = []
    var sent = 0
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while !output.suffix(end.utf8.count).elementsEqual(end.utf8) {
      var entry = pollfd(
        fd: descriptor, events: Int16(sent < input.count ? POLLIN | POLLOUT : POLLIN), revents: 0)
      guard poll(&entry, 1, 20_000) == 1 else {
        throw SystemError(call: "poll", code: ETIMEDOUT)
      }
      if entry.revents & Int16(POLLIN) != 0 {
        let count = read(descriptor, &buffer, buffer.count)
        guard count > 0 else { throw SystemError(call: "read", code: errno) }
        output += buffer[..<count]
      } else if entry.revents & Int16(POLLOUT) != 0 {
        let piece = Array(input[sent..<min(sent + 4096, input.count)])
        let count = try Socket.send(descriptor, piece, from: 0)
        sent += count
      }
    }
    return String(decoding: output, as: UTF8.self)
  }

  private static let words: [[UInt8]] =
    [
      "{", "}", "[", "]", ":", ",", "\"", "'", "\\", "u", "d8", "00", "1", "-", ".", "e", "+",
      "true", "false", "null", "nul", " ", "\t", "\n", "@", "\0", "\u{7F}", "é", "\u{1F600}",
      "\\ud83d\\ude00", "\\u0000", "\\ud800", "\\n", "a", "\"a\"", "\"b\":1", "\"id\":",
      "\"execute\":\"zz\"", "0", "9223372036854775808", "18446744073709551616", "1e400", "0.1",
      "E2", "\"exec-oob\"",
    ].map { Array($0.utf8) } + [
      [0x80], [0xC3], [0xFF], [0xFE], [0xC0, 0x80], [0xED, 0xA0, 0x80], [0xEF, 0xBF, 0xBF],
    ]

  private static let frames = [
    ("{\"execute\":\"zz\",\"id\":", "}"), ("{\"execute\":\"zz\",\"id\":[", "]}"),
    ("{\"execute\":\"set-action\",\"arguments\":{\"reboot\":", "}}"),
    ("{\"execute\":\"pmemsave\",\"arguments\":{\"val\":", "}}"), ("{\"execute\":", "}"),
    ("{\"arguments\":", ",\"execute\":\"zz\"}"), ("{", ":1,\"execute\":\"zz\"}"),
    ("{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":", "}}"), ("[", "]"),
    ("{\"id\":", "}"), ("{\"execute\":\"zz\",\"id\":{\"k\":1,\"", "\":2,\"x\":3}}"), ("", ""),
    ("", ""),
  ]

  private static func snippet(_ seed: inout UInt64) -> [UInt8] {
    func random(_ limit: Int) -> Int {
      seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(truncatingIfNeeded: seed >> 33) % limit
    }
    let (head, tail) = frames[random(frames.count)]
    var bytes = Array(head.utf8)
    for _ in 0..<random(9) { bytes += words[random(words.count)] }
    bytes += Array(tail.utf8)
    let end: [[UInt8]] = [[0xFF], [0xFF], [0xFF], Array("\n".utf8), Array("]}]}".utf8), []]
    return bytes + end[random(end.count)]
  }
}
