import DeviceModel
import Shm
import Synchronization

/// All vCPU threads of this node: paused and resumed together.
///
/// Pauses nest: each `hold` or `pause` is taken back by one `release`.
final class VCPUGroup: Sendable {
  private let list = Mutex<[VCPUThread]>([])
  /// What the vCPUs may wait for: pages of other nodes.
  private let coherent: CoherentMemory?

  init(_ coherent: CoherentMemory? = nil) { self.coherent = coherent }

  var threads: [VCPUThread] { list.withLock { $0 } }

  func append(_ thread: VCPUThread) { list.withLock { $0.append(thread) } }

  /// Asks all to park and does not wait: for a vCPU thread whose guest has just asked for its own end.
  func hold() {
    for thread in threads { thread.pause() }
  }

  /// Asks all to park and waits until they have. Main loop only.
  func pause() {
    hold()
    for thread in threads { waitUntilParked(thread) }
  }

  /// Waits until a thread that was asked to has parked. A page that it waits for comes in time from a node that is well; for others nobody
  /// waits, so that the main loop, which gives them up, does not either. What is in the midst of what cannot be done twice goes on waiting in between.
  func waitUntilParked(_ thread: VCPUThread) {
    let patience: Int64 = 10_000_000
    while !thread.waitUntilParked(nanoseconds: patience) {
      guard let coherent else { continue }
      coherent.hurry(true)
      let isParked = thread.waitUntilParked(nanoseconds: patience)
      coherent.hurry(false)
      if isParked { return }
    }
  }

  /// Takes back one `hold` or `pause`.
  func release() {
    for thread in threads { thread.resume() }
  }
}
