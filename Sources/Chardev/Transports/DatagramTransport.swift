import Host

/// `udp`: each write is a datagram to the remote address, each datagram from it is input.
@MainLoop
final class DatagramTransport: ChardevTransport {
  let filename = "udp"
  private let socket: FileDescriptor
  private var watch: Watch?
  private weak var device: Chardev?
  private var buffer = [UInt8](repeating: 0, count: 1 << 16)

  init(remote: InetAddress, local: InetAddress?) throws(ChardevError) {
    do { socket = try Socket.datagram(remote: remote, local: local) } catch {
      throw ChardevError(error)
    }
  }

  /// The address of this side, for those who asked for any port.
  var localPort: UInt16 { Socket.localAddress(socket.rawValue)?.port ?? 0 }

  func start(_ device: Chardev) {
    self.device = device
    watch = try? MainLoop.watch(socket.rawValue, .readable) { [weak self] _ in self?.read() }
    MainLoop.post { [weak device] in device?.transportOpened() }
  }

  func write(_ bytes: [UInt8], from start: Int) -> Int {
    // Datagrams may be lost by nature: a full socket or a refusing peer loses them here.
    var next = start
    while next < bytes.count {
      let end = min(next + 60_000, bytes.count)
      _ = try? Socket.send(socket.rawValue, Array(bytes[next..<end]), from: 0)
      next = end
    }
    return bytes.count - start
  }

  func setReceiving(_ on: Bool) { watch?.change(to: on ? .readable : []) }
  func shutDown() { watch?.cancel() }

  private func read() {
    // An error (port unreachable) is cleared by reading it.
    guard let got = try? Socket.receive(socket.rawValue, into: &buffer), got.count > 0 else {
      return
    }
    device?.transportReceived(Array(buffer[..<got.count]))
  }
}
