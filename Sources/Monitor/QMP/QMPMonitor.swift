package import Chardev
package import Host

/// A QMP monitor on a character device (`-qmp`, `-mon mode=control`): a connection for each client that comes.
@MainLoop
package final class QMPMonitor {
  private let context: MonitorContext
  private let isPretty: Bool

  /// Attaches a monitor to `chardev`. Throws when that is in use.
  package init(
    on chardev: Chardev, isPretty: Bool, context: MonitorContext
  ) throws(ChardevError) {
    self.context = context
    self.isPretty = isPretty
    try chardev.serve { [context] client in
      QMPClientSession(client, isPretty: isPretty, context: context)
    }
  }
}

/// The frontend of one client.
@MainLoop
private final class QMPClientSession: ChardevFrontend {
  private let client: ChardevClient
  private let isPretty: Bool
  private let context: MonitorContext
  private var connection: QMPConnection?

  init(_ client: ChardevClient, isPretty: Bool, context: MonitorContext) {
    self.client = client
    self.isPretty = isPretty
    self.context = context
  }

  func chardevReceived(_ bytes: [UInt8]) -> Int { connection?.receive(bytes) ?? bytes.count }

  /// A client is there: greets it.
  func chardevOpened() {
    DescriptorSets.shared.clientsChanged(by: 1)
    let transport = QMPConnection.Transport(
      write: { [client] message in client.port.write(message) },
      resumeReceiving: { [client] in client.port.resumeReceiving() },
      takeDescriptor: { [client] in client.takeDescriptor() })
    connection = QMPConnection(isPretty: isPretty, transport: transport, context: context)
  }

  /// The client has left: forgets what it negotiated and queued.
  func chardevClosed() {
    DescriptorSets.shared.clientsChanged(by: -1)
    connection?.close()
    connection = nil
  }
}
