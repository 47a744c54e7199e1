package import Chardev
package import Host

/// A QMP monitor on a character device (`-qmp`, `-mon mode=control`): one connection for each client
/// that comes.
@MainLoop
package final class QMPMonitor: ChardevFrontend {
  private let context: MonitorContext
  private let isPretty: Bool
  private let chardev: Chardev
  private var port: ChardevPort?
  private var connection: QMPConnection?

  /// Attaches a monitor to `chardev`. Throws when that is in use.
  package init(
    on chardev: Chardev, isPretty: Bool, context: MonitorContext
  ) throws(ChardevError) {
    self.context = context
    self.chardev = chardev
    self.isPretty = isPretty
    port = try chardev.attach(self)
  }

  /// Takes the client's bytes.
  package func chardevReceived(_ bytes: [UInt8]) -> Int {
    connection?.receive(bytes) ?? bytes.count
  }

  /// A client is there: greets it.
  package func chardevOpened() {
    guard let port, connection == nil else { return }
    let transport = QMPConnection.Transport(
      write: { message in port.write(message) },
      resumeReceiving: { port.resumeReceiving() },
      takeDescriptor: { [chardev] in chardev.takeDescriptor() })
    connection = QMPConnection(isPretty: isPretty, transport: transport, context: context)
  }

  /// The client has left: forgets what it negotiated and queued.
  package func chardevClosed() {
    connection?.close()
    connection = nil
  }
}
