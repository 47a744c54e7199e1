import Host

/// Runs the in-band requests of all QMP connections, one at a time, taking turns between connections
/// that have some waiting.
@MainLoop
final class QMPDispatcher {
  /// How many requests run before other work of the main loop gets its turn.
  private static let batch = 64

  private var connections: [QMPConnection] = []
  private var turn = 0
  private var isStarted = false
  private var isScheduled = false
  private var isRunning = false

  init() {}

  func add(_ connection: QMPConnection) { connections.append(connection) }

  func remove(_ connection: QMPConnection) {
    guard let index = connections.firstIndex(where: { $0 === connection }) else { return }
    connections.remove(at: index)
    if turn > index { turn -= 1 }
  }

  /// Lets requests run from now on.
  func start() {
    isStarted = true
    kick()
  }

  /// Runs what waits. Does nothing when called from a request that runs: that loop goes on anyway.
  func kick() {
    if isRunning || !isStarted { return }
    isRunning = true
    defer { isRunning = false }
    for _ in 0..<Self.batch {
      guard let connection = next() else { return }
      connection.runNext()
    }
    guard !isScheduled else { return }
    isScheduled = true
    MainLoop.post { [weak self] in
      self?.isScheduled = false
      self?.kick()
    }
  }

  /// The next connection in turn that has a request.
  private func next() -> QMPConnection? {
    for step in 0..<connections.count {
      let index = (turn + step) % connections.count
      if connections[index].hasRequest {
        turn = (index + 1) % connections.count
        return connections[index]
      }
    }
    return nil
  }
}
