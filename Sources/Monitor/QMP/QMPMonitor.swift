package import Chardev
package import Host
package import Options

/// A QMP monitor on a character device (`-qmp`, `-mon mode=control`): a connection for each client that comes.
@MainLoop
package final class QMPMonitor {
  /// Whether its device listens, so that a client may still come.
  package let isListening: Bool
  private let chardev: Chardev

  /// Attaches a monitor to `chardev`. `access` is what its clients may do, `audit` where it is noted what they did.
  /// Throws when the device is in use.
  package init(
    on chardev: Chardev, isPretty: Bool, access: MonitorAccess = .full, audit: AuditLog? = nil,
    context: MonitorContext
  ) throws(ChardevError) {
    self.chardev = chardev
    isListening = chardev.isListening
    try chardev.serve { [context] client in
      QMPClientSession(client, isPretty: isPretty, context: context) {
        MonitorClient(client, on: chardev.label, access: access, audit: audit, context: context)
      }
    }
  }

  /// How many clients it has.
  package var clientCount: Int { chardev.clientCount }
}

/// The frontend of one client, and the transport of its connection.
@MainLoop
private final class QMPClientSession: ChardevFrontend, QMPConnection.Transport {
  private let client: ChardevClient
  private let isPretty: Bool
  private let context: MonitorContext
  private let identify: () -> MonitorClient
  private var connection: QMPConnection?

  init(
    _ client: ChardevClient, isPretty: Bool, context: MonitorContext,
    _ identify: @escaping () -> MonitorClient
  ) {
    self.client = client
    self.isPretty = isPretty
    self.context = context
    self.identify = identify
  }

  // MARK: - ChardevFrontend

  func chardevReceived(_ bytes: [UInt8]) -> Int { connection?.receive(bytes) ?? bytes.count }

  /// A client is there: greets it.
  func chardevOpened() {
    DescriptorSets.shared.clientsChanged(by: 1)
    connection = QMPConnection(identify(), isPretty: isPretty, transport: self, context: context)
  }

  /// The client has left: forgets what it negotiated and queued.
  func chardevClosed() {
    DescriptorSets.shared.clientsChanged(by: -1)
    connection?.close()
    connection = nil
  }

  func chardevDrained() { connection?.drained() }

  // MARK: - Transport

  func write(_ message: [UInt8]) { client.port.write(message) }
  var queuedByteCount: Int { client.port.queuedByteCount }
  func notifyWhenDrained() { client.port.notifyWhenDrained() }
  func resumeReceiving() { client.port.resumeReceiving() }
  func setPaused(_ isPaused: Bool) { client.port.setPaused(isPaused) }
  func takeDescriptor() -> Int32? { client.takeDescriptor() }
}
