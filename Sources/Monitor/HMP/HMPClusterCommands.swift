import Host
import QAPI

/// Commands about the nodes of a machine.
extension HMPCommandTable {
  static let clusterCommands = [
    HMPCommand(
      "cluster_continue", "accept-loss:-a", "[-a]",
      help: "let a frozen cluster go on without its lost nodes (-a: accept that memory is gone)"
    ) { session, arguments throws(QAPIError) in
      try await session.commands.clusterContinue(acceptLoss: arguments.flag("accept-loss"))
    }
  ]

  static let clusterInfoCommands = [
    HMPCommand("cluster", help: "show the nodes that the machine runs on", .looks, early: true) {
      session, _ throws(QAPIError) in
      session.print(ClusterText.cluster(try session.commands.queryCluster()))
    },
    HMPCommand(
      "dsm", "node:i?", "[node]", help: "show what the memory between nodes has done", .looks
    ) { session, arguments throws(QAPIError) in
      let info = try await session.commands.queryDsm(
        node: arguments.integer("node").map { Int($0) })
      session.print(ClusterText.memory(info))
    },
    HMPCommand(
      "dsm-hot", "limit:i?", "[limit]", help: "show the pages that move most between nodes", .looks
    ) { session, arguments throws(QAPIError) in
      let pages = try await session.commands.queryDsmHotPages(
        limit: arguments.integer("limit").map { Int($0) }, node: nil)
      session.print(ClusterText.hotPages(pages))
    },
  ]
}

/// What `info cluster`, `info dsm` and `info dsm-hot` print.
enum ClusterText {
  static func cluster(_ info: ClusterInfo) -> String {
    var text = "cluster \(info.id): \(info.state.rawValue), epoch \(info.epoch), this is node "
    text += "\(info.node)\n"
    if let reason = info.reason { text += "reason: \(reason)\n" }
    text += "memory=\(info.memory.rawValue) home=\(info.home.rawValue)"
    text += " on-node-loss=\(info.onNodeLoss.rawValue)\n"
    for node in info.nodes {
      text += "node \(node.node): \(node.state.rawValue) at \(node.address)"
      text += ", vcpus \(ranges(node.vcpus))"
      if node.tls { text += ", tls" }
      if let rtt = node.rttUs { text += ", rtt \(tenths(rtt)) us" }
      if let error = node.clockErrorNs { text += ", clock +/-\(error) ns" }
      if let last = node.lastHeartbeatMs { text += ", heard \(last) ms ago" }
      if let reason = node.reason { text += " (\(reason))" }
      text += "\n"
    }
    return text
  }

  static func memory(_ info: DsmInfo) -> String {
    var text = "node \(info.node): pages of \(info.pageSize) bytes: \(info.pages.modified) modified"
    text += ", \(info.pages.shared) shared, \(info.pages.invalid) invalid"
    text += "; home of \(info.homePages)\n"
    text += "faults: \(info.faults.read) read, \(info.faults.write) write"
    text += ", \(info.faults.upgrade) upgrade"
    if let mean = info.faultMeanUs { text += "; mean \(tenths(mean)) us" }
    if let most = info.faultMaxUs { text += ", max \(tenths(most)) us" }
    text += "\ntransfers: \(info.transfers.full) full, \(info.transfers.zero) zero"
    text += ", \(info.transfers.diff) diff, \(info.transfers.grant) grant\n"
    text += "taken away: \(info.invalidations), \(info.heldRevocations) of them held"
    text += "; waits for devices \(info.pinWaitUs) us\n"
    text += "prefetch: \(info.prefetch.used) used, \(info.prefetch.wasted) wasted"
    text += "; hot pages: \(info.hotPages)\n"
    return text
  }

  static func hotPages(_ pages: [DsmHotPage]) -> String {
    if pages.isEmpty { return "No page moves often\n" }
    var text = ""
    for page in pages {
      let digits = String(page.address, radix: 16)
      text += String(repeating: "0", count: max(0, 16 - digits.utf8.count)) + digits
      text += ": \(tenths(page.transfersPerSecond))/s, \(page.transfers) transfers"
      text += ", \(page.upgrades) upgrades"
      if let writers = page.writers { text += ", \(writers) writers" }
      text += "; home node \(page.home)"
      if let owner = page.owner { text += ", owner node \(owner)" }
      if !page.sharers.isEmpty { text += ", sharers \(ranges(page.sharers))" }
      text += "\n"
    }
    return text
  }

  /// `0-2,5`; `none` for none.
  static func ranges(_ numbers: [Int]) -> String {
    var parts: [(first: Int, last: Int)] = []
    for number in numbers.sorted() {
      if let end = parts.last, number == end.last + 1 {
        parts[parts.count - 1].last = number
      } else {
        parts.append((number, number))
      }
    }
    if parts.isEmpty { return "none" }
    return parts.map { $0.first == $0.last ? "\($0.first)" : "\($0.first)-\($0.last)" }
      .joined(separator: ",")
  }

  /// With one digit after the point.
  static func tenths(_ value: Double) -> String {
    guard value.isFinite, abs(value) < 1e15 else { return "?" }
    let scaled = Int64((abs(value) * 10).rounded())
    return "\(value < 0 && scaled > 0 ? "-" : "")\(scaled / 10).\(scaled % 10)"
  }
}
