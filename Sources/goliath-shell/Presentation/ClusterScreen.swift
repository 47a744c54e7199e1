package import JSON

/// What the monitors told at one moment.
package struct ClusterSample: Equatable, Sendable {
  /// Monotonic nanoseconds.
  package var time: Int64
  /// The answer of `query-cluster`.
  package var cluster: JSONValue
  package var status: JSONValue = .null
  /// The answers of `query-dsm` by node.
  package var memory: [Int: JSONValue] = [:]
  package var hotPages: [JSONValue] = []

  package init(time: Int64, cluster: JSONValue) {
    self.time = time
    self.cluster = cluster
  }
}

/// A picture of a cluster: what `cluster top` shows.
package enum ClusterScreen {
  /// The lines; with a sample before, how much there was a second since then.
  package static func lines(_ now: ClusterSample, since before: ClusterSample?) -> [String] {
    let cluster = now.cluster
    var head = "cluster \(word(cluster["id"])): \(word(cluster["state"]))"
    if let status = now.status["status"]?.stringValue { head += ", guest \(status)" }
    head += ", epoch \(word(cluster["epoch"])), memory \(word(cluster["memory"]))"
    head += ", seen from node \(word(cluster["node"]))"
    var lines = [head]
    if let reason = cluster["reason"]?.stringValue { lines.append("reason: \(reason)") }
    var rows = [["NODE", "STATE", "VCPUS", "RTT us", "HEARD ms", "CLOCK ns"]]
    let hasMemory = cluster["memory"]?.stringValue == "dsm"
    if hasMemory {
      rows[0] += ["READ/s", "WRITE/s", "UPGR/s", "INVAL/s", "MEAN us", "M", "S", "HOT"]
    }
    for node in cluster["nodes"]?.arrayValue ?? [] {
      let number = node["node"]?.intValue ?? 0
      var row = [
        String(number), word(node["state"]), ranges(node["vcpus"]), tenths(node["rtt-us"]),
        word(node["last-heartbeat-ms"]), word(node["clock-error-ns"]),
      ]
      if hasMemory {
        let memory = now.memory[number]
        let earlier = before?.memory[number]
        let seconds = before.map { Double(now.time &- $0.time) / 1e9 }
        for path in [
          ["faults", "read"], ["faults", "write"], ["faults", "upgrade"], ["invalidations"],
        ] { row.append(rate(path, memory, earlier, seconds)) }
        row += [
          tenths(memory?["fault-mean-us"]), word(memory?["pages"]?["modified"]),
          word(memory?["pages"]?["shared"]), word(memory?["hot-pages"]),
        ]
      }
      rows.append(row)
    }
    lines += table(rows)
    for node in cluster["nodes"]?.arrayValue ?? [] {
      if let reason = node["reason"]?.stringValue {
        lines.append("node \(word(node["node"])): \(reason)")
      }
    }
    if !now.hotPages.isEmpty {
      var pages = [["PAGE", "MOVES/s", "MOVES", "UPGRADES", "HOME", "OWNER"]]
      for page in now.hotPages {
        pages.append([
          hexadecimal(page["address"]), tenths(page["transfers-per-second"]),
          word(page["transfers"]), word(page["upgrades"]), word(page["home"]), word(page["owner"]),
        ])
      }
      lines.append("")
      lines += table(pages)
    }
    return lines
  }

  /// How much a counter grew a second; a counter that went back began anew.
  private static func rate(
    _ path: [String], _ now: JSONValue?, _ before: JSONValue?, _ seconds: Double?
  ) -> String {
    func value(_ object: JSONValue?) -> Int? {
      path.reduce(object) { $0?[$1] }?.intValue
    }
    guard let last = value(now) else { return "-" }
    guard let first = value(before), let seconds, seconds > 0 else { return "-" }
    let growth = last >= first ? last - first : last
    return String(Int((Double(growth) / seconds).rounded()))
  }

  private static func word(_ value: JSONValue?) -> String {
    switch value {
    case nil, .null?: "-"
    case .string(let text)?: text
    case let other?: other.text
    }
  }

  private static func tenths(_ value: JSONValue?) -> String {
    let number: Double
    switch value {
    case .double(let real)?: number = real
    case .int(let whole)?: number = Double(whole)
    default: return "-"
    }
    guard number.isFinite, abs(number) < 1e15 else { return "-" }
    let scaled = Int64((abs(number) * 10).rounded())
    return "\(number < 0 && scaled > 0 ? "-" : "")\(scaled / 10).\(scaled % 10)"
  }

  private static func hexadecimal(_ value: JSONValue?) -> String {
    switch value {
    case .int(let number)? where number >= 0: "0x" + String(number, radix: 16)
    case .uint(let number)?: "0x" + String(number, radix: 16)
    default: "-"
    }
  }

  private static func ranges(_ value: JSONValue?) -> String {
    var parts: [(first: Int, last: Int)] = []
    for number in (value?.arrayValue ?? []).compactMap(\.intValue).sorted() {
      if let end = parts.last, number == end.last &+ 1 {
        parts[parts.count - 1].last = number
      } else {
        parts.append((number, number))
      }
    }
    if parts.isEmpty { return "-" }
    return parts.map { $0.first == $0.last ? "\($0.first)" : "\($0.first)-\($0.last)" }
      .joined(separator: ",")
  }

  /// Columns as wide as they need; the first two to the left, numbers to the right.
  private static func table(_ rows: [[String]]) -> [String] {
    let count = rows.map(\.count).max() ?? 0
    let widths = (0..<count).map { column in
      rows.map { $0.indices.contains(column) ? $0[column].count : 0 }.max() ?? 0
    }
    return rows.map { row in
      let cells = row.enumerated().map { column, text in
        let space = String(repeating: " ", count: widths[column] - text.count)
        return column < 2 ? text + space : space + text
      }
      var line = cells.joined(separator: "  ")
      while line.last == " " { line.removeLast() }
      return line
    }
  }
}
