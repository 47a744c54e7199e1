import Host

/// `null`: output goes nowhere, input never comes.
@MainLoop
final class NullTransport: ChardevTransport {
  let filename = "null"
  func start(_ device: Chardev) {}
  func write(_ bytes: [UInt8]) -> Int { bytes.count }
  func setReceiving(_ on: Bool) {}
  func shutDown() {}
}
