// Description of character device backends, member for member as in QAPI's char.json.

/// What all backends have.
package struct ChardevCommon: Sendable, Equatable {
  package var logfile: String?
  package var logappend: Bool?
}

/// `file`.
package struct ChardevFile: Sendable, Equatable {
  package var common: ChardevCommon
  package var out: String
  package var append: Bool?
}

/// `pipe`, `serial`, `parallel`: a path.
package struct ChardevHostdev: Sendable, Equatable {
  package var common: ChardevCommon
  package var device: String
}

/// An address to listen on or connect to.
package enum SocketAddress: Sendable, Equatable {
  package struct Inet: Sendable, Equatable {
    package var host: String
    package var port: String
    /// Last port to try when listening.
    package var to: UInt16?
    package var ipv4: Bool?
    package var ipv6: Bool?
  }
  case inet(Inet)
  case unix(path: String, abstract: Bool?, tight: Bool?)
  /// An inherited descriptor: a number, or a name given with `getfd`.
  case fd(String)
}

/// `socket`.
package struct ChardevSocket: Sendable, Equatable {
  package var common: ChardevCommon
  package var addr: SocketAddress
  package var server: Bool?
  package var wait: Bool?
  package var nodelay: Bool?
  package var telnet: Bool?
  package var tn3270: Bool?
  package var websocket: Bool?
  package var reconnect: Int64?
}

/// `udp`.
package struct ChardevUdp: Sendable, Equatable {
  package var common: ChardevCommon
  package var remote: SocketAddress
  package var local: SocketAddress?
}

/// `stdio`.
package struct ChardevStdio: Sendable, Equatable {
  package var common: ChardevCommon
  package var signal: Bool?
}

/// `ringbuf` and its old name `memory`.
package struct ChardevRingbuf: Sendable, Equatable {
  package var common: ChardevCommon
  package var size: Int64?
}

/// `mux`.
package struct ChardevMux: Sendable, Equatable {
  package var common: ChardevCommon
  package var chardev: String
}

/// `vc`.
package struct ChardevVC: Sendable, Equatable {
  package var common: ChardevCommon
  package var width: Int64?
  package var height: Int64?
  package var cols: Int64?
  package var rows: Int64?
}

/// A backend and its options.
package enum ChardevBackend: Sendable, Equatable {
  case file(ChardevFile)
  case serial(ChardevHostdev)
  case parallel(ChardevHostdev)
  case pipe(ChardevHostdev)
  case socket(ChardevSocket)
  case udp(ChardevUdp)
  case pty(ChardevCommon)
  case null(ChardevCommon)
  case mux(ChardevMux)
  case stdio(ChardevStdio)
  case vc(ChardevVC)
  case ringbuf(ChardevRingbuf)
}
