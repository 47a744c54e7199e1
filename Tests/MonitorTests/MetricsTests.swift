import Chardev
import Cluster
import Foundation
import Host
import Monitor
import QAPI
import Shm
import Support
import Testing

/// What a text of format 0.0.4 says; throws at the first line that the format does not allow.
struct ParsedMetrics {
  struct Sample: Equatable {
    var name: String
    var labels: [String: String]
    var value: Double
  }
  struct Fault: Error { var line: String, reason: String }

  private(set) var types: [String: String] = [:]
  private(set) var samples: [Sample] = []

  init(_ text: String) throws {
    guard text.isEmpty || text.hasSuffix("\n") else {
      throw Fault(line: "", reason: "the last line has no end")
    }
    var current: String?
    var seen: Set<String> = []
    var help: Set<String> = []
    for line in text.split(separator: "\n") {
      let words = line.split(separator: " ", maxSplits: 3, omittingEmptySubsequences: false)
      if line.hasPrefix("# HELP ") {
        guard words.count == 4, Self.isName(words[2]), help.insert(String(words[2])).inserted else {
          throw Fault(line: String(line), reason: "HELP")
        }
        current = nil
      } else if line.hasPrefix("# TYPE ") {
        let kinds = ["counter", "gauge", "histogram", "summary", "untyped"]
        guard words.count == 4, Self.isName(words[2]), kinds.contains(String(words[3])),
          seen.insert(String(words[2])).inserted
        else { throw Fault(line: String(line), reason: "TYPE, or a family in two pieces") }
        current = String(words[2])
        types[String(words[2])] = String(words[3])
      } else if line.hasPrefix("#") {
        throw Fault(line: String(line), reason: "a comment that is none of ours")
      } else {
        let sample = try Self.sample(line)
        guard let family = current, let type = types[family] else {
          throw Fault(line: String(line), reason: "a sample without a family")
        }
        let suffixes: [String] =
          switch type {
          case "histogram": ["_bucket", "_sum", "_count"]
          case "summary": ["_sum", "_count"]
          default: [""]
          }
        guard suffixes.contains(where: { sample.name == family + $0 }) else {
          throw Fault(line: String(line), reason: "not of family \(family)")
        }
        guard !samples.contains(where: { $0.name == sample.name && $0.labels == sample.labels })
        else { throw Fault(line: String(line), reason: "twice") }
        if type == "counter" {
          guard family.hasSuffix("_total"), sample.value >= 0 else {
            throw Fault(line: String(line), reason: "a counter's name ends in _total")
          }
        }
        samples.append(sample)
      }
    }
    for (family, type) in types where type == "histogram" { try checkHistogram(family) }
    guard help == Set(types.keys) else { throw Fault(line: "", reason: "HELP without TYPE") }
  }

  subscript(_ name: String, _ labels: [String: String] = [:]) -> Double? {
    samples.first { $0.name == name && $0.labels == labels }?.value
  }

  private func checkHistogram(_ family: String) throws {
    let buckets = samples.filter { $0.name == family + "_bucket" }
    for group in Dictionary(grouping: buckets, by: { $0.labels.filter { $0.key != "le" } }) {
      let bounds = try group.value.map { bucket in
        guard let bound = bucket.labels["le"].flatMap(Self.number) else {
          throw Fault(line: family, reason: "a bucket without a bound")
        }
        return bound
      }
      let counts = group.value.map(\.value)
      guard bounds == bounds.sorted(), bounds.last == .infinity, counts == counts.sorted(),
        self[family + "_count", group.key] == counts.last, self[family + "_sum", group.key] != nil
      else { throw Fault(line: family, reason: "not a cumulative histogram") }
    }
  }

  private static func isName(_ text: some StringProtocol) -> Bool {
    guard let first = text.unicodeScalars.first, !("0"..."9").contains(first) else { return false }
    return text.unicodeScalars.allSatisfy {
      ("a"..."z").contains($0) || ("A"..."Z").contains($0) || ("0"..."9").contains($0) || $0 == "_"
        || $0 == ":"
    }
  }

  private static func number(_ text: some StringProtocol) -> Double? {
    switch text {
    case "+Inf": .infinity
    case "-Inf": -.infinity
    case "NaN": .nan
    default:
      // What Go's ParseFloat reads and we print: no words, no spaces.
      text.allSatisfy { $0.isASCII && ($0.isNumber || "+-.eE".contains($0)) } ? Double(text) : nil
    }
  }

  private static func sample(_ line: Substring) throws -> Sample {
    let fault = Fault(line: String(line), reason: "no sample")
    var rest = line
    let name = rest.prefix { $0 != "{" && $0 != " " }
    guard isName(name) else { throw fault }
    rest = rest.dropFirst(name.count)
    var labels: [String: String] = [:]
    if rest.first == "{" {
      rest = rest.dropFirst()
      while rest.first != "}" {
        let label = rest.prefix { $0 != "=" }
        guard isName(label), !label.contains(":") else { throw fault }
        rest = rest.dropFirst(label.count)
        guard rest.hasPrefix("=\"") else { throw fault }
        rest = rest.dropFirst(2)
        var value = ""
        while let letter = rest.popFirst(), letter != "\"" {
          guard letter == "\\" else {
            value.append(letter)
            continue
          }
          switch rest.popFirst() {
          case "\\": value += "\\"
          case "n": value += "\n"
          case "\"": value += "\""
          default: throw fault
          }
        }
        guard labels.updateValue(value, forKey: String(label)) == nil else { throw fault }
        if rest.first == "," { rest = rest.dropFirst() } else if rest.first != "}" { throw fault }
      }
      rest = rest.dropFirst()
    }
    guard rest.first == " ", let value = number(rest.dropFirst()) else { throw fault }
    return Sample(name: String(name), labels: labels, value: value)
  }
}

@Suite struct MetricsTextTests {
  @Test func familiesAreWrittenAsTheFormatDemands() throws {
    var text = MetricsText()
    text.single("a_total", .counter, "Help with \\ and\na second line.", 7)
    text.single("b", .gauge, "B.", 0.25, [("x", "quote \" slash \\ line\n")])
    text.single("b", .gauge, "Again.", 1)
    text.family("empty", .gauge, "Nothing.") { _ in }
    text.family("h_seconds", .histogram, "H.") {
      $0.addHistogram([(1e-6, 2), (0.5, 3)], above: 4, sum: 9.5, [("k", "r")])
    }
    text.family("s_seconds", .summary, "S.") { $0.addSummary(sum: 1.5, count: 2) }
    #expect(
      text.text == #"""
        # HELP a_total Help with \\ and\na second line.
        # TYPE a_total counter
        a_total 7
        # HELP b B.
        # TYPE b gauge
        b{x="quote \" slash \\ line\n"} 0.25
        # HELP h_seconds H.
        # TYPE h_seconds histogram
        h_seconds_bucket{k="r",le="1e-06"} 2
        h_seconds_bucket{k="r",le="0.5"} 5
        h_seconds_bucket{k="r",le="+Inf"} 9
        h_seconds_sum{k="r"} 9.5
        h_seconds_count{k="r"} 9
        # HELP s_seconds S.
        # TYPE s_seconds summary
        s_seconds_sum 1.5
        s_seconds_count 2

        """#)
    let parsed = try ParsedMetrics(text.text)
    #expect(parsed["b", ["x": "quote \" slash \\ line\n"]] == 0.25)
  }

  @Test func theStrictReaderRefusesWhatIsWrong() {
    for text in [
      "a 1", "# TYPE a gauge\na 1\n", "# HELP a A.\n# TYPE a gauge\nb 1\n",
      "# HELP a A.\n# TYPE a counter\na 1\n", "# HELP a A.\n# TYPE a gauge\na{x=1} 1\n",
      "# HELP a A.\n# TYPE a gauge\na 1\na 2\n", "# HELP a A.\n# TYPE a gauge\na one\n",
      "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_sum 1\na_count 2\n",
      "# HELP a A.\n# TYPE a gauge\na{x=\"\\t\"} 1\n",
    ] { #expect(throws: ParsedMetrics.Fault.self) { try ParsedMetrics(text) } }
  }

  @Test func valuesThatAreNoNumbersHaveTheirWords() {
    #expect([Double.nan, .infinity, -.infinity].map(\.metricsText) == ["NaN", "+Inf", "-Inf"])
    #expect(UInt64.max.metricsText == "18446744073709551615")
  }
}

@Suite struct HTTPExchangeTests {
  private func outcome(_ text: String) -> HTTPExchange.Outcome {
    var exchange = HTTPExchange()
    exchange.receive([UInt8](text.utf8))
    return exchange.next()
  }

  @Test func requestsAreRead() {
    #expect(
      outcome("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        == .request(.init(path: "/metrics", isHead: false, isLast: false)))
    #expect(
      outcome("\r\nHEAD /metrics?a=b HTTP/1.1\r\nConnection: Close\r\n\r\n")
        == .request(.init(path: "/metrics", isHead: true, isLast: true)))
    #expect(
      outcome("GET / HTTP/1.0\n\n") == .request(.init(path: "/", isHead: false, isLast: true)))
    #expect(outcome("GET /metrics HTTP/1.1\r\nHost: x\r\n") == .incomplete)
    #expect(outcome("") == .incomplete)
  }

  @Test func whatIsNoRequestIsRefused() {
    for (text, status) in [
      ("GET /\r\n\r\n", 400), ("POST / HTTP/1.1\r\n\r\n", 405), ("GET / HTTP/2.0\r\n\r\n", 505),
      ("GET http://x/ HTTP/1.1\r\n\r\n", 400), ("GET / HTTP/1.1\r\nnonsense\r\n\r\n", 400),
      ("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 400),
      ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
      (String(repeating: "a", count: 9000), 431),
      ("GET / HTTP/1.1\r\nX: \(String(repeating: "a", count: 9000))\r\n\r\n", 431),
      ("\u{1}\u{2}\r\n\r\n", 400),
    ] { #expect(outcome(text) == .refused(status), "\(text.prefix(40))") }
  }

  @Test func requestsMayComeInAnyPieces() {
    let text = [UInt8]("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".utf8)
    var exchange = HTTPExchange()
    for byte in text + text {
      #expect(exchange.next() == .incomplete)
      exchange.receive([byte])
      guard byte == 10, exchange.next() != .incomplete else { continue }
    }
    #expect(exchange.next() == .incomplete)
    exchange.receive(text + text)
    let wanted = HTTPExchange.Request(path: "/metrics", isHead: false, isLast: false)
    #expect(exchange.next() == .request(wanted))
    #expect(exchange.next() == .request(wanted))
  }
}

@Suite struct MetricsServerTests {
  /// Sends requests on a connection and reads until it ends.
  private func exchange(_ path: String, _ request: String) throws -> String {
    let socket = try Socket.connect(.unix(path: path))
    try socket.setNonBlocking(false)
    _ = try socket.write([UInt8](request.utf8))
    var result: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 4096)
    while true {
      let count = try socket.read(into: &chunk)
      if count == 0 { return String(decoding: result, as: UTF8.self) }
      result += chunk[..<count]
    }
  }

  @Test func theMachineIsReadAsMetrics() async throws {
    try await MonitoredMachine.run { machine in
      let path = "\(machine.folder)/metrics"
      let context = machine.context
      let server = try await MetricsServer(.unix(path: path)) { MachineMetrics.text(context) }
      let two =
        "GET /metrics HTTP/1.1\r\n\r\nHEAD /metrics HTTP/1.1\r\n\r\n"
        + "GET /other HTTP/1.1\r\nConnection: close\r\n\r\n"
      let answer = try exchange(path, two)
      let parts = answer.components(separatedBy: "\r\n\r\n")
      #expect(parts.count == 4)
      #expect(parts[0].hasPrefix("HTTP/1.1 200 OK\r\n"))
      #expect(parts[0].contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"))
      #expect(answer.contains("HTTP/1.1 404 Not Found\r\n"))
      let end = try #require(parts[1].range(of: "HTTP/1.1 200 OK"))
      let metrics = try ParsedMetrics(String(parts[1][..<end.lowerBound]))
      #expect(metrics["goliath_vm_running"] == 0)
      #expect(metrics["goliath_vm_state", ["state": "prelaunch"]] == 1)
      #expect(try #require(metrics["process_resident_memory_bytes"]) > 1e6)
      #expect(try #require(metrics["process_open_fds"]) > 3)
      #expect(try #require(metrics["process_threads"]) >= 2)
      let started = try #require(metrics["process_start_time_seconds"])
      #expect(abs(started - Date().timeIntervalSince1970) < 7200)
      #expect(try exchange(path, "PUT / HTTP/1.1\r\n\r\n").contains("Allow: GET, HEAD"))
      await server.close()
    }
  }

  @Test func theNamesOfTheProtocolAreThere() async throws {
    try await MonitoredCluster.run(3) { cluster in
      await Self.prepare(cluster)
      let text = await MachineMetrics.text(cluster.nodes[0].context)
      let metrics = try ParsedMetrics(text)
      #expect(metrics["goliath_cluster_state", ["node": "0", "state": "running"]] == 1)
      #expect(metrics["goliath_cluster_state", ["node": "0", "state": "frozen"]] == 0)
      #expect(metrics["goliath_cluster_epoch", ["node": "0"]] == 1)
      #expect(metrics["goliath_peer_up", ["node": "0", "peer": "1"]] == 1)
      #expect(metrics["goliath_peer_up", ["node": "0", "peer": "2"]] == 0)
      #expect(metrics["goliath_peer_rtt_seconds", ["node": "0", "peer": "1"]] == 12.34 / 1e6)
      for name in [
        "goliath_frames_total", "goliath_bytes_total", "goliath_queue_depth",
        "goliath_dsm_faults_total", "goliath_dsm_fault_seconds", "goliath_dsm_pages",
        "goliath_dsm_invalidations_total", "goliath_dsm_transfers_total",
        "goliath_dsm_prefetch_total", "goliath_dsm_held_revocations_total",
        "goliath_dsm_pin_wait_seconds", "goliath_dsm_hot_pages",
        "goliath_dropped_epoch_frames_total", "goliath_protocol_errors_total",
      ] { #expect(metrics.types[name] != nil, "\(name)") }
      #expect(
        metrics["goliath_frames_total", ["node": "0", "dir": "sent", "type": "qmpProxy"]] == 1)
      #expect(metrics["goliath_dsm_faults_total", ["node": "0", "kind": "read"]] == 3)
      let read = ["node": "0", "kind": "read"]
      #expect(metrics["goliath_dsm_fault_seconds_count", read] == 3)
      #expect(metrics["goliath_dsm_fault_seconds_sum", read] == 0.025)
      let below = read.merging(["le": "1.6e-05"]) { $1 }
      #expect(metrics["goliath_dsm_fault_seconds_bucket", below] == 2)
    }
  }

  @MainLoop
  private static func prepare(_ cluster: MonitoredCluster) async {
    let control = cluster.controls[0]
    control.set(2, .lost)
    var memory = DSMStatistics()
    memory.readFaults = 3
    memory.readNanoseconds = 25_000_000
    memory.readHistogram[4] = 2
    memory.readHistogram[LatencyHistogram.count - 1] = 1
    control.memoryCounters = memory
    control.frameCounters = cluster.network[0].counters
    // Something passes.
    let commands = MonitorCommands(cluster.nodes[0].context)
    _ = try? await commands.clusterExecute(node: 1, command: "query-name", arguments: nil)
  }
}
