import Host

/// `null`: output goes nowhere, input never comes.
@MainLoop
final class NullTransport: ChardevTransport {
  let filename: String

  /// `vc` is the same without a display: a console that nobody sees.
  init(filename: String = "null") { self.filename = filename }

  func start(_ device: Chardev) {
    MainLoop.post { [weak device] in device?.transportOpened() }
  }
  func write(_ bytes: [UInt8], from start: Int) -> Int { bytes.count - start }
  func setReceiving(_ on: Bool) {}
  func shutDown() {}
}
