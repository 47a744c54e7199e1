import Host
import Synchronization

/// What a thread waits for that another, or the thread itself while it receives, finishes. Used again after `reset`.
package final class FrameWaiter: Sendable {
  private enum Progress {
    static let waiting: UInt32 = 0
    /// In `WaitWord.wait`.
    static let asleep: UInt32 = 1
    /// Where a link's receiver waits.
    static let receiving: UInt32 = 2
    static let done: UInt32 = 3
  }
  private let progress = Atomic<UInt32>(Progress.waiting)
  private let word = WaitWord()
  /// Where the thread waits when it receives.
  private let signal = Mutex<ReadSignal?>(nil)

  /// Not finished.
  package init() {}

  /// Makes it one that is not finished. By the thread that will wait, when nobody can finish it.
  package func reset() { progress.store(Progress.waiting, ordering: .releasing) }

  /// Whether it is finished.
  package var isDone: Bool { progress.load(ordering: .acquiring) == Progress.done }

  /// Lets the waiting thread go on. Any thread; what was written before is seen by it.
  package func finish() {
    switch progress.exchange(Progress.done, ordering: .acquiringAndReleasing) {
    case Progress.asleep: word.advanceOne()
    case Progress.receiving: signal.withLock { $0 }?.poke()
    default: break
    }
  }

  /// Sleeps until it is finished.
  package func sleep() {
    while !isDone {
      let seen = word.value
      let (exchanged, original) = progress.compareExchange(
        expected: Progress.waiting, desired: Progress.asleep, ordering: .acquiringAndReleasing)
      if !exchanged, original == Progress.done { return }
      word.wait(while: seen)
    }
  }

  /// The thread will wait at a link's receiver.
  func begin(at signal: ReadSignal) { self.signal.withLock { $0 = signal } }

  /// Waits until it is finished or there is something to receive. May return for nothing.
  func wait(at signal: ReadSignal) {
    guard
      progress.compareExchange(
        expected: Progress.waiting, desired: Progress.receiving, ordering: .acquiringAndReleasing
      ).exchanged
    else { return }
    signal.waitDirectly()
    let isUndisturbed = progress.compareExchange(
      expected: Progress.receiving, desired: Progress.waiting, ordering: .acquiringAndReleasing
    ).exchanged
    // Whoever finished it in the meantime pokes, now or soon.
    if !isUndisturbed { signal.takePoke() }
  }
}
