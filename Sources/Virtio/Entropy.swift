package import DeviceModel
package import Host
import Shm
import Synchronization

/// The entropy device (virtio 1.1, 5.4), `virtio-rng`: fills the guest's buffers from a source of the host.
package final class Entropy: VirtioDevice {
  /// How many bytes a guest may draw, and in what time.
  package struct Quota: Equatable, Sendable {
    /// Bytes in a period.
    package var bytes: UInt64 = UInt64(Int64.max)
    /// Milliseconds.
    package var period: UInt32 = 65536

    package init() {}
  }

  private struct Parts {
    weak var transport: VirtioPCI?
    var clock: (any MachineClock)?
    var timer: (any MachineTimer)?
  }
  private let parts = Mutex(Parts())
  private let quota: Quota
  /// Whether a turn of the main loop is on its way already; a guest that notifies without end queues one.
  private let isScheduled = Atomic<Bool>(false)
  @MainLoop private var source: (any RandomSource)?
  @MainLoop private var remaining: UInt64 = 0
  /// End of the present period in virtual nanoseconds; nil before its first byte.
  @MainLoop private var periodEnd: Int64?
  @MainLoop private var isWaiting = false
  /// Counts resets, so that bytes asked for before one do not go into a buffer of after it.
  @MainLoop private var epoch = 0
  /// Resets whose turn on the main loop has not come: until then nothing is taken from the queue, which is already that of after the reset,
  /// and nothing is written. Held while bytes are written.
  private let resets = Mutex(0)

  package init(_ quota: Quota) { self.quota = quota }

  /// Connects the device with its transport, its source and the machine's clock.
  @MainLoop
  package func attach(
    to transport: VirtioPCI, source: any RandomSource, in context: MachineContext
  ) {
    self.source = source
    remaining = quota.bytes
    let timer = context.clock.makeTimer { [weak self] in self?.schedule() }
    parts.withLock { parts in
      parts.transport = transport
      parts.clock = context.clock
      parts.timer = timer
    }
  }

  // MARK: - VirtioDevice

  package var number: UInt16 { 4 }
  package var offeredFeatures: UInt64 { 0 }
  package var queueSizes: [UInt16] { [8] }
  package var configuration: [UInt8] { [] }
  package func writeConfiguration(_ offset: Int, _ bytes: [UInt8]) {}
  package func start(_ features: UInt64) {}
  package func notified(_ queue: Int) { schedule() }

  package func reset() {
    resets.withLock { $0 += 1 }
    MainLoop.post { [weak self] in
      guard let self else { return }
      epoch += 1
      isWaiting = false
      source?.cancelRequests()
      // The driver may have asked for something meanwhile.
      let isLast = resets.withLock { resets in
        resets -= 1
        return resets == 0
      }
      if isLast { schedule() }
    }
  }

  // MARK: -

  private func schedule() {
    guard !isScheduled.exchange(true, ordering: .acquiringAndReleasing) else { return }
    MainLoop.post { [weak self] in
      self?.isScheduled.store(false, ordering: .releasing)
      self?.serve()
    }
  }

  /// Asks the source for the next buffer's bytes, one buffer at a time and within the quota.
  @MainLoop
  private func serve() {
    let (transport, clock, timer) = parts.withLock { ($0.transport, $0.clock, $0.timer) }
    guard let transport, let clock, let source, !isWaiting, resets.withLock({ $0 == 0 }) else {
      return
    }
    if let end = periodEnd, clock.now >= end {
      remaining = quota.bytes
      periodEnd = nil
    }
    guard remaining > 0 else {
      if let end = periodEnd { timer?.arm(at: end) }
      return
    }
    guard let element = transport.pop(0) else { return }
    let wanted = min(element.writableLength, remaining, 1 << 16)
    guard wanted > 0 else {
      transport.complete(0, element, written: 0)
      schedule()
      return
    }
    if periodEnd == nil { periodEnd = clock.now &+ Int64(quota.period) &* 1_000_000 }
    isWaiting = true
    let epoch = epoch
    source.request(Int(wanted)) { [weak self] bytes in
      guard let self, self.epoch == epoch else { return }
      isWaiting = false
      remaining -= min(remaining, UInt64(bytes.count))
      // Nil: a reset came first.
      let isWritten: Bool? = resets.withLock { resets in
        guard resets == 0 else { return nil }
        guard let done = transport.memory.scatter(bytes, to: element.writable) else { return false }
        transport.complete(0, element, written: UInt32(truncatingIfNeeded: done))
        return true
      }
      guard let isWritten else { return }
      if !isWritten { return transport.fail("the buffer for random bytes is not in memory") }
      // A source that has failed delivers nothing; going on would ask it for ever.
      if !bytes.isEmpty { schedule() }
    }
  }
}
