package import DeviceModel
package import Shm
import Synchronization

/// What a guest tells of its memory (virtio 1.1, 5.5.6.3); fields that it never told are all ones.
package struct BalloonStatistics: Equatable, Sendable {
  /// Names in the order of their tags, as QMP's `guest-stats` property has them.
  package static let names = [
    "stat-swap-in", "stat-swap-out", "stat-major-faults", "stat-minor-faults", "stat-free-memory",
    "stat-total-memory", "stat-available-memory", "stat-disk-caches", "stat-htlb-pgalloc",
    "stat-htlb-pgfail",
  ]
  /// By tag.
  package var values = [UInt64](repeating: .max, count: names.count)
  /// Host's real time of the last report in seconds; 0 for never.
  package var lastUpdate: Int64 = 0

  package init() {}
}

/// The traditional memory balloon (virtio 1.1, 5.5): the guest gives pages back to the host, and takes them again.
package final class Balloon: VirtioDevice {
  /// What the user may choose.
  package struct Settings: Equatable, Sendable {
    package var deflateOnOutOfMemory = false
    package var freePageReporting = false

    package init() {}
  }

  private enum Feature {
    static let statistics: UInt64 = 1 << 1
    static let deflateOnOutOfMemory: UInt64 = 1 << 2
    static let pagePoison: UInt64 = 1 << 4
    static let reporting: UInt64 = 1 << 5
  }
  private enum Queue {
    static let inflate = 0
    static let deflate = 1
    static let statistics = 2
    static let reporting = 3
  }
  private static let pageSize: UInt64 = 4096

  private struct State {
    /// Pages that the host wants, and that the guest says it gave.
    var wantedPages: UInt32 = 0
    var actualPages: UInt32 = 0
    var poison: UInt32 = 0
    var features: UInt64 = 0
    var statistics = BalloonStatistics()
    /// The buffer that the guest waits to get back for its next report.
    var heldStatistics: VirtQueueElement?
    var pollingInterval: Int64 = 0
  }
  private struct Parts {
    weak var transport: VirtioPCI?
    var clock: (any MachineClock)?
    var timer: (any MachineTimer)?
    var changed: RequestSink?
    var realtime: @Sendable () -> Int64 = { 0 }
  }
  private let state = Mutex(State())
  private let parts = Mutex(Parts())
  private let settings: Settings
  /// Bytes of guest RAM when the balloon is empty.
  package let ramSize: UInt64

  package init(_ settings: Settings, ramSize: UInt64) {
    self.settings = settings
    self.ramSize = ramSize
  }

  /// Connects the device with its transport, the machine's clock and requests; `realtime` answers seconds since 1970.
  package func attach(
    to transport: VirtioPCI, in context: MachineContext, realtime: @escaping @Sendable () -> Int64
  ) {
    let timer = context.clock.makeTimer { [weak self] in self?.requestStatistics() }
    parts.withLock { parts in
      parts.transport = transport
      parts.clock = context.clock
      parts.timer = timer
      parts.changed = RequestSink(context.request)
      parts.realtime = realtime
    }
  }

  // MARK: - The host's side

  /// Asks the guest to leave itself `bytes` of RAM; more than there is means an empty balloon.
  package func setTarget(_ bytes: UInt64) {
    let target = min(bytes, ramSize)
    state.withLock {
      $0.wantedPages = UInt32(truncatingIfNeeded: (ramSize - target) / Balloon.pageSize)
    }
    transport?.configurationChanged()
  }

  /// Bytes of RAM that the guest has left.
  package var actualSize: UInt64 {
    let pages = state.withLock { $0.actualPages }
    return ramSize &- min(ramSize, UInt64(pages) * Balloon.pageSize)
  }

  /// The last report.
  package var statistics: BalloonStatistics { state.withLock { $0.statistics } }

  /// Whether the guest's driver negotiated reports.
  package var canReport: Bool { state.withLock { $0.features & Feature.statistics != 0 } }

  /// Seconds between reports that the host asks for; 0 for none.
  package var pollingInterval: Int64 {
    get { state.withLock { $0.pollingInterval } }
    set {
      state.withLock { $0.pollingInterval = newValue }
      armTimer(seconds: newValue > 0 ? 1 : 0)
    }
  }

  private func armTimer(seconds: Int64) {
    let (timer, clock) = parts.withLock { ($0.timer, $0.clock) }
    guard seconds > 0, let clock else {
      timer?.cancel()
      return
    }
    timer?.arm(at: clock.now &+ seconds &* 1_000_000_000)
  }

  /// Gives the guest its buffer back, which asks for the next report.
  private func requestStatistics() {
    let (element, interval) = state.withLock { state in
      let element = state.heldStatistics
      state.heldStatistics = nil
      return (element, state.pollingInterval)
    }
    // The queue knows whether a reset came in between.
    if let element { transport?.complete(Queue.statistics, element, written: 0) }
    armTimer(seconds: interval)
  }

  private var transport: VirtioPCI? { parts.withLock { $0.transport } }

  // MARK: - VirtioDevice

  package var number: UInt16 { 5 }

  package var offeredFeatures: UInt64 {
    var features = Feature.statistics | Feature.pagePoison
    if settings.deflateOnOutOfMemory { features |= Feature.deflateOnOutOfMemory }
    if settings.freePageReporting { features |= Feature.reporting }
    return features
  }

  package var queueSizes: [UInt16] {
    settings.freePageReporting ? [128, 128, 128, 32] : [128, 128, 128]
  }

  package var configuration: [UInt8] {
    state.withLock { state in
      // num_pages, actual, free_page_hint_cmd_id, poison_val.
      [state.wantedPages, state.actualPages, 0, state.poison].flatMap { value in
        (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32($0 * 8)) }
      }
    }
  }

  package func writeConfiguration(_ offset: Int, _ bytes: [UInt8]) {
    var image = configuration
    for (index, byte) in bytes.enumerated() where image.indices.contains(offset + index) {
      image[offset + index] = byte
    }
    func word(_ at: Int) -> UInt32 {
      (0..<4).reduce(0) { $0 | UInt32(image[at + $1]) << UInt32($1 * 8) }
    }
    let limit = UInt32(truncatingIfNeeded: ramSize / Balloon.pageSize)
    let isChanged = state.withLock { state in
      let before = state.actualPages
      state.actualPages = min(word(4), limit)
      state.poison = word(12)
      return state.actualPages != before
    }
    if isChanged {
      parts.withLock { $0.changed }?.send(.balloonChanged(actual: actualSize))
    }
  }

  package func start(_ features: UInt64) { state.withLock { $0.features = features } }

  package func reset() {
    state.withLock { state in
      state.heldStatistics = nil
      state.features = 0
      state.poison = 0
    }
  }

  package func notified(_ queue: Int) {
    guard let transport else { return }
    switch queue {
    case Queue.inflate:
      while let element = transport.pop(queue) {
        inflate(element, transport)
        transport.complete(queue, element, written: 0)
      }
    case Queue.deflate:
      // The pages come back by being touched.
      while let element = transport.pop(queue) { transport.complete(queue, element, written: 0) }
    case Queue.statistics: takeStatistics(transport)
    case Queue.reporting: report(transport)
    default: break
    }
  }

  /// Page frame numbers, 32 bits each, of pages that the guest will not touch.
  private func inflate(_ element: VirtQueueElement, _ transport: VirtioPCI) {
    guard let bytes = transport.memory.gather(element.readable, limit: 1 << 20) else {
      return transport.fail("balloon pages are not in memory")
    }
    var run: (start: UInt64, length: UInt64) = (0, 0)
    func flush() {
      if run.length > 0 { transport.memory.discard(GuestAddress(run.start), count: run.length) }
    }
    for at in stride(from: 0, to: bytes.count & ~3, by: 4) {
      let frame = (0..<4).reduce(UInt64(0)) { $0 | UInt64(bytes[at + $1]) << UInt64($1 * 8) }
      let page = frame * Balloon.pageSize
      if page == run.start + run.length, run.length > 0 {
        run.length += Balloon.pageSize
      } else if page + Balloon.pageSize == run.start {
        run = (page, run.length + Balloon.pageSize)
      } else {
        flush()
        run = (page, Balloon.pageSize)
      }
    }
    flush()
  }

  /// A report of 10-byte entries, tag and value; the buffer is kept until the host wants the next one.
  private func takeStatistics(_ transport: VirtioPCI) {
    while let element = transport.pop(Queue.statistics) {
      guard let bytes = transport.memory.gather(element.readable, limit: 10 * 256) else {
        return transport.fail("balloon statistics are not in memory")
      }
      let now = parts.withLock { $0.realtime }()
      let earlier = state.withLock { state in
        let count = bytes.count / 10
        for entry in 0..<count {
          let at = entry * 10
          let tag = Int(bytes[at]) | Int(bytes[at + 1]) << 8
          guard state.statistics.values.indices.contains(tag) else { continue }
          state.statistics.values[tag] = (0..<8).reduce(0) {
            $0 | UInt64(bytes[at + 2 + $1]) << UInt64($1 * 8)
          }
        }
        if count > 0 { state.statistics.lastUpdate = now }
        let earlier = state.heldStatistics
        state.heldStatistics = element
        return earlier
      }
      // A second buffer while one is held breaks the rules, but loses nothing when it is given back.
      if let earlier { transport.complete(Queue.statistics, earlier, written: 0) }
    }
  }

  /// Free page reporting (5.5.6.7): whole ranges that hold nothing.
  private func report(_ transport: VirtioPCI) {
    while let element = transport.pop(Queue.reporting) {
      // With a poison value the guest counts on the pages' contents, unless that is zero.
      let keepsContents = state.withLock {
        $0.features & Feature.pagePoison != 0 && $0.poison != 0
      }
      if !keepsContents {
        for range in element.writable {
          transport.memory.discard(range.address, count: UInt64(range.length))
        }
      }
      transport.complete(Queue.reporting, element, written: 0)
    }
  }
}
