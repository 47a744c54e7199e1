import Host
import Synchronization

/// Keeps vCPUs out of the guest while memory slots change, because KVM has no request that replaces one in one step: between
/// deletion and addition a running vCPU would take its own RAM for device memory.
///
/// A vCPU announces itself, then looks whether the gate is closed; the changer closes it, then looks who is inside (Dekker's order,
/// sequentially consistent on both sides).
final class MemoryGate: Sendable {
  private let closed = Atomic<Bool>(false)
  private let changed = WaitWord()
  /// One change at a time.
  private let changer = Mutex<Void>(())

  /// For the vCPU, after it has announced itself.
  @inline(__always) var isClosed: Bool { closed.load(ordering: .sequentiallyConsistent) }

  /// Sleeps until the gate is open. The vCPU must have withdrawn its announcement.
  func waitUntilOpen() {
    while true {
      let seen = changed.value
      if !isClosed { return }
      changed.wait(while: seen)
    }
  }

  /// A vCPU has left the guest and found the gate closed.
  func noteDeparture() { changed.advance() }

  /// Runs `change` while no vCPU is in the guest. `evict` must kick each vCPU that is inside, and answer whether there was one.
  func withAllOutside<T: ~Copyable>(evict: () -> Bool, _ change: () -> T) -> T {
    changer.withLock { _ in
      closed.store(true, ordering: .sequentiallyConsistent)
      while true {
        let seen = changed.value
        if !evict() { break }
        // The limit covers a vCPU that left between `evict` and here without seeing the gate.
        changed.wait(while: seen, nanoseconds: 1_000_000)
      }
      let result = change()
      closed.store(false, ordering: .sequentiallyConsistent)
      changed.advance()
      return result
    }
  }
}
