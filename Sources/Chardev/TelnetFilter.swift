/// The server's side of telnet (RFC 854) as QEMU speaks it: options are announced, never negotiated.
///
/// Sequences are dropped wherever they stand, also across reads; `IAC IAC` is a literal 0xFF and `IAC BREAK` a
/// break condition. Every other command counts as three bytes (qmp-wire section 10).
package struct TelnetFilter: Equatable {
  /// What the server sends first: WILL ECHO, WILL SUPPRESS-GO-AHEAD, WILL BINARY, DO BINARY.
  static let opening: [UInt8] = [
    0xFF, 0xFB, 0x01, 0xFF, 0xFB, 0x03, 0xFF, 0xFB, 0x00, 0xFF, 0xFD, 0x00,
  ]

  private enum State { case data, command, option }
  private var state = State.data

  package init() {}

  /// Takes bytes of the connection; answers the data among them and how many breaks there were.
  package mutating func receive(_ bytes: [UInt8]) -> (data: [UInt8], breaks: Int) {
    if state == .data, !bytes.contains(0xFF) { return (bytes, 0) }
    var data: [UInt8] = []
    var breaks = 0
    for byte in bytes {
      switch state {
      case .data:
        if byte == 0xFF { state = .command } else { data.append(byte) }
      case .command:
        switch byte {
        case 0xFF:
          data.append(byte)
          state = .data
        case 0xF3:
          breaks += 1
          state = .data
        default: state = .option
        }
      case .option: state = .data
      }
    }
    return (data, breaks)
  }

  /// Data as it goes onto the connection: 0xFF doubled (RFC 854). QEMU does not, which corrupts binary output.
  package static func encode(_ bytes: [UInt8]) -> [UInt8] {
    guard bytes.contains(0xFF) else { return bytes }
    var result: [UInt8] = []
    for byte in bytes {
      result.append(byte)
      if byte == 0xFF { result.append(byte) }
    }
    return result
  }
}
