import Synchronization

/// The gate on address line 20 of a PC. Port 92 and the keyboard controller each drive it; the last write wins, as with their wires
/// joined behind edge-driven latches.
///
/// Memory accesses do not go through it: no software from this century needs the wrap-around at 1 MiB, and hardware
/// virtualisation cannot do it. The state is kept so that guests read back what they wrote.
package final class A20Gate: Sendable {
  private let open = Atomic<Bool>(true)

  package init() {}

  /// Whether line 20 passes.
  package var isOpen: Bool {
    get { open.load(ordering: .relaxed) }
    set { open.store(newValue, ordering: .relaxed) }
  }
}
