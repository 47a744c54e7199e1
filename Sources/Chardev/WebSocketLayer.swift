import Host

/// A websocket on a connection, the server's side: handshake, then data in binary frames.
@MainLoop
final class WebSocketLayer: StreamLayer {
  private var handshake = WebSocketHandshake()
  private var frames = WebSocketFrames()
  private(set) var state = StreamLayerState.handshaking

  func begin() -> StreamLayerStep { StreamLayerStep() }

  func receive(_ bytes: [UInt8]) -> StreamLayerStep {
    switch state {
    case .closed: return StreamLayerStep()
    case .open: return unframe(bytes)
    case .handshaking: break
    }
    switch handshake.receive(bytes, date: HostClock.httpDate) {
    case .incomplete: return StreamLayerStep()
    case .refused(let answer, let reason):
      state = .closed(reason: reason)
      return StreamLayerStep(outgoing: Array(answer.utf8))
    case .accepted(let answer, let rest):
      state = .open
      var step = rest.isEmpty ? StreamLayerStep() : unframe(rest)
      step.outgoing = Array(answer.utf8) + step.outgoing
      return step
    }
  }

  func send(_ bytes: [UInt8]) -> [UInt8] { WebSocketFrames.data(bytes) }

  func finish() -> [UInt8] { WebSocketFrames.close(1000, "") }

  private func unframe(_ bytes: [UInt8]) -> StreamLayerStep {
    let step = frames.receive(bytes)
    if step.isOver { state = .closed(reason: step.reason) }
    return StreamLayerStep(data: step.data, outgoing: step.outgoing)
  }
}
