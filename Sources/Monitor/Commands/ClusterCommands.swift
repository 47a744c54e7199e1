import Host
package import JSON
import Options
package import QAPI

// schemas/cluster.json

extension MonitorCommands: @MainLoop ClusterCommands {
  package func queryCluster() throws(QAPIError) -> ClusterInfo {
    if let joining = context.joining { return joining() }
    return try cluster.control.status
  }

  @MainLoop
  package func queryDsm(node: Int?) async throws(QAPIError) -> DsmInfo {
    let cluster = try cluster
    if let node, node != cluster.node {
      let value = try await cluster.execute("query-dsm", ["node": JSONValue(node)], on: node)
      return try DsmInfo(decoding: value, at: .json)
    }
    guard let status = cluster.control.memoryStatus else { throw Self.sharedMemory }
    return status
  }

  @MainLoop
  package func queryDsmHotPages(limit: Int?, node: Int?) async throws(QAPIError) -> [DsmHotPage] {
    let limit = limit ?? 16
    guard (1...1024).contains(limit) else { throw .expects("limit", "a number from 1 to 1024") }
    let cluster = try cluster
    guard cluster.control.memoryStatus != nil else { throw Self.sharedMemory }
    if node == cluster.node { return cluster.control.hotPages(limit) }
    let arguments: JSONObject = ["limit": JSONValue(limit)]
    func ask(_ number: Int) async throws(QAPIError) -> [DsmHotPage] {
      var arguments = arguments
      arguments["node"] = JSONValue(number)
      let value = try await cluster.execute("query-dsm-hot-pages", arguments, on: number)
      return try [DsmHotPage](decoding: value, at: .json)
    }
    if let node { return try await ask(node) }
    var pages = cluster.control.hotPages(limit)
    let status = cluster.control.status
    for other in status.nodes where other.node != cluster.node && status.reaches(other.node) {
      pages += try await ask(other.node)
    }
    return Array(
      pages.sorted { left, right in
        (left.transfersPerSecond, left.transfers) > (right.transfersPerSecond, right.transfers)
      }.prefix(limit))
  }

  @MainLoop
  package func clusterExecute(
    node: Int, command: String, arguments: JSONValue?
  ) async throws(QAPIError) -> JSONValue {
    var members: JSONObject = [:]
    if let arguments {
      guard case .object(let object) = arguments else {
        throw .wrongType("arguments", expected: "object")
      }
      members = object
    }
    guard let known = CommandTable.command(named: command) else {
      throw QAPIError(.commandNotFound, "The command \(command) has not been found")
    }
    // Who may not run it here may not run it by another node's hand.
    try client?.access.check(known)
    return try await cluster.execute(command, members, on: node)
  }

  @MainLoop
  package func clusterContinue(acceptLoss: Bool) async throws(QAPIError) {
    let cluster = try cluster
    guard acceptLoss else {
      throw QAPIError("Memory of the lost nodes may be gone; 'accept-loss' must be true")
    }
    try await cluster.control.goOnWithLoss()
  }

  private var cluster: ClusterMonitors {
    get throws(QAPIError) {
      guard let cluster = context.cluster else {
        throw QAPIError("This machine runs on one node")
      }
      return cluster
    }
  }

  private static var sharedMemory: QAPIError {
    QAPIError("The nodes share RAM through their host (memory=shm); no pages move between them")
  }
}
