import Synchronization

/// The gate on address line 20 of a PC. Port 92 and the keyboard controller each drive it; the last write wins, as with their wires
/// joined behind edge-driven latches.
///
/// Memory accesses do not go through it: no software from this century needs the wrap-around at 1 MiB, and hardware
/// virtualisation cannot do it. The state is kept so that guests read back what they wrote.
package final class A20Gate: Sendable {
  private let open = Atomic<Bool>(true)
  private struct Observer: Sendable { let call: @Sendable (Bool) -> Void }
  private let observer = Mutex<Observer?>(nil)

  package init() {}

  /// Whether line 20 passes.
  package var isOpen: Bool {
    get { open.load(ordering: .relaxed) }
    set {
      guard open.exchange(newValue, ordering: .relaxed) != newValue else { return }
      observer.withLock { $0 }?.call(newValue)
    }
  }

  /// Calls `observer` after each change, on the thread that made it. One observer.
  package func observe(_ observer: @escaping @Sendable (Bool) -> Void) {
    self.observer.withLock { $0 = Observer(call: observer) }
  }
}
