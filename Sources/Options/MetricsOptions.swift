// -metrics: where counters can be read.

package import Host

/// `-metrics`: a listener for Prometheus.
package struct MetricsConfiguration: Sendable, Equatable {
  /// Where it listens.
  package var address: SocketAddress
  /// The option it came from.
  package var origin: OptionOrigin
}

enum MetricsOptions {
  static let metrics: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    state.configuration.metrics = MetricsConfiguration(
      address: try address(text, origin), origin: origin)
  }

  /// `HOST:PORT`, `[IPV6]:PORT`, `:PORT`, `unix:PATH`.
  private static func address(
    _ text: String, _ origin: OptionOrigin
  ) throws(OptionError) -> SocketAddress {
    if text.hasPrefix("unix:") {
      let path = String(text.dropFirst(5))
      guard !path.isEmpty, path.utf8.count < 108 else {
        throw OptionError(
          .invalidValue, origin, "a unix socket's path has 1 to 107 bytes, as in unix:/run/metrics")
      }
      return .unix(path: path)
    }
    guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]),
      port > 0
    else {
      throw OptionError(
        .invalidValue, origin,
        "'\(text)' is no address; write HOST:PORT, [IPV6]:PORT, :PORT for all interfaces, or unix:PATH"
      )
    }
    var host = text[..<colon]
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
    } else if host.contains(":") {
      throw OptionError(
        .invalidValue, origin, "write the IPv6 address in brackets: [\(host)]:\(port)")
    }
    return .inet(InetAddress(host: String(host), port: String(port)))
  }
}
