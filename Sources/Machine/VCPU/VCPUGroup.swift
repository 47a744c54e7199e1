import DeviceModel
import Synchronization

/// All vCPU threads of this node: paused and resumed together.
///
/// Pauses nest: each `hold` or `pause` is taken back by one `release`.
final class VCPUGroup: Sendable {
  private let list = Mutex<[VCPUThread]>([])

  var threads: [VCPUThread] { list.withLock { $0 } }

  func append(_ thread: VCPUThread) { list.withLock { $0.append(thread) } }

  /// Asks all to park and does not wait: for a vCPU thread whose guest has just asked for its own end.
  func hold() {
    for thread in threads { thread.pause() }
  }

  /// Asks all to park and waits until they have. Main loop only.
  func pause() {
    hold()
    for thread in threads { thread.waitUntilParked() }
  }

  /// Takes back one `hold` or `pause`.
  func release() {
    for thread in threads { thread.resume() }
  }
}
