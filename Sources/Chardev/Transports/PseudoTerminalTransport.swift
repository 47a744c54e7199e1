import Host

/// `pty`: a pseudo-terminal of the host; open while someone has its other side open.
@MainLoop
final class PseudoTerminalTransport: ChardevTransport {
  /// The path of the other side.
  let path: String
  private let master: Int32
  private let stream: DescriptorStream
  private let notifier: OpenNotifier
  private var notifierWatch: Watch?
  private weak var device: Chardev?
  private var isConnected = false
  private var isReceiving = true

  var filename: String { "pty:\(path)" }

  init() throws(ChardevError) {
    do throws(SystemError) {
      let (number, path) = try Terminal.openPseudoTerminal()
      let descriptor = FileDescriptor(owning: number)
      try descriptor.setNonBlocking()
      notifier = try OpenNotifier(path: path)
      self.path = path
      master = number
      stream = DescriptorStream(both: descriptor, isSocket: false)
    } catch {
      throw ChardevError(.cannotOpen, "Failed to create PTY: \(error.reason)")
    }
  }

  func start(_ device: Chardev) {
    self.device = device
    stream.onBytes = { [weak device] bytes, _ in device?.transportReceived(bytes) }
    stream.onDrained = { [weak device] in device?.transportDrained() }
    stream.onEnd = { [weak self] in self?.disconnected() }
    notifierWatch = try? MainLoop.watch(notifier.pollDescriptor, .readable) { [weak self] _ in
      self?.notifier.clear()
      self?.check()
    }
    MainLoop.post { [weak self] in self?.check() }
  }

  func write(_ bytes: [UInt8], from start: Int) -> Int {
    isConnected ? stream.write(bytes, from: start) : bytes.count - start
  }

  func setReceiving(_ on: Bool) {
    isReceiving = on
    if isConnected { stream.setReceiving(on) }
  }

  func drain(_ bytes: [UInt8]) {
    if isConnected { stream.drain(bytes, milliseconds: 500) }
  }

  func shutDown() {
    notifierWatch?.cancel()
    stream.stop()
  }

  private func check() {
    guard !isConnected, Terminal.isPeerOpen(master) else { return }
    isConnected = true
    device?.transportOpened()
    if isConnected { stream.setReceiving(isReceiving) }
  }

  private func disconnected() {
    isConnected = false
    device?.transportClosed()
    // It may have been opened again between the hang-up and now.
    check()
  }
}
