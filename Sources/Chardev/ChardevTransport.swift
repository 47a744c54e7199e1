import Host

/// How the bytes of a character device travel: one type for each kind of backend.
@MainLoop
protocol ChardevTransport: AnyObject {
  /// The kind and address, as `query-chardev` shows them (`tcp:127.0.0.1:1234,server=on`, `stdio`).
  var filename: String { get }

  /// Begins; from here on the transport reports to `device`, which it must not retain.
  func start(_ device: Chardev)

  /// Sends `bytes` from `start` on; answers how many it took. When not all it calls `Chardev.transportDrained` later.
  /// Takes everything, to nowhere, when nobody is at the other side.
  func write(_ bytes: [UInt8], from start: Int) -> Int

  /// Whether to read at present.
  func setReceiving(_ on: Bool)

  /// Whether a start-up that waits for a client (`wait=on`) must still wait.
  var isWaitingForClient: Bool { get }

  /// Sets speed and frame of a serial line.
  func setLine(_ line: ChardevLine)

  /// Sends the last bytes, waiting for a slow reader no longer than half a second.
  func drain(_ bytes: [UInt8])

  /// Closes for good while the process goes on: `chardev-remove`.
  func remove()

  /// Closes, removes what it made in the file system.
  func shutDown()
}

extension ChardevTransport {
  func drain(_ bytes: [UInt8]) { _ = write(bytes, from: 0) }
  var isWaitingForClient: Bool { false }
  func remove() { shutDown() }
  func setLine(_ line: ChardevLine) {}
}
