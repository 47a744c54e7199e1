import Synchronization

/// The difference at the lowest offset that any thread has found.
final class FirstDifference: Sendable {
  private let best = Mutex<Comparison.Difference?>(nil)

  var value: Comparison.Difference? { best.withLock { $0 } }

  func note(_ difference: Comparison.Difference) {
    best.withLock { best in
      if let present = best, present.offset <= difference.offset { return }
      best = difference
    }
  }
}
