// Socket and UDP backends: addresses and the options that exclude each other.

internal import QAPI

enum ChardevSocketOptions {
  /// Bytes that fit into `sockaddr_un.sun_path` with a terminator.
  static let unixPathLimit = 108

  @Sendable static func socket(
    _ values: OptionValues, _ common: ChardevCommon
  ) throws(OptionError) -> ChardevBackend {
    func fail(_ reason: String, hints: [String] = []) -> OptionError {
      OptionError(.conflict, values.origin, reason, hints: hints)
    }
    let isServer = values.boolean("server") ?? false
    if values["delay"] != nil, values["nodelay"] != nil {
      throw fail("'delay' and 'nodelay' are mutually exclusive")
    }
    if isServer, values["reconnect"] != nil {
      throw fail("'reconnect' option is incompatible with socket in server listen mode")
    }
    if !isServer, values["wait"] != nil {
      throw fail("'wait' option is incompatible with socket in client connect mode")
    }
    if values["tls-authz"] != nil, values["tls-creds"] == nil {
      throw fail("'tls_authz' option requires 'tls_creds' option")
    }
    if !isServer, values.boolean("websocket") == true, values["tls-creds"] == nil {
      throw fail("Websocket client is not implemented")
    }
    var reconnect: Int?
    if let entry = values["reconnect"], let seconds = values.number("reconnect") {
      guard let seconds = Int(exactly: seconds), seconds <= Int32.max else {
        throw OptionError(
          .invalidValue, entry.origin, "Parameter 'reconnect' expects a number of seconds")
      }
      reconnect = seconds
    }
    return .socket(
      ChardevSocket(
        logfile: common.logfile, logappend: common.logappend, addr: try address(values),
        tlsCreds: values.string("tls-creds"), tlsAuthz: values.string("tls-authz"),
        server: isServer, wait: isServer ? values.boolean("wait") ?? true : nil,
        nodelay: values.boolean("nodelay") ?? values.boolean("delay").map { !$0 },
        telnet: values.boolean("telnet"), tn3270: values.boolean("tn3270"),
        websocket: values.boolean("websocket"), reconnect: reconnect))
  }

  private static func address(_ values: OptionValues) throws(OptionError) -> SocketAddressLegacy {
    let path = values.string("path")
    let host = values.string("host")
    let descriptor = values.string("fd")
    guard [path, host, descriptor].count(where: { $0 != nil }) <= 1 else {
      throw OptionError(
        .conflict, values.origin, "None or one of 'path', 'fd' or 'host' option required.")
    }
    if let path {
      guard path.utf8.count < unixPathLimit else {
        throw OptionError(
          .invalidValue, values.origin, "UNIX socket path '\(path)' is too long",
          hints: ["Path must be less than \(unixPathLimit) bytes"])
      }
      return .unix(
        UnixSocketAddress(
          path: path, abstract: values.boolean("abstract"), tight: values.boolean("tight")))
    }
    if let host {
      guard let port = values.string("port") else {
        throw OptionError(.invalidValue, values.origin, "chardev: socket: no port given")
      }
      return .inet(try inet(host, port, values))
    }
    guard let descriptor else {
      throw OptionError(
        .invalidValue, values.origin, "chardev: socket: one of 'path', 'host' or 'fd' is needed")
    }
    if case .value(let number) = OptionText.integer(descriptor), number >= 0, number <= Int32.max {
      return .fd(DescriptorName(str: String(number)))
    }
    // What the service manager opened (socket activation); whether there is such a one is seen later.
    if descriptor.hasPrefix("systemd:") { return .fd(DescriptorName(str: descriptor)) }
    throw OptionError(.invalidValue, values.origin, "Unable to parse FD number \(descriptor)")
  }

  private static func inet(
    _ host: String, _ port: String, _ values: OptionValues
  ) throws(OptionError) -> InetSocketAddress {
    var last: UInt16?
    if let entry = values["to"], let number = values.number("to") {
      guard let port = UInt16(exactly: number) else {
        throw OptionError(.invalidValue, entry.origin, "Parameter 'to' expects a port number")
      }
      last = port
    }
    return InetSocketAddress(
      host: host, port: port, to: last, ipv4: values.boolean("ipv4"), ipv6: values.boolean("ipv6"))
  }

  @Sendable static func udp(
    _ values: OptionValues, _ common: ChardevCommon
  ) throws(OptionError) -> ChardevBackend {
    guard let port = values.string("port"), !port.isEmpty else {
      throw OptionError(
        .invalidValue, values.origin, "chardev: udp: remote port not specified")
    }
    func orDefault(_ key: String, _ standard: String) -> String {
      values.string(key).flatMap { $0.isEmpty ? nil : $0 } ?? standard
    }
    var local: SocketAddressLegacy?
    if values["localaddr"] != nil || values["localport"] != nil {
      local = .inet(
        InetSocketAddress(
          host: values.string("localaddr") ?? "", port: orDefault("localport", "0")))
    }
    return .udp(
      ChardevUdp(
        logfile: common.logfile, logappend: common.logappend,
        remote: .inet(
          InetSocketAddress(
            host: orDefault("host", "localhost"), port: port, ipv4: values.boolean("ipv4"),
            ipv6: values.boolean("ipv6"))), local: local))
  }
}
