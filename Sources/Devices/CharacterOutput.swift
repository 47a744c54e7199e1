import Synchronization

/// Output of a device that cannot make its guest wait: a bounded queue before a `CharacterSink`.
///
/// One thread at a time is in the backend, so that order is kept; no lock is held there. What comes while the queue is full is lost.
final class CharacterOutput: Sendable {
  private static let capacity = 65_536

  private struct State {
    var sink = CharacterSink.null
    var waiting: [UInt8] = []
    var isSending = false
    var isBlocked = false
  }
  private let state = Mutex(State())

  /// Connects a backend, in place of an earlier one.
  func attach(_ sink: CharacterSink) {
    state.withLock { state in
      state.sink = sink
      state.isBlocked = false
    }
    transmit()
  }

  /// The backend can take output again. Any thread.
  func backendWritable() {
    state.withLock { $0.isBlocked = false }
    transmit()
  }

  /// Puts a byte behind those that wait. It leaves with the next `transmit`; the device's lock may be held here.
  func enqueue(_ byte: UInt8) {
    state.withLock { state in
      if state.waiting.count < CharacterOutput.capacity { state.waiting.append(byte) }
    }
  }

  /// Offers what waits to the backend until it is full or nothing is left. No lock may be held.
  func transmit() {
    while true {
      let next: (CharacterSink, [UInt8])? = state.withLock { state in
        guard !state.isSending, !state.isBlocked, !state.waiting.isEmpty else { return nil }
        state.isSending = true
        // Set before the call, so that a `backendWritable` during it is not forgotten.
        state.isBlocked = true
        return (state.sink, state.waiting)
      }
      guard let (sink, bytes) = next else { return }
      let taken = min(max(sink.send(bytes), 0), bytes.count)
      state.withLock { state in
        state.waiting.removeFirst(taken)
        state.isSending = false
        if taken == bytes.count { state.isBlocked = false }
      }
    }
  }
}
