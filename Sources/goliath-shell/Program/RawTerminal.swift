import Glibc
import Host

/// `--raw`: keys go to the human monitor as they are, its screen to the terminal. Ctrl-] leaves.
struct RawTerminal {
  private static let leave: UInt8 = 0x1D

  /// Runs until Ctrl-], the end of input or of the connection.
  static func run(_ address: NodeAddress) -> ExitStatus {
    let socket: FileDescriptor
    do throws(SocketError) { socket = try Socket.connect(address.socket) } catch {
      complain(error.message)
      return .cannotConnect
    }
    if Terminal.isTerminal(0) {
      complain("connected to \(address.socket.text); Ctrl-] leaves")
      Terminal.makeRaw(0, signals: false)
    }
    defer { Terminal.restore() }
    var telnet = TelnetReader()
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    var entries = [PollEntry(socket.rawValue, .readable), PollEntry(0, .readable)]
    while (try? PollEntry.wait(&entries, milliseconds: -1)) != nil {
      if !entries[0].ready.isEmpty {
        let received = try? Socket.receive(socket.rawValue, into: &buffer)
        if let (count, _) = received {
          if count == 0 { return .success }
          let text = buffer[..<count].compactMap { telnet.take($0) }
          let output = FileDescriptor(owning: 1)
          _ = try? output.write(text)
          _ = output.release()
        }
      }
      if !entries[1].ready.isEmpty {
        let input = FileDescriptor(owning: 0)
        let count = (try? input.read(into: &buffer)) ?? 0
        _ = input.release()
        let keys = buffer[..<count].prefix { $0 != leave }
        if !keys.isEmpty, (try? Socket.send(socket.rawValue, Array(keys), from: 0)) == nil {
          return .connectionLost
        }
        if keys.count < count || count == 0 { return .success }
      }
    }
    return .connectionLost
  }

  private static func complain(_ text: String) {
    let error = FileDescriptor(owning: 2)
    _ = try? error.write(Array("goliath-shell: \(Style.harmless(text))\r\n".utf8))
    _ = error.release()
  }
}
