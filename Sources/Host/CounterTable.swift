import Synchronization

/// Counters that any thread may raise, by number: a relaxed addition each, no lock.
@safe package final class CounterTable: Sendable {
  // SAFETY: allocated and initialised in init, freed in deinit; only atomics touch the elements.
  nonisolated(unsafe) private let cells: UnsafeMutablePointer<Atomic<UInt64>>
  package let count: Int

  /// `count` counters at zero.
  package init(count: Int) {
    self.count = max(count, 0)
    unsafe cells = UnsafeMutablePointer<Atomic<UInt64>>.allocate(capacity: max(count, 1))
    for index in 0..<max(count, 1) { unsafe (cells + index).initialize(to: Atomic(0)) }
  }

  deinit {
    unsafe cells.deinitialize(count: max(count, 1))
    unsafe cells.deallocate()
  }

  /// Raises a counter. Nothing for a number that there is none of.
  @inline(__always)
  package func add(_ value: UInt64 = 1, to index: Int) {
    guard index >= 0, index < count else { return }
    unsafe cells[index].wrappingAdd(value, ordering: .relaxed)
  }

  /// Takes from a counter that goes up and down.
  package func subtract(_ value: UInt64, from index: Int) {
    guard index >= 0, index < count else { return }
    unsafe cells[index].wrappingSubtract(value, ordering: .relaxed)
  }

  /// A counter's value; 0 for a number that there is none of.
  package subscript(_ index: Int) -> UInt64 {
    guard index >= 0, index < count else { return 0 }
    return unsafe cells[index].load(ordering: .relaxed)
  }
}
