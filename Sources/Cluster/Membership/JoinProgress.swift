import Synchronization

/// What others see of a node that is joining, and how they end it. Any thread.
package final class JoinProgress: Sendable {
  /// What is known of another node.
  package struct Peer: Equatable, Sendable {
    /// Both connections to it work.
    package var isLinked: Bool
    /// Its vCPUs, as it says; empty before it did.
    package var vcpus: [UInt32]
    /// What went wrong last; it is tried again.
    package var trouble: String?
  }

  private struct State {
    weak var joining: Joining?
    var cancellation: ClusterError?
  }
  private let state = Mutex(State())

  package init() {}

  /// All nodes by number; the node itself counts as linked. Empty when it is not joining (yet).
  package var peers: [Peer] { state.withLock { $0.joining }?.peers ?? [] }

  /// Ends joining: `ClusterMembership.join` throws this soon, however far it is, with everything taken back.
  package func cancel(_ reason: String) {
    let error = ClusterError(.aborted, reason)
    let joining = state.withLock { state in
      state.cancellation = error
      return state.joining
    }
    joining?.cancel(error)
  }

  /// Whether it was cancelled.
  package var isCancelled: Bool { state.withLock { $0.cancellation != nil } }

  func attach(_ joining: Joining) {
    let cancellation = state.withLock { state in
      state.joining = joining
      return state.cancellation
    }
    if let cancellation { joining.cancel(cancellation) }
  }
}
