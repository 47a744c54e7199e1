import Host

/// When requests may run, and the connections that have some.
///
/// A request runs in the turn of the main loop that brought it, a batch for each client in each turn: so clients with something
/// queued take turns, and one that floods gets no more than the others.
@MainLoop
final class QMPDispatcher {
  /// Whether requests may run: not before there is a machine, or something to say instead.
  private(set) var isStarted = false
  private var connections: [ObjectIdentifier: QMPConnection] = [:]

  init() {}

  func add(_ connection: QMPConnection) { connections[ObjectIdentifier(connection)] = connection }

  func remove(_ connection: QMPConnection) { connections[ObjectIdentifier(connection)] = nil }

  /// Every client, in order of arrival.
  var clients: [QMPConnection] { connections.values.sorted { $0.client.number < $1.client.number } }

  /// Lets requests run from now on.
  func start() {
    isStarted = true
    for connection in clients { connection.goOn() }
  }
}
