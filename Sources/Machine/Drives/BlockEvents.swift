package import Block
import Host
import QAPI
import Synchronization

/// Carries what happens to disks, on whatever thread, to the machine: failed accesses, damaged images, moving trays.
package final class BlockEvents: Sendable {
  private typealias Sink = @MainLoop @Sendable (BlockIOError, BlockBackend) -> Void
  private let sink = Mutex<Sink?>(nil)

  package init() {}

  /// `receiver` is called on the main loop for every failure that a drive's policy decides on.
  func connect(_ receiver: @escaping @MainLoop @Sendable (BlockIOError, BlockBackend) -> Void) {
    sink.withLock { $0 = receiver }
  }

  /// From now on the drive's failures are heard of.
  func watch(_ backend: BlockBackend) {
    backend.onError { [weak self, weak backend] error in
      guard let self, let backend, let sink = self.sink.withLock({ $0 }) else { return }
      MainLoop.post { sink(error, backend) }
    }
  }
}
