import Host

/// Lets one in at a time, in the order of their coming; the others wait without holding up the main loop.
@MainLoop
final class AsyncGate {
  private var isTaken = false
  private var waiting: [CheckedContinuation<Void, Never>] = []

  func enter() async {
    guard isTaken else {
      isTaken = true
      return
    }
    await withCheckedContinuation { waiting.append($0) }
  }

  func leave() {
    // Handed over, so that nobody gets in between.
    if waiting.isEmpty { isTaken = false } else { waiting.removeFirst().resume() }
  }
}
