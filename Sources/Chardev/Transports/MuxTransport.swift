import Host

/// `mux`: shares another character device among several frontends; the rules are `MuxModel`'s.
@MainLoop
final class MuxTransport: ChardevTransport, ChardevFrontend {
  let filename = "mux"
  private let base: Chardev
  private var port: ChardevPort?
  private weak var device: Chardev?
  private var isReceiving = true
  /// Above this many waiting bytes the base counts as full.
  private static let queueLimit = 1 << 16

  /// Takes the only place at `base`. Throws when it has a frontend already.
  init(base: Chardev) throws(ChardevError) {
    self.base = base
    port = try base.attach(self)
  }

  func start(_ device: Chardev) { self.device = device }

  func write(_ bytes: [UInt8], from start: Int) -> Int {
    guard let port else { return bytes.count - start }
    if port.queuedByteCount > MuxTransport.queueLimit { return 0 }
    port.write(start == 0 ? bytes : Array(bytes[start...]))
    return bytes.count - start
  }

  func drain(_ bytes: [UInt8]) { port?.write(bytes) }

  func setReceiving(_ on: Bool) {
    isReceiving = on
    if on { port?.resumeReceiving() }
  }

  /// The port stays attached: what it holds goes out when the base shuts down.
  func shutDown() {}

  /// Gives up the base, which is free for another user then.
  func remove() {
    port?.detach()
    port = nil
  }

  var hasFrontends: Bool { device?.isFrontendOpen ?? false }

  // MARK: - ChardevFrontend

  func chardevReceived(_ bytes: [UInt8]) -> Int {
    guard isReceiving else { return 0 }
    device?.transportReceived(bytes)
    return bytes.count
  }

  func chardevOpened() { device?.transportOpened() }
  func chardevClosed() { device?.transportClosed() }
  func chardevBreak() { device?.transportBreak() }
  func chardevDrained() { device?.transportDrained() }
}
