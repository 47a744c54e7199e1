package import Chardev
package import Host
import QAPI

/// Answers `GET /metrics` on a listening socket (`-metrics`). On the main loop, like the monitors.
@MainLoop
package final class MetricsServer {
  /// The type of the text format.
  static let contentType = "text/plain; version=0.0.4; charset=utf-8"

  /// Its own, so that monitors do not list it among the machine's devices.
  private let chardevs = ChardevRegistry()

  /// Listens; `collect` writes the numbers each time that they are asked for. Throws when the address cannot be listened at.
  package init(
    _ address: SocketAddress, collect: @escaping @MainLoop () -> String
  ) throws(ChardevError) {
    let wanted: SocketAddressLegacy
    switch address {
    case .inet(let inet): wanted = .inet(InetSocketAddress(host: inet.host, port: inet.port))
    case .unix(let path): wanted = .unix(UnixSocketAddress(path: path))
    default: throw ChardevError(.cannotOpen, "metrics are read from TCP or unix sockets only")
    }
    let chardev = try chardevs.create(
      "metrics", .socket(ChardevSocket(addr: wanted, server: true, wait: false)))
    try chardev.serve { client in MetricsSession(client, collect) }
  }

  /// Ends all connections and the listening socket.
  package func close() { chardevs.shutDown() }
}

/// One client.
@MainLoop
private final class MetricsSession: ChardevFrontend {
  private let client: ChardevClient
  private let collect: @MainLoop () -> String
  private var exchange = HTTPExchange()
  private var isOver = false

  init(_ client: ChardevClient, _ collect: @escaping @MainLoop () -> String) {
    self.client = client
    self.collect = collect
  }

  func chardevReceived(_ bytes: [UInt8]) -> Int {
    // Whoever does not read its answers is not read from.
    if client.port.queuedByteCount > 0 {
      client.port.notifyWhenDrained()
      if client.port.queuedByteCount > 0 { return 0 }
    }
    if isOver { return bytes.count }
    exchange.receive(bytes)
    work()
    return bytes.count
  }

  func chardevDrained() {
    if isOver { return client.disconnect() }
    work()
    client.port.resumeReceiving()
  }

  private func work() {
    while !isOver, client.port.queuedByteCount == 0 {
      switch exchange.next() {
      case .incomplete: return
      case .refused(let status): answer(status, "\(status)\n", isHead: false, isLast: true)
      case .request(let request):
        guard request.path == "/metrics" else {
          answer(404, "metrics are at /metrics\n", isHead: request.isHead, isLast: request.isLast)
          continue
        }
        answer(200, collect(), isHead: request.isHead, isLast: request.isLast)
      }
    }
    if client.port.queuedByteCount > 0 { client.port.notifyWhenDrained() }
  }

  private func answer(_ status: Int, _ body: String, isHead: Bool, isLast: Bool) {
    let type = status == 200 ? MetricsServer.contentType : "text/plain; charset=utf-8"
    client.port.write(HTTPExchange.answer(status, type, body, isHead: isHead, isLast: isLast))
    guard isLast else { return }
    isOver = true
    if client.port.queuedByteCount == 0 { client.disconnect() }
  }
}
